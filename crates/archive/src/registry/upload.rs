//! An upload of a blob whose digest is known once it has passed.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use ureq::http::Method;
use ureq::http::Response;

use super::client::{ATTEMPTS, may_pass};
use super::{Client, RegistryError};
use crate::oci::{Descriptor, Digest, Hashing};

/// A blob that is being uploaded.
pub(super) struct Upload<'a> {
    client: &'a Client,
    hash: Hashing,
    /// What the registry does not have yet.
    chunk: Vec<u8>,
    /// Bytes that it has.
    sent: u64,
    /// Where the next ones go, once something was sent.
    location: Option<String>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self { client, hash: Hashing::default(), chunk: Vec::new(), sent: 0, location: None }
    }

    /// Uploads what comes. None where it ends before its end was said: then nothing is kept.
    pub(super) fn take(
        mut self,
        made: &Made,
        expected: Option<&Descriptor>,
    ) -> Result<Option<(Digest, u64)>, RegistryError> {
        for piece in &made.pieces {
            let Piece::Chunk(chunk) = piece else { return self.finish(expected).map(Some) };
            let mut hash = std::mem::take(&mut self.hash);
            // The next chunk is hashed while the one before is sent.
            let sent = std::thread::scope(|scope| {
                let hashed = scope.spawn(|| hash.update(&chunk));
                let sent = if self.chunk.is_empty() { Ok(()) } else { self.send() };
                hashed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                sent
            });
            self.hash = hash;
            sent?;
            let sent = std::mem::replace(&mut self.chunk, chunk);
            // Where no more is made, nobody takes it.
            let _ = made.empty.send(sent);
        }
        Ok(None)
    }

    /// Sends what is left, and has the registry keep the blob.
    fn finish(mut self, expected: Option<&Descriptor>) -> Result<(Digest, u64), RegistryError> {
        let (digest, size) = std::mem::take(&mut self.hash).finish();
        if let Some(expected) = expected.filter(|expected| expected.digest != digest) {
            let (host, expected) = (self.client.host(), expected.digest.clone());
            return Err(RegistryError::Digest { host, expected, found: digest });
        }
        if self.client.has_blob(&digest)? {
            // Somebody else has brought it; ours is forgotten.
            if let Some(location) = &self.location {
                let _ = self.client.ask_once(&Method::DELETE, location, &[], None);
            }
            return Ok((digest, size));
        }
        if self.location.is_some() {
            self.send()?;
        }
        let location = self.begun()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let address = format!("{location}{separator}digest={digest}");
        let headers = [("content-type", "application/octet-stream")];
        let answer = self.client.ask(&Method::PUT, &address, &headers, Some(&self.chunk), "keep a blob")?;
        if answer.status() == 404 {
            return Err(RegistryError::NotFound {
                host: self.client.host(),
                what: "upload of this name".to_owned(),
            });
        }
        Ok((digest, size))
    }

    /// Where bytes go.
    fn begun(&mut self) -> Result<String, RegistryError> {
        if let Some(location) = &self.location {
            return Ok(location.clone());
        }
        let address = self.client.address("blobs/uploads/");
        let answer = self.client.ask(&Method::POST, &address, &[], Some(&[]), "upload a blob")?;
        if answer.status() == 404 {
            let what = format!("repository {}", self.client.reference().repository());
            return Err(RegistryError::NotFound { host: self.client.host(), what });
        }
        let location = self.client.location(&answer)?;
        self.location = Some(location.clone());
        Ok(location)
    }

    /// Sends the chunk. Where the connection breaks, the registry is asked how far it came.
    fn send(&mut self) -> Result<(), RegistryError> {
        let (mut done, mut attempt) = (0, 1);
        while done < self.chunk.len() {
            let location = self.begun()?;
            let rest = &self.chunk[done..];
            let start = self.sent + done as u64;
            let range = format!("{start}-{}", start + rest.len() as u64 - 1);
            let headers = [("content-type", "application/octet-stream"), ("content-range", range.as_str())];
            let answer = self.client.ask_once(&Method::PATCH, &location, &headers, Some(rest));
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    self.location = Some(self.client.location(&answer)?);
                    done = self.chunk.len();
                }
                Ok(answer) if attempt == ATTEMPTS || matches!(answer.status().as_u16(), 400..=403 | 413) => {
                    let (host, status) = (self.client.host(), answer.status().as_u16());
                    let message = String::new();
                    return Err(RegistryError::Status { host, what: "upload a blob", status, message });
                }
                Err(RegistryError::Unreachable { ref source, .. })
                    if attempt < ATTEMPTS && may_pass(source) =>
                {
                    attempt += 1;
                    done = self.reached(&location, done)?;
                }
                Ok(_) => {
                    attempt += 1;
                    done = self.reached(&location, done)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.sent += self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }

    /// How many bytes of the chunk the registry has.
    fn reached(&mut self, location: &str, done: usize) -> Result<usize, RegistryError> {
        let answer = self.client.ask(&Method::GET, location, &[], None, "go on with an upload")?;
        if answer.status() == 404 {
            return Err(RegistryError::NotFound {
                host: self.client.host(),
                what: "upload any more".to_owned(),
            });
        }
        if let Ok(location) = self.client.location(&answer) {
            self.location = Some(location);
        }
        let Some(end) = end_of_range(&answer) else { return Ok(done) };
        let reached = end.checked_sub(self.sent).and_then(|reached| usize::try_from(reached).ok());
        match reached.filter(|reached| *reached <= self.chunk.len()) {
            Some(reached) => Ok(reached),
            None => Err(RegistryError::Answer { host: self.client.host(), what: "a range that can be" }),
        }
    }
}

/// How many bytes there are by the header `Range: 0-LAST`.
fn end_of_range<T>(answer: &Response<T>) -> Option<u64> {
    let range = answer.headers().get("range")?.to_str().ok()?;
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    // An empty upload is `0-0` as well as one of a single byte; the former is what happens.
    Some(if last == 0 { 0 } else { last + 1 })
}

/// What a blob comes in.
enum Piece {
    Chunk(Vec<u8>),
    /// There is no more.
    End,
}

/// A blob as it is made: gathered to chunks for the thread that uploads them.
pub(super) struct Chunks {
    size: usize,
    chunk: Vec<u8>,
    out: SyncSender<Piece>,
    /// What was sent, and can be filled again.
    empty: Receiver<Vec<u8>>,
}

/// Chunks as they come.
pub(super) struct Made {
    pieces: Receiver<Piece>,
    empty: Sender<Vec<u8>>,
}

/// Both ends, for chunks of a size.
pub(super) fn chunks(size: usize) -> (Chunks, Made) {
    let (out, pieces) = mpsc::sync_channel(1);
    let (back, empty) = mpsc::channel();
    (Chunks { size, chunk: Vec::new(), out, empty }, Made { pieces, empty: back })
}

impl Chunks {
    /// Says that there is no more.
    pub(super) fn end(&mut self) {
        let last = std::mem::take(&mut self.chunk);
        // Where nobody listens any more, whoever uploads says why.
        let _ = self.out.send(Piece::Chunk(last)).and_then(|()| self.out.send(Piece::End));
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() >= self.size {
            let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(self.size));
            let full = std::mem::replace(&mut self.chunk, next);
            // Whoever uploads says why it has ended.
            self.out.send(Piece::Chunk(full)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        let length = bytes.len().min(self.size - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

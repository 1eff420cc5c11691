//! An archive that is read in order: compressed, or from a pipe.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::bytes::{Bytes, Ordered};
use super::compression::{Compression, Restart, Unpacker};
use super::names::check_unique;
use super::tar::{End, Feed, Scan, failure};
use super::{Assurance, Digest, Entry, EntryKind, Limits, Remark, Source, SourceError};

/// Largest body that is kept.
const MAX_KEPT: u64 = 8 << 20;
/// Bytes that are moved at once.
const CHUNK: usize = 128 << 10;

/// Somebody who looks at the bodies of a stream as they pass.
pub trait Tap {
    /// A body passes. What came before it is in `seen`, with the bodies that were kept. What is not read is passed over.
    ///
    /// # Errors
    /// Where reading fails; the errors of `body` are [`SourceError`]s inside.
    fn body(&mut self, seen: &dyn Source, entry: &Entry, body: &mut dyn Read) -> io::Result<()>;
}

/// A tar archive in a stream. An index is made in one pass, and small bodies are kept.
pub(crate) struct Stream {
    name: String,
    /// What a further pass reads from; none for a pipe.
    bytes: Option<Arc<dyn Bytes>>,
    compression: Option<Compression>,
    /// Whether the compressed stream has checksums.
    checked: bool,
    limits: Limits,
    entries: Vec<Entry>,
    digests: HashMap<u64, Digest>,
    /// The bodies that were kept, by their offset.
    kept: HashMap<u64, Vec<u8>>,
    restarts: Vec<Restart>,
    remarks: Vec<Remark>,
    /// Where the last reading stopped.
    pass: Mutex<Option<Unpacker<'static>>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Reads a compressed archive through once.
    pub(crate) fn open(
        name: String,
        bytes: Arc<dyn Bytes>,
        limits: &Limits,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Self, SourceError> {
        let from = Box::new(Ordered::new(Arc::clone(&bytes), 0));
        let size = bytes.size();
        Self::read(name, from, Some(size), Some(bytes), limits, tap)
    }

    /// Reads a pipe through, compressed or not.
    pub(crate) fn pipe(
        name: String,
        from: Box<dyn Read + Send>,
        limits: &Limits,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Self, SourceError> {
        Self::read(name, from, None, None, limits, tap)
    }

    fn read(
        name: String,
        from: Box<dyn Read + Send>,
        size: Option<u64>,
        bytes: Option<Arc<dyn Bytes>>,
        limits: &Limits,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<Self, SourceError> {
        let unpacker =
            Unpacker::new(from, size, limits).map_err(|error| failure(&name, None, "", 0, error))?;
        let compression = unpacker.compression();
        let mut stream = Self {
            name: name.clone(),
            bytes,
            compression,
            checked: false,
            limits: limits.clone(),
            entries: Vec::new(),
            digests: HashMap::new(),
            kept: HashMap::new(),
            restarts: Vec::new(),
            remarks: Vec::new(),
            pass: Mutex::new(None),
        };
        let mut scan = Scan::new(unpacker, &name, compression, limits);
        let mut room = limits.kept;
        while let Some(entry) = scan.next()? {
            if entry.kind == EntryKind::File {
                stream.pass_body(&mut scan, &entry, &mut room, &mut tap)?;
            }
            stream.entries.push(entry);
        }
        match scan.end() {
            Some(End::Marked(at)) => stream.remarks.extend(drain(&name, scan.feed(), at)?),
            _ => stream.remarks.push(Remark::NoEnd { at: scan.feed().unpacked() }),
        }
        stream.checked = scan.feed().has_checksums();
        stream.restarts = scan.feed().take_restarts();
        check_unique(&name, &mut stream.entries)?;
        Ok(stream)
    }

    /// Reads a body: keeps it, or shows it as it passes, and computes its digest.
    fn pass_body(
        &mut self,
        scan: &mut Scan<'_, Unpacker<'static>>,
        entry: &Entry,
        room: &mut u64,
        tap: &mut Option<&mut dyn Tap>,
    ) -> Result<(), SourceError> {
        let offset = entry.offset.unwrap_or_default();
        let failed = |error| failure(&self.name, self.compression, &entry.name, offset, error);
        let digest = if entry.size <= MAX_KEPT.min(*room) && !is_pages(&entry.name) {
            let mut body = Vec::with_capacity(entry.size as usize);
            scan.body().read_to_end(&mut body).map_err(failed)?;
            *room -= entry.size;
            if let Some(tap) = tap {
                tap.body(self, entry, &mut body.as_slice()).map_err(failed)?;
            }
            let digest = blake3::hash(&body);
            self.kept.insert(offset, body);
            digest
        } else {
            let mut hashing = Hashing { body: scan.body(), hasher: blake3::Hasher::new() };
            if let Some(tap) = tap {
                tap.body(self, entry, &mut hashing).map_err(failed)?;
            }
            let mut chunk = vec![0; CHUNK];
            while hashing.read(&mut chunk).map_err(failed)? > 0 {}
            hashing.hasher.finalize()
        };
        self.digests.insert(offset, Digest(*digest.as_bytes()));
        Ok(())
    }

    /// An unpacker that stands at or before a byte, as near as can be.
    fn unpacker_before(
        &self,
        last: Option<Unpacker<'static>>,
        at: u64,
    ) -> io::Result<Option<Unpacker<'static>>> {
        let Some(bytes) = &self.bytes else { return Ok(None) };
        let restart = self.restarts[..self.restarts.partition_point(|restart| restart.unpacked <= at)].last();
        let near = restart.map_or(0, |restart| restart.unpacked);
        if let Some(last) = last.filter(|last| last.unpacked() <= at && last.unpacked() >= near) {
            return Ok(Some(last));
        }
        let size = Some(bytes.size());
        match (restart, self.compression) {
            (Some(restart), Some(compression)) => {
                let from = Box::new(Ordered::new(Arc::clone(bytes), restart.packed));
                Ok(Some(Unpacker::restart(from, *restart, compression, size, &self.limits)))
            }
            _ => {
                let from = Box::new(Ordered::new(Arc::clone(bytes), 0));
                Unpacker::new(from, size, &self.limits).map(Some)
            }
        }
    }
}

/// Pages are what is large: small ones are not worth the room either.
fn is_pages(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|file| file.starts_with("pages-"))
}

/// Reads what follows the end of the archive, so that the stream's own checksum is checked.
fn drain(name: &str, from: &mut Unpacker<'_>, end: u64) -> Result<Vec<Remark>, SourceError> {
    let (mut chunk, mut remarks, mut at) = (vec![0; CHUNK], Vec::new(), end);
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => {
                if remarks.is_empty() && chunk[..read].iter().any(|byte| *byte != 0) {
                    remarks.push(Remark::Trailing { at: end, bytes: None });
                }
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failure(name, from.compression(), "", at, error)),
        }
    }
    if let Some(at) = from.trailing() {
        remarks.push(Remark::AfterStream { at });
    }
    Ok(remarks)
}

impl Source for Stream {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        entry.check_range(&self.name, offset, into.len())?;
        let start = entry.offset.unwrap_or_default();
        if let Some(body) = self.kept.get(&start) {
            let body = &body[offset as usize..];
            into.copy_from_slice(&body[..into.len()]);
            return Ok(());
        }
        if into.is_empty() {
            return Ok(());
        }
        let at = start + offset;
        let failed = |error| failure(&self.name, self.compression, &entry.name, at, error);
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let last = pass.take();
        let mut unpacker = self
            .unpacker_before(last, at)
            .map_err(failed)?
            .ok_or_else(|| SourceError::Passed { place: self.name.clone(), entry: entry.name.clone() })?;
        let missing = at - unpacker.unpacked();
        if unpacker.pass(missing).map_err(failed)? < missing {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        unpacker.read_exact(into).map_err(failed)?;
        *pass = Some(unpacker);
        Ok(())
    }

    fn random_access(&self) -> bool {
        false
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    fn digest(&self, entry: &Entry) -> Option<Digest> {
        self.digests.get(&entry.offset?).copied()
    }

    fn compression(&self) -> Option<Compression> {
        self.compression
    }

    fn assurance(&self) -> Assurance {
        self.compression.filter(|_| self.checked).map_or(Assurance::None, Assurance::Checksums)
    }
}

impl Feed for Unpacker<'_> {
    fn pass(&mut self, bytes: u64) -> io::Result<u64> {
        io::copy(&mut self.by_ref().take(bytes), &mut io::sink())
    }
}

/// A body that is hashed as it is read.
struct Hashing<R> {
    body: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

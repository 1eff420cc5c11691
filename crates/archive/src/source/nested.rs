//! Archives inside of checkpoints.

use std::io::{self, Read};

use super::archive::Seeking;
use super::bytes::{Borrowed, read_exact_at};
use super::compression::{Compression, Unpacker};
use super::tar::{Feed, Scan, failure};
use super::{Body, Entry, Limits, Source, SourceError};

/// Calls back with each entry of an archive that is itself an entry. Nothing of it is kept.
///
/// # Errors
/// Where the entry cannot be read, or is no archive.
pub fn each_nested(
    source: &dyn Source,
    entry: &Entry,
    limits: &Limits,
    mut each: impl FnMut(&Entry),
) -> Result<(), SourceError> {
    let place = format!("{} in {}", entry.name, source.name());
    let bytes = Borrowed { source, entry };
    let mut start = vec![0; entry.size.min(Compression::MAGIC as u64) as usize];
    read_exact_at(&bytes, 0, &mut start).map_err(|error| failure(&place, None, "", 0, error))?;
    let compression = Compression::of(&start);
    if compression.is_none() && source.random_access() {
        return scan(Scan::new(Seeking::new(&bytes), &place, None, limits), &mut each);
    }
    let body = Box::new(Body::new(source, entry));
    let unpacker = Unpacker::new(body, Some(entry.size), limits)
        .map_err(|error| failure(&place, compression, "", 0, error))?;
    scan(Scan::new(unpacker, &place, compression, limits), &mut each)
}

fn scan<F: Feed>(mut scan: Scan<'_, F>, each: &mut impl FnMut(&Entry)) -> Result<(), SourceError> {
    while let Some(entry) = scan.next()? {
        each(&entry);
    }
    Ok(())
}

/// Calls back with each entry of an archive in a stream, and its body. What is not read of the body is passed over.
///
/// # Errors
/// Where the stream cannot be read or is no archive, or the callback fails.
pub(crate) fn each_in(
    stream: Box<dyn Read + Send + '_>,
    place: &str,
    limits: &Limits,
    mut each: impl FnMut(&Entry, &mut dyn Read) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let unpacker = Unpacker::new(stream, None, limits).map_err(|error| failure(place, None, "", 0, error))?;
    let mut scan = Scan::new(unpacker, place, None, limits);
    while let Some(entry) = scan.next()? {
        each(&entry, &mut scan.body())?;
    }
    Ok(())
}

/// Calls back with each entry of an archive that is itself an entry: what is said about it, the bytes in front of its body, and
/// the body. What is not read of the body is passed over.
///
/// # Errors
/// Where the entry cannot be read or is no archive, or the callback fails.
pub fn each_raw(
    source: &dyn Source,
    entry: &Entry,
    limits: &Limits,
    mut each: impl FnMut(&Entry, &[u8], &mut dyn Read) -> io::Result<()>,
) -> Result<(), SourceError> {
    let place = format!("{} in {}", entry.name, source.name());
    let body = Box::new(Body::new(source, entry));
    let unpacker =
        Unpacker::new(body, Some(entry.size), limits).map_err(|error| failure(&place, None, "", 0, error))?;
    let compression = unpacker.compression();
    let recording = Recording { feed: unpacker, headers: Vec::new(), passes: 0, on: true };
    let mut scan = Scan::new(recording, &place, compression, limits);
    while let Some(inner) = scan.next()? {
        let headers = std::mem::take(&mut scan.feed().headers);
        scan.feed().on = false;
        each(&inner, &headers, &mut scan.body())
            .map_err(|error| failure(&place, compression, &inner.name, 0, error))?;
        let feed = scan.feed();
        (feed.on, feed.passes) = (true, 0);
    }
    Ok(())
}

/// Keeps the bytes of headers, and of what extends them.
struct Recording<F> {
    feed: F,
    headers: Vec<u8>,
    /// How often something was passed over since the last body.
    passes: usize,
    on: bool,
}

impl<F: Read> Read for Recording<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.feed.read(into)?;
        if self.on {
            self.headers.extend_from_slice(&into[..read]);
        }
        Ok(read)
    }
}

impl<F: Feed> Feed for Recording<F> {
    fn pass(&mut self, bytes: u64) -> io::Result<u64> {
        self.passes += 1;
        let passed = self.feed.pass(bytes)?;
        // The first is the rest of the body before; all others fill the last block of what extends a header.
        if self.passes > 1 {
            self.headers.resize(self.headers.len() + passed as usize, 0);
        }
        Ok(passed)
    }
}

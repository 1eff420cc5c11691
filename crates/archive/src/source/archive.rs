//! An archive that can be read at any place: its headers are looked at, and nothing else.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::bytes::{Bytes, read_exact_at};
use super::names::check_unique;
use super::tar::{End, Feed, Scan};
use super::{Entry, Limits, Remark, Source, SourceError};

/// Bytes that are read at once where headers are looked for.
const WINDOW: usize = 16 << 10;
/// Most bytes after the end that are looked at.
const MAX_TAIL: u64 = 1 << 20;

/// A plain tar archive.
pub(crate) struct Archive {
    name: String,
    bytes: Arc<dyn Bytes>,
    entries: Vec<Entry>,
    remarks: Vec<Remark>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Archive {
    /// Reads the headers.
    pub(crate) fn open(name: String, bytes: Arc<dyn Bytes>, limits: &Limits) -> Result<Self, SourceError> {
        let mut entries = Vec::new();
        let mut scan = Scan::new(Seeking::new(&*bytes), &name, None, limits);
        while let Some(entry) = scan.next()? {
            entries.push(entry);
        }
        let remarks = match scan.end() {
            Some(End::Marked(at)) => tail(&*bytes, at)
                .map_err(|source| SourceError::Place { place: name.clone(), source })?
                .into_iter()
                .collect(),
            _ => vec![Remark::NoEnd { at: bytes.size() }],
        };
        check_unique(&name, &mut entries)?;
        Ok(Self { name, bytes, entries, remarks })
    }
}

/// What follows the end, if that is more than zeros.
fn tail(bytes: &dyn Bytes, end: u64) -> io::Result<Option<Remark>> {
    let stop = bytes.size().min(end.saturating_add(MAX_TAIL));
    let (mut at, mut buffer) = (end, vec![0; WINDOW]);
    while at < stop {
        let length = buffer.len().min((stop - at) as usize);
        let read = bytes.read_some_at(at, &mut buffer[..length])?;
        if read == 0 {
            break;
        }
        if buffer[..read].iter().any(|byte| *byte != 0) {
            return Ok(Some(Remark::Trailing { at: end, bytes: Some(bytes.size() - end) }));
        }
        at += read as u64;
    }
    Ok(None)
}

impl Source for Archive {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        entry.check_range(&self.name, offset, into.len())?;
        let at = entry.offset.unwrap_or_default() + offset;
        read_exact_at(&*self.bytes, at, into).map_err(|source| match source.kind() {
            // It was longer when it was opened.
            io::ErrorKind::UnexpectedEof => SourceError::Short {
                place: self.name.clone(),
                entry: entry.name.clone(),
                size: entry.size,
                wanted: offset + into.len() as u64,
            },
            _ => SourceError::Entry { place: self.name.clone(), entry: entry.name.clone(), source },
        })
    }

    fn random_access(&self) -> bool {
        true
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }
}

/// Reads headers, and leaps over bodies.
pub(super) struct Seeking<'a> {
    bytes: &'a dyn Bytes,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Seeking<'a> {
    pub(super) fn new(bytes: &'a dyn Bytes) -> Self {
        Self { bytes, at: 0, window: Vec::new(), window_at: 0 }
    }
}

impl Read for Seeking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let inside = |at: u64, start: u64, length: usize| at >= start && at < start + length as u64;
        if !inside(self.at, self.window_at, self.window.len()) {
            self.window.resize(WINDOW, 0);
            self.window_at = self.at;
            let read = self.bytes.read_some_at(self.at, &mut self.window);
            self.window.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let there = &self.window[((self.at - self.window_at) as usize).min(self.window.len())..];
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Feed for Seeking<'_> {
    fn pass(&mut self, bytes: u64) -> io::Result<u64> {
        let passed = bytes.min(self.bytes.size().saturating_sub(self.at));
        self.at += passed;
        Ok(passed)
    }
}

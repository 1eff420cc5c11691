//! Bytes that can be read at any place: a file, or the body of an entry.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Entry, Source};

/// Bytes of a known number that can be read at any place.
pub trait Bytes: fmt::Debug + Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Reads from byte `offset` on; returns how many bytes were read, zero only at the end.
    ///
    /// # Errors
    /// Where the place fails.
    fn read_some_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// A file, from some byte on.
#[derive(Debug)]
pub(crate) struct FileBytes {
    file: File,
    start: u64,
    size: u64,
}

impl FileBytes {
    /// The file from byte `start` on, with the size it has now.
    pub(crate) fn new(file: File, start: u64) -> io::Result<Self> {
        let size = file.metadata()?.len().saturating_sub(start);
        Ok(Self { file, start, size })
    }
}

impl Bytes for FileBytes {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_some_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(into, self.start.saturating_add(offset))
    }
}

/// The body of an entry, which may be an archive itself.
#[derive(Debug)]
pub struct EntryBytes {
    source: Arc<dyn Source>,
    entry: Entry,
}

impl EntryBytes {
    /// The body of an entry of this source.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, entry: Entry) -> Self {
        Self { source, entry }
    }
}

impl Bytes for EntryBytes {
    fn size(&self) -> u64 {
        self.entry.size
    }

    fn read_some_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let length = self.entry.size.saturating_sub(offset).min(into.len() as u64) as usize;
        self.source.read_at(&self.entry, offset, &mut into[..length]).map_err(io::Error::other)?;
        Ok(length)
    }
}

/// As [`EntryBytes`], of a source that is not shared.
#[derive(Debug)]
pub(crate) struct Borrowed<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) entry: &'a Entry,
}

impl Bytes for Borrowed<'_> {
    fn size(&self) -> u64 {
        self.entry.size
    }

    fn read_some_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let length = self.entry.size.saturating_sub(offset).min(into.len() as u64) as usize;
        self.source.read_at(self.entry, offset, &mut into[..length]).map_err(io::Error::other)?;
        Ok(length)
    }
}

impl Bytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_some_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        (&self[start..]).read(into)
    }
}

/// Fills `into`, or fails with [`io::ErrorKind::UnexpectedEof`].
pub(crate) fn read_exact_at(bytes: &dyn Bytes, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match bytes.read_some_at(offset, into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                offset += read as u64;
                into = &mut into[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes read in order, from some byte on.
#[derive(Debug)]
pub(crate) struct Ordered {
    bytes: Arc<dyn Bytes>,
    at: u64,
}

impl Ordered {
    pub(crate) fn new(bytes: Arc<dyn Bytes>, at: u64) -> Self {
        Self { bytes, at }
    }
}

impl Read for Ordered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read_some_at(self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

//! Tar archives, read in order.
//!
//! Formats: POSIX.1-2001 pax, ustar, GNU tar's long names and base-256 numbers, V7 (`pax(1)`, and GNU tar's manual, "Basic
//! Tar Format").

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};

mod header;
mod pax;

pub use header::HeaderProblem;
use header::{BLOCK, Header, Type};

use super::compression::{Below, Compression, TooMuch, TooWide};
use super::{Entry, EntryKind, Limits, SourceError};

/// Most bytes of a name.
const MAX_NAME: usize = 4096;
/// Most bytes of the records that describe one entry, and of a long name.
const MAX_RECORDS: u64 = 1 << 20;
/// Most headers in a row that describe others.
const MAX_EXTENSIONS: usize = 16;

/// What is wrong with the name of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// It leads out of the archive.
    Above,
    /// It begins at the root.
    Absolute,
    /// It is too long.
    Long,
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above => f.write_str("the name leads out of the archive"),
            Self::Absolute => f.write_str("the name begins at the root"),
            Self::Long => write!(f, "the name has more than {MAX_NAME} bytes"),
        }
    }
}

/// What an archive is read from.
pub(crate) trait Feed: Read {
    /// Passes over bytes; returns how many there were, fewer only at the end.
    fn pass(&mut self, bytes: u64) -> io::Result<u64>;
}

/// How an archive ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the blocks of zeros that belong there; after them, at this byte, the stream goes on.
    Marked(u64),
    /// Without.
    Bare,
}

/// An archive that is being read, entry after entry.
pub(crate) struct Scan<'a, F> {
    feed: F,
    place: &'a str,
    compression: Option<Compression>,
    limits: &'a Limits,
    /// Bytes of the stream that have passed.
    at: u64,
    /// Bytes of the entry's body that have not, and of the zeros that fill its last block.
    body: u64,
    padding: u64,
    last: String,
    /// Records that hold for all entries that follow.
    global: HashMap<String, Vec<u8>>,
    entries: usize,
    names: usize,
    end: Option<End>,
}

impl<'a, F: Feed> Scan<'a, F> {
    pub(crate) fn new(feed: F, place: &'a str, compression: Option<Compression>, limits: &'a Limits) -> Self {
        let (at, body, padding, entries, names) = (0, 0, 0, 0, 0);
        let (last, global, end) = (String::new(), HashMap::new(), None);
        Self { feed, place, compression, limits, at, body, padding, last, global, entries, names, end }
    }

    /// How the archive ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// What it is read from.
    pub(crate) fn feed(&mut self) -> &mut F {
        &mut self.feed
    }

    /// The next entry. What is left of the body of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, SourceError> {
        if self.end.is_some() {
            return Ok(None);
        }
        self.pass_body()?;
        let mut local = HashMap::new();
        for _ in 0..MAX_EXTENSIONS {
            let start = self.at;
            let Some(header) = self.header(start)? else { return Ok(None) };
            match header.kind {
                Type::LongName => drop(local.insert("path".to_owned(), self.records(&header, start)?)),
                Type::LongLink => drop(local.insert("linkpath".to_owned(), self.records(&header, start)?)),
                Type::Records => {
                    let records = self.records(&header, start)?;
                    local.extend(pax::parse(&records).map_err(|problem| self.broken(start, problem))?);
                }
                Type::GlobalRecords => {
                    let records = self.records(&header, start)?;
                    let records = pax::parse(&records).map_err(|problem| self.broken(start, problem))?;
                    self.global.extend(records);
                    if self.global.len() > 1024 {
                        return Err(self.broken(start, HeaderProblem::Records));
                    }
                }
                _ => return self.entry(header, start, local).map(Some),
            }
        }
        Err(self.broken(self.at, HeaderProblem::Extensions))
    }

    /// The body of the entry that was returned last, as far as it has not been read.
    pub(crate) fn body(&mut self) -> Body<'_, 'a, F> {
        Body { scan: self }
    }

    /// Turns what the input said into an error of this archive.
    fn failed(&self, source: io::Error) -> SourceError {
        failure(self.place, self.compression, &self.last, self.at, source)
    }

    fn broken(&self, offset: u64, problem: HeaderProblem) -> SourceError {
        SourceError::Header { place: self.place.to_owned(), offset, last: self.last.clone(), problem }
    }

    fn truncated(&self, entry: &str, wanted: u64) -> SourceError {
        SourceError::Truncated {
            place: self.place.to_owned(),
            entry: if entry.is_empty() { "the first header".to_owned() } else { entry.to_owned() },
            end: self.at,
            wanted,
        }
    }

    fn pass_body(&mut self) -> Result<(), SourceError> {
        let wanted = self.body + self.padding;
        let passed = self.feed.pass(wanted).map_err(|error| self.failed(error))?;
        self.at += passed;
        // Some writers leave out the zeros after the very last body.
        if passed < self.body {
            return Err(self.truncated(&self.last, self.at - passed + self.body));
        }
        (self.body, self.padding) = (0, 0);
        Ok(())
    }

    /// Fills a buffer; returns how far.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.feed.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    /// The next header, or none at the end.
    fn header(&mut self, start: u64) -> Result<Option<Header>, SourceError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            BLOCK => {}
            _ if start == 0 => return Err(SourceError::NoArchive { place: self.place.to_owned() }),
            0 => {
                self.end = Some(End::Bare);
                return Ok(None);
            }
            _ => return Err(self.truncated(&format!("the header after {}", self.last), start + BLOCK as u64)),
        }
        if block.iter().all(|byte| *byte == 0) {
            // The second block of zeros may be missing.
            let marked = self.fill(&mut block)?;
            let zeros = block[..marked].iter().all(|byte| *byte == 0);
            self.end = Some(End::Marked(if zeros { self.at } else { self.at - marked as u64 }));
            return Ok(None);
        }
        Header::parse(&block).map(Some).map_err(|problem| match problem {
            HeaderProblem::Checksum if start == 0 => SourceError::NoArchive { place: self.place.to_owned() },
            _ => self.broken(start, problem),
        })
    }

    /// The body of a header that describes the next one.
    fn records(&mut self, header: &Header, start: u64) -> Result<Vec<u8>, SourceError> {
        if header.size > MAX_RECORDS {
            return Err(self.broken(start, HeaderProblem::Records));
        }
        let mut records = vec![0; header.size as usize];
        if self.fill(&mut records)? < records.len() {
            return Err(self.truncated(&header.name, start + BLOCK as u64 + header.size));
        }
        (self.body, self.padding) = (0, padding(header.size));
        self.pass_body()?;
        Ok(records)
    }

    fn entry(
        &mut self,
        header: Header,
        start: u64,
        mut local: HashMap<String, Vec<u8>>,
    ) -> Result<Entry, SourceError> {
        let mut record = |key: &str| local.remove(key).or_else(|| self.global.get(key).cloned());
        let text = |bytes: Vec<u8>| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let raw = record("path").map_or(header.name, text);
        let link = record("linkpath").map_or(header.link, text);
        let sparse = header.kind == Type::Sparse
            || ["GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.realsize"]
                .iter()
                .any(|key| record(key).is_some());
        let number = |bytes: Vec<u8>| std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        let size = match record("size") {
            None => header.size,
            Some(bytes) => number(bytes).ok_or_else(|| self.broken(start, HeaderProblem::Size))?,
        };
        let name = normal(&raw).map_err(|problem| SourceError::Name {
            place: self.place.to_owned(),
            entry: raw.chars().take(128).collect(),
            offset: start,
            problem,
        })?;
        if sparse {
            return Err(SourceError::Sparse { place: self.place.to_owned(), entry: name, offset: start });
        }
        self.entries += 1;
        self.names += name.len() + link.len();
        if self.entries > self.limits.entries {
            return Err(SourceError::TooMany { place: self.place.to_owned(), limit: self.limits.entries });
        }
        if self.names > self.limits.names {
            return Err(SourceError::TooLongNames { place: self.place.to_owned(), limit: self.limits.names });
        }
        let (kind, size) = match header.kind {
            // Older writers mark directories by a slash only.
            Type::File if raw.ends_with('/') => (EntryKind::Directory, 0),
            Type::File => (EntryKind::File, size),
            Type::Directory => (EntryKind::Directory, 0),
            Type::SymbolicLink => (EntryKind::SymbolicLink(link), 0),
            Type::HardLink => (EntryKind::HardLink(normal(&link).unwrap_or(link)), 0),
            _ => (EntryKind::Special, 0),
        };
        if size > i64::MAX as u64 {
            return Err(self.broken(start, HeaderProblem::Size));
        }
        (self.body, self.padding) = (size, padding(size));
        self.last.clone_from(&name);
        Ok(Entry { name, kind, size, offset: Some(self.at), mode: header.mode, modified: header.modified })
    }
}

/// Turns what the input of an archive said into an error about the archive, at this byte of this entry.
pub(crate) fn failure(
    place: &str,
    compression: Option<Compression>,
    entry: &str,
    offset: u64,
    source: io::Error,
) -> SourceError {
    let (place, entry) = (place.to_owned(), entry.to_owned());
    let source = match source.downcast::<SourceError>() {
        Ok(error) => return error,
        Err(source) => source,
    };
    let source = match source.downcast::<TooMuch>() {
        Ok(TooMuch { packed, limit }) => return SourceError::Bomb { place, entry, packed, limit },
        Err(source) => source,
    };
    let source = match source.downcast::<TooWide>() {
        Ok(TooWide { limit }) => return SourceError::Window { place, limit },
        Err(source) => source,
    };
    match (source.downcast::<Below>(), compression) {
        (Ok(Below(source)), _) | (Err(source), None) => match source.downcast::<SourceError>() {
            Ok(error) => error,
            Err(source) => SourceError::Place { place, source },
        },
        (Err(source), Some(compression)) => {
            SourceError::Compressed { place, compression, entry, offset, source }
        }
    }
}

/// Zeros that fill the last block of a body.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// A name without what says nothing (`./`, double and trailing slashes), if it stays inside. What means the top itself
/// becomes `.`.
pub(crate) fn normal(raw: &str) -> Result<String, NameProblem> {
    if raw.len() > MAX_NAME {
        return Err(NameProblem::Long);
    }
    if raw.starts_with('/') {
        return Err(NameProblem::Absolute);
    }
    let parts: Vec<_> = raw.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(NameProblem::Above);
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// What is left of a body.
pub(crate) struct Body<'s, 'a, F> {
    scan: &'s mut Scan<'a, F>,
}

impl<F: Feed> Read for Body<'_, '_, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let scan = &mut *self.scan;
        let length = scan.body.min(into.len() as u64) as usize;
        if length == 0 {
            return Ok(0);
        }
        let read = scan.feed.read(&mut into[..length])?;
        scan.at += read as u64;
        scan.body -= read as u64;
        if read == 0 {
            return Err(io::Error::other(scan.truncated(&scan.last, scan.at + scan.body)));
        }
        Ok(read)
    }
}

//! Where the bytes of a checkpoint come from.

use std::fmt;
use std::io::{self, Read};

mod archive;
mod bytes;
mod compression;
mod directory;
mod error;
mod limits;
mod names;
mod nested;
mod oci;
mod part;
mod place;
mod stored;
mod stream;
mod tar;

pub use bytes::{Bytes, EntryBytes};
pub use compression::{Compression, unpack};
pub use directory::Directory;
pub use error::SourceError;
pub use limits::Limits;
pub(crate) use nested::each_in;
pub use nested::{each_nested, each_raw};
pub use oci::Image;
pub use part::Part;
pub use place::{Place, open, open_archive, open_bytes, open_stream, open_with};
pub use stored::{FILES, MANIFEST, Stored};
pub use stream::Tap;
pub use tar::{HeaderProblem, NameProblem};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file: it has a body.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, with what it says. It is never followed.
    SymbolicLink(String),
    /// A hard link to another entry, with the name of that.
    HardLink(String),
    /// A device, a pipe or a socket: never opened.
    Special,
}

/// One thing that a checkpoint consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, with `/` between the parts, without a leading `./` or `/`, never with `..`.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of the body.
    pub size: u64,
    /// Where the body starts in the stream it was found in (after decompression), in bytes; none where it is a file of
    /// its own, or put together when it is read.
    pub offset: Option<u64>,
    /// The permission bits.
    pub mode: u32,
    /// When it was last changed, in seconds since 1970.
    pub modified: i64,
}

impl Entry {
    /// Refuses what no body can give: a range beyond its end, or the body of something that is no file.
    pub(crate) fn check_range(&self, place: &str, offset: u64, length: usize) -> Result<(), SourceError> {
        if self.kind != EntryKind::File {
            return Err(SourceError::NoBody { place: place.to_owned(), entry: self.name.clone() });
        }
        let wanted = offset.saturating_add(length as u64);
        if wanted > self.size {
            return Err(SourceError::Short {
                place: place.to_owned(),
                entry: self.name.clone(),
                size: self.size,
                wanted,
            });
        }
        Ok(())
    }
}

/// The BLAKE3 hash of a body.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How sure one can be that what is read is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assurance {
    /// Nothing tells.
    None,
    /// The compressed stream has checksums, which were right or will be looked at.
    Checksums(Compression),
    /// Digests that were written with it: says which.
    Digests(&'static str),
}

/// Something odd about a place that does not keep it from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// The archive does not end with the blocks of zeros that belong there: its writer may have been cut off.
    NoEnd {
        /// Bytes it has.
        at: u64,
    },
    /// The archive ends, and then other bytes follow. CRI-O and containerd write over a longer file of the same name
    /// without cutting it.
    Trailing {
        /// Where the archive ends.
        at: u64,
        /// Bytes that follow, if they were counted.
        bytes: Option<u64>,
    },
    /// After the compressed data, something follows that is none.
    AfterStream {
        /// Where it starts, in compressed bytes.
        at: u64,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEnd { at } => {
                write!(f, "the archive ends at byte {at} without the mark of an end: it may be cut short")
            }
            Self::Trailing { at, bytes } => {
                write!(f, "the archive ends at byte {at}, and ")?;
                match bytes {
                    Some(bytes) => write!(f, "{bytes} other bytes follow")?,
                    None => f.write_str("other bytes follow")?,
                }
                f.write_str(": it was written over a longer file")
            }
            Self::AfterStream { at } => {
                write!(f, "the compressed data ends at byte {at} of the file, and other bytes follow")
            }
        }
    }
}

/// A place that a checkpoint can be read from.
///
/// Names are unique: a source refuses a checkpoint in which two entries have the same.
pub trait Source: fmt::Debug + Send + Sync {
    /// What it is, for people: a path, `-`, or the name in a store.
    fn name(&self) -> &str;

    /// All entries, in the order in which they are stored.
    fn entries(&self) -> &[Entry];

    /// Fills `into` from byte `offset` of an entry's body on.
    ///
    /// Where [`Source::random_access`] is false, a range that lies before one that was read costs a new pass, or is
    /// refused where there can be none.
    ///
    /// # Errors
    /// Where the place fails, the bytes are damaged, or the range goes beyond the body.
    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError>;

    /// Whether ranges cost the same in any order.
    fn random_access(&self) -> bool;

    /// What is odd about the place.
    fn remarks(&self) -> &[Remark] {
        &[]
    }

    /// The hash of a body, where it is known without reading it again.
    fn digest(&self, _entry: &Entry) -> Option<Digest> {
        None
    }

    /// How sure one can be of what is read.
    fn assurance(&self) -> Assurance {
        Assurance::None
    }

    /// Verifies what only shows when all is read, beyond what reading each body tells.
    ///
    /// # Errors
    /// Where something is not what was written.
    fn verify(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// How it is compressed, if it is.
    fn compression(&self) -> Option<Compression> {
        None
    }
}

/// A body from its start to its end. Small reads are gathered into larger ones.
#[derive(Debug)]
pub struct Body<'a> {
    source: &'a dyn Source,
    entry: &'a Entry,
    at: u64,
    buffer: Vec<u8>,
    /// What was taken from the buffer.
    taken: usize,
}

/// Bytes that are read ahead.
const AHEAD: u64 = 32 << 10;

impl<'a> Body<'a> {
    /// The body of an entry of this source.
    #[must_use]
    pub fn new(source: &'a dyn Source, entry: &'a Entry) -> Self {
        Self { source, entry, at: 0, buffer: Vec::new(), taken: 0 }
    }

    /// The body from byte `offset` on; beyond its end there is nothing.
    #[must_use]
    pub fn starting_at(self, offset: u64) -> Self {
        Self { at: offset.min(self.entry.size), ..Self::new(self.source, self.entry) }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.entry.size - self.at;
        if self.taken == self.buffer.len() && into.len() as u64 >= AHEAD.min(left) {
            let length = left.min(into.len() as u64) as usize;
            self.source.read_at(self.entry, self.at, &mut into[..length]).map_err(io::Error::other)?;
            self.at += length as u64;
            return Ok(length);
        }
        if self.taken == self.buffer.len() {
            self.buffer.resize(AHEAD.min(left) as usize, 0);
            self.taken = 0;
            let read = self.source.read_at(self.entry, self.at, &mut self.buffer);
            if let Err(error) = read {
                self.buffer.clear();
                return Err(io::Error::other(error));
            }
            self.at += self.buffer.len() as u64;
        }
        let length = into.len().min(self.buffer.len() - self.taken);
        into[..length].copy_from_slice(&self.buffer[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}

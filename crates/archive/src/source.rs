//! Where the bytes of a checkpoint come from.

use std::fmt;
use std::io::{self, Read};

mod directory;

pub use directory::Directory;

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

/// A place that a checkpoint can be read from.
///
/// Names are unique: a source refuses a checkpoint in which two entries have the same.
pub trait Source: fmt::Debug {
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
}

/// A body from its start to its end.
#[derive(Debug)]
pub struct Body<'a> {
    source: &'a dyn Source,
    entry: &'a Entry,
    at: u64,
}

impl<'a> Body<'a> {
    /// The body of an entry of this source.
    #[must_use]
    pub fn new(source: &'a dyn Source, entry: &'a Entry) -> Self {
        Self { source, entry, at: 0 }
    }

    /// The same body, from byte `offset` on.
    #[must_use]
    pub fn starting_at(self, offset: u64) -> Self {
        Self { at: offset.min(self.entry.size), ..self }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = (self.entry.size - self.at).min(into.len() as u64) as usize;
        self.source.read_at(self.entry, self.at, &mut into[..length]).map_err(io::Error::other)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The place itself cannot be read.
    #[error("cannot read {place}")]
    Place {
        /// The place.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An entry cannot be read.
    #[error("cannot read {entry} in {place}")]
    Entry {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An entry ends before what should be in it.
    #[error("{entry} in {place} has {size} bytes, and {wanted} are needed")]
    Short {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// The bytes it has.
        size: u64,
        /// The bytes that were asked for.
        wanted: u64,
    },
    /// An entry is larger than anything of its kind should be.
    #[error("{entry} in {place} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The place.
        place: String,
        /// The entry's name.
        entry: String,
        /// The bytes it has.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// There are more entries than a checkpoint should have.
    #[error("{place} has more than {limit} entries")]
    TooMany {
        /// The place.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Images refer to parents in a circle, or to more of them than there can be.
    #[error("{place} has more than {limit} generations of images")]
    TooDeep {
        /// The place.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Nothing in it is an image of CRIU's.
    #[error("{place} holds no checkpoint")]
    NoImages {
        /// The place.
        place: String,
    },
}

impl SourceError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Place { .. } | Self::Entry { .. } => "check the path, and that you may read it",
            Self::Short { .. } => "the checkpoint is damaged: use another copy",
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::TooDeep { .. } => {
                "it is damaged, or made to do harm: use another copy"
            }
            Self::NoImages { .. } => "give an archive that an engine made, or a directory with CRIU's images",
        }
    }
}

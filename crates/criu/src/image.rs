//! CRIU's images: what a checkpoint consists of, as files.
//!
//! [`Kind`] knows every image there is: its file name, its magic, its framing, and what follows its entries. [`ImageReader`] takes an
//! image apart into entries, within limits, from any [`Read`](std::io::Read); [`ImageWriter`] writes them. On top of these are typed
//! messages (one module for each part of a program's state), for reading only: an image is never rebuilt from them, since they do
//! not know the fields of every CRIU. Images are changed by [`edit`], which keeps what it does not know.
//!
//! For everything else there is [`schema`], a table of all messages, and what follows from it: a [`Tree`] of any message, and
//! [`document`]s, whole images as JSON and back.
//!
//! An image in which CRIU has nothing to say is not written, so an absent file means "none", with the exception of the inventory.
//!
//! Formats: CRIU 4.2, `criu/image.c`, `criu/image-desc.c`, `criu/include/magic.h` and `images/*.proto`.

use std::io;

use crate::wire::WireError;

pub mod cgroup;
pub mod cpu;
pub mod credential;
pub mod document;
pub mod edit;
pub mod event;
pub mod explore;
pub mod file;
pub mod format;
pub mod framing;
pub mod json;
pub mod kind;
pub mod memory;
pub mod namespace;
pub mod pagemap;
mod payload;
pub mod presentation;
pub mod process;
mod quoted;
pub mod register;
pub mod schema;
pub mod socket;
pub mod terminal;
pub mod tree;

pub use format::Format;
pub use framing::{Entry, ImageReader, ImageWriter, Limits};
pub use kind::{Argument, Description, Extra, Framing, Kind, Name};
pub use payload::PayloadError;
pub use tree::{Tree, TreeError};

/// Why an image cannot be read or changed. Offsets count bytes from the start of the image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file is too short to be an image.
    #[error("no image: it has {size} bytes, fewer than a magic")]
    NoMagic {
        /// Its size, in bytes.
        size: usize,
    },
    /// A file starts with a number that is the magic of no kind.
    #[error("no image: it starts with {found:#010x}, which is no magic")]
    UnknownMagic {
        /// The number.
        found: u32,
    },
    /// The reader failed before the kind of the image was known.
    #[error("the image cannot be read")]
    Unreadable {
        /// What the reader said.
        source: io::Error,
    },
    /// The image does not start with the magic of its kind.
    #[error("{kind} image starts with {found:#010x} where {expected:#010x} belongs")]
    Magic {
        /// What the image should be.
        kind: Kind,
        /// The number found.
        found: u32,
        /// The number that belongs there.
        expected: u32,
    },
    /// The image ends inside an entry.
    #[error("{kind} image is cut short at byte {offset}, inside {part}")]
    Truncated {
        /// What the image is.
        kind: Kind,
        /// Where the part that is incomplete starts.
        offset: u64,
        /// The part that is incomplete.
        part: &'static str,
    },
    /// An entry is larger than it may be.
    #[error("{kind} image claims {part} of {size} bytes at byte {offset}, more than the limit of {limit}")]
    TooLarge {
        /// What the image is.
        kind: Kind,
        /// Where the entry starts.
        offset: u64,
        /// The part that is too large.
        part: &'static str,
        /// The size it claims, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The image has more entries than it may.
    #[error("{kind} image has more than {limit} entries")]
    TooMany {
        /// What the image is.
        kind: Kind,
        /// The limit.
        limit: u64,
    },
    /// An entry is no message.
    #[error("entry at byte {offset} of the {kind} image: {source}")]
    Wire {
        /// What the image is.
        kind: Kind,
        /// Where the entry starts.
        offset: u64,
        /// What is wrong with it.
        source: WireError,
    },
    /// An entry is not the message that belongs into this image, or too much of it.
    #[error("entry at byte {offset} of the {kind} image: {source}")]
    Tree {
        /// What the image is.
        kind: Kind,
        /// Where the entry starts.
        offset: u64,
        /// What is wrong with it.
        source: TreeError,
    },
    /// An entry is not the message that belongs into this image.
    #[error("entry at byte {offset} of the {kind} image: {source}")]
    Message {
        /// What the image is.
        kind: Kind,
        /// Where the entry starts.
        offset: u64,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// An entry holds a value that cannot be.
    #[error("entry at byte {offset} of the {kind} image: {problem}")]
    Invalid {
        /// What the image is.
        kind: Kind,
        /// Where the entry starts.
        offset: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An image of one entry has none.
    #[error("{kind} image is empty")]
    Empty {
        /// What the image is.
        kind: Kind,
    },
    /// The image has no entries because it is not framed at all.
    #[error("{kind} images are raw and have no entries")]
    Raw {
        /// What the image is.
        kind: Kind,
    },
    /// The reader underneath failed.
    #[error("{kind} image cannot be read at byte {offset}")]
    Io {
        /// What the image is.
        kind: Kind,
        /// How far it was read.
        offset: u64,
        /// What the reader said.
        source: io::Error,
    },
}

impl ImageError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoMagic { .. } | Self::UnknownMagic { .. } | Self::Raw { .. } => {
                "pages, dumps of `ip` and archives of a tmpfs have no entries: read them with the tools they are made for"
            }
            Self::Magic { .. } | Self::Empty { .. } => "check that the file is the image its name says",
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                "no program needs that much: the image is damaged, or made to do harm"
            }
            Self::Truncated { .. }
            | Self::Wire { .. }
            | Self::Tree { .. }
            | Self::Message { .. }
            | Self::Invalid { .. } => {
                "take the image from another copy of the checkpoint, or an earlier checkpoint"
            }
            Self::Unreadable { .. } | Self::Io { .. } => "check the disk and the permissions of the file",
        }
    }
}

/// A message that is the entry of an image of one kind.
pub trait Record: prost::Message + Default {
    /// The kind of image it belongs to.
    const KIND: Kind;
}

/// Reads every entry of an image as its message. Payloads between the entries are passed over.
///
/// # Errors
///
/// When the image is damaged or exceeds the default [`Limits`].
pub fn read_all<M: Record>(image: &[u8]) -> Result<Vec<M>, ImageError> {
    let mut reader = ImageReader::new(M::KIND, image, Limits::default())?;
    let mut messages = Vec::new();
    while let Some(message) = reader.next_message()? {
        messages.push(message);
    }
    Ok(messages)
}

/// Reads the first entry of an image as its message: for images that have only one, and for heads.
///
/// # Errors
///
/// When the image is damaged, exceeds the default [`Limits`], or has no entry.
pub fn read_one<M: Record>(image: &[u8]) -> Result<M, ImageError> {
    ImageReader::new(M::KIND, image, Limits::default())?
        .next_head()?
        .ok_or(ImageError::Empty { kind: M::KIND })
}

macro_rules! records {
    ($($message:ty => $kind:ident),+ $(,)?) => {
        $(impl $crate::image::Record for $message {
            const KIND: $crate::image::Kind = $crate::image::Kind::$kind;
        })+
    };
}
use records;

#[cfg(test)]
mod real_tests;

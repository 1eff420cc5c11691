//! Reading what a store holds. Every byte is verified; a damaged object is named, and never skipped.

use std::io;

use crate::backend::BackendError;
use crate::manifest::MemoryId;

mod body;
mod cache;
mod layout;
mod memory;

pub(crate) use cache::BlockCache;
pub use memory::{MemoryReader, PagemapEntry};

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The place failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// An object is not what was written.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// The object, by kind and name.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that others refer to is not there.
    #[error("{object} is missing")]
    Missing {
        /// The object, by kind and name.
        object: String,
    },
    /// An object was written by a newer Torpor.
    #[error("{object} has format version {found}, and this torpor reads up to {ours}")]
    TooNew {
        /// The object, by kind and name.
        object: String,
        /// The version it has.
        found: u32,
        /// The newest version this code knows.
        ours: u32,
    },
    /// An object uses features this code does not know.
    #[error("{object} uses features this torpor does not know (flags {flags:#x})")]
    UnknownFeatures {
        /// The object, by kind and name.
        object: String,
        /// The unknown flags.
        flags: u64,
    },
    /// The generation has no such image.
    #[error("generation {generation} of {name} has no image {image}")]
    NoSuchImage {
        /// The name.
        name: String,
        /// The generation.
        generation: u64,
        /// The image.
        image: String,
    },
    /// The generation has no such memory object.
    #[error("generation {generation} of {name} has no {memory}")]
    NoSuchMemory {
        /// The name.
        name: String,
        /// The generation.
        generation: u64,
        /// The memory object.
        memory: MemoryId,
    },
    /// What was read cannot be written where it should go.
    #[error("cannot write {what}")]
    Output {
        /// What was being written.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.remedy(),
            Self::Damaged { object, .. } if object.starts_with("index ") => {
                "run `torpor verify --repair` to rebuild the index from the packs"
            }
            Self::Damaged { .. } | Self::Missing { .. } => {
                "run `torpor verify --read-data` to see which generations it hurts, and restore an older one"
            }
            Self::TooNew { .. } | Self::UnknownFeatures { .. } => {
                "use the torpor that wrote it, or a newer one"
            }
            Self::NoSuchImage { .. } | Self::NoSuchMemory { .. } => {
                "use another generation: `torpor ls` lists them"
            }
            Self::Output { .. } => "free space where it is restored to, or choose another place",
        }
    }
}

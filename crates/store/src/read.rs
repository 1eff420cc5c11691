//! Reading what a store holds. Every byte is verified; a damaged object is named, and never skipped.

use std::fs::File;
use std::io::{self, Write};

use crate::backend::BackendError;
use crate::manifest::{Extent, MemoryId};

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

/// One entry of a pagemap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagemapEntry {
    /// Address of the first page.
    pub vaddr: u64,
    /// Pages.
    pub pages: u64,
    /// CRIU's flags, as they were given.
    pub flags: u32,
}

/// A memory object of a generation. Shareable between threads.
#[derive(Debug)]
pub struct MemoryReader {}

impl MemoryReader {
    /// All extents by address.
    ///
    /// # Errors
    /// Where a segment is missing or damaged.
    pub fn extents(&self) -> Result<Vec<Extent>, ReadError> {
        todo!()
    }

    /// Writes all pages with data, densely and by address, to `to` from its byte `offset` on (zero pages become
    /// holes where the file has none yet), with several threads; returns the pagemap that belongs to them.
    ///
    /// # Errors
    /// Where a block is missing or damaged, or `to` fails.
    pub fn lay_out(&self, to: &File, offset: u64) -> Result<Vec<PagemapEntry>, ReadError> {
        todo!("{to:?} {offset}")
    }

    /// As [`MemoryReader::lay_out`], into anything that takes bytes in order.
    ///
    /// # Errors
    /// Where a block is missing or damaged, or `to` fails.
    pub fn lay_out_to(&self, to: &mut dyn Write) -> Result<Vec<PagemapEntry>, ReadError> {
        todo!("{}", to.flush().is_ok())
    }

    /// Reads `buffer.len()` bytes (whole pages) from address `vaddr`, for lazy serving. Pages without data and
    /// addresses outside every extent read as `None` in the returned bitmap of pages; their bytes are zero.
    ///
    /// # Errors
    /// Where a block is missing or damaged.
    pub fn read_pages(&self, vaddr: u64, buffer: &mut [u8]) -> Result<Vec<bool>, ReadError> {
        todo!("{vaddr} {buffer:?}")
    }
}

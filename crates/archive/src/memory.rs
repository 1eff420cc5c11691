//! What was in the memory of the programs: address spaces, put together from mappings, pagemaps and pages.
//!
//! [`AddressSpaces`] is a checkpoint as processes; an [`AddressSpace`] is one process: its [`Mapping`]s, and for every address where
//! its content is ([`Content`]): in the pages of this dump or of a parent, in a file that is not part of the checkpoint, nowhere since
//! it was never touched, or lost. [`Pages`] are the pages of one owner, which is a process or a piece of shared memory.
//!
//! Nothing here grows with the memory of the programs: pagemaps are read as a stream, with marks to go on from.
//!
//! Formats: CRIU 4.2, `criu/pagemap.c`, `criu/mem.c`, `criu/shmem.c`; `images/mm.proto`, `vma.proto`, `pagemap.proto`, `memfd.proto`.

use torpor_criu::image::ImageError;

use crate::source::SourceError;

mod address_space;
mod core_file;
mod dump;
mod mapping;
mod pages;
mod passing;
mod pattern;
mod process;
mod run;
mod scanner;
mod search;
mod stream;
mod usage;

pub use address_space::{AddressSpace, Content, Extent, Extents, Gap, ReadOutcome};
pub use core_file::{CoreError, CoreFile};
pub use dump::{DumpError, row};
pub use mapping::{Mapping, MappingKind, Protection};
pub use pages::{Owner, Pages};
pub use passing::Passing;
pub use pattern::{LONGEST_MATCH, Pattern, PatternError};
pub use process::{AddressSpaces, Process};
pub use run::{Place, Run, Runs};
pub use search::{Found, FoundIn, Match, Search};
pub use usage::{Filter, MappingUsage, Usage};

/// Why memory cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The source fails.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An image cannot be understood.
    #[error("cannot read {entry}: {source}")]
    Image {
        /// The entry's name.
        entry: String,
        /// What is wrong.
        source: ImageError,
    },
    /// An image that another one needs is not there.
    #[error("the checkpoint has no {entry}")]
    Missing {
        /// The name it should have.
        entry: String,
    },
    /// No process has this id.
    #[error("the checkpoint has no process {pid}")]
    NoProcess {
        /// The id that was asked for.
        pid: u32,
    },
    /// The process had ended, and was not yet waited for.
    #[error("process {pid} had ended before the checkpoint, so it has no memory")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// Ranges of a pagemap lie over each other.
    #[error("{entry} says twice where the page at {address:#x} is")]
    Overlap {
        /// The pagemap.
        entry: String,
        /// The address.
        address: u64,
    },
    /// A range of a pagemap goes beyond the last address.
    #[error("{entry} has a range at {address:#x} that goes beyond the last address")]
    Beyond {
        /// The pagemap.
        entry: String,
        /// Where the range starts.
        address: u64,
    },
    /// The pages image ends before a page that should be in it.
    #[error("{entry} has {size} bytes, and a page at byte {offset} should be in it")]
    PagesShort {
        /// The pages image.
        entry: String,
        /// Its size in bytes.
        size: u64,
        /// Where the page should be, in bytes.
        offset: u64,
    },
}

impl MemoryError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Source(error) => error.remedy(),
            Self::NoProcess { .. } => "list the processes with `torpor memory SOURCE`",
            Self::Ended { .. } => "ask for a process that was alive",
            Self::Image { .. }
            | Self::Missing { .. }
            | Self::Overlap { .. }
            | Self::Beyond { .. }
            | Self::PagesShort { .. } => "the checkpoint is damaged: use another copy",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

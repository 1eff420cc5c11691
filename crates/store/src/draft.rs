//! A generation in the making.

use std::fs::File;
use std::io::Read;

use crate::backend::BackendError;
use crate::id::{ManifestId, PackId};
use crate::manifest::{DataRange, Description, FileEntry, Manifest, MemoryId};
use crate::read::ReadError;

/// How a draft works.
#[derive(Debug, Clone)]
pub struct DraftSettings<'a> {
    /// The generation before: pages are first looked up there, at the same address.
    pub predecessor: Option<&'a Manifest>,
    /// Most bytes of memory for data in flight. Taken and touched when the draft begins.
    pub memory_limit: usize,
    /// Threads that hash, compress and seal; 0 for one a CPU.
    pub workers: usize,
    /// Most bytes for the table of known pieces.
    pub index_limit: usize,
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// While data fits the memory limit, only take it in; work begins with [`Draft::resume`] (after the thaw), or
    /// when memory runs out.
    pub deferred: bool,
}

impl Default for DraftSettings<'_> {
    fn default() -> Self {
        Self {
            predecessor: None,
            memory_limit: 64 << 20,
            workers: 0,
            index_limit: 16 << 20,
            level: 1,
            deferred: false,
        }
    }
}

/// Why data cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// The place failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Something that is needed cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The data's source failed.
    #[error("cannot read {what}")]
    Source {
        /// What was being read.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What was given cannot be kept: beyond a limit of the format, or twice.
    #[error("cannot keep {what}: {reason}")]
    Refused {
        /// What was given.
        what: String,
        /// Why it cannot be kept.
        reason: String,
    },
}

impl DraftError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.remedy(),
            Self::Read(error) => error.remedy(),
            Self::Source { .. } => "check the file and the program that uses it, and checkpoint again",
            Self::Refused { .. } => "leave it out of the checkpoint, or report it",
        }
    }
}

/// A generation whose data is durable and whose manifest is written. A name does not refer to it yet.
#[derive(Debug)]
pub struct FinishedDraft {
    /// The manifest.
    pub manifest: Manifest,
    /// Packs that were written for it.
    pub written: Vec<PackId>,
    /// Packs of others that it refers to: must carry no tombstone when it is published.
    pub reused: Vec<PackId>,
}

impl FinishedDraft {
    /// The manifest's id.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        self.manifest.id()
    }
}

/// A generation in the making. Dropped unfinished, it leaves nothing that anybody refers to.
#[derive(Debug)]
pub struct Draft {}

impl Draft {
    /// Takes pages in. `bytes` is whole pages from `vaddr` on. Pages of zeros are found and not stored.
    ///
    /// # Errors
    /// Where an earlier write failed, or the extent is refused (unaligned, overlapping).
    pub fn pages(
        &mut self,
        memory: MemoryId,
        vaddr: u64,
        flags: u32,
        bytes: &[u8],
    ) -> Result<(), DraftError> {
        todo!("{memory} {vaddr} {flags} {bytes:?}")
    }

    /// Takes pages in straight from a reader: one copy less.
    ///
    /// # Errors
    /// As [`Draft::pages`]; [`DraftError::Source`] where the reader fails or ends early.
    pub fn pages_from(
        &mut self,
        memory: MemoryId,
        vaddr: u64,
        flags: u32,
        pages: u64,
        from: &mut dyn Read,
    ) -> Result<(), DraftError> {
        todo!("{memory} {vaddr} {flags} {pages} {}", std::ptr::from_mut(from).is_null())
    }

    /// Records pages that have flags but no data (lazy, or in a parent).
    ///
    /// # Errors
    /// As [`Draft::pages`].
    pub fn pages_without_data(
        &mut self,
        memory: MemoryId,
        vaddr: u64,
        flags: u32,
        pages: u64,
    ) -> Result<(), DraftError> {
        todo!("{memory} {vaddr} {flags} {pages}")
    }

    /// Lets the workers begin, where the draft was [`DraftSettings::deferred`].
    pub fn resume(&mut self) {
        todo!()
    }

    /// Takes an image in.
    ///
    /// # Errors
    /// Where its source fails, an earlier write failed, or there is an image of that name.
    pub fn image(&mut self, name: &str, body: &mut dyn Read) -> Result<(), DraftError> {
        todo!("{name} {}", std::ptr::from_mut(body).is_null())
    }

    /// Takes a file in, or replaces the one of the same section and path. `body` yields the bytes of `data`'s
    /// ranges one after the other; other kinds than regular files have neither.
    ///
    /// # Errors
    /// [`DraftError::Source`] where `body` fails or ends early (the file shrank): the draft stays usable without it.
    pub fn file(
        &mut self,
        entry: FileEntry,
        data: &[DataRange],
        body: &mut dyn Read,
    ) -> Result<(), DraftError> {
        todo!("{entry:?} {data:?} {}", std::ptr::from_mut(body).is_null())
    }

    /// Takes a regular file in from the file itself, finding its holes. The entry's size becomes what is found.
    ///
    /// # Errors
    /// As [`Draft::file`].
    pub fn file_from(&mut self, entry: FileEntry, from: &File) -> Result<(), DraftError> {
        todo!("{entry:?} {from:?}")
    }

    /// Takes a file in whose content is what an earlier generation's entry has.
    ///
    /// # Errors
    /// Where that data is not in the store any more, or is about to be collected.
    pub fn file_as_before(&mut self, entry: FileEntry, before: &FileEntry) -> Result<(), DraftError> {
        todo!("{entry:?} {before:?}")
    }

    /// Takes a file out again. Does nothing where there is none.
    pub fn forget_file(&mut self, section: &str, path: &[u8]) {
        todo!("{section} {path:?}")
    }

    /// Bytes taken in so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        todo!()
    }

    /// Makes everything durable, and writes the manifest last.
    ///
    /// # Errors
    /// Where anything was not written; no manifest exists then.
    pub fn finish(self, description: Description) -> Result<FinishedDraft, DraftError> {
        todo!("{description:?}")
    }
}

//! A generation in the making.
//!
//! A draft takes in pages, images and files while the program may be frozen, so it only copies and queues there; see
//! `draft/pipeline.rs` for what happens behind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::bytes::{LocalRun, Pieces};
use self::holes::{RangeReader, data_ranges};
use self::intake::{Intake, Place, Trial};
use self::known::{Knowledge, PieceAt};
use self::pipeline::{Found, FoundExtent, Pipeline, push_extent};
use crate::id::{ManifestId, PackId};
use crate::manifest::file::refusal;
use crate::manifest::{Body, DataRange, FileEntry, FileKind, Manifest, MemoryId, PAGE_SIZE};
use crate::repository::Repository;

mod ahead;
mod bytes;
mod error;
mod finish;
mod holes;
mod intake;
mod known;
mod pipeline;
mod queue;
mod spool;
mod worker;
mod writing;

pub use error::DraftError;
pub use intake::{PageRange, ReadPages};

/// How a draft works.
#[derive(Debug, Clone)]
pub struct DraftSettings<'a> {
    /// The generation before: pages are first looked up there, at the same address.
    pub predecessor: Option<&'a Manifest>,
    /// Most bytes of memory for data in flight. Taken and touched when the draft begins. What is known of the store
    /// comes on top: `index_limit`, and 16 bytes for each page of the predecessor.
    pub memory_limit: usize,
    /// Threads that hash, compress and seal; 0 for one a CPU.
    pub workers: usize,
    /// Most bytes for the table of known pieces.
    pub index_limit: usize,
    /// Most bytes for the table of pages that are taken in [ahead](Draft::pages_ahead).
    pub ahead_limit: usize,
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// Bytes of pages that are expected between [`Draft::hold`] and [`Draft::resume`]. Where memory has no room for
    /// them and the place has a [scratch file](crate::Backend::scratch), they wait there.
    pub held: u64,
}

impl Default for DraftSettings<'_> {
    fn default() -> Self {
        Self {
            predecessor: None,
            memory_limit: 64 << 20,
            workers: 0,
            index_limit: 16 << 20,
            ahead_limit: 0,
            level: 1,
            held: 0,
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
pub struct Draft {
    repository: Repository,
    pipeline: Pipeline,
    pieces: Pieces,
    /// Memory objects by number.
    memory: Vec<Object>,
    /// Extents without data, which no worker needs to see.
    without_data: Vec<FoundExtent>,
    intake: Intake,
    trial: Trial,
    images: BTreeMap<String, Vec<LocalRun>>,
    files: BTreeMap<(String, Vec<u8>), (FileEntry, Vec<LocalRun>)>,
    taken: u64,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// A memory object.
struct Object {
    id: MemoryId,
    /// Its table in the predecessor.
    earlier: Option<usize>,
    /// Whether it is part of the generation. What was only taken in ahead may have gone since.
    came: bool,
}

impl Draft {
    pub(crate) fn begin(repository: Repository, settings: DraftSettings<'_>) -> Result<Self, DraftError> {
        repository.check_writable()?;
        // So that a store that cannot be written says so before anything is frozen.
        drop(repository.backend().begin()?);
        let knowledge = Knowledge::gather(&repository, settings.predecessor, settings.index_limit)?;
        let pipeline = Pipeline::start(repository.clone(), knowledge, &settings)?;
        let intake = Intake::new(Arc::clone(&pipeline.shared));
        Ok(Self {
            repository,
            pipeline,
            pieces: Pieces::new(),
            memory: Vec::new(),
            without_data: Vec::new(),
            intake,
            trial: Trial::default(),
            images: BTreeMap::new(),
            files: BTreeMap::new(),
            taken: 0,
        })
    }

    fn memory_number(&mut self, id: MemoryId, came: bool) -> u32 {
        // Pages come object by object.
        let at = self.memory.iter().rposition(|object| object.id == id).unwrap_or_else(|| {
            let earlier = self.pipeline.shared.knowledge.earlier.object(id);
            self.memory.push(Object { id, earlier, came });
            self.memory.len() - 1
        });
        self.memory[at].came |= came;
        at as u32
    }

    fn check_range(memory: MemoryId, vaddr: u64, pages: u64) -> Result<(), DraftError> {
        let len = pages.checked_mul(PAGE_SIZE as u64);
        let end = len.and_then(|len| vaddr.checked_add(len));
        if vaddr.is_multiple_of(PAGE_SIZE as u64) && end.is_some_and(|end| end <= u64::MAX - PAGE_SIZE as u64)
        {
            return Ok(());
        }
        Err(DraftError::Refused {
            what: format!("{pages} pages at {vaddr:#x} of the {memory}"),
            reason: "they are not pages of an address space".to_owned(),
        })
    }

    /// Takes pages in. `bytes` is whole pages from `vaddr` on. Pages of zeros are found and not stored.
    ///
    /// # Errors
    /// Where an earlier write failed, or the range is refused. Pages that come twice are refused by
    /// [`Draft::finish`].
    pub fn pages(
        &mut self,
        memory: MemoryId,
        vaddr: u64,
        flags: u32,
        mut bytes: &[u8],
    ) -> Result<(), DraftError> {
        if !bytes.len().is_multiple_of(PAGE_SIZE) {
            return Err(DraftError::Refused {
                what: format!("{} bytes at {vaddr:#x} of the {memory}", bytes.len()),
                reason: "they are not whole pages".to_owned(),
            });
        }
        let pages = (bytes.len() / PAGE_SIZE) as u64;
        self.pages_from(memory, vaddr, flags, pages, &mut bytes)
    }

    /// Takes pages in straight from a reader, which may be a socket: one copy less.
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
        self.fill(memory, vaddr, flags, pages, from, false)
    }

    /// Takes pages in before [`Draft::hold`] that will come again, if they are still there, while the program stands
    /// still. Those that come as they are now need not be copied then, nor worked on.
    ///
    /// # Errors
    /// As [`Draft::pages`].
    pub fn pages_ahead(&mut self, memory: MemoryId, vaddr: u64, mut bytes: &[u8]) -> Result<(), DraftError> {
        let pages = (bytes.len() / PAGE_SIZE) as u64;
        self.fill(memory, vaddr, 0, pages, &mut bytes, true)
    }

    /// How many pages can be kept in mind yet by [`Draft::pages_ahead`]. Those beyond are taken in for nothing.
    #[must_use]
    pub fn room_ahead(&self) -> usize {
        self.pipeline.shared.ahead.room()
    }

    fn fill(
        &mut self,
        memory: MemoryId,
        vaddr: u64,
        flags: u32,
        pages: u64,
        from: &mut dyn Read,
        ahead: bool,
    ) -> Result<(), DraftError> {
        let place = self.place(&PageRange { memory, vaddr, pages, flags }, !ahead)?;
        if !ahead {
            self.taken += pages * PAGE_SIZE as u64;
        }
        self.intake.fill(place, vaddr, pages, ahead, &mut |_, room| {
            from.read_exact(room)
                .map_err(|source| DraftError::Source { what: format!("pages of the {memory}"), source })
        })
    }

    /// Takes pages in with several `threads`, each of which reads some of them with `read`.
    ///
    /// # Errors
    /// As [`Draft::pages_from`].
    pub fn pages_at_once(
        &mut self,
        ranges: &[PageRange],
        read: &ReadPages<'_>,
        threads: usize,
    ) -> Result<(), DraftError> {
        let placed = self.placed(ranges, true)?;
        self.taken += ranges.iter().map(|range| range.pages * PAGE_SIZE as u64).sum::<u64>();
        intake::fill_at_once(&self.pipeline.shared, &placed, read, threads)
    }

    /// Takes pages in of which is not known yet whether they belong to the generation, until all are there, `stop` is
    /// set, or memory runs short. [`Draft::settle_trial`] decides about them.
    ///
    /// # Errors
    /// A range is refused.
    pub fn pages_on_trial(
        &mut self,
        ranges: &[PageRange],
        read: &ReadPages<'_>,
        stop: &AtomicBool,
    ) -> Result<(), DraftError> {
        let placed = self.placed(ranges, false)?;
        self.trial.fill(&self.pipeline.shared, &placed, read, stop);
        Ok(())
    }

    /// Takes those pages in that came [on trial](Draft::pages_on_trial) and belong to the generation, and forgets the
    /// others, with some of those beside them. Returns those that were taken in.
    pub fn settle_trial(&mut self, belongs: &dyn Fn(&PageRange) -> bool) -> Vec<PageRange> {
        let kept = std::mem::take(&mut self.trial).settle(&self.pipeline.shared, belongs);
        for range in &kept {
            self.memory_number(range.memory, true);
            self.taken += range.pages * PAGE_SIZE as u64;
        }
        kept
    }

    fn placed(&mut self, ranges: &[PageRange], came: bool) -> Result<Vec<(PageRange, Place)>, DraftError> {
        ranges.iter().map(|range| Ok((*range, self.place(range, came)?))).collect()
    }

    /// Where pages belong, if they can be of an address space.
    fn place(&mut self, range: &PageRange, came: bool) -> Result<Place, DraftError> {
        Self::check_range(range.memory, range.vaddr, range.pages)?;
        let memory = self.memory_number(range.memory, came);
        let earlier = self.memory[memory as usize].earlier;
        Ok(Place { memory, earlier, flags: range.flags })
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
        Self::check_range(memory, vaddr, pages)?;
        let memory = self.memory_number(memory, true);
        if pages > 0 {
            push_extent(
                &mut self.without_data,
                FoundExtent { memory, vaddr, pages, flags, found: Found::NoData },
            );
        }
        Ok(())
    }

    /// Waits until all that was taken in is worked on. From then on data is only taken in; work begins again with
    /// [`Draft::resume`] (after the thaw), or when there is no more room for it.
    ///
    /// # Errors
    /// Where an earlier write failed.
    pub fn hold(&mut self) -> Result<(), DraftError> {
        self.intake.submit();
        self.pieces.flush(&mut self.pipeline);
        self.pipeline.shared.hold()?;
        self.pipeline.shared.ahead.settle();
        Ok(())
    }

    /// Lets the work go on that was [held](Draft::hold).
    pub fn resume(&mut self) {
        self.pipeline.shared.resume();
    }

    /// Takes an image in.
    ///
    /// # Errors
    /// Where its source fails, an earlier write failed, or there is an image of that name.
    pub fn image(&mut self, name: &str, body: &mut dyn Read) -> Result<(), DraftError> {
        if self.images.contains_key(name) {
            return Err(DraftError::Refused {
                what: format!("image {name}"),
                reason: "there is one of that name".to_owned(),
            });
        }
        let mut runs = Vec::new();
        let taken = self.pieces.take(&mut self.pipeline, body, u64::MAX, 0, &mut runs)?;
        self.taken += taken.map_err(|source| DraftError::Source { what: format!("image {name}"), source })?;
        self.images.insert(name.to_owned(), runs);
        Ok(())
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
        let size = match entry.kind {
            FileKind::File { size } => size,
            _ => 0,
        };
        let path = || String::from_utf8_lossy(&entry.path).into_owned();
        let refused = |reason: String| DraftError::Refused { what: path(), reason };
        if let Some(reason) = refusal(&entry) {
            return Err(refused(reason));
        }
        let mut runs = Vec::new();
        let mut end = 0;
        for range in data {
            let after = range.offset.checked_add(range.len).filter(|after| *after <= size);
            let Some(after) = after.filter(|_| range.offset >= end) else {
                return Err(refused("its data lies beyond its end, or twice".to_owned()));
            };
            end = after;
            let taken = self.pieces.take(&mut self.pipeline, body, range.len, range.offset, &mut runs)?;
            let taken = taken.and_then(|taken| match taken {
                all if all == range.len => Ok(all),
                _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
            });
            self.taken += taken.map_err(|source| DraftError::Source { what: path(), source })?;
        }
        self.insert_file(entry, runs);
        Ok(())
    }

    fn insert_file(&mut self, mut entry: FileEntry, runs: Vec<LocalRun>) {
        entry.body = Body::default();
        self.files.insert((entry.section.clone(), entry.path.clone()), (entry, runs));
    }

    /// Takes a regular file in from the file itself, finding its holes. The entry's size becomes what is found.
    ///
    /// # Errors
    /// As [`Draft::file`].
    pub fn file_from(&mut self, mut entry: FileEntry, from: &File) -> Result<(), DraftError> {
        let failed =
            |source| DraftError::Source { what: String::from_utf8_lossy(&entry.path).into_owned(), source };
        let (size, ranges) = data_ranges(from).map_err(failed)?;
        entry.kind = FileKind::File { size };
        let mut body = RangeReader { file: from, ranges: ranges.clone().into() };
        self.file(entry, &ranges, &mut body)
    }

    /// Takes a file in whose content is what an earlier generation's entry has.
    ///
    /// # Errors
    /// [`DraftError::Refused`] where that data is not in the store any more, or is about to be collected, or the
    /// sizes differ.
    pub fn file_as_before(&mut self, entry: FileEntry, before: &FileEntry) -> Result<(), DraftError> {
        let refused = |reason: String| DraftError::Refused {
            what: String::from_utf8_lossy(&entry.path).into_owned(),
            reason,
        };
        if let Some(reason) = refusal(&entry) {
            return Err(refused(reason));
        }
        if entry.kind != before.kind {
            return Err(refused("its kind or size is not what it was before".to_owned()));
        }
        let mut runs = Vec::with_capacity(before.body.runs.len());
        for run in &before.body.runs {
            let shared = &self.pipeline.shared;
            let places = self.repository.locate(run.pieces.block)?;
            if places.iter().all(|place| shared.knowledge.condemned.contains(&place.pack)) {
                return Err(refused("its data is about to be collected".to_owned()));
            }
            let block = shared.knowledge.numbers.existing(run.pieces.block);
            runs.push(LocalRun {
                offset: run.offset,
                len: run.len,
                at: PieceAt { block, piece: run.pieces.first },
                count: run.pieces.count,
            });
        }
        self.taken += before.body.data_len();
        self.insert_file(entry, runs);
        Ok(())
    }

    /// Takes a file out again. Does nothing where there is none.
    pub fn forget_file(&mut self, section: &str, path: &[u8]) {
        self.files.remove(&(section.to_owned(), path.to_owned()));
    }

    /// Bytes of data taken in so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

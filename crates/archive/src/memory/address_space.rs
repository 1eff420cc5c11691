//! One process's addresses, and what is at each.

use std::collections::BTreeMap;

use torpor_criu::image::memory::{MappingStatus, Memory};

use super::run::Peeked;
use super::{Mapping, MemoryError, Owner, Pages, Place};
use crate::checkpoint::Checkpoint;

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In a pages image, from byte `offset` on.
    Stored {
        /// Whose pages they are: the process's own, or shared memory.
        owner: Owner,
        /// The layer: zero is this dump, one its parent.
        layer: usize,
        /// Bytes from the start of the pages image.
        offset: u64,
    },
    /// Not in the checkpoint.
    Absent(Gap),
}

/// Why memory is not in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gap {
    /// Never written to: the program reads zeros there.
    Zero,
    /// Unchanged from a file, or shared with it: byte `offset` of the file with this id in `files.img`.
    File {
        /// The file's id.
        file: u32,
        /// Bytes from the start of the file.
        offset: u64,
    },
    /// The kernel's, or a device's.
    Outside,
    /// Left where the program ran before, to be fetched on demand.
    Lazy,
    /// A parent of this checkpoint should have it, and does not.
    Lost,
    /// No mapping is there.
    Unmapped,
}

/// Addresses that follow each other, in one mapping, and with their content in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// The mapping, by its place in [`AddressSpace::mappings`].
    pub mapping: Option<usize>,
    /// Where the content is.
    pub content: Content,
}

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Bytes that were filled, from the start on.
    pub length: usize,
    /// Why there are not more; none where all that was asked for is there.
    pub stopped: Option<Gap>,
}

/// The address space of a process.
#[derive(Debug)]
pub struct AddressSpace<'a> {
    pid: u32,
    /// What CRIU says of it, without the mappings.
    memory: Memory,
    mappings: Vec<Mapping>,
    page_size: u64,
    own: Option<Pages<'a>>,
    shared: BTreeMap<u64, Pages<'a>>,
}

impl<'a> AddressSpace<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        pid: u32,
        mut memory: Memory,
        object_of: impl Fn(u32) -> Option<u64>,
    ) -> Result<Self, MemoryError> {
        let mut mappings: Vec<_> = std::mem::take(&mut memory.vmas)
            .iter()
            // A guard area lies in a mapping, and has no content.
            .filter(|record| !record.is(MappingStatus::Guard) && record.start < record.end)
            .map(|record| Mapping::new(record, memory.mm_start_stack, &object_of))
            .collect();
        mappings.sort_by_key(|mapping| mapping.start);
        // Of mappings over each other, which no kernel has, the first counts.
        let mut end = 0;
        mappings.retain(|mapping| {
            let follows = mapping.start >= end;
            end = end.max(mapping.end);
            follows
        });
        let own = Pages::open(checkpoint, Owner::Process(pid), memory.page_size())?;
        let page_size = memory.page_size().or(own.as_ref().map(Pages::page_size)).unwrap_or(4096);
        let mut shared = BTreeMap::new();
        for id in mappings.iter().filter_map(|mapping| mapping.object) {
            if !shared.contains_key(&id)
                && let Some(pages) = Pages::open(checkpoint, Owner::Shared(id), Some(page_size))?
            {
                shared.insert(id, pages);
            }
        }
        Ok(Self { pid, memory, mappings, page_size, own, shared })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What CRIU recorded of the address space as a whole: where arguments, environment and heap are, the auxiliary vector, and so
    /// on. It has no mappings: those are in [`AddressSpace::mappings`].
    #[must_use]
    pub fn record(&self) -> &Memory {
        &self.memory
    }

    /// The mappings in the order of their addresses.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The place in [`AddressSpace::mappings`] of the one that has this address.
    #[must_use]
    pub fn mapping_at(&self, address: u64) -> Option<usize> {
        let after = self.mappings.partition_point(|mapping| mapping.end <= address);
        self.mappings.get(after)?.contains(address).then_some(after)
    }

    /// The size of a page in bytes.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// The pages of an owner that this address space shows: its own, or of shared memory that it maps.
    #[must_use]
    pub fn pages(&self, owner: Owner) -> Option<&Pages<'a>> {
        match owner {
            Owner::Process(pid) => self.own.as_ref().filter(|_| pid == self.pid),
            Owner::Shared(id) => self.shared.get(&id),
        }
    }

    /// All owners whose pages this address space shows.
    pub fn owners(&self) -> impl Iterator<Item = &Pages<'a>> {
        self.own.iter().chain(self.shared.values())
    }

    /// Everything from `start` to before `end`, in the order of addresses. Between mappings there is nothing.
    #[must_use]
    pub fn extents(&self, start: u64, end: u64) -> Extents<'_, 'a> {
        Extents {
            space: self,
            at: start,
            end,
            mapping: self.mappings.partition_point(|mapping| mapping.end <= start),
            own: self.own.as_ref().map(|own| Peeked::new(own.runs_from(start))),
            shared: None,
            failed: false,
        }
    }

    /// Fills `into` with what is at `address`, up to the first byte that is not in the checkpoint.
    ///
    /// # Errors
    /// Where images are damaged or cannot be read.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<ReadOutcome, MemoryError> {
        let mut length = 0;
        let end = address.saturating_add(into.len() as u64);
        let mut stopped = None;
        for extent in self.extents(address, end) {
            let extent = extent?;
            if extent.start != address + length as u64 {
                break;
            }
            match extent.content {
                Content::Stored { owner, layer, offset } => {
                    let some = (extent.end - extent.start) as usize;
                    self.read_stored(owner, layer, offset, &mut into[length..length + some])?;
                    length += some;
                }
                Content::Absent(gap) => {
                    stopped = Some(gap);
                    break;
                }
            }
        }
        if length < into.len() && stopped.is_none() {
            stopped = Some(Gap::Unmapped);
        }
        Ok(ReadOutcome { length, stopped })
    }

    /// Fills `into` with stored content.
    ///
    /// # Errors
    /// Where images are damaged or cannot be read.
    pub fn read_stored(
        &self,
        owner: Owner,
        layer: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        match self.pages(owner) {
            Some(pages) => pages.read(layer, offset, into),
            None => Err(MemoryError::NoProcess { pid: self.pid }),
        }
    }
}

/// The extents of a part of an address space.
#[derive(Debug)]
pub struct Extents<'s, 'a> {
    space: &'s AddressSpace<'a>,
    at: u64,
    end: u64,
    /// The mapping that has `at`, or the next.
    mapping: usize,
    own: Option<Peeked<'s, 'a>>,
    /// The pages of shared memory, for the mapping at this place.
    shared: Option<(usize, Option<Peeked<'s, 'a>>)>,
    failed: bool,
}

impl Extents<'_, '_> {
    fn next_extent(&mut self) -> Result<Option<Extent>, MemoryError> {
        while self.at < self.end {
            while self.space.mappings.get(self.mapping).is_some_and(|mapping| mapping.end <= self.at) {
                self.mapping += 1;
            }
            let next = self.space.mappings.get(self.mapping);
            let mapping = next.filter(|mapping| mapping.start <= self.at);
            let mut end = match (mapping, next) {
                (Some(mapping), _) => mapping.end,
                (None, Some(next)) => next.start,
                (None, None) => u64::MAX,
            }
            .min(self.end);
            let run = match &mut self.own {
                Some(own) => own.after(self.at)?,
                None => None,
            };
            let content = match run {
                Some(run) if run.start <= self.at => {
                    end = end.min(run.end);
                    Some(content(run.place, Owner::Process(self.space.pid)))
                }
                run => {
                    end = run.map_or(end, |run| end.min(run.start));
                    match mapping {
                        Some(mapping) => Some(self.behind(mapping, &mut end)?),
                        None => None,
                    }
                }
            };
            let start = self.at;
            self.at = end;
            if let Some(content) = content {
                return Ok(Some(Extent { start, end, mapping: mapping.map(|_| self.mapping), content }));
            }
        }
        Ok(None)
    }

    /// What a mapping shows where the process has no page of its own.
    fn behind(&mut self, mapping: &Mapping, end: &mut u64) -> Result<Content, MemoryError> {
        let into = self.at - mapping.start;
        if let Some(id) = mapping.object {
            let Some(offset) = mapping.offset.checked_add(into) else {
                return Ok(Content::Absent(Gap::Zero));
            };
            if self.shared.as_ref().is_none_or(|(place, _)| *place != self.mapping) {
                let pages = self.space.shared.get(&id);
                self.shared = Some((self.mapping, pages.map(|pages| Peeked::new(pages.runs_from(offset)))));
            }
            let run = match &mut self.shared {
                Some((_, Some(runs))) => runs.after(offset)?,
                _ => None,
            };
            return Ok(match run {
                Some(run) if run.start <= offset => {
                    *end = (*end).min(self.at.saturating_add(run.end - offset));
                    content(run.place, Owner::Shared(id))
                }
                Some(run) => {
                    *end = (*end).min(self.at.saturating_add(run.start - offset));
                    Content::Absent(Gap::Zero)
                }
                None => Content::Absent(Gap::Zero),
            });
        }
        use super::MappingKind::{Kernel, Other};
        Ok(Content::Absent(match (mapping.file, mapping.kind) {
            (_, Kernel | Other) => Gap::Outside,
            (Some(file), _) => Gap::File { file, offset: mapping.offset.saturating_add(into) },
            (None, _) => Gap::Zero,
        }))
    }
}

fn content(place: Place, owner: Owner) -> Content {
    match place {
        Place::Stored { layer, offset } => Content::Stored { owner, layer, offset },
        Place::Lazy => Content::Absent(Gap::Lazy),
        Place::Lost => Content::Absent(Gap::Lost),
    }
}

impl Iterator for Extents<'_, '_> {
    type Item = Result<Extent, MemoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let extent = self.next_extent();
        self.failed = extent.is_err();
        extent.transpose()
    }
}

//! Reading memory objects.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use super::{ReadError, layout};
use crate::manifest::extent::decode_extents;
use crate::manifest::{Extent, Manifest, MemoryId, MemoryObject, PAGE_SIZE, Source};
use crate::repository::Repository;

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
pub struct MemoryReader {
    repository: Repository,
    manifest: Arc<Manifest>,
    object: MemoryObject,
    /// Each segment's extents, once they were needed.
    segments: Vec<OnceLock<Vec<Extent>>>,
}

impl Repository {
    /// A memory object of a generation, to lay out or to read at random.
    ///
    /// # Errors
    /// [`ReadError::NoSuchMemory`].
    pub fn memory(&self, manifest: &Manifest, id: MemoryId) -> Result<MemoryReader, ReadError> {
        let object = manifest.memory().iter().find(|object| object.id == id).ok_or_else(|| {
            ReadError::NoSuchMemory {
                name: manifest.description().name.clone(),
                generation: manifest.description().generation,
                memory: id,
            }
        })?;
        Ok(MemoryReader {
            repository: self.clone(),
            manifest: Arc::new(manifest.clone()),
            object: object.clone(),
            segments: object.segments.iter().map(|_| OnceLock::new()).collect(),
        })
    }
}

impl MemoryReader {
    /// Which memory object it is.
    #[must_use]
    pub fn id(&self) -> MemoryId {
        self.object.id
    }

    fn segment(&self, number: usize) -> Result<&[Extent], ReadError> {
        if let Some(extents) = self.segments[number].get() {
            return Ok(extents);
        }
        let extents = self.read_segment(number)?;
        Ok(self.segments[number].get_or_init(|| extents))
    }

    fn read_segment(&self, number: usize) -> Result<Vec<Extent>, ReadError> {
        let segment = &self.object.segments[number];
        let bytes = self.repository.read_segment(&self.manifest, segment)?;
        let damaged = |reason: String| self.repository.damaged_segment(&self.manifest, reason);
        let extents = decode_extents(&bytes).map_err(damaged)?;
        let within = extents.first().is_some_and(|first| first.vaddr == segment.start)
            && extents.last().is_some_and(|last| last.end() == segment.end);
        if !within {
            return Err(damaged("a segment does not span what it should".to_owned()));
        }
        Ok(extents)
    }

    /// Forgets the extents that were read so far, which take room where memory is large.
    pub fn forget(&mut self) {
        self.segments.iter_mut().for_each(|segment| *segment = OnceLock::new());
    }

    /// All extents by address.
    ///
    /// # Errors
    /// Where a segment is missing or damaged.
    pub fn extents(&self) -> Result<Vec<Extent>, ReadError> {
        let mut extents = Vec::new();
        for number in 0..self.segments.len() {
            extents.extend_from_slice(self.segment(number)?);
        }
        Ok(extents)
    }

    /// The pagemap: runs of pages with the same flags, data or not alike.
    ///
    /// # Errors
    /// Where a segment is missing or damaged.
    pub fn pagemap(&self) -> Result<Vec<PagemapEntry>, ReadError> {
        let mut pagemap = Pagemap::default();
        for number in 0..self.segments.len() {
            match self.segments[number].get() {
                Some(extents) => pagemap.extend(extents),
                None => pagemap.extend(&self.read_segment(number)?),
            }
        }
        Ok(pagemap.entries)
    }

    /// Writes all pages with data, densely and by address, to `to` from its byte `offset` on, with several threads;
    /// returns the pagemap that belongs to them. Where the file ended before, zero pages become holes.
    ///
    /// # Errors
    /// Where a block is missing or damaged, or `to` fails.
    pub fn lay_out(&self, to: &File, offset: u64) -> Result<Vec<PagemapEntry>, ReadError> {
        let extents = self.extents()?;
        layout::lay_out(&self.repository, self.object.id, &extents, to, offset)?;
        Ok(pagemap_of(&extents))
    }

    /// As [`MemoryReader::lay_out`], into anything that takes bytes in order, with one thread.
    ///
    /// # Errors
    /// Where a block is missing or damaged, or `to` fails.
    pub fn lay_out_to(&self, to: &mut dyn Write) -> Result<Vec<PagemapEntry>, ReadError> {
        let failed = |source| ReadError::Output { what: format!("the pages of {}", self.object.id), source };
        let extents = self.extents()?;
        for extent in &extents {
            match extent.source {
                Source::NoData => {}
                Source::Zero => {
                    for _ in 0..extent.pages {
                        to.write_all(&[0; PAGE_SIZE]).map_err(failed)?;
                    }
                }
                Source::Block { block, first } => {
                    let plain = self.repository.read_block(block)?;
                    to.write_all(plain.pieces(block, first, extent.pages as u32)?).map_err(failed)?;
                }
            }
        }
        Ok(pagemap_of(&extents))
    }

    /// Reads pages from address `vaddr` on into `buffer` (whole pages), for lazy serving. Says of each page whether
    /// it has data; one that has none, or lies in no extent, is zeros in the buffer.
    ///
    /// # Errors
    /// Where a block is missing or damaged.
    ///
    /// # Panics
    /// Where `buffer` is not whole pages.
    pub fn read_pages(&self, vaddr: u64, buffer: &mut [u8]) -> Result<Vec<bool>, ReadError> {
        assert!(buffer.len().is_multiple_of(PAGE_SIZE), "a buffer for pages is whole pages");
        let end = vaddr.saturating_add(buffer.len() as u64);
        let mut present = vec![false; buffer.len() / PAGE_SIZE];
        buffer.fill(0);
        let from = self.object.segments.partition_point(|segment| segment.end <= vaddr);
        for number in from..self.segments.len() {
            if self.object.segments[number].start >= end {
                break;
            }
            let extents = self.segment(number)?;
            let first = extents.partition_point(|extent| extent.end() <= vaddr);
            for extent in extents[first..].iter().take_while(|extent| extent.vaddr < end) {
                let (start, stop) = (extent.vaddr.max(vaddr), extent.end().min(end));
                let pages = ((stop - start) / PAGE_SIZE as u64) as usize;
                let at = ((start - vaddr) / PAGE_SIZE as u64) as usize;
                if extent.has_data() {
                    present[at..at + pages].fill(true);
                }
                if let Source::Block { block, first } = extent.source {
                    let skipped = ((start - extent.vaddr) / PAGE_SIZE as u64) as u32;
                    let plain = self.repository.read_block(block)?;
                    let bytes = plain.pieces(block, first + skipped, pages as u32)?;
                    buffer[at * PAGE_SIZE..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        Ok(present)
    }
}

fn pagemap_of(extents: &[Extent]) -> Vec<PagemapEntry> {
    let mut pagemap = Pagemap::default();
    pagemap.extend(extents);
    pagemap.entries
}

/// A pagemap that is being put together.
#[derive(Default)]
struct Pagemap {
    entries: Vec<PagemapEntry>,
    /// Whether the last extent has data.
    data: bool,
}

impl Pagemap {
    fn extend(&mut self, extents: &[Extent]) {
        for extent in extents {
            match self.entries.last_mut() {
                Some(last)
                    if last.vaddr + last.pages * PAGE_SIZE as u64 == extent.vaddr
                        && last.flags == extent.flags
                        && self.data == extent.has_data() =>
                {
                    last.pages += extent.pages;
                }
                _ => {
                    let Extent { vaddr, pages, flags, .. } = *extent;
                    self.entries.push(PagemapEntry { vaddr, pages, flags });
                }
            }
            self.data = extent.has_data();
        }
    }
}

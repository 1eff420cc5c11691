//! The pages of one owner, in this dump and its parents.

use std::io::BufReader;

use torpor_criu::image::pagemap::{PagemapReader, Position};
use torpor_criu::image::{ImageError, Kind, Limits};

use super::{MemoryError, Runs};
use crate::checkpoint::Checkpoint;
use crate::source::{Body, Entry};

/// Marks in one pagemap: enough that a read begins close to its address, few enough to be nothing beside the rest.
const MOST_MARKS: usize = 4096;
/// Pagemaps are read in pieces of this size.
const BUFFER: usize = 16 << 10;
/// The page sizes that CRIU runs on.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 4096..=65536;

/// Whose pages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process's own memory, by its id.
    Process(u32),
    /// Shared memory, by CRIU's id for it. Addresses are offsets in it.
    Shared(u64),
}

impl Owner {
    /// The kind of its pagemap, and the number in the pagemap's name.
    fn image(self) -> (Kind, u64) {
        match self {
            Self::Process(pid) => (Kind::Pagemap, u64::from(pid)),
            Self::Shared(id) => (Kind::SharedPagemap, id),
        }
    }
}

/// A pagemap of one layer.
#[derive(Debug)]
struct Layer<'a> {
    pagemap: &'a Entry,
    pages: Option<&'a Entry>,
    pages_id: u32,
    /// The first addresses of some ranges, and where to go on reading to find them.
    marks: Vec<(u64, Position)>,
    /// Present pages.
    present: u64,
}

/// The pages of one owner.
#[derive(Debug)]
pub struct Pages<'a> {
    checkpoint: &'a Checkpoint,
    owner: Owner,
    page_size: u64,
    /// As the layers of the checkpoint; none where a layer has no pagemap of the owner, which is then the last that counts.
    layers: Vec<Layer<'a>>,
}

impl<'a> Pages<'a> {
    /// Finds the owner's pagemaps. `page_size` is the size of pages in bytes, where it is known; otherwise it is found from the size of
    /// a pages image. `None` where the newest layer has no pagemap: then no page of the owner was ever written to.
    ///
    /// # Errors
    /// Where a pagemap cannot be read.
    pub fn open(
        checkpoint: &'a Checkpoint,
        owner: Owner,
        page_size: Option<u64>,
    ) -> Result<Option<Self>, MemoryError> {
        let (kind, id) = owner.image();
        let mut layers = Vec::new();
        for layer in checkpoint.layers() {
            let Some(pagemap) = checkpoint.image(layer, kind, id) else { break };
            let body = checkpoint.body(pagemap);
            let mut found = Layer::read(pagemap, body)
                .map_err(|source| MemoryError::Image { entry: pagemap.name.clone(), source })?;
            found.pages = checkpoint.image(layer, Kind::Pages, found.pages_id.into());
            layers.push(found);
        }
        if layers.is_empty() {
            return Ok(None);
        }
        let page_size = page_size.or_else(|| layers.iter().find_map(Layer::page_size)).unwrap_or(4096);
        Ok(Some(Self { checkpoint, owner, page_size, layers }))
    }

    /// Whose they are.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The size of a page in bytes.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Layers that have a pagemap of the owner.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Bytes of pages that a layer has, whether or not a newer layer replaces them.
    #[must_use]
    pub fn stored(&self, layer: usize) -> u64 {
        self.layers.get(layer).map_or(0, |layer| layer.present.saturating_mul(self.page_size))
    }

    /// The pages image of a layer, where it is there.
    #[must_use]
    pub fn image(&self, layer: usize) -> Option<&'a Entry> {
        self.layers.get(layer)?.pages
    }

    /// All pages in the order of their addresses.
    #[must_use]
    pub fn runs(&self) -> Runs<'_, 'a> {
        self.runs_from(0)
    }

    /// Pages from this address on. A run that starts before it is cut.
    #[must_use]
    pub fn runs_from(&self, address: u64) -> Runs<'_, 'a> {
        Runs::new(self, address)
    }

    /// Fills `into` from byte `offset` of a layer's pages image on.
    ///
    /// # Errors
    /// Where the image is not there, or ends before, or cannot be read.
    pub fn read(&self, layer: usize, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let layer = &self.layers[layer];
        let entry = layer
            .pages
            .ok_or_else(|| MemoryError::Missing { entry: Kind::Pages.file_name(layer.pages_id.into()) })?;
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > entry.size) {
            return Err(MemoryError::PagesShort { entry: entry.name.clone(), size: entry.size, offset });
        }
        Ok(self.checkpoint.source().read_at(entry, offset, into)?)
    }

    /// A reader of a layer's pagemap, at the range that has `address` or somewhat before it.
    pub(super) fn reader(
        &self,
        layer: usize,
        address: u64,
    ) -> Result<Option<PagemapReader<BufReader<Body<'a>>>>, MemoryError> {
        let Some(found) = self.layers.get(layer) else { return Ok(None) };
        let before = found.marks.partition_point(|(start, _)| *start <= address);
        let Some((_, at)) = found.marks.get(before.saturating_sub(1)) else { return Ok(None) };
        let body = self.checkpoint.body(found.pagemap).starting_at(at.offset);
        let input = BufReader::with_capacity(BUFFER, body);
        Ok(Some(PagemapReader::resume(input, Limits::default(), found.pages_id, *at)))
    }

    pub(super) fn pagemap_name(&self, layer: usize) -> String {
        self.layers[layer].pagemap.name.clone()
    }

    pub(super) fn image_error(&self, layer: usize, source: ImageError) -> MemoryError {
        MemoryError::Image { entry: self.pagemap_name(layer), source }
    }
}

impl<'a> Layer<'a> {
    /// Reads a pagemap once. Of the ranges only some are kept.
    fn read(pagemap: &'a Entry, body: Body<'a>) -> Result<Self, ImageError> {
        let mut reader = PagemapReader::new(BufReader::with_capacity(BUFFER, body), Limits::default())?;
        let mut marks = Vec::new();
        let (mut every, mut since) = (1_usize, 0);
        loop {
            let at = reader.position();
            let Some(range) = reader.next().transpose()? else { break };
            if since == 0 {
                if marks.len() == MOST_MARKS {
                    let mut keep = false;
                    marks.retain(|_| {
                        keep = !keep;
                        keep
                    });
                    every *= 2;
                }
                marks.push((range.vaddr, at));
            }
            since = (since + 1) % every;
        }
        let (pages_id, present) = (reader.pages_id(), reader.present_pages());
        Ok(Self { pagemap, pages: None, pages_id, marks, present })
    }

    /// The size of a page, where the pages image is as large as it should be with pages of some size.
    fn page_size(&self) -> Option<u64> {
        let size = self.pages?.size.checked_div(self.present)?;
        (size.is_power_of_two() && PAGE_SIZES.contains(&size) && size * self.present == self.pages?.size)
            .then_some(size)
    }
}

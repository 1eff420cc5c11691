//! Memory in the order of addresses, in batches of bounded size.

use super::{AddressSpace, Content, Extent, MemoryError, Owner, Pages, Place};

/// Stored bytes that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The first address.
    pub(super) address: u64,
    /// Where its bytes start in the batch.
    pub(super) start: usize,
    /// Bytes in it.
    pub(super) length: usize,
}

/// Bytes with their addresses. Only its first segment can follow the last one of the batch before.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Room for what is kept from the batch before, then the segments' bytes.
    pub(super) bytes: Vec<u8>,
    pub(super) segments: Vec<Segment>,
}

impl Batch {
    /// An empty batch of at most `size` bytes, and `room` before them.
    pub(super) fn new(room: usize, size: usize) -> Self {
        Self { bytes: Vec::with_capacity(room + size), segments: Vec::new() }
    }

    fn clear(&mut self, room: usize) {
        self.segments.clear();
        self.bytes.clear();
        self.bytes.resize(room, 0);
    }

    /// Adds bytes at an address.
    fn add(
        &mut self,
        address: u64,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        fill(&mut self.bytes[start..])?;
        match self.segments.last_mut() {
            Some(last) if last.address + last.length as u64 == address => last.length += length,
            _ => self.segments.push(Segment { address, start, length }),
        }
        Ok(())
    }
}

/// Something whose content can be streamed.
pub(super) trait Stream {
    /// The next stored bytes, at most `limit`: their address, their length, and where they are.
    fn next_part(&mut self, limit: u64) -> Result<Option<Part>, MemoryError>;

    /// Reads what [`Stream::next_part`] told.
    fn read(&mut self, part: &Part, into: &mut [u8]) -> Result<(), MemoryError>;
}

/// Stored bytes, and where they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) address: u64,
    pub(super) length: u64,
    pub(super) owner: Owner,
    pub(super) layer: usize,
    pub(super) offset: u64,
}

impl Part {
    /// Cuts off the first bytes.
    pub(super) fn split(&mut self, limit: u64) -> Self {
        let first = Self { length: self.length.min(limit), ..*self };
        self.address += first.length;
        self.offset += first.length;
        self.length -= first.length;
        first
    }
}

/// Fills a batch; false where there was nothing more.
pub(super) fn fill(
    stream: &mut impl Stream,
    batch: &mut Batch,
    room: usize,
    size: usize,
) -> Result<bool, MemoryError> {
    batch.clear(room);
    while batch.bytes.len() < room + size {
        let left = room + size - batch.bytes.len();
        let Some(part) = stream.next_part(left as u64)? else { break };
        batch.add(part.address, part.length as usize, |into| stream.read(&part, into))?;
    }
    Ok(!batch.segments.is_empty())
}

/// The pages of an address space that pass a test.
pub(super) struct SpaceStream<'s, 'a, E, T> {
    space: &'s AddressSpace<'a>,
    extents: E,
    takes: T,
    part: Option<Part>,
}

impl<'s, 'a, E, T> SpaceStream<'s, 'a, E, T>
where
    E: Iterator<Item = Result<Extent, MemoryError>>,
    T: FnMut(&Extent) -> bool,
{
    pub(super) fn new(space: &'s AddressSpace<'a>, extents: E, takes: T) -> Self {
        Self { space, extents, takes, part: None }
    }
}

impl<E, T> Stream for SpaceStream<'_, '_, E, T>
where
    E: Iterator<Item = Result<Extent, MemoryError>>,
    T: FnMut(&Extent) -> bool,
{
    fn next_part(&mut self, limit: u64) -> Result<Option<Part>, MemoryError> {
        loop {
            if let Some(part) = &mut self.part
                && part.length > 0
            {
                return Ok(Some(part.split(limit)));
            }
            let Some(extent) = self.extents.next().transpose()? else { return Ok(None) };
            if let Content::Stored { owner, layer, offset } = extent.content
                && (self.takes)(&extent)
            {
                let length = extent.end - extent.start;
                self.part = Some(Part { address: extent.start, length, owner, layer, offset });
            }
        }
    }

    fn read(&mut self, part: &Part, into: &mut [u8]) -> Result<(), MemoryError> {
        self.space.read_stored(part.owner, part.layer, part.offset, into)
    }
}

/// All pages of one owner.
pub(super) struct PagesStream<'p, 'a> {
    pages: &'p Pages<'a>,
    runs: super::Runs<'p, 'a>,
    part: Option<Part>,
}

impl<'p, 'a> PagesStream<'p, 'a> {
    pub(super) fn new(pages: &'p Pages<'a>) -> Self {
        Self { pages, runs: pages.runs(), part: None }
    }
}

impl Stream for PagesStream<'_, '_> {
    fn next_part(&mut self, limit: u64) -> Result<Option<Part>, MemoryError> {
        loop {
            if let Some(part) = &mut self.part
                && part.length > 0
            {
                return Ok(Some(part.split(limit)));
            }
            let Some(run) = self.runs.next().transpose()? else { return Ok(None) };
            if let Place::Stored { layer, offset } = run.place {
                let owner = self.pages.owner();
                self.part = Some(Part { address: run.start, length: run.length(), owner, layer, offset });
            }
        }
    }

    fn read(&mut self, part: &Part, into: &mut [u8]) -> Result<(), MemoryError> {
        self.pages.read(part.layer, part.offset, into)
    }
}

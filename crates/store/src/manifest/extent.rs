//! Extents of memory: which pages of a memory object lie where.

use crate::id::BlockId;

/// Consecutive pieces of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceRun {
    /// The block.
    pub(crate) block: BlockId,
    /// The first piece.
    pub(crate) first: u32,
    /// How many pieces.
    pub(crate) count: u32,
}

/// Where the data of an extent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Pieces of a block, one a page.
    Block {
        /// The block.
        block: BlockId,
        /// The piece that is the extent's first page.
        first: u32,
    },
    /// All zeros; no bytes are stored.
    Zero,
    /// No data at all: only the flags were recorded.
    NoData,
}

/// A run of pages with the same flags from one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Address of the first page; a multiple of the page size.
    pub vaddr: u64,
    /// Pages.
    pub pages: u64,
    /// Flags of CRIU's pagemap entry, as given.
    pub flags: u32,
    /// Where the data lies.
    pub source: Source,
}

impl Extent {
    /// One past the last byte's address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.pages * super::PAGE_SIZE as u64
    }

    /// Whether it has data: a place in `pages-N.img`.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.source != Source::NoData
    }
}

//! Extents of memory: which pages of a memory object lie where.

use std::collections::HashMap;

use prost::Message;

use super::PAGE_SIZE;
use crate::id::BlockId;

/// Most extents of a segment.
pub(crate) const SEGMENT_EXTENTS: usize = 4096;
/// A segment does not cross an address that is a multiple of this, so that unchanged regions keep their segments.
pub(crate) const SEGMENT_SPAN: u64 = 1 << 30;

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
        self.vaddr + self.pages * PAGE_SIZE as u64
    }

    /// Whether it has data: a place in `pages-N.img`.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.source != Source::NoData
    }
}

const ZERO: u32 = 0;
const NO_DATA: u32 = 1;
const FIRST_BLOCK: u32 = 2;

/// A segment of extents, in columns.
#[derive(Clone, PartialEq, Eq, Message)]
struct Segment {
    /// Ids of the blocks in it, one after the other.
    #[prost(bytes = "vec", tag = "1")]
    blocks: Vec<u8>,
    /// Pages between the end of the extent before (at first: address 0) and the start of each.
    #[prost(uint64, repeated, tag = "2")]
    gaps: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pages: Vec<u64>,
    /// 0: zeros; 1: no data; from 2 on: block number plus 2.
    #[prost(uint32, repeated, tag = "4")]
    sources: Vec<u32>,
    /// First piece, for each extent that lies in a block.
    #[prost(uint32, repeated, tag = "5")]
    firsts: Vec<u32>,
    /// Flags of each extent, or one value where all have the same.
    #[prost(uint32, repeated, tag = "6")]
    flags: Vec<u32>,
}

/// Encodes extents, which are sorted and do not overlap.
pub(crate) fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut segment = Segment::default();
    let mut numbers: HashMap<BlockId, u32> = HashMap::new();
    let mut end = 0;
    for extent in extents {
        let start = extent.vaddr / PAGE_SIZE as u64;
        segment.gaps.push(start - end);
        segment.pages.push(extent.pages);
        end = start + extent.pages;
        segment.sources.push(match extent.source {
            Source::Zero => ZERO,
            Source::NoData => NO_DATA,
            Source::Block { block, first } => {
                segment.firsts.push(first);
                let next = numbers.len() as u32;
                FIRST_BLOCK
                    + *numbers.entry(block).or_insert_with(|| {
                        segment.blocks.extend_from_slice(block.as_bytes());
                        next
                    })
            }
        });
    }
    match extents.split_first() {
        Some((first, rest)) if rest.iter().all(|extent| extent.flags == first.flags) => {
            segment.flags.push(first.flags);
        }
        _ => segment.flags.extend(extents.iter().map(|extent| extent.flags)),
    }
    segment.encode_to_vec()
}

/// Decodes a segment. What comes back is sorted and does not overlap.
pub(crate) fn decode_extents(bytes: &[u8]) -> Result<Vec<Extent>, String> {
    let segment = Segment::decode(bytes).map_err(|error| error.to_string())?;
    let count = segment.gaps.len();
    if segment.pages.len() != count || segment.sources.len() != count {
        return Err("its columns are not of one length".to_owned());
    }
    if segment.flags.len() != count && segment.flags.len() != 1 {
        return Err("it has not one flag word for each extent".to_owned());
    }
    if count > SEGMENT_EXTENTS {
        return Err(format!("{count} extents are too many for a segment"));
    }
    let mut blocks = segment.blocks.chunks_exact(BlockId::LEN);
    let ids: Vec<BlockId> = blocks.by_ref().filter_map(|id| BlockId::try_from(id).ok()).collect();
    if !blocks.remainder().is_empty() {
        return Err("its block ids are cut short".to_owned());
    }
    let mut firsts = segment.firsts.iter();
    let mut extents = Vec::with_capacity(count);
    let mut end = 0_u64;
    // Addresses have 64 bits, page numbers 52.
    let last_page = u64::MAX / PAGE_SIZE as u64;
    for row in 0..count {
        let (gap, pages) = (segment.gaps[row], segment.pages[row]);
        let start = end.checked_add(gap).filter(|start| *start <= last_page);
        let after = start.and_then(|start| start.checked_add(pages)).filter(|after| *after <= last_page);
        let (Some(start), Some(after)) = (start, after) else {
            return Err("an extent lies beyond every address".to_owned());
        };
        if pages == 0 {
            return Err("an extent has no pages".to_owned());
        }
        let source = match segment.sources[row] {
            ZERO => Source::Zero,
            NO_DATA => Source::NoData,
            number => {
                let block = *ids
                    .get((number - FIRST_BLOCK) as usize)
                    .ok_or_else(|| format!("it has no block {number}"))?;
                let first = *firsts.next().ok_or("its first pieces are cut short")?;
                if pages.checked_add(u64::from(first)).is_none_or(|end| end > u64::from(u32::MAX)) {
                    return Err("an extent has more pages than a block".to_owned());
                }
                Source::Block { block, first }
            }
        };
        let flags = segment.flags[if segment.flags.len() == 1 { 0 } else { row }];
        extents.push(Extent { vaddr: start * PAGE_SIZE as u64, pages, flags, source });
        end = after;
    }
    Ok(extents)
}

/// Joins neighbours that continue each other.
pub(crate) fn joined(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        if let Some(last) = joined.last_mut()
            && last.end() == extent.vaddr
            && last.flags == extent.flags
            && continues(last, &extent)
        {
            last.pages += extent.pages;
        } else {
            joined.push(extent);
        }
    }
    joined
}

fn continues(last: &Extent, next: &Extent) -> bool {
    match (last.source, next.source) {
        (Source::Zero, Source::Zero) | (Source::NoData, Source::NoData) => true,
        (Source::Block { block, first }, Source::Block { block: other, first: next }) => {
            block == other && u64::from(first) + last.pages == u64::from(next)
        }
        _ => false,
    }
}

/// Cuts extents into segments, splitting none of them.
pub(crate) fn segments(extents: &[Extent]) -> impl Iterator<Item = &[Extent]> {
    let mut rest = extents;
    std::iter::from_fn(move || {
        let span = rest.first()?.vaddr / SEGMENT_SPAN;
        let end = rest
            .iter()
            .take(SEGMENT_EXTENTS)
            .take_while(|extent| extent.vaddr / SEGMENT_SPAN == span)
            .count();
        let (segment, after) = rest.split_at(end);
        rest = after;
        Some(segment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
        let source = prop_oneof![
            Just(Source::Zero),
            Just(Source::NoData),
            (0_u8..4, 0_u32..64).prop_map(|(id, first)| Source::Block { block: BlockId([id; 32]), first }),
        ];
        prop::collection::vec((0_u64..1 << 20, 1_u64..64, 0_u32..3, source), 0..40).prop_map(|rows| {
            let mut end = 0;
            let place = |(gap, pages, flags, source)| {
                let vaddr = end + gap * PAGE_SIZE as u64;
                end = vaddr + pages * PAGE_SIZE as u64;
                Extent { vaddr, pages, flags, source }
            };
            rows.into_iter().map(place).collect()
        })
    }

    #[test]
    fn neighbours_join_only_where_they_continue() {
        let block = BlockId([1; 32]);
        let at = |page: u64, source| Extent { vaddr: page * 4096, pages: 1, flags: 4, source };
        let rows = [
            at(0, Source::Block { block, first: 0 }),
            at(1, Source::Block { block, first: 1 }),
            at(2, Source::Block { block, first: 3 }),
            at(3, Source::Zero),
            at(4, Source::Zero),
            at(6, Source::Zero),
            at(7, Source::NoData),
        ];
        assert_eq!(joined(rows).iter().map(|extent| extent.pages).collect::<Vec<_>>(), [2, 1, 2, 1, 1]);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(extents in any_extents()) {
            prop_assert_eq!(decode_extents(&encode_extents(&extents)), Ok(extents));
        }

        #[test]
        fn segments_are_the_whole(extents in any_extents()) {
            let cut: Vec<&[Extent]> = segments(&extents).collect();
            prop_assert_eq!(cut.concat(), extents);
        }

        #[test]
        fn takes_any_bytes_without_panic(bytes: Vec<u8>) {
            let _ = decode_extents(&bytes);
        }

        #[test]
        fn takes_any_columns_without_panic(
            gaps in prop::collection::vec(any::<u64>(), 0..4),
            pages in prop::collection::vec(any::<u64>(), 0..4),
            sources in prop::collection::vec(0_u32..5, 0..4),
            firsts in prop::collection::vec(any::<u32>(), 0..4),
            flags in prop::collection::vec(any::<u32>(), 0..4),
            ids in 0_usize..3,
        ) {
            let segment = Segment { blocks: vec![0; 32 * ids], gaps, pages, sources, firsts, flags };
            if let Ok(extents) = decode_extents(&segment.encode_to_vec()) {
                prop_assert!(extents.is_sorted_by(|a, b| a.end() <= b.vaddr));
            }
        }
    }
}

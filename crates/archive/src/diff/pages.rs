//! Memory before and after, page by page.

use std::collections::HashMap;

use serde::Serialize;

use super::mapping::{MappingDiff, MappingState, Rows};
use crate::memory::{AddressSpace, AddressSpaces, Content, Extent, Extents, Gap, MemoryError};

/// Memory is read in pieces of this size.
const PIECE: u64 = 1 << 20;
/// Pages whose contents are remembered on each side, to find those that moved: the first so many that are new, gone or changed.
const REMEMBERED: usize = 1 << 18;

/// How many pages are what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PageCounts {
    /// With the same content at the same address.
    pub same: u64,
    /// With another content than before.
    pub changed: u64,
    /// With content where there was none, or only zeros.
    pub new: u64,
    /// Without content, or only with zeros, where there was some.
    pub gone: u64,
    /// Of those that are changed or new: with what was in a changed or gone page before, elsewhere.
    pub moved: u64,
    /// In a checkpoint that does not have their content.
    pub unknown: u64,
}

impl PageCounts {
    /// Whether nothing differs, as far as that is known.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.changed == 0 && self.new == 0 && self.gone == 0
    }

    fn add(&mut self, other: Self) {
        self.same += other.same;
        self.changed += other.changed;
        self.new += other.new;
        self.gone += other.gone;
        self.moved += other.moved;
        self.unknown += other.unknown;
    }
}

/// How the memory of a process differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryDiff {
    /// Bytes of a page.
    pub page_size: u64,
    /// All pages.
    pub pages: PageCounts,
    /// Mappings that differ, or have pages that do, in the order of their addresses.
    pub mappings: Vec<MappingDiff>,
    /// So many pages differ that not all were looked at to see where they moved to.
    pub moved_at_least: bool,
}

impl MemoryDiff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.pages.is_same() && self.mappings.is_empty()
    }

    /// Compares two address spaces; one of them may be none.
    pub(super) fn between(
        before: Option<&AddressSpace<'_>>,
        after: Option<&AddressSpace<'_>>,
        spaces: (&AddressSpaces<'_>, &AddressSpaces<'_>),
    ) -> Result<Self, MemoryError> {
        let sizes = [before, after].map(|space| space.map(AddressSpace::page_size));
        let page_size = sizes.into_iter().flatten().min().unwrap_or(4096);
        let mut comparison = Comparison {
            sides: [Side::new(before), Side::new(after)],
            rows: Rows::new(before, after, spaces),
            page_size,
            remembered: [Vec::new(), Vec::new()],
            pieces: [Vec::new(), Vec::new()],
        };
        comparison.run()?;
        let moved_at_least = comparison.remembered.iter().any(|side| side.len() == REMEMBERED);
        comparison.find_moved();
        let mut mappings = comparison.rows.rows;
        let mut pages = PageCounts::default();
        mappings.iter().for_each(|mapping| pages.add(mapping.pages));
        mappings.retain(|mapping| mapping.state != MappingState::Same || !mapping.pages.is_same());
        mappings.sort_by_key(|mapping| (mapping.start, mapping.state == MappingState::Gone));
        Ok(Self { page_size, pages, mappings, moved_at_least })
    }
}

/// One of both, read from lower to higher addresses.
struct Side<'s, 'a> {
    space: Option<&'s AddressSpace<'a>>,
    extents: Option<Extents<'s, 'a>>,
    extent: Option<Extent>,
}

impl<'s, 'a> Side<'s, 'a> {
    fn new(space: Option<&'s AddressSpace<'a>>) -> Self {
        Self { space, extents: space.map(|space| space.extents(0, u64::MAX)), extent: None }
    }

    /// The first extent that ends after `address`. Addresses have to rise.
    fn after(&mut self, address: u64) -> Result<Option<Extent>, MemoryError> {
        while self.extent.is_none_or(|extent| extent.end <= address) {
            self.extent = self.extents.as_mut().and_then(Iterator::next).transpose()?;
            if self.extent.is_none() {
                break;
            }
        }
        Ok(self.extent)
    }

    fn read(&self, content: Content, into: &mut [u8]) -> Result<bool, MemoryError> {
        match (content, self.space) {
            (Content::Stored { owner, layer, offset }, Some(space)) => {
                space.read_stored(owner, layer, offset, into)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// What is known of a page's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Stored,
    /// It is in a file outside.
    File,
    Zero,
    Nothing,
}

impl Known {
    fn of(content: Content) -> Self {
        match content {
            Content::Stored { .. } => Self::Stored,
            Content::Absent(Gap::File { .. }) => Self::File,
            Content::Absent(Gap::Lazy | Gap::Lost) => Self::Nothing,
            Content::Absent(Gap::Zero | Gap::Outside | Gap::Unmapped) => Self::Zero,
        }
    }
}

/// Two address spaces, while they are compared.
struct Comparison<'s, 'a> {
    /// Before and after.
    sides: [Side<'s, 'a>; 2],
    rows: Rows,
    page_size: u64,
    /// Hashes of pages that differ, and the row they count in: as they were, and as they are.
    remembered: [Vec<(u64, u32)>; 2],
    /// Where pages are read to.
    pieces: [Vec<u8>; 2],
}

impl Comparison<'_, '_> {
    fn run(&mut self) -> Result<(), MemoryError> {
        let mut at = 0;
        loop {
            let extents = [self.sides[0].after(at)?, self.sides[1].after(at)?];
            let Some(start) = extents.iter().flatten().map(|extent| extent.start.max(at)).min() else {
                return Ok(());
            };
            let mut end = u64::MAX;
            let mut parts = [None, None];
            for (extent, part) in extents.iter().zip(&mut parts) {
                match extent {
                    Some(extent) if extent.start <= start => {
                        end = end.min(extent.end);
                        *part = Some(cut(extent, start));
                    }
                    Some(extent) => end = end.min(extent.start),
                    None => {}
                }
            }
            self.compare(parts, end)?;
            at = end;
        }
    }

    /// Compares what is from the parts' start to `end`.
    fn compare(&mut self, parts: [Option<Extent>; 2], end: u64) -> Result<(), MemoryError> {
        let [before, after] = parts;
        let of = |rows: &[usize], part: Option<Extent>| part.and_then(|part| Some(rows[part.mapping?]));
        let row = of(&self.rows.of_after, after).or_else(|| of(&self.rows.of_before, before));
        let (Some(row), Some(start)) = (row, before.or(after).map(|part| part.start)) else { return Ok(()) };
        let known = [0, 1].map(|side| parts[side].map_or(Known::Zero, |part| Known::of(part.content)));
        if known.contains(&Known::Nothing) {
            self.rows.rows[row].pages.unknown += (end - start).div_ceil(self.page_size);
        } else if known.contains(&Known::Stored) {
            return self.compare_stored(row, parts, known, end);
        }
        // What neither checkpoint has was not written to: where it differs, the mappings do.
        Ok(())
    }

    /// Compares pages of which at least one side has the content.
    fn compare_stored(
        &mut self,
        row: usize,
        parts: [Option<Extent>; 2],
        known: [Known; 2],
        end: u64,
    ) -> Result<(), MemoryError> {
        let start = parts.iter().flatten().map(|part| part.start).min().unwrap_or(end);
        let mut at = start;
        while at < end {
            let length = (end - at).min(PIECE) as usize;
            for side in [0, 1] {
                let piece = &mut self.pieces[side];
                piece.clear();
                piece.resize(length, 0);
                if let Some(part) = &parts[side] {
                    self.sides[side].read(cut(part, at).content, piece)?;
                }
            }
            let size = self.page_size as usize;
            let [old, new] = &self.pieces;
            for (old, new) in old.chunks(size).zip(new.chunks(size)) {
                let counts = &mut self.rows.rows[row].pages;
                // Beside what is stored, a page of a file is something, and its content is not known.
                let is_file = known.map(|known| known == Known::File);
                if old == new && is_file == [false; 2] {
                    // Zeros that only one of them stored are nothing to speak of.
                    counts.same += u64::from(known == [Known::Stored; 2]);
                    continue;
                }
                let empty = [!is_file[0] && is_zero(old), !is_file[1] && is_zero(new)];
                match empty {
                    [true, _] => counts.new += 1,
                    [_, true] => counts.gone += 1,
                    _ => counts.changed += 1,
                }
                for (side, page) in [old, new].into_iter().enumerate() {
                    let remembered = &mut self.remembered[side];
                    if known[side] == Known::Stored && !empty[side] && remembered.len() < REMEMBERED {
                        remembered.push((hash(page), row as u32));
                    }
                }
            }
            at += length as u64;
        }
        Ok(())
    }

    /// Counts pages that were elsewhere before.
    fn find_moved(&mut self) {
        let [before, after] = std::mem::take(&mut self.remembered);
        let mut was: HashMap<u64, u32> = HashMap::with_capacity(before.len());
        for (hash, _) in before {
            *was.entry(hash).or_default() += 1;
        }
        for (hash, row) in after {
            if let Some(left) = was.get_mut(&hash)
                && *left > 0
            {
                *left -= 1;
                self.rows.rows[row as usize].pages.moved += 1;
            }
        }
    }
}

/// The part of an extent from `start` on, which lies in it.
fn cut(extent: &Extent, start: u64) -> Extent {
    let into = start - extent.start;
    let content = match extent.content {
        Content::Stored { owner, layer, offset } => Content::Stored { owner, layer, offset: offset + into },
        Content::Absent(Gap::File { file, offset }) => {
            Content::Absent(Gap::File { file, offset: offset.saturating_add(into) })
        }
        content => content,
    };
    Extent { start, content, ..*extent }
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Enough of a page's hash to tell it from others.
fn hash(page: &[u8]) -> u64 {
    let hash = blake3::hash(page);
    hash.as_bytes().first_chunk().map_or(0, |start| u64::from_le_bytes(*start))
}

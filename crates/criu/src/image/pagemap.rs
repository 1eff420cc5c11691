//! Pagemaps: which pages are in the checkpoint, and where.
//!
//! `pagemap-PID.img` (and `pagemap-shmem-ID.img` for shared memory) starts with the number of a pages image, followed by ranges in the
//! order of their addresses. Pages lie densely in `pages-NUMBER.img`, in the order of the ranges that are *present*; ranges in a
//! parent checkpoint, and those left for lazy loading only, take no room there.
//!
//! CRIU 4.2 widened the number of pages to 64 bits, in a field of its own (5), and leaves the old one (2) at zero; earlier versions
//! do not know the new field, so they see empty ranges. Both are read, and both can be written. Format: CRIU `images/pagemap.proto`,
//! `criu/pagemap.c`, `criu/page-xfer.c`.

use std::io::{self, Read, Write};

use prost::Message;

use super::{ImageError, ImageReader, ImageWriter, Kind, Limits, records};

/// What is known about a range of pages, as bits (CRIU `criu/include/pagemap.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageFlags(pub u32);

impl PageFlags {
    /// The pages are in the parent checkpoint.
    pub const PARENT: Self = Self(1);
    /// The pages may be loaded on demand.
    pub const LAZY: Self = Self(2);
    /// The pages are in this checkpoint.
    pub const PRESENT: Self = Self(4);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for PageFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A range of pages that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// First address.
    pub vaddr: u64,
    /// How many pages.
    pub pages: u64,
    /// What is known about them.
    pub flags: PageFlags,
    /// For pages that are present: the first page's place in the pages image, counted in pages. For others where the next present
    /// page would be.
    pub first: u64,
}

impl PageRange {
    /// Whether the pages are in the pages image of this checkpoint.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.flags.contains(PageFlags::PRESENT)
    }
}

/// First entry: where the pages are.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PagemapHead {
    /// The number in the name of the pages image.
    #[prost(uint32, required, tag = "1")]
    pub pages_id: u32,
}

/// Every other entry, as it is stored.
#[derive(Clone, PartialEq, Message)]
pub struct PagemapEntry {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub vaddr: u64,
    /// Number of pages before CRIU 4.2, zero since.
    #[prost(uint32, required, tag = "2")]
    pub compat_nr_pages: u32,
    /// The pages are in the parent; old images only.
    #[prost(bool, optional, tag = "3")]
    pub in_parent: Option<bool>,
    /// Bits of [`PageFlags`].
    #[prost(uint32, optional, tag = "4")]
    pub flags: Option<u32>,
    /// Number of pages since CRIU 4.2.
    #[prost(uint64, optional, tag = "5")]
    pub nr_pages: Option<u64>,
    /// Sizes of compressed pages (CRIU 4.3).
    #[prost(uint32, repeated, tag = "6")]
    pub compressed_size: Vec<u32>,
    /// Their sum (CRIU 4.3).
    #[prost(uint64, optional, tag = "7")]
    pub total_compressed_size: Option<u64>,
}

impl PagemapEntry {
    /// Pages and flags, whichever CRIU wrote them (the rule is `init_compat_pagemap_entry` in CRIU's `criu/pagemap.c`).
    fn resolve(&self) -> (u64, PageFlags) {
        let flags = match (self.in_parent, self.flags) {
            (Some(true), flags) => PageFlags(flags.unwrap_or(0)) | PageFlags::PARENT,
            (_, Some(flags)) if flags != 0 => PageFlags(flags),
            _ => PageFlags::PRESENT,
        };
        (self.nr_pages.unwrap_or(u64::from(self.compat_nr_pages)), flags)
    }
}

/// A place between two ranges of a pagemap, to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Bytes from the start of the image.
    pub offset: u64,
    /// Present pages in the ranges before.
    pub present: u64,
    /// The range before ends here, at the earliest.
    pub end: u64,
}

/// Reads a pagemap range by range.
#[derive(Debug)]
pub struct PagemapReader<R> {
    image: ImageReader<R>,
    pages_id: u32,
    present: u64,
    end: u64,
    failed: bool,
}

impl<R: Read> PagemapReader<R> {
    /// Reads the head.
    ///
    /// # Errors
    ///
    /// When the image is of another kind or has no head.
    pub fn new(input: R, limits: Limits) -> Result<Self, ImageError> {
        let mut image = ImageReader::new(Kind::Pagemap, input, limits)?;
        let head: PagemapHead = image.next_head()?.ok_or(ImageError::Empty { kind: Kind::Pagemap })?;
        Ok(Self { image, pages_id: head.pages_id, present: 0, end: 0, failed: false })
    }

    /// Goes on at a position, where `input` has to be. `pages_id` is the one the head has.
    pub fn resume(input: R, limits: Limits, pages_id: u32, at: Position) -> Self {
        let image = ImageReader::resume(Kind::Pagemap, input, limits, at.offset);
        Self { image, pages_id, present: at.present, end: at.end, failed: false }
    }

    /// Where the next range is.
    pub fn position(&self) -> Position {
        Position { offset: self.image.offset(), present: self.present, end: self.end }
    }

    /// The number of the pages image.
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    /// Present pages in the ranges read so far: after the last, what the pages image has to hold. See to that before a restore:
    /// from a shorter one CRIU (4.2.1, seen) tries to read again and again, for ever, instead of failing.
    pub fn present_pages(&self) -> u64 {
        self.present
    }

    fn next_range(&mut self) -> Result<Option<PageRange>, ImageError> {
        let kind = Kind::Pagemap;
        let Some(entry) = self.image.next_entry()? else { return Ok(None) };
        let offset = entry.offset;
        let invalid = |problem| ImageError::Invalid { kind, offset, problem };
        let entry = PagemapEntry::decode(entry.message).map_err(|source| ImageError::Message {
            kind,
            offset,
            source,
        })?;
        if !entry.compressed_size.is_empty() || entry.total_compressed_size.is_some() {
            return Err(invalid("its pages are compressed, which this version cannot read"));
        }
        let (pages, flags) = entry.resolve();
        let range = PageRange { vaddr: entry.vaddr, pages, flags, first: self.present };
        // The smallest page there is. With larger ones an overlap shows up later, when the address space does not fit.
        let length =
            pages.checked_mul(4096).ok_or_else(|| invalid("it has more pages than there are addresses"))?;
        if entry.vaddr < self.end {
            return Err(invalid("its range starts before the end of the one before"));
        }
        self.end = entry
            .vaddr
            .checked_add(length)
            .ok_or_else(|| invalid("its range goes beyond the last address"))?;
        if range.is_present() {
            self.present += pages;
        }
        Ok(Some(range))
    }
}

impl<R: Read> Iterator for PagemapReader<R> {
    type Item = Result<PageRange, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let range = self.next_range();
        self.failed = range.is_err();
        range.transpose()
    }
}

/// Which versions of CRIU a pagemap is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 4.2 and later.
    Wide,
    /// Up to 4.1.1. Later ones read it, too.
    Narrow,
}

impl Generation {
    /// What a version of CRIU writes, and the only one it reads if it is [`Generation::Narrow`].
    ///
    /// ```
    /// use torpor_criu::image::pagemap::Generation;
    /// assert_eq!(Generation::of_version(4, 1), Generation::Narrow);
    /// assert_eq!(Generation::of_version(4, 2), Generation::Wide);
    /// ```
    #[must_use]
    pub fn of_version(major: u32, minor: u32) -> Self {
        if (major, minor) >= (4, 2) { Self::Wide } else { Self::Narrow }
    }
}

/// Writes a pagemap.
#[derive(Debug)]
pub struct PagemapWriter<W> {
    image: ImageWriter<W>,
    generation: Generation,
    page_size: u64,
    message: Vec<u8>,
}

impl<W: Write> PagemapWriter<W> {
    /// Writes the head. `page_size` is in bytes.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn new(output: W, pages_id: u32, generation: Generation, page_size: u64) -> io::Result<Self> {
        let mut image = ImageWriter::new(Kind::Pagemap, output)?;
        image.message(&PagemapHead { pages_id })?;
        Ok(Self { image, generation, page_size, message: Vec::new() })
    }

    /// Writes one range. Ranges have to come in the order of their addresses, and `PRESENT` ones in that of their pages. A range with
    /// more pages than the older form can say becomes several.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn range(&mut self, mut vaddr: u64, mut pages: u64, flags: PageFlags) -> io::Result<()> {
        match self.generation {
            Generation::Wide => self.put(vaddr, 0, Some(pages), flags),
            Generation::Narrow => {
                // CRIU before 4.2 computes lengths in 31 bits of pages in places.
                const MOST: u64 = i32::MAX as u64;
                while pages > 0 {
                    let some = pages.min(MOST);
                    self.put(vaddr, some as u32, None, flags)?;
                    vaddr += some * self.page_size;
                    pages -= some;
                }
                Ok(())
            }
        }
    }

    fn put(&mut self, vaddr: u64, narrow: u32, wide: Option<u64>, flags: PageFlags) -> io::Result<()> {
        let entry = PagemapEntry {
            vaddr,
            compat_nr_pages: narrow,
            flags: Some(flags.0),
            nr_pages: wide,
            ..PagemapEntry::default()
        };
        self.message.clear();
        entry.encode(&mut self.message).map_err(io::Error::other)?;
        self.image.entry(&self.message, &[])
    }

    /// Gives the output back.
    pub fn into_inner(self) -> W {
        self.image.into_inner()
    }
}

records! { PagemapHead => Pagemap }

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::framing::tests::image;

    fn read(bytes: &[u8]) -> Result<Vec<(u64, u64, u32, u64)>, ImageError> {
        PagemapReader::new(bytes, Limits::default())?
            .map(|range| range.map(|range| (range.vaddr, range.pages, range.flags.0, range.first)))
            .collect()
    }

    fn entry(entry: PagemapEntry) -> Vec<u8> {
        image(Kind::Pagemap, &[(&[0x08, 7], b""), (&entry.encode_to_vec(), b"")])
    }

    #[test]
    fn only_present_pages_take_room() {
        for generation in [Generation::Wide, Generation::Narrow] {
            let mut writer = PagemapWriter::new(Vec::new(), 7, generation, 4096).unwrap();
            writer.range(0x1000, 2, PageFlags::PRESENT).unwrap();
            writer.range(0x3000, 1, PageFlags::PARENT).unwrap();
            writer.range(0x8000, 5, PageFlags::PRESENT | PageFlags::LAZY).unwrap();
            let bytes = writer.into_inner();

            let mut reader = PagemapReader::new(bytes.as_slice(), Limits::default()).unwrap();
            assert_eq!(reader.pages_id(), 7);
            assert_eq!(reader.by_ref().count(), 3);
            assert_eq!(reader.present_pages(), 7);
            assert_eq!(read(&bytes).unwrap(), [(0x1000, 2, 4, 0), (0x3000, 1, 1, 2), (0x8000, 5, 6, 2)]);
        }
    }

    #[test]
    fn each_generation_is_written_as_its_criu_writes_it() {
        let bytes = |generation| {
            let mut writer = PagemapWriter::new(Vec::new(), 1, generation, 4096).unwrap();
            writer.range(0x1000, 3, PageFlags::PRESENT).unwrap();
            writer.into_inner()[14..].to_vec()
        };
        assert_eq!(bytes(Generation::Wide), [9, 0, 0, 0, 0x08, 0x80, 0x20, 0x10, 0, 0x20, 4, 0x28, 3]);
        assert_eq!(bytes(Generation::Narrow), [7, 0, 0, 0, 0x08, 0x80, 0x20, 0x10, 3, 0x20, 4]);
    }

    #[test]
    fn a_range_too_long_for_the_older_form_is_split() {
        let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Narrow, 4096).unwrap();
        let most = i32::MAX as u64;
        writer.range(0, most + 2, PageFlags::PRESENT).unwrap();
        assert_eq!(read(&writer.into_inner()).unwrap(), [(0, most, 4, 0), (most * 4096, 2, 4, most)]);
    }

    #[test]
    fn flags_of_old_images_are_understood() {
        let cases = [
            (PagemapEntry { compat_nr_pages: 1, ..Default::default() }, 4),
            (PagemapEntry { compat_nr_pages: 1, in_parent: Some(true), ..Default::default() }, 1),
            (PagemapEntry { compat_nr_pages: 1, in_parent: Some(false), ..Default::default() }, 4),
            (PagemapEntry { compat_nr_pages: 1, flags: Some(2), ..Default::default() }, 2),
        ];
        for (stored, flags) in cases {
            assert_eq!(read(&entry(stored.clone())).unwrap(), [(0, 1, flags, 0)], "{stored:?}");
        }
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let huge = PagemapEntry { vaddr: 0, nr_pages: Some(u64::MAX), ..Default::default() };
        let beyond = PagemapEntry { vaddr: u64::MAX - 4095, nr_pages: Some(2), ..Default::default() };
        let packed = PagemapEntry { nr_pages: Some(1), total_compressed_size: Some(9), ..Default::default() };
        for stored in [huge, beyond, packed] {
            assert!(matches!(read(&entry(stored)), Err(ImageError::Invalid { offset: 14, .. })));
        }
        let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
        writer.range(0x2000, 2, PageFlags::PRESENT).unwrap();
        writer.range(0x3000, 1, PageFlags::PRESENT).unwrap();
        let error = read(&writer.into_inner()).unwrap_err();
        assert!(error.to_string().contains("starts before the end of the one before"), "{error}");
    }

    #[test]
    fn reading_goes_on_from_any_position() {
        let mut writer = PagemapWriter::new(Vec::new(), 3, Generation::Wide, 4096).unwrap();
        for page in 0..10 {
            writer.range(page * 0x4000, 1 + page % 3, PageFlags::PRESENT).unwrap();
        }
        let bytes = writer.into_inner();
        let all: Vec<_> =
            PagemapReader::new(&*bytes, Limits::default()).unwrap().map(Result::unwrap).collect();
        let mut reader = PagemapReader::new(&*bytes, Limits::default()).unwrap();
        for read in 0..all.len() {
            let at = reader.position();
            let rest = PagemapReader::resume(&bytes[at.offset as usize..], Limits::default(), 3, at)
                .map(Result::unwrap);
            assert!(rest.eq(all[read..].iter().copied()));
            reader.next();
        }
    }

    proptest! {
        #[test]
        fn hostile_pagemaps_end_in_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [image(Kind::Pagemap, &[(&[0x08, 1], b"")]), body].concat();
            let _ = read(&bytes);
        }

        #[test]
        fn ranges_survive_a_round_trip(
            gaps in proptest::collection::vec((0u64..100, 1u64..1000, 1u32..8), 0..30),
            wide in any::<bool>(),
        ) {
            let generation = if wide { Generation::Wide } else { Generation::Narrow };
            let mut writer = PagemapWriter::new(Vec::new(), 1, generation, 4096).unwrap();
            let (mut at, mut first, mut expected) = (0, 0, Vec::new());
            for (gap, pages, flags) in gaps {
                at += gap * 4096;
                writer.range(at, pages, PageFlags(flags)).unwrap();
                expected.push((at, pages, flags, first));
                at += pages * 4096;
                first += if flags & 4 != 0 { pages } else { 0 };
            }
            prop_assert_eq!(read(&writer.into_inner()).unwrap(), expected);
        }
    }
}

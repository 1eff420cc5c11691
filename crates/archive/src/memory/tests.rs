//! Checkpoints made of a few images, in memory.

use proptest::prelude::*;
use torpor_criu::image::file::{File, FileType, MemFd, MemoryFile, Owner as FileOwner, RegularFile};
use torpor_criu::image::memory::{Mapping as Record, MappingStatus, Memory};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_criu::image::process::{Core, Task, Thread, TreeEntry};
use torpor_criu::image::{ImageWriter, Kind};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::source::{Entry, EntryKind, Source};

/// A source whose entries are in memory.
#[derive(Debug, Default)]
pub(crate) struct Images {
    entries: Vec<Entry>,
    bodies: Vec<Vec<u8>>,
}

impl Images {
    pub(crate) fn add(&mut self, name: String, body: Vec<u8>) {
        self.entries.push(Entry {
            name,
            kind: EntryKind::File,
            size: body.len() as u64,
            offset: None,
            mode: 0o600,
            modified: 0,
        });
        self.bodies.push(body);
    }

    pub(crate) fn image<M: prost::Message>(&mut self, kind: Kind, id: u64, messages: &[M]) {
        let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
        for message in messages {
            writer.message(message).unwrap();
        }
        self.add(kind.file_name(id), writer.into_inner());
    }

    /// A process with these mappings.
    pub(crate) fn process(&mut self, pid: u32, vmas: Vec<Record>) {
        self.image(
            Kind::Core,
            pid.into(),
            &[Core {
                mtype: 1,
                tc: Some(Task { task_state: 1, comm: format!("program-{pid}"), ..Task::default() }),
                thread_core: Some(Thread::default()),
                ..Core::default()
            }],
        );
        self.image(
            Kind::Memory,
            pid.into(),
            &[Memory {
                vmas,
                mm_saved_auxv: vec![6, 4096],
                mm_start_stack: 0x7000_0000,
                ..Memory::default()
            }],
        );
    }

    /// Pages of one layer: address, count, flags. Each present page is filled with the byte that comes next from `fill` on.
    pub(crate) fn pages(
        &mut self,
        prefix: &str,
        (kind, id): (Kind, u64),
        generation: Generation,
        ranges: &[(u64, u64, PageFlags)],
        fill: u8,
    ) {
        let pages_id = self.entries.len() as u32;
        let mut writer = PagemapWriter::new(Vec::new(), pages_id, generation, 4096).unwrap();
        let mut pages = Vec::new();
        for (address, count, flags) in ranges {
            writer.range(*address, *count, *flags).unwrap();
            if flags.contains(PageFlags::PRESENT) {
                for _ in 0..*count {
                    let byte = fill.wrapping_add((pages.len() / 4096) as u8);
                    pages.resize(pages.len() + 4096, byte);
                }
            }
        }
        self.add(format!("{prefix}{}", kind.file_name(id)), writer.into_inner());
        self.add(format!("{prefix}{}", Kind::Pages.file_name(pages_id.into())), pages);
    }

    /// Pages of this dump, each filled with a byte.
    pub(crate) fn filled(&mut self, (kind, id): (Kind, u64), filled: &[(u64, u8)]) {
        let pages_id = self.entries.len() as u32;
        let mut writer = PagemapWriter::new(Vec::new(), pages_id, Generation::Wide, 4096).unwrap();
        let mut pages = Vec::new();
        for (address, byte) in filled {
            writer.range(*address, 1, PRESENT).unwrap();
            pages.resize(pages.len() + 4096, *byte);
        }
        self.add(kind.file_name(id), writer.into_inner());
        self.add(Kind::Pages.file_name(pages_id.into()), pages);
    }

    pub(crate) fn checkpoint(mut self, pids: &[u32]) -> Checkpoint {
        let tree: Vec<_> = pids
            .iter()
            .map(|pid| TreeEntry { pid: *pid, threads: vec![*pid], ..TreeEntry::default() })
            .collect();
        self.image(Kind::ProcessTree, 0, &tree);
        Checkpoint::new(Box::new(self)).unwrap()
    }
}

impl Source for Images {
    fn name(&self) -> &str {
        "images"
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let place = self.entries.iter().position(|found| found.name == entry.name).unwrap();
        let offset = offset as usize;
        into.copy_from_slice(&self.bodies[place][offset..offset + into.len()]);
        Ok(())
    }

    fn random_access(&self) -> bool {
        true
    }
}

pub(crate) fn mapping(start: u64, pages: u64, status: &[MappingStatus]) -> Record {
    Record {
        start,
        end: start + pages * 4096,
        prot: 3,
        flags: 2,
        status: status.iter().fold(1, |bits, status| bits | *status as u32),
        fd: -1,
        ..Record::default()
    }
}

const PRESENT: PageFlags = PageFlags::PRESENT;
const PARENT: PageFlags = PageFlags::PARENT;
const LAZY: PageFlags = PageFlags::LAZY;

fn contents(space: &AddressSpace<'_>) -> Vec<(u64, u64, Content)> {
    space
        .extents(0, u64::MAX)
        .map(|extent| extent.map(|extent| (extent.start, (extent.end - extent.start) / 4096, extent.content)))
        .collect::<Result<_, _>>()
        .unwrap()
}

fn stored(owner: Owner, layer: usize, page: u64) -> Content {
    Content::Stored { owner, layer, offset: page * 4096 }
}

#[test]
fn each_address_has_its_content_from_the_newest_layer_that_has_it() {
    for generation in [Generation::Wide, Generation::Narrow] {
        let mut images = Images::default();
        images.process(7, vec![mapping(0x10000, 8, &[MappingStatus::Heap])]);
        let pagemap = (Kind::Pagemap, 7);
        let newest =
            [(0x10000, 1, PRESENT), (0x11000, 4, PARENT), (0x15000, 1, PRESENT | LAZY), (0x16000, 1, LAZY)];
        images.pages("", pagemap, generation, &newest, 1);
        images.pages("parent/", pagemap, generation, &[(0x10000, 2, PRESENT), (0x12000, 2, PARENT)], 11);
        images.pages(
            "parent/parent/",
            pagemap,
            generation,
            &[(0x12000, 1, PRESENT), (0x13000, 1, PRESENT)],
            21,
        );
        let checkpoint = images.checkpoint(&[7]);
        assert_eq!(checkpoint.layers().len(), 3);
        let spaces = AddressSpaces::new(&checkpoint).unwrap();
        let space = spaces.open(7).unwrap();
        let own = Owner::Process(7);
        assert_eq!(
            contents(&space),
            [
                (0x10000, 1, stored(own, 0, 0)),
                (0x11000, 1, stored(own, 1, 1)),
                (0x12000, 2, stored(own, 2, 0)),
                (0x14000, 1, Content::Absent(Gap::Lost)),
                (0x15000, 1, stored(own, 0, 1)),
                (0x16000, 1, Content::Absent(Gap::Lazy)),
                (0x17000, 1, Content::Absent(Gap::Zero)),
            ]
        );
        let mut bytes = [0; 0x3800];
        let read = space.read(0x10800, &mut bytes).unwrap();
        assert_eq!(read, ReadOutcome { length: 0x3800, stopped: None });
        assert_eq!((bytes[0], bytes[0x800], bytes[0x1800], bytes[0x37ff]), (1, 12, 21, 22));
        let read = space.read(0x13ff0, &mut bytes).unwrap();
        assert_eq!(read, ReadOutcome { length: 16, stopped: Some(Gap::Lost) });
        assert_eq!(space.read(0x9000, &mut bytes).unwrap().stopped, Some(Gap::Unmapped));
    }
}

#[test]
fn shared_memory_is_found_by_its_id_and_by_the_file_that_stands_for_it() {
    let mut images = Images::default();
    let shared = Record { shmid: 99, flags: 1, ..mapping(0x20000, 4, &[MappingStatus::AnonymousShared]) };
    let in_memory = Record {
        shmid: 5,
        flags: 1,
        pgoff: 0x1000,
        ..mapping(0x40000, 2, &[MappingStatus::FileShared, MappingStatus::Memfd])
    };
    images.process(7, vec![shared, in_memory]);
    let file = File {
        r#type: FileType::MemFd as i32,
        id: 5,
        memfd: Some(MemFd { id: 5, inode_id: 33, ..MemFd::default() }),
        ..File::default()
    };
    images.image(Kind::Files, 0, &[file]);
    let inode = MemoryFile { name: "cache".into(), shmid: 44, inode_id: 33, ..MemoryFile::default() };
    images.image(Kind::MemoryFiles, 0, &[inode]);
    images.pages("", (Kind::SharedPagemap, 99), Generation::Wide, &[(0x1000, 2, PRESENT)], 1);
    images.pages("", (Kind::SharedPagemap, 44), Generation::Wide, &[(0, 8, PRESENT)], 31);
    let checkpoint = images.checkpoint(&[7]);
    let spaces = AddressSpaces::new(&checkpoint).unwrap();
    let space = spaces.open(7).unwrap();
    assert_eq!(
        contents(&space),
        [
            (0x20000, 1, Content::Absent(Gap::Zero)),
            (0x21000, 2, stored(Owner::Shared(99), 0, 0)),
            (0x23000, 1, Content::Absent(Gap::Zero)),
            (0x40000, 2, stored(Owner::Shared(44), 0, 1)),
        ]
    );
    assert_eq!(space.mappings()[1].kind, MappingKind::Shared);
    assert_eq!(spaces.path(5), Some("cache"));
}

#[test]
fn unchanged_parts_of_files_are_told_with_their_offset() {
    let mut images = Images::default();
    let code =
        Record { shmid: 3, pgoff: 0x4000, prot: 5, ..mapping(0x10000, 3, &[MappingStatus::FilePrivate]) };
    images.process(7, vec![code, mapping(0x30000, 1, &[MappingStatus::Vdso])]);
    let program = RegularFile {
        id: 3,
        name: "/bin/program".into(),
        fown: FileOwner::default(),
        ..RegularFile::default()
    };
    images.image(Kind::Files, 0, &[File { id: 3, r#type: 1, reg: Some(program), ..File::default() }]);
    images.pages("", (Kind::Pagemap, 7), Generation::Wide, &[(0x11000, 1, PRESENT)], 1);
    let checkpoint = images.checkpoint(&[7]);
    let spaces = AddressSpaces::new(&checkpoint).unwrap();
    let space = spaces.open(7).unwrap();
    assert_eq!(
        contents(&space),
        [
            (0x10000, 1, Content::Absent(Gap::File { file: 3, offset: 0x4000 })),
            (0x11000, 1, stored(Owner::Process(7), 0, 0)),
            (0x12000, 1, Content::Absent(Gap::File { file: 3, offset: 0x6000 })),
            (0x30000, 1, Content::Absent(Gap::Outside)),
        ]
    );
    assert_eq!(space.mappings()[0].protection.to_string(), "r-x");
    assert_eq!(spaces.path(3), Some("/bin/program"));
}

#[test]
fn the_size_of_pages_is_found_where_it_is_not_recorded() {
    let mut images = Images::default();
    let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 65536).unwrap();
    writer.range(0x10000, 2, PRESENT).unwrap();
    images.add("pagemap-7.img".into(), writer.into_inner());
    images.add("pages-1.img".into(), vec![0; 2 * 65536]);
    let checkpoint = images.checkpoint(&[]);
    let pages = Pages::open(&checkpoint, Owner::Process(7), None).unwrap().unwrap();
    assert_eq!(pages.page_size(), 65536);
    assert_eq!(pages.runs().next().unwrap().unwrap().end, 0x30000);
}

#[test]
fn a_pages_image_that_ends_early_is_named() {
    let mut images = Images::default();
    images.process(7, vec![mapping(0x10000, 8, &[MappingStatus::Heap])]);
    images.pages("", (Kind::Pagemap, 7), Generation::Wide, &[(0x10000, 2, PRESENT)], 1);
    let place = images.entries.iter().position(|entry| entry.name.starts_with("pages-")).unwrap();
    images.entries[place].size -= 1;
    let name = images.entries[place].name.clone();
    let checkpoint = images.checkpoint(&[7]);
    let space = AddressSpaces::new(&checkpoint).unwrap().open(7).unwrap();
    let error = space.read(0x10000, &mut [0; 8192]).unwrap_err();
    assert!(matches!(&error, MemoryError::PagesShort { entry, size: 8191, .. } if *entry == name), "{error}");
}

/// What a layer has of each of a few pages: nothing, or flags.
fn layer() -> impl Strategy<Value = Vec<Option<u32>>> {
    proptest::collection::vec(proptest::option::weighted(0.7, 1_u32..8), 40)
}

/// A layer's pages as ranges, neighbours with the same flags together.
fn ranges(pages: &[Option<u32>]) -> Vec<(u64, u64, PageFlags)> {
    let mut ranges: Vec<(u64, u64, PageFlags)> = Vec::new();
    for (page, flags) in pages.iter().enumerate() {
        let (Some(flags), address) = (*flags, page as u64 * 4096) else { continue };
        match ranges.last_mut() {
            Some(last) if last.0 + last.1 * 4096 == address && last.2 == PageFlags(flags) => last.1 += 1,
            _ => ranges.push((address, 1, PageFlags(flags))),
        }
    }
    ranges
}

proptest! {
    #[test]
    fn runs_say_of_each_page_what_looking_through_the_layers_says(
        layers in proptest::collection::vec(layer(), 1..4),
        from in 0_u64..40,
    ) {
        let mut images = Images::default();
        let mut prefix = String::new();
        for pages in &layers {
            images.pages(&prefix, (Kind::Pagemap, 7), Generation::Wide, &ranges(pages), 0);
            prefix += "parent/";
        }
        let checkpoint = images.checkpoint(&[]);
        let pages = Pages::open(&checkpoint, Owner::Process(7), Some(4096)).unwrap().unwrap();
        let expected = |page: usize| {
            layers[0][page]?;
            for (layer, pages) in layers.iter().enumerate() {
                let Some(flags) = pages[page] else { return Some(Place::Lost) };
                if flags & 4 != 0 {
                    let before = pages[..page].iter().flatten().filter(|flags| *flags & 4 != 0).count();
                    return Some(Place::Stored { layer, offset: before as u64 * 4096 });
                }
                if flags & 1 == 0 {
                    return Some(Place::Lazy);
                }
            }
            Some(Place::Lost)
        };
        let mut found = vec![None; 40];
        let mut end = 0;
        for run in pages.runs_from(from * 4096) {
            let run = run.unwrap();
            prop_assert!(run.start >= end && run.start < run.end);
            end = run.end;
            for address in (run.start..run.end).step_by(4096) {
                found[(address / 4096) as usize] = Some(match run.place {
                    Place::Stored { layer, offset } => {
                        Place::Stored { layer, offset: offset + (address - run.start) }
                    }
                    place => place,
                });
            }
        }
        for (page, found) in found.into_iter().enumerate() {
            let expected = if page as u64 >= from { expected(page) } else { None };
            prop_assert_eq!(found, expected, "page {}", page);
        }
    }

    #[test]
    fn hostile_pagemaps_and_mappings_end(
        ranges in proptest::collection::vec((any::<u64>(), any::<u64>(), 0_u32..8), 0..8),
        vmas in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()), 0..8),
    ) {
        let mut images = Images::default();
        let vmas = vmas.into_iter().map(|(start, end, pgoff, status)| Record {
            start, end, pgoff, status, shmid: 7, flags: status, ..Record::default()
        });
        images.process(7, vmas.collect());
        for kind in [Kind::Pagemap, Kind::SharedPagemap] {
            let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
            for (address, pages, flags) in &ranges {
                writer.range(*address, *pages, PageFlags(*flags)).unwrap();
            }
            images.add(kind.file_name(7), writer.into_inner());
        }
        let checkpoint = images.checkpoint(&[7]);
        if let Ok(space) = AddressSpaces::new(&checkpoint).unwrap().open(7) {
            prop_assert!(space.extents(0, u64::MAX).count() < 1000);
        }
    }
}

#[test]
fn a_pagemap_with_more_ranges_than_there_are_marks_is_read_from_anywhere() {
    let ranges: Vec<_> = (0..20_000).map(|range| (range * 8192, 1, PRESENT)).collect();
    let mut images = Images::default();
    let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
    for (address, pages, flags) in &ranges {
        writer.range(*address, *pages, *flags).unwrap();
    }
    images.add("pagemap-7.img".into(), writer.into_inner());
    let checkpoint = images.checkpoint(&[]);
    let pages = Pages::open(&checkpoint, Owner::Process(7), Some(4096)).unwrap().unwrap();
    assert_eq!(pages.runs().count(), 20_000);
    for range in [0, 1, 4095, 4096, 9_999, 19_999] {
        let run = pages.runs_from(range * 8192).next().unwrap().unwrap();
        let place = Place::Stored { layer: 0, offset: range * 4096 };
        assert_eq!(run, Run { start: range * 8192, end: range * 8192 + 4096, place });
    }
}

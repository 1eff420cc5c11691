//! A generation of a store looks like the images it would be laid out as, and damage to it is named.

use std::sync::Arc;

use torpor_archive::Checkpoint;
use torpor_archive::check::{Answer, whole};
use torpor_archive::engine::{ChangeKind, Engine, changes, container};
use torpor_archive::source::{Source, SourceError, Stored};
use torpor_criu::image::Limits;
use torpor_criu::image::pagemap::PagemapReader;
use torpor_store::manifest::{Body, DataRange, FileEntry, FileKind, FileTime};
use torpor_store::{
    Backend, Credentials, Description, DraftSettings, FinishedDraft, GenerationKind, MemoryBackend, MemoryId,
    Repository,
};

const PAGE: usize = 4096;
const BASE: u64 = 0x5555_0000_0000;

fn page(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Pages in two runs with one of zeros between, and one left to lazy loading.
fn write(repository: &Repository) -> FinishedDraft {
    let settings = DraftSettings { memory_limit: 4 << 20, workers: 2, ..DraftSettings::default() };
    let mut draft = repository.draft(settings).unwrap();
    let at = |page: u64| BASE + page * PAGE as u64;
    draft.pages(MemoryId::process(7), at(0), 4, &[page(1), page(2), vec![0; PAGE]].concat()).unwrap();
    draft.pages_without_data(MemoryId::process(7), at(5), 2, 3).unwrap();
    draft.pages(MemoryId::process(7), at(9), 6, &page(3)).unwrap();
    draft.image("inventory.img", &mut &b"inventory"[..]).unwrap();
    let file = |path: &str, kind| FileEntry {
        section: "root".to_owned(),
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o640,
        uid: 0,
        gid: 0,
        modified: FileTime { seconds: 5, nanos: 0 },
        accessed: FileTime::default(),
        xattrs: Vec::new(),
        body: Body::default(),
    };
    // A hole before the data, and one after.
    let log = file("/var/log", FileKind::File { size: 10_000 });
    draft.file(log, &[DataRange { offset: 4096, len: 100 }], &mut [7; 100].as_slice()).unwrap();
    draft.file(file("/etc/gone", FileKind::Deleted), &[], &mut [].as_slice()).unwrap();
    let facts = br#"{"command":["sleep","9"],"machine":{"hostName":"node-1"}}"#.to_vec();
    draft
        .finish(Description {
            name: "shop/web".to_owned(),
            epoch: 1,
            generation: 3,
            kind: GenerationKind::Suspend,
            parent: None,
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            phases: Vec::new(),
            facts,
        })
        .unwrap()
}

fn stored(backend: &MemoryBackend) -> (Repository, FinishedDraft) {
    let repository = Repository::create(Arc::new(backend.clone()), &Credentials::None).unwrap();
    let finished = write(&repository);
    (repository, finished)
}

fn read(source: &dyn Source, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, SourceError> {
    let entry = source.entries().iter().find(|entry| entry.name == name).expect("the entry is there");
    let mut bytes = vec![1; length];
    source.read_at(entry, offset, &mut bytes).map(|()| bytes)
}

#[test]
fn memory_is_put_together_as_it_is_read() {
    let (repository, finished) = stored(&MemoryBackend::new());
    let source = Stored::open(repository, &finished.manifest).unwrap();
    assert_eq!(source.name(), "shop/web@3");
    let pages = [page(1), page(2), vec![0; PAGE], page(3)].concat();
    assert_eq!(read(&source, "pages-1.img", 0, pages.len()).unwrap(), pages);
    for (offset, length) in [(0, 1), (4095, 2), (5000, 9000), (3 * PAGE - 1, 4097)] {
        let read = read(&source, "pages-1.img", offset as u64, length).unwrap();
        assert!(read == pages[offset..offset + length], "{length} bytes from {offset} on");
    }
    let entry = source.entries().iter().find(|entry| entry.name == "pagemap-7.img").unwrap();
    let map = read(&source, "pagemap-7.img", 0, entry.size as usize).unwrap();
    let ranges: Vec<_> =
        PagemapReader::new(&map[..], Limits::default()).unwrap().map(|range| range.unwrap()).collect();
    let shown: Vec<_> =
        ranges.iter().map(|range| (range.vaddr - BASE, range.pages, range.is_present())).collect();
    assert_eq!(shown, [(0, 3, true), (5 * 4096, 3, false), (9 * 4096, 1, true)]);
}

#[test]
fn files_have_their_holes_and_whiteouts() {
    let (repository, finished) = stored(&MemoryBackend::new());
    let source = Stored::open(repository, &finished.manifest).unwrap();
    let body = read(&source, "files/root/var/log", 4000, 300).unwrap();
    assert!(body[..96].iter().all(|byte| *byte == 0) && body[96..196] == [7; 100]);
    assert!(read(&source, "files/root/var/log", 9000, 1000).unwrap().iter().all(|byte| *byte == 0));
    let checkpoint = Checkpoint::new(Box::new(source)).unwrap();
    let changes = changes(&checkpoint).unwrap().unwrap();
    assert_eq!(changes.paths["/var/log"].kind, ChangeKind::Written);
    assert_eq!(changes.paths["/etc/gone"].kind, ChangeKind::Removed);
}

#[test]
fn the_store_knows_whose_it_is() {
    let (repository, finished) = stored(&MemoryBackend::new());
    let source = Stored::open(repository, &finished.manifest).unwrap();
    let container = container(&Checkpoint::new(Box::new(source)).unwrap()).unwrap();
    assert_eq!(container.engine, Engine::Torpor);
    assert_eq!(container.name.as_deref(), Some("shop/web"));
    assert_eq!(container.command, ["sleep", "9"]);
    assert_eq!(container.checkpointed.unwrap().to_string(), "2026-01-02T03:04:05Z");
}

#[test]
fn a_wrong_byte_is_told_with_entry_and_offset() {
    let backend = MemoryBackend::new();
    let (_, finished) = stored(&backend);
    let packs = backend.list("packs/").unwrap();
    let mut told = 0;
    for pack in &packs {
        // Somewhere in the data: the index of a pack is at its end.
        let copy = backend.fork();
        copy.damage(&pack.key, |bytes| bytes[200] ^= 1);
        let repository = Repository::open(Arc::new(copy), &Credentials::None).unwrap();
        let Ok(source) = Stored::open(repository, &finished.manifest) else {
            told += 1;
            continue;
        };
        let checkpoint = Checkpoint::new(Box::new(source)).unwrap();
        let findings = whole(&checkpoint);
        let readable = findings.iter().find(|finding| finding.topic == "readable").unwrap();
        if readable.answer == Answer::No {
            assert!(readable.faults.iter().all(|fault| fault.offset.is_some()), "{readable:?}");
            told += 1;
        }
    }
    assert_eq!(told, packs.len());
}

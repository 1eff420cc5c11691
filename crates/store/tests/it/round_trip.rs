//! What is written comes back.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use proptest::prelude::*;
use torpor_store::manifest::{DataRange, FileKind};
use torpor_store::{Credentials, DraftSettings, LocalBackend, MemoryId, PagemapEntry, Repository, verify};

use crate::sample::{
    BASE, LAZY, PAGE, PRESENT, assert_reads, describe, file, in_memory, laid_out, page, pages, small, write,
};

#[test]
fn a_generation_comes_back_from_a_directory_encrypted_or_not() {
    let passphrase = Credentials::passphrase("correct horse");
    for credentials in [Credentials::None, passphrase] {
        let directory = tempfile::tempdir().unwrap();
        let backend = || Arc::new(LocalBackend::new(directory.path().join("store")));
        let seeds: Vec<u64> = (0..300).collect();
        let id = {
            let repository = Repository::create(backend(), &credentials).unwrap();
            write(&repository, None, 1, &seeds).unwrap().id()
        };
        let repository = Repository::open(backend(), &credentials).unwrap();
        let manifest = repository.manifest(id).unwrap();
        assert_eq!(manifest.description(), &describe(1));
        assert_reads(&repository, &manifest, &seeds);
        let report = verify::verify(&repository, verify::Depth::Data).unwrap();
        assert!(report.is_whole() && report.unindexed_packs == 0 && report.bytes > 0, "{report:?}");
        assert_private(&directory.path().join("store"));
    }
}

/// Everything is 0600 or 0700, and nothing temporary is left.
fn assert_private(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let mode = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.mode() & 0o7777, mode, "{}", entry.path().display());
        if metadata.is_dir() {
            assert_private(&entry.path());
        }
        if path.ends_with("tmp") {
            assert_eq!(entry.file_name(), "clock");
        }
    }
}

#[test]
fn an_encrypted_store_shows_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let backend = Arc::new(LocalBackend::new(directory.path()));
    let repository = Repository::create(backend, &Credentials::passphrase("x")).unwrap();
    let mut draft = repository.draft(small()).unwrap();
    draft.image("secret.img", &mut &b"the password is hunter2"[..]).unwrap();
    draft.finish(describe(1)).unwrap();
    let mut stack = vec![directory.path().to_path_buf()];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for word in [b"hunter2".as_slice(), b"secret.img", b"shop/web"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word), "{}", path.display());
        }
    }
}

#[test]
fn only_what_changed_is_stored_again() {
    let (_, repository) = in_memory();
    let mut seeds: Vec<u64> = (0..1000).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    seeds[10] = 5000;
    seeds[500] = 5001;
    let second = write(&repository, Some(&first.manifest), 2, &seeds).unwrap();
    // Two pages, and the file that differs.
    assert_eq!(second.manifest.sizes().new, 2 * PAGE as u64 + 70_000);
    assert!(!second.reused.is_empty());
    assert_reads(&repository, &second.manifest, &seeds);
    // Nothing new at all: shifted by a page, and without a predecessor.
    seeds.insert(0, 5000);
    let third = write(&repository, None, 2, &seeds).unwrap();
    assert_eq!(third.manifest.sizes().new, 0);
    assert_reads(&repository, &third.manifest, &seeds);
}

#[test]
fn a_predecessor_helps_where_the_table_of_pieces_has_no_room() {
    let (_, repository) = in_memory();
    let seeds: Vec<u64> = (0..200).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    let settings = DraftSettings { predecessor: Some(&first.manifest), index_limit: 0, ..small() };
    let mut draft = repository.draft(settings).unwrap();
    draft.pages(MemoryId::process(7), BASE, PRESENT, &pages(seeds)).unwrap();
    assert_eq!(draft.finish(describe(2)).unwrap().manifest.sizes().new, 0);
}

#[test]
fn pages_are_laid_out_densely_and_read_at_random() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(small()).unwrap();
    let (process, shared) = (MemoryId::process(7), MemoryId::shared(7));
    let at = |page: u64| BASE + page * PAGE as u64;
    draft.pages(process, at(0), PRESENT, &pages(0..3)).unwrap();
    draft.pages(shared, 0, PRESENT, &pages(100..102)).unwrap();
    draft.pages(process, at(10), PRESENT | LAZY, &[page(3), vec![0; PAGE], page(4)].concat()).unwrap();
    draft.pages_without_data(process, at(13), LAZY, 5).unwrap();
    draft.pages(process, at(18), PRESENT, &vec![0; 2 * PAGE]).unwrap();
    let finished = draft.finish(describe(1)).unwrap();
    let entry = |page, pages, flags| PagemapEntry { vaddr: at(page), pages, flags };
    let pagemap =
        vec![entry(0, 3, PRESENT), entry(10, 3, PRESENT | LAZY), entry(13, 5, LAZY), entry(18, 2, PRESENT)];
    let expected = [pages(0..3), page(3), vec![0; PAGE], page(4), vec![0; 2 * PAGE]].concat();

    let memory = repository.memory(&finished.manifest, process).unwrap();
    let mut streamed = Vec::new();
    assert_eq!(memory.lay_out_to(&mut streamed).unwrap(), pagemap);
    assert!(streamed == expected);
    for old in [vec![], vec![0xff; 20 * PAGE]] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all_at(&old, 0).unwrap();
        assert_eq!(memory.lay_out(&file, PAGE as u64).unwrap(), pagemap);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(PAGE as u64)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes[..expected.len()] == expected);
    }

    let mut buffer = vec![1; 6 * PAGE];
    let present = memory.read_pages(at(9), &mut buffer).unwrap();
    assert_eq!(present, [false, true, true, true, false, false]);
    assert!(buffer == [vec![0; PAGE], page(3), vec![0; PAGE], page(4), vec![0; 2 * PAGE]].concat());
    let mut one = vec![1; PAGE];
    repository.memory(&finished.manifest, shared).unwrap().read_pages(PAGE as u64, &mut one).unwrap();
    assert!(one == page(101));
}

#[test]
fn every_sort_of_file_comes_back() {
    let (_, repository) = in_memory();
    let kinds = [
        FileKind::Directory { opaque: false },
        FileKind::Directory { opaque: true },
        FileKind::Symlink { target: b"../\xff".to_vec() },
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice { major: 1, minor: 3 },
        FileKind::BlockDevice { major: 8, minor: 1 },
        FileKind::HardLink { to: b"k0".to_vec() },
        FileKind::Deleted,
        FileKind::File { size: 0 },
        FileKind::File { size: 1 << 40 },
    ];
    let entries: Vec<_> =
        kinds.into_iter().enumerate().map(|(number, kind)| file(&format!("k{number:02}"), kind)).collect();
    let mut draft = repository.draft(small()).unwrap();
    for entry in entries.iter().rev() {
        draft.file(entry.clone(), &[], &mut std::io::empty()).unwrap();
    }
    draft.file(file("gone", FileKind::Fifo), &[], &mut std::io::empty()).unwrap();
    draft.forget_file("root", b"gone");
    let finished = draft.finish(describe(1)).unwrap();
    let back: Vec<_> = repository.files(&finished.manifest).collect::<Result<_, _>>().unwrap();
    assert_eq!(back, entries);
}

#[test]
fn holes_and_long_bodies_survive_and_are_found_again() {
    let (_, repository) = in_memory();
    let source = tempfile::tempfile().unwrap();
    let mut body = vec![0; 700_000];
    blake3::Hasher::new().finalize_xof().fill(&mut body);
    source.write_all_at(&body, 1 << 20).unwrap();
    source.set_len(8 << 20).unwrap();

    let mut draft = repository.draft(small()).unwrap();
    draft.file_from(file("sparse", FileKind::File { size: 0 }), &source).unwrap();
    let finished = draft.finish(describe(1)).unwrap();
    let entry = repository.files(&finished.manifest).next().unwrap().unwrap();
    assert_eq!(entry.kind, FileKind::File { size: 8 << 20 });
    assert!(entry.body.data_len() < 1 << 20);
    let restored = tempfile::tempfile().unwrap();
    repository.restore_file(&entry, &restored).unwrap();
    let metadata = restored.metadata().unwrap();
    assert_eq!(metadata.len(), 8 << 20);
    assert!(metadata.blocks() * 512 < 2 << 20, "{} blocks", metadata.blocks());
    let mut back = vec![0; body.len()];
    restored.read_exact_at(&mut back, 1 << 20).unwrap();
    assert!(back == body);

    // Bytes put in before everything else move the rest; only what is near them is new.
    let moved = [b"in front".as_slice(), &body].concat();
    let mut draft = repository.draft(small()).unwrap();
    let size = moved.len() as u64;
    let data = [DataRange { offset: 0, len: size }];
    draft.file(file("moved", FileKind::File { size }), &data, &mut moved.as_slice()).unwrap();
    draft.file_as_before(file("same", entry.kind.clone()), &entry).unwrap();
    let second = draft.finish(describe(2)).unwrap();
    assert!(second.manifest.sizes().new < 200_000, "{:?}", second.manifest.sizes());
    let entries: Vec<_> = repository.files(&second.manifest).collect::<Result<_, _>>().unwrap();
    let mut back = Vec::new();
    repository.read_file(&entries[0], &mut back).unwrap();
    assert!(back == moved);
    assert_eq!(entries[1].body, entry.body);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_leaves_the_draft_usable() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(small()).unwrap();
    let data = [DataRange { offset: 0, len: 100 }];
    let entry = file("log", FileKind::File { size: 100 });
    let error = draft.file(entry.clone(), &data, &mut &b"short"[..]).unwrap_err();
    assert_eq!(error.to_string(), "cannot read log");
    draft.file(entry, &data, &mut [7; 100].as_slice()).unwrap();
    let finished = draft.finish(describe(1)).unwrap();
    assert_eq!(finished.manifest.sizes().files, 100);
}

#[test]
fn a_held_draft_works_when_it_may_and_when_it_must() {
    for (count, resumes) in [(100, true), (100, false), (3000, false)] {
        let (_, repository) = in_memory();
        let mut draft = repository.draft(small()).unwrap();
        draft.hold().unwrap();
        draft.pages(MemoryId::process(7), BASE, PRESENT, &pages(0..count)).unwrap();
        if resumes {
            draft.resume();
        }
        let finished = draft.finish(describe(1)).unwrap();
        let mut bytes = Vec::new();
        repository.memory(&finished.manifest, MemoryId::process(7)).unwrap().lay_out_to(&mut bytes).unwrap();
        assert!(bytes == pages(0..count));
    }
}

#[test]
fn two_writers_at_once_both_commit() {
    let (_, repository) = in_memory();
    std::thread::scope(|scope| {
        for generation in 1..4 {
            let repository = &repository;
            scope.spawn(move || write(repository, None, generation, &(0..400).collect::<Vec<_>>()).unwrap());
        }
    });
    assert_eq!(repository.manifests().unwrap().len(), 3);
    for info in repository.manifests().unwrap() {
        let manifest = repository.manifest(info.id).unwrap();
        assert_reads(&repository, &manifest, &(0..400).collect::<Vec<_>>());
    }
    assert!(verify::verify(&repository, verify::Depth::Data).unwrap().is_whole());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_sequence_of_generations_comes_back(
        generations in prop::collection::vec(prop::collection::vec(0_u64..30, 1..150), 1..4),
    ) {
        let (backend, repository) = in_memory();
        let mut previous = None;
        for (number, seeds) in generations.iter().enumerate() {
            let finished = write(&repository, previous.as_ref(), number as u64, seeds).unwrap();
            previous = Some(finished.manifest);
        }
        // Another process knows only what is stored.
        let reader = Repository::open(Arc::new(backend), &Credentials::None).unwrap();
        let mut read = 0;
        for info in reader.manifests().unwrap() {
            let manifest = reader.manifest(info.id).unwrap();
            let seeds = &generations[manifest.description().generation as usize];
            assert_reads(&reader, &manifest, seeds);
            let file = tempfile::tempfile().unwrap();
            reader.memory(&manifest, MemoryId::process(7)).unwrap().lay_out(&file, 0).unwrap();
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            prop_assert!(bytes == laid_out(seeds));
            read += 1;
        }
        prop_assert_eq!(read, generations.len());
    }
}

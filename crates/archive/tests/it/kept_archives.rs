//! Archives that are kept in a store and made again.

use std::io::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use torpor_archive::Checkpoint;
use torpor_archive::blueprint::{self, BlueprintError};
use torpor_archive::source::{Compression, Limits, Place, Stored, open};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_store::{
    Credentials, Description, DraftSettings, GenerationKind, Manifest, MemoryBackend, Repository,
};

use crate::tape::{COMPRESSIONS, Tape, pack};

/// Keeps an archive, and returns the repository and the generation.
pub(crate) fn kept(archive: &[u8]) -> (Repository, Manifest) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("it.tar");
    std::fs::write(&path, archive).unwrap();
    let checkpoint = Checkpoint::new(open(&Place::Path(path.clone())).unwrap()).unwrap();
    crate::kept::kept(|draft| blueprint::keep(&checkpoint, &path, &Limits::default(), draft).unwrap())
}

pub(crate) fn opened(repository: &Repository, manifest: &Manifest) -> Checkpoint {
    Checkpoint::new(Box::new(Stored::open(repository.clone(), manifest).unwrap())).unwrap()
}

fn rebuilt(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut archive = Vec::new();
    blueprint::rebuild(checkpoint, &mut archive).unwrap();
    archive
}

/// A process's pagemap, for three pages in two runs.
fn pagemap(flags: PageFlags) -> Vec<u8> {
    let mut writer = PagemapWriter::new(Vec::new(), 7, Generation::Wide, 4096).unwrap();
    writer.range(0x10000, 1, PageFlags::PRESENT).unwrap();
    writer.range(0x40000, 2, flags).unwrap();
    writer.into_inner()
}

fn archive(flags: PageFlags, pages: usize) -> Vec<u8> {
    let memory: Vec<u8> = (0..pages * 4096).map(|at| (at / 4096 + 1) as u8).collect();
    Tape::new()
        .directory("checkpoint/")
        .file("checkpoint/inventory.img", b"inventory")
        .file("checkpoint/pagemap-1.img", &pagemap(flags))
        .file("checkpoint/pages-7.img", &memory)
        .link("artifacts", "elsewhere")
        .file("config.dump", b"{}")
        .file("torpor.json", b"made up")
        .file("empty", b"")
        .end()
}

#[test]
fn an_archive_comes_back_bit_for_bit_however_it_was_compressed() {
    let plain = archive(PageFlags::PRESENT | PageFlags::LAZY, 3);
    for compression in [None].into_iter().chain(COMPRESSIONS.map(Some)) {
        let packed = compression.map_or(plain.clone(), |compression: Compression| pack(compression, &plain));
        let (repository, manifest) = kept(&packed);
        let checkpoint = opened(&repository, &manifest);
        assert!(rebuilt(&checkpoint) == plain, "{compression:?}");
        assert_eq!(blueprint::compression(&checkpoint).unwrap(), compression);
        assert_eq!(manifest.memory().len(), 1, "its memory is known by address");
        assert!(checkpoint.entry("pagemap-1.img").is_some() && checkpoint.entry("config.dump").is_some());
    }
}

#[test]
fn memory_that_is_not_all_there_is_kept_as_it_is() {
    for archive in [archive(PageFlags::PARENT, 1), archive(PageFlags::PRESENT, 2)] {
        let (repository, manifest) = kept(&archive);
        assert_eq!(manifest.memory().len(), 0);
        assert!(rebuilt(&opened(&repository, &manifest)) == archive);
    }
}

#[test]
fn what_follows_the_end_comes_back_too() {
    let mut archive = archive(PageFlags::PRESENT, 3);
    archive.write_all(&[0; 5000]).unwrap();
    archive.write_all(b"the rest of a longer file").unwrap();
    let (repository, manifest) = kept(&archive);
    assert!(rebuilt(&opened(&repository, &manifest)) == archive);
}

#[test]
fn a_generation_that_was_no_archive_is_refused() {
    let repository = Repository::create(Arc::new(MemoryBackend::new()), &Credentials::None).unwrap();
    let mut draft = repository.draft(DraftSettings { workers: 1, ..DraftSettings::default() }).unwrap();
    draft.image("inventory.img", &mut &b"inventory"[..]).unwrap();
    let (name, created) = ("web".to_owned(), jiff::Timestamp::UNIX_EPOCH);
    let (phases, facts) = (Vec::new(), b"{}".to_vec());
    let kind = GenerationKind::Suspend;
    let description =
        Description { name, epoch: 1, generation: 1, kind, parent: None, created, phases, facts };
    let manifest = draft.finish(description).unwrap().manifest;
    let refused = blueprint::rebuild(&opened(&repository, &manifest), &mut Vec::new()).unwrap_err();
    assert!(matches!(refused, BlueprintError::NoBlueprint { .. }), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_archive_comes_back(
        bodies in proptest::collection::btree_map("[a-z]{1,12}(/[a-z.]{1,12}[a-z])?", proptest::collection::vec(any::<u8>(), 0..1500), 0..6),
        // The blocks of zeros at the end may be missing.
        blocks in 0_usize..3,
    ) {
        let mut tape = Tape::new().file("inventory.img", b"inventory");
        for (name, body) in &bodies {
            tape = tape.file(&format!("x{name}"), body);
        }
        let mut archive = tape.end();
        archive.truncate(archive.len() - blocks * 512);
        let (repository, manifest) = kept(&archive);
        prop_assert!(rebuilt(&opened(&repository, &manifest)) == archive);
    }
}

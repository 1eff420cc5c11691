//! Pages that do not fit into memory while work is held.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use torpor_store::backend::{Entry, Scratch, Stat, Tag, Upload};
use torpor_store::{
    Backend, BackendError, Credentials, DraftSettings, LocalBackend, MemoryBackend, MemoryId, Repository,
    verify,
};

use crate::sample::{BASE, PRESENT, describe, pages, small};

/// Several times what `small` drafts have memory for.
const MANY: u64 = 6000;

fn on_disk(credentials: &Credentials) -> (tempfile::TempDir, Arc<LocalBackend>, Repository) {
    // Not below /tmp, which may lie in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let backend = Arc::new(LocalBackend::new(directory.path()));
    let repository = Repository::create(backend.clone(), credentials).unwrap();
    (directory, backend, repository)
}

fn write_held(repository: &Repository, held: u64, generation: u64) {
    let mut draft = repository.draft(DraftSettings { held, ..small() }).unwrap();
    draft.pages(MemoryId::process(7), BASE, PRESENT, &pages(0..10)).unwrap();
    draft.hold().unwrap();
    draft.pages(MemoryId::process(7), BASE + (10 << 12), PRESENT, &pages(10..MANY)).unwrap();
    draft.image("core-7.img", &mut &b"core"[..]).unwrap();
    draft.resume();
    let finished = draft.finish(describe(generation)).unwrap();
    let mut bytes = Vec::new();
    repository.memory(&finished.manifest, MemoryId::process(7)).unwrap().lay_out_to(&mut bytes).unwrap();
    assert!(bytes == pages(0..MANY), "the pages are not those that were written");
}

#[test]
fn pages_beyond_the_memory_come_back_from_the_scratch_file() {
    for credentials in [Credentials::None, Credentials::passphrase("spool")] {
        let (_directory, backend, repository) = on_disk(&credentials);
        for (generation, held) in [(1, MANY << 12), (2, 1)] {
            write_held(&repository, held, generation);
        }
        assert!(verify::verify(&repository, verify::Depth::Data).unwrap().is_whole());
        assert!(backend.leftovers(SystemTime::now()).unwrap().is_empty());
    }
}

#[test]
fn a_draft_can_be_dropped_whatever_waits_where() {
    for resumes in [false, true] {
        let (_directory, _, repository) = on_disk(&Credentials::None);
        let mut draft = repository.draft(DraftSettings { held: MANY << 12, ..small() }).unwrap();
        draft.hold().unwrap();
        draft.pages(MemoryId::process(7), BASE, PRESENT, &pages(0..5000)).unwrap();
        if resumes {
            draft.resume();
        }
        drop(draft);
        assert!(repository.manifests().unwrap().is_empty());
    }
}

#[test]
fn a_scratch_file_on_a_full_disk_costs_nothing_but_time() {
    let backend = Arc::new(Full(MemoryBackend::new()));
    let repository = Repository::create(backend, &Credentials::None).unwrap();
    write_held(&repository, MANY << 12, 1);
}

/// A place whose scratch files take nothing.
#[derive(Debug)]
struct Full(MemoryBackend);

impl Backend for Full {
    fn scratch(&self, _bytes: u64) -> Option<Scratch> {
        Some(Scratch::new(File::options().read(true).write(true).open("/dev/full").unwrap()))
    }

    fn location(&self) -> String {
        self.0.location()
    }

    fn prepare(&self) -> Result<(), BackendError> {
        self.0.prepare()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, BackendError> {
        self.0.begin()
    }

    fn read_at(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        self.0.read_at(key, offset, buffer)
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, BackendError> {
        self.0.stat(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, BackendError> {
        self.0.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.0.delete(key)
    }

    fn load(&self, key: &str) -> Result<Option<(Tag, Vec<u8>)>, BackendError> {
        self.0.load(key)
    }

    fn replace(&self, key: &str, expected: Option<&Tag>, body: &[u8]) -> Result<Tag, BackendError> {
        self.0.replace(key, expected, body)
    }

    fn now(&self) -> Result<SystemTime, BackendError> {
        self.0.now()
    }

    fn leftovers(&self, before: SystemTime) -> Result<Vec<Entry>, BackendError> {
        self.0.leftovers(before)
    }

    fn sweep(&self, leftover: &Entry) -> Result<(), BackendError> {
        self.0.sweep(leftover)
    }
}

//! Data to keep: pages from a seed, and small generations.

use std::sync::Arc;

use torpor_store::manifest::{Body, FileEntry, FileKind, FileTime, Xattr};
use torpor_store::{
    Backend, Credentials, Description, DraftError, DraftSettings, FinishedDraft, GenerationKind, Manifest,
    MemoryBackend, MemoryId, Repository,
};

pub(crate) const PAGE: usize = 4096;
pub(crate) const BASE: u64 = 0x5555_0000_0000;
/// CRIU's flags of a page with data, and of a lazy one.
pub(crate) const PRESENT: u32 = 4;
pub(crate) const LAZY: u32 = 2;

/// A page that no other seed has.
pub(crate) fn page(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    if seed % 2 == 1 {
        bytes[PAGE / 8..].fill(seed as u8);
    }
    bytes
}

pub(crate) fn pages(seeds: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seeds.into_iter().flat_map(page).collect()
}

pub(crate) fn describe(generation: u64) -> Description {
    Description {
        name: "shop/web".to_owned(),
        epoch: 1,
        generation,
        kind: GenerationKind::Suspend,
        parent: generation.checked_sub(1),
        created: "2026-01-02T03:04:05Z".parse().unwrap(),
        phases: Vec::new(),
        facts: b"{}".to_vec(),
    }
}

pub(crate) fn small() -> DraftSettings<'static> {
    DraftSettings { memory_limit: 4 << 20, workers: 2, ..DraftSettings::default() }
}

pub(crate) fn file(path: &str, kind: FileKind) -> FileEntry {
    FileEntry {
        section: "root".to_owned(),
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        modified: FileTime { seconds: -5, nanos: 999_999_999 },
        accessed: FileTime { seconds: 1_700_000_000, nanos: 1 },
        xattrs: vec![Xattr { name: b"user.note".to_vec(), value: vec![0, 255] }],
        body: Body::default(),
    }
}

pub(crate) fn in_memory() -> (MemoryBackend, Repository) {
    let backend = MemoryBackend::new();
    let repository = Repository::create(Arc::new(backend.clone()), &Credentials::None).unwrap();
    (backend, repository)
}

/// A small generation whose pages are those of `seeds`, with a page of zeros and one without data after them.
pub(crate) fn write(
    repository: &Repository,
    predecessor: Option<&Manifest>,
    generation: u64,
    seeds: &[u64],
) -> Result<FinishedDraft, DraftError> {
    let mut draft = repository.draft(DraftSettings { predecessor, ..small() })?;
    let end = BASE + (seeds.len() * PAGE) as u64;
    draft.pages(MemoryId::process(7), BASE, PRESENT, &pages(seeds.iter().copied()))?;
    draft.pages(MemoryId::process(7), end, PRESENT, &[0; PAGE])?;
    draft.pages_without_data(MemoryId::process(7), end + PAGE as u64, LAZY, 1)?;
    draft.image("inventory.img", &mut &b"inventory"[..])?;
    let body = vec![generation as u8; 70_000];
    let entry = file("var/log", FileKind::File { size: body.len() as u64 });
    let data = torpor_store::manifest::DataRange { offset: 0, len: body.len() as u64 };
    draft.file(entry, &[data], &mut body.as_slice())?;
    draft.finish(describe(generation))
}

/// What `pages-N.img` of a generation from [`write`] must be.
pub(crate) fn laid_out(seeds: &[u64]) -> Vec<u8> {
    let mut bytes = pages(seeds.iter().copied());
    bytes.extend_from_slice(&[0; PAGE]);
    bytes
}

/// The process whose memory most generations hold.
pub(crate) const PROGRAM: MemoryId = MemoryId::process(7);

/// Its memory as a generation has it, all pages in a row.
pub(crate) fn memory_of(repository: &Repository, manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::new();
    repository.memory(manifest, PROGRAM).unwrap().lay_out_to(&mut bytes).unwrap();
    bytes
}

/// Reads everything of a generation and compares it with what [`write`] wrote.
pub(crate) fn assert_reads(repository: &Repository, manifest: &Manifest, seeds: &[u64]) {
    let mut bytes = Vec::new();
    repository.memory(manifest, MemoryId::process(7)).unwrap().lay_out_to(&mut bytes).unwrap();
    assert!(bytes == laid_out(seeds), "the pages are not those that were written");
    assert_eq!(repository.read_image(manifest, "inventory.img").unwrap(), b"inventory");
    for entry in repository.files(manifest) {
        let mut body = Vec::new();
        repository.read_file(&entry.unwrap(), &mut body).unwrap();
        assert_eq!(body, vec![manifest.description().generation as u8; 70_000]);
    }
}

/// Keys of everything under a prefix.
pub(crate) fn keys(backend: &MemoryBackend, prefix: &str) -> Vec<String> {
    backend.list(prefix).unwrap().into_iter().map(|entry| entry.key).collect()
}

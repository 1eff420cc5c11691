//! Collections of a store in memory, killed at every point.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::backend::memory::Fault;
use crate::backend::{Backend, MemoryBackend};
use crate::key::Credentials;
use crate::lineage::{Epoch, Lineage, Program, Publication, Start};
use crate::manifest::{Description, GenerationKind, MemoryId, PAGE_SIZE};
use crate::verify::{Depth, verify};

const MEMORY: MemoryId = MemoryId::process(1);
const ADDRESS: u64 = 0x1000_0000;
const PAGES: u64 = 96;

fn open(backend: &MemoryBackend) -> Repository {
    Repository::open_or_create(Arc::new(backend.clone()), &Credentials::None).unwrap()
}

fn begin(repository: &Repository) -> Epoch {
    let start = Start {
        id: "a".to_owned(),
        incarnation: None,
        host: "node".to_owned(),
        pod: None,
        pid: 1,
        lease: SignedDuration::from_secs(1),
        known_gone: None,
    };
    Lineage::new(repository, "web/app".parse().unwrap()).begin(&start).unwrap()
}

/// A page that no two (version, page) share, and that does not compress.
fn page(version: u64, page: u64) -> Vec<u8> {
    let mut state = (version << 32 | page).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(PAGE_SIZE);
    while bytes.len() < PAGE_SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// Memory of which each generation has changed a quarter, one after the other.
fn memory(number: u64) -> Vec<u8> {
    (0..PAGES)
        .flat_map(|at| {
            let changed = (1..=number).rev().find(|version| version % 4 == at * 4 / PAGES).unwrap_or(0);
            page(changed, at)
        })
        .collect()
}

/// Writes a generation, and publishes it unless it is to stay an orphan.
fn checkpoint(repository: &Repository, epoch: &Epoch, publish: bool) -> u64 {
    let number = epoch.next_generation().unwrap();
    let mut draft = repository.draft(Default::default()).unwrap();
    draft.pages(MEMORY, ADDRESS, 1, &memory(number)).unwrap();
    let finished = draft
        .finish(Description {
            name: epoch.name().to_string(),
            epoch: epoch.number(),
            generation: number,
            kind: GenerationKind::Running,
            parent: None,
            created: Timestamp::UNIX_EPOCH,
            phases: Vec::new(),
            facts: Vec::new(),
        })
        .unwrap();
    if publish {
        epoch.publish(&Publication::new(&finished, Program::default())).unwrap();
    }
    number
}

/// A store with four generations, of which the last two stay, and an orphan.
fn littered() -> MemoryBackend {
    let backend = MemoryBackend::new();
    let epoch = begin(&open(&backend));
    for _ in 0..4 {
        checkpoint(&open(&backend), &epoch, true);
    }
    checkpoint(&open(&backend), &epoch, false);
    epoch.lineage().remove(&[1, 2]).unwrap();
    backend.advance(Duration::from_secs(10 * 3600));
    backend
}

fn collect(backend: &MemoryBackend) -> Result<GcPlan, GcError> {
    let repository = open(backend);
    let settings = GcSettings { sparse_below: 75, ..GcSettings::default() };
    let plan = GcPlan::new(&Survey::take(&repository)?, &settings)?;
    execute(&repository, &plan)?;
    Ok(plan)
}

/// Collects until there is nothing left to do.
fn collect_all(backend: &MemoryBackend) {
    for _ in 0..6 {
        collect(backend).unwrap();
        backend.advance(Duration::from_secs(3 * 3600));
    }
    let rest = collect(backend).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[track_caller]
fn assert_whole(backend: &MemoryBackend, numbers: &[u64], context: &str) {
    let repository = open(backend);
    let report = verify(&repository, Depth::Data).unwrap();
    assert!(report.is_whole(), "{context}: {:?}", report.damage);
    let record = Lineage::new(&repository, "web/app".parse().unwrap()).record().unwrap().unwrap();
    assert_eq!(record.generations.iter().map(|one| one.number).collect::<Vec<_>>(), numbers, "{context}");
    for generation in &record.generations {
        let manifest = repository.manifest(generation.manifest).unwrap();
        let mut laid_out = Vec::new();
        repository.memory(&manifest, MEMORY).unwrap().lay_out_to(&mut laid_out).unwrap();
        assert!(laid_out == memory(generation.number), "{context}: generation {}", generation.number);
    }
}

fn bytes(backend: &MemoryBackend) -> u64 {
    backend.list("").unwrap().iter().map(|entry| entry.stat.size).sum()
}

#[test]
fn what_nothing_needs_is_gone_after_some_rounds() {
    let backend = littered();
    let before = bytes(&backend);
    let first = collect(&backend).unwrap();
    assert!(!first.rewrite.is_empty() && first.marks());
    assert!(first.delete_packs.is_empty() && first.delete_manifests.is_empty(), "{first:?}");
    collect_all(&backend);
    assert_whole(&backend, &[3, 4], "after");
    let repository = open(&backend);
    assert_eq!(repository.manifests().unwrap().len(), 2);
    assert!(repository.tombstoned().unwrap().is_empty());
    let after = bytes(&backend);
    assert!(after < before * 3 / 4, "{before} bytes before, {after} after");
}

#[test]
fn a_dry_look_changes_nothing() {
    let backend = littered();
    let before = backend.list("").unwrap();
    GcPlan::new(&Survey::take(&open(&backend)).unwrap(), &GcSettings::default()).unwrap();
    assert_eq!(backend.list("").unwrap(), before);
}

#[test]
fn a_kill_at_any_point_leaves_a_whole_store() {
    let littered = littered();
    for round in 0..4 {
        for kill_after in 0.. {
            let backend = littered.fork();
            for _ in 0..round {
                collect(&backend).unwrap();
                backend.advance(Duration::from_secs(3 * 3600));
            }
            backend.strike(kill_after, Fault::Kill);
            let finished = collect(&backend).is_ok();
            backend.heal();
            let context = format!("round {round}, killed after {kill_after} operations");
            assert_whole(&backend, &[3, 4], &context);
            collect_all(&backend);
            assert_whole(&backend, &[3, 4], &context);
            if finished {
                break;
            }
        }
    }
}

#[test]
fn a_checkpoint_between_the_rounds_loses_nothing() {
    let backend = littered();
    collect(&backend).unwrap();
    // Its pages are in part those of generations whose packs are marked.
    let epoch = begin(&open(&backend));
    checkpoint(&open(&backend), &epoch, true);
    backend.advance(Duration::from_secs(3 * 3600));
    collect_all(&backend);
    assert_whole(&backend, &[3, 4, 5], "after");
}

#[test]
fn a_damaged_published_manifest_stops_the_collection() {
    let backend = littered();
    let repository = open(&backend);
    let record = Lineage::new(&repository, "web/app".parse().unwrap()).record().unwrap().unwrap();
    let id = record.generations[0].manifest.to_string();
    let key = backend.list("").unwrap().into_iter().find(|entry| entry.key.ends_with(&id)).unwrap().key;
    backend.damage(&key, |body| body.truncate(body.len() / 2));
    let before = backend.list("").unwrap();
    let refused = collect(&backend).unwrap_err();
    assert!(matches!(refused, GcError::Unreadable { generation: 3, .. }), "{refused}");
    assert!(refused.remedy().contains("web/app@3"));
    assert_eq!(backend.list("").unwrap(), before);
}

//! Writers that are killed, fail, or meet a collection.

use std::collections::HashSet;
use std::sync::Arc;

use torpor_store::backend::memory::Fault;
use torpor_store::repository::tombstone_key;
use torpor_store::{Backend, Credentials, Repository, verify};

use crate::sample::{assert_reads, in_memory, keys, small, write};

/// At every operation: what is committed stays whole, and nothing half-made is a manifest.
fn strike_everywhere(fault: Fault) {
    let (backend, repository) = in_memory();
    let before: Vec<u64> = (0..100).collect();
    let after: Vec<u64> = (50..260).collect();
    let first = write(&repository, None, 1, &before).unwrap();
    drop(repository);
    let mut commits = 0;
    for operation in 0.. {
        let copy = backend.fork();
        let open = || Repository::open(Arc::new(copy.clone()), &Credentials::None).unwrap();
        copy.strike(operation, fault);
        let outcome = write(&open(), Some(&first.manifest), 2, &after);
        copy.heal();
        let repository = open();
        assert_reads(&repository, &repository.manifest(first.id()).unwrap(), &before);
        let report = verify::verify(&repository, verify::Depth::Data).unwrap();
        assert!(report.is_whole(), "struck at {operation}: {report:?}");
        let manifests = repository.manifests().unwrap().len();
        match outcome {
            Ok(finished) => {
                assert_eq!(manifests, 2);
                assert_reads(&repository, &repository.manifest(finished.id()).unwrap(), &after);
                commits += 1;
                if copy.operations() <= operation {
                    break;
                }
            }
            Err(_) => assert_eq!(manifests, 1, "struck at {operation}"),
        }
        // What was left does not keep the next writer from its work.
        let again = write(&repository, Some(&first.manifest), 3, &after).unwrap();
        assert_reads(&repository, &again.manifest, &after);
    }
    assert!(commits > 0);
}

#[test]
fn a_kill_at_any_operation_loses_nothing() {
    strike_everywhere(Fault::Kill);
}

#[test]
fn a_full_store_at_any_operation_loses_nothing() {
    strike_everywhere(Fault::FailOnce);
}

#[test]
fn a_full_store_is_said_at_the_first_chance() {
    let (backend, repository) = in_memory();
    backend.strike(0, Fault::FailOnce);
    let error = write(&repository, None, 1, &(0..2000).collect::<Vec<_>>()).unwrap_err();
    assert!(error.to_string().ends_with("no space left to write"), "{error}");
    assert!(error.remedy().contains("torpor gc"));
}

#[test]
fn a_dropped_draft_leaves_no_manifest() {
    let (backend, repository) = in_memory();
    let mut draft = repository.draft(small()).unwrap();
    draft.image("a.img", &mut [3; 100_000].as_slice()).unwrap();
    drop(draft);
    assert_eq!(keys(&backend, ""), ["torpor-store"]);
}

#[test]
fn a_pack_with_a_tombstone_is_not_referred_to() {
    let (backend, repository) = in_memory();
    let seeds: Vec<u64> = (0..200).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    for pack in &first.written {
        backend.replace(&tombstone_key(*pack), None, b"").unwrap();
    }
    let second = write(&repository, Some(&first.manifest), 1, &seeds).unwrap();
    assert!(second.reused.is_empty());
    collect(&repository, &first);
    assert_reads(&repository, &second.manifest, &seeds);
}

#[test]
fn a_tombstone_that_comes_while_a_draft_is_open_costs_a_copy() {
    let (backend, repository) = in_memory();
    let seeds: Vec<u64> = (0..200).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    let mut draft = repository
        .draft(torpor_store::DraftSettings { predecessor: Some(&first.manifest), ..small() })
        .unwrap();
    for pack in &first.written {
        backend.replace(&tombstone_key(*pack), None, b"").unwrap();
    }
    let id = torpor_store::MemoryId::process(7);
    draft.pages(id, crate::sample::BASE, 4, &crate::sample::laid_out(&seeds)).unwrap();
    let second = draft.finish(crate::sample::describe(2)).unwrap();
    assert!(second.reused.is_empty());
    collect(&repository, &first);
    let mut bytes = Vec::new();
    // A reader from before the collection looks where the blocks were first.
    repository.memory(&second.manifest, id).unwrap().lay_out_to(&mut bytes).unwrap();
    assert!(bytes == crate::sample::laid_out(&seeds));
    assert!(verify::verify(&repository, verify::Depth::Data).unwrap().is_whole());
}

/// Deletes a generation and its packs, as a collection does.
fn collect(repository: &Repository, generation: &torpor_store::FinishedDraft) {
    repository.delete_manifest(generation.id()).unwrap();
    let gone: HashSet<_> = generation.written.iter().copied().collect();
    repository.compact_index(&gone).unwrap();
    for pack in gone {
        repository.delete_pack(pack).unwrap();
    }
    assert!(repository.tombstoned().unwrap().is_empty());
}

#[test]
fn a_sparse_pack_is_rewritten_and_read_by_those_who_knew_the_old_place() {
    let (backend, repository) = in_memory();
    let seeds: Vec<u64> = (0..300).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    let other = Repository::open(Arc::new(backend.clone()), &Credentials::None).unwrap();
    assert_reads(&other, &first.manifest, &seeds);
    let blocks = repository.blocks(&first.manifest).unwrap();
    for pack in &first.written {
        let held = blocks
            .iter()
            .copied()
            .filter(|block| repository.places(*block).unwrap().iter().any(|place| place.pack == *pack));
        repository.copy_blocks(*pack, &held.collect()).unwrap();
    }
    let gone: HashSet<_> = first.written.iter().copied().collect();
    repository.compact_index(&gone).unwrap();
    for pack in gone {
        repository.delete_pack(pack).unwrap();
    }
    for repository in [&repository, &other] {
        let mut bytes = Vec::new();
        let memory = repository.memory(&first.manifest, torpor_store::MemoryId::process(7)).unwrap();
        memory.lay_out_to(&mut bytes).unwrap();
        assert!(bytes == crate::sample::laid_out(&seeds));
    }
}

#[test]
fn many_indexes_become_one() {
    let (backend, repository) = in_memory();
    let mut previous = None;
    for generation in 0..70 {
        let finished = write(&repository, previous.as_ref(), generation, &[generation * 2, 1]).unwrap();
        previous = Some(finished.manifest);
    }
    assert!(keys(&backend, "index/").len() < 10);
    assert!(verify::verify(&repository, verify::Depth::Data).unwrap().is_whole());
    let other = Repository::open(Arc::new(backend), &Credentials::None).unwrap();
    assert_reads(&other, &previous.unwrap(), &[138, 1]);
}

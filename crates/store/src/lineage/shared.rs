//! Names in a store that several use at once.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::backend::memory::Fault;
use crate::backend::{Backend, MemoryBackend};
use crate::id::PackId;
use crate::key::Credentials;
use crate::manifest::{Description, GenerationKind};

fn store() -> (MemoryBackend, Repository) {
    let backend = MemoryBackend::new();
    let repository = Repository::create(Arc::new(backend.clone()), &Credentials::None).unwrap();
    (backend, repository)
}

fn start(id: &str) -> Start {
    Start {
        id: id.to_owned(),
        incarnation: None,
        host: format!("node of {id}"),
        pod: None,
        pid: 1,
        lease: SignedDuration::from_secs(30),
        known_gone: None,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Makes a generation of one image and what a publication says of it.
fn draft(repository: &Repository, epoch: &Epoch, kind: GenerationKind) -> Publication {
    let number = epoch.next_generation().unwrap();
    let mut draft = repository.draft(Default::default()).unwrap();
    draft.image("inventory.img", &mut format!("{} {number}", epoch.name()).as_bytes()).unwrap();
    let finished = draft
        .finish(Description {
            name: epoch.name().to_string(),
            epoch: epoch.number(),
            generation: number,
            kind,
            parent: None,
            created: Timestamp::UNIX_EPOCH,
            phases: Vec::new(),
            facts: Vec::new(),
        })
        .unwrap();
    Publication::new(&finished, Program::default())
}

#[test]
fn a_name_lives_in_the_store() {
    let (_, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    assert!(lineage.record().unwrap().is_none());
    let epoch = lineage.begin(&start("a")).unwrap();
    epoch.record_fresh("first start").unwrap();
    epoch.publish(&draft(&repository, &epoch, GenerationKind::Suspend)).unwrap();
    assert!(epoch.is_current().unwrap());

    let next = lineage.begin(&start("b")).unwrap();
    assert!(!epoch.is_current().unwrap());
    let offer = next.offer(&Wish::default()).unwrap();
    assert!(matches!(offer.decision, Decision::Restore { number: 1, .. }), "{offer}");
    next.record_attempt(1).unwrap();
    next.record_restored(1).unwrap();
    assert_eq!(next.close(Ending::Exited(0)).unwrap(), Closed::Ended);
    let records = Lineage::all(&repository).unwrap();
    assert_eq!((records.len(), records[0].epoch), (1, 2));
}

#[test]
fn the_lease_is_by_the_clock_of_the_store() {
    let (backend, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    let first = lineage.begin(&start("a")).unwrap();
    backend.advance(Duration::from_secs(20));
    first.renew().unwrap();
    backend.advance(Duration::from_secs(20));
    let held = lineage.begin(&start("b")).unwrap_err();
    assert!(held.to_string().contains("node of a"), "{held}");
    backend.advance(Duration::from_secs(10));
    lineage.begin(&start("b")).unwrap();
    assert!(first.renew().unwrap_err().is_fenced());
}

#[test]
fn a_fenced_epoch_publishes_nothing() {
    let (backend, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    let old = lineage.begin(&start("a")).unwrap();
    let publication = draft(&repository, &old, GenerationKind::Running);
    backend.advance(Duration::from_secs(60));
    lineage.begin(&start("b")).unwrap();
    assert!(old.publish(&publication).unwrap_err().is_fenced());
    assert!(lineage.record().unwrap().unwrap().generations.is_empty());
}

#[test]
fn data_that_is_being_collected_is_not_published() {
    let (backend, repository) = store();
    let epoch = Lineage::new(&repository, name("web/app")).begin(&start("a")).unwrap();
    let publication = draft(&repository, &epoch, GenerationKind::Running);
    let refused = |publication: &Publication| {
        let error = epoch.publish(publication).unwrap_err();
        assert!(matches!(error, LineageError::Collected { .. }), "{error}");
        error.to_string()
    };
    let pack = publication.packs[0];
    backend.replace(&format!("tombstones/{pack}"), None, b"").unwrap();
    assert!(refused(&publication).contains(&format!("pack {pack}")));
    backend.delete(&format!("tombstones/{pack}")).unwrap();

    let gone = Publication { packs: vec![PackId::from_bytes([7; 32])], ..publication.clone() };
    refused(&gone);

    let manifest = publication.manifest;
    backend.replace(&format!("condemned/{manifest}"), None, b"").unwrap();
    refused(&publication);
    backend.delete(&format!("condemned/{manifest}")).unwrap();

    epoch.publish(&publication).unwrap();
    repository.delete_manifest(manifest).unwrap();
    refused(&publication);
}

#[test]
fn a_full_store_changes_nothing() {
    let (backend, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    let epoch = lineage.begin(&start("a")).unwrap();
    let publication = draft(&repository, &epoch, GenerationKind::Suspend);
    let before = lineage.record().unwrap();
    backend.strike(0, Fault::FailOnce);
    let error = epoch.publish(&publication).unwrap_err();
    assert!(matches!(error, LineageError::Backend(BackendError::NoSpace { .. })), "{error}");
    assert_eq!(lineage.record().unwrap(), before);
    epoch.publish(&publication).unwrap();
}

#[test]
fn replicas_that_start_at_once_get_slots_of_their_own() {
    let (_, repository) = store();
    let pool = name("web/app");
    for slot in ["a", "b", "c"] {
        let epoch = Lineage::new(&repository, pool.in_slot(slot).unwrap()).begin(&start(slot)).unwrap();
        epoch.publish(&draft(&repository, &epoch, GenerationKind::Suspend)).unwrap();
    }
    let mut claimed: Vec<String> = std::thread::scope(|scope| {
        let claim = |id: String| {
            let (pool, repository) = (&pool, repository.clone());
            scope.spawn(move || match Lineage::claim(&repository, &replica(pool, &id), &start(&id)) {
                Ok(Claimed::Slot(epoch)) => epoch.name().to_string(),
                other => panic!("{other:?}"),
            })
        };
        let replicas: Vec<_> = (0..5).map(|n| claim(format!("new{n}"))).collect();
        replicas.into_iter().map(|replica| replica.join().unwrap()).collect()
    });
    claimed.sort();
    assert_eq!(claimed[..3], ["web/app:a", "web/app:b", "web/app:c"]);
    assert!(claimed[3..].iter().all(|slot| slot.starts_with("web/app:new")), "{claimed:?}");
    claimed.dedup();
    assert_eq!(claimed.len(), 5);
}

fn replica<'a>(pool: &'a Name, new: &'a str) -> Claim<'a> {
    Claim { name: pool, own: None, new, lost: false, wait: true, is_gone: &|_| false }
}

#[test]
fn a_replica_in_the_place_of_one_that_is_suspending_waits_for_its_slot() {
    let (_, repository) = store();
    let pool = name("web/app");
    let leaving = Lineage::new(&repository, pool.in_slot("a").unwrap()).begin(&start("a")).unwrap();
    leaving.record_fresh("first start").unwrap();
    leaving.leave(SignedDuration::from_secs(25)).unwrap();
    let claim = replica(&pool, "b");
    let Claimed::Leaving { slot, .. } = Lineage::claim(&repository, &claim, &start("b")).unwrap() else {
        panic!("it is given up soon");
    };
    assert_eq!(slot, *leaving.name());
    leaving.publish(&draft(&repository, &leaving, GenerationKind::Suspend)).unwrap();
    let Claimed::Slot(epoch) = Lineage::claim(&repository, &claim, &start("b")).unwrap() else {
        panic!("it is free");
    };
    assert_eq!((epoch.name(), epoch.number()), (leaving.name(), 2));
    assert!(epoch.record().unwrap().holder.unwrap().leaving_until.is_none());
}

#[test]
fn a_pod_takes_its_own_slot_again_unless_another_has_it() {
    let (_, repository) = store();
    let pool = name("web/app");
    let again = Claim { own: Some("pod"), ..replica(&pool, "new") };
    let claim = |start: &Start| match Lineage::claim(&repository, &again, start).unwrap() {
        Claimed::Slot(epoch) => epoch.name().to_string(),
        Claimed::Leaving { slot, .. } => panic!("{slot}"),
    };
    let of_pod = |id: &str| Start { incarnation: Some("pod/main".into()), ..start(id) };
    assert_eq!(claim(&of_pod("a")), "web/app:pod");
    assert_eq!(claim(&of_pod("b")), "web/app:pod", "its container has started again");
    assert_eq!(claim(&start("c")), "web/app:new");
}

#[test]
fn starts_at_once_of_one_name_begin_one_epoch() {
    let (_, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    let begun = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|n| {
                let lineage = &lineage;
                scope.spawn(move || lineage.begin(&start(&n.to_string())).is_ok())
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).filter(|&began| began).count()
    });
    assert_eq!((begun, lineage.record().unwrap().unwrap().epoch), (1, 1));
}

#[test]
fn a_forgotten_name_goes_on_counting_its_epochs() {
    let (_, repository) = store();
    let lineage = Lineage::new(&repository, name("web/app"));
    let epoch = lineage.begin(&start("a")).unwrap();
    assert!(matches!(lineage.forget(), Err(LineageError::Held { .. })));
    epoch.publish(&draft(&repository, &epoch, GenerationKind::Suspend)).unwrap();
    lineage.forget().unwrap();
    assert!(lineage.record().unwrap().unwrap().is_forgotten());
    let next = lineage.begin(&start("b")).unwrap();
    assert_eq!((next.number(), next.next_generation().unwrap()), (2, 2));
    let offer = next.offer(&Wish::default()).unwrap();
    assert!(matches!(offer.decision, Decision::Fresh { because: Reason::FirstStart }), "{offer}");
}

#[test]
fn a_damaged_record_is_named_and_hides_no_other() {
    let (backend, repository) = store();
    for text in ["web/app", "web/db"] {
        Lineage::new(&repository, name(text)).begin(&start("a")).unwrap();
    }
    backend.damage("names/web/app/%", |body| {
        let middle = body.len() / 2;
        body[middle] ^= 0x40;
    });
    let error = Lineage::all(&repository).unwrap_err();
    assert!(error.to_string().contains("names/web/app/%"), "{error}");
    let readable: Vec<_> = Lineage::each(&repository).unwrap().filter_map(Result::ok).collect();
    assert_eq!(readable.iter().map(|record| record.name.to_string()).collect::<Vec<_>>(), ["web/db"]);
}

#[test]
fn a_record_in_the_place_of_another_is_refused() {
    let (backend, repository) = store();
    Lineage::new(&repository, name("web/app")).begin(&start("a")).unwrap();
    let (_, body) = backend.load("names/web/app/%").unwrap().unwrap();
    backend.replace("names/web/db/%", None, &body).unwrap();
    assert!(Lineage::new(&repository, name("web/db")).record().is_err());
}

#[test]
fn an_encrypted_store_tells_no_names() {
    let backend = MemoryBackend::new();
    let key = Credentials::KeyFile(vec![7; 32].into());
    let repository = Repository::create(Arc::new(backend.clone()), &key).unwrap();
    let lineage = Lineage::new(&repository, name("secret-project/app"));
    let epoch = lineage.begin(&start("a")).unwrap();
    epoch.publish(&draft(&repository, &epoch, GenerationKind::Suspend)).unwrap();
    for entry in backend.list("").unwrap() {
        assert!(!entry.key.contains("secret"), "{}", entry.key);
        let body = backend.get(&entry.key, 1 << 20).unwrap();
        assert!(!body.windows(6).any(|window| window == b"secret"), "{}", entry.key);
    }
    assert_eq!(Lineage::all(&repository).unwrap()[0].name, name("secret-project/app"));
}

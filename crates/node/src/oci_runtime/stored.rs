//! A container from one of the node's stores.

use std::path::PathBuf;
use std::sync::Arc;

use torpor_store::lineage::{Decision, Lineage, Wish};
use torpor_store::name::{Name, Reference};
use torpor_store::{GenerationKind, LocalBackend, ManifestId, OpenError, Repository};

use super::create::{Making, Outcome};
use super::decision::Place;
use super::error::RuntimeError;
use super::history::{self, History, Restored};
use super::settings::Store;
use crate::container::generation::Facts;
use crate::container::stored::Kept;
use crate::container::{Lease, Taker};
use crate::machine::Machine;

/// A name, in the first store that has it.
struct Found {
    repository: Repository,
    lineage: Lineage,
    /// Where holders on this machine show that they live.
    signs: PathBuf,
}

/// Looks for a name in all stores. A store that is not there has none; one that cannot be opened is no excuse.
fn find(stores: &[Store], name: &Name) -> Result<Option<Found>, RuntimeError> {
    for store in stores {
        let url = || store.url.clone();
        let directory = store.directory().ok_or_else(|| RuntimeError::StoreUrl { url: url() })?;
        let credentials = store.credentials().map_err(|source| RuntimeError::Key { url: url(), source })?;
        let repository = match Repository::open(Arc::new(LocalBackend::new(&directory)), &credentials) {
            Ok(repository) => repository,
            Err(OpenError::NoStore { .. }) => continue,
            Err(source) => return Err(RuntimeError::Store { url: url(), source }),
        };
        let lineage = Lineage::new(&repository, name.clone());
        if lineage.record()?.is_some_and(|record| !record.is_forgotten()) {
            return Ok(Some(Found { repository, lineage, signs: directory.join("holders") }));
        }
    }
    Ok(None)
}

/// Restores the container from a name's generation.
pub(super) fn restore(making: &Making<'_>, reference: &Reference) -> Result<Outcome, RuntimeError> {
    let settings = &making.call.settings;
    let Some(found) = find(&settings.stores, &reference.name)? else {
        return match reference.generation {
            Some(_) => Err(RuntimeError::NoCheckpoint { reference: reference.clone() }),
            None => Ok(Outcome::Nothing(format!("there is no checkpoint of {} yet", reference.name))),
        };
    };
    let place = making.order.place.as_ref();
    let machine = Machine::read();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let taker = Taker {
        id: &making.new.id,
        pod: place.map(|place| format!("{}/{}", place.namespace, place.pod)),
        host: &host,
        signs: Some(&found.signs),
    };
    let lease = Lease::take(&found.lineage, &taker)?;
    let epoch = lease.epoch();
    let (number, manifest, kind) = match offered(reference, epoch.offer(&wish())?.decision)? {
        Offered::This { number, manifest, kind } => (number, manifest, kind),
        Offered::Nothing(because) => return Ok(Outcome::Nothing(because)),
    };
    let checkpoint = format!("{}@{number}", reference.name);
    let failed = making.failed(&checkpoint);
    let manifest = found.repository.manifest(manifest)?;
    let kept = Kept::new(&found.repository, &manifest).map_err(&failed)?;
    allowed(&reference.name, kept.facts(), place)?;
    kept.check(&machine).map_err(&failed)?;

    let history = History::of(&settings.state, place, &making.new.id, &making.bundle);
    let cannot = RuntimeError::place(&settings.state);
    let last = history.last().map_err(&cannot)?;
    let next = Restored { name: reference.name.to_string(), generation: Some(number) };
    if !making.order.again
        && let Err(because) = history::permitted(last.as_ref(), &next, kind)
    {
        return Ok(Outcome::Nothing(format!("{checkpoint} is not gone back to: {because}")));
    }

    let mut files = kept.files_for(&making.rootfs).map_err(&failed)?;
    let room = making.room(&checkpoint)?;
    let directory = room.path().join("images");
    std::fs::create_dir(&directory).map_err(RuntimeError::place(&directory))?;
    epoch.record_attempt(number)?;
    let mut attempt = || {
        kept.images_into(&directory).map_err(&failed)?;
        let prepared = making.prepare(&checkpoint, &directory)?;
        let before = files.before().map_err(&failed)?;
        files.put().map_err(&failed)?;
        history.remember(&next).map_err(&cannot)?;
        // Before its first instruction: a suspend is resumed once.
        epoch.record_restored(number)?;
        let options = &kept.facts().criu.options;
        let record = making.run(&checkpoint, room.path(), &prepared, options).inspect_err(|_| {
            history.put_back(last.as_ref());
        })?;
        // Nobody is there who could say later that it runs on.
        epoch.record_settled()?;
        before.release();
        Ok(record)
    };
    let made: Result<_, RuntimeError> = attempt();
    match made {
        Ok(record) => Ok(Outcome::Restored(record)),
        Err(error) => {
            if let Err(error) = epoch.record_failed(number, &error.line()) {
                tracing::warn!(%error, "the failure cannot be noted");
            }
            Err(error)
        }
    }
}

/// What a container was started with is for its configuration to say.
fn wish() -> Wish {
    Wish { allow_changed: true, templates: true, ..Wish::default() }
}

/// What the lineage has for us.
#[derive(Debug, PartialEq, Eq)]
enum Offered {
    This { number: u64, manifest: ManifestId, kind: GenerationKind },
    Nothing(String),
}

fn offered(reference: &Reference, decision: Decision) -> Result<Offered, RuntimeError> {
    let not = |because: String| RuntimeError::NotOffered { reference: reference.clone(), because };
    match (decision, reference.generation) {
        (Decision::Restore { number, manifest, kind, .. }, wanted)
            if wanted.is_none_or(|wanted| wanted == number) =>
        {
            Ok(Offered::This { number, manifest, kind })
        }
        (Decision::Restore { number, .. }, _) => Err(not(format!("generation {number} is"))),
        (Decision::Fresh { because }, None) => Ok(Offered::Nothing(because.to_string())),
        (Decision::Fresh { because } | Decision::Fail { because }, _) => Err(not(because.to_string())),
    }
}

/// Whether a pod may have this checkpoint: it is of the pod's own namespace. What is in no pod was asked for by whoever runs the
/// node.
fn allowed(name: &Name, facts: &Facts, place: Option<&Place>) -> Result<(), RuntimeError> {
    namespaces(name, facts.pod.as_ref().map(|pod| pod.namespace.as_str()), place)
}

fn namespaces(name: &Name, made_in: Option<&str>, place: Option<&Place>) -> Result<(), RuntimeError> {
    match place {
        Some(place) if made_in != Some(place.namespace.as_str()) => Err(RuntimeError::Foreign {
            name: name.clone(),
            namespace: made_in.map(str::to_owned),
            own: place.namespace.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use torpor_store::lineage::Reason;

    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_gets_checkpoints_of_its_own_namespace_only() {
        let name: Name = "web".parse().unwrap();
        let place = |namespace: &str| Place {
            namespace: namespace.into(),
            pod: "web-0".into(),
            uid: "u".into(),
            container: "app".into(),
        };
        for (made_in, own, permitted) in [
            (Some("shop"), Some("shop"), true),
            (Some("shop"), Some("other"), false),
            (None, Some("shop"), false),
            (Some("shop"), None, true),
            (None, None, true),
        ] {
            let own = own.map(place);
            let result = namespaces(&name, made_in, own.as_ref());
            assert_eq!(result.is_ok(), permitted, "{made_in:?} {own:?}: {result:?}");
        }
    }

    #[test]
    fn where_nothing_is_to_be_gone_on_from_only_a_name_begins() {
        let fresh = || Decision::Fresh { because: Reason::FirstStart };
        let fail = || Decision::Fail { because: Reason::FirstStart };
        assert!(matches!(offered(&reference("web"), fresh()), Ok(Offered::Nothing(_))));
        for (text, decision) in [("web@3", fresh()), ("web", fail()), ("web@3", fail())] {
            assert!(
                matches!(offered(&reference(text), decision), Err(RuntimeError::NotOffered { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_store_that_is_not_there_has_nothing_and_one_that_cannot_be_one_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let store = |url: String| Store { url, passphrase_file: None, key_file: None };
        let name: Name = "web".parse().unwrap();
        let absent = store(place.path().join("none").display().to_string());
        assert!(find(&[absent], &name).unwrap().is_none());
        let bucket = store("s3://bucket/a".into());
        assert!(matches!(find(&[bucket], &name), Err(RuntimeError::StoreUrl { .. })));
    }
}

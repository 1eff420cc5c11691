//! A container from one of the node's stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use torpor_store::lineage::{Decision, Lineage, LineageError, Offer, OnRestoreFailure, Reason, Signed, Wish};
use torpor_store::name::{Name, Reference};
use torpor_store::{GenerationKind, LocalBackend, ManifestId, OpenError, Repository};

use super::create::{Making, Outcome};
use super::decision::{OnFailure, Place};
use super::early_end::Origin;
use super::error::RuntimeError;
use super::history::{self, History, Restored, Undo};
use super::images::Prepared;
use super::log::Level;
use super::record::Record;
use super::settings::{Settings, Store};
use crate::accelerator::{Plugins, Vendor};
use crate::container::stored::{Files, Kept};
use crate::container::{Lease, Taker};
use crate::files::layout::Before;
use crate::machine::Machine;
use crate::permit::{Permit, PublicKey};

/// Where CRIU's images lie in a room.
const IMAGES: &str = "images";

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
    let lease = Lease::take_in_turn(&found.lineage, &taker)?;
    let epoch = lease.epoch();
    let (number, manifest, kind) = match offered(reference, epoch.offer(&wish(making.order.on_failure))?)? {
        Offered::This { number, manifest, kind } => (number, manifest, kind),
        Offered::Nothing(because) => return Ok(Outcome::Nothing(because)),
    };
    let checkpoint = format!("{}@{number}", reference.name);
    let failed = making.failed(&checkpoint);
    let manifest = found.repository.manifest(manifest)?;
    let kept = Kept::new(&found.repository, &manifest).map_err(&failed)?;
    let made_in = kept.facts().pod.as_ref().map(|pod| pod.namespace.as_str());
    if let Some(place) = place.filter(|place| made_in != Some(place.namespace.as_str())) {
        let foreign = Foreign { name: &reference.name, number, made_in, manifest: manifest.id(), place };
        let record = epoch.record()?;
        let signed = record.generation(number).map_or(&[][..], |generation| &generation.signed);
        let permit = foreign.permitted(signed, &settings.trusted_keys)?;
        let namespaces = permit.namespaces.join(", ");
        making.call.say(Level::Info, &format!("{checkpoint} is permitted in namespaces {namespaces}"));
    }
    kept.check(&machine).map_err(&failed)?;
    let plugins = settings.plugins.as_deref().filter(|_| !kept.facts().accelerators.is_empty());
    let plugins = plugins.map(Plugins::trusted).transpose().map_err(|error| failed(error.into()))?;
    let vendors = kept.check_accelerators(plugins.as_ref()).map_err(&failed)?;

    let history = History::of(&settings.state, place, &making.new.id, &making.bundle);
    let cannot = RuntimeError::place(&settings.state);
    let last = history.last().map_err(&cannot)?;
    let next = Restored { name: reference.name.to_string(), generation: Some(number) };
    if !making.order.again
        && let Err(because) = history::permitted(last.as_ref(), &next, kind)
    {
        return Ok(Outcome::Nothing(format!("{checkpoint} is not gone back to: {because}")));
    }

    let files = vec![kept.files_for(&making.rootfs).map_err(&failed)?];
    let undo = history.undo(last.as_ref());
    let room = making.room(&checkpoint, undo.clone())?;
    let wanted = Wanted { kept: &kept, files, checkpoint: &checkpoint, vendors: &vendors };
    let note_failure = |error: &RuntimeError| {
        if let Err(error) = epoch.record_failed(number, &error.line()) {
            tracing::warn!(%error, "the failure cannot be noted");
        }
    };
    if let Err(error) = wanted.lay_out(making, room.path()) {
        epoch.record_attempt(number)?;
        note_failure(&error);
        return Err(error);
    }
    // What does not fit this container may fit the next: that is no attempt.
    let prepared = wanted.prepare(making, room.path())?;
    epoch.record_attempt(number)?;
    let attempt = || {
        let record = wanted.make(making, room.path(), &prepared, &undo, || {
            history.remember(&next).map_err(&cannot)?;
            // Before its first instruction: a suspend is resumed once.
            Ok(epoch.record_restored(number)?)
        })?;
        // Whoever finds later that it died at once says so.
        epoch.record_settled()?;
        let suspend = kind == GenerationKind::Suspend;
        let from = Origin { name: reference.name.clone(), number, epoch: epoch.number(), suspend };
        let record = Record { from: Some(from), undo: Some(undo.clone()), ..record };
        let place = making.call.record(&making.new.id);
        place.write(&record).map_err(RuntimeError::place(place.directory()))?;
        Ok(record)
    };
    let made: Result<_, RuntimeError> = attempt();
    match made {
        Ok(record) => Ok(Outcome::Restored(Box::new(record))),
        Err(error) => {
            note_failure(&error);
            Err(error)
        }
    }
}

/// A generation that a container is to go on from.
pub(super) struct Wanted<'a> {
    pub(super) kept: &'a Kept<'a>,
    /// Its files, held against where they go.
    pub(super) files: Vec<Files<'a>>,
    /// What it is called.
    pub(super) checkpoint: &'a str,
    /// Whose devices it has.
    pub(super) vendors: &'a [Vendor],
}

impl Wanted<'_> {
    /// Lays out its images in a room.
    pub(super) fn lay_out(&self, making: &Making<'_>, room: &Path) -> Result<(), RuntimeError> {
        let directory = room.join(IMAGES);
        std::fs::create_dir(&directory).map_err(RuntimeError::place(&directory))?;
        self.kept.images_into(&directory).map_err(making.failed(self.checkpoint))
    }

    /// Makes them fit the container. Nothing of it is made.
    pub(super) fn prepare(&self, making: &Making<'_>, room: &Path) -> Result<Prepared, RuntimeError> {
        making.prepare(self.checkpoint, &room.join(IMAGES), self.vendors)
    }

    /// Has the container made of them, stopped. `before_made` notes so, once its files are in their places.
    pub(super) fn make(
        mut self,
        making: &Making<'_>,
        room: &Path,
        prepared: &Prepared,
        undo: &Undo,
        before_made: impl FnOnce() -> Result<(), RuntimeError>,
    ) -> Result<Record, RuntimeError> {
        let failed = making.failed(self.checkpoint);
        let before = self.files.iter().map(Files::before).collect::<Result<Vec<_>, _>>().map_err(&failed)?;
        for files in &mut self.files {
            files.put().map_err(&failed)?;
        }
        before_made()?;
        let options = &self.kept.facts().criu.options;
        let record = making.run(self.checkpoint, room, prepared, options).inspect_err(|_| undo.put_back())?;
        before.into_iter().for_each(Before::release);
        Ok(record)
    }
}

/// Notes that what was restored died at once. An epoch that was followed by another has no say any more.
pub(super) fn died(settings: &Settings, from: &Origin, reason: &str) -> Result<(), RuntimeError> {
    let Some(found) = find(&settings.stores, &from.name)? else { return Ok(()) };
    match found.lineage.epoch(from.epoch).record_failed(from.number, reason) {
        Ok(()) | Err(LineageError::Fenced { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a container was started with is for its configuration to say.
fn wish(on_failure: OnFailure) -> Wish {
    let on_restore_failure = match on_failure {
        OnFailure::Fail => OnRestoreFailure::Fail,
        OnFailure::Fresh => OnRestoreFailure::Fresh,
    };
    Wish { allow_changed: true, templates: true, on_restore_failure, ..Wish::default() }
}

/// What the lineage has for us.
#[derive(Debug, PartialEq, Eq)]
enum Offered {
    This { number: u64, manifest: ManifestId, kind: GenerationKind },
    Nothing(String),
}

fn offered(reference: &Reference, offer: Offer) -> Result<Offered, RuntimeError> {
    let not = |because: String| RuntimeError::NotOffered { reference: reference.clone(), because };
    let all = |because: &Reason| {
        let passed_over = offer.passed_over.iter().map(|passed| format!("; {passed}"));
        because.to_string() + &passed_over.collect::<String>()
    };
    match (offer.decision, reference.generation) {
        (Decision::Restore { number, manifest, kind, .. }, wanted)
            if wanted.is_none_or(|wanted| wanted == number) =>
        {
            Ok(Offered::This { number, manifest, kind })
        }
        (Decision::Restore { number, .. }, _) => Err(not(format!("generation {number} is"))),
        (Decision::Fresh { because }, None) => Ok(Offered::Nothing(because.to_string())),
        (Decision::Fresh { because } | Decision::Fail { because }, _) => Err(not(all(&because))),
    }
}

/// A checkpoint that a pod of another namespace asks for. What is in no pod was asked for by whoever runs the node.
struct Foreign<'a> {
    name: &'a Name,
    number: u64,
    made_in: Option<&'a str>,
    manifest: ManifestId,
    place: &'a Place,
}

impl Foreign<'_> {
    /// The permit by which the pod may have it.
    fn permitted(&self, signed: &[Signed], keys: &[PathBuf]) -> Result<Permit, RuntimeError> {
        let keys = keys.iter().map(|path| PublicKey::read(path)).collect::<Result<Vec<_>, _>>()?;
        let now = jiff::Timestamp::now();
        let mut objections = Vec::new();
        for signed in signed {
            match Permit::verify(signed, &keys, self.manifest, &self.place.namespace, now) {
                Ok(permit) => return Ok(permit),
                Err(objection) => objections.push(objection),
            }
        }
        Err(RuntimeError::Foreign {
            checkpoint: format!("{}@{}", self.name, self.number),
            namespace: self.made_in.map(str::to_owned),
            own: self.place.namespace.clone(),
            objections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::SecretKey;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_of_another_namespace_needs_a_permit_by_a_trusted_key() {
        let files = tempfile::tempdir().unwrap();
        let (key, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let trusted = vec![key.write(&files.path().join("key")).unwrap()];
        let manifest = |digit: &str| digit.repeat(64).parse::<ManifestId>().unwrap();
        let name: Name = "web".parse().unwrap();
        let place =
            Place { namespace: "test".into(), pod: "web-0".into(), uid: "u".into(), container: "app".into() };
        let foreign =
            Foreign { name: &name, number: 3, made_in: Some("shop"), manifest: manifest("a"), place: &place };
        let permit = |digit: &str, namespace: &str| {
            Permit::new(name.clone(), 3, manifest(digit), vec![namespace.to_owned()], None)
        };
        let good = permit("a", "test").sign(&key);
        assert!(foreign.permitted(std::slice::from_ref(&good), &trusted).is_ok());
        let bad = [
            permit("b", "test").sign(&key),
            permit("a", "prod").sign(&key),
            permit("a", "test").sign(&other),
        ];
        for signed in bad.iter().map(std::slice::from_ref).chain([&[][..], &bad]) {
            let error = foreign.permitted(signed, &trusted).unwrap_err();
            assert!(
                matches!(&error, RuntimeError::Foreign { objections, .. } if objections.len() == signed.len())
            );
        }
        assert!(foreign.permitted(std::slice::from_ref(&good), &[]).is_err());
        assert!(foreign.permitted(&[&bad[..], &[good]].concat(), &trusted).is_ok());
        let error = foreign.permitted(&[], &[files.path().join("none")]).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::TrustedKey(_)),
            "a key that cannot be read is no excuse: {error}"
        );
    }

    #[test]
    fn where_nothing_is_to_be_gone_on_from_only_a_name_begins() {
        let offer = |decision| Offer { decision, passed_over: Vec::new() };
        let fresh = || offer(Decision::Fresh { because: Reason::FirstStart });
        let fail = || offer(Decision::Fail { because: Reason::FirstStart });
        assert!(matches!(offered(&reference("web"), fresh()), Ok(Offered::Nothing(_))));
        for (text, offer) in [("web@3", fresh()), ("web", fail()), ("web@3", fail())] {
            assert!(
                matches!(offered(&reference(text), offer), Err(RuntimeError::NotOffered { .. })),
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

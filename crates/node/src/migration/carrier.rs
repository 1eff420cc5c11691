//! A container that moves by somebody who keeps it meanwhile, such as a registry.
//!
//! What the source sends is the store that it would fill at a target, part after part, and last the word that makes it to be found. One
//! target at most takes it: it restores the container, stopped, and lets it go on only if it was the one to take the word away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use torpor_store::{Credentials, LocalBackend, Manifest, Repository};

use super::gate::{self, MANIFEST, STORE};
use super::message::Offer;
use super::source::{Move, ends_for_good};
use super::{MigrationError, source};
use crate::container::ContainerError;
use crate::container::checkpoint::{Done, Heir};
use crate::container::generation::Stored;
use crate::order::Order;
use crate::staging::{self, Staging};

/// The annotation with what the source offers.
pub const OFFER: &str = "torpor.dev/migration";
/// What directories are called in which it is made ready.
const PREFIX: &str = "send-";

/// Why a carrier fails, with what to do about it.
#[derive(Debug)]
pub struct CarrierError {
    /// What it says.
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for CarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for CarrierError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Who carries it, for the source.
pub trait Carrier: fmt::Debug + Send {
    /// Where to, for people.
    fn place(&self) -> String;

    /// Looks whether it can: nothing is in the place yet, and what will be can be taken away by one alone.
    ///
    /// # Errors
    /// It cannot.
    fn ready(&mut self) -> Result<(), CarrierError>;

    /// Sends files of a directory, by their paths below it. Later ones replace those of the same name.
    ///
    /// # Errors
    /// They cannot be sent.
    fn send(&mut self, directory: &Path, names: &[String]) -> Result<(), CarrierError>;

    /// Makes all of it to be found, with what is said about it. This is the act by which it is there.
    ///
    /// # Errors
    /// It is not there, or [`Published::Unknown`].
    fn publish(&mut self, said: &BTreeMap<String, String>) -> Result<Published, CarrierError>;
}

/// What became of making it to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is there.
    Yes,
    /// Nobody answers any more: it may be there.
    Unknown,
}

/// Who carries it, for the target.
pub trait Parcel: fmt::Debug + Send + Sync {
    /// Where from, for people.
    fn place(&self) -> String;

    /// What is said about it.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn said(&self) -> Result<BTreeMap<String, String>, CarrierError>;

    /// Unpacks all of it into a directory.
    ///
    /// # Errors
    /// It is damaged, or cannot be read or written.
    fn unpack(&self, directory: &Path) -> Result<(), CarrierError>;

    /// Takes it away, so that nobody else finds it. An error leaves open whether it is still there.
    ///
    /// # Errors
    /// Nobody answers.
    fn claim(&self) -> Result<Claim, CarrierError>;
}

/// What became of taking it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Ours,
    /// Somebody else has taken it before.
    Others,
}

/// A container that has left by a carrier.
#[derive(Debug)]
pub struct Left {
    /// Where to.
    pub place: String,
    /// How it went.
    pub done: Done,
}

impl Move<'_> {
    /// Moves it to a carrier. When this returns it has ended here, and waits there. What is sent is made ready in `room`.
    ///
    /// # Errors
    /// It cannot: it runs on here then.
    pub fn by(&self, carrier: &mut dyn Carrier, room: &Path) -> Result<Left, MigrationError> {
        ends_for_good(self.container)?;
        let offer = self.offer()?;
        let place = carrier.place();
        let failed = |source| MigrationError::Carrier { place: place.clone(), source };
        carrier.ready().map_err(failed)?;
        staging::clean_up(room, PREFIX);
        let token = gate::token().map_err(MigrationError::Random)?;
        let staging =
            Staging::create(room, &format!("{PREFIX}{token}")).map_err(ContainerError::place(room))?;
        crate::container::directory::room(staging.path(), offer.memory)?;
        let store = Arc::new(LocalBackend::new(staging.path().join(STORE)));
        let repository = Repository::create(store, &Credentials::None)?;
        let sending =
            Sending { carrier: Mutex::new((carrier, BTreeSet::new())), directory: staging.path(), offer };
        for round in 1..=self.ahead {
            let stored = self.job(true, None).into_store(&self.destination(&repository)?)?;
            sending.send()?;
            tracing::info!(round, phases = ?stored.done.phases.durations(), "sent ahead");
        }
        let stored = self.job(false, Some(&sending)).into_store(&self.destination(&repository)?);
        let Stored { done, .. } = stored.map_err(source::own)?;
        Ok(Left { place, done })
    }
}

/// What is sent, and who carries it.
struct Sending<'a> {
    /// With what was sent already, by name and when it was changed.
    carrier: Mutex<(&'a mut dyn Carrier, BTreeSet<Sent>)>,
    directory: &'a Path,
    offer: Offer,
}

type Sent = (String, u64, std::time::SystemTime);

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Sending<'_> {
    /// Sends what is new, or was changed.
    fn send(&self) -> Result<(), MigrationError> {
        let files = files(self.directory).map_err(ContainerError::place(self.directory))?;
        let mut guard = self.carrier.lock().unwrap_or_else(PoisonError::into_inner);
        let (carrier, sent) = &mut *guard;
        let new: Vec<String> =
            files.iter().filter(|file| !sent.contains(file)).map(|(name, ..)| name.clone()).collect();
        carrier
            .send(self.directory, &new)
            .map_err(|source| MigrationError::Carrier { place: carrier.place(), source })?;
        sent.extend(files);
        Ok(())
    }

    fn publish(&self) -> Result<(), MigrationError> {
        let offer = serde_json::to_string(&self.offer).map_err(ContainerError::Facts)?;
        let said = BTreeMap::from([(OFFER.to_owned(), offer)]);
        let mut guard = self.carrier.lock().unwrap_or_else(PoisonError::into_inner);
        let (carrier, _) = &mut *guard;
        let place = carrier.place();
        match carrier.publish(&said) {
            Ok(Published::Yes) => Ok(()),
            Ok(Published::Unknown) => Err(MigrationError::InDoubt { place }),
            Err(source) => Err(MigrationError::Carrier { place, source }),
        }
    }
}

impl Heir for Sending<'_> {
    fn take(&self, generation: &Manifest, order: &Order) -> Result<(), ContainerError> {
        let failed = |error| ContainerError::Migration(Box::new(error));
        let path = self.directory.join(MANIFEST);
        std::fs::write(&path, generation.id().to_string()).map_err(ContainerError::place(&path))?;
        self.send().map_err(failed)?;
        // From here on it may be taken, so this is the last look at the time.
        order.check()?;
        self.publish().map_err(failed)
    }
}

/// The files below a directory: their paths, sizes, and when they were changed.
fn files(directory: &Path) -> std::io::Result<BTreeSet<Sent>> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                left.push(entry.path());
            } else if let Some(name) = entry.path().strip_prefix(directory).ok().and_then(Path::to_str) {
                found.insert((name.to_owned(), metadata.len(), metadata.modified()?));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_paths_and_known_again_unless_they_changed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        std::fs::create_dir_all(path.join("store/packs")).unwrap();
        std::fs::write(path.join("store/packs/1"), "pack").unwrap();
        std::fs::write(path.join("store/record"), "a").unwrap();
        let first = files(path).unwrap();
        assert_eq!(
            first.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
            ["store/packs/1", "store/record"]
        );
        std::fs::write(path.join("store/record"), "ab").unwrap();
        std::fs::write(path.join("store/packs/2"), "pack").unwrap();
        let second = files(path).unwrap();
        let new: Vec<_> = second.difference(&first).map(|(name, ..)| name.as_str()).collect();
        assert_eq!(new, ["store/packs/2", "store/record"]);
    }
}

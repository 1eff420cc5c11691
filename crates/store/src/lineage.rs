//! What may be restored, where and how often: the record of a name, and how it changes.
//!
//! Every start of a name begins an *epoch*. Only the newest epoch may publish generations, record restores or close
//! the lineage; an older one is *fenced*. The decisions are pure functions of the record ([`offer`], and the methods
//! of [`Record`] that change it); [`Lineage`] reads the record, lets one of them decide, and replaces the record if
//! nobody changed it meanwhile.
//!
//! The order at a start is: [`Lineage::begin`] (or [`Lineage::claim`]), [`Epoch::offer`], then for a restore
//! [`Epoch::record_attempt`] before CRIU starts and [`Epoch::record_restored`] before the program's first
//! instruction, or [`Epoch::record_failed`] and another [`Epoch::offer`]; for a fresh start
//! [`Epoch::record_fresh`]. While the program runs, [`Epoch::renew`] at a third of the lease; for each checkpoint
//! [`Epoch::publish`]; at the end [`Epoch::close`], or nothing after a suspend.

mod attempt;
mod claim;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod offer;
pub(crate) mod record;
#[cfg(test)]
mod shared;
mod signed;
#[cfg(test)]
mod story;
mod tenure;
mod transition;

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

pub use attempt::{ATTEMPTS, SETTLE};
pub use claim::{Claim, Claimed};
pub use error::LineageError;
pub use offer::{AfterCrash, Decision, Objection, Offer, OnRestoreFailure, PassedOver, Reason, Wish, offer};
pub use record::{
    Attempt, Generation, Holder, MAX_BYTES, MAX_GENERATIONS, Outcome, Program, Progress, Record, RecordError,
    State, VERSION,
};
pub use signed::Signed;
pub use tenure::Start;
pub use transition::{Closed, Ending, Publication};

use crate::backend::{BackendError, Tag};
use crate::name::Name;
use crate::repository::{Repository, manifest_key};

/// How often a change is tried again because others changed the record meanwhile.
const CONFLICTS: u32 = 32;
/// Where records lie in a store.
const PREFIX: &str = "names/";

/// The record of one name in a store.
#[derive(Debug, Clone)]
pub struct Lineage {
    repository: Repository,
    name: Name,
}

/// The newest epoch of a name, as its holder sees it. Every step fails with [`LineageError::Fenced`] once a newer
/// epoch has begun.
#[derive(Debug, Clone)]
pub struct Epoch {
    lineage: Lineage,
    number: u64,
    lease: SignedDuration,
}

impl Lineage {
    /// The lineage of `name`, whether or not anything is kept under it.
    #[must_use]
    pub fn new(repository: &Repository, name: Name) -> Lineage {
        Lineage { repository: repository.clone(), name }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The records of all names, by name.
    ///
    /// # Errors
    /// Where they cannot be listed, or one of them cannot be read.
    pub fn all(repository: &Repository) -> Result<Vec<Record>, LineageError> {
        let mut records = Lineage::each(repository)?.collect::<Result<Vec<_>, _>>()?;
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// The records of all names, each read by itself: one that cannot be read hides no other.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn each(
        repository: &Repository,
    ) -> Result<impl Iterator<Item = Result<Record, LineageError>> + use<'_>, LineageError> {
        let entries = repository.backend().list(PREFIX)?;
        Ok(entries.into_iter().filter_map(|entry| match load(repository, &entry.key) {
            Ok(Some((_, record))) => Some(Ok(record)),
            // Gone since it was listed.
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }))
    }

    /// The time by the store's clock, which all times in records are by.
    ///
    /// # Errors
    /// Where the store cannot be reached.
    pub fn now(repository: &Repository) -> Result<Timestamp, LineageError> {
        Ok(now(repository)?)
    }

    /// The record, or none if the name never ran.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn record(&self) -> Result<Option<Record>, LineageError> {
        Ok(load(&self.repository, &self.key())?.map(|(_, record)| record))
    }

    /// Begins an epoch: takes the name over from whoever held it, if that is allowed.
    ///
    /// # Errors
    /// [`LineageError::Held`], or where the store fails.
    pub fn begin(&self, start: &Start) -> Result<Epoch, LineageError> {
        let number = self.change(true, |record, now| record.begin(start, now))?;
        Ok(Epoch { lineage: self.clone(), number, lease: start.lease })
    }

    /// Pins a generation, so that retention leaves it alone, or lets it go.
    ///
    /// # Errors
    /// [`LineageError::NoSuchName`], [`LineageError::NoSuchGeneration`], or where the store fails.
    pub fn pin(&self, number: u64, pinned: bool) -> Result<(), LineageError> {
        self.change(false, |record, _| record.pin(number, pinned))
    }

    /// Keeps a signed statement about a generation.
    ///
    /// # Errors
    /// [`LineageError::NoSuchName`], [`LineageError::NoSuchGeneration`], or where the store fails.
    pub fn keep_signed(&self, number: u64, signed: &Signed) -> Result<(), LineageError> {
        self.change(false, |record, _| record.keep_signed(number, signed))
    }

    /// An epoch that another process began, for a last word on it. It is no longer renewed.
    #[must_use]
    pub fn epoch(&self, number: u64) -> Epoch {
        Epoch { lineage: self.clone(), number, lease: SignedDuration::ZERO }
    }

    /// Takes generations out of the record; their manifests and data stay until they are collected.
    ///
    /// # Errors
    /// [`LineageError::NoSuchName`], [`LineageError::NoSuchGeneration`], or where the store fails.
    pub fn remove(&self, numbers: &[u64]) -> Result<(), LineageError> {
        self.change(false, |record, _| record.remove(numbers))
    }

    /// Takes the generations that `choose` names out of the record, and returns them.
    pub(crate) fn remove_where(
        &self,
        mut choose: impl FnMut(&Record, Timestamp) -> Vec<u64>,
    ) -> Result<Vec<u64>, LineageError> {
        self.change(false, |record, now| {
            let numbers = choose(record, now);
            record.remove(&numbers)?;
            Ok(numbers)
        })
    }

    /// Forgets the name with all its generations, unless somebody holds it.
    ///
    /// # Errors
    /// [`LineageError::NoSuchName`], [`LineageError::Held`], or where the store fails.
    pub fn forget(&self) -> Result<(), LineageError> {
        // The record is emptied first, by conditional replacement: whoever begins an epoch meanwhile is not lost.
        self.change(false, |record, now| {
            if let Some(holder) = record.live_holder(now) {
                return Err(LineageError::Held {
                    name: record.name.clone(),
                    until: holder.lease_until,
                    holder: Box::new(holder.clone()),
                });
            }
            record.generations.clear();
            record.progress = Progress::New;
            record.holder = None;
            record.floor = record.next;
            Ok(())
        })
    }

    fn key(&self) -> String {
        key(&self.repository, &self.name)
    }

    /// Reads the record, changes it, and replaces it if nobody else has meanwhile; else begins again.
    fn change<T>(
        &self,
        create: bool,
        mut step: impl FnMut(&mut Record, Timestamp) -> Result<T, LineageError>,
    ) -> Result<T, LineageError> {
        let key = self.key();
        for _ in 0..CONFLICTS {
            let (tag, before) = match load(&self.repository, &key)? {
                Some((tag, record)) => (Some(tag), Some(record)),
                None if create => (None, None),
                None => return Err(LineageError::NoSuchName { name: self.name.clone() }),
            };
            let mut record = before.clone().unwrap_or_else(|| Record::new(self.name.clone()));
            let value = step(&mut record, now(&self.repository)?)?;
            if before.as_ref() == Some(&record) {
                return Ok(value);
            }
            let body = record.to_bytes().map_err(|source| self.broken(source))?;
            let sealed = self.repository.seal_record(&key, &body);
            match self.repository.backend().replace(&key, tag.as_ref(), &sealed) {
                Ok(_) => return Ok(value),
                Err(BackendError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LineageError::Contended { name: self.name.clone(), attempts: CONFLICTS })
    }

    fn broken(&self, source: RecordError) -> LineageError {
        LineageError::Record { name: self.name.to_string(), key: self.key(), source }
    }
}

impl Epoch {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The name it is an epoch of; after [`Lineage::claim`], with the slot that was claimed.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.lineage.name
    }

    /// The lineage it is an epoch of.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The record, if this epoch still is the newest.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn record(&self) -> Result<Record, LineageError> {
        let record = self
            .lineage
            .record()?
            .ok_or_else(|| LineageError::NoSuchName { name: self.lineage.name.clone() })?;
        record.check_epoch(self.number)?;
        Ok(record)
    }

    /// Whether this epoch still is the newest.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn is_current(&self) -> Result<bool, LineageError> {
        match self.record() {
            Ok(_) => Ok(true),
            Err(error) if error.is_fenced() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What this start should do.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn offer(&self, wish: &Wish) -> Result<Offer, LineageError> {
        Ok(offer(&self.record()?, wish))
    }

    /// The number of the generation that is made next.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn next_generation(&self) -> Result<u64, LineageError> {
        Ok(self.record()?.next)
    }

    /// Publishes a generation: the act that makes a checkpoint exist. Its manifest and data must be durable.
    ///
    /// # Errors
    /// [`LineageError::Fenced`] where a newer epoch began; [`LineageError::Collected`] where its manifest is gone or
    /// data it refers to carries a tombstone; or where the store fails.
    pub fn publish(&self, publication: &Publication) -> Result<(), LineageError> {
        self.check_tombstones(publication)?;
        self.change(|record, epoch, now| record.publish(epoch, publication, now))
    }

    /// Takes a suspend back whose program runs on after all (CRIU failed after it was published).
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::NoSuchGeneration`], or where the store fails.
    pub fn withdraw(&self, number: u64, reason: &str) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.withdraw(epoch, number, reason, self.lease, now))
    }

    /// Notes that CRIU is about to restore a generation.
    ///
    /// # Errors
    /// As [`Record::record_attempt`], or where the store fails.
    pub fn record_attempt(&self, number: u64) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.record_attempt(epoch, number, now))
    }

    /// Notes that a generation is restored. Call it before the program's first instruction.
    ///
    /// # Errors
    /// As [`Record::record_restored`], or where the store fails.
    pub fn record_restored(&self, number: u64) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.record_restored(epoch, number, now))
    }

    /// Notes that what this epoch restored runs on, without waiting for [`SETTLE`]: for one that nobody watches.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn record_settled(&self) -> Result<(), LineageError> {
        self.change(|record, epoch, _| record.record_settled(epoch))
    }

    /// Notes that a restore failed.
    ///
    /// # Errors
    /// As [`Record::record_failed`], or where the store fails.
    pub fn record_failed(&self, number: u64, reason: &str) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.record_failed(epoch, number, reason, now))
    }

    /// Notes a fresh start: everything kept before lies behind it.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn record_fresh(&self, reason: &str) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.record_fresh(epoch, reason, now))
    }

    /// Lengthens the lease. Call it at a third of the lease's length.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn renew(&self) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.renew(epoch, self.lease, now))
    }

    /// Ends the lease without a word on the program: for a start that came to nothing.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn release(&self) -> Result<(), LineageError> {
        self.change(|record, epoch, now| record.release(epoch, now))
    }

    /// Notes how the program ended, and ends the lease.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn close(&self, ending: Ending) -> Result<Closed, LineageError> {
        self.change(|record, epoch, now| record.close(epoch, ending, now))
    }

    fn change<T>(
        &self,
        mut step: impl FnMut(&mut Record, u64, Timestamp) -> Result<T, LineageError>,
    ) -> Result<T, LineageError> {
        self.lineage.change(false, |record, now| step(record, self.number, now))
    }

    /// Refuses a generation whose manifest is gone, or whose data is about to be.
    fn check_tombstones(&self, publication: &Publication) -> Result<(), LineageError> {
        let repository = &self.lineage.repository;
        let collected = |object: String| LineageError::Collected {
            name: self.lineage.name.clone(),
            manifest: publication.manifest,
            object,
        };
        let id = publication.manifest;
        if crate::gc::condemned_manifests(repository)?.contains_key(&id) {
            return Err(collected("the manifest itself".to_owned()));
        }
        if repository.backend().stat(&manifest_key(id))?.is_none() {
            return Err(collected(format!("manifest {id}")));
        }
        if publication.packs.is_empty() {
            return Ok(());
        }
        let condemned = repository.tombstoned()?;
        let there: HashSet<_> = repository.packs()?.into_iter().map(|pack| pack.id).collect();
        match publication.packs.iter().find(|pack| condemned.contains(pack) || !there.contains(pack)) {
            Some(pack) => Err(collected(format!("pack {pack}"))),
            None => Ok(()),
        }
    }
}

/// The key of a name's record: readable, unless the store is encrypted.
fn key(repository: &Repository, name: &Name) -> String {
    if repository.is_encrypted() {
        return format!("{PREFIX}{}", repository.inner.sealer.bytes_digest(name.to_string().as_bytes()));
    }
    format!("{PREFIX}{}/%{}", name.base(), name.slot().unwrap_or_default())
}

/// The time by the store's clock.
fn now(repository: &Repository) -> Result<Timestamp, BackendError> {
    let now = repository.backend().now()?;
    Ok(Timestamp::try_from(now).unwrap_or(Timestamp::MAX))
}

/// Reads the record under a key.
fn load(repository: &Repository, key: &str) -> Result<Option<(Tag, Record)>, LineageError> {
    let Some((tag, sealed)) = repository.backend().load(key)? else { return Ok(None) };
    let body = repository
        .open_record(key, &sealed)
        .map_err(|source| LineageError::Sealed { key: key.to_owned(), source })?;
    let broken =
        |source| LineageError::Record { name: key[PREFIX.len()..].to_owned(), key: key.to_owned(), source };
    let record = Record::parse(&body).map_err(broken)?;
    if self::key(repository, &record.name) != key {
        return Err(broken(RecordError::Contradiction {
            what: format!("it is the record of {}", record.name),
        }));
    }
    Ok(Some((tag, record)))
}

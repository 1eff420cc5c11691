//! A store, opened.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::backend::{Backend, BackendError, MAX_RECORD};
use crate::draft::{Draft, DraftError, DraftSettings};
use crate::format::{
    HEADER, Header, Locked, MANIFESTS, MAX_HEADER, MAX_SLOTS, PACKS, TOMBSTONES, disclose, enclose,
};
use crate::id::{BlockId, ManifestId, PackId, SlotId, StoreId};
use crate::index::Index;
use crate::key::{Cost, Credentials, KeyError, Slot, SlotKind};
use crate::manifest::Manifest;
use crate::manifest::head::{MAX_HEAD, decode_head};
use crate::pack::pack_key;
use crate::read::{BlockCache, ReadError};
use crate::seal::{Sealed, Sealer, Secret, random};

mod blocks;
mod collection;

pub(crate) use blocks::{IndexState, PlainBlock};

/// How often a change to the header is tried again when another writer was faster.
const HEADER_ATTEMPTS: usize = 8;

/// Why a store cannot be made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no store at that place.
    #[error("there is no store in {location}")]
    NoStore {
        /// The place.
        location: String,
    },
    /// There is a store already.
    #[error("there is a store in {location} already")]
    Exists {
        /// The place.
        location: String,
    },
    /// The place cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The header is damaged, or of a newer version.
    #[error("cannot open the store in {location}")]
    Read {
        /// The place.
        location: String,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
}

impl OpenError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoStore { .. } => "check --store; `torpor run` makes a store at its first checkpoint",
            Self::Exists { .. } => "open it, or choose another place with --store",
            Self::Backend(error) => error.remedy(),
            Self::Key(error) => error.remedy(),
            Self::Read { source: ReadError::Damaged { .. }, .. } => {
                "put the file torpor-store back from a backup: without it an encrypted store is lost"
            }
            Self::Read { source, .. } => source.remedy(),
        }
    }
}

/// What is known of a pack without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Which.
    pub id: PackId,
    /// Bytes of the object.
    pub size: u64,
    /// When it became visible, by the store's clock.
    pub modified: SystemTime,
}

/// What is known of a manifest object without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Which.
    pub id: ManifestId,
    /// Bytes of the object.
    pub size: u64,
    /// When it became visible, by the store's clock.
    pub modified: SystemTime,
}

/// A block's place in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// The pack.
    pub pack: PackId,
    /// Bytes it takes there.
    pub stored: u32,
}

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) sealer: Sealer,
    secret: Secret,
    unwritable: u64,
    pub(crate) index: RwLock<Index>,
    pub(crate) cache: BlockCache,
}

/// An opened store. Cheap to clone; clones share the key and the index.
#[derive(Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("backend", &self.inner.backend).finish_non_exhaustive()
    }
}

/// Key of a manifest object.
pub(crate) fn manifest_key(id: ManifestId) -> String {
    format!("{MANIFESTS}{id}")
}

/// Key of a pack's tombstone.
#[must_use]
pub fn tombstone_key(pack: PackId) -> String {
    format!("{TOMBSTONES}{pack}")
}

fn seconds_of(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

impl Repository {
    /// Makes a new store, encrypted if there are credentials.
    ///
    /// # Errors
    /// [`OpenError::Exists`], or where the place cannot be written.
    pub fn create(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        backend.prepare()?;
        let (store, secret) = (StoreId(random()), Zeroizing::new(random()));
        let slot = Slot::wrap(store, &secret, credentials, Cost::STANDARD);
        let header = Header::new(store, &secret, slot, seconds_of(backend.now()?));
        match backend.replace(HEADER, None, &header.encode(&secret)) {
            Ok(_) => Self::open(backend, credentials),
            Err(BackendError::Conflict { .. }) => Err(OpenError::Exists { location: backend.location() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`OpenError::NoStore`], a wrong key, a header that is damaged or of a newer version.
    pub fn open(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        let location = backend.location();
        let bytes = match backend.get(HEADER, MAX_HEADER as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(OpenError::NoStore { location }),
            Err(error) => return Err(error.into()),
        };
        let (header, sealer, secret) =
            Header::unlock(&bytes, credentials).map_err(|locked| match locked {
                Locked::Read(source) => OpenError::Read { location, source },
                Locked::Needed => KeyError::Needed { location }.into(),
                Locked::NotEncrypted => KeyError::NotEncrypted { location }.into(),
                Locked::Wrong(kind) => KeyError::Wrong { kind, location }.into(),
            })?;
        let inner = Inner {
            backend,
            sealer,
            secret,
            unwritable: header.unwritable(),
            index: RwLock::default(),
            cache: BlockCache::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a store, or makes it where there is none.
    ///
    /// # Errors
    /// As [`Repository::create`] and [`Repository::open`].
    pub fn open_or_create(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        match Self::open(Arc::clone(&backend), credentials) {
            Err(OpenError::NoStore { .. }) => match Self::create(Arc::clone(&backend), credentials) {
                // Another writer made it meanwhile.
                Err(OpenError::Exists { .. }) => Self::open(backend, credentials),
                created => created,
            },
            opened => opened,
        }
    }

    /// Where the store is, with its records and clock.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.inner.sealer.store()
    }

    /// Whether the store is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.inner.sealer.is_encrypting()
    }

    /// Whether this code may write to the store.
    ///
    /// # Errors
    /// [`ReadError::UnknownFeatures`] where the store has features that a writer must know.
    pub fn check_writable(&self) -> Result<(), ReadError> {
        match self.inner.unwritable {
            0 => Ok(()),
            flags => Err(ReadError::UnknownFeatures { object: "the store".to_owned(), flags }),
        }
    }

    /// Seals a record's body: checked in any store, secret in an encrypted one. It is bound to `key`.
    #[must_use]
    pub fn seal_record(&self, key: &str, body: &[u8]) -> Vec<u8> {
        enclose(&self.inner.sealer, Sealed::Record, key.as_bytes(), body)
    }

    /// Opens what [`Repository::seal_record`] made for the same key.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where it is not exactly that; [`ReadError::TooNew`].
    pub fn open_record(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, ReadError> {
        let object = || format!("record {key}");
        disclose(&self.inner.sealer, Sealed::Record, key.as_bytes(), sealed.to_vec(), MAX_RECORD, &object)
    }

    /// The key slots of an encrypted store; none of one that is not.
    ///
    /// # Errors
    /// Where the header cannot be read.
    pub fn key_slots(&self) -> Result<Vec<(SlotId, SlotKind)>, KeyError> {
        let (_, header) = self.header()?;
        Ok(header.slots.iter().filter_map(Slot::describe).collect())
    }

    /// Adds a slot that these credentials open.
    ///
    /// # Errors
    /// Where the store is not encrypted or cannot be written, or `credentials` are none.
    pub fn add_key(&self, credentials: &Credentials) -> Result<SlotId, KeyError> {
        let location = self.backend().location();
        if !self.is_encrypted() {
            return Err(KeyError::NotEncrypted { location });
        }
        let slot = Slot::wrap(self.id(), &self.inner.secret, credentials, Cost::STANDARD);
        let slot = slot.ok_or(KeyError::Needed { location })?;
        let id = SlotId::try_from(slot.id.as_slice()).map_err(|error| KeyError::Header {
            location: self.backend().location(),
            reason: error.to_string(),
        })?;
        self.change_header(|header| {
            if header.slots.len() >= MAX_SLOTS {
                return Err(KeyError::TooManySlots { count: header.slots.len() });
            }
            header.slots.push(slot.clone());
            Ok(())
        })?;
        Ok(id)
    }

    /// Removes a slot. The last one stays. Who knew its passphrase and kept a copy of the header can still open the
    /// store's data with it.
    ///
    /// # Errors
    /// Where there is no such slot, it is the last one, or the store cannot be written.
    pub fn remove_key(&self, slot: SlotId) -> Result<(), KeyError> {
        self.change_header(|header| {
            let at = header.slots.iter().position(|candidate| candidate.id == slot.as_bytes());
            let at = at.ok_or(KeyError::NoSuchSlot { slot })?;
            if header.slots.len() == 1 {
                return Err(KeyError::LastSlot { slot });
            }
            header.slots.remove(at);
            Ok(())
        })
    }

    fn header(&self) -> Result<(crate::backend::Tag, Header), KeyError> {
        let broken = |reason: &str| KeyError::Header {
            location: self.backend().location(),
            reason: reason.to_owned(),
        };
        let (tag, bytes) = self.backend().load(HEADER)?.ok_or_else(|| broken("it is missing"))?;
        let header =
            Header::reread(&bytes, &self.inner.secret).map_err(|error| broken(&error.to_string()))?;
        Ok((tag, header))
    }

    fn change_header(&self, change: impl Fn(&mut Header) -> Result<(), KeyError>) -> Result<(), KeyError> {
        let mut attempt = 0;
        loop {
            let (tag, mut header) = self.header()?;
            change(&mut header)?;
            match self.backend().replace(HEADER, Some(&tag), &header.encode(&self.inner.secret)) {
                Ok(_) => return Ok(()),
                Err(BackendError::Conflict { .. }) if attempt < HEADER_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Begins a generation. Reads what is needed to find known pages, and takes its memory: call it before the
    /// freeze.
    ///
    /// # Errors
    /// Where the index or the predecessor cannot be read, or the store cannot be written.
    pub fn draft(&self, settings: DraftSettings<'_>) -> Result<Draft, DraftError> {
        Draft::begin(self.clone(), settings)
    }

    /// All manifest objects, whether or not a name refers to them.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn manifests(&self) -> Result<Vec<ManifestInfo>, BackendError> {
        let entries = self.backend().list(MANIFESTS)?;
        let info = |entry: crate::backend::Entry| {
            let id = entry.key.strip_prefix(MANIFESTS)?.parse().ok()?;
            Some(ManifestInfo { id, size: entry.stat.size, modified: entry.stat.modified })
        };
        Ok(entries.into_iter().filter_map(info).collect())
    }

    /// Reads a manifest's head.
    ///
    /// # Errors
    /// Where it is missing, damaged or of a newer version.
    pub fn manifest(&self, id: ManifestId) -> Result<Manifest, ReadError> {
        let object = || format!("manifest {id}");
        let damaged = |reason: String| ReadError::Damaged { object: object(), reason };
        let bytes = match self.backend().get(&manifest_key(id), MAX_HEAD as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(ReadError::Missing { object: object() }),
            Err(error) => return Err(error.into()),
        };
        let sealer = &self.inner.sealer;
        let message = disclose(sealer, Sealed::Manifest, id.as_bytes(), bytes, MAX_HEAD, &object)?;
        if sealer.manifest_id(&message) != id {
            return Err(damaged("its content is not what its name says".to_owned()));
        }
        decode_head(id, &message).map_err(damaged)
    }

    /// Deletes a manifest object; its data stays until it is collected.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    pub fn delete_manifest(&self, id: ManifestId) -> Result<(), BackendError> {
        self.backend().delete(&manifest_key(id))
    }

    /// All packs.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn packs(&self) -> Result<Vec<PackInfo>, BackendError> {
        let entries = self.backend().list(PACKS)?;
        let info = |entry: crate::backend::Entry| {
            let id = entry.key.strip_prefix(PACKS)?.parse().ok()?;
            Some(PackInfo { id, size: entry.stat.size, modified: entry.stat.modified })
        };
        Ok(entries.into_iter().filter_map(info).collect())
    }

    /// Where a block lies: in one pack or in several, or in none that is known.
    ///
    /// # Errors
    /// Where the indexes cannot be listed.
    pub fn places(&self, block: BlockId) -> Result<Vec<BlockPlace>, ReadError> {
        let places = self.locate(block)?;
        Ok(places.into_iter().map(|place| BlockPlace { pack: place.pack, stored: place.stored }).collect())
    }

    /// Deletes a pack, then its tombstone if it has one. Call [`Repository::compact_index`] without it first.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    pub fn delete_pack(&self, pack: PackId) -> Result<(), BackendError> {
        self.forget_packs(&HashSet::from([pack]));
        self.backend().delete(&pack_key(pack))?;
        match self.backend().delete(&tombstone_key(pack)) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The packs that carry a tombstone: an object named by [`tombstone_key`], whose content is the collector's.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn tombstoned(&self) -> Result<HashSet<PackId>, BackendError> {
        let entries = self.backend().list(TOMBSTONES)?;
        Ok(entries.iter().filter_map(|entry| entry.key.strip_prefix(TOMBSTONES)?.parse().ok()).collect())
    }
}

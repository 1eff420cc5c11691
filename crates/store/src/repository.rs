//! A store, opened.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use crate::backend::{Backend, BackendError};
use crate::draft::{Draft, DraftError, DraftSettings};
use crate::id::{BlockId, ManifestId, PackId, SlotId, StoreId};
use crate::key::{Credentials, KeyError};
use crate::manifest::{Body, FileEntry, Manifest, MemoryId};
use crate::read::{MemoryReader, ReadError};

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
    /// The header or an index is damaged, or of a newer version.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl OpenError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        todo!()
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
    pub modified: std::time::SystemTime,
}

/// What is known of a manifest object without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Which.
    pub id: ManifestId,
    /// Bytes of the object.
    pub size: u64,
    /// When it became visible, by the store's clock.
    pub modified: std::time::SystemTime,
}

/// A block's place in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// The pack.
    pub pack: PackId,
    /// Bytes it takes there.
    pub stored: u32,
}

/// An opened store. Cheap to clone; clones share the key and the index.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Repository {
    /// Makes a new store, encrypted if there are credentials.
    ///
    /// # Errors
    /// [`OpenError::Exists`], or where the place cannot be written.
    pub fn create(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        todo!("{backend:?} {credentials:?}")
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`OpenError::NoStore`], a wrong key, a header that is damaged or of a newer version.
    pub fn open(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        todo!("{backend:?} {credentials:?}")
    }

    /// Opens a store, or makes it where there is none.
    ///
    /// # Errors
    /// As [`Repository::create`] and [`Repository::open`].
    pub fn open_or_create(backend: Arc<dyn Backend>, credentials: &Credentials) -> Result<Self, OpenError> {
        todo!("{backend:?} {credentials:?}")
    }

    /// Where the store is, and its records and clock.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        todo!()
    }

    /// Whether the store is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        todo!()
    }

    /// Seals a record's body (names in it are secret in an encrypted store). `key` is bound to it.
    #[must_use]
    pub fn seal_record(&self, key: &str, body: &[u8]) -> Vec<u8> {
        todo!("{key} {body:?}")
    }

    /// Opens what [`Repository::seal_record`] made for the same key.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where it is not exactly that.
    pub fn open_record(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, ReadError> {
        todo!("{key} {sealed:?}")
    }

    /// The key slots of an encrypted store.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn key_slots(&self) -> Result<Vec<(SlotId, &'static str)>, KeyError> {
        todo!()
    }

    /// Adds a slot that these credentials open.
    ///
    /// # Errors
    /// Where the store is not encrypted or cannot be written.
    pub fn add_key(&self, credentials: &Credentials) -> Result<SlotId, KeyError> {
        todo!("{credentials:?}")
    }

    /// Removes a slot. The last one stays.
    ///
    /// # Errors
    /// Where there is no such slot, it is the last one, or the store cannot be written.
    pub fn remove_key(&self, slot: SlotId) -> Result<(), KeyError> {
        todo!("{slot}")
    }

    /// Begins a generation. Reads what is needed to find known pages: call it before the freeze.
    ///
    /// # Errors
    /// Where the index or the predecessor cannot be read.
    pub fn draft(&self, settings: DraftSettings<'_>) -> Result<Draft, DraftError> {
        todo!("{settings:?}")
    }

    /// All manifest objects, whether or not a name refers to them.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn manifests(&self) -> Result<Vec<ManifestInfo>, BackendError> {
        todo!()
    }

    /// Reads a manifest's head.
    ///
    /// # Errors
    /// Where it is missing, damaged or of a newer version.
    pub fn manifest(&self, id: ManifestId) -> Result<Manifest, ReadError> {
        todo!("{id}")
    }

    /// Deletes a manifest object; its data stays until it is collected.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    pub fn delete_manifest(&self, id: ManifestId) -> Result<(), BackendError> {
        todo!("{id}")
    }

    /// All packs.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn packs(&self) -> Result<Vec<PackInfo>, BackendError> {
        todo!()
    }

    /// Where a block lies, newest index first; a block may lie in several packs.
    #[must_use]
    pub fn places(&self, block: BlockId) -> Vec<BlockPlace> {
        todo!("{block}")
    }

    /// Copies blocks, as they are stored, into new packs and indexes these: what a collection does before it deletes
    /// sparse packs. Durable when it returns.
    ///
    /// # Errors
    /// Where a block cannot be read or the store cannot be written.
    pub fn copy_blocks(&self, from: PackId, blocks: &HashSet<BlockId>) -> Result<Vec<PackId>, DraftError> {
        todo!("{from} {blocks:?}")
    }

    /// Writes one index without the packs in `gone` and deletes the indexes it replaces.
    ///
    /// # Errors
    /// Where an index cannot be read, written or deleted.
    pub fn compact_index(&self, gone: &HashSet<PackId>) -> Result<(), DraftError> {
        todo!("{gone:?}")
    }

    /// Deletes a pack and its tombstone. Call [`Repository::compact_index`] first.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    pub fn delete_pack(&self, pack: PackId) -> Result<(), BackendError> {
        todo!("{pack}")
    }

    /// The packs that carry a tombstone: an object `tombstones/PACK`, whose content is the collector's.
    ///
    /// # Errors
    /// Where they cannot be listed.
    pub fn tombstoned(&self) -> Result<HashSet<PackId>, BackendError> {
        todo!()
    }

    /// The body of an image.
    ///
    /// # Errors
    /// Where there is no such image, or it is damaged.
    pub fn read_image(&self, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ReadError> {
        todo!("{manifest:?} {name}")
    }

    /// The file entries, by section and path, one segment at a time.
    pub fn files<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> impl Iterator<Item = Result<FileEntry, ReadError>> + use<'a> {
        let _ = manifest;
        std::iter::from_fn(|| todo!())
    }

    /// Writes a file's content, holes as zeros.
    ///
    /// # Errors
    /// Where the data is damaged or `to` fails.
    pub fn read_file(&self, entry: &FileEntry, to: &mut dyn Write) -> Result<(), ReadError> {
        todo!("{entry:?} {}", to.flush().is_ok())
    }

    /// Puts a file's content back, holes as holes, and sets its size.
    ///
    /// # Errors
    /// Where the data is damaged or `to` fails.
    pub fn restore_file(&self, entry: &FileEntry, to: &std::fs::File) -> Result<(), ReadError> {
        todo!("{entry:?} {to:?}")
    }

    /// Reads a whole body at once, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// Where the data is damaged.
    pub fn read_body(&self, body: &Body, limit: usize) -> Result<Vec<u8>, ReadError> {
        todo!("{body:?} {limit}")
    }

    /// A memory object of a generation, to lay out or to read at random.
    ///
    /// # Errors
    /// [`ReadError::NoSuchMemory`].
    pub fn memory(&self, manifest: &Manifest, id: MemoryId) -> Result<MemoryReader, ReadError> {
        todo!("{manifest:?} {id}")
    }
}

//! Keep checkpoints: blocks, packs, manifests and the lineage of a name.
//!
//! The format is described in `docs/formats/store.md`. A [`Repository`] is a store, opened; a [`Draft`] is a
//! generation in the making; a [`Manifest`] is one that exists.

pub mod backend;
pub mod draft;
pub mod id;
pub mod key;
pub mod manifest;
pub mod read;
pub mod repository;
pub mod verify;

pub use backend::{Backend, BackendError, LocalBackend, MemoryBackend};
pub use draft::{Draft, DraftError, DraftSettings, FinishedDraft};
pub use id::{BlockId, ManifestId, PackId};
pub use key::{Credentials, KeyError};
pub use manifest::{Description, GenerationKind, Manifest, MemoryId};
pub use read::{MemoryReader, PagemapEntry, ReadError};
pub use repository::{OpenError, Repository};

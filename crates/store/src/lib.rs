//! Keep checkpoints: blocks, packs, manifests and the lineage of a name.
//!
//! The format is described in `docs/formats/store.md`. A [`Repository`] is a store, opened; a [`Draft`] is a
//! generation in the making; a [`Manifest`] is one that exists.

pub mod backend;
mod block;
pub mod checksum;
#[cfg(any(test, fuzzing))]
pub mod decoders;
pub mod direct;
pub mod draft;
mod format;
pub mod gc;
pub mod id;
mod index;
pub mod key;
pub mod lineage;
pub mod manifest;
pub mod name;
mod pack;
pub mod prune;
pub mod read;
pub mod repository;
pub mod retention;
mod seal;
mod sys;
pub mod verify;

pub use backend::{Backend, BackendError, LocalBackend, MemoryBackend};
pub use draft::{Draft, DraftError, DraftSettings, FinishedDraft, PageRange, ReadPages};
pub use format::VERSION;
pub use id::{BlockId, ManifestId, PackId};
pub use key::{Credentials, KeyError};
pub use lineage::Lineage;
pub use manifest::{Description, GenerationKind, Manifest, MemoryId};
pub use name::Name;
pub use read::{MemoryReader, PagemapEntry, ReadError};
pub use repository::{OpenError, Repository};

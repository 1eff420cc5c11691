//! Collection: removing what no generation needs any more.
//!
//! Writers and collectors share no lock. What nothing refers to gets a *tombstone* first, and is deleted by a later
//! collection, once the tombstone is older than the longest session: every writer that could have chosen the object
//! before has published or given up by then, later writers do not choose it, and publishing refuses a generation
//! that refers to a tombstoned or deleted object. All ages are by the store's clock.
//!
//! A collection looks at the store ([`Survey`]), decides ([`GcPlan`]), and acts in an order that a kill at any point
//! leaves whole: what is needed after all loses its tombstone, sparse packs are rewritten before they are marked,
//! manifests go before the packs they refer to, and the index forgets packs before they are deleted.

mod plan;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod story;
mod survey;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

pub use plan::{GcPlan, GcSettings, MarkedPack, SparsePack};
pub use survey::{Survey, SurveyedManifest, SurveyedPack};

use crate::backend::BackendError;
use crate::draft::DraftError;
use crate::id::{BlockId, ManifestId, PackId};
use crate::lineage::LineageError;
use crate::read::ReadError;
use crate::repository::Repository;

/// Where tombstones of packs lie; writers look here.
const PACKS: &str = "tombstones/";
/// Where tombstones of manifests lie; publishing looks here.
const MANIFESTS: &str = "condemned/";

/// Why a collection stops. Nothing that is needed has been deleted then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// A generation's manifest cannot be read, so what it needs is not known.
    #[error("generation {generation} of {name} cannot be read, so nothing can be collected")]
    Unreadable {
        /// The name.
        name: String,
        /// The generation.
        generation: u64,
        /// Why not.
        #[source]
        source: ReadError,
    },
    /// A block that a generation needs is in no indexed pack.
    #[error(
        "block {block}, which manifest {manifest} needs, is in no pack the index knows; nothing is collected"
    )]
    Lost {
        /// The block.
        block: BlockId,
        /// A manifest that needs it.
        manifest: ManifestId,
    },
    /// A record cannot be read, so what it refers to is not known.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// A sparse pack cannot be rewritten.
    #[error("cannot rewrite pack {pack}")]
    Rewrite {
        /// The pack.
        pack: PackId,
        /// Why not.
        #[source]
        source: DraftError,
    },
    /// The index cannot be written.
    #[error("cannot rewrite the index")]
    Index {
        /// Why not.
        #[source]
        source: DraftError,
    },
    /// The index cannot be read.
    #[error("cannot read the index")]
    NoIndex {
        /// Why not.
        #[source]
        source: ReadError,
    },
    /// The store fails.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl GcError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            GcError::Unreadable { source: ReadError::Missing { .. }, name, generation } => format!(
                "`torpor verify --repair` rebuilds the index, which may know it again; `torpor rm {name}@{generation}` \
                 gives the generation up"
            ),
            GcError::Unreadable { name, generation, .. } => format!(
                "`torpor verify` tells what is damaged; `torpor rm {name}@{generation}` gives the generation up"
            ),
            GcError::Lost { .. } => "`torpor verify --repair` rebuilds the index from the packs".to_owned(),
            GcError::Lineage(error) => error.remedy(),
            GcError::Rewrite { source, .. } | GcError::Index { source } => source.remedy().to_owned(),
            GcError::NoIndex { .. } => {
                "`torpor verify --repair` rebuilds the index from the packs".to_owned()
            }
            GcError::Backend(error) => error.remedy().to_owned(),
        }
    }
}

/// Carries a plan out. A kill at any point leaves a whole store, and the next collection goes on.
///
/// # Errors
/// Where the store fails; what was done until then stays done.
pub fn execute(repository: &Repository, plan: &GcPlan) -> Result<(), GcError> {
    for pack in &plan.spare_packs {
        delete(repository, &pack_tombstone(*pack))?;
    }
    for manifest in &plan.spare_manifests {
        delete(repository, &manifest_tombstone(*manifest))?;
    }
    for sparse in &plan.rewrite {
        repository
            .copy_blocks(sparse.id, &sparse.needed)
            .map_err(|source| GcError::Rewrite { pack: sparse.id, source })?;
        mark(repository, &pack_tombstone(sparse.id))?;
    }
    for manifest in &plan.mark_manifests {
        mark(repository, &manifest_tombstone(*manifest))?;
    }
    for pack in &plan.mark_packs {
        mark(repository, &pack_tombstone(pack.id))?;
    }
    for &manifest in &plan.delete_manifests {
        match repository.delete_manifest(manifest) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        delete(repository, &manifest_tombstone(manifest))?;
    }
    if !plan.delete_packs.is_empty() {
        let gone: HashSet<PackId> = plan.delete_packs.iter().map(|pack| pack.id).collect();
        repository.compact_index(&gone).map_err(|source| GcError::Index { source })?;
        for pack in &plan.delete_packs {
            match repository.delete_pack(pack.id) {
                Ok(()) => {}
                Err(error) if error.is_not_found() => delete(repository, &pack_tombstone(pack.id))?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    for orphan in &plan.drop_tombstones {
        delete(repository, orphan)?;
    }
    for leftover in &plan.leftovers {
        match repository.backend().sweep(leftover) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Manifests with a tombstone, and since when.
pub(crate) fn condemned_manifests(
    repository: &Repository,
) -> Result<BTreeMap<ManifestId, SystemTime>, BackendError> {
    tombstones(repository, MANIFESTS)
}

/// Tombstones under a prefix, with their age. What is not named like an id is not ours, and left alone.
fn tombstones<Id: std::str::FromStr + Ord>(
    repository: &Repository,
    prefix: &str,
) -> Result<BTreeMap<Id, SystemTime>, BackendError> {
    Ok(repository
        .backend()
        .list(prefix)?
        .into_iter()
        .filter_map(|entry| Some((entry.key.strip_prefix(prefix)?.parse().ok()?, entry.stat.modified)))
        .collect())
}

fn pack_tombstone(pack: PackId) -> String {
    format!("{PACKS}{pack}")
}

fn manifest_tombstone(manifest: ManifestId) -> String {
    format!("{MANIFESTS}{manifest}")
}

/// Writes a tombstone, unless there is one.
fn mark(repository: &Repository, key: &str) -> Result<(), BackendError> {
    match repository.backend().replace(key, None, b"collected by torpor gc\n") {
        Ok(_) | Err(BackendError::Conflict { .. } | BackendError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes an object, if it is there.
fn delete(repository: &Repository, key: &str) -> Result<(), BackendError> {
    match repository.backend().delete(key) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// How long before `now` a moment was; nothing for the future.
fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

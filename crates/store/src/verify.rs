//! Verification of a whole store, and repair of what can be derived.

use crate::backend::BackendError;
use crate::draft::DraftError;
use crate::id::ManifestId;
use crate::repository::Repository;

/// How thoroughly to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every object is there, and every table is whole.
    Structure,
    /// Every byte is read and verified too.
    Data,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, by kind and name.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// The generations that cannot be restored because of it, as manifests.
    pub hurts: Vec<ManifestId>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Manifests looked at.
    pub manifests: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Blocks looked at.
    pub blocks: u64,
    /// Bytes read and verified.
    pub bytes: u64,
    /// What is wrong. Empty for a whole store.
    pub damage: Vec<Damage>,
    /// Packs that no index has; [`repair`] indexes them.
    pub unindexed_packs: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Verifies a store. Damage is no error: it is in the report.
///
/// # Errors
/// Where the store cannot be listed at all.
pub fn verify(repository: &Repository, depth: Depth) -> Result<Report, BackendError> {
    todo!("{repository:?} {depth:?}")
}

/// Rebuilds the index from the packs. Packs that cannot be read are left alone and named in the report.
///
/// # Errors
/// Where the new index cannot be written.
pub fn repair(repository: &Repository) -> Result<Report, DraftError> {
    todo!("{repository:?}")
}

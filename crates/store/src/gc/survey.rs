//! What a collection finds in a store.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use super::{GcError, MANIFESTS, PACKS, tombstones};
use crate::backend::Entry;
use crate::id::{BlockId, ManifestId, PackId};
use crate::lineage::{Lineage, Record};
use crate::repository::Repository;

/// What a collection finds in a store: everything its plan depends on.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The time by the store's clock.
    pub now: SystemTime,
    /// Every pack, or tombstone without one.
    pub packs: BTreeMap<PackId, SurveyedPack>,
    /// Every manifest, or tombstone without one.
    pub manifests: BTreeMap<ManifestId, SurveyedManifest>,
    /// Temporary files of writers.
    pub leftovers: Vec<Entry>,
    /// Where the blocks lie that manifests refer to: packs with the bytes the block takes there.
    pub places: BTreeMap<BlockId, Vec<(PackId, u64)>>,
}

/// A pack, as found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SurveyedPack {
    /// Size and time of the object; none if only a tombstone is left.
    pub object: Option<(u64, SystemTime)>,
    /// Bytes of all its blocks, as far as the index knows it; its table and header are not waste.
    pub content: u64,
    /// When it was marked.
    pub marked: Option<SystemTime>,
}

/// A manifest, as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurveyedManifest {
    /// Size and time of the object; none if only a tombstone is left.
    pub object: Option<(u64, SystemTime)>,
    /// When it was marked.
    pub marked: Option<SystemTime>,
    /// Whether a name refers to it.
    pub published: bool,
    /// The blocks it needs. Empty if it cannot be read, which is an error only for a published one.
    pub blocks: Vec<BlockId>,
}

impl Survey {
    /// Looks at a store.
    ///
    /// Objects are listed before the records are read: a generation that is published in between is then seen as
    /// published, never as unneeded.
    ///
    /// # Errors
    /// Where the store, a record or a published manifest cannot be read.
    pub fn take(repository: &Repository) -> Result<Survey, GcError> {
        let backend = repository.backend();
        let now = backend.now()?;
        let mut packs: BTreeMap<PackId, SurveyedPack> = BTreeMap::new();
        for info in repository.packs()? {
            packs.entry(info.id).or_default().object = Some((info.size, info.modified));
        }
        repository.refresh_index().map_err(|source| GcError::NoIndex { source })?;
        for table in repository.index().packs() {
            if let Some(pack) = packs.get_mut(&table.id) {
                pack.content = table.blocks.iter().map(|block| u64::from(block.stored)).sum();
            }
        }
        for (id, marked) in tombstones(repository, PACKS)? {
            packs.entry(id).or_default().marked = Some(marked);
        }
        let mut manifests: BTreeMap<ManifestId, SurveyedManifest> = BTreeMap::new();
        for info in repository.manifests()? {
            manifests.entry(info.id).or_default().object = Some((info.size, info.modified));
        }
        for (id, marked) in tombstones(repository, MANIFESTS)? {
            manifests.entry(id).or_default().marked = Some(marked);
        }
        let leftovers = backend.leftovers(now)?;
        let records = Lineage::all(repository)?;
        read_manifests(repository, &records, &mut manifests)?;
        let needed: HashSet<BlockId> =
            manifests.values().flat_map(|manifest| manifest.blocks.iter().copied()).collect();
        let mut places = BTreeMap::new();
        for block in needed {
            let found = repository.places(block).map_err(|source| GcError::NoIndex { source })?;
            places.insert(block, found.iter().map(|place| (place.pack, u64::from(place.stored))).collect());
        }
        // What was published since the first listing may lie in packs that are newer than it.
        for info in repository.packs()? {
            let object = Some((info.size, info.modified));
            packs.entry(info.id).or_insert(SurveyedPack { object, ..SurveyedPack::default() });
        }
        Ok(Survey { now, packs, manifests, leftovers, places })
    }
}

/// Reads what every manifest needs. One that is published must be readable, whenever it was written.
fn read_manifests(
    repository: &Repository,
    records: &[Record],
    manifests: &mut BTreeMap<ManifestId, SurveyedManifest>,
) -> Result<(), GcError> {
    let read = |id| repository.manifest(id).and_then(|manifest| repository.blocks(&manifest));
    for record in records {
        for generation in &record.generations {
            let blocks = read(generation.manifest).map_err(|source| GcError::Unreadable {
                name: record.name.to_string(),
                generation: generation.number,
                source,
            })?;
            let surveyed = manifests.entry(generation.manifest).or_default();
            surveyed.published = true;
            surveyed.blocks = blocks;
        }
    }
    for (&id, surveyed) in manifests.iter_mut().filter(|(_, surveyed)| !surveyed.published) {
        if surveyed.object.is_some() {
            surveyed.blocks = read(id).unwrap_or_default();
        }
    }
    Ok(())
}

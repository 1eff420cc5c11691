//! Verification of a whole store, and repair of what can be derived.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::backend::BackendError;
use crate::block::Opener;
use crate::draft::DraftError;
use crate::format::{INDEXES, MANIFESTS, PACKS};
use crate::id::{BlockId, ManifestId, PackId};
use crate::index::index_key;
use crate::manifest::{Manifest, Source};
use crate::pack::{PackTable, begins_well, pack_key};
use crate::read::ReadError;
use crate::repository::{IndexState, PackInfo, Repository};

/// How thoroughly to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every object is there, and every table is whole.
    Structure,
    /// Every byte is read and verified too.
    Data,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The object, by kind and name.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// The generations that cannot be restored because of it, as manifests.
    pub hurts: Vec<ManifestId>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Manifests looked at.
    pub manifests: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Blocks looked at.
    pub blocks: u64,
    /// Bytes of blocks read and verified.
    pub bytes: u64,
    /// What is wrong. Empty for a whole store.
    pub damage: Vec<Damage>,
    /// Packs that no index has: of a writer that was killed, or is at work, or of a lost index ([`repair`] indexes
    /// them).
    pub unindexed_packs: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    fn add(&mut self, object: String, reason: String) {
        self.damage.push(Damage { object, reason, hurts: Vec::new() });
    }

    fn add_error(&mut self, object: String, error: &ReadError) {
        let reason = match error {
            ReadError::Damaged { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        self.add(object, reason);
    }
}

/// Verifies a store. Damage is no error: it is in the report.
///
/// # Errors
/// Where the store cannot be listed at all.
pub fn verify(repository: &Repository, depth: Depth) -> Result<Report, ReadError> {
    let mut report = Report::default();
    for prefix in [PACKS, INDEXES, MANIFESTS] {
        for entry in repository.backend().list(prefix)? {
            if entry.key[prefix.len()..].parse::<PackId>().is_err() {
                report.add(entry.key, "its name is not that of an object".to_owned());
            }
        }
    }
    // Manifests first: a pack that is written while this runs is then only unindexed.
    let manifests = read_manifests(repository, &mut report)?;
    repository.load_index()?;
    let missing = missing_packs(repository)?;
    repository.refresh_index()?;
    let unreadable: Vec<_> =
        repository.index().unreadable.iter().map(|(id, reason)| (*id, reason.clone())).collect();
    for (id, reason) in unreadable {
        report.add(format!("index {id}"), reason);
    }
    let mut broken = verify_packs(repository, depth, &mut report)?;
    let mut hurt: BTreeMap<BlockId, Vec<ManifestId>> = BTreeMap::new();
    for manifest in &manifests {
        verify_references(repository, manifest, &mut broken, &mut hurt, &mut report);
    }
    for (block, hurts) in hurt {
        let (object, reason) = match (broken.remove(&block), missing.get(&block)) {
            (Some(known), _) => known,
            (None, Some(pack)) => (format!("pack {pack}"), "it is missing".to_owned()),
            (None, None) => (format!("block {block}"), "it lies in no pack that an index has".to_owned()),
        };
        match report.damage.iter_mut().find(|damage| damage.object == object) {
            Some(damage) => damage.hurts.extend(hurts),
            None => report.damage.push(Damage { object, reason, hurts }),
        }
    }
    // Damage that no generation needs is damage all the same.
    for (object, reason) in broken.into_values() {
        if !report.damage.iter().any(|damage| damage.object == object) {
            report.add(object, reason);
        }
    }
    for damage in &mut report.damage {
        damage.hurts.sort();
        damage.hurts.dedup();
    }
    report.damage.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(report)
}

/// The blocks of packs that an index has and the store has not.
fn missing_packs(repository: &Repository) -> Result<HashMap<BlockId, PackId>, ReadError> {
    let there: HashSet<PackId> = repository.packs()?.iter().map(|pack| pack.id).collect();
    let index = repository.index();
    let gone = index.packs().filter(|pack| !there.contains(&pack.id));
    Ok(gone.flat_map(|pack| pack.blocks.iter().map(|block| (block.id, pack.id))).collect())
}

/// Blocks that cannot be read, each with the object to name and what is wrong with it.
type Broken = HashMap<BlockId, (String, String)>;

fn read_manifests(repository: &Repository, report: &mut Report) -> Result<Vec<Manifest>, ReadError> {
    let mut manifests = Vec::new();
    for info in repository.manifests()? {
        report.manifests += 1;
        match repository.manifest(info.id) {
            Ok(manifest) => manifests.push(manifest),
            Err(ReadError::Backend(error)) if !error.is_not_found() => return Err(error.into()),
            // Pruned since the listing.
            Err(ReadError::Missing { .. }) => report.manifests -= 1,
            Err(error) => {
                report.add_error(format!("manifest {}", info.id), &error);
                if let Some(damage) = report.damage.last_mut() {
                    damage.hurts.push(info.id);
                }
            }
        }
    }
    Ok(manifests)
}

/// Looks at every pack; returns the blocks that are whole nowhere.
fn verify_packs(repository: &Repository, depth: Depth, report: &mut Report) -> Result<Broken, ReadError> {
    let mut broken = Broken::new();
    let mut whole: HashSet<BlockId> = HashSet::new();
    let there = repository.packs()?;
    for pack in &there {
        report.packs += 1;
        let name = format!("pack {}", pack.id);
        let indexed = repository.index().pack(pack.id).cloned();
        let table = match repository.read_pack_table(pack.id) {
            Ok(table) => table,
            Err(ReadError::Backend(error)) if !error.is_not_found() && !is_short(&error) => {
                return Err(error.into());
            }
            Err(error) => {
                report.add_error(name.clone(), &error);
                for block in indexed.iter().flat_map(|table| &table.blocks) {
                    broken.insert(block.id, (name.clone(), error.to_string()));
                }
                continue;
            }
        };
        match indexed {
            None => report.unindexed_packs += 1,
            Some(indexed) if !agrees(&indexed, &table) => {
                report.add(name.clone(), "an index says otherwise than its table".to_owned());
            }
            Some(_) => {}
        }
        verify_blocks(repository, pack, &table, depth, report, &mut whole, &mut broken)?;
    }
    broken.retain(|block, _| !whole.contains(block));
    Ok(broken)
}

fn is_short(error: &BackendError) -> bool {
    matches!(error, BackendError::ShortRead { .. })
}

fn agrees(indexed: &PackTable, table: &PackTable) -> bool {
    indexed.size == table.size
        && indexed.blocks.len() == table.blocks.len()
        && indexed.blocks.iter().zip(&table.blocks).all(|(a, b)| {
            (a.id, a.offset, a.stored, a.codec, &a.cut) == (b.id, b.offset, b.stored, b.codec, &b.cut)
        })
}

fn verify_blocks(
    repository: &Repository,
    pack: &PackInfo,
    table: &PackTable,
    depth: Depth,
    report: &mut Report,
    whole: &mut HashSet<BlockId>,
    broken: &mut Broken,
) -> Result<(), ReadError> {
    report.blocks += table.blocks.len() as u64;
    if depth == Depth::Structure {
        whole.extend(table.blocks.iter().map(|block| block.id));
        return Ok(());
    }
    if !begins_well(repository.backend(), pack.id)? {
        report.add(format!("pack {}", pack.id), "it does not begin as a pack does".to_owned());
    }
    let mut opener = Opener::new()
        .map_err(|source| ReadError::Output { what: "a decompressed block".to_owned(), source })?;
    let (mut sealed, mut plain) = (Vec::new(), Vec::new());
    for block in &table.blocks {
        sealed.resize(block.stored as usize, 0);
        repository.backend().read_at(&pack_key(pack.id), block.offset, &mut sealed)?;
        let sealer = &repository.inner.sealer;
        match opener.open(sealer, block.id, &block.cut, block.codec, &mut sealed, &mut plain) {
            Ok(()) => {
                report.bytes += u64::from(block.stored);
                whole.insert(block.id);
            }
            Err(damage) => {
                let object = format!("block {} in pack {}", block.id, pack.id);
                broken.insert(block.id, (object, damage.to_string()));
            }
        }
    }
    Ok(())
}

/// Looks at everything a manifest refers to.
fn verify_references(
    repository: &Repository,
    manifest: &Manifest,
    broken: &mut Broken,
    hurt: &mut BTreeMap<BlockId, Vec<ManifestId>>,
    report: &mut Report,
) {
    let mut look = |block: BlockId| {
        let is_lost =
            broken.contains_key(&block) || repository.locate(block).is_ok_and(|places| places.is_empty());
        if is_lost {
            hurt.entry(block).or_default().push(manifest.id());
        }
        !is_lost
    };
    let mut failed = |error: ReadError| {
        report.add_error(format!("manifest {}", manifest.id()), &error);
        if let Some(damage) = report.damage.last_mut() {
            damage.hurts.push(manifest.id());
        }
    };
    for run in manifest.images().iter().flat_map(|image| &image.body.runs) {
        look(run.pieces.block);
    }
    let mut segments_are_there = true;
    for segment in manifest.files.iter().chain(manifest.memory().iter().flat_map(|object| &object.segments)) {
        segments_are_there &= look(segment.block);
    }
    if !segments_are_there {
        // What they would have said is not known, and the generation is named already.
        return;
    }
    for entry in repository.files(manifest) {
        match entry {
            Ok(entry) => entry.body.runs.iter().for_each(|run| {
                look(run.pieces.block);
            }),
            Err(error) => failed(error),
        }
    }
    for object in manifest.memory() {
        match repository.memory(manifest, object.id).and_then(|memory| memory.extents()) {
            Ok(extents) => extents.iter().for_each(|extent| {
                if let Source::Block { block, .. } = extent.source {
                    look(block);
                }
            }),
            Err(error) => failed(error),
        }
    }
}

/// Rebuilds the index from the packs and replaces all others by it. Packs that cannot be read stay, and are damage in
/// the report, which is of the store after the repair.
///
/// # Errors
/// Where the store cannot be listed or the new index not be written.
pub fn repair(repository: &Repository) -> Result<Report, DraftError> {
    repository.check_writable()?;
    let mut tables = Vec::new();
    for pack in repository.packs()? {
        match repository.read_pack_table(pack.id) {
            Ok(table) => tables.push(table),
            Err(ReadError::Backend(error)) if !error.is_not_found() && !is_short(&error) => {
                return Err(error.into());
            }
            Err(error) => tracing::warn!(%error, "a pack cannot be indexed"),
        }
    }
    let known: HashSet<PackId> = repository.index().packs().map(|pack| pack.id).collect();
    {
        let mut index = repository.index_mut();
        index.remove(&known);
        index.add(tables);
    }
    let mut replaced = HashSet::new();
    for id in repository.list_indexes()? {
        match repository.index_state(id)? {
            IndexState::Whole => {}
            // The new index can have the content, and so the name, of one that is damaged.
            IndexState::Damaged => repository.backend().delete(&index_key(id))?,
            IndexState::Newer => continue,
        }
        replaced.insert(id);
    }
    repository.replace_indexes(&replaced)?;
    Ok(verify(repository, Depth::Structure)?)
}

/// The keys of everything a store of this format has, for tools that copy it: packs before indexes before manifests,
/// so that a copy that is cut short refers to nothing that is missing.
///
/// # Errors
/// Where the store cannot be listed.
pub fn keys(repository: &Repository) -> Result<Vec<String>, BackendError> {
    let mut keys: Vec<String> = repository.packs()?.into_iter().map(|pack| pack_key(pack.id)).collect();
    keys.extend(repository.list_indexes()?.into_iter().map(index_key));
    keys.extend(repository.manifests()?.into_iter().map(|info| crate::repository::manifest_key(info.id)));
    Ok(keys)
}

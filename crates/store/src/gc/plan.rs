//! What a collection does: a pure decision over a survey.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::survey::{Survey, SurveyedManifest};
use super::{GcError, age, manifest_tombstone, pack_tombstone};
use crate::backend::Entry;
use crate::id::{BlockId, ManifestId, PackId};

/// How a collection decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcSettings {
    /// No session (from the begin of a draft to its publication, or the loading of a restored program) takes longer.
    /// Whatever is younger is left alone.
    pub longest_session: Duration,
    /// Packs of whose blocks less than this share (in percent of their bytes) is needed are rewritten.
    pub sparse_below: u8,
}

impl Default for GcSettings {
    fn default() -> GcSettings {
        GcSettings { longest_session: Duration::from_secs(2 * 60 * 60), sparse_below: 50 }
    }
}

/// What a collection does. The fields are in the order of their execution.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcPlan {
    /// Marked packs that are needed after all: they lose their tombstones.
    pub spare_packs: Vec<PackId>,
    /// Marked manifests that are published after all: they lose their tombstones.
    pub spare_manifests: Vec<ManifestId>,
    /// Packs of which little is needed: that is copied, and they are marked.
    pub rewrite: Vec<SparsePack>,
    /// Manifests that no name refers to: they are marked.
    pub mark_manifests: Vec<ManifestId>,
    /// Packs of which nothing is needed: they are marked.
    pub mark_packs: Vec<MarkedPack>,
    /// Manifests that were marked long enough ago: they are deleted.
    pub delete_manifests: Vec<ManifestId>,
    /// Packs that were marked long enough ago: they are deleted.
    pub delete_packs: Vec<MarkedPack>,
    /// Tombstones of what is gone already.
    pub drop_tombstones: Vec<String>,
    /// Temporary files of writers that are gone.
    #[serde(serialize_with = "keys")]
    pub leftovers: Vec<Entry>,
    /// Marked objects that are not old enough to be deleted.
    pub waiting: usize,
    /// Bytes of packs that stay.
    pub kept_bytes: u64,
}

/// A pack that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkedPack {
    /// Which.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
}

/// A pack of which little is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SparsePack {
    /// Which.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are needed.
    pub used: u64,
    /// The blocks that are needed.
    #[serde(skip)]
    pub needed: HashSet<BlockId>,
}

fn keys<S: serde::Serializer>(entries: &[Entry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(|entry| &entry.key))
}

impl GcPlan {
    /// Decides what a collection does.
    ///
    /// # Errors
    /// [`GcError::Lost`] where a published generation needs a block that no pack has: then the index is damaged, and
    /// what looks unneeded may not be.
    pub fn new(survey: &Survey, settings: &GcSettings) -> Result<GcPlan, GcError> {
        let mut plan = GcPlan::default();
        let old = |then| age(survey.now, then) >= settings.longest_session;
        let mut needed: HashSet<BlockId> = HashSet::new();
        for (&id, manifest) in &survey.manifests {
            let young = manifest.object.is_none_or(|(_, modified)| !old(modified));
            match (manifest.object, manifest.marked) {
                (_, marked) if manifest.published => {
                    plan.spare_manifests.extend(marked.map(|_| id));
                    check_places(survey, id, manifest)?;
                    needed.extend(&manifest.blocks);
                }
                (None, _) => plan.drop_tombstones.push(manifest_tombstone(id)),
                (Some(_), Some(marked)) if old(marked) => plan.delete_manifests.push(id),
                (Some(_), Some(_)) => plan.waiting += 1,
                (Some(_), None) if young => needed.extend(&manifest.blocks),
                (Some(_), None) => plan.mark_manifests.push(id),
            }
        }
        let mut used = chosen_places(survey, &needed);
        for (&id, pack) in &survey.packs {
            let blocks = used.remove(&id).unwrap_or_default();
            let used: u64 = blocks.values().sum();
            let Some((size, modified)) = pack.object else {
                plan.drop_tombstones.push(pack_tombstone(id));
                continue;
            };
            match pack.marked {
                Some(_) if !blocks.is_empty() => plan.spare_packs.push(id),
                Some(marked) if old(marked) => plan.delete_packs.push(MarkedPack { id, size }),
                Some(_) => plan.waiting += 1,
                None if !old(modified) => {}
                None if blocks.is_empty() => plan.mark_packs.push(MarkedPack { id, size }),
                None if used.saturating_mul(100)
                    < pack.content.saturating_mul(u64::from(settings.sparse_below)) =>
                {
                    let needed = blocks.into_keys().collect();
                    plan.rewrite.push(SparsePack { id, size, used, needed });
                }
                None => {}
            }
            if plan.delete_packs.last().is_none_or(|pack| pack.id != id) {
                plan.kept_bytes += size;
            }
        }
        plan.leftovers =
            survey.leftovers.iter().filter(|leftover| old(leftover.stat.modified)).cloned().collect();
        Ok(plan)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &GcPlan { waiting: self.waiting, kept_bytes: self.kept_bytes, ..GcPlan::default() }
    }

    /// Whether something gets marked, which a later collection deletes.
    #[must_use]
    pub fn marks(&self) -> bool {
        !(self.rewrite.is_empty() && self.mark_manifests.is_empty() && self.mark_packs.is_empty())
    }

    /// Bytes of packs that are deleted.
    #[must_use]
    pub fn deleted_bytes(&self) -> u64 {
        self.delete_packs.iter().map(|pack| pack.size).sum()
    }
}

/// Fails if a block of a published manifest is in no pack that exists.
fn check_places(survey: &Survey, manifest: ManifestId, surveyed: &SurveyedManifest) -> Result<(), GcError> {
    let exists = |pack: &PackId| survey.packs.get(pack).is_some_and(|pack| pack.object.is_some());
    let lost = surveyed.blocks.iter().find(|block| {
        survey.places.get(block).is_none_or(|places| !places.iter().any(|(pack, _)| exists(pack)))
    });
    match lost {
        Some(&block) => Err(GcError::Lost { block, manifest }),
        None => Ok(()),
    }
}

/// For each pack the needed blocks it is kept for. Of several packs with the same block one is chosen: unmarked rather
/// than marked, then the one the index names first.
fn chosen_places(survey: &Survey, needed: &HashSet<BlockId>) -> HashMap<PackId, BTreeMap<BlockId, u64>> {
    let mut used: HashMap<PackId, BTreeMap<BlockId, u64>> = HashMap::new();
    for block in needed {
        let chosen = survey
            .places
            .get(block)
            .into_iter()
            .flatten()
            .filter_map(|&(id, stored)| {
                let pack = survey.packs.get(&id)?;
                pack.object?;
                Some((pack.marked.is_some(), id, stored))
            })
            .min_by_key(|&(marked, ..)| marked);
        if let Some((_, id, stored)) = chosen {
            used.entry(id).or_default().insert(*block, stored);
        }
    }
    used
}

//! What collections plan, told on surveys that are written by hand.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::*;
use crate::backend::{Entry, Stat};

const HOUR: u64 = 3600;

fn hour(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + hour * HOUR)
}

fn pack(number: u8) -> PackId {
    PackId::from_bytes([number; 32])
}

fn manifest(number: u8) -> ManifestId {
    ManifestId::from_bytes([number; 32])
}

fn block(number: u8) -> BlockId {
    BlockId::from_bytes([number; 32])
}

/// A survey at hour 10 of packs of 1000 bytes with one block of 900 bytes each, whose numbers are the packs'.
fn survey(packs: &[u8], published: &[(u8, &[u8])]) -> Survey {
    let object = Some((1000, hour(1)));
    Survey {
        now: hour(10),
        packs: packs
            .iter()
            .map(|&id| (pack(id), SurveyedPack { object, content: 1000, marked: None }))
            .collect(),
        manifests: published
            .iter()
            .map(|&(id, blocks)| {
                let blocks = blocks.iter().map(|&id| block(id)).collect();
                (manifest(id), SurveyedManifest { object, marked: None, published: true, blocks })
            })
            .collect(),
        leftovers: Vec::new(),
        places: packs.iter().map(|&id| (block(id), vec![(pack(id), 900)])).collect(),
    }
}

fn plan(survey: &Survey) -> GcPlan {
    GcPlan::new(survey, &GcSettings::default()).unwrap()
}

fn marked_packs(plan: &GcPlan) -> Vec<PackId> {
    plan.mark_packs.iter().map(|marked| marked.id).collect()
}

fn deleted_packs(plan: &GcPlan) -> Vec<PackId> {
    plan.delete_packs.iter().map(|marked| marked.id).collect()
}

#[test]
fn a_store_without_waste_is_left_alone() {
    let plan = plan(&survey(&[1, 2], &[(1, &[1, 2])]));
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.kept_bytes, 2000);
}

#[test]
fn what_nothing_needs_is_marked_first() {
    let plan = plan(&survey(&[1, 2], &[(1, &[1])]));
    assert_eq!(marked_packs(&plan), [pack(2)]);
    assert!(plan.delete_packs.is_empty() && plan.marks());
}

#[test]
fn and_deleted_once_the_longest_session_is_over() {
    let mut survey = survey(&[1, 2, 3], &[(1, &[1])]);
    survey.packs.get_mut(&pack(2)).unwrap().marked = Some(hour(8));
    survey.packs.get_mut(&pack(3)).unwrap().marked = Some(hour(9));
    let plan = plan(&survey);
    assert_eq!(deleted_packs(&plan), [pack(2)]);
    assert_eq!((plan.waiting, plan.kept_bytes, plan.deleted_bytes()), (1, 2000, 1000));
}

#[test]
fn a_young_pack_may_belong_to_a_draft() {
    let mut survey = survey(&[1, 2], &[(1, &[1])]);
    survey.packs.get_mut(&pack(2)).unwrap().object = Some((1000, hour(9)));
    assert!(plan(&survey).is_empty());
}

#[test]
fn a_marked_pack_that_is_needed_again_is_spared() {
    let mut survey = survey(&[1], &[(1, &[1])]);
    survey.packs.get_mut(&pack(1)).unwrap().marked = Some(hour(2));
    let plan = plan(&survey);
    assert_eq!(plan.spare_packs, [pack(1)]);
    assert!(plan.delete_packs.is_empty());
}

#[test]
fn an_unpublished_manifest_keeps_its_data_only_while_it_is_young() {
    let mut survey = survey(&[1, 2], &[(1, &[1]), (2, &[2])]);
    survey.manifests.get_mut(&manifest(2)).unwrap().published = false;
    let old = plan(&survey);
    assert_eq!((old.mark_manifests.as_slice(), marked_packs(&old)), (&[manifest(2)][..], vec![pack(2)]));
    survey.manifests.get_mut(&manifest(2)).unwrap().object = Some((1000, hour(9)));
    assert!(plan(&survey).is_empty());
}

#[test]
fn a_marked_manifest_goes_before_its_packs() {
    let mut survey = survey(&[1], &[(1, &[1])]);
    let marked = survey.manifests.get_mut(&manifest(1)).unwrap();
    (marked.published, marked.marked) = (false, Some(hour(2)));
    let plan = plan(&survey);
    assert_eq!(plan.delete_manifests, [manifest(1)]);
    assert_eq!(marked_packs(&plan), [pack(1)]);
}

#[test]
fn a_marked_manifest_that_is_published_is_spared() {
    let mut survey = survey(&[1], &[(1, &[1])]);
    survey.manifests.get_mut(&manifest(1)).unwrap().marked = Some(hour(2));
    assert_eq!(plan(&survey).spare_manifests, [manifest(1)]);
}

#[test]
fn a_sparse_pack_is_rewritten() {
    let mut survey = survey(&[1], &[(1, &[1])]);
    survey.places.insert(block(1), vec![(pack(1), 499)]);
    let plan = plan(&survey);
    assert_eq!((plan.rewrite[0].id, plan.rewrite[0].used), (pack(1), 499));
    assert_eq!(plan.rewrite[0].needed, HashSet::from([block(1)]));
    survey.places.insert(block(1), vec![(pack(1), 500)]);
    assert!(self::plan(&survey).is_empty());
}

#[test]
fn of_two_packs_with_a_block_one_is_kept_and_rather_the_unmarked() {
    let mut survey = survey(&[1, 2], &[(1, &[1])]);
    survey.places.insert(block(1), vec![(pack(1), 900), (pack(2), 900)]);
    assert_eq!(marked_packs(&plan(&survey)), [pack(2)]);
    survey.packs.get_mut(&pack(1)).unwrap().marked = Some(hour(2));
    assert_eq!(deleted_packs(&plan(&survey)), [pack(1)]);
}

#[test]
fn a_lost_block_stops_the_collection() {
    let mut survey = survey(&[1, 2], &[(1, &[1])]);
    survey.places.clear();
    let refused = GcPlan::new(&survey, &GcSettings::default()).unwrap_err();
    assert!(matches!(refused, GcError::Lost { .. }) && refused.remedy().contains("--repair"), "{refused}");
    // A place in a pack that is gone is no place.
    survey.places.insert(block(1), vec![(pack(9), 900)]);
    assert!(GcPlan::new(&survey, &GcSettings::default()).is_err());
}

#[test]
fn tombstones_of_what_is_gone_are_dropped() {
    let mut survey = survey(&[], &[]);
    let gone = SurveyedPack { marked: Some(hour(1)), ..Default::default() };
    survey.packs.insert(pack(1), gone);
    survey.manifests.insert(manifest(2), SurveyedManifest { marked: Some(hour(1)), ..Default::default() });
    let keys = plan(&survey).drop_tombstones;
    assert_eq!(keys, [manifest_tombstone(manifest(2)), pack_tombstone(pack(1))]);
}

#[test]
fn temporary_files_are_swept_when_their_writer_must_be_gone() {
    let mut survey = survey(&[], &[]);
    survey.leftovers = [("young", 9), ("old", 1)]
        .map(|(key, at)| Entry { key: key.into(), stat: Stat { size: 1, modified: hour(at) } })
        .to_vec();
    let plan = plan(&survey);
    assert_eq!(plan.leftovers.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["old"]);
}

mod any_survey {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_survey()(
            packs in proptest::collection::btree_map(0u8..8, (0u64..10, proptest::option::of(0u64..10)), 0..8),
            manifests in proptest::collection::btree_map(
                0u8..6,
                (any::<bool>(), 0u64..10, proptest::option::of(0u64..10), proptest::collection::vec(0u8..10, 0..5)),
                0..6,
            ),
            places in proptest::collection::btree_map(
                0u8..10,
                proptest::collection::vec((0u8..8, 1u64..1000), 1..3),
                0..10,
            ),
        ) -> Survey {
            Survey {
                now: hour(10),
                packs: packs
                    .into_iter()
                    .map(|(id, (written, marked))| {
                        let marked = marked.map(hour);
                        (pack(id), SurveyedPack { object: Some((1000, hour(written))), content: 1000, marked })
                    })
                    .collect(),
                manifests: manifests
                    .into_iter()
                    .map(|(id, (published, written, marked, blocks))| {
                        let blocks = blocks.into_iter().map(block).collect();
                        let object = Some((100, hour(written)));
                        (manifest(id), SurveyedManifest { object, marked: marked.map(hour), published, blocks })
                    })
                    .collect(),
                leftovers: Vec::new(),
                places: places
                    .into_iter()
                    .map(|(id, places)| {
                        (block(id), places.into_iter().map(|(at, stored)| (pack(at), stored)).collect())
                    })
                    .collect(),
            }
        }
    }

    proptest! {
        /// Whatever a store looks like: what a published generation needs stays, in an unmarked pack.
        #[test]
        fn nothing_that_is_published_loses_data(survey in any_survey()) {
            let Ok(plan) = GcPlan::new(&survey, &GcSettings::default()) else { return Ok(()) };
            let mut marked: BTreeMap<PackId, bool> =
                survey.packs.iter().map(|(&id, pack)| (id, pack.marked.is_some())).collect();
            for id in &plan.spare_packs {
                marked.insert(*id, false);
            }
            for id in marked_packs(&plan) {
                marked.insert(id, true);
            }
            for id in deleted_packs(&plan) {
                prop_assert!(survey.packs[&id].marked.is_some_and(|then| then <= hour(8)));
                marked.remove(&id);
            }
            let rewritten: HashSet<BlockId> =
                plan.rewrite.iter().flat_map(|sparse| sparse.needed.iter().copied()).collect();
            for (id, manifest) in survey.manifests.iter().filter(|(_, manifest)| manifest.published) {
                prop_assert!(!plan.delete_manifests.contains(id) && !plan.mark_manifests.contains(id));
                for block in &manifest.blocks {
                    let stays = survey.places[block].iter().any(|(pack, _)| marked.get(pack) == Some(&false));
                    prop_assert!(stays || rewritten.contains(block), "{block:?}");
                }
            }
        }
    }
}

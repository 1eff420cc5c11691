//! Pages that are taken in before the freeze, and come again under it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use torpor_store::{DraftSettings, MemoryId};

use crate::sample::{BASE, PAGE, PRESENT, PROGRAM, describe, in_memory, memory_of, page, pages, small};

fn settings(pages: u64) -> DraftSettings<'static> {
    DraftSettings { held: pages << 12, ahead_limit: 1 << 20, ..small() }
}

#[test]
fn what_did_not_change_needs_no_room_under_the_freeze() {
    // Several times what there is memory for, and a place without scratch files.
    const MANY: u64 = 4000;
    let (_, repository) = in_memory();
    let mut draft = repository.draft(settings(MANY)).unwrap();
    for start in (0..MANY).step_by(500) {
        draft.pages_ahead(PROGRAM, BASE + (start << 12), &pages(start..start + 500)).unwrap();
    }
    draft.hold().unwrap();
    let now = |number: u64| if number % 100 == 3 { number + MANY } else { number };
    draft.pages(PROGRAM, BASE, PRESENT, &pages((0..MANY).map(now))).unwrap();
    draft.resume();
    let manifest = draft.finish(describe(1)).unwrap().manifest;
    assert!(memory_of(&repository, &manifest) == pages((0..MANY).map(now)));
    let again = (MANY + MANY / 100) << 12;
    assert_eq!(manifest.sizes().new, again, "only what changed was stored once more");
}

#[test]
fn memory_that_is_gone_by_the_freeze_is_no_part_of_the_generation() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(settings(10)).unwrap();
    draft.pages_ahead(MemoryId::process(8), BASE, &pages(0..10)).unwrap();
    draft.pages_ahead(PROGRAM, BASE, &pages(10..20)).unwrap();
    draft.hold().unwrap();
    draft.pages(PROGRAM, BASE, PRESENT, &pages(10..12)).unwrap();
    let manifest = draft.finish(describe(1)).unwrap().manifest;
    let objects: Vec<_> = manifest.memory().iter().map(|object| (object.id, object.pages)).collect();
    assert_eq!(objects, [(PROGRAM, 2)]);
    assert!(memory_of(&repository, &manifest) == pages(10..12));
}

#[test]
fn a_draft_with_pages_ahead_can_be_dropped_at_any_time() {
    for held in [false, true] {
        let (_, repository) = in_memory();
        let mut draft = repository.draft(settings(3000)).unwrap();
        draft.pages_ahead(PROGRAM, BASE, &pages(0..1000)).unwrap();
        if held {
            draft.hold().unwrap();
            draft.pages(PROGRAM, BASE, PRESENT, &pages(500..3000)).unwrap();
        }
        drop(draft);
        assert!(repository.manifests().unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each page has one content ahead and one under the freeze, or is not there.
    #[test]
    fn pages_are_those_of_the_freeze_whatever_they_were_before(
        contents in proptest::collection::vec((0u64..6, 0u64..6), 1..1500),
        limit in prop_oneof![Just(0usize), Just(8 << 10), Just(1 << 20)],
    ) {
        const ABSENT: u64 = 5;
        let bytes = |content: u64| if content == 0 { vec![0; PAGE] } else { page(content) };
        let (_, repository) = in_memory();
        let settings = DraftSettings { ahead_limit: limit, ..settings(contents.len() as u64) };
        let mut draft = repository.draft(settings).unwrap();
        for (number, (before, _)) in (0u64..).zip(&contents).filter(|(_, (before, _))| *before != ABSENT) {
            draft.pages_ahead(PROGRAM, BASE + (number << 12), &bytes(*before)).unwrap();
        }
        draft.hold().unwrap();
        let mut expected = BTreeMap::new();
        for (number, (_, now)) in (0u64..).zip(&contents).filter(|(_, (_, now))| *now != ABSENT) {
            draft.pages(PROGRAM, BASE + (number << 12), PRESENT, &bytes(*now)).unwrap();
            expected.insert(number, bytes(*now));
        }
        draft.resume();
        let manifest = draft.finish(describe(1)).unwrap().manifest;
        if expected.is_empty() {
            prop_assert!(manifest.memory().is_empty());
        } else {
            prop_assert!(memory_of(&repository, &manifest) == expected.into_values().collect::<Vec<_>>().concat());
        }
    }
}

//! Pairs of checkpoints made of a few images, in memory.

use torpor_criu::image::Kind;
use torpor_criu::image::memory::{Mapping as Record, MappingStatus};
use torpor_criu::image::pagemap::{Generation, PageFlags};

use super::*;
use crate::memory::tests::{Images, mapping};

const HEAP: &[MappingStatus] = &[MappingStatus::Heap];
const ANONYMOUS: &[MappingStatus] = &[MappingStatus::AnonymousPrivate];

/// A process with mappings and pages, each of which is filled with a byte.
fn checkpoint(vmas: Vec<Record>, pages: &[(u64, u8)]) -> Checkpoint {
    let mut images = Images::default();
    images.process(7, vmas);
    images.filled((Kind::Pagemap, 7), pages);
    images.checkpoint(&[7])
}

fn diff(before: &Checkpoint, after: &Checkpoint) -> MemoryDiff {
    let diff = Diff::between(before, after, Aspects::ALL).unwrap();
    diff.processes[0].memory.clone().unwrap()
}

#[test]
fn each_page_is_new_gone_changed_moved_or_the_same() {
    let vmas = || vec![mapping(0x10000, 16, HEAP), mapping(0x40000, 16, ANONYMOUS)];
    let before = checkpoint(
        vmas(),
        &[(0x10000, 1), (0x11000, 2), (0x12000, 3), (0x13000, 4), (0x14000, 0), (0x40000, 9)],
    );
    let after = checkpoint(
        vmas(),
        &[(0x10000, 1), (0x11000, 12), (0x13000, 3), (0x15000, 5), (0x40000, 9), (0x41000, 4)],
    );
    let found = diff(&before, &after);
    let heap = PageCounts { same: 1, changed: 2, new: 1, gone: 1, moved: 1, unknown: 0 };
    let other = PageCounts { same: 1, new: 1, moved: 1, ..PageCounts::default() };
    let pages: Vec<_> = found.mappings.iter().map(|mapping| (mapping.start, mapping.pages)).collect();
    assert_eq!(pages, [(0x10000, heap), (0x40000, other)]);
    assert_eq!(found.pages, PageCounts { same: 2, changed: 2, new: 2, gone: 1, moved: 2, unknown: 0 });
    assert!(!found.moved_at_least);
}

#[test]
fn a_checkpoint_equals_itself() {
    let one = checkpoint(vec![mapping(0x10000, 16, HEAP)], &[(0x10000, 1), (0x13000, 2)]);
    let found = Diff::between(&one, &one, Aspects::ALL).unwrap();
    assert!(found.equal, "{found:?}");
    assert_eq!(found.processes[0].state, State::Same);
    assert_eq!(found.processes[0].memory.as_ref().unwrap().pages.same, 2);
}

#[test]
fn mappings_grow_appear_and_go() {
    let before = checkpoint(
        vec![mapping(0x10000, 4, HEAP), mapping(0x40000, 4, ANONYMOUS)],
        &[(0x10000, 1), (0x40000, 2)],
    );
    let read_only = Record { prot: 1, ..mapping(0x10000, 8, HEAP) };
    let after = checkpoint(vec![read_only, mapping(0x80000, 2, ANONYMOUS)], &[(0x10000, 1), (0x80000, 2)]);
    let found = diff(&before, &after);
    let rows: Vec<_> = found
        .mappings
        .iter()
        .map(|row| (row.start, row.state, row.size_before, row.protection_before.map(|p| p.to_string())))
        .collect();
    assert_eq!(
        rows,
        [
            (0x10000, MappingState::Changed, Some(0x4000), Some("rw-".to_owned())),
            (0x40000, MappingState::Gone, None, None),
            (0x80000, MappingState::New, None, None),
        ]
    );
    assert_eq!(found.pages, PageCounts { same: 1, new: 1, gone: 1, moved: 1, ..PageCounts::default() });
}

#[test]
fn pages_that_a_checkpoint_does_not_have_are_unknown() {
    let before = checkpoint(vec![mapping(0x10000, 4, HEAP)], &[(0x10000, 1)]);
    let mut images = Images::default();
    images.process(7, vec![mapping(0x10000, 4, HEAP)]);
    images.pages("", (Kind::Pagemap, 7), Generation::Wide, &[(0x10000, 2, PageFlags::PARENT)], 0);
    let after = images.checkpoint(&[7]);
    assert_eq!(diff(&before, &after).pages, PageCounts { unknown: 2, ..PageCounts::default() });
}

#[test]
fn a_page_that_was_the_files_is_changed_whatever_is_in_it() {
    let file = || vec![Record { shmid: 3, ..mapping(0x10000, 2, &[MappingStatus::FilePrivate]) }];
    let before = checkpoint(file(), &[]);
    let after = checkpoint(file(), &[(0x10000, 0)]);
    assert_eq!(diff(&before, &after).pages, PageCounts { gone: 1, ..PageCounts::default() });
    let after = checkpoint(file(), &[(0x10000, 8)]);
    assert_eq!(diff(&before, &after).pages, PageCounts { changed: 1, ..PageCounts::default() });
}

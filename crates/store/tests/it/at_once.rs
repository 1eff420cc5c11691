//! Pages that several threads take in, and pages of which is not known at first whether they belong.

use std::io;
use std::sync::atomic::AtomicBool;

use torpor_store::{DraftError, DraftSettings, MemoryId, PageRange};

use crate::sample::{BASE, PAGE, PRESENT, PROGRAM, describe, in_memory, memory_of, page, pages, small};

fn range(first: u64, pages: u64) -> PageRange {
    PageRange { memory: PROGRAM, vaddr: BASE + (first << 12), pages, flags: PRESENT }
}

/// Every page is that of its number.
fn read(_: usize, vaddr: u64, room: &mut [u8]) -> io::Result<()> {
    for (number, room) in ((vaddr - BASE) >> 12..).zip(room.chunks_exact_mut(PAGE)) {
        room.copy_from_slice(&page(number));
    }
    Ok(())
}

#[test]
fn several_threads_take_in_what_one_would() {
    for held in [false, true] {
        let (_, repository) = in_memory();
        let mut draft = repository.draft(DraftSettings { held: 1, ..small() }).unwrap();
        if held {
            draft.hold().unwrap();
        }
        draft.pages_at_once(&[range(0, 700), range(700, 1), range(900, 300)], &read, 3).unwrap();
        assert_eq!(draft.taken(), 1001 << 12);
        let manifest = draft.finish(describe(1)).unwrap().manifest;
        assert!(memory_of(&repository, &manifest) == pages((0..701).chain(900..1200)));
    }
}

#[test]
fn a_page_that_cannot_be_read_by_one_thread_ends_all() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(small()).unwrap();
    let read = |_: usize, vaddr: u64, room: &mut [u8]| match vaddr >= BASE + (500 << 12) {
        true => Err(io::ErrorKind::PermissionDenied.into()),
        false => read(0, vaddr, room),
    };
    let error = draft.pages_at_once(&[range(0, 1000)], &read, 2).unwrap_err();
    assert!(matches!(error, DraftError::Source { .. }), "{error}");
}

#[test]
fn of_pages_on_trial_only_those_are_kept_that_belong() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(DraftSettings { memory_limit: 32 << 20, ..small() }).unwrap();
    draft.hold().unwrap();
    let trial = [range(0, 128), PageRange { memory: MemoryId::process(8), ..range(0, 10) }];
    draft.pages_on_trial(&trial, &read, &AtomicBool::new(false)).unwrap();
    let kept = draft.settle_trial(&|range| range.memory == PROGRAM && range.vaddr < BASE + (64 << 12));
    assert_eq!(kept, [range(0, 64)]);
    draft.pages_at_once(&[range(64, 70)], &read, 2).unwrap();
    let manifest = draft.finish(describe(1)).unwrap().manifest;
    let objects: Vec<_> = manifest.memory().iter().map(|object| (object.id, object.pages)).collect();
    assert_eq!(objects, [(PROGRAM, 134)], "nothing of what was forgotten");
    assert!(memory_of(&repository, &manifest) == pages(0..134));
}

#[test]
fn pages_on_trial_leave_room_and_stop_when_told() {
    let (_, repository) = in_memory();
    let mut draft = repository.draft(small()).unwrap();
    draft.hold().unwrap();
    draft.pages_on_trial(&[range(0, 100)], &read, &AtomicBool::new(true)).unwrap();
    draft.pages_on_trial(&[range(0, 1 << 20)], &read, &AtomicBool::new(false)).unwrap();
    let kept = draft.settle_trial(&|_| true);
    assert!(kept.iter().map(|range| range.pages).sum::<u64>() < 1 << 20);
    draft.pages(MemoryId::process(9), BASE, PRESENT, &pages(0..1000)).unwrap();
    draft.finish(describe(1)).unwrap();
}

//! Pages that were taken in while the program ran: when they come again under the freeze, they are only recognised.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::known::PieceAt;
use crate::manifest::PAGE_SIZE;

/// Bytes that a page takes in the table.
const ENTRY: usize = size_of::<Entry>();
/// Bits of a key that tell the page; the others tell the memory object.
const PAGE_BITS: u32 = 45;

/// A page as it was, and where it is kept.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u64,
    /// The halves of its sum, so that an entry is aligned like its words.
    sum: [u64; 2],
    at: PieceAt,
}

fn halves(sum: u128) -> [u64; 2] {
    [sum as u64, (sum >> 64) as u64]
}

/// The key of a page; entries are in its order. None beyond what it can tell.
fn key(memory: u32, vaddr: u64) -> Option<u64> {
    let page = vaddr / PAGE_SIZE as u64;
    let fits = memory < 1 << (u64::BITS - PAGE_BITS) && page < 1 << PAGE_BITS;
    fits.then(|| u64::from(memory) << PAGE_BITS | page)
}

/// Pages taken in ahead: gathered first, then looked up.
pub(super) struct Ahead {
    gathered: Mutex<Vec<Entry>>,
    limit: usize,
    settled: OnceLock<Vec<Entry>>,
}

impl Ahead {
    /// A table for so many `pages`, within `bytes`.
    pub(super) fn within(bytes: usize, pages: usize) -> Self {
        let limit = pages.min(bytes / ENTRY);
        Self { gathered: Mutex::new(Vec::with_capacity(limit)), limit, settled: OnceLock::new() }
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more pages it takes.
    pub(super) fn room(&self) -> usize {
        self.limit - self.gathered().len()
    }

    /// Adds pages. What there is no room for is forgotten: it comes again.
    pub(super) fn add(&self, pages: impl Iterator<Item = (u32, u64, u128, PieceAt)>) {
        let mut gathered = self.gathered();
        let room = self.limit - gathered.len();
        let entries = pages.filter_map(|(memory, vaddr, sum, at)| {
            Some(Entry { key: key(memory, vaddr)?, sum: halves(sum), at })
        });
        gathered.extend(entries.take(room));
    }

    /// Ends the gathering. From now on pages are found.
    pub(super) fn settle(&self) {
        let mut entries = std::mem::take(&mut *self.gathered());
        entries.sort_unstable_by_key(|entry| entry.key);
        // The second of two is not older: jobs of the same page are far apart.
        let _ = self.settled.set(entries);
    }

    /// Whether there is anything to be found.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.get().is_some_and(|entries| !entries.is_empty())
    }

    /// Where a page is kept, if it is what it was. `cursor` is where the search begins; keep it while addresses rise.
    pub(super) fn find(
        &self,
        memory: u32,
        vaddr: u64,
        cursor: &mut usize,
        sum: impl FnOnce() -> u128,
    ) -> Option<PieceAt> {
        let entries = self.settled.get()?;
        let key = key(memory, vaddr)?;
        if entries.get(*cursor).is_none_or(|entry| entry.key != key) {
            *cursor = entries.binary_search_by_key(&key, |entry| entry.key).ok()?;
        }
        let entry = entries.get(*cursor)?;
        *cursor += 1;
        (entry.sum == halves(sum())).then_some(entry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u32) -> PieceAt {
        PieceAt { block: number, piece: number }
    }

    #[test]
    fn a_page_is_found_only_as_it_was() {
        let ahead = Ahead::within(1 << 20, 100);
        ahead.add([(1, 0x2000, 20, at(2)), (0, 0x1000, 10, at(1)), (1, 0x1000, 30, at(3))].into_iter());
        assert!(!ahead.is_settled());
        assert_eq!(ahead.find(0, 0x1000, &mut 0, || 10), None, "still gathering");
        ahead.settle();
        let mut cursor = 0;
        assert_eq!(ahead.find(0, 0x1000, &mut cursor, || 10), Some(at(1)));
        assert_eq!(ahead.find(1, 0x1000, &mut cursor, || 30), Some(at(3)));
        assert_eq!(ahead.find(1, 0x2000, &mut cursor, || 21), None, "changed");
        assert_eq!(ahead.find(0, 0x1000, &mut cursor, || 10), Some(at(1)), "back again");
        assert_eq!(ahead.find(2, 0x1000, &mut cursor, || panic!("not there")), None);
    }

    #[test]
    fn it_takes_no_more_than_its_room() {
        let ahead = Ahead::within(10 * ENTRY, 3);
        assert_eq!(ahead.room(), 3);
        ahead.add((0..5).map(|page| (0, page << 12, 0, at(0))));
        assert_eq!(ahead.room(), 0);
        ahead.settle();
        assert!(ahead.find(0, 2 << 12, &mut 0, || 0).is_some());
        assert!(ahead.find(0, 3 << 12, &mut 0, || 0).is_none());
        assert_eq!(Ahead::within(10 * ENTRY, 100).room(), 10);
        assert!(key(1 << 19, 0).is_none() && key(0, 1 << 57).is_none());
    }
}

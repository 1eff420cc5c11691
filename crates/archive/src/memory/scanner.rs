//! Finds patterns in memory that comes in batches, across their boundaries.

use super::pattern::{Needle, Pattern};
use super::stream::Batch;

/// Most bytes of a match that are kept.
const KEPT_OF_MATCH: usize = 256;
/// Bytes before a match that a regular expression may look at.
const LOOK_BEHIND: usize = 16;

/// A match, by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) pattern: usize,
    pub(super) address: u64,
    pub(super) length: usize,
    pub(super) before: Vec<u8>,
    pub(super) bytes: Vec<u8>,
    pub(super) after: Vec<u8>,
}

/// Takes batches, keeps hits.
#[derive(Debug)]
pub(super) struct Scanner<'p> {
    needles: Vec<(usize, &'p Needle)>,
    /// Where each needle is looked for next, once it was found.
    next: Vec<u64>,
    context: usize,
    /// Bytes before what is to be scanned that have to be kept.
    behind: usize,
    /// Bytes that have to be there from the start of a match on.
    hold: usize,
    /// The end of what came before, and its address.
    tail: Vec<u8>,
    tail_address: u64,
    /// No match that starts before this place in the tail is left.
    scanned: usize,
    limit: usize,
    pub(super) hits: Vec<Hit>,
    /// Matches of each pattern, kept or not.
    pub(super) counts: Vec<u64>,
}

impl<'p> Scanner<'p> {
    /// Keeps the first `limit` hits, each with so many bytes before and after it.
    pub(super) fn new(patterns: &'p [Pattern], context: usize, limit: usize) -> Self {
        let needles: Vec<_> = patterns
            .iter()
            .enumerate()
            .flat_map(|(place, pattern)| pattern.needles().iter().map(move |needle| (place, needle)))
            .collect();
        let reach = needles.iter().map(|(_, needle)| needle.reach()).max().unwrap_or(1);
        Self {
            next: vec![0; needles.len()],
            needles,
            context,
            behind: context.max(LOOK_BEHIND),
            hold: reach + context,
            tail: Vec::new(),
            tail_address: 0,
            scanned: 0,
            limit,
            hits: Vec::new(),
            counts: vec![0; patterns.len()],
        }
    }

    /// The room that batches need before their first byte.
    pub(super) fn room(&self) -> usize {
        self.behind + self.hold
    }

    /// Scans a batch. Addresses have to rise from batch to batch.
    pub(super) fn batch(&mut self, batch: &mut Batch) {
        for (place, segment) in batch.segments.iter().enumerate() {
            let follows =
                place == 0 && self.tail_address.checked_add(self.tail.len() as u64) == Some(segment.address);
            let (start, address, scanned) = if follows {
                let start = segment.start - self.tail.len();
                batch.bytes[start..segment.start].copy_from_slice(&self.tail);
                (start, self.tail_address, self.scanned)
            } else {
                self.finish();
                (segment.start, segment.address, 0)
            };
            let window = &batch.bytes[start..segment.start + segment.length];
            if place + 1 < batch.segments.len() {
                self.scan(window, address, scanned, window.len());
                self.tail.clear();
                continue;
            }
            let end = window.len().saturating_sub(self.hold).max(scanned);
            self.scan(window, address, scanned, end);
            let keep = end.saturating_sub(self.behind);
            self.tail.clear();
            self.tail.extend_from_slice(&window[keep..]);
            self.tail_address = address + keep as u64;
            self.scanned = end - keep;
        }
    }

    /// Scans what is left: nothing follows.
    pub(super) fn finish(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        self.scan(&tail, self.tail_address, self.scanned, tail.len());
        self.tail = tail;
        self.tail.clear();
        self.next.fill(0);
    }

    /// Records the matches that start from `from` to before `end`.
    fn scan(&mut self, window: &[u8], address: u64, from: usize, end: usize) {
        for (place, (pattern, needle)) in self.needles.iter().enumerate() {
            let mut at = from.max(self.next[place].saturating_sub(address) as usize);
            while at < end {
                let Some((start, stop)) = needle.find(window, at) else { break };
                if start >= end {
                    break;
                }
                at = stop;
                self.next[place] = address + stop as u64;
                self.counts[*pattern] += 1;
                if self.hits.len() < self.limit {
                    self.hits.push(Hit {
                        pattern: *pattern,
                        address: address + start as u64,
                        length: stop - start,
                        before: window[start.saturating_sub(self.context)..start].to_vec(),
                        bytes: window[start..stop.min(start + KEPT_OF_MATCH)].to_vec(),
                        after: window[stop..window.len().min(stop + self.context)].to_vec(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::stream::Segment;
    use super::*;

    /// Hands memory over in batches of one segment or several: each piece is a gap before it, and its bytes.
    fn scan(patterns: &[Pattern], pieces: &[(u64, Vec<u8>)], per_batch: usize) -> Vec<Hit> {
        let mut scanner = Scanner::new(patterns, 3, usize::MAX);
        let mut address = 0x1000;
        for pieces in pieces.chunks(per_batch) {
            let mut batch = Batch { bytes: vec![0; scanner.room()], segments: Vec::new() };
            for (gap, bytes) in pieces {
                address += gap;
                let start = batch.bytes.len();
                batch.bytes.extend(bytes);
                match batch.segments.last_mut() {
                    Some(last) if *gap == 0 => last.length += bytes.len(),
                    _ => batch.segments.push(Segment { address, start, length: bytes.len() }),
                }
                address += bytes.len() as u64;
            }
            scanner.batch(&mut batch);
        }
        scanner.finish();
        scanner.hits.sort_by_key(|hit| (hit.address, hit.pattern));
        scanner.hits
    }

    #[test]
    fn matches_lie_across_batches_but_not_across_gaps() {
        let patterns = [Pattern::text("secret").unwrap(), Pattern::regex("s[a-z]+t").unwrap()];
        let pieces = [
            (0, b"..sec".to_vec()),
            (0, b"ret..".to_vec()),
            (16, b"sec".to_vec()),
            (16, b"ret".to_vec()),
            (0, b" secret".to_vec()),
        ];
        for per_batch in 1..=5 {
            let hits = scan(&patterns, &pieces, per_batch);
            let found: Vec<_> = hits.iter().map(|hit| (hit.pattern, hit.address)).collect();
            assert_eq!(found, [(0, 0x1002), (1, 0x1002), (0, 0x1031), (1, 0x1031)], "{per_batch}");
            assert_eq!(hits[0].before, b"..");
            assert_eq!(hits[0].after, b"..");
            assert_eq!(hits[2].before, b"et ");
        }
    }

    proptest! {
        #[test]
        fn batches_of_any_size_give_what_one_gives(
            bytes in proptest::collection::vec(0_u8..3, 1..400),
            cuts in proptest::collection::vec(1_usize..50, 1..50),
            per_batch in 1_usize..4,
        ) {
            let patterns = [
                Pattern::hexadecimal("000102").unwrap(),
                Pattern::hexadecimal("0000").unwrap(),
                Pattern::regex("(?-u)\\x01\\x02?\\x01").unwrap(),
            ];
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (first, others) = rest.split_at((*cut).min(rest.len()));
                pieces.push((0, first.to_vec()));
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            let whole = scan(&patterns, &[(0, bytes.clone())], 1);
            prop_assert_eq!(scan(&patterns, &pieces, per_batch), whole);
        }
    }
}

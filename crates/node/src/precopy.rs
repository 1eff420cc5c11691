//! Copies memory ahead of the freeze, while the program runs.
//!
//! Where memory has no room for all that the program has, pages would have to be worked on or written down while it
//! stands still. So they are taken into the draft before, and under the freeze only recognised: those that are as they
//! were then are done. CRIU's own pre-dump does the like where the kernel notes which pages were written (soft-dirty),
//! which many kernels do not; this needs nothing but to read (`process_vm_readv`, and `PAGEMAP_SCAN` of Linux 6.7).
//!
//! It is looked twice. A page that changes between two looks would change until the freeze as well, and be stored for
//! nothing.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use torpor_store::checksum::checksum;
use torpor_store::{Draft, DraftError, MemoryId};

use crate::order::Order;
use crate::process_tree;
use crate::sys::memory::{self, Pages};

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;

/// What was copied, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Pages that the draft has.
    pub taken: u64,
    /// Pages that changed between the looks.
    pub busy: u64,
}

/// Copies the private memory of the tree below `root` into `draft`, as much as that has room to keep in mind, in no more
/// than a third of the time there is. What cannot be read is left for the freeze.
///
/// # Errors
/// Where the draft failed.
pub fn precopy(root: i32, order: &Order, draft: &mut Draft) -> Result<Copied, DraftError> {
    let began = Instant::now();
    let enough = || too_long(began.elapsed(), order.left());
    let mut left = draft.room_ahead() as u64;
    let mut looks = Vec::new();
    for pid in process_tree::of(root) {
        if left == 0 {
            break;
        }
        match Look::at(pid, root, left, &enough) {
            Ok(look) => {
                left -= look.pages();
                looks.push(look);
            }
            Err(error) => tracing::debug!(pid, %error, "its memory cannot be read ahead"),
        }
    }
    let mut copied = Copied::default();
    for look in looks {
        if !look.again(draft, &mut copied, &enough)? {
            break;
        }
    }
    tracing::debug!(?copied, elapsed = ?began.elapsed(), "memory copied ahead");
    Ok(copied)
}

/// Whether the rest had better be left for the freeze.
fn too_long(elapsed: Duration, left: Option<Duration>) -> bool {
    left.is_some_and(|left| elapsed >= (elapsed + left) / 3)
}

/// What a process's memory was at the first look.
struct Look {
    pid: i32,
    memory: MemoryId,
    seen: Vec<Seen>,
}

/// Pages that follow each other.
struct Seen {
    start: u64,
    /// A part of the checksum of each.
    sums: Vec<u64>,
}

impl Look {
    fn at(pid: i32, root: i32, room: u64, enough: &dyn Fn() -> bool) -> io::Result<Look> {
        let number = process_tree::pid_as_seen_by(pid, root).ok_or(io::ErrorKind::NotFound)?;
        let memory = MemoryId::process(number.unsigned_abs().into());
        let mut look = Look { pid, memory, seen: Vec::new() };
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut buffer = vec![0; CHUNK];
        let mut left = room;
        for mapping in readable_memory(&std::fs::read_to_string(format!("/proc/{pid}/maps"))?) {
            for run in memory::runs(&pagemap, &mapping, Pages::Anonymous)? {
                for start in run.clone().step_by(CHUNK) {
                    if left == 0 || enough() {
                        return Ok(look);
                    }
                    let len = (run.end - start).min(CHUNK as u64).min(left * PAGE as u64) as usize;
                    // A page that has gone ends it; the rest of the run comes under the freeze.
                    let Ok(len) = memory::read(pid, start, &mut buffer[..len]) else { break };
                    let sums: Vec<_> = buffer[..len].chunks_exact(PAGE).map(part_of_sum).collect();
                    left -= sums.len() as u64;
                    look.seen.push(Seen { start, sums });
                }
            }
        }
        Ok(look)
    }

    fn pages(&self) -> u64 {
        self.seen.iter().map(|seen| seen.sums.len() as u64).sum()
    }

    /// Looks once more, and gives the draft what did not change. Returns whether it takes more.
    fn again(
        &self,
        draft: &mut Draft,
        copied: &mut Copied,
        enough: &dyn Fn() -> bool,
    ) -> Result<bool, DraftError> {
        let mut buffer = vec![0; CHUNK];
        for seen in &self.seen {
            if enough() || draft.room_ahead() == 0 {
                return Ok(false);
            }
            let Ok(len) = memory::read(self.pid, seen.start, &mut buffer[..seen.sums.len() * PAGE]) else {
                continue;
            };
            copied.busy += (len / PAGE) as u64;
            for stretch in stretches(&seen.sums, &buffer[..len]) {
                let vaddr = seen.start + stretch.start as u64;
                let pages = (stretch.len() / PAGE) as u64;
                copied.taken += pages;
                copied.busy -= pages;
                draft.pages_ahead(self.memory, vaddr, &buffer[stretch])?;
            }
        }
        Ok(true)
    }
}

/// Enough to tell whether a page is busy. Whether it is the same under the freeze, the draft decides by the whole sum.
fn part_of_sum(page: &[u8]) -> u64 {
    checksum(page) as u64
}

/// Where pages follow each other that have these sums still, in bytes.
fn stretches(sums: &[u64], bytes: &[u8]) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for (number, (sum, page)) in sums.iter().zip(bytes.chunks_exact(PAGE)).enumerate() {
        if part_of_sum(page) != *sum {
            continue;
        }
        let start = number * PAGE;
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end += PAGE,
            _ => stretches.push(start..start + PAGE),
        }
    }
    stretches
}

/// The mappings of maps (proc_pid_maps(5)) whose own pages can be read. The kernel's areas have none.
fn readable_memory(maps: &str) -> Vec<Range<u64>> {
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let range = memory::address_range(words.next()?)?;
        let permissions = words.next()?;
        let kernels = words.nth(3).is_some_and(|name| name.starts_with("[v"));
        (permissions.starts_with('r') && permissions.ends_with('p') && !kernels).then_some(range)
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn private_readable_memory_is_copied_and_nothing_of_the_kernel() {
        let maps = "\
55d0c0a00000-55d0c0c02000 rw-p 00000000 fe:00 131132                     /usr/bin/a b
55d0c1000000-55d0c1400000 rw-p 00000000 00:00 0                          [heap]
7f10c0000000-7f10c0021000 ---p 00000000 00:00 0
7f10d4000000-7f10d8000000 rw-s 00000000 00:01 42                         /dev/zero (deleted)
7ffd0d000000-7ffd0d812000 rw-p 00000000 00:00 0                          [stack]
7ffd0d900000-7ffd0d904000 r--p 00000000 00:00 0                          [vvar]
7ffd0d904000-7ffd0d906000 r-xp 00000000 00:00 0                          [vdso]
";
        let starts: Vec<_> = readable_memory(maps).iter().map(|range| range.start).collect();
        assert_eq!(starts, [0x55d0_c0a0_0000, 0x55d0_c100_0000, 0x7ffd_0d00_0000]);
    }

    #[test]
    fn pages_that_changed_between_the_looks_are_left_out() {
        let page = |byte: u8| [byte; PAGE];
        let sums: Vec<_> = [1, 2, 3, 4].map(|byte| part_of_sum(&page(byte))).to_vec();
        let now = [page(1), page(2), page(9), page(4)].concat();
        assert_eq!(stretches(&sums, &now), [0..2 * PAGE, 3 * PAGE..4 * PAGE]);
        assert_eq!(stretches(&sums, &now[..PAGE]).len(), 1, "what could not be read is left out too");
    }

    #[test]
    fn it_takes_no_more_than_its_share_of_the_time_there_is() {
        let second = Duration::from_secs(1);
        assert!(!too_long(100 * second, None));
        assert!(!too_long(second, Some(3 * second)));
        assert!(too_long(second, Some(2 * second)));
    }

    proptest! {
        #[test]
        fn no_maps_make_it_panic(maps in ".{0,300}") {
            readable_memory(&maps);
        }
    }
}

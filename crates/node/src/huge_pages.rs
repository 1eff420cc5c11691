//! Gathers memory into huge pages while the program still runs, so that it stands still for less long.
//!
//! Under the freeze CRIU has the kernel walk all page tables several times, pins every page, and passes it on; most of
//! that is per page, not per byte. With 512 pages in one, a program of 1 GiB stands still for about half as long. The
//! kernel does the work (`MADV_COLLAPSE`, madvise(2)): content and size of the memory stay as they are.
//!
//! Only windows of 2 MiB that are wholly in memory are taken: a hole would be filled, and the program would grow. What
//! a process or a mapping has decided about huge pages counts, and so does `never` of the whole machine.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};

use crate::order::Order;
use crate::process_tree;
use crate::sys::memory::{self, Pages};

/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;
/// How long it may take at most, whatever the program's size.
const LIMIT: Duration = Duration::from_secs(3);
/// Windows after which it is judged whether it is worth its time.
const TRIAL: u32 = 32;
/// The longest a window may take on average. Where memory is in pieces, finding room takes far longer than gathering.
const SLOW: Duration = Duration::from_millis(8);

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Windows that are huge pages now.
    pub gathered: u32,
    /// Windows for which the kernel had no huge page.
    pub refused: u32,
    /// Whether some were left because time was over or it took too long.
    pub cut_short: bool,
}

/// Gathers the memory of the tree below `root`, until all is done or it takes too long for the order. Nothing depends
/// on it, so a failure only ends it.
pub fn gather(root: i32, order: &Order) -> Gathered {
    let mut work = Work { done: Gathered::default(), began: Instant::now(), order };
    if machine_has_none() {
        return work.done;
    }
    for pid in process_tree::of(root) {
        if let Err(error) = work.process(pid) {
            tracing::debug!(pid, %error, "its memory stays in small pages");
        }
        if work.done.cut_short {
            break;
        }
    }
    tracing::debug!(done = ?work.done, elapsed = ?work.began.elapsed(), "memory in huge pages");
    work.done
}

/// Whether the whole machine is told to have no huge pages.
fn machine_has_none() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .map_or(true, |enabled| enabled.contains("[never]"))
}

struct Work<'a> {
    done: Gathered,
    began: Instant,
    order: &'a Order,
}

impl Work<'_> {
    fn process(&mut self, pid: i32) -> io::Result<()> {
        let process = pidfd_open(process_tree::pid(pid).map_err(io::Error::other)?, PidfdFlags::empty())?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        for mapping in private_memory(&std::fs::read_to_string(format!("/proc/{pid}/maps"))?) {
            for window in windows(&memory::runs(&pagemap, &mapping, Pages::Small)?) {
                if too_long(self.done, self.began.elapsed(), self.order.left()) {
                    self.done.cut_short = true;
                    return Ok(());
                }
                match memory::collapse(&process, window, HUGE as usize) {
                    Ok(()) => self.done.gathered += 1,
                    // This mapping wants none, or has changed meanwhile.
                    Err(error) if error.kind() == ErrorKind::InvalidInput => break,
                    // It is gone, or we may not: that takes CAP_SYS_NICE.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {
                        return Err(error);
                    }
                    Err(_) => self.done.refused += 1,
                }
            }
        }
        Ok(())
    }
}

/// Whether it is better to go on without the rest, when so much time is left for the whole checkpoint.
fn too_long(done: Gathered, elapsed: Duration, left: Option<Duration>) -> bool {
    let tried = done.gathered + done.refused;
    let limit = left.map_or(LIMIT, |left| LIMIT.min((elapsed + left) / 4));
    elapsed >= limit || (tried >= TRIAL && elapsed > SLOW * tried)
}

/// The mappings of maps (proc_pid_maps(5)) that hold private anonymous memory of at least one huge page. The stack is
/// left out: the kernel moves its start.
fn private_memory(maps: &str) -> Vec<Range<u64>> {
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let range = memory::address_range(words.next()?)?;
        let permissions = words.next()?;
        let inode = words.nth(2)?;
        let name = words.next();
        let plain = permissions.starts_with("rw") && permissions.ends_with('p') && inode == "0";
        let roomy = range.end.saturating_sub(range.start) >= HUGE;
        (plain && roomy && name != Some("[stack]")).then_some(range)
    };
    maps.lines().filter_map(mapping).collect()
}

/// The starts of all huge pages that would lie wholly within the runs.
fn windows(runs: &[Range<u64>]) -> Vec<u64> {
    let mut windows = Vec::new();
    let mut whole: Option<Range<u64>> = None;
    let cut = |run: Range<u64>, windows: &mut Vec<u64>| {
        let first = run.start.next_multiple_of(HUGE);
        windows.extend((first..run.end).step_by(HUGE as usize).take_while(|start| start + HUGE <= run.end));
    };
    for run in runs {
        match &mut whole {
            // A run may be cut where one look ended and the next began.
            Some(whole) if whole.end == run.start => whole.end = run.end,
            whole => {
                if let Some(before) = whole.replace(run.clone()) {
                    cut(before, &mut windows);
                }
            }
        }
    }
    whole.into_iter().for_each(|run| cut(run, &mut windows));
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_private_anonymous_memory_is_gathered() {
        let maps = "\
55d0c0a00000-55d0c0c02000 rw-p 00000000 fe:00 131132                     /usr/bin/a
55d0c1000000-55d0c1400000 rw-p 00000000 00:00 0                          [heap]
7f10c0000000-7f10c0021000 rw-p 00000000 00:00 0
7f10d0000000-7f10d4000000 rw-p 00000000 00:00 0
7f10d4000000-7f10d8000000 rw-s 00000000 00:01 42                         /dev/zero (deleted)
7f10d8000000-7f10dc000000 r--p 00000000 00:00 0
7ffd0d000000-7ffd0d812000 rw-p 00000000 00:00 0                          [stack]
";
        assert_eq!(
            private_memory(maps),
            [0x55d0_c100_0000..0x55d0_c140_0000, 0x7f10_d000_0000..0x7f10_d400_0000]
        );
    }

    #[test]
    fn windows_lie_wholly_in_a_run() {
        let mib = |mib: u64| mib << 20;
        assert_eq!(windows(std::slice::from_ref(&(mib(1)..mib(7)))), [mib(2), mib(4)]);
        assert_eq!(windows(&[mib(1)..mib(3), mib(3)..mib(4), mib(6)..mib(8)]), [mib(2), mib(6)]);
        assert!(windows(&[mib(2)..mib(4) - 4096, mib(4)..mib(5)]).is_empty());
        assert!(windows(&[]).is_empty());
    }

    #[test]
    fn it_is_given_up_where_memory_is_in_pieces() {
        let done = |gathered, refused| Gathered { gathered, refused, cut_short: false };
        assert!(!too_long(done(4, 4), Duration::from_secs(1), None), "too early to say");
        assert!(too_long(done(16, 16), Duration::from_secs(1), None));
        assert!(!too_long(done(1000, 0), Duration::from_secs(2), None));
        assert!(too_long(done(4000, 0), Duration::from_secs(3), None));
    }

    #[test]
    fn it_takes_no_more_than_its_share_of_the_time_there_is() {
        let done = Gathered { gathered: 1000, ..Gathered::default() };
        let half = Duration::from_millis(500);
        assert!(!too_long(done, half, Some(Duration::from_secs(20))));
        assert!(too_long(done, half, Some(Duration::from_secs(1))));
        assert!(too_long(done, Duration::ZERO, Some(Duration::ZERO)));
    }

    #[test]
    fn memory_stays_as_it_was() {
        let mut memory = vec![0u8; 16 << 20];
        let pattern = |at: usize| (at >> 12) as u8 ^ at as u8;
        memory.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at));
        let own = i32::try_from(std::process::id()).unwrap();
        let done = gather(own, &Order::new(crate::triggers::Kind::Running, None));
        assert!(memory.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
        let again = gather(own, &Order::new(crate::triggers::Kind::Running, None));
        assert!(
            again.gathered <= done.gathered.max(1),
            "what is gathered is not gathered again: {done:?} {again:?}"
        );
    }

    proptest! {
        #[test]
        fn no_window_reaches_beyond_its_run(runs in proptest::collection::vec((0u64..1 << 34, 1u64..1 << 24), 0..20)) {
            let mut runs: Vec<_> = runs.into_iter().map(|(start, len)| start & !4095..(start & !4095) + (len & !4095)).collect();
            runs.sort_by_key(|run| run.start);
            for start in windows(&runs) {
                let covered = (start..start + HUGE).step_by(4096).all(|page| runs.iter().any(|run| run.contains(&page)));
                prop_assert!(covered && start % HUGE == 0);
            }
        }

        #[test]
        fn no_maps_make_it_panic(maps in ".{0,300}") {
            private_memory(&maps);
        }
    }
}

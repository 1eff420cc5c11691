//! Reads memory while CRIU is still at work, from the moment at which all tasks stand still.
//!
//! Which pages belong to the checkpoint only CRIU's pagemaps say, and they come last. So what is read here is read on
//! trial: of it counts what those say, too. Pages that change although the program stands still are left for later:
//! CRIU runs code of its own in the tree, for which it writes into executable memory for a moment
//! (`compel/src/lib/infect.c`), and the kernel completes asynchronous reads into memory (`io_submit(2)`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use torpor_store::{Draft, DraftError, MemoryId, PageRange};

use super::{FLAGS, PAGE};
use crate::freeze::{Dump, Standstill};
use crate::process_tree;
use crate::sys::memory::{self, Pages};

/// How long to wait before looking again whether all stands still.
const PAUSE: Duration = Duration::from_micros(300);

/// Waits until all tasks of the tree stand still, and takes what memory there is into the draft on trial, until all is
/// noted.
///
/// # Errors
/// The draft refuses a range.
pub(crate) fn try_early(
    dump: &Dump<'_>,
    standstill: &Standstill<'_>,
    draft: &mut Draft,
) -> Result<(), DraftError> {
    let Dump { criu, root, images, all_noted, .. } = *dump;
    // CRIU makes its first image when it has stopped the last task (`criu/cr-dump.c`, `cr_dump_tasks`).
    while !has_image(images) {
        if all_noted.load(Ordering::Relaxed) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    let together = standstill.reached();
    let tree = process_tree::of(root);
    if together.is_err() || !tree.iter().all(|pid| is_held(*pid, criu)) {
        return Ok(());
    }
    let (mut ranges, mut pids) = (Vec::new(), Vec::new());
    for pid in tree {
        let Some(number) = process_tree::pid_as_seen_by(pid, root) else { continue };
        let memory = MemoryId::process(number.unsigned_abs().into());
        // What cannot be read now is read later.
        for run in steady_pages(pid).unwrap_or_default() {
            ranges.push(PageRange {
                memory,
                vaddr: run.start,
                pages: (run.end - run.start) / PAGE,
                flags: FLAGS.0,
            });
            pids.push(pid);
        }
    }
    let read = |number: usize, vaddr: u64, room: &mut [u8]| match memory::read(pids[number], vaddr, room)? {
        got if got == room.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    draft.pages_on_trial(&ranges, &read, all_noted)
}

fn has_image(images: &Path) -> bool {
    let mut names = fs::read_dir(images).into_iter().flatten().flatten();
    names.any(|entry| entry.path().extension().is_some_and(|end| end == "img"))
}

/// Whether all tasks of a process are traced by `tracer`, or have ended.
fn is_held(pid: i32, tracer: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    tasks.is_ok_and(|tasks| {
        tasks.iter().all(|task| {
            fs::read_to_string(task.path().join("status")).is_ok_and(|status| is_traced(&status, tracer))
        })
    })
}

/// The same of a task, by its status (proc_pid_status(5)).
fn is_traced(status: &str, tracer: i32) -> bool {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    value("State:").is_some_and(|state| state.starts_with(['Z', 'X']))
        || value("TracerPid:").and_then(|pid| pid.parse().ok()) == Some(tracer)
}

/// Pages of a process that do not change while it stands still.
fn steady_pages(pid: i32) -> io::Result<Vec<Range<u64>>> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut runs = Vec::new();
    for mapping in steady_mappings(&fs::read_to_string(format!("/proc/{pid}/maps"))?) {
        runs.extend(memory::runs(&pagemap, &mapping, Pages::Anonymous)?);
    }
    Ok(runs)
}

/// The mappings of maps (proc_pid_maps(5)) that are private and of no file, readable and not executable. The stack is
/// left out, part of which CRIU writes itself; and all of it, where there is asynchronous I/O.
fn steady_mappings(maps: &str) -> Vec<Range<u64>> {
    if maps.lines().any(|line| line.contains("/[aio]")) {
        return Vec::new();
    }
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let range = memory::address_range(words.next()?)?;
        let permissions = words.next()?;
        let plain = permissions.starts_with('r') && permissions.ends_with("-p") && words.nth(2)? == "0";
        (plain && words.next().is_none_or(|name| name == "[heap]" || name.starts_with("[anon")))
            .then_some(range)
    };
    maps.lines().filter_map(mapping).collect()
}

/// Ranges of pages of a memory object, by where they begin; none touches another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds one behind all others.
    pub(crate) fn push(&mut self, start: u64, end: u64) {
        match self.0.last_entry() {
            Some(mut last) if *last.get() == start => *last.get_mut() = end,
            _ => {
                self.0.insert(start, end);
            }
        }
    }

    /// Whether all of it is within one of them.
    pub(crate) fn contains(&self, start: u64, end: u64) -> bool {
        self.0.range(..=start).next_back().is_some_and(|(_, last)| end <= *last)
    }

    /// Takes something out that is within one of them.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let Some((&first, &last)) = self.0.range(..=start).next_back().filter(|(_, last)| end <= **last)
        else {
            return;
        };
        self.0.remove(&first);
        for (start, end) in [(first, start), (end, last)] {
            if start < end {
                self.0.insert(start, end);
            }
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_task_is_held_when_criu_traces_it_or_it_has_ended() {
        let status =
            |state: &str, tracer: i32| format!("Name:\tx\nState:\t{state}\nTgid:\t7\nTracerPid:\t{tracer}\n");
        assert!(is_traced(&status("t (tracing stop)", 9), 9));
        assert!(is_traced(&status("Z (zombie)", 0), 9));
        assert!(!is_traced(&status("t (tracing stop)", 8), 9), "somebody else's");
        assert!(!is_traced(&status("S (sleeping)", 0), 9));
        assert!(!is_traced("", 9));
    }

    #[test]
    fn code_files_and_stacks_are_left_for_later() {
        let maps = "\
55d0c0a00000-55d0c0c02000 rw-p 00000000 fe:00 131132                     /usr/bin/a
55d0c1000000-55d0c1400000 rw-p 00000000 00:00 0                          [heap]
7f10c0000000-7f10c0021000 rwxp 00000000 00:00 0
7f10d0000000-7f10d0021000 rw-p 00000000 00:00 0
7f10d0100000-7f10d0121000 rw-p 00000000 00:00 0                          [anon:arena]
7f10d4000000-7f10d8000000 rw-s 00000000 00:01 42                         /dev/zero (deleted)
7ffd0d000000-7ffd0d812000 rw-p 00000000 00:00 0                          [stack]
";
        let starts: Vec<_> = steady_mappings(maps).iter().map(|range| range.start).collect();
        assert_eq!(starts, [0x55d0_c100_0000, 0x7f10_d000_0000, 0x7f10_d010_0000]);
        let aio = format!("{maps}7f10e4000000-7f10e4001000 rw-s 00000000 00:0d 9 /[aio] (deleted)\n");
        assert_eq!(steady_mappings(&aio), []);
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_gone_and_nothing_else(
            ranges in prop::collection::vec((1u64..4, 1u64..9), 1..9),
            taken in prop::collection::vec((0u64..80, 1u64..5), 0..9),
        ) {
            let (mut there, mut at) = (Ranges::default(), 0);
            let mut pages = std::collections::BTreeSet::new();
            for (gap, len) in ranges {
                there.push(at + gap, at + gap + len);
                pages.extend(at + gap..at + gap + len);
                at += gap + len;
            }
            for (start, len) in taken {
                prop_assert_eq!(there.contains(start, start + len), (start..start + len).all(|page| pages.contains(&page)));
                if there.contains(start, start + len) {
                    there.remove(start, start + len);
                    pages.retain(|page| !(start..start + len).contains(page));
                }
            }
            prop_assert!(there.iter().flat_map(|(start, end)| start..end).eq(pages));
        }
    }
}

//! Whether CRIU can leave a program's memory in place.

use std::fs;

use crate::process_tree;
use crate::sys::memory;

use super::PAGE;

/// Pages that fit into one of CRIU's pipes at least, where nobody lowered the limit (proc_sys_fs(5), `pipe-max-size`).
const PAGES_OF_PIPE: u64 = 256;
/// Descriptors that CRIU has open besides those pipes, at most.
const OTHER_DESCRIPTORS: u64 = 1024;
/// What CRIU's pipes take for each page that it leaves, in bytes: an entry of the kernel's (`struct pipe_buffer`), whose
/// number is a power of two.
const OF_PAGE: u64 = 50;
/// What CRIU may write itself, in bytes: a larger file would be page cache of the container's.
const MOST_WRITTEN: u64 = 16 << 20;
/// The first CRIU with which this was tried.
const FIRST_CRIU: u32 = 40_200;

/// What decides whether memory can be left in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    /// CRIU's version as one number.
    pub(crate) criu: u32,
    /// Whether CRIU works without `CAP_SYS_ADMIN`, and so with the few pipes of an ordinary user.
    pub(crate) unprivileged: bool,
    /// How many descriptors CRIU may have.
    pub(crate) descriptors: u64,
    /// What the capture may add to memory, in bytes.
    pub(crate) budget: u64,
    /// The program's memory.
    pub(crate) memory: Memory,
}

/// The memory of a tree, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// CRIU can leave it: private and of no file.
    pub(crate) in_place: u64,
    /// CRIU writes it.
    pub(crate) written: u64,
    /// Whether we may read all of it.
    pub(crate) readable: bool,
}

impl Ground {
    /// Why memory cannot be left in place, if so.
    pub(crate) fn obstacle(&self) -> Option<&'static str> {
        let Ground { criu, unprivileged, descriptors, budget, memory } = *self;
        let pipes = memory.in_place / PAGE / PAGES_OF_PIPE;
        let obstacles = [
            (criu < FIRST_CRIU, "it was never tried with so old a criu"),
            (unprivileged, "criu has no privilege for so many pipes"),
            (2 * pipes + OTHER_DESCRIPTORS > descriptors, "criu may not open so many pipes"),
            (of_pipes(memory.in_place) > budget / 4, "criu's pipes would take too much of the budget"),
            (memory.written > MOST_WRITTEN, "too much of the memory is shared, locked or of files"),
            (!memory.readable, "the memory cannot be read"),
        ];
        obstacles.iter().find(|(stands, _)| *stands).map(|(_, why)| *why)
    }
}

/// What CRIU's pipes add for so much memory, in bytes.
pub(crate) fn of_pipes(memory: u64) -> u64 {
    memory / PAGE * OF_PAGE
}

impl Memory {
    /// Looks at the tree below `root`.
    pub(crate) fn of(root: i32) -> Memory {
        let of_process = |pid| {
            let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
            let mut memory = Memory::in_smaps(&smaps);
            memory.readable = first_mapping(&smaps)
                .is_some_and(|start| memory::read(pid, start, &mut [0; PAGE as usize]).is_ok());
            Some(memory)
        };
        let sum = |sum: Memory, memory: Memory| Memory {
            in_place: sum.in_place + memory.in_place,
            written: sum.written + memory.written,
            readable: sum.readable && memory.readable,
        };
        let start = Memory { readable: true, ..Memory::default() };
        process_tree::of(root).into_iter().filter_map(of_process).fold(start, sum)
    }

    /// What can be left is private, of no file, neither locked nor of the kernel's pool of huge pages (CRIU,
    /// `criu/include/vma.h`, `vma_entry_can_be_lazy`).
    fn in_smaps(smaps: &str) -> Memory {
        let mut memory = Memory::default();
        let mut mapping = Mapping::default();
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(first), second) = (words.next(), words.next()) else { continue };
            let bytes = || second.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024;
            match first {
                "Rss:" => mapping.resident = bytes(),
                "Anonymous:" => mapping.anonymous = bytes(),
                "Swap:" => mapping.swapped = bytes(),
                "VmFlags:" => {
                    mapping.special =
                        second.into_iter().chain(words).any(|flag| ["lo", "ht"].contains(&flag));
                    mapping.add_to(&mut memory);
                }
                _ if memory::address_range(first).is_some() => {
                    let private = second.is_some_and(|permissions| permissions.ends_with('p'));
                    let of_file = words.nth(2).is_some_and(|inode| inode != "0");
                    mapping = Mapping { private, of_file, ..Mapping::default() };
                }
                _ => {}
            }
        }
        memory
    }
}

/// A mapping of smaps (proc_pid_smaps(5)).
#[derive(Default)]
struct Mapping {
    private: bool,
    of_file: bool,
    resident: u64,
    anonymous: u64,
    swapped: u64,
    special: bool,
}

impl Mapping {
    fn add_to(&self, memory: &mut Memory) {
        if self.private && !self.of_file && !self.special {
            memory.in_place += self.anonymous + self.swapped;
        } else if self.private {
            memory.written += self.anonymous + self.swapped;
        } else {
            memory.written += self.resident + self.swapped;
        }
    }
}

/// Where the first mapping begins that can be read.
fn first_mapping(smaps: &str) -> Option<u64> {
    smaps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let range = memory::address_range(words.next()?)?;
        words.next()?.starts_with('r').then_some(range.start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_is_left_in_place_only_where_that_is_sure_to_work() {
        let memory = Memory { in_place: GIB, written: 1 << 20, readable: true };
        let ground =
            Ground { criu: 40_201, unprivileged: false, descriptors: 20_000, budget: 64 << 20, memory };
        assert_eq!(ground.obstacle(), None);
        for (ground, why) in [
            (Ground { criu: 40_101, ..ground }, "so old"),
            (Ground { unprivileged: true, ..ground }, "privilege"),
            (Ground { descriptors: 1024, ..ground }, "so many pipes"),
            (Ground { memory: Memory { in_place: 4 * GIB, ..memory }, ..ground }, "budget"),
            (Ground { memory: Memory { written: GIB, ..memory }, ..ground }, "shared"),
            (Ground { memory: Memory { readable: false, ..memory }, ..ground }, "read"),
        ] {
            assert!(ground.obstacle().unwrap().contains(why), "{ground:?}");
        }
    }

    #[test]
    fn what_criu_leaves_is_told_from_what_it_writes() {
        let mapping = |head: &str, rss: u64, anonymous: u64, flags: &str| {
            format!("{head}\nRss: {rss} kB\nAnonymous: {anonymous} kB\nSwap: 1 kB\nVmFlags: rd wr {flags}\n")
        };
        let smaps = [
            mapping("55d0c0a00000-55d0c0c02000 rw-p 00000000 fe:00 131132  /usr/bin/a b", 100, 10, "mr"),
            mapping("55d0c1000000-55d0c1400000 rw-p 00000000 00:00 0       [heap]", 1000, 1000, "mr"),
            mapping(
                "7f10d4000000-7f10d8000000 rw-s 00000000 00:01 42      /dev/zero (deleted)",
                500,
                0,
                "mr",
            ),
            mapping("7f10e4000000-7f10e8000000 rw-p 00000000 00:00 0", 4, 4, "lo"),
        ]
        .concat();
        let written = (10 + 500 + 4 + 3) * 1024;
        assert_eq!(Memory::in_smaps(&smaps), Memory { in_place: 1001 * 1024, written, readable: false });
        assert_eq!(first_mapping(&smaps), Some(0x55d0_c0a0_0000));
    }
}

//! How much memory a capture may add to a container.
//!
//! In a container, what Torpor takes counts against the program's own limit: too much, and the kernel ends the very
//! program that was to be kept.

use std::path::{Path, PathBuf};

/// Never less than this, in bytes.
pub const LEAST: u64 = 64 << 20;
/// What CRIU itself needs for a tree of ordinary size, in bytes: its images in the making and its tables of pages.
pub const CRIU: u64 = 16 << 20;
/// What each side of the page server's socket may hold, in bytes.
pub const SOCKET: u64 = 4 << 20;

/// The memory that this process's cgroup has, or the machine where it is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes the cgroup may use; none where there is no limit.
    pub limit: Option<u64>,
    /// Bytes in use, page cache that can be dropped not counted.
    pub used: u64,
    /// Bytes the machine can give.
    pub available: u64,
}

impl Memory {
    /// What can be had, by the cgroup and the machine.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.limit.map_or(self.available, |limit| limit.saturating_sub(self.used).min(self.available))
    }

    /// Reads it for this process. What cannot be read counts as unlimited.
    #[must_use]
    pub fn read() -> Memory {
        let text = |path: &Path| std::fs::read_to_string(path).ok();
        let available =
            text(Path::new("/proc/meminfo")).and_then(|meminfo| kilobytes(&meminfo, "MemAvailable:"));
        let cgroups = text(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let group = groups(&cgroups).into_iter().find_map(|group| group.read(|path| text(path)));
        let (limit, used) = group.unwrap_or((None, 0));
        Memory { limit, used, available: available.unwrap_or(u64::MAX) }
    }
}

/// The budget for one capture: half of what is free, and at least [`LEAST`]; or what was asked for.
#[must_use]
pub fn decide(asked: Option<u64>, memory: Memory) -> u64 {
    asked.unwrap_or(memory.free() / 2).max(LEAST)
}

/// What the table of known pages may take of a `budget`, in bytes.
#[must_use]
pub fn of_index(budget: u64) -> u64 {
    (budget / 16).min(16 << 20)
}

/// What a draft knows of a generation before that has so much `memory`, in bytes: a digest for each page.
#[must_use]
pub fn of_predecessor(memory: u64) -> u64 {
    memory / 4096 * 16
}

/// What a draft takes of a `budget`, when CRIU has its share and so have the `others`: no more than the program's `memory`, with
/// room for what it may grow by meanwhile, because all that is taken is touched before the freeze.
#[must_use]
pub fn of_draft(budget: u64, others: u64, memory: u64) -> u64 {
    let allowed = budget.saturating_sub(CRIU + others).max(16 << 20);
    allowed.min(memory + memory / 8 + (32 << 20))
}

/// How a capture that takes pages into a draft shares a budget, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// For the draft's data.
    pub draft: u64,
    /// For the table of pages that are copied ahead of the freeze; nothing where the draft has room for all of them
    /// or work does not wait for the thaw.
    pub ahead: u64,
}

/// Shares a budget as [`of_draft`] does. `held` says whether all has to wait for the thaw.
#[must_use]
pub fn shares(budget: u64, others: u64, memory: u64, held: bool) -> Shares {
    let draft = of_draft(budget, others, memory);
    if !held || draft >= memory {
        return Shares { draft, ahead: 0 };
    }
    let ahead = budget / 8;
    Shares { draft: of_draft(budget, others + ahead, memory), ahead }
}

/// Where a memory controller shows its numbers.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    directory: PathBuf,
    limit: &'static str,
    used: &'static str,
    /// Page cache that the kernel can take away at once, in the statistics file.
    cache: &'static str,
}

impl Group {
    fn read(&self, text: impl Fn(&Path) -> Option<String>) -> Option<(Option<u64>, u64)> {
        let number = |file: &str| text(&self.directory.join(file))?.trim().parse::<u64>().ok();
        let used = number(self.used)?;
        let cache =
            text(&self.directory.join("memory.stat")).and_then(|stat| word(&stat, self.cache)).unwrap_or(0);
        // An unlimited v1 group says the largest multiple of the page size; v2 says "max", which is no number.
        let limit = number(self.limit).filter(|limit| *limit < 1 << 60);
        Some((limit, used.saturating_sub(cache)))
    }
}

/// The groups that limit this process, most likely first: as seen from inside a container (its own group is the root),
/// then as seen from the host.
fn groups(cgroups: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, limit, used, cache) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        } else {
            continue;
        };
        for directory in [Path::new(root).join(path.trim_start_matches('/')), PathBuf::from(root)] {
            found.push(Group { directory, limit, used, cache });
        }
    }
    found
}

fn word(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    word(text, key).map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn pages_are_copied_ahead_only_where_the_draft_has_no_room_for_all() {
        const MIB: u64 = 1 << 20;
        let shares = |budget: u64, memory: u64, held| shares(budget * MIB, 0, memory * MIB, held);
        assert_eq!(shares(64, 1024, true), Shares { draft: 40 * MIB, ahead: 8 * MIB });
        assert_eq!(shares(64, 1024, false), Shares { draft: 48 * MIB, ahead: 0 });
        assert_eq!(shares(64, 16, true).ahead, 0);
        assert_eq!(shares(2048, 1024, true).ahead, 0);
    }

    #[test]
    fn half_of_what_is_free_but_at_least_64_mib() {
        let memory = |limit, used, available| Memory { limit, used, available };
        assert_eq!(decide(None, memory(Some(4 * GIB), 2 * GIB, 20 * GIB)), GIB);
        assert_eq!(decide(None, memory(Some(4 * GIB), 4 * GIB, 20 * GIB)), LEAST);
        assert_eq!(decide(None, memory(None, 0, 8 * GIB)), 4 * GIB);
        assert_eq!(decide(None, memory(Some(8 * GIB), 0, 2 * GIB)), GIB);
        assert_eq!(decide(Some(3 * GIB), memory(None, 0, GIB)), 3 * GIB);
        assert_eq!(decide(Some(1), memory(None, 0, GIB)), LEAST);
    }

    #[test]
    fn both_generations_of_cgroups_are_read() {
        let v2 = groups("0::/pod/x\n");
        assert_eq!(v2[0].directory, Path::new("/sys/fs/cgroup/pod/x"));
        let read = |path: &Path| match path.file_name()?.to_str()? {
            "memory.max" => Some("max\n".to_owned()),
            "memory.current" => Some("1000\n".to_owned()),
            "memory.stat" => Some("anon 5\ninactive_file 300\n".to_owned()),
            _ => None,
        };
        assert_eq!(v2[0].read(read), Some((None, 700)));
        let v1 = groups("5:devices:/a\n4:memory:/a\n0::/\n");
        assert_eq!(v1[0].directory, Path::new("/sys/fs/cgroup/memory/a"));
        assert_eq!(v1[0].read(|_| None), None);
    }
}

//! What the carried mounts held at the start: enough to tell later what was added, changed and removed.
//!
//! Sixteen bytes of fingerprint and the name of each file are kept; a root of 100,000 files takes a few MiB.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::walk::{self, Visit, Visited};
use super::{FilesError, Selection, Stat, Timestamp};
use crate::mounts::MountPlan;

/// The most files a baseline holds; about 50 bytes are kept for each.
pub const FILE_LIMIT: u32 = 8_000_000;

/// No directory: the entry is something else, or was not entered.
const NONE: u32 = u32::MAX;

/// The state of the carried mounts at one moment.
#[derive(Debug)]
pub struct Baseline {
    pub(super) roots: Vec<Root>,
    /// Taken whatever the comparison says.
    pub(super) changed_before: BTreeSet<PathBuf>,
}

/// One mount of a baseline.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) point: PathBuf,
    pub(super) own: Fingerprint,
    pub(super) directories: Vec<Directory>,
}

/// The names in a directory, sorted.
#[derive(Debug, Default)]
pub(super) struct Directory {
    names: Box<[u8]>,
    entries: Box<[Entry]>,
}

#[derive(Debug)]
pub(super) struct Entry {
    name: u32,
    /// The entry's place among the directories, or [`NONE`].
    directory: u32,
    pub(super) fingerprint: Fingerprint,
}

impl Entry {
    pub(super) fn directory(&self) -> Option<u32> {
        (self.directory != NONE).then_some(self.directory)
    }
}

impl Directory {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&CStr, &Entry)> {
        self.entries.iter().map(|entry| (self.name(entry), entry))
    }

    fn name(&self, entry: &Entry) -> &CStr {
        CStr::from_bytes_until_nul(&self.names[entry.name as usize..]).unwrap_or_default()
    }
}

/// The state of a file in two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Changes whenever the content can have changed, except by someone who sets the old time again.
    pub(super) content: u64,
    /// Changes with every change.
    pub(super) state: u64,
}

impl Fingerprint {
    pub(super) fn of(stat: &Stat) -> Self {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        // A directory's length and time say only that names came or went, which is seen by the names.
        let content = hash(&|hasher| {
            (stat.mode & 0o170_000, stat.rdev).hash(hasher);
            if !stat.is_directory() {
                (stat.ino, stat.size, stat.mtime).hash(hasher);
            }
        });
        let state = hash(&|hasher| {
            (stat.mode, stat.uid, stat.gid, stat.mtime, stat.ctime, stat.rdev).hash(hasher);
        });
        Self { content, state }
    }
}

impl Baseline {
    /// Records the carried mounts of a plan. Call it before the program starts, and at a restore before files are
    /// put back. Returns only when every later change is sure to get a later time.
    pub fn take(plan: &MountPlan, selection: &Selection) -> Result<Self, FilesError> {
        Self::take_with(plan, selection, FILE_LIMIT, walk::default_threads())
    }

    fn take_with(
        plan: &MountPlan,
        selection: &Selection,
        limit: u32,
        threads: usize,
    ) -> Result<Self, FilesError> {
        let roots = plan
            .carried()
            .map(|planned| Root::take(&planned.mount.point, selection, limit, threads))
            .collect::<Result<_, _>>()?;
        let (taken, pause) = (Timestamp::coarse_now(), Duration::from_micros(500));
        // One tick of the kernel's clock is at most ten milliseconds; the bound is for a clock set back.
        for _ in 0..100 {
            if Timestamp::coarse_now() > taken {
                break;
            }
            std::thread::sleep(pause);
        }
        Ok(Self { roots, changed_before: BTreeSet::new() })
    }

    /// Takes these paths for changed whatever a comparison says. At a restore, the paths the generation held: the
    /// next checkpoint has to carry them too, even where the container's own layer already has them.
    pub fn assume_changed(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        self.changed_before.extend(paths);
    }

    /// How many files it holds.
    #[must_use]
    pub fn files(&self) -> usize {
        self.roots.iter().flat_map(|root| &root.directories).map(|directory| directory.entries.len()).sum()
    }
}

impl Root {
    fn take(point: &Path, selection: &Selection, limit: u32, threads: usize) -> Result<Self, FilesError> {
        let read = |source| FilesError::Read { path: point.to_owned(), source };
        let own = Fingerprint::of(&Stat::follow(point).map_err(read)?);
        let recorder = Recorder {
            selection,
            limit,
            files: AtomicU32::new(0),
            next: AtomicU32::new(1),
            directories: Mutex::new(Vec::new()),
        };
        walk::walk(point, 0, threads, &recorder)?;
        let numbered = recorder.directories.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut directories = Vec::new();
        directories.resize_with(recorder.next.into_inner() as usize, Directory::default);
        for (number, directory) in numbered {
            directories[number as usize] = directory;
        }
        Ok(Self { point: point.to_owned(), own, directories })
    }
}

struct Recorder<'a> {
    selection: &'a Selection,
    limit: u32,
    files: AtomicU32,
    next: AtomicU32,
    directories: Mutex<Vec<(u32, Directory)>>,
}

impl Visit for Recorder<'_> {
    type Context = u32;

    fn visit(&self, visited: Visited<'_, u32>) -> Result<Vec<(usize, u32)>, FilesError> {
        let entries = visited.listing.iter();
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let before = self.files.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) > self.limit {
            return Err(FilesError::TooMany { limit: self.limit });
        }
        let (mut names, mut kept, mut next) = (Vec::new(), Vec::with_capacity(entries.len()), Vec::new());
        for (place, (name, stat)) in entries.enumerate() {
            // Another mount covers whatever this one has there.
            if stat.mount_root || self.skips(visited.path, name) {
                continue;
            }
            let directory = if stat.is_directory() {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                next.push((place, number));
                number
            } else {
                NONE
            };
            let start = u32::try_from(names.len()).map_err(|_| FilesError::TooMany { limit: self.limit })?;
            kept.push(Entry { name: start, directory, fingerprint: Fingerprint::of(stat) });
            names.extend(name.to_bytes_with_nul());
        }
        let directory = Directory { names: names.into(), entries: kept.into() };
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.push((visited.context, directory));
        Ok(next)
    }
}

impl Recorder<'_> {
    fn skips(&self, directory: &Path, name: &CStr) -> bool {
        !self.selection.exclude.is_empty() && self.selection.excludes(&walk::join(directory, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::plan_of;

    #[test]
    fn every_file_is_counted_and_what_is_excluded_is_not() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/b/c", "a/d", "store/pack"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let plan = plan_of(root.path());
        assert_eq!(Baseline::take(&plan, &Selection::default()).unwrap().files(), 6);
        let selection = Selection { exclude: vec![root.path().join("store")], ..Selection::default() };
        assert_eq!(Baseline::take(&plan, &selection).unwrap().files(), 4);
    }

    #[test]
    fn a_tree_that_is_too_large_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for name in 0..5 {
            std::fs::write(root.path().join(name.to_string()), "").unwrap();
        }
        let error = Baseline::take_with(&plan_of(root.path()), &Selection::default(), 4, 2).unwrap_err();
        assert!(matches!(error, FilesError::TooMany { limit: 4 }), "{error}");
    }

    #[test]
    fn a_file_is_no_place_for_a_baseline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Baseline::take(&plan_of(file.path()), &Selection::default()).unwrap_err();
        assert!(matches!(error, FilesError::NotADirectory { .. }), "{error}");
    }
}

//! How the carried mounts differ from the baseline.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::baseline::{Baseline, Directory, Fingerprint, Root};
use super::walk::{self, Visit, Visited, join};
use super::{FilesError, Section, Selection, Stat};
use crate::mounts::escape;

/// How a path differs from the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// Its content, or what kind of file it is, can have changed.
    Changed,
    /// Only its owner, mode, attributes or times changed, as far as its time and length tell. A regular file's
    /// body is carried all the same: whoever writes a file can set its old time again.
    Metadata,
    /// It is gone.
    Removed,
}

/// A path that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Why it is taken.
    pub section: Section,
    /// What is there now; `None` if nothing is.
    pub stat: Option<Stat>,
}

/// All paths that differ, in path order: a directory comes before what is in it.
#[derive(Debug, Clone, Default)]
pub struct ChangeSet {
    changes: BTreeMap<PathBuf, Change>,
    unreadable: Vec<PathBuf>,
}

impl ChangeSet {
    /// Compares the mounts of a baseline with what they hold now, and adds the paths of `selection.additional`.
    pub fn find(baseline: &Baseline, selection: &Selection) -> Result<Self, FilesError> {
        Self::find_with(baseline, selection, walk::default_threads())
    }

    pub(super) fn find_with(
        baseline: &Baseline,
        selection: &Selection,
        threads: usize,
    ) -> Result<Self, FilesError> {
        let mut set = Self::default();
        for root in &baseline.roots {
            set.compare(root, selection, threads)?;
        }
        for path in &baseline.changed_before {
            set.assume(baseline, selection, path)?;
        }
        for path in &selection.additional {
            set.add_whole(path, selection, threads)?;
        }
        Ok(set)
    }

    /// Everything at a path and beneath it.
    pub(super) fn whole(path: &Path) -> Result<Self, FilesError> {
        let mut set = Self::default();
        set.add_whole(path, &Selection::default(), 1)?;
        Ok(set)
    }

    fn compare(&mut self, root: &Root, selection: &Selection, threads: usize) -> Result<(), FilesError> {
        let read = |source| FilesError::Read { path: root.point.clone(), source };
        let stat = Stat::follow(&root.point).map_err(read)?;
        if Fingerprint::of(&stat).state != root.own.state {
            let change = Change { kind: ChangeKind::Metadata, section: Section::Carried, stat: Some(stat) };
            self.changes.insert(root.point.clone(), change);
        }
        let comparer = Comparer { root, selection, section: Section::Carried, found: Mutex::default() };
        self.unreadable.extend(walk::walk(&root.point, Some(0), threads, &comparer)?);
        self.changes.extend(comparer.found.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// A path that changed before the baseline was taken: in another life of the container, whose layer kept it.
    fn assume(&mut self, baseline: &Baseline, selection: &Selection, path: &Path) -> Result<(), FilesError> {
        let carried = baseline.roots.iter().any(|root| path.starts_with(&root.point));
        if !carried || self.changes.contains_key(path) || selection.excludes(path) {
            return Ok(());
        }
        // Then what became of a directory above says it already.
        if self.is_below_removed(path) {
            return Ok(());
        }
        let stat = optional_stat(path)?;
        let kind = if stat.is_some() { ChangeKind::Changed } else { ChangeKind::Removed };
        self.changes.insert(path.to_owned(), Change { kind, section: Section::Carried, stat });
        Ok(())
    }

    fn is_below_removed(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|above| {
            self.changes.get(above).is_some_and(|change| change.stat.is_none_or(|stat| !stat.is_directory()))
        })
    }

    fn add_whole(&mut self, path: &Path, selection: &Selection, threads: usize) -> Result<(), FilesError> {
        if selection.excludes(path) {
            return Ok(());
        }
        let Some(stat) = optional_stat(path)? else { return Ok(()) };
        let change = Change { kind: ChangeKind::Changed, section: Section::Additional, stat: Some(stat) };
        self.changes.entry(path.to_owned()).or_insert(change);
        if !stat.is_directory() {
            return Ok(());
        }
        let fingerprint = Fingerprint::of(&stat);
        let root = Root { point: path.to_owned(), own: fingerprint, directories: Vec::new() };
        let comparer =
            Comparer { root: &root, selection, section: Section::Additional, found: Mutex::default() };
        self.unreadable.extend(walk::walk(path, None, threads, &comparer)?);
        for (path, change) in comparer.found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.changes.entry(path).or_insert(Change { kind: ChangeKind::Changed, ..change });
        }
        Ok(())
    }

    /// The changes, in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Change)> {
        self.changes.iter().map(|(path, change)| (path.as_path(), change))
    }

    /// What happened to a path.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Change> {
        self.changes.get(path)
    }

    /// Leaves out a path and all beneath it.
    pub(super) fn leave_out(&mut self, above: &Path) {
        self.changes.retain(|path, _| !path.starts_with(above));
    }

    /// How many paths differ.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The length of all regular files in it, in bytes, holes included: how much there is to copy at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files = self.changes.values().filter_map(|change| change.stat).filter(Stat::is_file);
        files.map(|stat| stat.size).sum()
    }

    /// Directories that could not be read for lack of permission, and so may hold changes nobody knows of.
    #[must_use]
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }
}

impl fmt::Display for ChangeSet {
    /// One line for each path: `A` added, `C` changed, `M` metadata, `D` removed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        for (path, change) in self.iter() {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Metadata => 'M',
                ChangeKind::Removed => 'D',
            };
            writeln!(f, "{letter} {}", escape(path.as_os_str().as_bytes()))?;
        }
        Ok(())
    }
}

fn optional_stat(path: &Path) -> Result<Option<Stat>, FilesError> {
    match Stat::at(rustix::fs::CWD, path) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(source) => Err(FilesError::Read { path: path.to_owned(), source: source.into() }),
    }
}

struct Comparer<'a> {
    root: &'a Root,
    selection: &'a Selection,
    section: Section,
    found: Mutex<Vec<(PathBuf, Change)>>,
}

impl Visit for Comparer<'_> {
    /// The directory's place in the baseline, if it was there.
    type Context = Option<u32>;

    fn visit(&self, visited: Visited<'_, Self::Context>) -> Result<Vec<(usize, Self::Context)>, FilesError> {
        let nothing = Directory::default();
        let before = visited.context.and_then(|number| self.root.directories.get(number as usize));
        let mut old = before.unwrap_or(&nothing).iter().peekable();
        let (mut next, mut found) = (Vec::new(), Vec::new());
        for (place, (name, stat)) in visited.listing.iter().enumerate() {
            while let Some((gone, _)) = old.next_if(|(old, _)| *old < name) {
                self.removed(visited.path, gone, &mut found);
            }
            let was = old.next_if(|(old, _)| *old == name).map(|(_, entry)| entry);
            if stat.mount_root {
                continue;
            }
            let kind = match was.map(|entry| entry.fingerprint) {
                None => Some(ChangeKind::Added),
                Some(was) if was == Fingerprint::of(stat) => None,
                Some(was) if was.content == Fingerprint::of(stat).content => Some(ChangeKind::Metadata),
                Some(_) => Some(ChangeKind::Changed),
            };
            let directory = was.and_then(super::baseline::Entry::directory);
            if kind.is_none() && !stat.is_directory() {
                continue;
            }
            let path = join(visited.path, name);
            if self.selection.excludes(&path) {
                continue;
            }
            if stat.is_directory() {
                next.push((place, directory));
            }
            if let Some(kind) = kind {
                found.push((path, Change { kind, section: self.section, stat: Some(*stat) }));
            }
        }
        for (gone, _) in old {
            self.removed(visited.path, gone, &mut found);
        }
        if !found.is_empty() {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
        }
        Ok(next)
    }
}

impl Comparer<'_> {
    fn removed(&self, directory: &Path, name: &CStr, found: &mut Vec<(PathBuf, Change)>) {
        let path = join(directory, name);
        if !self.selection.excludes(&path) {
            let change = Change { kind: ChangeKind::Removed, section: self.section, stat: None };
            found.push((path, change));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::plan_of;
    use std::fs;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["keep", "write", "chmod", "gone", "dir/inner", "dir/gone", "away/x", "swap/x", "store/x"]
        {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        root
    }

    fn summary(set: &ChangeSet, root: &Path) -> Vec<String> {
        let prefix = format!("{}/", root.display());
        set.to_string().lines().map(|line| line.replace(&prefix, "")).collect()
    }

    #[test]
    fn each_kind_of_change_is_found_and_nothing_else() {
        use std::os::unix::fs::PermissionsExt;
        let root = tree();
        let at = |name: &str| root.path().join(name);
        let selection = Selection { exclude: vec![at("store")], additional: vec![] };
        let baseline = Baseline::take(&plan_of(root.path()), &selection).unwrap();
        assert!(ChangeSet::find(&baseline, &selection).unwrap().is_empty());

        fs::write(at("write"), "other").unwrap();
        fs::set_permissions(at("chmod"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(at("dir/gone")).unwrap();
        fs::remove_dir_all(at("away")).unwrap();
        fs::remove_dir_all(at("swap")).unwrap();
        fs::write(at("swap"), "now a file").unwrap();
        fs::create_dir(at("new")).unwrap();
        fs::write(at("new/file"), "").unwrap();
        fs::write(at("store/y"), "").unwrap();
        fs::remove_file(at("store/x")).unwrap();

        let set = ChangeSet::find(&baseline, &selection).unwrap();
        let expected = [
            &format!("M {}", root.path().display()),
            "D away",
            "M chmod",
            "M dir",
            "D dir/gone",
            "A new",
            "A new/file",
            "C swap",
            "C write",
        ];
        assert_eq!(summary(&set, root.path()), expected);
        assert_eq!(set.bytes(), 5 + 10 + 5);
    }

    #[test]
    fn a_change_that_puts_the_old_time_back_is_found() {
        let root = tree();
        let path = root.path().join("write");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let baseline = Baseline::take(&plan_of(root.path()), &Selection::default()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut &file, b"WRITE").unwrap();
        file.set_modified(before).unwrap();
        let set = ChangeSet::find(&baseline, &Selection::default()).unwrap();
        assert_eq!(summary(&set, root.path()), ["M write"]);
    }

    #[test]
    fn additional_paths_are_taken_unchanged_and_links_are_not_followed() {
        let (root, elsewhere) = (tree(), tree());
        std::os::unix::fs::symlink("/etc", elsewhere.path().join("link")).unwrap();
        let baseline = Baseline::take(&plan_of(root.path()), &Selection::default()).unwrap();
        let additional = vec![elsewhere.path().join("dir"), elsewhere.path().join("link"), "/no/such".into()];
        let selection = Selection { additional, exclude: vec![elsewhere.path().join("dir/gone")] };
        let set = ChangeSet::find(&baseline, &selection).unwrap();
        assert_eq!(summary(&set, elsewhere.path()), ["C dir", "C dir/inner", "C link"]);
        assert!(set.iter().all(|(_, change)| change.section == Section::Additional));
    }

    #[test]
    fn what_changed_in_an_earlier_life_stays_changed() {
        let root = tree();
        let at = |name: &str| root.path().join(name);
        let mut baseline = Baseline::take(&plan_of(root.path()), &Selection::default()).unwrap();
        baseline.assume_changed([at("keep"), at("never/was"), "/elsewhere".into()]);
        let set = ChangeSet::find(&baseline, &Selection::default()).unwrap();
        assert_eq!(summary(&set, root.path()), ["C keep", "D never/was"]);
    }

    #[test]
    fn another_mount_is_not_entered() {
        let plan = plan_of(Path::new("/dev"));
        let baseline = Baseline::take(&plan, &Selection::default()).unwrap();
        let shm = baseline.roots[0].directories[0].iter().any(|(name, _)| name == c"shm");
        assert!(!shm, "/dev/shm is a mount of its own");
    }
}

//! The control group that stops all processes of a container at once.
//!
//! Version 1: the file `freezer.state` says `THAWED`, `FREEZING` or `FROZEN` (Linux,
//! Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst). Version 2: `cgroup.freeze` says 1 or 0
//! (Documentation/admin-guide/cgroup-v2.rst).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// A control group that can freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    directory: PathBuf,
}

impl Freezer {
    /// The control group in `directory`, of either version.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Freezer {
        Freezer { directory: directory.into() }
    }

    /// Among the paths of a container's control groups by controller, as runc keeps them: the freezer's, or the one of
    /// version 2, whose controller has no name.
    #[must_use]
    pub fn of_paths(paths: &BTreeMap<String, PathBuf>) -> Option<Freezer> {
        paths.get("freezer").or_else(|| paths.get("")).cloned().map(Freezer::new)
    }

    /// The one of a control group by its name, such as `/machine/one`: of version 1 where it is there, else of 2.
    #[must_use]
    pub fn named(group: &Path) -> Option<Freezer> {
        Freezer::named_below(Path::new(MOUNT), group)
    }

    fn named_below(mount: &Path, group: &Path) -> Option<Freezer> {
        let relative = group.strip_prefix("/").unwrap_or(group);
        // A group that is the root holds the whole machine.
        if relative.as_os_str().is_empty() {
            return None;
        }
        let (first, second) = (mount.join("freezer").join(relative), mount.join(relative));
        [(first, "freezer.state"), (second, "cgroup.freeze")]
            .into_iter()
            .find(|(directory, file)| directory.join(file).exists())
            .map(|(directory, _)| Freezer { directory })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it is of version 2, by where it is: those of version 1 are in a hierarchy of their own.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        !self.directory.starts_with(Path::new(MOUNT).join("freezer"))
    }

    /// Whether it is frozen, or about to be. What cannot be read is not.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let read = |file: &str| std::fs::read_to_string(self.directory.join(file)).ok();
        match (read("freezer.state"), read("cgroup.freeze")) {
            (Some(state), _) => state.trim() != "THAWED",
            (None, Some(freeze)) => freeze.trim() == "1",
            (None, None) => false,
        }
    }

    /// Lets its processes go on. Returns whether they had been frozen.
    ///
    /// # Errors
    /// Where they are and it cannot be changed.
    pub fn thaw(&self) -> io::Result<bool> {
        if !self.is_frozen() {
            return Ok(false);
        }
        match self.directory.join("freezer.state") {
            first if first.exists() => std::fs::write(first, "THAWED")?,
            _ => std::fs::write(self.directory.join("cgroup.freeze"), "0")?,
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_and_thawed() {
        for (file, frozen, thawed) in [
            ("freezer.state", "FROZEN\n", "THAWED"),
            ("freezer.state", "FREEZING\n", "THAWED"),
            ("cgroup.freeze", "1\n", "0"),
        ] {
            let group = tempfile::tempdir().unwrap();
            let freezer = Freezer::new(group.path());
            assert!(!freezer.is_frozen() && !freezer.thaw().unwrap());
            std::fs::write(group.path().join(file), frozen).unwrap();
            assert!(freezer.is_frozen() && freezer.thaw().unwrap(), "{frozen}");
            assert_eq!(std::fs::read_to_string(group.path().join(file)).unwrap(), thawed);
            assert!(!freezer.is_frozen());
        }
    }

    #[test]
    fn a_group_is_looked_for_in_both_hierarchies() {
        let mount = tempfile::tempdir().unwrap();
        let group = |path: &str, file: &str| {
            std::fs::create_dir_all(mount.path().join(path)).unwrap();
            std::fs::write(mount.path().join(path).join(file), "").unwrap();
        };
        group("a", "cgroup.freeze");
        assert_eq!(
            Freezer::named_below(mount.path(), Path::new("/a")),
            Some(Freezer::new(mount.path().join("a")))
        );
        group("freezer/a", "freezer.state");
        let first = Freezer::new(mount.path().join("freezer/a"));
        assert_eq!(Freezer::named_below(mount.path(), Path::new("/a")), Some(first));
        for nothing in ["/", "/b"] {
            assert_eq!(Freezer::named_below(mount.path(), Path::new(nothing)), None);
        }
    }

    #[test]
    fn the_freezer_of_version_1_comes_first() {
        let paths = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(key, path)| ((*key).to_owned(), PathBuf::from(path)))
                .collect::<BTreeMap<_, _>>()
        };
        let hybrid = paths(&[("", "/sys/fs/cgroup/unified/a"), ("freezer", "/sys/fs/cgroup/freezer/a")]);
        assert_eq!(Freezer::of_paths(&hybrid), Some(Freezer::new("/sys/fs/cgroup/freezer/a")));
        let unified = paths(&[("", "/sys/fs/cgroup/a")]);
        assert_eq!(Freezer::of_paths(&unified), Some(Freezer::new("/sys/fs/cgroup/a")));
        assert_eq!(Freezer::of_paths(&paths(&[])), None);
    }
}

//! What a container changed in a copy of its image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::Stat;

/// What tells a copy from what it was copied from.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) changed: BTreeMap<PathBuf, Stat>,
    /// What is not there, in directories that are.
    pub(super) removed: BTreeMap<PathBuf, Stat>,
}

impl Difference {
    pub(super) fn of(found: BTreeMap<PathBuf, Stat>, image: &BTreeMap<PathBuf, Stat>) -> Difference {
        let is_directory = |path: &Path| found.get(path).is_some_and(Stat::is_directory);
        let gone = image.iter().filter(|(path, _)| !found.contains_key(*path));
        let removed = gone.filter(|(path, _)| path.parent().is_some_and(is_directory));
        let removed = removed.map(|(path, stat)| (path.clone(), *stat)).collect();
        let changed =
            found.into_iter().filter(|(path, stat)| !image.get(path).is_some_and(|was| alike(stat, was)));
        Difference { changed: changed.collect(), removed }
    }
}

/// Whether a copy is as what it was copied from, as far as can be told without reading either.
fn alike(copy: &Stat, of: &Stat) -> bool {
    let kept = |stat: &Stat| (stat.mode, stat.uid, stat.gid, stat.mtime, stat.rdev);
    kept(copy) == kept(of) && (copy.is_directory() || copy.size == of.size)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::files::FileKind;
    use crate::files::tests::MemoryFiles;
    use crate::files::upper::Layer;

    fn none() -> HashSet<PathBuf> {
        HashSet::new()
    }

    #[test]
    fn a_copy_is_compared_with_its_image() {
        let (image, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["same", "written", "removed", "back", "mode", "gone/deep", "kind"] {
            let path = image.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "1").unwrap();
        }
        let copy = format!("cp -a {}/. {}", image.path().display(), root.path().display());
        assert!(std::process::Command::new("sh").args(["-c", &copy]).status().unwrap().success());
        let at = |name: &str| root.path().join(name);
        let mut layer = Layer::new(root.path()).against(image.path());
        let mut sink = MemoryFiles::default();
        assert_eq!(layer.pass(&none(), &mut sink, true).unwrap(), 0, "{:?}", sink.files.keys());
        std::fs::write(at("written"), "22").unwrap();
        std::fs::write(at("new"), "3").unwrap();
        for name in ["removed", "back", "kind"] {
            std::fs::remove_file(at(name)).unwrap();
        }
        std::fs::create_dir(at("kind")).unwrap();
        std::fs::remove_dir_all(at("gone")).unwrap();
        std::fs::set_permissions(at("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        layer.pass(&none(), &mut sink, true).unwrap();
        assert!(!sink.files.contains_key(Path::new("/same")));
        assert_eq!(sink.files[Path::new("/written")].1, b"22");
        assert_eq!(sink.files[Path::new("/mode")].0.mode & 0o777, 0o600);
        for name in ["/removed", "/back", "/gone"] {
            assert_eq!(sink.kind(name), Some(FileKind::Removed), "{name}");
        }
        assert_eq!(sink.kind("/gone/deep"), None, "it went with its directory");
        assert_eq!(sink.kind("/kind"), Some(FileKind::Directory { opaque: false }));
        // Put back as it was, and removed after all.
        let put_back = format!("cp -a {} {}", image.path().join("back").display(), at("back").display());
        assert!(std::process::Command::new("sh").args(["-c", &put_back]).status().unwrap().success());
        std::fs::remove_file(at("new")).unwrap();
        layer.pass(&none(), &mut sink, false).unwrap();
        assert_eq!((sink.kind("/back"), sink.kind("/new")), (None, None));
    }
}

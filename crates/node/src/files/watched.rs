//! Where the files are that a program watches by inotify.
//!
//! The kernel tells a watch's inode and a handle of it. CRIU finds the file by its handle, but an overlay, which is what
//! containers have for a root, has no handles that can be opened. There CRIU scans a few places for the inode
//! (criu/irmap.c), and more places it is told; so it is told the very paths.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::walk::{self, Visit, Visited};
use super::{FilesError, Inode};
use crate::mounts::{Mount, MountPlan};
use crate::open_files::{OpenFiles, OpenKind};

/// The paths of the watched files that are on overlays. One that has several paths gets all of them.
///
/// # Errors
/// Where an overlay cannot be read.
pub fn paths(open: &OpenFiles, mounts: &MountPlan) -> Result<Vec<PathBuf>, FilesError> {
    let watched = inodes(open);
    let mut paths = Vec::new();
    for planned in &mounts.mounts {
        let mount = &planned.mount;
        if mount.file_system == "overlay" && watched.iter().any(|inode| is_on(*inode, mount)) {
            paths.extend(beneath(&mount.point, &watched)?);
        }
    }
    paths.sort();
    Ok(paths)
}

fn inodes(open: &OpenFiles) -> HashSet<Inode> {
    let watches = open.iter().filter_map(|file| match &file.kind {
        OpenKind::Inotify(watches) => Some(watches),
        _ => None,
    });
    // 20 bits of the kernel's own device number are the minor one.
    let device = |packed: u32| (packed >> 20, packed & 0xf_ffff);
    watches.flatten().map(|watch| Inode { device: device(watch.device), number: watch.ino }).collect()
}

fn is_on(inode: Inode, mount: &Mount) -> bool {
    inode.device == (mount.major, mount.minor)
}

fn beneath(point: &Path, watched: &HashSet<Inode>) -> Result<Vec<PathBuf>, FilesError> {
    let search = Search { watched, found: Mutex::default() };
    walk::walk(point, (), walk::default_threads(), &search)?;
    Ok(search.found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Search<'a> {
    watched: &'a HashSet<Inode>,
    found: Mutex<Vec<PathBuf>>,
}

impl Visit for Search<'_> {
    type Context = ();

    fn visit(&self, visited: Visited<'_, ()>) -> Result<Vec<(usize, ())>, FilesError> {
        let mut next = Vec::new();
        for (place, (name, stat)) in visited.listing.iter().enumerate() {
            if stat.mount_root {
                continue;
            }
            if self.watched.contains(&stat.inode()) {
                let path = walk::join(visited.path, name);
                self.found.lock().unwrap_or_else(PoisonError::into_inner).push(path);
            }
            if stat.is_directory() {
                next.push((place, ()));
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::Stat;

    #[test]
    fn files_and_directories_are_found_under_all_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        for file in ["a/file", "a/b/other"] {
            fs::write(at(file), "").unwrap();
        }
        fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
        let watched = ["a/b", "a/file"].map(|path| Stat::follow(at(path).as_path()).unwrap().inode()).into();
        let mut found = beneath(dir.path(), &watched).unwrap();
        found.sort();
        assert_eq!(found, ["a/b", "a/b/again", "a/file"].map(at));
    }
}

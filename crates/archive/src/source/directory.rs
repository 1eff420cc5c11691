//! A directory with CRIU's images, and the directories of its parents.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Entry, EntryKind, Source, SourceError};

/// Most directories in a chain of parents.
const MAX_LAYERS: usize = 1024;
/// Most directories inside of each other, where an archive was unpacked.
const MAX_DEPTH: usize = 4;
/// Most entries of a directory and its parents.
const MAX_ENTRIES: usize = 1 << 20;

/// A directory as a source. The entries of its parent (where the link `parent` leads) are there too, with `parent/` before
/// their names, and so on.
#[derive(Debug)]
pub struct Directory {
    name: String,
    entries: Vec<Entry>,
    /// The directories, with what stands before the names of their entries.
    layers: Vec<(String, PathBuf)>,
}

impl Directory {
    /// Lists the directory and its parents.
    ///
    /// # Errors
    /// Where a directory cannot be read, or the chain of parents does not end.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let mut directory = Self { name, entries: Vec::new(), layers: Vec::new() };
        let (mut path, mut prefix) = (path.to_owned(), String::new());
        let mut seen = HashSet::new();
        loop {
            let metadata = std::fs::metadata(&path).map_err(|source| directory.failed(source))?;
            if !seen.insert((metadata.dev(), metadata.ino())) {
                return Err(SourceError::TooDeep { place: directory.name, limit: MAX_LAYERS });
            }
            directory.list(&path, &prefix).map_err(|source| directory.failed(source))?;
            directory.layers.push((prefix.clone(), path.clone()));
            if directory.is_unpacked(&prefix) {
                directory.list_below(&path, &prefix, MAX_DEPTH).map_err(|source| directory.failed(source))?;
            }
            if directory.entries.len() > MAX_ENTRIES {
                return Err(SourceError::TooMany { place: directory.name, limit: MAX_ENTRIES });
            }
            if directory.layers.len() > MAX_LAYERS {
                return Err(SourceError::TooDeep { place: directory.name, limit: MAX_LAYERS });
            }
            let parent = path.join("parent");
            if !parent.is_dir() {
                return Ok(directory);
            }
            (path, prefix) = (parent, prefix + "parent/");
        }
    }

    fn failed(&self, source: io::Error) -> SourceError {
        SourceError::Place { place: self.name.clone(), source }
    }

    fn list(&mut self, path: &Path, prefix: &str) -> io::Result<()> {
        let first = self.entries.len();
        for found in std::fs::read_dir(path)? {
            let found = found?;
            let metadata = std::fs::symlink_metadata(found.path())?;
            let kind = if metadata.is_file() {
                EntryKind::File
            } else if metadata.is_dir() {
                EntryKind::Directory
            } else if metadata.is_symlink() {
                EntryKind::SymbolicLink(std::fs::read_link(found.path())?.to_string_lossy().into_owned())
            } else {
                EntryKind::Special
            };
            self.entries.push(Entry {
                name: format!("{prefix}{}", found.file_name().to_string_lossy()),
                size: if kind == EntryKind::File { metadata.len() } else { 0 },
                kind,
                offset: None,
                mode: metadata.mode() & 0o7777,
                modified: metadata.mtime(),
            });
        }
        self.entries[first..].sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// Whether this is what an engine's archive, or that of a pod, looks like when it is unpacked.
    fn is_unpacked(&self, prefix: &str) -> bool {
        let names = ["checkpoint", "pod.options"].map(|name| format!("{prefix}{name}"));
        self.entries.iter().any(|entry| names.contains(&entry.name))
    }

    /// Lists what is in the directories of a directory. Links are not followed.
    fn list_below(&mut self, path: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let own = |entry: &&Entry| {
            let rest = entry.name.strip_prefix(prefix);
            entry.kind == EntryKind::Directory
                && rest.is_some_and(|rest| !rest.contains('/') && rest != "parent")
        };
        let inside: Vec<_> = self.entries.iter().filter(own).map(|entry| entry.name.clone()).collect();
        for name in inside {
            let path = path.join(&name[prefix.len()..]);
            let prefix = format!("{name}/");
            self.list(&path, &prefix)?;
            self.layers.push((prefix.clone(), path.clone()));
            if depth > 1 && self.entries.len() <= MAX_ENTRIES {
                self.list_below(&path, &prefix, depth - 1)?;
            }
        }
        Ok(())
    }

    fn open_entry(&self, name: &str) -> io::Result<File> {
        let fits = self.layers.iter().filter(|(prefix, _)| name.starts_with(prefix.as_str()));
        let layer = fits.max_by_key(|(prefix, _)| prefix.len());
        let (prefix, path) = layer.ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(path.join(&name[prefix.len()..]), flags, Mode::empty())?.into())
    }
}

impl Source for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let failed =
            |source| SourceError::Entry { place: self.name.clone(), entry: entry.name.clone(), source };
        self.open_entry(&entry.name).and_then(|file| file.read_exact_at(into, offset)).map_err(|error| {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => SourceError::Short {
                    place: self.name.clone(),
                    entry: entry.name.clone(),
                    size: entry.size,
                    wanted: offset + into.len() as u64,
                },
                _ => failed(error),
            }
        })
    }

    fn random_access(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_follow_their_children() {
        let place = tempfile::tempdir().unwrap();
        for (directory, image) in [("old", "pages-1.img"), ("new", "inventory.img")] {
            std::fs::create_dir(place.path().join(directory)).unwrap();
            std::fs::write(place.path().join(directory).join(image), image).unwrap();
        }
        std::os::unix::fs::symlink("../old", place.path().join("new/parent")).unwrap();
        let directory = Directory::open(&place.path().join("new")).unwrap();
        let names: Vec<_> = directory.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["inventory.img", "parent", "parent/pages-1.img"]);
        let mut body = [0; 5];
        directory.read_at(&directory.entries()[2], 0, &mut body).unwrap();
        assert_eq!(&body, b"pages");
    }

    #[test]
    fn parents_in_a_circle_are_refused() {
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(".", place.path().join("parent")).unwrap();
        assert!(matches!(Directory::open(place.path()), Err(SourceError::TooDeep { .. })));
    }
}

//! Undoing a layout: after a restore that failed, a fresh start finds the container's files as they were.
//!
//! What a layout replaces or removes is looked at before, as records, and its files are opened. A layout never writes
//! into a file that is there, so an open descriptor holds the old body at no cost, and lets go of it by itself should
//! Torpor be killed. Putting back is a layout again.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{LayoutError, LayoutPlan};
use crate::files::beneath::Beneath;
use crate::files::changes::ChangeSet;
use crate::files::reading::OpenedFile;
use crate::files::{FileKind, FileRecord, FileSource, FilesError, Stat};

/// The most files that are held open, which is well below the usual limit on descriptors. Beyond it, files are not
/// put back.
const OPEN_LIMIT: usize = 400;

/// What was there before a layout. Dropping it puts that back, unless it is [released](Before::release).
#[derive(Debug)]
#[must_use = "dropping it undoes the layout"]
pub struct Before {
    plan: LayoutPlan,
    held: BTreeMap<PathBuf, OpenedFile>,
    /// Files there were too many of.
    given_up: Vec<PathBuf>,
    released: bool,
}

impl LayoutPlan {
    /// Looks at all that [`apply`](LayoutPlan::apply) would replace or remove.
    ///
    /// # Errors
    /// Where something of it cannot be read.
    pub fn before(&self) -> Result<Before, LayoutError> {
        let plan = LayoutPlan {
            records: BTreeMap::new(),
            roots: HashMap::new(),
            untouched: self.untouched.clone(),
            steps: Vec::new(),
        };
        let mut before = Before { plan, held: BTreeMap::new(), given_up: Vec::new(), released: false };
        for (path, record) in &self.records {
            let Some(root) = self.roots.get(path) else { continue };
            // Where the root itself is missing there is nothing beneath it, and it stays empty.
            let Ok(mut beneath) = Beneath::new(root) else { continue };
            if !before.look_at(path, record, root, &mut beneath)? {
                continue;
            }
            let goes = match record.kind {
                FileKind::Directory { opaque } => opaque,
                _ => self.may_remove(path),
            };
            if goes {
                for (path, _) in ChangeSet::whole(path).map_err(of_files)?.iter() {
                    before.look_at(path, record, root, &mut beneath)?;
                }
            }
        }
        before.plan.steps = before.plan.order();
        Ok(before)
    }
}

impl Before {
    /// Notes what is at a path. Returns whether it is a directory.
    fn look_at(
        &mut self,
        path: &Path,
        record: &FileRecord,
        root: &Path,
        beneath: &mut Beneath,
    ) -> Result<bool, LayoutError> {
        let failed = |source| LayoutError::Write { path: path.to_owned(), source };
        let there = match beneath.parent(path) {
            Ok((parent, name)) => match Stat::at(&*parent, &*name) {
                Ok(stat) => Some((parent, name, stat)),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(failed(error.into())),
            },
            // Its directory is missing, or is something else; what that is has been noted.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(error) => return Err(failed(error.into())),
        };
        let Some((parent, name, stat)) = there else {
            let below_file = path.ancestors().skip(1).filter_map(|above| self.plan.records.get(above));
            let below_file = below_file
                .into_iter()
                .any(|above| !matches!(above.kind, FileKind::Directory { .. } | FileKind::Removed));
            if !below_file {
                let removed = FileRecord { kind: FileKind::Removed, ..record.clone() };
                self.note(FileRecord { path: path.to_owned(), ..removed }, root);
            }
            return Ok(false);
        };
        if stat.is_file() && self.held.len() >= OPEN_LIMIT {
            self.given_up.push(path.to_owned());
            return Ok(false);
        }
        let opened = OpenedFile::open(&parent, &name, path, record.section, false).map_err(failed)?;
        self.note(opened.record.clone(), root);
        if stat.is_file() {
            self.held.insert(path.to_owned(), opened);
        }
        Ok(stat.is_directory())
    }

    fn note(&mut self, record: FileRecord, root: &Path) {
        self.plan.roots.insert(record.path.clone(), root.to_owned());
        self.plan.records.insert(record.path.clone(), record);
    }

    /// The layout stays.
    pub fn release(mut self) {
        self.released = true;
    }

    /// Puts back what was there, and says how many paths could not be.
    ///
    /// # Errors
    /// As [`LayoutPlan::apply`].
    pub fn put_back(mut self) -> Result<usize, LayoutError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<usize, LayoutError> {
        self.released = true;
        self.plan.apply(&mut Held(&self.held))?;
        Ok(self.given_up.len())
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        match self.undo() {
            Ok(0) => {}
            Ok(_) => tracing::error!(
                paths = ?self.given_up,
                remedy = "start in a new container, whose files are the image's",
                "too many files of the container were replaced to put all of them back"
            ),
            Err(error) => tracing::error!(
                %error,
                remedy = error.remedy(),
                "files of the container are not what they were before the restore"
            ),
        }
    }
}

/// The old bodies.
struct Held<'a>(&'a BTreeMap<PathBuf, OpenedFile>);

impl FileSource for Held<'_> {
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
        let file = self.0.get(&record.path).ok_or(io::ErrorKind::NotFound)?;
        io::copy(&mut file.body(), out).map(drop)
    }
}

fn of_files(error: FilesError) -> LayoutError {
    match error {
        FilesError::Read { path, source } | FilesError::Store { path, source } => {
            LayoutError::Write { path, source }
        }
        FilesError::NotADirectory { path } => {
            LayoutError::Write { path, source: io::ErrorKind::NotADirectory.into() }
        }
        error => LayoutError::Write { path: PathBuf::from("/"), source: io::Error::other(error) },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::tests::{MemoryFiles, plan_of};
    use crate::files::{Extent, Section, Selection, Timestamp};

    fn record(path: PathBuf, kind: FileKind) -> FileRecord {
        FileRecord {
            path,
            section: Section::Carried,
            kind,
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: Timestamp::default(),
            atime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    /// Every path with its mode, time of modification and body.
    fn tree(root: &Path) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let mut lines = Vec::new();
        for (path, _) in ChangeSet::whole(root).unwrap().iter() {
            let stat = fs::symlink_metadata(path).unwrap();
            let body = if stat.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
            let times = format!("{}.{}", stat.mtime(), stat.mtime_nsec());
            lines.push(format!("{} {:o} {times} {body}", path.display(), stat.mode()));
        }
        lines
    }

    #[test]
    fn everything_is_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("removed/deep")).unwrap();
        fs::create_dir_all(root.join("emptied")).unwrap();
        for name in ["replaced", "removed/deep/file", "emptied/file", "becomes-directory", "kept"] {
            fs::write(root.join(name), format!("the old {name}")).unwrap();
        }
        std::os::unix::fs::symlink("kept", root.join("link")).unwrap();
        let was = tree(&root);

        let body = FileKind::File { size: 3, extents: vec![Extent { offset: 0, length: 3 }] };
        let mut source = MemoryFiles::default();
        for (name, kind) in [
            ("replaced", body.clone()),
            ("link", body.clone()),
            ("removed", FileKind::Removed),
            ("emptied", FileKind::Directory { opaque: true }),
            ("emptied/new", body.clone()),
            ("becomes-directory", FileKind::Directory { opaque: false }),
            ("becomes-directory/new", body.clone()),
            ("new", FileKind::Directory { opaque: false }),
            ("new/new", body),
        ] {
            let record = record(root.join(name), kind);
            let body = if record.body_length() > 0 { b"new".to_vec() } else { Vec::new() };
            source.files.insert(record.path.clone(), (record, body));
        }
        let plan = LayoutPlan::new(source.records(), &plan_of(&root), &Selection::default()).unwrap();

        let before = plan.before().unwrap();
        plan.apply(&mut source).unwrap();
        assert_eq!(fs::read(root.join("becomes-directory/new")).unwrap(), b"new");
        assert!(!root.join("removed").exists() && !root.join("emptied/file").exists());
        assert_eq!(before.put_back().unwrap(), 0);
        assert_eq!(tree(&root), was);

        // Also where the layout came only half way, or nowhere.
        drop(plan.before().unwrap());
        assert_eq!(tree(&root), was);
        let before = plan.before().unwrap();
        plan.apply(&mut MemoryFiles::default()).unwrap_err();
        drop(before);
        assert_eq!(tree(&root), was);
    }
}

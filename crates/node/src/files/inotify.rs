//! Paths whose inotify watches CRIU cannot dump are taken away before the dump and put back afterwards.
//!
//! A watch belongs to an inode, and ends with it. So the file is copied beside itself, with all it has, and only then
//! removed; afterwards the copy gets the name. What is going on stands in a journal, so that after a kill the next
//! start can finish it with [`recover`].

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use super::changes::ChangeSet;
use super::layout::{LayoutError, LayoutPlan};
use super::reading::OpenedFile;
use super::{FileKind, FileRecord, FileSource, FilesError, Section, Selection, Stat, Timestamp, walk};
use crate::mounts::{MountPlan, escaped_path};

/// The journal's largest length, in bytes.
const JOURNAL_LIMIT: u64 = 1 << 20;

/// Why a path could not be taken away or put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AsideError {
    /// The journal could not be written or read.
    #[error("cannot keep the journal {}", .path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path could not be read.
    #[error("cannot copy {} to take it away", .path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// The copy could not be written.
    #[error("cannot copy {} to take it away", .path.display())]
    Copy {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// The path could not be removed or renamed.
    #[error("cannot move {}", .path.display())]
    Move {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something else has the path's name now.
    #[error("{} was made anew meanwhile; what was there before is kept as {}", .path.display(), .kept.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// Where the old file is.
        kept: PathBuf,
    },
}

impl AsideError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Journal { .. } => "give Torpor a staging directory it can write to",
            Self::Read { .. } | Self::Copy { .. } | Self::Move { .. } => {
                "check the permissions and space of the directory that holds it, or take the path off \
                 inotifyIncompatiblePaths"
            }
            Self::Occupied { .. } => "compare the two and remove the one that is not needed",
        }
    }
}

/// How far the taking away of a path got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    /// The copy may be incomplete; the path is as it was.
    Copying,
    /// The copy is complete; the path is as it was, or has its other name.
    Copied,
    /// The path has gone.
    Gone,
}

/// A line of the journal. The last line of a path counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(with = "escaped_path")]
    path: PathBuf,
    stage: Stage,
    parent_atime: Timestamp,
    parent_mtime: Timestamp,
}

/// The names a path has while it is away; [`Capture::hold`](super::capture::Capture::hold) leaves them out.
#[must_use]
pub fn working_names(path: &Path) -> [PathBuf; 2] {
    ["torpor-aside", "torpor-gone"].map(|word| {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or(OsStr::new("")));
        name.push(".");
        name.push(word);
        path.with_file_name(name)
    })
}

/// Paths that are away. Dropping it puts them back.
#[derive(Debug)]
pub struct Aside {
    journal: PathBuf,
    entries: Vec<Entry>,
}

impl Aside {
    /// Takes paths away. Those that are not there are passed over. If one fails, those before it are put back.
    pub fn take(paths: &[PathBuf], journal: &Path) -> Result<Self, AsideError> {
        let mut aside = Self { journal: journal.to_owned(), entries: Vec::new() };
        for path in paths {
            aside.take_one(path)?;
        }
        Ok(aside)
    }

    /// The paths that are away.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter().map(|entry| entry.path.as_path())
    }

    fn take_one(&mut self, path: &Path) -> Result<(), AsideError> {
        let moved = |source| AsideError::Move { path: path.to_owned(), source };
        let stat = match Stat::at(CWD, path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(moved(error.into())),
        };
        if stat.mount_root {
            return Err(moved(Errno::BUSY.into()));
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let above = Stat::follow(parent).map_err(moved)?;
        let entry = Entry {
            path: path.to_owned(),
            stage: Stage::Copying,
            parent_atime: above.atime,
            parent_mtime: above.mtime,
        };
        append(&self.journal, &entry)?;
        self.entries.push(entry);
        let [aside, gone] = working_names(path);
        remove_tree(&aside).map_err(moved)?;
        remove_tree(&gone).map_err(moved)?;
        copy_tree(path, &aside)?;
        self.advance(Stage::Copied)?;
        // At once, so that there is no time at which the path is half there.
        rustix::fs::renameat(CWD, path, CWD, &gone).map_err(|error| moved(error.into()))?;
        self.advance(Stage::Gone)?;
        remove_tree(&gone).map_err(moved)?;
        // The checkpoint gets the directory's time from before.
        self.entries.last().map_or(Ok(()), Entry::put_parent_times_back)
    }

    fn advance(&mut self, stage: Stage) -> Result<(), AsideError> {
        let Some(last) = self.entries.last_mut() else { return Ok(()) };
        last.stage = stage;
        append(&self.journal, last)
    }

    /// Puts all paths back where they were. Goes on after an error, and returns the first.
    pub fn put_back(mut self) -> Result<(), AsideError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), AsideError> {
        let mut first = Ok(());
        let mut left = false;
        for entry in std::mem::take(&mut self.entries).iter().rev() {
            if let Err(error) = entry.put_back() {
                // What is kept under its other name stays there by decision; the rest is worth another try.
                left |= !matches!(error, AsideError::Occupied { .. });
                first = first.and(Err(error));
            }
        }
        if !left
            && let Err(source) = fs::remove_file(&self.journal)
            && source.kind() != io::ErrorKind::NotFound
        {
            first = first.and(Err(AsideError::Journal { path: self.journal.clone(), source }));
        }
        first
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.entries.is_empty()
            && let Err(error) = self.finish()
        {
            tracing::error!(%error, remedy = error.remedy(), "a path that was taken away is not back");
        }
    }
}

/// Puts back what an earlier run left away. Returns the paths.
pub fn recover(journal: &Path) -> Result<Vec<PathBuf>, AsideError> {
    let entries = read_journal(journal)?;
    let mut aside = Aside { journal: journal.to_owned(), entries };
    let paths = aside.paths().map(Path::to_path_buf).collect();
    if !aside.entries.is_empty() {
        aside.finish()?;
    }
    Ok(paths)
}

impl Entry {
    fn put_back(&self) -> Result<(), AsideError> {
        let moved = |source| AsideError::Move { path: self.path.clone(), source };
        let [aside, gone] = working_names(&self.path);
        let there = match Stat::at(CWD, &self.path) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(moved(error.into())),
        };
        let went = match self.stage {
            Stage::Copying => false,
            Stage::Copied => Stat::at(CWD, &gone).is_ok(),
            Stage::Gone => true,
        };
        if !went {
            remove_tree(&aside).map_err(moved)?;
        } else {
            // A directory someone made again and left empty is no loss.
            if there.is_some_and(|stat| stat.is_directory()) {
                let _ = rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
            }
            match rustix::fs::renameat_with(CWD, &aside, CWD, &self.path, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    return Err(AsideError::Occupied { path: self.path.clone(), kept: aside });
                }
                // It is back already.
                Err(Errno::NOENT) if there.is_some() => {}
                Err(error) => return Err(moved(error.into())),
            }
            remove_tree(&gone).map_err(moved)?;
        }
        self.put_parent_times_back()
    }

    fn put_parent_times_back(&self) -> Result<(), AsideError> {
        let times = Timestamps {
            last_access: self.parent_atime.to_timespec(),
            last_modification: self.parent_mtime.to_timespec(),
        };
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        rustix::fs::utimensat(CWD, parent, &times, AtFlags::empty())
            .map_err(|error| AsideError::Move { path: self.path.clone(), source: error.into() })
    }
}

fn append(journal: &Path, entry: &Entry) -> Result<(), AsideError> {
    let write = || -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let is_new = !journal.exists();
        let mut file = {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().create(true).append(true).mode(0o600).open(journal)?
        };
        file.write_all(&line)?;
        file.sync_all()?;
        if is_new && let Some(directory) = journal.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| AsideError::Journal { path: journal.to_owned(), source })
}

fn read_journal(journal: &Path) -> Result<Vec<Entry>, AsideError> {
    let failed = |source| AsideError::Journal { path: journal.to_owned(), source };
    let file = match rustix::fs::open(journal, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, JOURNAL_LIMIT), &mut bytes).map_err(failed)?;
    Ok(parse_journal(&bytes))
}

/// The last entry of each path. A line that was being written at the kill says nothing: what it announces had not begun.
fn parse_journal(bytes: &[u8]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
        entries.retain(|earlier| earlier.path != entry.path);
        entries.push(entry);
    }
    entries
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut beneath = Beneath::new(parent)?;
    let (directory, name) = beneath.parent(path)?;
    match Stat::at(&*directory, &*name) {
        Ok(stat) => walk::remove(&directory, &name, path, &stat).map_err(|(_, error)| error.into()),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Copies a file or tree to a name beside it, with everything it has.
fn copy_tree(path: &Path, to: &Path) -> Result<(), AsideError> {
    let read = |source| AsideError::Read { path: path.to_owned(), source };
    let copy = |source| AsideError::Copy { path: path.to_owned(), source };
    let (records, mut originals) = records(path, to).map_err(read)?;
    let selection = Selection { additional: vec![to.to_owned()], exclude: Vec::new() };
    let plan = LayoutPlan::new(records, &MountPlan::default(), &selection).map_err(copy)?;
    plan.apply(&mut originals).map(drop).map_err(copy)
}

fn records(path: &Path, to: &Path) -> Result<(Vec<FileRecord>, Originals), FilesError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let failed = |source: io::Error| FilesError::Read { path: path.to_owned(), source };
    let mut beneath = Beneath::new(parent).map_err(|error| failed(error.into()))?;
    let mut records = Vec::new();
    let mut first_names = std::collections::HashMap::new();
    let renamed = |original: &Path| match original.strip_prefix(path) {
        Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
        _ => to.to_owned(),
    };
    for (original, change) in ChangeSet::whole(path)?.iter() {
        let (directory, name) = beneath.parent(original).map_err(|error| failed(error.into()))?;
        let opened =
            OpenedFile::open(&directory, &name, original, Section::Additional, false).map_err(failed)?;
        let mut record = opened.record;
        record.path = renamed(original);
        if let Some(stat) = change.stat.filter(|stat| stat.links > 1 && stat.is_file()) {
            let first = first_names.entry(stat.inode()).or_insert_with(|| record.path.clone());
            if *first != record.path {
                record.kind = FileKind::HardLink { target: first.clone() };
            }
        }
        records.push(record);
    }
    Ok((records, Originals { beneath, path: path.to_owned(), to: to.to_owned() }))
}

/// Reads bodies from the files a copy is made of.
struct Originals {
    beneath: Beneath,
    path: PathBuf,
    to: PathBuf,
}

impl FileSource for Originals {
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
        let rest = record.path.strip_prefix(&self.to).map_err(io::Error::other)?;
        let original =
            if rest.as_os_str().as_bytes().is_empty() { self.path.clone() } else { self.path.join(rest) };
        let (directory, name) = self.beneath.parent(&original)?;
        let mut opened = OpenedFile::open(&directory, &name, &original, record.section, false)?;
        // The extents of the record are those promised, whatever the file has become.
        opened.record.kind = record.kind.clone();
        io::copy(&mut opened.body(), out).map(drop)
    }
}

#[cfg(test)]
mod tests;

//! The files of a program: what changed since its start, copied consistently, put back exactly.
//!
//! A [`Baseline`](baseline::Baseline) is what the carried mounts held at the start; a
//! [`ChangeSet`](changes::ChangeSet) is how they differ from it now. [`Capture`](capture::Capture) copies the
//! changes twice, once while the program runs and once, quickly, while it is frozen, into a [`FileSink`].
//! [`LayoutPlan`](layout::LayoutPlan) puts records from a [`FileSource`] back in a fresh container.
//!
//! Everything is found through directory descriptors, beneath the mount it belongs to; no symbolic link is
//! followed, and nothing but a regular file is opened.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub mod baseline;
mod beneath;
pub mod capture;
pub mod changes;
pub mod inotify;
pub mod layout;
mod reading;
#[cfg(test)]
mod round_trip;
mod stat;
pub mod upper;
mod walk;
pub mod watched;
mod writing;

pub(crate) use beneath::magic_link;
pub(crate) use reading::open_to_read as reopen;
pub use stat::{Inode, Stat, Timestamp};
pub use writing::Lost;

/// Why the files of a program could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// A file or directory could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A carried mount is not a directory.
    #[error("{} is not a directory, so changes to it cannot be carried", .path.display())]
    NotADirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// More files than the baseline may hold.
    #[error("the mounts to carry hold more than {limit} files")]
    TooMany {
        /// The limit.
        limit: u32,
    },
    /// An overlay refers to what is in the image instead of holding it.
    #[error("the overlay renamed or changed {} without copying it", .path.display())]
    NotCopied {
        /// The path in the container.
        path: PathBuf,
    },
    /// The checkpoint did not take a file.
    #[error("cannot store {}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What the store said.
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "check the disk and the permissions; a path that need not be carried can be excluded"
            }
            Self::NotADirectory { .. } => {
                "name the file under additionalPaths instead of giving a mount rule"
            }
            Self::TooMany { .. } => "exclude large directories, or leave the mount that holds them",
            Self::NotCopied { .. } => "mount the overlay without `metacopy` and `redirect_dir`",
            Self::Store { .. } => "check the store's space and permissions",
        }
    }
}

/// Which paths a checkpoint takes, beyond the mounts it carries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// Taken whole, wherever they are, changed or not. A link is taken as a link.
    #[serde(with = "crate::mounts::escaped_paths")]
    pub additional: Vec<PathBuf>,
    /// Never taken, with all beneath them: Torpor's own store, staging, status and control paths, and what the
    /// user excludes.
    #[serde(with = "crate::mounts::escaped_paths")]
    pub exclude: Vec<PathBuf>,
}

impl Selection {
    pub(crate) fn excludes(&self, path: &Path) -> bool {
        self.exclude.iter().any(|excluded| path.starts_with(excluded))
    }
}

/// Why a file is in the checkpoint, and so where it may be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// A change on a carried mount.
    Carried,
    /// Named by the user, or beneath a path named by the user.
    Additional,
}

impl Section {
    /// Every section.
    pub const ALL: [Self; 2] = [Self::Carried, Self::Additional];

    /// As a word, for a manifest.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Additional => "additional",
        }
    }

    /// From a manifest's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.word() == word)
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file. Its body is the bytes of its extents, one after another.
    File {
        /// The length, in bytes, holes included.
        size: u64,
        /// Where there is data, in order; the rest is holes.
        extents: Vec<Extent>,
    },
    /// A directory.
    Directory {
        /// Whatever else is found in it at the restore does not belong there and is removed.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: PathBuf,
    },
    /// Another name of a file in this checkpoint.
    HardLink {
        /// The path of the record that has the body.
        target: PathBuf,
    },
    /// A named pipe.
    Fifo,
    /// The name of a Unix socket.
    Socket,
    /// A character device.
    Character {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// Not there any more, but part of the image.
    Removed,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its full name, such as `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// One file of a checkpoint, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Absolute, in the program's mount namespace.
    pub path: PathBuf,
    /// Why it is here.
    pub section: Section,
    /// What it is.
    pub kind: FileKind,
    /// The twelve permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Last written.
    pub mtime: Timestamp,
    /// Last read.
    pub atime: Timestamp,
    /// Sorted by name. Without labels that belong to the machine (`security.selinux`, `.ima`, `.evm`).
    pub xattrs: Vec<Xattr>,
}

impl FileRecord {
    /// The length of its body, in bytes.
    #[must_use]
    pub fn body_length(&self) -> u64 {
        match &self.kind {
            FileKind::File { extents, .. } => extents.iter().map(|extent| extent.length).sum(),
            _ => 0,
        }
    }
}

/// Takes the files of a checkpoint.
pub trait FileSink {
    /// Takes a file; an earlier record of the same path is replaced. `body` yields exactly
    /// [`FileRecord::body_length`] bytes.
    fn put(&mut self, record: &FileRecord, body: &mut dyn Read) -> io::Result<()>;

    /// Drops the record of a path that is no longer part of the checkpoint.
    fn withdraw(&mut self, path: &Path) -> io::Result<()>;
}

/// Gives the files of a checkpoint back.
pub trait FileSource {
    /// Writes a file's body: the bytes of its extents, one after another.
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mounts::{Mount, MountClass, MountPlan, MountPolicy, PlannedMount};
    use std::collections::BTreeMap;

    /// Files kept in memory, as a store would keep them.
    #[derive(Debug, Default)]
    pub(crate) struct MemoryFiles {
        pub(crate) files: BTreeMap<PathBuf, (FileRecord, Vec<u8>)>,
    }

    impl MemoryFiles {
        pub(crate) fn records(&self) -> Vec<FileRecord> {
            self.files.values().map(|(record, _)| record.clone()).collect()
        }

        pub(crate) fn kind(&self, path: &str) -> Option<FileKind> {
            self.files.get(Path::new(path)).map(|(record, _)| record.kind.clone())
        }
    }

    impl FileSink for MemoryFiles {
        fn put(&mut self, record: &FileRecord, body: &mut dyn Read) -> io::Result<()> {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, record.body_length(), "{record:?}");
            self.files.insert(record.path.clone(), (record.clone(), bytes));
            Ok(())
        }

        fn withdraw(&mut self, path: &Path) -> io::Result<()> {
            assert!(self.files.remove(path).is_some(), "{} was never put", path.display());
            Ok(())
        }
    }

    impl FileSource for MemoryFiles {
        fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
            let (_, bytes) = self.files.get(&record.path).ok_or(io::ErrorKind::NotFound)?;
            out.write_all(bytes)
        }
    }

    /// A plan that carries a directory as if it were a mount.
    pub(crate) fn plan_of(point: &Path) -> MountPlan {
        let mount = Mount {
            id: u64::MAX,
            parent: 0,
            major: 0,
            minor: 0,
            root: "/".into(),
            point: point.to_owned(),
            read_only: false,
            file_system: "tmpfs".into(),
            source: "test".into(),
        };
        let planned =
            PlannedMount { mount, class: MountClass::PrivateTmpfs, policy: MountPolicy::Carry, asked: true };
        MountPlan { mounts: vec![planned], unused_rules: Vec::new() }
    }
}

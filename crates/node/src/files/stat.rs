//! What the kernel tells about a file, in the few words a comparison needs.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};
use rustix::path::Arg;
use serde::{Deserialize, Serialize};

/// A point in time as a file system keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The time a file system would stamp a change with now, on kernels that stamp by the tick.
    pub(crate) fn coarse_now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self { seconds: now.tv_sec, nanoseconds: now.tv_nsec.try_into().unwrap_or(0) }
    }

    /// This much earlier.
    pub(crate) fn minus_seconds(self, seconds: i64) -> Self {
        Self { seconds: self.seconds - seconds, ..self }
    }

    pub(crate) fn to_timespec(self) -> rustix::time::Timespec {
        rustix::time::Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.min(999_999_999).into() }
    }
}

/// What makes a file the same file under all its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode {
    /// The device it is on: major and minor number.
    pub device: (u32, u32),
    /// Its number there.
    pub number: u64,
}

/// What statx(2) said about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The inode number.
    pub ino: u64,
    /// The device the inode is on: major and minor number.
    pub device: (u32, u32),
    /// Type and permissions.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many names it has.
    pub links: u32,
    /// Its length, in bytes.
    pub size: u64,
    /// Last written.
    pub mtime: Timestamp,
    /// Last changed in any way.
    pub ctime: Timestamp,
    /// Last read.
    pub atime: Timestamp,
    /// For a device node, what it stands for.
    pub rdev: (u32, u32),
    /// Something is mounted here.
    pub mount_root: bool,
}

impl Stat {
    /// Asks about a name in a directory (not following a link), or with an empty name about the descriptor.
    pub(crate) fn at(directory: impl AsFd, name: impl Arg) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS).map(|statx| Self::from(&statx))
    }

    /// Asks about what a path leads to, following links; for the magic links of `/proc`.
    pub(crate) fn follow(path: impl Arg) -> io::Result<Self> {
        let statx = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)?;
        Ok(Self::from(&statx))
    }

    /// The file, whatever its name.
    #[must_use]
    pub fn inode(&self) -> Inode {
        Inode { device: self.device, number: self.ino }
    }

    /// What kind of file it is.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// A directory, not followed through any link.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// A regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    /// The same file in the same state, as far as can be told without reading it. Reading does not count.
    #[must_use]
    pub(crate) fn same_state(&self, other: &Self) -> bool {
        Self { atime: Timestamp::default(), ..*self } == Self { atime: Timestamp::default(), ..*other }
    }
}

impl From<&Statx> for Stat {
    fn from(statx: &Statx) -> Self {
        let time =
            |time: &rustix::fs::StatxTimestamp| Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
        Self {
            ino: statx.stx_ino,
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            mode: statx.stx_mode.into(),
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            links: statx.stx_nlink,
            size: statx.stx_size,
            mtime: time(&statx.stx_mtime),
            ctime: time(&statx.stx_ctime),
            atime: time(&statx.stx_atime),
            rdev: (statx.stx_rdev_major, statx.stx_rdev_minor),
            mount_root: statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

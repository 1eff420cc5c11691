//! Entries of files: what a restore puts back.

use serde::{Deserialize, Serialize};

use super::extent::PieceRun;

/// A point in time of a file, by its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace, like `user.mime_type`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// What sort of file an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, with its size in bytes (holes included).
    File {
        /// Size in bytes.
        size: u64,
    },
    /// A directory; an opaque one hides what an image has below it.
    Directory {
        /// Whether it hides what was there.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Another name of a file that has an entry of its own in the same section.
    HardLink {
        /// Path of that entry.
        to: Vec<u8>,
    },
    /// A file of the image that is gone (a whiteout).
    Deleted,
}

/// A range of a file that has data; what lies between ranges is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A run of data of a body: `len` bytes at `offset`, which are the content of consecutive pieces of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyRun {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) pieces: PieceRun,
}

/// Where a file's or image's data lies in the store. Empty until a draft or a manifest fills it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    pub(crate) runs: Vec<BodyRun>,
}

impl Body {
    /// Bytes of data, holes not counted.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// The ranges with data, in order, neighbours joined.
    #[must_use]
    pub fn ranges(&self) -> Vec<DataRange> {
        let mut ranges: Vec<DataRange> = Vec::new();
        for run in &self.runs {
            match ranges.last_mut() {
                Some(last) if last.offset + last.len == run.offset => last.len += run.len,
                _ => ranges.push(DataRange { offset: run.offset, len: run.len }),
            }
        }
        ranges
    }
}

/// One file, directory, link or whiteout. Set `body` to `Body::default()` when giving an entry to a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// What it belongs to: the container's root, a volume, `/dev/shm`… The maker's word; the store only compares it.
    pub section: String,
    /// Path within the section.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content last changed.
    pub modified: FileTime,
    /// When it was last read.
    pub accessed: FileTime,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Where its data lies, for a regular file.
    pub body: Body,
}

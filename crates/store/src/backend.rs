//! Where a store's objects lie: a directory, a bucket, or memory.
//!
//! Two sorts of object live behind a key. *Immutable objects* (packs, indexes, manifests) are named by their
//! content, written once, and become visible whole or not at all. *Records* (a name's state, tombstones) are small
//! and change only by conditional replacement.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

pub mod local;
pub mod memory;

pub use local::LocalBackend;
pub use memory::MemoryBackend;

/// Largest record, in bytes, that [`Backend::load`] reads and [`Backend::replace`] writes.
pub const MAX_RECORD: usize = 16 << 20;

/// What an operation on a backend failed with. Every variant names the path or key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no such object.
    #[error("{path}: not found")]
    NotFound {
        /// Path or key of the object.
        path: String,
    },
    /// An object of that name exists where a new one was asked for.
    #[error("{path}: exists already")]
    AlreadyExists {
        /// Path or key of the object.
        path: String,
    },
    /// A record is not what the caller last read: somebody else replaced it.
    #[error("{path}: changed by another writer meanwhile")]
    Conflict {
        /// Path or key of the record.
        path: String,
    },
    /// The file system or bucket is full, or a quota is reached.
    #[error("{path}: no space left to write")]
    NoSpace {
        /// Path or key that was being written.
        path: String,
    },
    /// The file system is mounted read-only.
    #[error("{path}: the file system is read-only")]
    ReadOnly {
        /// Path or key that was to be written.
        path: String,
    },
    /// This user may not.
    #[error("{path}: permission denied")]
    PermissionDenied {
        /// Path or key that was refused.
        path: String,
    },
    /// The store's path, or a part of it, is a file.
    #[error("{path}: is not a directory")]
    NotADirectory {
        /// The path that is not a directory.
        path: String,
    },
    /// The object ends before the range that was asked for.
    #[error("{path}: ends before byte {end}")]
    ShortRead {
        /// Path or key of the object.
        path: String,
        /// One past the last byte that was asked for.
        end: u64,
    },
    /// A record is larger than [`MAX_RECORD`].
    #[error("{path}: {size} bytes are too many for a record")]
    RecordTooLarge {
        /// Path or key of the record.
        path: String,
        /// Bytes it has or should get.
        size: u64,
    },
    /// The key has a form no backend takes.
    #[error("{key:?} is not the key of an object")]
    InvalidKey {
        /// The key as given.
        key: String,
    },
    /// Anything else the system reported.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Path or key it was attempted on.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl BackendError {
    /// Sorts an error of the system into what it means for the store.
    #[must_use]
    pub fn from_io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into().display().to_string();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the object simply is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "check the store's path or URL, and run `torpor verify`",
            Self::AlreadyExists { .. } => "choose another path, or use what is there",
            Self::Conflict { .. } => "read it again and repeat the operation",
            Self::NoSpace { .. } => "free space or raise the quota, e.g. with `torpor prune` and `torpor gc`",
            Self::ReadOnly { .. } => "mount the store read-write, or choose another store with --store",
            Self::PermissionDenied { .. } => {
                "run as the user that owns the store, or give this user read and write access to it"
            }
            Self::NotADirectory { .. } => "choose a directory for the store with --store",
            Self::ShortRead { .. } => "the object is damaged: run `torpor verify` to see what it hurts",
            Self::RecordTooLarge { .. } => "run `torpor prune` to shorten the name's history",
            Self::InvalidKey { .. } => "use letters, digits, '.', '_', '-' and '%' between slashes",
            Self::Io { .. } => "check the device and the system's log",
        }
    }
}

/// What a record was when it was read. Opaque; equal tags mean nobody replaced it in between.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(pub(crate) String);

impl Tag {
    /// The tag that another process had of a record, as it was told.
    #[must_use]
    pub fn new(text: String) -> Tag {
        Tag(text)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Size and age of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Size in bytes.
    pub size: u64,
    /// When it became visible, by the store's clock (compare with [`Backend::now`]).
    pub modified: SystemTime,
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object's whole key.
    pub key: String,
    /// Its size and age.
    pub stat: Stat,
}

/// Whether an immutable object was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was not there before.
    New,
    /// The same object was there already; what was written is dropped.
    Existed,
}

/// An immutable object that is being written. Dropped without [`Upload::finish`], nothing becomes visible.
///
/// The key is given last, because an object is named by its content.
pub trait Upload: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// Fails as [`BackendError`] says; the upload is then of no more use.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Makes the object durable, then visible under `key`, whole.
    ///
    /// # Errors
    /// Fails as [`BackendError`] says; nothing is visible then.
    fn finish(self: Box<Self>, key: &str) -> Result<Created, BackendError>;
}

/// A file without a name, for what is needed only while a checkpoint is made. It is read and written past the page
/// cache, in whole pages at offsets of whole pages, and gone when it is closed.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// A file that is empty, has no name, and takes direct input and output where the file system has that.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(file)
    }

    pub(crate) fn into_file(self) -> File {
        self.0
    }
}

/// A place that keeps objects. Keys are relative paths like `packs/0123…`: parts of letters, digits, `.`, `_`, `-`
/// and `%`, joined by slashes.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The place, as people write it.
    fn location(&self) -> String;

    /// Makes the place ready to take objects (makes the directory, say). Does nothing where it is ready.
    ///
    /// # Errors
    /// Where the place cannot be made or written.
    fn prepare(&self) -> Result<(), BackendError>;

    /// Begins a new immutable object.
    ///
    /// # Errors
    /// Where nothing can be written.
    fn begin(&self) -> Result<Box<dyn Upload>, BackendError>;

    /// Fills `buffer` with the object's bytes from `offset` on.
    ///
    /// # Errors
    /// [`BackendError::NotFound`]; [`BackendError::ShortRead`] where the object ends before.
    fn read_at(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError>;

    /// Size and age of an object, or `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be known.
    fn stat(&self, key: &str) -> Result<Option<Stat>, BackendError>;

    /// All objects whose keys begin with `prefix` (a directory ending in a slash, or empty for all), by key.
    ///
    /// # Errors
    /// Where they cannot be listed. No object under the prefix is no error.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>, BackendError>;

    /// Deletes an object, durably.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] where there is none.
    fn delete(&self, key: &str) -> Result<(), BackendError>;

    /// Reads a record with the tag that [`Backend::replace`] wants, or `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn load(&self, key: &str) -> Result<Option<(Tag, Vec<u8>)>, BackendError>;

    /// Replaces a record if it still is what `expected` says (`None`: does not exist), durably and atomically.
    ///
    /// # Errors
    /// [`BackendError::Conflict`] where another writer was first.
    fn replace(&self, key: &str, expected: Option<&Tag>, body: &[u8]) -> Result<Tag, BackendError>;

    /// The time by the store's own clock, the same that stamps [`Stat::modified`].
    ///
    /// # Errors
    /// Where the place cannot be reached or, for a directory, not be written.
    fn now(&self) -> Result<SystemTime, BackendError>;

    /// Temporary files of writers that ended before they finished, last written before `before`.
    ///
    /// # Errors
    /// Where they cannot be listed.
    fn leftovers(&self, before: SystemTime) -> Result<Vec<Entry>, BackendError>;

    /// Removes one of [`Backend::leftovers`].
    ///
    /// # Errors
    /// Where it cannot be removed.
    fn sweep(&self, leftover: &Entry) -> Result<(), BackendError>;

    /// A file for `bytes` of what need not be kept, as near as the objects, where the place is a disk with ample room
    /// for that. Memory is no such place.
    fn scratch(&self, bytes: u64) -> Option<Scratch> {
        let _ = bytes;
        None
    }

    /// Writes a whole immutable object.
    ///
    /// # Errors
    /// As [`Upload::write`] and [`Upload::finish`].
    fn put(&self, key: &str, body: &[u8]) -> Result<Created, BackendError> {
        let mut upload = self.begin()?;
        upload.write(body)?;
        upload.finish(key)
    }

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`BackendError::NotFound`]; [`BackendError::RecordTooLarge`] where it is larger than `limit`.
    fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>, BackendError> {
        let stat = self.stat(key)?.ok_or_else(|| BackendError::NotFound { path: key.to_owned() })?;
        if stat.size > limit {
            return Err(BackendError::RecordTooLarge { path: key.to_owned(), size: stat.size });
        }
        let mut body = vec![0; stat.size as usize];
        self.read_at(key, 0, &mut body)?;
        Ok(body)
    }
}

/// Checks that a key has the form all backends take.
pub(crate) fn check_key(key: &str) -> Result<(), BackendError> {
    let part_is_fine = |part: &str| {
        !part.is_empty()
            && part.len() <= 255
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-%".contains(&byte))
    };
    if key.split('/').all(part_is_fine) {
        Ok(())
    } else {
        Err(BackendError::InvalidKey { key: key.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_the_store() {
        for key in ["torpor-store", "packs/00ff", "names/web%2Fserver/a.b-c_d"] {
            assert!(check_key(key).is_ok(), "{key}");
        }
        for key in
            ["", "/etc/passwd", "../x", "packs/../../x", "packs//x", "packs/", "a b", "a\0b", ".hidden"]
        {
            assert!(check_key(key).is_err(), "{key:?}");
        }
    }
}

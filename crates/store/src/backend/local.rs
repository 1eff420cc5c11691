//! A store in a directory, on a local disk or a shared file system.
//!
//! An object is written under a temporary name in `tmp/`, synchronised, and given its name without replacing
//! another's; then its directory is synchronised. Records are replaced under a lock on the file `lock`. Everything is
//! 0600 or 0700.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    Advice, AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
};

use super::{Backend, BackendError, Created, Entry, MAX_RECORD, Scratch, Stat, Tag, Upload, check_key};
use crate::direct::{Aligned, Writes};

/// Unfinished objects, and the file whose time is the store's clock.
const TEMPORARY: &str = "tmp";
const CLOCK: &str = "tmp/clock";
/// Locked while a record is replaced.
const LOCK: &str = "lock";
/// Bytes that are written at once.
const PIECE: usize = 1 << 20;

/// A directory.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    root: PathBuf,
}

impl LocalBackend {
    /// The directory at `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str) -> Result<PathBuf, BackendError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn temporary(&self) -> Result<(PathBuf, File), BackendError> {
        loop {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| {
                BackendError::from_io("find a temporary name in", &self.root, io::Error::other(error))
            })?;
            let path = self.root.join(TEMPORARY).join(format!("{:016x}", u64::from_ne_bytes(random)));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Copies of a store often lack empty directories.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.root.is_dir() => {
                    make_directory(&self.root.join(TEMPORARY))?;
                }
                Err(error) => return Err(BackendError::from_io("create", path, error)),
            }
        }
    }

    /// Makes the directories above `path`, up to the root.
    fn make_parents(&self, path: &Path) -> Result<(), BackendError> {
        let Some(parent) = path.parent().filter(|parent| parent.starts_with(&self.root)) else {
            return Ok(());
        };
        if parent.is_dir() {
            return Ok(());
        }
        self.make_parents(parent)?;
        make_directory(parent)
    }

    fn locked(&self) -> Result<File, BackendError> {
        let path = self.root.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| BackendError::from_io("open", &path, error))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|error| BackendError::from_io("lock", &path, error.into()))?;
        Ok(file)
    }

    fn walk(&self, directory: &Path, entries: &mut Vec<Entry>) -> Result<(), BackendError> {
        let listing = match fs::read_dir(directory) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(BackendError::from_io("list", directory, error)),
        };
        for entry in listing {
            let entry = entry.map_err(|error| BackendError::from_io("list", directory, error))?;
            let path = entry.path();
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(BackendError::from_io("read", path, error)),
            };
            if metadata.is_dir() {
                self.walk(&path, entries)?;
            } else if let Some(key) = path.strip_prefix(&self.root).ok().and_then(Path::to_str)
                && check_key(key).is_ok()
            {
                entries.push(Entry { key: key.to_owned(), stat: stat_of(&metadata) });
            }
        }
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<(), BackendError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                Ok(())
            } else {
                Err(BackendError::NotADirectory { path: path.display().to_string() })
            }
        }
        Err(error) => Err(BackendError::from_io("make directory", path, error)),
    }
}

fn sync_directory(path: &Path) -> Result<(), BackendError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| BackendError::from_io("synchronise directory", path, error))
}

/// File systems that keep files in memory, by the number that `statfs` gives them (kernel, `include/uapi/linux/magic.h`):
/// tmpfs, ramfs, and overlayfs, which may lie over one.
const IN_MEMORY: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x794c_7630];

/// A file without a name in `directory`, written past the page cache; none where that is not possible, or where twice
/// as many `bytes` do not fit.
fn scratch_file(directory: &Path, bytes: u64) -> Option<File> {
    let system = rustix::fs::statfs(directory).ok()?;
    let free = system.f_bavail.saturating_mul(u64::try_from(system.f_bsize).ok()?);
    if IN_MEMORY.contains(&system.f_type) || free < bytes.saturating_mul(2) {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).ok()?;
    Some(file.into())
}

fn stat_of(metadata: &fs::Metadata) -> Stat {
    Stat { size: metadata.len(), modified: metadata.modified().unwrap_or(UNIX_EPOCH) }
}

/// A file under its temporary name. Removed when dropped before it got its name.
struct LocalUpload {
    backend: LocalBackend,
    path: PathBuf,
    file: Option<File>,
    pending: Pending,
    written: u64,
}

/// Bytes on their way to a file, collected in a piece.
#[derive(Default)]
struct Pending {
    /// Empty as long as nothing was collected.
    piece: Aligned,
    used: usize,
    writes: Writes,
}

impl Pending {
    /// What is still free of the piece.
    fn free(&mut self) -> &mut [u8] {
        if self.piece.is_empty() {
            self.piece = Aligned::zeroed(PIECE);
        }
        &mut self.piece[self.used..]
    }

    fn write(&mut self, file: &File, offset: u64) -> io::Result<()> {
        self.writes.write(file, &self.piece[..self.used], offset)?;
        self.used = 0;
        Ok(())
    }
}

impl LocalUpload {
    fn begin(backend: &LocalBackend) -> Result<Self, BackendError> {
        let (path, file) = backend.temporary()?;
        Ok(Self { backend: backend.clone(), path, file: Some(file), pending: Pending::default(), written: 0 })
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), BackendError> {
        let Some(file) = &self.file else { return Ok(()) };
        while !bytes.is_empty() {
            let free = self.pending.free();
            let some = free.len().min(bytes.len());
            free[..some].copy_from_slice(&bytes[..some]);
            self.pending.used += some;
            bytes = &bytes[some..];
            if self.pending.used == PIECE {
                self.pending
                    .write(file, self.written)
                    .map_err(|error| BackendError::from_io("write", &self.path, error))?;
                self.written += PIECE as u64;
            }
        }
        Ok(())
    }

    /// Writes what is left, synchronises the file and closes it.
    fn synchronise(&mut self) -> Result<(), BackendError> {
        if let Some(file) = self.file.take() {
            let rest = self.pending.used;
            let written = if rest > 0 { self.pending.write(&file, self.written) } else { Ok(()) };
            written.map_err(|error| BackendError::from_io("write", &self.path, error))?;
            self.written += rest as u64;
            file.sync_all().map_err(|error| BackendError::from_io("synchronise", &self.path, error))?;
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(())
    }

    /// Gives the file its name unless there is one of that name.
    fn link(&self, target: &Path) -> Result<Created, io::Error> {
        use rustix::io::Errno;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Created::New),
            Err(Errno::EXIST) => return Ok(Created::Existed),
            // File systems that cannot rename without replacing (NFS) can link.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::linkat(CWD, &self.path, CWD, target, AtFlags::empty()) {
            Ok(()) => fs::remove_file(&self.path).map(|()| Created::New),
            Err(Errno::EXIST) => Ok(Created::Existed),
            // And those that can do neither hold content under this name, or nothing: replacing is harmless.
            Err(Errno::PERM | Errno::OPNOTSUPP) => fs::rename(&self.path, target).map(|()| Created::New),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        // After a finish the name is gone, and there is nobody to tell about any other failure.
        let _ = fs::remove_file(&self.path);
    }
}

impl Upload for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.append(bytes)
    }

    fn finish(mut self: Box<Self>, key: &str) -> Result<Created, BackendError> {
        let target = self.backend.path(key)?;
        self.synchronise()?;
        self.backend.make_parents(&target)?;
        let failed = |error| BackendError::from_io("name", &target, error);
        let mut created = self.link(&target).map_err(failed)?;
        if created == Created::Existed && fs::metadata(&target).map_err(failed)?.len() != self.written {
            // The name says what the content must be, and that is not it.
            fs::rename(&self.path, &target).map_err(failed)?;
            created = Created::New;
        }
        target.parent().map_or(Ok(()), sync_directory)?;
        Ok(created)
    }
}

impl Backend for LocalBackend {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn prepare(&self) -> Result<(), BackendError> {
        if !self.root.is_dir() {
            let mut missing: Vec<&Path> = self.root.ancestors().take_while(|path| !path.exists()).collect();
            if missing.is_empty() {
                return Err(BackendError::NotADirectory { path: self.root.display().to_string() });
            }
            while let Some(path) = missing.pop() {
                if path != Path::new("") {
                    make_directory(path)?;
                }
            }
        }
        make_directory(&self.root.join(TEMPORARY))
    }

    fn scratch(&self, bytes: u64) -> Option<Scratch> {
        scratch_file(&self.root.join(TEMPORARY), bytes).map(Scratch::new)
    }

    fn begin(&self) -> Result<Box<dyn Upload>, BackendError> {
        Ok(Box::new(LocalUpload::begin(self)?))
    }

    fn read_at(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        let path = self.path(key)?;
        let end = offset.saturating_add(buffer.len() as u64);
        File::open(&path).and_then(|file| file.read_exact_at(buffer, offset)).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                BackendError::ShortRead { path: path.display().to_string(), end }
            } else {
                BackendError::from_io("read", &path, error)
            }
        })
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, BackendError> {
        let path = self.path(key)?;
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(stat_of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackendError::from_io("read", path, error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, BackendError> {
        let directory = match prefix.trim_end_matches('/') {
            "" => self.root.clone(),
            key => self.path(key)?,
        };
        let mut entries = Vec::new();
        self.walk(&directory, &mut entries)?;
        entries.retain(|entry| {
            prefix.starts_with(TEMPORARY) || (!entry.key.starts_with("tmp/") && entry.key != LOCK)
        });
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        let path = self.path(key)?;
        fs::remove_file(&path).map_err(|error| BackendError::from_io("delete", &path, error))?;
        path.parent().map_or(Ok(()), sync_directory)
    }

    fn load(&self, key: &str) -> Result<Option<(Tag, Vec<u8>)>, BackendError> {
        let path = self.path(key)?;
        match self.get(key, MAX_RECORD as u64) {
            Ok(body) => Ok(Some((tag_of(&body), body))),
            Err(error) if error.is_not_found() => Ok(None),
            // Replaced by a shorter one between the two system calls.
            Err(BackendError::ShortRead { .. }) => fs::read(&path)
                .map(|body| Some((tag_of(&body), body)))
                .map_err(|error| BackendError::from_io("read", path, error)),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, key: &str, expected: Option<&Tag>, body: &[u8]) -> Result<Tag, BackendError> {
        let path = self.path(key)?;
        if body.len() > MAX_RECORD {
            return Err(BackendError::RecordTooLarge {
                path: path.display().to_string(),
                size: body.len() as u64,
            });
        }
        let mut upload = LocalUpload::begin(self)?;
        upload.append(body)?;
        upload.synchronise()?;
        self.make_parents(&path)?;
        let _lock = self.locked()?;
        let found = self.load(key)?.map(|(tag, _)| tag);
        if found.as_ref() != expected {
            return Err(BackendError::Conflict { path: path.display().to_string() });
        }
        fs::rename(&upload.path, &path).map_err(|error| BackendError::from_io("replace", &path, error))?;
        path.parent().map_or(Ok(()), sync_directory)?;
        Ok(tag_of(body))
    }

    fn now(&self) -> Result<SystemTime, BackendError> {
        let path = self.root.join(CLOCK);
        let failed = |error| BackendError::from_io("touch", &path, error);
        if self.root.is_dir() && !self.root.join(TEMPORARY).exists() {
            make_directory(&self.root.join(TEMPORARY))?;
        }
        let clock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // The file system's server decides what "now" is, as it does for the files that are compared with it.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        rustix::fs::futimens(&clock, &Timestamps { last_access: now, last_modification: now })
            .map_err(|error| failed(error.into()))?;
        let metadata = clock.metadata().map_err(failed)?;
        let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
        let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        Ok(UNIX_EPOCH + Duration::new(seconds, nanos))
    }

    fn leftovers(&self, before: SystemTime) -> Result<Vec<Entry>, BackendError> {
        let mut entries = self.list("tmp/")?;
        entries.retain(|entry| entry.key != CLOCK && entry.stat.modified < before);
        Ok(entries)
    }

    fn sweep(&self, leftover: &Entry) -> Result<(), BackendError> {
        let path = self.path(&leftover.key)?;
        if path.parent().and_then(Path::file_name) != Some(OsStr::new(TEMPORARY)) {
            return Err(BackendError::InvalidKey { key: leftover.key.clone() });
        }
        fs::remove_file(&path).map_err(|error| BackendError::from_io("delete", path, error))
    }
}

fn tag_of(body: &[u8]) -> Tag {
    Tag(blake3::hash(body).to_hex().to_string())
}

//! A walk over one mount by several threads, each directory through a descriptor of its own.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{FilesError, Stat};

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    names: Vec<u8>,
    entries: Vec<(usize, Stat)>,
}

impl Listing {
    /// Its entries, sorted by name.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&CStr, &Stat)> {
        self.entries.iter().map(|(start, stat)| (self.name(*start), stat))
    }

    fn name(&self, start: usize) -> &CStr {
        CStr::from_bytes_until_nul(&self.names[start..]).unwrap_or_default()
    }

    fn read(directory: &OwnedFd) -> rustix::io::Result<Self> {
        let mut listing = Self::default();
        let mut starts = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                starts.push(listing.names.len());
                listing.names.extend(name.to_bytes_with_nul());
            }
        }
        starts.sort_unstable_by(|a, b| listing.name(*a).cmp(listing.name(*b)));
        listing.entries.reserve_exact(starts.len());
        for start in starts {
            match Stat::at(directory, listing.name(start)) {
                Ok(stat) => listing.entries.push((start, stat)),
                // Gone between the reading of the directory and now.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listing)
    }
}

/// A directory the walk has come to.
pub(super) struct Visited<'a, C> {
    /// Its path in the mount namespace.
    pub(super) path: &'a Path,
    /// What its parent's visit gave for it.
    pub(super) context: C,
    /// What it holds.
    pub(super) listing: &'a Listing,
}

/// Decides what to do with each directory.
pub(super) trait Visit: Sync {
    /// Handed from a directory to those in it.
    type Context: Send;

    /// Looks at a directory; the answer is the places in its listing of the directories to visit next.
    fn visit(&self, directory: Visited<'_, Self::Context>)
    -> Result<Vec<(usize, Self::Context)>, FilesError>;
}

struct Job<C> {
    parent: Arc<OwnedFd>,
    name: CString,
    path: PathBuf,
    context: C,
}

struct Queue<C> {
    jobs: Vec<Job<C>>,
    busy: usize,
    error: Option<FilesError>,
    unreadable: Vec<PathBuf>,
}

/// Walks what is mounted at `point` (or the directory there), never into another mount. Returns the directories that could not be read for
/// lack of permission.
pub(super) fn walk<V: Visit>(
    point: &Path,
    context: V::Context,
    threads: usize,
    visitor: &V,
) -> Result<Vec<PathBuf>, FilesError> {
    let read = |source: Errno| match source {
        Errno::NOTDIR | Errno::LOOP => FilesError::NotADirectory { path: point.to_owned() },
        source => FilesError::Read { path: point.to_owned(), source: source.into() },
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(point, flags, Mode::empty()).map_err(read)?;
    let job = Job { parent: Arc::new(root), name: c".".into(), path: point.to_owned(), context };
    let queue = Mutex::new(Queue { jobs: vec![job], busy: 0, error: None, unreadable: Vec::new() });
    let more = Condvar::new();
    if threads <= 1 {
        work(visitor, &queue, &more);
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| work(visitor, &queue, &more));
            }
        });
    }
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.error.map_or(Ok(queue.unreadable), Err)
}

fn work<V: Visit>(visitor: &V, queue: &Mutex<Queue<V::Context>>, more: &Condvar) {
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut state = lock();
    loop {
        // Last in, first out: few directories are open at a time, however many there are.
        let Some(job) = state.jobs.pop() else {
            if state.busy == 0 {
                more.notify_all();
                return;
            }
            state = more.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.busy += 1;
        drop(state);
        let found = process(visitor, job);
        state = lock();
        state.busy -= 1;
        match found {
            Ok(Outcome::Jobs(jobs)) if state.error.is_none() => state.jobs.extend(jobs),
            Ok(Outcome::Jobs(_)) => {}
            Ok(Outcome::Unreadable(path)) => state.unreadable.push(path),
            Err(error) => {
                state.jobs.clear();
                state.error.get_or_insert(error);
            }
        }
        more.notify_all();
    }
}

enum Outcome<C> {
    Jobs(Vec<Job<C>>),
    Unreadable(PathBuf),
}

fn process<V: Visit>(visitor: &V, job: Job<V::Context>) -> Result<Outcome<V::Context>, FilesError> {
    let Job { parent, name, path, context } = job;
    let listed = open_directory(&parent, &name).and_then(|fd| Ok((Listing::read(&fd)?, fd)));
    drop(parent);
    let (listing, fd) = match listed {
        Ok(listed) => listed,
        // Vanished, or replaced by something else, since its parent was read.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Outcome::Jobs(Vec::new())),
        Err(Errno::ACCESS) => return Ok(Outcome::Unreadable(path)),
        Err(source) => return Err(FilesError::Read { path, source: source.into() }),
    };
    let fd = Arc::new(fd);
    let next = visitor.visit(Visited { path: &path, context, listing: &listing })?;
    let job = |(place, context): (usize, V::Context)| {
        let name = listing.name(listing.entries[place].0);
        Job { parent: Arc::clone(&fd), name: name.into(), path: join(&path, name), context }
    };
    Ok(Outcome::Jobs(next.into_iter().map(job).collect()))
}

/// Opens a directory to read it, without a trace in its access time where that is allowed.
pub(super) fn open_directory(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// A name within a directory, as a path.
pub(super) fn join(directory: &Path, name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// As many threads as help a walk of cached directories.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Removes everything in a directory, never into another mount, and never through a link.
pub(super) fn remove_contents(
    directory: &OwnedFd,
    path: &Path,
    keep: &dyn Fn(&Path) -> bool,
) -> Result<(), (PathBuf, Errno)> {
    let listing = Listing::read(directory).map_err(|error| (path.to_owned(), error))?;
    for (name, stat) in listing.iter() {
        let path = join(path, name);
        if stat.mount_root || keep(&path) {
            continue;
        }
        remove(directory, name, &path, stat)?;
    }
    Ok(())
}

/// Removes a name in a directory, and if it is a directory itself, all beneath it.
pub(super) fn remove(
    parent: &OwnedFd,
    name: &CStr,
    path: &Path,
    stat: &Stat,
) -> Result<(), (PathBuf, Errno)> {
    let named = |error| (path.to_owned(), error);
    let flags = if stat.is_directory() {
        let directory = open_directory(parent, name).map_err(named)?;
        remove_contents(&directory, path, &|_| false)?;
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        done => done.map_err(named),
    }
}

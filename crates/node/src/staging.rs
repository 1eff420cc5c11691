//! The place for what CRIU writes and reads: a directory that goes when it is no longer needed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::mounts::Mounts;

/// A directory that is removed with all it holds when it is dropped. Only its owner can look into it: images hold what
/// was in a program's memory.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Locked, which tells others that somebody is at work here. None where the file system knows no locks.
    _locked: Option<OwnedFd>,
    keep: bool,
}

impl Staging {
    /// Makes an empty directory `name` in `parent`, which is made too where it is not there. What an earlier process
    /// left there under the same name is removed first.
    ///
    /// # Errors
    /// Where the place cannot be written, or what that process has started still works there
    /// ([`ResourceBusy`](io::ErrorKind::ResourceBusy)).
    pub fn create(parent: &Path, name: &str) -> io::Result<Staging> {
        let path = parent.join(name);
        if path.exists() {
            await_leaving(&path)?;
            remove(&path)?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let locked = lock(&path).inspect_err(|error| tracing::debug!(%error, "a directory without a lock"));
        Ok(Staging { path, _locked: locked.ok(), keep: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory where it is, for someone to look into, and says where.
    pub fn keep(mut self) -> PathBuf {
        self.keep = true;
        self.path.clone()
    }
}

/// Removes the directories in `parent` whose names begin with `prefix` and that nobody works in any more: their makers
/// were killed. `before` takes away what else they made there, and says whether that is gone. Returns which.
fn sweep(parent: &Path, prefix: &str, before: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let left = entries.filter(|entry| {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        named && entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    let mut removed = Vec::new();
    for path in left.map(|entry| entry.path()) {
        let Ok(_locked) = lock(&path) else { continue };
        // What its maker has started may go on without it.
        if !before(&path) || is_in_use(&path) {
            continue;
        }
        match remove(&path) {
            Ok(()) => removed.push(path),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was left there cannot be removed")
            }
        }
    }
    removed
}

/// Removes the directories in `parent` whose names begin with `prefix` and that nobody works in any more, and says so.
pub fn clean_up(parent: &Path, prefix: &str) {
    clean_up_after(parent, prefix, &|_| true);
}

/// The same, after `before` has taken away what is no file: mounts and the like. Where it says that this is not gone, the directory stays until it is.
pub(crate) fn clean_up_after(parent: &Path, prefix: &str, before: &dyn Fn(&Path) -> bool) {
    for path in sweep(parent, prefix, before) {
        tracing::warn!(path = %path.display(), "an earlier torpor was cut off; what it left is removed");
    }
}

fn lock(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// How long what an earlier process has started may still work in its directory: then it has ended, or is killed.
const LEAVING: Duration = Duration::from_secs(5);
/// How often it is looked whether it still does.
const PACE: Duration = Duration::from_millis(20);

fn await_leaving(path: &Path) -> io::Result<()> {
    let since = Instant::now();
    while is_in_use(path) {
        if since.elapsed() > LEAVING {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("what was started earlier still works in {}", path.display()),
            ));
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// Removes a directory with all it holds. What a CRIU that was killed has mounted in it (it makes the control groups'
/// file systems appear in its working directory) is taken away before, so that nothing is removed in there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let mounts = Mounts::of_process(None).map_err(io::Error::other)?;
    let canonical = path.canonicalize()?;
    // The last one is the innermost.
    for mount in mounts.all().iter().rev().filter(|mount| mount.point.starts_with(&canonical)) {
        rustix::mount::unmount(&mount.point, UnmountFlags::DETACH)?;
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a process but this one has the directory, or something in it, open.
fn is_in_use(path: &Path) -> bool {
    users(path).next().is_some()
}

/// The processes but this one that have the directory, or something in it, open.
pub(crate) fn users(path: &Path) -> impl Iterator<Item = i32> {
    let own = std::process::id() as i32;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(move |pid| *pid != own).filter(move |pid| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.any(|target| target.starts_with(path))
    })
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a staging directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_empty_and_goes_with_its_content() {
        let parent = tempfile::tempdir().unwrap();
        let first = Staging::create(parent.path(), "images").unwrap();
        std::fs::write(first.path().join("left"), "x").unwrap();
        assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = first.keep();
        let second = Staging::create(parent.path(), "images").unwrap();
        assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0);
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_mounted_in_it_is_taken_away_and_kept_whole() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("precious"), "x").unwrap();
        let yard = Staging::create(parent.path(), "images").unwrap().keep().join("yard");
        std::fs::create_dir(&yard).unwrap();
        if rustix::mount::mount_bind(elsewhere.path(), &yard).is_err() {
            eprintln!("left out: this takes CAP_SYS_ADMIN");
            return;
        }
        let again = Staging::create(parent.path(), "images").unwrap();
        assert_eq!(std::fs::read_dir(again.path()).unwrap().count(), 0);
        assert!(elsewhere.path().join("precious").exists());
    }

    #[test]
    fn what_nobody_works_in_any_more_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let working = Staging::create(parent.path(), "restore-a").unwrap();
        std::fs::create_dir(parent.path().join("restore-b")).unwrap();
        std::fs::create_dir(parent.path().join("other")).unwrap();
        std::fs::write(parent.path().join("restore-c"), "no directory").unwrap();
        assert_eq!(sweep(parent.path(), "restore-", &|_| true), [parent.path().join("restore-b")]);
        drop(working);
        let mut left: Vec<_> =
            std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "restore-c"]);
        assert!(sweep(&parent.path().join("none"), "", &|_| true).is_empty());
    }
}

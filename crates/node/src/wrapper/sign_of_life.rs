//! A lock on a file in the store's directory, which the kernel takes away when its holder dies.
//!
//! A lease tells only after its time that a holder is gone. On one machine the lock tells at once, across PID namespaces
//! and whatever hosts are called; a start after a kill need not wait. Locks of other machines are not believed: not
//! every shared file system passes them on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::RunConfig;

/// Held for as long as it lives.
#[derive(Debug)]
pub(crate) struct SignOfLife {
    path: PathBuf,
    _locked: File,
    stays: bool,
}

/// Where signs of life are, for a store that is a directory.
pub(super) fn directory(config: &RunConfig) -> Option<PathBuf> {
    let store = config.store.as_ref()?.url.strip_prefix("file://")?;
    Some(Path::new(store).join("holders"))
}

impl SignOfLife {
    /// Gives one for the holder `id`. None where the directory cannot be written: then the lease alone counts.
    pub(crate) fn give(directory: &Path, id: &str) -> Option<SignOfLife> {
        let path = directory.join(id);
        let file = lock_new(directory, &path);
        file.inspect_err(|error| tracing::debug!(%error, "no sign of life")).ok().map(|file| SignOfLife {
            path,
            _locked: file,
            stays: false,
        })
    }

    /// Ends it as a kill would: the file stays, for the next start to see that its lock is gone.
    pub(super) fn leave_behind(mut self) {
        self.stays = true;
    }

    /// Whether the holder `id` had one on this machine, and has it no more.
    pub(crate) fn is_gone(directory: &Path, id: &str) -> bool {
        let path = directory.join(id);
        let Ok(mut file) = File::open(&path) else { return false };
        let mut boot = String::new();
        let here = file.read_to_string(&mut boot).is_ok() && boot == boot_id();
        here && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Takes away what a holder that is gone has left.
    pub(crate) fn forget(directory: &Path, id: &str) {
        let _ = std::fs::remove_file(directory.join(id));
    }
}

impl Drop for SignOfLife {
    fn drop(&mut self) {
        if !self.stays {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn lock_new(directory: &Path, path: &Path) -> std::io::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(boot_id().as_bytes())?;
    Ok(file)
}

/// Locks are believed within one boot of one machine.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_gone_when_its_lock_is() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!SignOfLife::is_gone(directory.path(), "a"), "nothing is known of it");
        let alive = SignOfLife::give(directory.path(), "a").unwrap();
        assert!(!SignOfLife::is_gone(directory.path(), "a"));
        alive.leave_behind();
        assert!(SignOfLife::is_gone(directory.path(), "a"));
        SignOfLife::forget(directory.path(), "a");
        assert!(!SignOfLife::is_gone(directory.path(), "a"));
        std::fs::write(directory.path().join("b"), "another boot").unwrap();
        assert!(!SignOfLife::is_gone(directory.path(), "b"), "its lock is not this machine's");
    }
}

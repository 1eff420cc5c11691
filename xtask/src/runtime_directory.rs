//! A runtime directory for the Torpor that a chore starts. Sockets and status files go with it, also those of programs
//! that were killed.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::chore;

/// Torpor's variable for its runtime directory.
pub(crate) const VARIABLE: &str = "TORPOR_RUNTIME_DIR";

/// The directory, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeDirectory(PathBuf);

impl RuntimeDirectory {
    /// Makes it where Torpor would have its own: the build directory can be too deep for the path of a socket.
    pub(crate) fn new() -> Result<RuntimeDirectory> {
        let parent = if chore::is_root() { PathBuf::from("/run") } else { std::env::temp_dir() };
        let path = parent.join(format!("torpor-xtask-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(RuntimeDirectory(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RuntimeDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

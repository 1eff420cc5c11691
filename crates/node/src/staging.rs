//! The place for what CRIU writes and reads: a directory that goes when it is no longer needed.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory that is removed with all it holds when it is dropped. Only its owner can look into it: images hold what
/// was in a program's memory.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    keep: bool,
}

impl Staging {
    /// Makes an empty directory `name` in `parent`, which is made too where it is not there. What an earlier process
    /// left there under the same name is removed first.
    ///
    /// # Errors
    /// Where the place cannot be written.
    pub fn create(parent: &Path, name: &str) -> io::Result<Staging> {
        let path = parent.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Staging { path, keep: false })
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

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
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
}

//! What was changed on a node, and what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::InstallError;

/// The file's name below the prefix.
const FILE: &str = "installed.json";

/// What was at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "was", content = "content")]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A file with this text.
    Text(String),
    /// Something else, which is not put back: an older binary of ours.
    Other,
}

impl Before {
    /// What is there now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: &Path) -> Result<Before, InstallError> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Nothing),
            Err(error) => return Err(InstallError::place(path)(error)),
        };
        // Configurations are small.
        if !found.is_file() || found.len() > 1 << 20 {
            return Ok(Before::Other);
        }
        let bytes = fs::read(path).map_err(InstallError::place(path))?;
        Ok(String::from_utf8(bytes).map_or(Before::Other, Before::Text))
    }
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    before: Before,
    /// What we wrote, where it was text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<String>,
}

/// All paths that were changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    items: BTreeMap<PathBuf, Item>,
    /// Directories that were made.
    #[serde(default)]
    directories: BTreeSet<PathBuf>,
}

impl Item {
    /// Whether what is at its path is not what was written there.
    fn was_changed(&self, path: &Path) -> bool {
        let now = fs::read_to_string(path).ok();
        self.written.is_some() && now.is_some() && now != self.written
    }
}

impl Ledger {
    /// Reads that of a prefix; none where nothing was installed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(prefix: &Path) -> Result<Option<Ledger>, InstallError> {
        let path = prefix.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let ledger = serde_json::from_slice(&bytes);
                ledger.map(Some).map_err(|source| InstallError::Ledger { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(InstallError::place(&path)(error)),
        }
    }

    /// Notes what was at a path before the first change of it.
    pub(super) fn add(&mut self, path: &Path, before: Before) {
        self.items.entry(path.to_owned()).or_insert(Item { before, written: None });
    }

    /// Notes which directories above a path are not there yet.
    pub(super) fn directories_above(&mut self, path: &Path) {
        let absent =
            path.ancestors().skip(1).take_while(|directory| fs::symlink_metadata(directory).is_err());
        self.directories.extend(absent.map(Path::to_owned));
    }

    pub(super) fn written(&mut self, path: &Path, content: &str) {
        if let Some(item) = self.items.get_mut(path) {
            item.written = Some(content.to_owned());
        }
    }

    pub(super) fn write(&self, prefix: &Path) -> Result<(), InstallError> {
        let path = prefix.join(FILE);
        let failed = InstallError::place(&path);
        fs::create_dir_all(prefix).map_err(&failed)?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let partial = prefix.join(".installed");
        fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path)).map_err(&failed)
    }

    /// What somebody has changed since: it is left as it is.
    #[must_use]
    pub fn changed_since(&self) -> Vec<PathBuf> {
        self.items
            .iter()
            .filter(|(path, item)| item.was_changed(path))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// What putting back would do, a line each.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let tell = |(path, item): (&PathBuf, &Item)| match &item.before {
            Before::Text(_) => format!("put {} back as it was", path.display()),
            Before::Nothing | Before::Other => format!("remove {}", path.display()),
        };
        self.items.iter().filter(|(path, item)| !item.was_changed(path)).map(tell).collect()
    }

    /// Puts everything back, and forgets it. A file that somebody has changed since is left as it is, and returned.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn put_back(&self, prefix: &Path) -> Result<Vec<PathBuf>, InstallError> {
        let mut left = Vec::new();
        for (path, item) in self.items.iter().rev() {
            let failed = InstallError::place(path);
            if item.was_changed(path) {
                left.push(path.clone());
                continue;
            }
            match &item.before {
                Before::Text(text) => {
                    replace(path, |partial| fs::write(partial, text)).map_err(&failed)?;
                }
                Before::Nothing | Before::Other => match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                },
            }
        }
        let file = prefix.join(FILE);
        fs::remove_file(&file).map_err(InstallError::place(&file))?;
        // Those within others come after them; one that somebody uses is not empty.
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
        let _ = fs::remove_dir(prefix);
        Ok(left)
    }
}

/// Puts a file into the place of another at once: whoever reads it reads all or nothing of it, and a program that runs cannot be written to.
/// One that was there lends it its owner and mode.
pub(super) fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = path.with_file_name(format!(".{name}.torpor"));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(&partial)?;
    if let (Ok(before), true) = (fs::symlink_metadata(path), partial.is_file() && !partial.is_symlink())
        && before.is_file()
    {
        fs::set_permissions(&partial, before.permissions())?;
        // Only root may give a file away, and only root needs to.
        let _ = std::os::unix::fs::chown(&partial, Some(before.uid()), Some(before.gid()));
    }
    fs::rename(partial, path)
}

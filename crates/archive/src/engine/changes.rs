//! What a container changed in its file system.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{EngineError, document};
use crate::Checkpoint;
use crate::source::{Entry, EntryKind, FILES, Limits, MANIFEST, each_nested};

/// What begins the names that stand for files of the image which are gone (OCI image specification, `layer.md`).
const WHITEOUT: &str = ".wh.";
/// The name that says that all the image has in a directory is gone.
const OPAQUE: &str = ".wh..wh..opq";

/// What happened to a path. An engine does not tell what was added from what was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was added or changed.
    Written,
    /// It is gone.
    Removed,
    /// A directory whose content of the image is gone.
    Emptied,
}

/// A path that differs from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Bytes, for a file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whether it is a directory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub directory: bool,
    /// When it was changed, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
}

/// What differs from the image, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Bytes of the files that were written.
    pub size: u64,
    /// Each path, from the root of the container.
    pub paths: BTreeMap<String, Change>,
}

impl Changes {
    fn written(&mut self, path: String, entry: &Entry) {
        let directory = entry.kind == EntryKind::Directory;
        let size = (entry.kind == EntryKind::File).then_some(entry.size);
        let link = match &entry.kind {
            EntryKind::SymbolicLink(to) | EntryKind::HardLink(to) => Some(to.clone()),
            _ => None,
        };
        self.size = self.size.saturating_add(size.unwrap_or(0));
        let modified = Some(entry.modified);
        self.paths.insert(path, Change { kind: ChangeKind::Written, size, link, directory, modified });
    }

    fn gone(&mut self, path: String, kind: ChangeKind) {
        let directory = kind == ChangeKind::Emptied;
        self.paths.insert(path, Change { kind, size: None, link: None, directory, modified: None });
    }

    /// An entry of a layer, by its path without the first slash.
    fn entry(&mut self, path: &str, entry: &Entry) {
        let (directory, file) =
            path.rsplit_once('/').map_or(("", path), |(directory, file)| (directory, file));
        if file == OPAQUE {
            self.gone(format!("/{directory}"), ChangeKind::Emptied);
        } else if let Some(file) = file.strip_prefix(WHITEOUT) {
            let slash = if directory.is_empty() { "" } else { "/" };
            self.gone(format!("/{directory}{slash}{file}"), ChangeKind::Removed);
        } else if path != "." {
            self.written(format!("/{path}"), entry);
        }
    }
}

/// What the container changed. None where the checkpoint does not tell.
///
/// # Errors
/// Where `rootfs-diff.tar` or `deleted.files` is there and cannot be read.
pub fn changes(checkpoint: &Checkpoint) -> Result<Option<Changes>, EngineError> {
    let mut changes = Changes::default();
    let mut told = false;
    // Of a container in a store, the files are there one by one, too.
    let kept = checkpoint.entry(MANIFEST).is_some();
    let layer = checkpoint.entry("rootfs-diff.tar").filter(|entry| entry.kind == EntryKind::File && !kept);
    if let Some(layer) = layer {
        told = true;
        if layer.size > 0 {
            each_nested(checkpoint.source(), layer, &Limits::default(), |entry| {
                changes.entry(&entry.name, entry);
            })?;
        }
    }
    if let Some(removed) = document(checkpoint, "deleted.files")? {
        told = true;
        for path in removed.as_array().into_iter().flatten().filter_map(Value::as_str) {
            changes.gone(format!("/{}", path.trim_start_matches('/')), ChangeKind::Removed);
        }
    }
    for entry in checkpoint.entries() {
        // A store has sections there: the container's own files and those of volumes alike.
        if let Some((_, path)) = entry.name.strip_prefix(FILES).and_then(|rest| rest.split_once('/')) {
            told = true;
            changes.entry(path, entry);
        }
    }
    Ok(told.then_some(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, size: u64) -> Entry {
        Entry { name: String::new(), kind, size, offset: None, mode: 0o644, modified: 5 }
    }

    #[test]
    fn whiteouts_are_removals() {
        let mut changes = Changes::default();
        changes.entry("etc/hosts", &entry(EntryKind::File, 7));
        changes.entry("etc/.wh.passwd", &entry(EntryKind::File, 0));
        changes.entry(".wh.bin", &entry(EntryKind::File, 0));
        changes.entry("var/.wh..wh..opq", &entry(EntryKind::File, 0));
        changes.entry("a", &entry(EntryKind::SymbolicLink("b".to_owned()), 0));
        let kinds: Vec<_> = changes.paths.iter().map(|(path, change)| (path.as_str(), change.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("/a", ChangeKind::Written),
                ("/bin", ChangeKind::Removed),
                ("/etc/hosts", ChangeKind::Written),
                ("/etc/passwd", ChangeKind::Removed),
                ("/var", ChangeKind::Emptied),
            ]
        );
        assert_eq!(changes.size, 7);
    }
}

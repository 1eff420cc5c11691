//! What an engine mounted into a container, and which of it is in the checkpoint.

use serde::Serialize;
use serde_json::Value;

use super::{EngineError, document, text};
use crate::Checkpoint;
use crate::source::EntryKind;

/// A mount, as the container's specification has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecMount {
    /// Where it is in the container.
    pub destination: String,
    /// The type of file system, such as `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// How.
    pub options: Vec<String>,
}

/// A path of the host that has to be there when the container is restored (CRI-O's `bind.mounts`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// The path on the host.
    pub source: String,
    /// Where it is in the container.
    pub destination: String,
    /// `directory` or `file`.
    pub kind: String,
    /// Permission bits.
    pub mode: u64,
}

/// A volume whose files are in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name; `/dev/shm` for shared memory.
    pub name: String,
    /// The entry that has its files.
    pub entry: String,
    /// Bytes of that.
    pub size: u64,
}

/// The mounts of the specification, in its order.
///
/// # Errors
/// Where `spec.dump` is there and cannot be read.
pub fn mounts(checkpoint: &Checkpoint) -> Result<Vec<SpecMount>, EngineError> {
    let spec = document(checkpoint, "spec.dump")?;
    let all = spec.as_ref().and_then(|spec| spec.get("mounts")).and_then(Value::as_array);
    let mount = |mount: &Value| SpecMount {
        destination: text(Some(mount), "destination").unwrap_or_default(),
        kind: text(Some(mount), "type").unwrap_or_default(),
        source: text(Some(mount), "source").unwrap_or_default(),
        options: mount
            .get("options")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|option| option.as_str().map(str::to_owned))
            .collect(),
    };
    Ok(all.into_iter().flatten().map(mount).collect())
}

/// What CRI-O says must be on the host.
///
/// # Errors
/// Where `bind.mounts` is there and cannot be read.
pub fn binds(checkpoint: &Checkpoint) -> Result<Vec<Bind>, EngineError> {
    let document = document(checkpoint, "bind.mounts")?;
    let bind = |bind: &Value| Bind {
        source: text(Some(bind), "source").unwrap_or_default(),
        destination: text(Some(bind), "destination").unwrap_or_default(),
        kind: text(Some(bind), "file_type").unwrap_or_default(),
        mode: bind.get("permissions").and_then(Value::as_u64).unwrap_or_default(),
    };
    Ok(document.as_ref().and_then(Value::as_array).into_iter().flatten().map(bind).collect())
}

/// Volumes, and shared memory, that are archives in the checkpoint.
#[must_use]
pub fn volumes(checkpoint: &Checkpoint) -> Vec<Volume> {
    let files = checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File);
    files
        .filter_map(|entry| {
            let name = if entry.name == "devshm-checkpoint.tar" {
                "/dev/shm"
            } else {
                entry.name.strip_prefix("volumes/")?.strip_suffix(".tar")?
            };
            Some(Volume { name: name.to_owned(), entry: entry.name.clone(), size: entry.size })
        })
        .collect()
}

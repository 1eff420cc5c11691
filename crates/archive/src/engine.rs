//! What container engines write beside CRIU's images, and whose checkpoint it is.
//!
//! Everything may be absent: a plain directory of images has none of it. Layouts: Podman `libpod/container_internal_common.go`,
//! CRI-O `internal/lib/checkpoint.go`, containerd `internal/cri/server/container_checkpoint_linux.go`, checkpointctl
//! `lib/metadata.go`.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::Checkpoint;
use crate::source::{Entry, EntryKind, SourceError};

mod changes;
mod identity;
mod mounts;
mod network;
mod status;

pub use changes::{Change, ChangeKind, Changes, changes};
pub use identity::{Container, Image, Pod, container, moment};
pub use mounts::{Bind, SpecMount, Volume, binds, mounts, volumes};
pub use network::{Interface, networks};
pub use status::{Status, status};

/// Largest document.
const MAX_DOCUMENT: u64 = 16 << 20;

/// Who made a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Engine {
    /// Podman.
    Podman,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// containerd.
    Containerd,
    /// Torpor.
    Torpor,
    /// None: CRIU, or a runtime that left its images only.
    Criu,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Podman => "Podman",
            Self::CriO => "CRI-O",
            Self::Containerd => "containerd",
            Self::Torpor => "Torpor",
            Self::Criu => "CRIU",
        })
    }
}

/// Why something of an engine's cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The entry cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The entry is no JSON document.
    #[error("{entry} is no JSON document")]
    Document {
        /// The entry.
        entry: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

impl EngineError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Document { .. } => "the checkpoint is damaged: use another copy",
        }
    }
}

impl Engine {
    /// Who made this checkpoint: by what the annotations in `spec.dump` say, or else by the files there are.
    ///
    /// # Errors
    /// Where `spec.dump` cannot be read.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        let spec = document(checkpoint, "spec.dump")?;
        Ok(Self::tell(spec.as_ref(), |name| checkpoint.entry(name).is_some()))
    }

    fn tell(spec: Option<&Value>, has: impl Fn(&str) -> bool) -> Self {
        // A container that Torpor keeps has its engine's annotations, and none of its other files; an archive that it keeps has all.
        if has(crate::source::MANIFEST) && !has(crate::blueprint::BLUEPRINT) {
            return Self::Torpor;
        }
        let annotations = spec.and_then(|spec| spec.get("annotations")).and_then(Value::as_object);
        match annotation(spec, "io.container.manager") {
            Some("libpod") => return Self::Podman,
            Some("cri-o") => return Self::CriO,
            _ => {}
        }
        if annotations.is_some_and(|all| all.keys().any(|key| key.starts_with("io.kubernetes.cri."))) {
            return Self::Containerd;
        }
        for (name, engine) in [
            ("network.status", Self::Podman),
            ("ctr.log", Self::Podman),
            ("bind.mounts", Self::CriO),
            ("io.kubernetes.cri-o.LogPath", Self::CriO),
            // As checkpointctl has it: who says nothing is containerd.
            ("config.dump", Self::Containerd),
        ] {
            if has(name) {
                return engine;
            }
        }
        Self::Criu
    }
}

/// The container's log as the engine kept it, where it is part of the checkpoint.
#[must_use]
pub fn log(checkpoint: &Checkpoint) -> Option<&Entry> {
    ["ctr.log", "io.kubernetes.cri-o.LogPath", "container.log"]
        .into_iter()
        .filter_map(|name| checkpoint.entry(name))
        .find(|entry| entry.kind == EntryKind::File)
}

/// A JSON document, if it is there.
///
/// # Errors
/// Where it cannot be read, is larger than 16 MiB, or is no JSON.
pub fn document(checkpoint: &Checkpoint, name: &str) -> Result<Option<Value>, EngineError> {
    let Some(entry) = checkpoint.entry(name).filter(|entry| entry.kind == EntryKind::File) else {
        return Ok(None);
    };
    let bytes = checkpoint.bytes(entry, MAX_DOCUMENT)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| EngineError::Document { entry: name.to_owned(), source })
}

/// An annotation of the container.
fn annotation<'a>(spec: Option<&'a Value>, key: &str) -> Option<&'a str> {
    spec?.get("annotations")?.get(key)?.as_str()
}

/// A text in a document, if it is there and not empty.
fn text(document: Option<&Value>, key: &str) -> Option<String> {
    document?.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_come_before_files() {
        let spec = |key: &str, value: &str| serde_json::json!({ "annotations": { key: value } });
        for (spec, files, engine) in [
            (Some(spec("io.container.manager", "libpod")), &["bind.mounts"][..], Engine::Podman),
            (Some(spec("io.container.manager", "cri-o")), &[], Engine::CriO),
            (
                Some(spec("io.kubernetes.cri.container-type", "container")),
                &["config.dump"],
                Engine::Containerd,
            ),
            (None, &["network.status", "config.dump"], Engine::Podman),
            (Some(spec("x", "y")), &["config.dump"], Engine::Containerd),
            (None, &["torpor.json"], Engine::Torpor),
            (Some(spec("io.container.manager", "libpod")), &["torpor.json"], Engine::Torpor),
            (Some(spec("io.container.manager", "libpod")), &["torpor.json", "archive.json"], Engine::Podman),
            (None, &["inventory.img"], Engine::Criu),
        ] {
            assert_eq!(Engine::tell(spec.as_ref(), |name| files.contains(&name)), engine, "{files:?}");
        }
    }
}

//! What containerd knows of a container's root and its image: its own interface, at the socket where it speaks the CRI, too.
//!
//! containerd, `api/services/containers/v1/containers.proto`, `api/services/snapshots/v1/snapshots.proto`, `api/types/mount.proto`. A view
//! is a snapshot that cannot be written; the snapshotters `native` and `btrfs` tell it, and the container's own, as directories.

use std::path::PathBuf;
use std::time::Duration;

use prost::Message;

use super::Snapshot;
use crate::container::cri::{Cri, CriError};

const CONTAINERS: &str = "containerd.services.containers.v1.Containers";
const SNAPSHOTS: &str = "containerd.services.snapshots.v1.Snapshots";
/// How long each answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Message)]
struct AskContainer {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ToldContainer {
    #[prost(message, optional, tag = "1")]
    container: Option<KnownContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct KnownContainer {
    #[prost(string, tag = "6")]
    snapshotter: String,
    #[prost(string, tag = "7")]
    snapshot_key: String,
}

/// Names a snapshot; for a view, with what it is one of.
#[derive(Clone, PartialEq, Message)]
struct AskSnapshot {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct ToldSnapshot {
    #[prost(message, optional, tag = "1")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "2")]
    parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    source: String,
}

impl Mounts {
    /// The directory that they are, where they are just one.
    fn directory(&self) -> Option<PathBuf> {
        match self.mounts.as_slice() {
            [Mount { kind, source }] if kind == "bind" && source.starts_with('/') => Some(source.into()),
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// A view of an image, for as long as this is kept.
#[derive(Debug)]
pub(super) struct View {
    cri: Cri,
    namespace: String,
    snapshot: AskSnapshot,
}

impl Drop for View {
    fn drop(&mut self) {
        let removed = ask::<Nothing>(&self.cri, &self.namespace, SNAPSHOTS, "Remove", &self.snapshot);
        if let Err(error) = removed {
            tracing::warn!(%error, key = self.snapshot.key, "a view of an image stays in containerd");
        }
    }
}

fn ask<A: Message + Default>(
    cri: &Cri,
    namespace: &str,
    service: &str,
    method: &str,
    request: &impl Message,
) -> Result<A, CriError> {
    cri.ask(service, Some(namespace), method, request, Some(PATIENCE))
}

/// A container's root and a view of its image. None where its snapshotter makes no directories.
///
/// # Errors
/// containerd does not answer, or does not know the container.
pub(super) fn snapshot(cri: &Cri, namespace: &str, id: &str) -> Result<Option<Snapshot>, CriError> {
    let known: ToldContainer = ask(cri, namespace, CONTAINERS, "Get", &AskContainer { id: id.to_owned() })?;
    let KnownContainer { snapshotter, snapshot_key } = known.container.unwrap_or_default();
    let own = AskSnapshot { snapshotter: snapshotter.clone(), key: snapshot_key, parent: String::new() };
    let told: ToldSnapshot = ask(cri, namespace, SNAPSHOTS, "Stat", &own)?;
    let parent = told.info.unwrap_or_default().parent;
    let root = ask::<Mounts>(cri, namespace, SNAPSHOTS, "Mounts", &own)?.directory();
    let Some(root) = root.filter(|_| !parent.is_empty()) else { return Ok(None) };
    let view = AskSnapshot { snapshotter, key: format!("torpor-view-{id}"), parent };
    // What an earlier checkpoint left that was cut off.
    let left = AskSnapshot { parent: String::new(), ..view.clone() };
    if ask::<Nothing>(cri, namespace, SNAPSHOTS, "Remove", &left).is_ok() {
        tracing::warn!(key = left.key, "an earlier checkpoint was cut off; its view of the image is removed");
    }
    let image: Mounts = ask(cri, namespace, SNAPSHOTS, "View", &view)?;
    let view = View { cri: cri.clone(), namespace: namespace.to_owned(), snapshot: left };
    Ok(image.directory().map(|image| Snapshot { root, image, _view: Some(view) }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::container::cri::tests::{runtime, status};

    #[test]
    fn a_root_and_its_image_are_directories_where_the_snapshotter_has_such() {
        let (_directory, cri) = runtime(|method, request| {
            let mounts = |kind: &str, source: &str| {
                Mounts { mounts: vec![Mount { kind: kind.into(), source: source.into() }] }.encode_to_vec()
            };
            let asked = || AskSnapshot::decode(request).unwrap();
            let answer = match method.rsplit_once('/').unwrap() {
                ("/containerd.services.containers.v1.Containers", "Get") => {
                    let id = AskContainer::decode(request).unwrap().id;
                    let container = KnownContainer { snapshotter: id.clone(), snapshot_key: id };
                    ToldContainer { container: Some(container) }.encode_to_vec()
                }
                (_, "Stat") => {
                    ToldSnapshot { info: Some(Info { parent: "sha256:1".into() }) }.encode_to_vec()
                }
                (_, "Mounts") if asked().snapshotter == "overlayfs" => mounts("overlay", "overlay"),
                (_, "Mounts") => mounts("bind", "/s/7"),
                (_, "View") => {
                    assert_eq!(
                        (asked().key.as_str(), asked().parent.as_str()),
                        ("torpor-view-native", "sha256:1")
                    );
                    mounts("bind", "/s/1")
                }
                _ => Vec::new(),
            };
            (Some(answer), status("0", ""))
        });
        let found = snapshot(&cri, "k8s.io", "native").unwrap().unwrap();
        assert_eq!((found.root.as_path(), found.image.as_path()), (Path::new("/s/7"), Path::new("/s/1")));
        assert!(snapshot(&cri, "k8s.io", "overlayfs").unwrap().is_none());
    }
}

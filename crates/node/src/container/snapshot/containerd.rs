//! What containerd knows of a container's image: its own interface, at the socket where it speaks the CRI, too.
//!
//! containerd, `api/services/containers/v1/containers.proto`, `api/services/snapshots/v1/snapshots.proto`,
//! `api/services/leases/v1/leases.proto`, `api/types/mount.proto`. Whatever the snapshotter, a view of what the container's snapshot was
//! made from can be had, with what is to be mounted for it: a directory (`native`), a subvolume (`btrfs`), a data set (`zfs`), a
//! device (`devmapper`) or a file to be made one (`blockfile`). A view that nothing refers to is collected at any time; a lease keeps it,
//! and lets go of it where nobody is left to do that.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;

use super::{Image, NOT_COMPARED};
use crate::container::cri::{Cri, CriError};
use crate::mounts::DetachedMount;

const CONTAINERS: &str = "containerd.services.containers.v1.Containers";
const SNAPSHOTS: &str = "containerd.services.snapshots.v1.Snapshots";
const LEASES: &str = "containerd.services.leases.v1.Leases";
/// When containerd may drop a lease (containerd, `docs/garbage-collection.md`).
const EXPIRES: &str = "containerd.io/gc.expire";
/// How long a view is kept if nobody removes it.
const KEPT: Duration = Duration::from_secs(3600);
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
    #[prost(string, repeated, tag = "4")]
    options: Vec<String>,
}

/// Names a lease; one that is made has labels.
#[derive(Clone, PartialEq, Message)]
struct AskLease {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "3")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// Why there is no image to compare with.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// containerd does not answer, or knows nothing of it.
    #[error(transparent)]
    Asked(#[from] CriError),
    /// A view is nothing that can be mounted at once.
    #[error("containerd's snapshotter {snapshotter} has the image as several mounts ({told})")]
    Unknown {
        /// The snapshotter.
        snapshotter: String,
        /// The kinds of its mounts.
        told: String,
    },
    /// The view cannot be mounted.
    #[error("the container's image cannot be mounted, which is {kind} on {on}")]
    Mount {
        /// The file system.
        kind: String,
        /// What it is on.
        on: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ViewError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            ViewError::Asked(error) => error.remedy(),
            ViewError::Unknown { .. } | ViewError::Mount { .. } => NOT_COMPARED,
        }
    }
}

/// A view of an image, for as long as this is kept.
#[derive(Debug)]
pub(super) struct View {
    client: Client,
    snapshot: AskSnapshot,
    /// Gone before the view is.
    mount: Option<DetachedMount>,
}

impl Drop for View {
    fn drop(&mut self) {
        self.mount = None;
        let removed = self.client.remove(&self.snapshot);
        if let Err(error) = removed {
            tracing::warn!(%error, key = self.snapshot.key, "a view of an image stays in containerd for an hour");
        }
    }
}

/// One of containerd's namespaces.
#[derive(Debug)]
struct Client {
    cri: Cri,
    namespace: String,
}

impl Client {
    fn ask<A: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CriError> {
        self.ask_under(None, service, method, request)
    }

    /// What it makes is kept by a lease.
    fn ask_under<A: Message + Default>(
        &self,
        lease: Option<&str>,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CriError> {
        let namespace = [("containerd-namespace", self.namespace.as_str())];
        let headers: Vec<_> =
            namespace.into_iter().chain(lease.map(|lease| ("containerd-lease", lease))).collect();
        self.cri.ask(service, &headers, method, request, Some(PATIENCE))
    }

    /// Makes a view, and what keeps it.
    fn view(&self, view: &AskSnapshot) -> Result<Mounts, CriError> {
        let expires = jiff::Timestamp::now() + KEPT;
        let labels = HashMap::from([(EXPIRES.to_owned(), expires.to_string())]);
        self.ask::<Nothing>(LEASES, "Create", &AskLease { id: view.key.clone(), labels })?;
        self.ask_under(Some(&view.key), SNAPSHOTS, "View", view)
    }

    /// Removes a view, and what keeps it.
    fn remove(&self, view: &AskSnapshot) -> Result<(), CriError> {
        let removed = self.ask::<Nothing>(SNAPSHOTS, "Remove", view);
        let lease = AskLease { id: view.key.clone(), labels: HashMap::new() };
        self.ask::<Nothing>(LEASES, "Delete", &lease)?;
        removed.map(drop)
    }
}

impl Mounts {
    /// The only one.
    fn one(&self, snapshotter: &str) -> Result<&Mount, ViewError> {
        let [mount] = self.mounts.as_slice() else {
            let told = self.mounts.iter().map(|mount| mount.kind.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ViewError::Unknown { snapshotter: snapshotter.to_owned(), told });
        };
        Ok(mount)
    }
}

/// A container's own snapshot; none where containerd knows of none.
fn own(client: &Client, id: &str) -> Result<Option<AskSnapshot>, ViewError> {
    let known: ToldContainer = client.ask(CONTAINERS, "Get", &AskContainer { id: id.to_owned() })?;
    let KnownContainer { snapshotter, snapshot_key } = known.container.unwrap_or_default();
    let own = AskSnapshot { snapshotter, key: snapshot_key, parent: String::new() };
    Ok(Some(own).filter(|own| !own.key.is_empty()))
}

/// Whether a container has an image that can be compared with, by what its own snapshot is.
///
/// # Errors
/// containerd does not answer, or there would be no mounting it.
pub(super) fn has_image(cri: &Cri, namespace: &str, id: &str) -> Result<bool, ViewError> {
    let client = Client { cri: cri.clone(), namespace: namespace.to_owned() };
    let Some(own) = own(&client, id)? else { return Ok(false) };
    let mounts: Mounts = client.ask(SNAPSHOTS, "Mounts", &own)?;
    mounts.one(&own.snapshotter).map(|_| true)
}

/// The image of a container. None where it has none that containerd knows.
///
/// # Errors
/// containerd does not answer, or its view cannot be mounted.
pub(super) fn image(cri: &Cri, namespace: &str, id: &str) -> Result<Option<Image>, ViewError> {
    let client = Client { cri: cri.clone(), namespace: namespace.to_owned() };
    let Some(own) = own(&client, id)? else { return Ok(None) };
    let told: ToldSnapshot = client.ask(SNAPSHOTS, "Stat", &own)?;
    let parent = told.info.unwrap_or_default().parent;
    let view = AskSnapshot { parent, key: format!("torpor-view-{id}"), ..own };
    // What an earlier checkpoint left that was cut off.
    let left = AskSnapshot { parent: String::new(), ..view.clone() };
    if client.remove(&left).is_ok() {
        tracing::warn!(key = left.key, "an earlier checkpoint was cut off; its view of the image is removed");
    }
    let mut kept = View { client, snapshot: left, mount: None };
    let mounts = kept.client.view(&view)?;
    let Mount { kind, source, options } = mounts.one(&view.snapshotter)?;
    if kind == "bind" {
        return Ok(Some(Image { path: source.into(), _view: Some(kept) }));
    }
    let mount = DetachedMount::new(kind, source.as_ref(), options);
    let mount =
        mount.map_err(|error| ViewError::Mount { kind: kind.clone(), on: source.clone(), source: error })?;
    let path = mount.path();
    kept.mount = Some(mount);
    Ok(Some(Image { path, _view: Some(kept) }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::container::cri::tests::{runtime, status};

    #[test]
    fn an_image_is_a_directory_or_mounted() {
        let (_directory, cri) = runtime(|method, request| {
            let mounts = |kinds: &[&str], source: &str, options: &[&str]| {
                let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
                let mount = |kind: &&str| Mount {
                    kind: (*kind).to_owned(),
                    source: source.to_owned(),
                    options: options.clone(),
                };
                Mounts { mounts: kinds.iter().map(mount).collect() }.encode_to_vec()
            };
            let answer = match method.rsplit_once('/').unwrap() {
                ("/containerd.services.containers.v1.Containers", "Get") => {
                    let id = AskContainer::decode(request).unwrap().id;
                    let snapshot_key = if id == "none" { String::new() } else { id.clone() };
                    ToldContainer { container: Some(KnownContainer { snapshotter: id, snapshot_key }) }
                        .encode_to_vec()
                }
                (_, "Stat") => {
                    ToldSnapshot { info: Some(Info { parent: "sha256:1".into() }) }.encode_to_vec()
                }
                (_, "View" | "Mounts") => {
                    let asked = AskSnapshot::decode(request).unwrap();
                    if method.ends_with("/View") {
                        assert_eq!(asked.key, format!("torpor-view-{}", asked.snapshotter));
                        assert_eq!(asked.parent, "sha256:1");
                    } else {
                        assert_eq!(asked.key, asked.snapshotter);
                    }
                    match asked.snapshotter.as_str() {
                        "native" => mounts(&["bind"], "/s/1", &["ro", "rbind"]),
                        "blockfile" => mounts(&["tmpfs"], "none", &["ro", "mode=700"]),
                        "devmapper" => mounts(&["ext4"], "/dev/no-such", &["ro"]),
                        _ => mounts(&["erofs", "overlay"], "/s/1", &[]),
                    }
                }
                ("/containerd.services.leases.v1.Leases", "Create") => {
                    let lease = AskLease::decode(request).unwrap();
                    assert!(
                        lease.labels[EXPIRES].parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now()
                    );
                    Vec::new()
                }
                _ => Vec::new(),
            };
            (Some(answer), status("0", ""))
        });
        let image = |id: &str| image(&cri, "k8s.io", id);
        let foreseen = |id: &str| has_image(&cri, "k8s.io", id);
        assert!(!foreseen("none").unwrap() && foreseen("native").unwrap() && foreseen("devmapper").unwrap());
        assert!(
            matches!(foreseen("erofs"), Err(ViewError::Unknown { told, .. }) if told == "erofs, overlay")
        );
        assert!(image("none").unwrap().is_none());
        assert_eq!(image("native").unwrap().unwrap().path, Path::new("/s/1"));
        assert!(matches!(image("erofs"), Err(ViewError::Unknown { told, .. }) if told == "erofs, overlay"));
        assert!(matches!(image("devmapper"), Err(ViewError::Mount { on, .. }) if on == "/dev/no-such"));
        match image("blockfile") {
            Ok(mounted) => assert_eq!(std::fs::read_dir(mounted.unwrap().path).unwrap().count(), 0),
            Err(error) => eprintln!("left out: this takes CAP_SYS_ADMIN: {error}"),
        }
    }
}

//! What is taken along of mounts from outside: some end with the container or its pod, and are nowhere else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::state::{Container, MountKind};
use crate::files::upper::Layer;

/// Which mounts from outside are taken along with a container, besides what it changed in its image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carry {
    /// Those that end with the container or its pod: `/dev/shm`, and the emptyDirs of Kubernetes.
    pub own: bool,
    /// Those at these paths of the container.
    pub named: Vec<PathBuf>,
}

impl Carry {
    /// Whether a mount is taken along, by where the container has it and where it comes from.
    fn takes(&self, destination: &Path, source: Option<&str>) -> bool {
        const EMPTY_DIRECTORY: &str = "/volumes/kubernetes.io~empty-dir/";
        let ends = destination == Path::new("/dev/shm")
            || source.is_some_and(|source| source.contains(EMPTY_DIRECTORY));
        (self.own && ends) || self.named.iter().any(|named| named == destination)
    }

    /// Those that are named and that none of these containers has, as a directory from outside.
    #[must_use]
    pub fn missing(&self, containers: &[Container]) -> Vec<&Path> {
        let has = |container: &Container, path: &Path| {
            let mounts = &container.description.mounts;
            let is_mounted =
                mounts.iter().any(|mount| mount.kind == MountKind::Bind && mount.destination == path);
            is_mounted && inside(container, path).is_some_and(|here| here.is_dir())
        };
        let named = self.named.iter().map(PathBuf::as_path);
        named.filter(|path| !containers.iter().any(|container| has(container, path))).collect()
    }

    /// Those of a container's mounts from outside that are taken along and are directories.
    pub(super) fn of(&self, container: &Container, config: Option<&serde_json::Value>) -> Vec<Layer> {
        let mounts = config.and_then(|config| config["mounts"].as_array()).into_iter().flatten();
        let sources: HashMap<&str, &str> = mounts
            .filter_map(|mount| Some((mount["destination"].as_str()?, mount["source"].as_str()?)))
            .collect();
        let bound = container.description.mounts.iter().filter(|mount| mount.kind == MountKind::Bind);
        bound
            .filter(|mount| {
                let source = mount.destination.to_str().and_then(|path| sources.get(path).copied());
                self.takes(&mount.destination, source)
            })
            .filter_map(|mount| {
                let here = inside(container, &mount.destination)?;
                here.is_dir().then(|| Layer::of_mount(here, &mount.destination))
            })
            .collect()
    }
}

/// A path of a container's, seen from here.
fn inside(container: &Container, path: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix("/").ok()?;
    Some(Path::new("/proc").join(container.init.to_string()).join("root").join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_with_the_pod_is_told_by_where_it_is_and_comes_from() {
        let own = Carry { own: true, named: vec!["/data".into()] };
        let named = Carry { own: false, ..own.clone() };
        const EMPTY: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/scratch";
        const CLAIM: &str = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc/mount";
        for (destination, source, by_own, by_named) in [
            ("/dev/shm", Some("/run/containerd/x/shm"), true, false),
            ("/scratch", Some(EMPTY), true, false),
            ("/claim", Some(CLAIM), false, false),
            ("/data", Some(CLAIM), true, true),
            ("/data/below", None, false, false),
        ] {
            let destination = Path::new(destination);
            assert_eq!(own.takes(destination, source), by_own, "{}", destination.display());
            assert_eq!(named.takes(destination, source), by_named, "{}", destination.display());
        }
    }
}

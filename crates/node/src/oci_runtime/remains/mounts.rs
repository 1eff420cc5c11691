//! Mounts that a runtime makes for a restore, and leaves where it is killed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use crate::container::restore::root_of_bundle;
use crate::mounts::Mounts;
use crate::oci_runtime::fit::Grant;

/// Takes away the mount of a container's root, and those in the root of its bundle: runc has the former in its state and mounts what the container is
/// to have from outside in the latter (`libcontainer/criu_linux.go`), crun has the former in the bundle (`src/libcrun/criu.c`). Their `delete` would
/// remove what is mounted: the container's files, and those of its volumes.
pub(crate) fn let_go_of_root(state: &Path, bundle: Option<&Path>) {
    for place in [Some(state), bundle].into_iter().flatten() {
        let root = place.join("criu-root");
        while rustix::mount::unmount(&root, UnmountFlags::DETACH).is_ok() {}
        let _ = std::fs::remove_dir(&root);
    }
    for point in bundle.map(volumes).unwrap_or_default() {
        if let Err(error) = rustix::mount::unmount(&point, UnmountFlags::DETACH) {
            tracing::warn!(%error, point = %point.display(), "what a restore has mounted stays");
        }
    }
}

/// What is mounted in the root of a bundle that its configuration has from outside, the innermost first. While a container runs this is seen in
/// its mount namespace alone.
fn volumes(bundle: &Path) -> Vec<PathBuf> {
    let root = root_of_bundle(bundle).ok().and_then(|root| root.canonicalize().ok());
    let config = std::fs::read(bundle.join("config.json")).ok();
    let grant = config.and_then(|config| Grant::parse(&config).ok());
    let (Some(root), Some(grant), Ok(mounts)) = (root, grant, Mounts::of_process(None)) else {
        return Vec::new();
    };
    let identity = |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let binds = grant.mounts.iter().filter(|mount| mount.is_bind());
    let sources = binds.filter_map(|mount| mount.source.as_deref());
    let sources: Vec<_> =
        sources.filter_map(|source| identity(&bundle.join(source).canonicalize().ok()?)).collect();
    let below =
        mounts.all().iter().rev().filter(|mount| mount.point != root && mount.point.starts_with(&root));
    below
        .filter(|mount| identity(&mount.point).is_some_and(|found| sources.contains(&found)))
        .map(|mount| mount.point.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_runtime_has_mounted_goes_and_keeps_its_files() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["state/criu-root", "bundle/rootfs/data", "bundle/rootfs/own", "volume", "other"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["volume/count", "other/kept", "bundle/rootfs/busybox"] {
            std::fs::write(at(file), "x").unwrap();
        }
        let config = serde_json::json!({
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/data", "type": "bind", "source": at("volume")}],
        });
        std::fs::write(at("bundle/config.json"), config.to_string()).unwrap();
        let mounts = [
            ("bundle/rootfs", "state/criu-root"),
            ("volume", "state/criu-root/data"),
            ("volume", "bundle/rootfs/data"),
            ("other", "bundle/rootfs/own"),
        ];
        for (source, point) in mounts {
            if rustix::mount::mount_bind(at(source), at(point)).is_err() {
                eprintln!("SKIPPED: this takes CAP_SYS_ADMIN");
                return;
            }
        }
        let_go_of_root(&at("state"), Some(&at("bundle")));
        assert!(!at("state/criu-root").exists());
        assert!(!at("bundle/rootfs/data/count").exists() && at("volume/count").exists());
        assert!(at("bundle/rootfs/busybox").exists());
        assert!(at("bundle/rootfs/own/kept").exists(), "it is somebody else's");
        rustix::mount::unmount(at("bundle/rootfs/own"), UnmountFlags::DETACH).unwrap();
        let_go_of_root(&at("none"), Some(&at("none")));
    }
}

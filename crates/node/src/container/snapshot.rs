//! What a container changed in its image where its root is no overlay: by comparison with the image.
//!
//! Storage drivers without overlays give each container a copy, which is a directory beside that of its image. Podman and CRI-O, `vfs`:
//! `vfs/dir/ID`, whose layer's parent is in `vfs-layers/layers.json` (containers/storage, `layers.go` and `drivers/vfs/driver.go`).
//! containerd, `native` and `btrfs`: it is asked ([`containerd`]).

mod containerd;

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ContainerError;
use super::cri::Cri;
use super::state::{Container, Engine};

/// A layer, as the storage keeps it.
#[derive(Debug, Deserialize)]
struct Layer {
    id: String,
    #[serde(default)]
    parent: Option<String>,
}

/// A container's root and the image it was copied from.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) root: PathBuf,
    pub(super) image: PathBuf,
    /// What keeps the image there.
    _view: Option<containerd::View>,
}

impl Snapshot {
    /// That of a container; none where it is of a driver that is not known.
    ///
    /// # Errors
    /// The storage cannot be read.
    pub(super) fn of(container: &Container) -> Result<Option<Snapshot>, ContainerError> {
        let Engine::Containerd { namespace } = &container.engine else {
            return Snapshot::copied(&container.rootfs);
        };
        let cri = Cri::find(None, Some(&container.engine));
        let found = cri.and_then(|cri| containerd::snapshot(&cri, namespace, &container.id));
        // Then it is as with a driver that is not known.
        Ok(found.unwrap_or_else(|error| {
            tracing::warn!(%error, "containerd does not tell what the container's root was made from");
            None
        }))
    }

    /// That of a root that is a directory of Podman's or CRI-O's storage.
    fn copied(rootfs: &Path) -> Result<Option<Snapshot>, ContainerError> {
        let root = rootfs.canonicalize().map_err(ContainerError::place(rootfs))?;
        let mut above = root.ancestors().skip(1);
        let (Some(directory), Some(driver), Some(storage)) = (above.next(), above.next(), above.next())
        else {
            return Ok(None);
        };
        if !directory.ends_with("vfs/dir") || !driver.ends_with("vfs") {
            return Ok(None);
        }
        for file in ["layers.json", "volatile-layers.json"] {
            let path = storage.join("vfs-layers").join(file);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ContainerError::place(&path)(error)),
            };
            let layers: Vec<Layer> =
                serde_json::from_slice(&bytes).map_err(|error| ContainerError::place(&path)(error.into()))?;
            let own = layers.into_iter().find(|layer| root.ends_with(&layer.id));
            // A name that leads elsewhere is none of a layer.
            let parent = own.and_then(|layer| layer.parent).filter(|parent| !parent.contains(['/', '.']));
            if let Some(parent) = parent {
                let image = directory.join(parent);
                return Ok(image.is_dir().then_some(Snapshot { root, image, _view: None }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_parent_of_the_containers_layer() {
        let place = tempfile::tempdir().unwrap();
        let storage = place.path().canonicalize().unwrap();
        let make = |path: &str| {
            std::fs::create_dir_all(storage.join(path)).unwrap();
            storage.join(path)
        };
        let (root, image) = (make("vfs/dir/c1"), make("vfs/dir/i1"));
        let (alone, odd) = (make("vfs/dir/alone"), make("vfs/dir/odd"));
        make("vfs-layers");
        let copied = |root: &Path| {
            let found = Snapshot::copied(root)?;
            Ok::<_, ContainerError>(found.map(|found| (found.root, found.image)))
        };
        assert_eq!(copied(&root).unwrap(), None, "there is no list");
        let layers = r#"[{"id": "i1"}, {"id": "c1", "parent": "i1"}, {"id": "odd", "parent": "../dir/i1"}]"#;
        std::fs::write(storage.join("vfs-layers/layers.json"), layers).unwrap();
        assert_eq!(copied(&root).unwrap(), Some((root.clone(), image)));
        for other in [alone, odd, make("rootfs")] {
            assert_eq!(copied(&other).unwrap(), None);
        }
        std::fs::write(storage.join("vfs-layers/layers.json"), "{").unwrap();
        assert!(matches!(copied(&root), Err(ContainerError::Place { .. })));
    }
}

//! What a container changed in its image, whatever its engine's storage makes of it.
//!
//! An overlay has it in a directory of its own. Other storage gives each container a copy, which is compared with the image. Podman's
//! and CRI-O's copies are directories beside those of images: `vfs/dir/ID` and `btrfs/subvolumes/ID`, with the parent of the layer in
//! `vfs-layers/layers.json` (containers/storage, `layers.go` and `drivers`). Docker has the same directories, and beside each that of
//! the image with what it adds itself, `ID-init` (moby, `daemon/graphdriver`). containerd is asked ([`containerd`]).

mod containerd;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::containerd::ViewError;

use super::ContainerError;
use super::cri::Cri;
use super::state::{Container, Engine};
use crate::files::upper::Layer;

/// Drivers that make copies, and where.
const COPIES: [(&str, &str); 2] = [("vfs", "vfs/dir"), ("btrfs", "btrfs/subvolumes")];
/// What to do where there is no comparing.
pub(super) const NOT_COMPARED: &str = "take it into a directory with --images, and keep the container's root where it is; or have the engine make it, with --route cri";

/// A layer, as the storage keeps it.
#[derive(Debug, Deserialize)]
struct StoredLayer {
    id: String,
    #[serde(default)]
    parent: Option<String>,
}

/// The image that a container's root was made from.
#[derive(Debug)]
struct Image {
    path: PathBuf,
    /// What keeps it there.
    _view: Option<containerd::View>,
}

/// How a container's changes can be told from its image.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    /// They are in the upper directory of an overlay.
    Overlay {
        upper: PathBuf,
        /// Whether the overlay's attributes are those of users.
        for_users: bool,
    },
    /// There can be none.
    ReadOnly,
    /// By comparison.
    Other {
        /// The file system.
        kind: String,
    },
}

/// What a container changed.
#[derive(Debug)]
pub(super) struct Changes {
    /// None where there is no image.
    layer: Option<Layer>,
    /// Kept for as long as the layer is read.
    _image: Option<Image>,
}

/// Where a container's changes would be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The upper directory of its overlay.
    Upper,
    /// A comparison of its root with its image.
    Image,
    /// Nowhere: its root cannot be written to.
    ReadOnly,
    /// Nowhere: its root was made from no image, and stays where it is.
    Own,
}

impl Ground {
    /// Looks for it without making anything, as a checkpoint into a store will.
    ///
    /// # Errors
    /// The checkpoint would be refused for the same.
    pub fn of(container: &Container) -> Result<Ground, ContainerError> {
        let kind = match Root::of_container(container)? {
            Root::Overlay { .. } => return Ok(Ground::Upper),
            Root::ReadOnly => return Ok(Ground::ReadOnly),
            Root::Other { kind } => kind,
        };
        let is_there = match &container.engine {
            Engine::Containerd { namespace } => {
                let cri = Cri::find(None, Some(&container.engine))?;
                containerd::has_image(&cri, namespace, &container.id)?
            }
            _ => copied(container)?.is_some(),
        };
        if is_there {
            return root(container).map(|_| Ground::Image);
        }
        without_image(container, kind).map(|()| Ground::Own)
    }
}

impl Changes {
    /// Those of a container.
    ///
    /// # Errors
    /// It has an image, but nothing that its root can be compared with.
    pub(super) fn of(container: &Container) -> Result<Changes, ContainerError> {
        let kind = match Root::of_container(container)? {
            Root::Overlay { upper, for_users: true } => {
                return Ok(Changes::in_layer(Layer::new(upper).marked_for_users()));
            }
            Root::Overlay { upper, .. } => return Ok(Changes::in_layer(Layer::new(upper))),
            Root::ReadOnly => return Ok(Changes { layer: None, _image: None }),
            Root::Other { kind } => kind,
        };
        let image = match &container.engine {
            Engine::Containerd { namespace } => {
                let cri = Cri::find(None, Some(&container.engine))?;
                containerd::image(&cri, namespace, &container.id)?
            }
            _ => copied(container)?,
        };
        let Some(image) = image else {
            without_image(container, kind)?;
            tracing::warn!("the container's root was made from no image: its files stay where they are");
            return Ok(Changes { layer: None, _image: None });
        };
        let layer = Layer::new(root(container)?).against(&image.path);
        Ok(Changes { layer: Some(layer), _image: Some(image) })
    }

    fn in_layer(layer: Layer) -> Changes {
        Changes { layer: Some(layer), _image: None }
    }

    /// The layer, which can be read as long as this is kept.
    pub(super) fn layer(&mut self) -> Option<Layer> {
        self.layer.take()
    }
}

impl Root {
    fn of_container(container: &Container) -> Result<Root, ContainerError> {
        let path = PathBuf::from(format!("/proc/{}/mountinfo", container.init));
        let mountinfo = std::fs::read_to_string(&path).map_err(ContainerError::place(&path))?;
        Root::of(&mountinfo).map_err(|upper| ContainerError::Upper { upper })
    }

    /// From `/proc/PID/mountinfo`, whose writer escapes blanks as octal numbers; the overlay escapes commas and colons with a
    /// backslash. An error is a path that cannot be used.
    fn of(mountinfo: &str) -> Result<Root, String> {
        let root = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
        let mut words = root.and_then(|root| root.split_once(" - ")).map_or("", |(_, rest)| rest).split(' ');
        let kind = words.next().unwrap_or_default();
        if kind != "overlay" {
            return Ok(Root::Other { kind: kind.to_owned() });
        }
        let options = words.nth(1).unwrap_or_default();
        let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        let for_users = options.split(',').any(|option| option == "userxattr");
        match upper {
            None => Ok(Root::ReadOnly),
            // A path that needed escapes is not worth the risk of another than was meant.
            Some(upper) if !upper.starts_with('/') || upper.contains('\\') => Err(upper.to_owned()),
            Some(upper) => Ok(Root::Overlay { upper: upper.into(), for_users }),
        }
    }
}

/// The image of a copy.
fn copied(container: &Container) -> Result<Option<Image>, ContainerError> {
    match container.engine {
        Engine::Docker => beside(&container.rootfs),
        _ => parent(&container.rootfs),
    }
}

/// A root on `kind` that no image is there for may have been made from none.
fn without_image(container: &Container, kind: String) -> Result<(), ContainerError> {
    match container.engine != Engine::None && container.image().is_some() {
        true => Err(ContainerError::NotCompared { kind }),
        false => Ok(()),
    }
}

/// A container's root as the engine mounted it: nothing is mounted in there.
fn root(container: &Container) -> Result<PathBuf, ContainerError> {
    let path = &container.rootfs;
    let inside = PathBuf::from(format!("/proc/{}/root", container.init));
    let inode = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(ContainerError::place(path))?;
        Ok::<_, ContainerError>((metadata.dev(), metadata.ino()))
    };
    match inode(path)? == inode(&inside)? {
        true => path.canonicalize().map_err(ContainerError::place(path)),
        false => Err(ContainerError::RootElsewhere { path: path.clone() }),
    }
}

/// The directory of a root that is a copy, its name there, and the driver's; none where it is no copy.
fn copy(rootfs: &Path) -> Result<Option<(PathBuf, &'static str)>, ContainerError> {
    let root = rootfs.canonicalize().map_err(ContainerError::place(rootfs))?;
    let of = |directory: &Path| COPIES.iter().find(|(_, place)| directory.ends_with(place));
    let driver = root.parent().and_then(of).map(|(driver, _)| *driver);
    Ok(driver.map(|driver| (root, driver)))
}

/// The image of a copy of Docker's.
fn beside(rootfs: &Path) -> Result<Option<Image>, ContainerError> {
    let Some((root, _)) = copy(rootfs)? else { return Ok(None) };
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push("-init");
    Ok(there(root.with_file_name(name)))
}

/// The image of a copy of Podman's or CRI-O's.
fn parent(rootfs: &Path) -> Result<Option<Image>, ContainerError> {
    let Some((root, driver)) = copy(rootfs)? else { return Ok(None) };
    let Some(storage) = root.ancestors().nth(3) else { return Ok(None) };
    for file in ["layers.json", "volatile-layers.json"] {
        let path = storage.join(format!("{driver}-layers")).join(file);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ContainerError::place(&path)(error)),
        };
        let layers: Vec<StoredLayer> =
            serde_json::from_slice(&bytes).map_err(|error| ContainerError::place(&path)(error.into()))?;
        let own = layers.into_iter().find(|layer| root.ends_with(&layer.id));
        // A name that leads elsewhere is none of a layer.
        let parent = own.and_then(|layer| layer.parent).filter(|parent| !parent.contains(['/', '.']));
        if let Some(parent) = parent {
            return Ok(there(root.with_file_name(parent)));
        }
    }
    Ok(None)
}

fn there(path: PathBuf) -> Option<Image> {
    path.is_dir().then_some(Image { path, _view: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_directory_is_an_option_of_the_overlay_at_the_root() {
        let line = |point: &str, options: &str| {
            format!("5 1 0:60 / {point} rw,relatime master:3 - overlay overlay {options}\n")
        };
        let overlay = |upper: &str, for_users| Ok(Root::Overlay { upper: upper.into(), for_users });
        let other = |kind: &str| Ok(Root::Other { kind: kind.to_owned() });
        for (mountinfo, root) in [
            (
                line("/", "rw,lowerdir=/a:/b,upperdir=/s/1/diff,workdir=/s/1/work"),
                overlay("/s/1/diff", false),
            ),
            (line("/", "rw,lowerdir=/a,upperdir=/u,workdir=/w,userxattr"), overlay("/u", true)),
            (line("/", "ro,lowerdir=/a:/b"), Ok(Root::ReadOnly)),
            (line("/", "rw,upperdir=relative,workdir=w"), Err("relative".to_owned())),
            (line("/", r"rw,upperdir=/with\054comma,workdir=w"), Err(r"/with\054comma".to_owned())),
            (line("/data", "rw,upperdir=/other,workdir=w"), other("")),
            ("5 1 8:1 /b/rootfs / rw - ext4 /dev/vda rw\n".to_owned(), other("ext4")),
            (String::new(), other("")),
        ] {
            assert_eq!(Root::of(&mountinfo), root, "{mountinfo}");
        }
    }

    #[test]
    fn the_image_is_the_parent_of_the_containers_layer() {
        let place = tempfile::tempdir().unwrap();
        let storage = place.path().canonicalize().unwrap();
        let make = |path: &str| {
            std::fs::create_dir_all(storage.join(path)).unwrap();
            storage.join(path)
        };
        let parent = |root: &Path| Ok::<_, ContainerError>(parent(root)?.map(|image| image.path));
        for (driver, directory) in COPIES {
            let make = |name: &str| make(&format!("{directory}/{name}"));
            let (root, image) = (make("c1"), make("i1"));
            let (alone, odd) = (make("alone"), make("odd"));
            let layers = storage.join(format!("{driver}-layers"));
            std::fs::create_dir(&layers).unwrap();
            assert_eq!(parent(&root).unwrap(), None, "there is no list");
            let list =
                r#"[{"id": "i1"}, {"id": "c1", "parent": "i1"}, {"id": "odd", "parent": "../dir/i1"}]"#;
            std::fs::write(layers.join("layers.json"), list).unwrap();
            assert_eq!(parent(&root).unwrap(), Some(image));
            for other in [alone, odd] {
                assert_eq!(parent(&other).unwrap(), None);
            }
            std::fs::write(layers.join("layers.json"), "{").unwrap();
            assert!(matches!(parent(&root), Err(ContainerError::Place { .. })));
        }
        assert_eq!(parent(&make("rootfs")).unwrap(), None);
    }

    #[test]
    fn docker_keeps_the_image_beside_the_copy() {
        let storage = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            std::fs::create_dir_all(storage.path().join(path)).unwrap();
            storage.path().join(path).canonicalize().unwrap()
        };
        let root = make("vfs/dir/c1");
        assert!(beside(&root).unwrap().is_none());
        let image = make("vfs/dir/c1-init");
        assert_eq!(beside(&root).unwrap().map(|image| image.path), Some(image));
        assert!(beside(&make("overlay2/c1")).unwrap().is_none());
    }
}

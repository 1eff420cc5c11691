//! A bundle in which a container can be looked at: what it does reaches nothing outside, and stays nowhere.
//!
//! It is made from the container's own. Its root and volumes are overlays whose changes are in memory and go with it, or volumes are
//! empty; its network is a new one with nothing in it; no hook is run. The container itself is restored stopped.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use super::ContainerError;
use super::restore::root_of_bundle;
use crate::mounts::overlay;
use crate::staging::{self, Staging};
use crate::sys::{network, process};

/// What directories of sandboxes are called.
const PREFIX: &str = "sandbox-";
/// What directories are called in which its images are laid out.
const LOOK: &str = "look-";
/// Where changes are kept: in memory.
const CHANGES: &str = "changes";
/// What is mounted where the container finds it.
const SEEN: &str = "seen";
/// Major number of memory devices, such as `/dev/null` (Linux, Documentation/admin-guide/devices.txt).
const MEMORY: u32 = 1;

/// What becomes of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    /// They are seen as they are; what is written goes nowhere.
    Unchanged,
    /// They are empty.
    Empty,
}

/// A bundle for one look. Its mounts stay for as long as a container has them; the directory goes when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    staging: Staging,
}

impl Sandbox {
    /// Makes one from a bundle, and moves this thread, which has to be the first one of the process, into the sandbox's network.
    ///
    /// # Errors
    /// The bundle cannot be read, or something cannot be mounted.
    pub fn new(bundle: &Path, id: &str, volumes: Volumes, parent: &Path) -> Result<Sandbox, ContainerError> {
        let failed = ContainerError::place(parent);
        staging::clean_up_after(parent, PREFIX, &|place| {
            let_go(place);
            true
        });
        let root = root_of_bundle(bundle)?;
        let path = bundle.join("config.json");
        let bytes = fs::read(&path).map_err(ContainerError::place(&path))?;
        let broken = |source| ContainerError::Config { path: path.clone(), source };
        let config: Value = serde_json::from_slice(&bytes).map_err(broken)?;
        process::own_network().map_err(ContainerError::helper("make a network for the sandbox"))?;
        network::make_usable().map_err(ContainerError::helper("set up the network of the sandbox"))?;

        let staging = Staging::create(parent, &format!("{PREFIX}{id}")).map_err(&failed)?;
        let sandbox = Sandbox { staging };
        let changes = sandbox.path(CHANGES);
        fs::create_dir(&changes).map_err(&failed)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("tmpfs", &changes, "tmpfs", flags, c"mode=0700")
            .map_err(|errno| ContainerError::place(&changes)(errno.into()))?;
        fs::create_dir(sandbox.path(SEEN)).map_err(&failed)?;
        let seen_root = sandbox.overlay(&root, "root")?;
        let mut number = 0;
        let config =
            changed(config, &seen_root, &format!("/proc/{}/ns/net", std::process::id()), |source| {
                number += 1;
                sandbox.volume(&bundle.join(source), &number.to_string(), volumes)
            })?;
        let document = serde_json::to_vec(&config).map_err(broken)?;
        let path = sandbox.path("config.json");
        fs::write(&path, document).map_err(ContainerError::place(&path))?;
        Ok(sandbox)
    }

    /// A place below `parent` for images to be laid out in. What killed processes have left there is removed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn room(parent: &Path, id: &str) -> Result<Staging, ContainerError> {
        staging::clean_up(parent, LOOK);
        Staging::create(parent, &format!("{LOOK}{id}")).map_err(ContainerError::place(parent))
    }

    /// The bundle.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        self.staging.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.staging.path().join(name)
    }

    /// A directory as it is, with changes that go nowhere.
    fn overlay(&self, lower: &Path, name: &str) -> Result<PathBuf, ContainerError> {
        let seen = self.path(SEEN).join(name);
        let changes = self.path(CHANGES).join(name);
        let lower = lower.canonicalize().map_err(ContainerError::place(lower))?;
        let (upper, work) = (changes.join("upper"), changes.join("work"));
        overlay(&lower, &upper, &work, &seen, MountFlags::empty()).map_err(ContainerError::place(&seen))?;
        Ok(seen)
    }

    /// What the container finds where a mount from outside was.
    fn volume(&self, source: &Path, name: &str, volumes: Volumes) -> Result<PathBuf, ContainerError> {
        let metadata = fs::metadata(source).map_err(ContainerError::place(source))?;
        let kind = metadata.file_type();
        let seen = self.path(CHANGES).join(format!("{name}.seen"));
        let failed = ContainerError::place(&seen);
        if kind.is_char_device() && rustix::fs::major(metadata.rdev()) == MEMORY {
            return Ok(source.to_owned());
        }
        match (kind.is_dir(), kind.is_file(), volumes) {
            (true, _, Volumes::Unchanged) => return self.overlay(source, name),
            (true, _, Volumes::Empty) => fs::create_dir(&seen).map_err(&failed)?,
            // A file is small: names, addresses, a token.
            (_, true, _) => fs::copy(source, &seen).map(drop).map_err(&failed)?,
            // A socket or a device is a way out.
            _ => fs::write(&seen, "").map_err(&failed)?,
        }
        Ok(seen)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let_go(self.staging.path());
    }
}

/// Takes the mounts away; a container that has them keeps them.
fn let_go(sandbox: &Path) {
    let names = fs::read_dir(sandbox.join(SEEN)).into_iter().flatten().flatten();
    let seen = names.map(|entry| entry.path());
    for path in seen.chain([sandbox.join(CHANGES)]) {
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
    }
}

/// A bundle's configuration for the sandbox. `network` is where a network that was joined is now; `volume` tells what is in the place
/// of a mount from outside.
fn changed(
    mut config: Value,
    root: &Path,
    network: &str,
    mut volume: impl FnMut(&Path) -> Result<PathBuf, ContainerError>,
) -> Result<Value, ContainerError> {
    let text = |path: &Path| Value::from(path.to_string_lossy());
    config["root"]["path"] = text(root);
    if let Some(config) = config.as_object_mut() {
        config.remove("hooks");
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        let options = mount["options"].as_array().into_iter().flatten();
        let is_bind = mount["type"] == "bind"
            || options.into_iter().any(|option| option == "bind" || option == "rbind");
        if let (true, Some(source)) = (is_bind, mount["source"].as_str()) {
            mount["source"] = text(&volume(Path::new(source))?);
        }
    }
    if config["linux"].is_object() {
        for namespace in config["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
            let joined = namespace["path"].as_str().is_some_and(|path| !path.is_empty());
            if namespace["type"] == "network" && joined {
                namespace["path"] = network.into();
            }
        }
        // The container that it was may still be there.
        if let Some(group) = config["linux"]["cgroupsPath"].as_str().map(|group| format!("{group}-sandbox")) {
            config["linux"]["cgroupsPath"] = group.into();
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_configuration_leads_out() {
        let config = serde_json::json!({
            "root": {"path": "rootfs"},
            "hooks": {"prestart": [{"path": "/bin/setup"}]},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": "/srv/data"},
                {"destination": "/other", "type": "none", "source": "other", "options": ["rbind", "rw"]},
            ],
            "linux": {
                "cgroupsPath": "/one",
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/pod"}],
            },
        });
        let mut asked = Vec::new();
        let volume = |source: &Path| {
            asked.push(source.to_owned());
            Ok(PathBuf::from("/sandbox").join(asked.len().to_string()))
        };
        let config = changed(config, Path::new("/sandbox/root"), "/proc/7/ns/net", volume).unwrap();
        assert_eq!(asked, [PathBuf::from("/srv/data"), PathBuf::from("other")]);
        assert_eq!(config["root"]["path"], "/sandbox/root");
        assert!(config.get("hooks").is_none());
        let sources: Vec<_> =
            config["mounts"].as_array().unwrap().iter().map(|mount| &mount["source"]).collect();
        assert_eq!(sources, ["proc", "/sandbox/1", "/sandbox/2"]);
        assert_eq!(config["linux"]["namespaces"][1]["path"], "/proc/7/ns/net");
        assert!(config["linux"]["namespaces"][0].get("path").is_none());
        assert_eq!(config["linux"]["cgroupsPath"], "/one-sandbox");
    }
}

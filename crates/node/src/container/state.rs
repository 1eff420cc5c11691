//! What runc and crun write down about a container.
//!
//! runc: `ROOT/ID/state.json` (runc, `libcontainer/container.go` and `libcontainer/configs/config.go`). crun:
//! `ROOT/ID/status` and a copy of the bundle's configuration, `ROOT/ID/config.json` (crun, `src/libcrun/status.c`).
//! Fields that are not needed are not looked at, and those that are may be missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::freezer::Freezer;
use crate::pod_annotations::{Fact, PodAnnotations};
use crate::process_tree;

/// Which runtime's layout the state has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// runc, and those that are built from it.
    Runc,
    /// crun.
    Crun,
}

impl Flavor {
    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Flavor::Runc => "runc",
            Flavor::Crun => "crun",
        }
    }

    /// The file whose presence tells that a directory is the state of a container of this flavor.
    #[must_use]
    pub fn state_file(self) -> &'static str {
        match self {
            Flavor::Runc => "state.json",
            Flavor::Crun => "status",
        }
    }
}

/// Who had the runtime start the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum Engine {
    /// Nobody: the runtime was called by hand.
    None,
    /// containerd, with the container in this namespace.
    Containerd {
        /// `k8s.io` for Kubernetes.
        namespace: String,
    },
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// CRI-O.
    CriO,
}

/// A mount that the container's configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMount {
    /// Where, in the container.
    pub destination: PathBuf,
    /// What kind.
    pub kind: MountKind,
}

/// What kinds of mounts there are, as far as a checkpoint treats them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// Something of the host's.
    Bind,
    /// The control groups.
    Cgroup,
    /// A file system of the container's own.
    Own,
}

/// What the configuration says, in whichever form it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Mounts, in order.
    pub mounts: Vec<WantedMount>,
    /// Paths that are covered up.
    pub masked: Vec<PathBuf>,
    /// Devices that the runtime makes.
    pub devices: Vec<PathBuf>,
    /// Namespaces of the container's own or joined: their kind (`network`, `pid`, …), and the path of one that is
    /// joined.
    pub namespaces: BTreeMap<String, Option<PathBuf>>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The command.
    pub command: Vec<String>,
}

/// The image that a container was made from, as its engine's storage has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MadeFrom {
    /// Its name with a tag.
    pub name: Option<String>,
    /// Its ID.
    pub id: Option<String>,
}

/// What the state of a container says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Names by which people know it.
    pub names: Vec<String>,
    /// Its image, as far as a storage knows it.
    pub made_from: MadeFrom,
    /// Whose layout the state has.
    pub flavor: Flavor,
    /// Who had it started.
    pub engine: Engine,
    /// The directory of the runtime's states, without the ID: what the runtime takes as `--root`.
    pub root: PathBuf,
    /// The directory of its configuration.
    pub bundle: PathBuf,
    /// Its root directory, on the host.
    pub rootfs: PathBuf,
    /// Its first process.
    pub init: i32,
    /// When that was started, in clock ticks since boot.
    pub started: u64,
    /// What stops all its processes.
    pub freezer: Option<Freezer>,
    /// What was at descriptors 0, 1 and 2 when it was started.
    pub descriptors: Vec<String>,
    /// Its configuration.
    pub description: Description,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for its start.
    Created,
    /// It runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// A container of a pod, by the names Kubernetes has for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlace {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container's name in the pod.
    pub container: String,
}

impl Container {
    /// Reads runc's state. `root` is the directory above it.
    ///
    /// # Errors
    /// Where it is no such document.
    pub fn from_runc(state: &[u8], root: &Path) -> Result<Container, serde_json::Error> {
        let state: RuncState = serde_json::from_slice(state)?;
        let annotations: BTreeMap<String, String> = state
            .config
            .labels
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let kind = |mount: &RuncMount| match mount.device.as_str() {
            "bind" => MountKind::Bind,
            "cgroup" => MountKind::Cgroup,
            _ => MountKind::Own,
        };
        Ok(Container {
            names: Vec::new(),
            made_from: MadeFrom::default(),
            flavor: Flavor::Runc,
            engine: Engine::None,
            root: root.to_owned(),
            bundle: annotations.get("bundle").map(PathBuf::from).unwrap_or_default(),
            rootfs: state.config.rootfs,
            init: state.init_process_pid,
            started: state.init_process_start,
            freezer: Freezer::of_paths(&state.cgroup_paths),
            descriptors: state.external_descriptors,
            description: Description {
                mounts: state
                    .config
                    .mounts
                    .iter()
                    .map(|mount| WantedMount { destination: mount.destination.clone(), kind: kind(mount) })
                    .collect(),
                masked: state.config.mask_paths.unwrap_or_default(),
                devices: state.config.devices.into_iter().flatten().map(|device| device.path).collect(),
                namespaces: state
                    .config
                    .namespaces
                    .into_iter()
                    .map(|namespace| (runc_namespace(&namespace.kind).to_owned(), namespace.path()))
                    .collect(),
                annotations,
                command: Vec::new(),
            },
            id: state.id,
        })
    }

    /// Reads crun's status and the configuration it keeps beside it. `freezer` is where the control group it names is.
    ///
    /// # Errors
    /// Where one of them is no such document.
    pub fn from_crun(
        status: &[u8],
        config: &[u8],
        (root, id): (&Path, &str),
        freezer: impl FnOnce(&Path) -> Option<Freezer>,
    ) -> Result<Container, serde_json::Error> {
        let status: CrunStatus = serde_json::from_slice(status)?;
        let descriptors = match status.external_descriptors.as_deref() {
            None | Some("") => Vec::new(),
            Some(text) => serde_json::from_str(text)?,
        };
        Ok(Container {
            id: id.to_owned(),
            names: Vec::new(),
            made_from: MadeFrom::default(),
            flavor: Flavor::Crun,
            engine: Engine::None,
            root: root.to_owned(),
            rootfs: status.bundle.join(&status.rootfs),
            bundle: status.bundle,
            init: status.pid,
            started: status.process_start_time,
            freezer: status.cgroup_path.filter(|path| path.is_absolute()).and_then(|path| freezer(&path)),
            descriptors,
            description: Description::from_oci(config)?,
        })
    }

    /// What it is doing. Also false states are told: a PID that was given to another process since does not count.
    #[must_use]
    pub fn status(&self) -> Status {
        let started = process_tree::started(self.init);
        if self.init <= 0 || started.is_none_or(|started| self.started != 0 && started != self.started) {
            return Status::Stopped;
        }
        if process_tree::state(self.init).is_none_or(|state| state == 'Z') {
            return Status::Stopped;
        }
        if self.root.join(&self.id).join("exec.fifo").exists() {
            return Status::Created;
        }
        match self.freezer.as_ref().is_some_and(Freezer::is_frozen) {
            true => Status::Paused,
            false => Status::Running,
        }
    }

    /// Where it belongs in a pod, by the annotations of containerd and CRI-O. A pod's sandbox belongs nowhere.
    #[must_use]
    pub fn pod(&self) -> Option<PodPlace> {
        // Of which it cannot be told who wrote them belongs nowhere.
        let pod = PodAnnotations::of(&self.description.annotations).ok().flatten()?;
        let say = |fact| pod.get(fact).map(str::to_owned);
        (!pod.is_sandbox()).then_some(())?;
        Some(PodPlace {
            namespace: say(Fact::Namespace)?,
            pod: say(Fact::Pod)?,
            container: say(Fact::Container)?,
        })
    }

    /// The ID of its pod's sandbox, by the annotations of containerd and CRI-O.
    #[must_use]
    pub fn sandbox(&self) -> Option<&str> {
        PodAnnotations::of(&self.description.annotations).ok().flatten()?.get(Fact::Sandbox)
    }

    /// The image it was made from, by the annotations of its engine or by its storage.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]
            .iter()
            .find_map(|key| self.description.annotations.get(*key))
            .or(self.made_from.name.as_ref())
            .map(String::as_str)
    }

    /// Whether its `kind` of namespace (`network`, `pid`) is somebody else's, who stays when it is restored.
    #[must_use]
    pub fn joins(&self, kind: &str) -> bool {
        self.description.namespaces.get(kind).is_some_and(Option::is_some)
    }
}

impl Description {
    /// Reads a bundle's configuration (OCI runtime specification, `config.md`).
    ///
    /// # Errors
    /// Where it is no such document.
    pub fn from_oci(config: &[u8]) -> Result<Description, serde_json::Error> {
        let config: OciConfig = serde_json::from_slice(config)?;
        let linux = config.linux.unwrap_or_default();
        let kind = |mount: &OciMount| {
            if mount.kind == "bind"
                || mount.options.iter().any(|option| option == "bind" || option == "rbind")
            {
                MountKind::Bind
            } else if mount.kind.starts_with("cgroup") {
                MountKind::Cgroup
            } else {
                MountKind::Own
            }
        };
        Ok(Description {
            mounts: config
                .mounts
                .iter()
                .map(|mount| WantedMount { kind: kind(mount), destination: mount.destination.clone() })
                .collect(),
            masked: linux.masked_paths,
            devices: linux.devices.into_iter().map(|device| device.path).collect(),
            namespaces: linux
                .namespaces
                .into_iter()
                .map(|namespace| (namespace.kind.clone(), namespace.path()))
                .collect(),
            annotations: config.annotations,
            command: config.process.unwrap_or_default().args,
        })
    }
}

impl Description {
    /// The root directory that a bundle's configuration names; relative to the bundle, unless it is absolute.
    ///
    /// # Errors
    /// Where it is no such document.
    pub fn root_of(config: &[u8]) -> Result<PathBuf, serde_json::Error> {
        #[derive(Deserialize)]
        struct Config {
            root: Root,
        }
        #[derive(Deserialize)]
        struct Root {
            path: PathBuf,
        }
        Ok(serde_json::from_slice::<Config>(config)?.root.path)
    }
}

fn runc_namespace(kind: &str) -> &str {
    match kind {
        "NEWNET" => "network",
        "NEWPID" => "pid",
        "NEWIPC" => "ipc",
        "NEWUTS" => "uts",
        "NEWNS" => "mount",
        "NEWUSER" => "user",
        "NEWCGROUP" => "cgroup",
        "NEWTIME" => "time",
        other => other,
    }
}

#[derive(Deserialize)]
struct RuncState {
    id: String,
    init_process_pid: i32,
    #[serde(default)]
    init_process_start: u64,
    config: RuncConfig,
    #[serde(default)]
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    external_descriptors: Vec<String>,
}

#[derive(Deserialize)]
struct RuncConfig {
    rootfs: PathBuf,
    #[serde(default)]
    mounts: Vec<RuncMount>,
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    mask_paths: Option<Vec<PathBuf>>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize)]
struct RuncMount {
    destination: PathBuf,
    #[serde(default)]
    device: String,
}

#[derive(Deserialize)]
struct Device {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<PathBuf>,
}

impl Namespace {
    /// runc writes an empty path for none.
    fn path(self) -> Option<PathBuf> {
        self.path.filter(|path| !path.as_os_str().is_empty())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CrunStatus {
    pid: i32,
    #[serde(default)]
    process_start_time: u64,
    #[serde(default)]
    cgroup_path: Option<PathBuf>,
    rootfs: PathBuf,
    bundle: PathBuf,
    #[serde(default, rename = "external_descriptors")]
    external_descriptors: Option<String>,
}

#[derive(Deserialize)]
struct OciConfig {
    #[serde(default)]
    process: Option<OciProcess>,
    #[serde(default)]
    mounts: Vec<OciMount>,
    #[serde(default)]
    linux: Option<OciLinux>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct OciProcess {
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
struct OciMount {
    destination: PathBuf,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct OciLinux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    masked_paths: Vec<PathBuf>,
    #[serde(default)]
    devices: Vec<Device>,
}

#[cfg(test)]
mod tests;

//! What is left of a container whose restore was cut off: processes, control groups, mounts, and the real runtime's state.
//!
//! A runtime that is killed leaves CRIU, which gives up once it notices; a CRIU that is killed leaves half a container; and neither
//! removes control groups that it made. What was not there before the restore began is ours to take away.

mod mounts;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::fit::GrantedMount;
use super::real::Real;
use crate::container::Flavor;
use crate::container::freezer::Freezer;
use crate::process_tree;
use crate::sys::process;

pub(crate) use mounts::let_go_of_root;

/// Where control groups are mounted.
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// How often, and after what pause, it is tried to remove what is busy.
const PATIENCE: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);
/// How deep below a container's group others may be.
const DEPTH: u32 = 16;

/// The control groups that a container will be in and that are not there yet.
pub(crate) fn groups_to_come(groups: &[PathBuf]) -> Vec<PathBuf> {
    groups.iter().filter(|group| !group.exists()).cloned().collect()
}

/// The control groups that a container will be in, one in each hierarchy. `path` is what its configuration says
/// (opencontainers/runtime-spec, `config-linux.md`); relative ones begin wherever the runtime is, and are left alone.
pub(crate) fn groups(path: Option<&str>, id: &str) -> Vec<PathBuf> {
    let usual = format!("/{id}");
    let Some(group) = group_of(path.filter(|path| !path.is_empty()).unwrap_or(&usual)) else {
        return Vec::new();
    };
    let mount = Path::new(MOUNT);
    let hierarchies = match mount.join("cgroup.controllers").exists() {
        true => vec![mount.to_owned()],
        false => {
            let entries = std::fs::read_dir(mount).into_iter().flatten().flatten();
            // Links are other names of hierarchies that have several controllers.
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            directories.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect()
        }
    };
    hierarchies.into_iter().map(|hierarchy| hierarchy.join(&group)).collect()
}

/// The hierarchies of version 1 in which runc makes groups (runc, `libcontainer/cgroups/fs/fs.go`).
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
    "systemd",
];

/// Those besides in which crun does, as in any that it is in itself.
const FURTHER: [&str; 4] = ["misc", "dmem", "elogind", "openrc"];

/// What is to be mounted in a container where it has control groups of version 1, by the names that images have for it: its own groups. Runtimes
/// would bind those that they are in themselves (runc, `libcontainer/criu_linux.go`; crun, `src/libcrun/criu.c`).
pub(crate) fn bound(flavor: Flavor, mounts: &[GrantedMount], groups: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    let mut bound = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.kind == "cgroup") {
        for group in groups {
            let below = group.strip_prefix(MOUNT).ok().and_then(|below| below.components().next());
            let Some(hierarchy) = below.and_then(|first| first.as_os_str().to_str()) else { continue };
            let is_made = match flavor {
                Flavor::Runc => hierarchy.split(',').all(|controller| CONTROLLERS.contains(&controller)),
                Flavor::Crun => hierarchy
                    .split(',')
                    .all(|controller| CONTROLLERS.iter().chain(&FURTHER).any(|known| controller == *known)),
            };
            if is_made {
                bound.push((mount.destination.join(hierarchy), group.clone()));
            }
        }
    }
    bound
}

/// Whether a container that is restored sees no control groups of version 1, or those that are [`bound`].
pub(crate) fn shows_own(mounts: &[GrantedMount], groups: &[PathBuf]) -> bool {
    !groups.is_empty() || mounts.iter().all(|mount| mount.kind != "cgroup")
}

/// The group's path below the root of a hierarchy. systemd's form is `SLICE:PREFIX:NAME`.
fn group_of(path: &str) -> Option<PathBuf> {
    let mut parts = path.split(':');
    let group = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(path), None, ..) => PathBuf::from(path.strip_prefix('/')?),
        (Some(slice), Some(prefix), Some(name), None) => {
            let unit = match prefix {
                _ if name.ends_with(".slice") => name.to_owned(),
                "" => format!("{name}.scope"),
                prefix => format!("{prefix}-{name}.scope"),
            };
            slices(if slice.is_empty() { "system.slice" } else { slice })?.join(unit)
        }
        _ => return None,
    };
    let plain = group.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && group.components().next().is_some()).then_some(group)
}

/// Where a slice is: `a-b.slice` is in `a.slice` (systemd, `systemd.slice(5)`).
fn slices(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    let mut so_far = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push(format!("{so_far}.slice"));
    }
    Some(path)
}

/// A container whose restore was cut off.
#[derive(Debug)]
pub(super) struct Remains<'a> {
    pub(super) real: &'a Real,
    /// The directory of states, where the command line names one.
    pub(super) root: Option<&'a Path>,
    /// The container's own in it.
    pub(super) state: &'a Path,
    pub(super) bundle: &'a Path,
    pub(super) id: &'a str,
    /// Control groups that were not there before it.
    pub(super) groups: &'a [PathBuf],
}

impl Remains<'_> {
    /// Takes it away, and says whether there was anything. Whatever we started ourselves and still runs is a part of it.
    pub(super) fn take_away(&self) -> bool {
        let mut was_there = end_descendants();
        for _ in 0..PATIENCE {
            was_there |= self.state.exists() || self.groups.iter().any(|group| group.exists());
            let mut killed = end_descendants();
            for group in self.groups {
                killed |= kill_in(group, DEPTH);
            }
            let_go_of_root(self.state, Some(self.bundle));
            if self.state.exists() {
                self.delete();
            }
            let mut busy = false;
            for group in self.groups {
                busy |= !remove(group, DEPTH);
            }
            if !killed && !busy && !self.state.exists() {
                return was_there;
            }
            std::thread::sleep(PAUSE);
        }
        tracing::warn!(id = self.id, "something of a container that could not be restored stays");
        was_there
    }

    fn delete(&self) {
        let mut command = Command::new(&self.real.program);
        if let Some(root) = self.root {
            command.arg("--root").arg(root);
        }
        command.args(["delete", "--force", self.id]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Ends what this process has started and not waited for; as a subreaper it has the children of those that ended, too.
fn end_descendants() -> bool {
    let own = std::process::id() as i32;
    let mut any = false;
    for pid in process_tree::of(own).into_iter().skip(1) {
        any |= process::kill(pid, libc::SIGKILL).is_ok();
    }
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    any
}

/// Kills all that is in a group and below it.
fn kill_in(group: &Path, depth: u32) -> bool {
    let mut any = false;
    if depth > 0 {
        for below in directories(group) {
            any |= kill_in(&below, depth - 1);
        }
    }
    for pid in processes(group) {
        any |= process::kill(pid, libc::SIGKILL).is_ok();
    }
    if any {
        // What is frozen cannot end.
        let _ = Freezer::new(group).thaw();
    }
    any
}

/// Ends all that is in groups and below them, and removes them.
pub(crate) fn end_groups(groups: &[PathBuf]) {
    for _ in 0..PATIENCE {
        let killed = groups.iter().fold(false, |any, group| any | kill_in(group, DEPTH));
        let gone = groups.iter().fold(true, |all, group| all & remove(group, DEPTH));
        if gone && !killed {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(?groups, "control groups of a container that could not be restored stay");
}

/// The processes of a group, but for PID 1 and those that have no PID here.
pub(crate) fn processes(group: &Path) -> Vec<i32> {
    let procs = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect()
}

/// Removes a group and those below it. Says whether it is gone.
fn remove(group: &Path, depth: u32) -> bool {
    if depth > 0 {
        for below in directories(group) {
            remove(&below, depth - 1);
        }
    }
    match std::fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_sees_its_own_groups_of_those_that_its_runtime_makes() {
        let mount = |destination: &str, kind: &str| GrantedMount {
            destination: destination.into(),
            source: None,
            kind: kind.into(),
            options: Vec::new(),
        };
        let mounts = [mount("/proc", "proc"), mount("/sys/fs/cgroup", "cgroup")];
        let groups = ["cpu,cpuacct/pod/one", "systemd/pod/one", "misc/pod/one"];
        let groups = groups.map(|group| Path::new(MOUNT).join(group));
        let of_crun = bound(Flavor::Crun, &mounts, &groups);
        let bound = bound(Flavor::Runc, &mounts, &groups);
        let expected = ["cpu,cpuacct", "systemd"].map(|name| {
            let point = Path::new("/sys/fs/cgroup").join(name);
            (point.clone(), point.join("pod/one"))
        });
        assert_eq!(bound, expected);
        assert_eq!((of_crun.len(), &of_crun[..2]), (3, &expected[..]), "crun makes them in all");
        for flavor in [Flavor::Runc, Flavor::Crun] {
            let unified = [Path::new(MOUNT).join("kubepods/one")];
            assert!(super::bound(flavor, &mounts, &unified).is_empty(), "of version 2");
        }
    }

    #[test]
    fn a_containers_group_is_found_in_either_form() {
        for (path, expected) in [
            ("/kubepods/pod1/abc", Some("kubepods/pod1/abc")),
            (
                "kubepods-besteffort-podu1.slice:cri-containerd:abc",
                Some(
                    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu1.slice/cri-containerd-abc.scope",
                ),
            ),
            (":libpod:abc", Some("system.slice/libpod-abc.scope")),
            ("-.slice::abc", Some("abc.scope")),
            ("relative/abc", None),
            ("/", None),
            ("/a/../b", None),
            ("no-slice:a:b", None),
            ("a:b", None),
        ] {
            assert_eq!(group_of(path), expected.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn a_group_goes_with_those_below_it() {
        let place = tempfile::tempdir().unwrap();
        let group = place.path().join("one");
        std::fs::create_dir_all(group.join("two/three")).unwrap();
        assert!(!kill_in(&group, DEPTH));
        assert!(remove(&group, DEPTH) && remove(&group, DEPTH));
        assert!(!group.exists());
    }
}

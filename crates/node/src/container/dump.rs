//! What CRIU is told to dump a container: a function of the container's state and of how it looks.
//!
//! The result is to be taken by the runtime's own `restore`, so resources that are not the container's carry the names
//! that the runtime looks them up by there: runc, `libcontainer/criu_linux.go`; crun, `src/libcrun/criu.c`.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use torpor_criu::options::{AfterDump, Common, DumpOptions, ExpertOption, Tcp};
use torpor_criu::rpc::{CgroupMode, ExtMountMap, NetworkLock};

use super::state::{Container, Flavor, MountKind};
use super::{ContainerError, cgroup_yard};
use crate::freeze::{GHOST_LIMIT, LOG};
use crate::mounts::{Mount, Mounts};
use crate::process_tree;

/// The file beside the images that tells a runtime what was at descriptors 0, 1 and 2.
pub const DESCRIPTORS: &str = "descriptors.json";
/// What crun binds over a masked directory, in the directory of its states.
const EMPTY_DIRECTORY: &str = ".empty-directory";

/// How a container looks from outside.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Its mounts.
    pub mounts: Mounts,
    /// The inodes of its namespaces by kind, as the configuration names them.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// Where destinations of mounts really are, for those that are not where they are said to be: a symbolic link is in
    /// the way.
    pub resolved: BTreeMap<PathBuf, PathBuf>,
    /// Where all hierarchies of control groups are.
    pub cgroup_yard: Option<PathBuf>,
}

impl Sight {
    /// Looks at a container that runs.
    ///
    /// # Errors
    /// Where `/proc` does not tell.
    pub fn of(container: &Container) -> Result<Sight, ContainerError> {
        let mounts = Mounts::of_process(Some(process_tree::pid(container.init)?))?;
        let namespaces = [("network", "net"), ("pid", "pid")]
            .into_iter()
            .filter_map(|(kind, file)| {
                let path = format!("/proc/{}/ns/{file}", container.init);
                Some((kind, crate::files::Stat::follow(path).ok()?.ino))
            })
            .collect();
        let wanted = container.description.mounts.iter().map(|mount| &mount.destination);
        let resolved = wanted
            .filter(|path| top(&mounts, path).is_none())
            .filter_map(|path| Some((path.clone(), resolve(container.init, path)?)))
            .collect();
        Ok(Sight { mounts, namespaces, resolved, cgroup_yard: cgroup_yard::find() })
    }
}

/// Where a path in a container leads, seen from its own root.
fn resolve(init: i32, path: &Path) -> Option<PathBuf> {
    let root = opened(Path::new(&format!("/proc/{init}/root")))?;
    // The kernel tells the path as the container's own mounts have it.
    told(&rustix::fs::openat2(&root, path, HANDLE, Mode::empty(), ResolveFlags::IN_ROOT).ok()?)
}

/// Where a path leads in a root directory that no container has yet, seen from there.
pub(super) fn resolve_in(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = opened(root)?;
    let found = told(&rustix::fs::openat2(&root, path, HANDLE, Mode::empty(), ResolveFlags::IN_ROOT).ok()?)?;
    Some(Path::new("/").join(found.strip_prefix(told(&root)?).ok()?))
}

const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn opened(root: &Path) -> Option<OwnedFd> {
    rustix::fs::open(root, HANDLE | OFlags::DIRECTORY, Mode::empty()).ok()
}

fn told(opened: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()
}

/// What may be chosen about a dump.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// The container runs on afterwards; else it is ended.
    pub leave_running: bool,
    /// What happens to TCP connections.
    pub tcp: Tcp,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// Locks on files are kept.
    pub file_locks: bool,
    /// Its terminal or session may be somebody else's.
    pub shell_job: bool,
    /// Whether there are connections that are to be kept, for whose sake the network is locked meanwhile.
    pub connected: bool,
    /// How long stopping its processes may take; as long as CRIU thinks fit where unset.
    pub seize_timeout: Option<Duration>,
    /// What CRIU is told besides.
    pub expert_options: Vec<ExpertOption>,
}

impl Wishes {
    /// What is wished for where nothing is said: connections refuse, locks are kept.
    #[must_use]
    pub fn usual(leave_running: bool) -> Wishes {
        Wishes {
            leave_running,
            tcp: Tcp::Fail,
            external_unix: false,
            file_locks: true,
            shell_job: false,
            connected: false,
            seize_timeout: None,
            expert_options: Vec::new(),
        }
    }

    /// What follows from the wishes alone for a dump of the tree below `root` into `images`. The way on which memory
    /// comes is not among it.
    #[must_use]
    pub(crate) fn options(&self, root: i32, images: &Path) -> DumpOptions {
        let mut common = Common::new(images);
        common.log_file = Some(LOG.to_owned());
        common.tcp = self.tcp;
        common.tcp_skip_in_flight = true;
        common.ext_unix_sockets = self.external_unix;
        common.file_locks = self.file_locks;
        common.shell_job = self.shell_job;
        common.link_remap = true;
        common.network_lock = Some(network_lock(self.connected, self.tcp));
        common.unprivileged = crate::capabilities::unprivileged();
        common.config.expert = self.expert_options.clone();
        DumpOptions {
            after: if self.leave_running { AfterDump::Running } else { AfterDump::End },
            ghost_limit: Some(GHOST_LIMIT),
            orphan_pts_master: true,
            seize_timeout: self.seize_timeout,
            ..DumpOptions::new(root, common)
        }
    }
}

/// The options of a dump into `images`, but for the way on which memory comes.
#[must_use]
pub fn options(container: &Container, sight: &Sight, wishes: &Wishes, images: &Path) -> DumpOptions {
    let mut options = wishes.options(container.init, images);
    options.common.root = Some(container.rootfs.clone());
    options.common.cgroups = Some(CgroupMode::Soft);
    options.common.cgroup_yard.clone_from(&sight.cgroup_yard);
    options.common.ext_mounts = external_mounts(container, sight);
    options.common.external = external_namespaces(container, sight);
    // A group of version 1 does not always freeze while its processes fork: CRIU then waits in vain. Without a group CRIU
    // stops them one by one.
    let freezer = container.freezer.as_ref().filter(|freezer| freezer.is_unified());
    options.freeze_cgroup = freezer.map(|freezer| freezer.directory().display().to_string());
    options
}

/// How the network is locked. A lock cuts off the whole network namespace, which in a pod is that of the other containers too.
pub(crate) fn network_lock(connected: bool, tcp: Tcp) -> NetworkLock {
    if connected && tcp == Tcp::Established { NetworkLock::Nftables } else { NetworkLock::Skip }
}

/// The content of [`DESCRIPTORS`].
#[must_use]
pub fn descriptors(container: &Container) -> String {
    serde_json::Value::from(container.descriptors.clone()).to_string()
}

/// Namespaces that somebody else owns, by the name that both runtimes give them.
fn external_namespaces(container: &Container, sight: &Sight) -> Vec<String> {
    [("network", "net", "extRootNetNS"), ("pid", "pid", "extRootPidNS")]
        .into_iter()
        .filter(|(kind, ..)| container.joins(kind))
        .filter_map(|(kind, word, key)| Some(format!("{word}[{}]:{key}", sight.namespaces.get(kind)?)))
        .collect()
}

/// Mounts that are not the container's own, by mount point, and the names that the runtime looks them up by.
pub(crate) fn external_mounts(container: &Container, sight: &Sight) -> Vec<ExtMountMap> {
    let mut external: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for wanted in &container.description.mounts {
        let place = sight.resolved.get(&wanted.destination).unwrap_or(&wanted.destination);
        match wanted.kind {
            MountKind::Bind => {
                external.insert(place.clone(), place.clone());
            }
            // In version 1 the groups are bound one by one. Where the container has a namespace of its own for them, or
            // in version 2, the mount is like any other.
            MountKind::Cgroup if !container.description.namespaces.contains_key("cgroup") => {
                let groups = sight.mounts.all().iter().filter(|mount| mount.file_system == "cgroup");
                for group in groups.filter(|mount| mount.point.starts_with(place)) {
                    external.insert(group.point.clone(), group.point.clone());
                }
            }
            MountKind::Cgroup | MountKind::Own => {}
        }
    }
    for path in &container.description.masked {
        let cover = top(&sight.mounts, path);
        if let Some(name) = cover.and_then(|cover| cover_name(container, path, cover)) {
            external.insert(path.clone(), name);
        }
    }
    if container.flavor == Flavor::Runc {
        for device in &container.description.devices {
            external.insert(device.clone(), device.clone());
        }
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    external.into_iter().map(|(point, name)| ExtMountMap { key: text(point), val: text(name) }).collect()
}

/// What a runtime calls that which covers up a path. None for a file system of the container's own.
fn cover_name(container: &Container, path: &Path, cover: &Mount) -> Option<PathBuf> {
    let named = |name: &str| cover.root.file_name().is_some_and(|last| last == name);
    match container.flavor {
        Flavor::Runc => named("null").then(|| PathBuf::from("/dev/null")),
        Flavor::Crun if named("null") => Some(path.to_owned()),
        Flavor::Crun => named(EMPTY_DIRECTORY).then(|| container.root.join(EMPTY_DIRECTORY)),
    }
}

/// What is mounted at a path, on top.
fn top<'a>(mounts: &'a Mounts, path: &Path) -> Option<&'a Mount> {
    mounts.all().iter().rfind(|mount| mount.point == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::state::{Description, Engine, WantedMount};

    const MOUNTINFO: &str = "\
1 0 0:60 /b/rootfs / rw - tmpfs run rw
2 1 0:81 / /proc rw - proc proc rw
3 1 0:82 / /dev rw - tmpfs tmpfs rw
4 1 0:86 / /sys/fs/cgroup rw - tmpfs tmpfs rw
5 4 0:29 /one /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu
6 4 0:34 /one /sys/fs/cgroup/freezer ro - cgroup cgroup rw,freezer
7 1 0:60 /vol /data rw - tmpfs run rw
8 1 0:60 /hosts /private/hosts rw - tmpfs run rw
9 2 0:87 / /proc/acpi ro - tmpfs tmpfs ro
10 2 0:82 /null /proc/keys rw - tmpfs tmpfs rw
11 2 0:60 /crun/.empty-directory /proc/scsi ro - tmpfs run rw
";

    fn container(flavor: Flavor) -> Container {
        let mount = |destination: &str, kind| WantedMount { destination: destination.into(), kind };
        Container {
            id: "one".into(),
            names: Vec::new(),
            made_from: Default::default(),
            flavor,
            engine: Engine::None,
            root: "/run/states".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            init: 99,
            started: 0,
            freezer: Some(super::super::freezer::Freezer::new("/sys/fs/cgroup/freezer/one")),
            descriptors: vec!["/dev/null".into(), "pipe:[1]".into(), "pipe:[2]".into()],
            description: Description {
                mounts: vec![
                    mount("/proc", MountKind::Own),
                    mount("/sys/fs/cgroup", MountKind::Cgroup),
                    mount("/data", MountKind::Bind),
                    mount("/etc/hosts", MountKind::Bind),
                ],
                masked: ["/proc/acpi", "/proc/keys", "/proc/scsi", "/proc/none"].map(PathBuf::from).to_vec(),
                devices: vec!["/dev/null".into()],
                namespaces: [("pid", None), ("network", Some("/run/netns/pod"))]
                    .map(|(kind, path)| (kind.to_owned(), path.map(PathBuf::from)))
                    .into(),
                ..Description::default()
            },
        }
    }

    fn sight() -> Sight {
        Sight {
            mounts: Mounts::parse(MOUNTINFO.as_bytes()).unwrap(),
            namespaces: BTreeMap::from([("network", 4_026_531_840), ("pid", 7)]),
            resolved: BTreeMap::from([("/etc/hosts".into(), "/private/hosts".into())]),
            cgroup_yard: None,
        }
    }

    fn wishes() -> Wishes {
        Wishes::usual(true)
    }

    fn mounts(container: &Container) -> Vec<String> {
        let external = external_mounts(container, &sight());
        external.into_iter().map(|map| format!("{}={}", map.key, map.val)).collect()
    }

    #[test]
    fn what_is_not_the_containers_has_the_name_that_runc_looks_up() {
        assert_eq!(
            mounts(&container(Flavor::Runc)),
            [
                "/data=/data",
                "/dev/null=/dev/null",
                "/private/hosts=/private/hosts",
                "/proc/keys=/dev/null",
                "/sys/fs/cgroup/cpu=/sys/fs/cgroup/cpu",
                "/sys/fs/cgroup/freezer=/sys/fs/cgroup/freezer"
            ]
        );
    }

    #[test]
    fn crun_has_other_names_for_what_is_covered_up() {
        assert_eq!(
            mounts(&container(Flavor::Crun)),
            [
                "/data=/data",
                "/private/hosts=/private/hosts",
                "/proc/keys=/proc/keys",
                "/proc/scsi=/run/states/.empty-directory",
                "/sys/fs/cgroup/cpu=/sys/fs/cgroup/cpu",
                "/sys/fs/cgroup/freezer=/sys/fs/cgroup/freezer"
            ]
        );
    }

    #[test]
    fn with_a_namespace_for_control_groups_their_mounts_are_the_containers_own() {
        let mut container = container(Flavor::Runc);
        container.description.namespaces.insert("cgroup".into(), None);
        assert!(mounts(&container).iter().all(|mount| !mount.contains("cgroup")));
    }

    #[test]
    fn only_joined_namespaces_are_external() {
        assert_eq!(external_namespaces(&container(Flavor::Runc), &sight()), ["net[4026531840]:extRootNetNS"]);
    }

    #[test]
    fn the_network_is_locked_only_for_connections_that_are_kept() {
        for (tcp, connected, lock) in [
            (Tcp::Established, true, NetworkLock::Nftables),
            (Tcp::Established, false, NetworkLock::Skip),
            (Tcp::Close, true, NetworkLock::Skip),
            (Tcp::Fail, false, NetworkLock::Skip),
        ] {
            let wishes = Wishes { tcp, connected, ..wishes() };
            let options = options(&container(Flavor::Runc), &sight(), &wishes, Path::new("/i"));
            assert_eq!(options.common.network_lock, Some(lock));
        }
    }

    #[test]
    fn the_freezer_and_the_root_are_the_containers() {
        let options = options(&container(Flavor::Runc), &sight(), &wishes(), Path::new("/i"));
        assert_eq!((options.pid, options.after), (99, AfterDump::Running));
        assert_eq!(options.freeze_cgroup, None, "of version 1");
        let mut unified = container(Flavor::Runc);
        unified.freezer = Some(super::super::freezer::Freezer::new("/sys/fs/cgroup/one"));
        let group = super::options(&unified, &sight(), &wishes(), Path::new("/i")).freeze_cgroup;
        assert_eq!(group.as_deref(), Some("/sys/fs/cgroup/one"), "of version 2");
        assert_eq!(options.common.root.as_deref(), Some(Path::new("/b/rootfs")));
        let ends = Wishes { leave_running: false, ..wishes() };
        assert_eq!(
            super::options(&container(Flavor::Runc), &sight(), &ends, Path::new("/i")).after,
            AfterDump::End
        );
    }

    #[test]
    fn descriptors_are_a_list_of_words() {
        assert_eq!(descriptors(&container(Flavor::Runc)), r#"["/dev/null","pipe:[1]","pipe:[2]"]"#);
    }
}

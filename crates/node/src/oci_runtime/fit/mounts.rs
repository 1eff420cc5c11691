//! Mounts: those of the configuration, with its restrictions, and none that leads to the machine.
//!
//! What comes from outside (CRIU's external mounts) is looked up by the runtime among the configuration's own; that it is there is
//! checked elsewhere. All other mounts are made by CRIU as images say, so they must be of the kind that the configuration has there.

use std::path::{Path, PathBuf};

use torpor_criu::image::namespace::Mount;

use super::Misfit;
use super::grant::{Grant, GrantedMount};

/// What whoever may mount can mount without reaching the machine.
const HARMLESS: [&str; 5] = ["proc", "tmpfs", "devpts", "mqueue", "sysfs"];

/// Directories that one engine or another covers up in each container (containerd, `pkg/oci/spec.go`; containers/common, `pkg/config`).
/// An image from elsewhere may have them covered up where the configuration does not.
const COVERED: [&str; 7] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/scsi",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Where a container that is at a terminal has it: runtimes mount it there (opencontainers/runtime-spec, `config-linux.md`).
const CONSOLE: &str = "/dev/console";

/// Flags of mount(2).
const READ_ONLY: u32 = 1;
const FLAGS: [(u32, &str); 4] = [(READ_ONLY, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec")];

/// Holds mounts against the configuration.
pub(super) fn check(mounts: &[Mount], grant: &Grant, exists: impl Fn(&Path) -> bool, all: &mut Vec<Misfit>) {
    if mounts.is_empty() && grant.has_namespace("mount") {
        all.push(Misfit::Mount { point: PathBuf::from("/"), file_system: "nothing".to_owned() });
    }
    for mount in mounts {
        one(mount, grant, all);
    }
    for path in grant.masked.iter().filter(|path| exists(path)) {
        if !mounts.iter().any(|mount| point(mount) == *path) {
            all.push(Misfit::Uncovered { path: path.clone() });
        }
    }
    for path in grant.read_only.iter().filter(|path| exists(path)) {
        let covers = |mount: &&Mount| point(mount) == *path;
        if !mounts.iter().filter(covers).any(|mount| mount.flags & READ_ONLY != 0) {
            all.push(Misfit::Uncovered { path: path.clone() });
        }
    }
}

/// A mount point in the container; CRIU writes it with a dot before it.
fn point(mount: &Mount) -> PathBuf {
    let text = mount.mountpoint.strip_prefix('.').unwrap_or(&mount.mountpoint);
    Path::new("/").join(text.trim_start_matches('/'))
}

fn one(mount: &Mount, grant: &Grant, all: &mut Vec<Misfit>) {
    let point = point(mount);
    let granted = grant.mounts.iter().rfind(|granted| granted.destination == point);
    let is_root = point == Path::new("/");
    if is_root && grant.read_only_root && mount.flags & READ_ONLY == 0 {
        all.push(Misfit::Flag { point: point.clone(), flag: "ro" });
    }
    // Of control groups of version 1 each is mounted by itself, and what they are mounted in stays writable.
    let groups = |granted: &&GrantedMount| granted.kind.starts_with("cgroup");
    let is_group = matches!(mount.file_system(), "cgroup" | "cgroup2");
    let restricted = match granted.filter(|granted| !groups(granted)) {
        Some(granted) => Some(granted),
        None if is_group => {
            grant.mounts.iter().find(|one| groups(one) && point.starts_with(&one.destination))
        }
        None => None,
    };
    if let Some(restricted) = restricted {
        for (bit, flag) in FLAGS {
            if restricted.options.iter().any(|option| option == flag) && mount.flags & bit == 0 {
                all.push(Misfit::Flag { point: point.clone(), flag });
            }
        }
    }
    let from_outside = mount.ext_key.is_some() || mount.ext_mount == Some(true);
    if is_root || from_outside || has_its_place(mount, &point, granted, grant) {
        return;
    }
    all.push(Misfit::Mount { point, file_system: mount.file_system().to_owned() });
}

fn has_its_place(mount: &Mount, point: &Path, granted: Option<&GrantedMount>, grant: &Grant) -> bool {
    let kind = mount.file_system();
    let alike = |granted: &GrantedMount| match granted.kind.as_str() {
        "cgroup" | "cgroup2" => matches!(kind, "cgroup" | "cgroup2" | "tmpfs"),
        // Whose files those are, only the image says.
        "nfs" | "nfs4" | "rpc_pipefs" => false,
        other => !granted.is_bind() && other == kind,
    };
    let covers_up = grant.masked.iter().chain(&grant.read_only).any(|path| path == point)
        && matches!(kind, "proc" | "sysfs" | "tmpfs" | "cgroup" | "cgroup2")
        || kind == "tmpfs"
            && mount.flags & READ_ONLY != 0
            && COVERED.iter().any(|path| Path::new(path) == point);
    // Groups of version 1 are mounted one by one, and parts of a file system may be mounted once more below it.
    let below = grant.mounts.iter().any(|granted| {
        alike(granted) && point != granted.destination && point.starts_with(&granted.destination)
    });
    let console = grant.terminal && kind == "devpts" && point == Path::new(CONSOLE);
    granted.is_some_and(alike)
        || covers_up
        || below
        || console
        || (grant.may("sys_admin") && HARMLESS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(capabilities: &str, read_only_root: bool) -> Grant {
        let config = format!(
            r#"{{
            "process": {{"capabilities": {{"bounding": [{capabilities}]}}}},
            "root": {{"path": "rootfs", "readonly": {read_only_root}}},
            "mounts": [
                {{"destination": "/proc", "type": "proc", "options": ["nosuid", "noexec", "nodev"]}},
                {{"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"]}},
                {{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}},
                {{"destination": "/host", "type": "bind", "options": ["rbind", "ro"]}}
            ],
            "linux": {{"maskedPaths": ["/proc/kcore", "/proc/none"], "readonlyPaths": ["/proc/sys"],
                "namespaces": [{{"type": "mount"}}]}}}}"#
        );
        Grant::parse(config.as_bytes()).unwrap()
    }

    fn mount(point: &str, fstype: u32, flags: u32, key: Option<&str>) -> Mount {
        Mount {
            mountpoint: format!(".{point}"),
            fstype,
            flags,
            ext_key: key.map(str::to_owned),
            ..Mount::default()
        }
    }

    /// What a container of this configuration has.
    fn usual() -> Vec<Mount> {
        vec![
            mount("/", 17, 0, None),
            mount("/proc", 1, 14, None),
            mount("/dev", 5, 2, None),
            mount("/sys/fs/cgroup", 5, 0, None),
            mount("/sys/fs/cgroup/cpu", 12, 1, Some("/sys/fs/cgroup/cpu")),
            mount("/host", 17, 1, Some("/host")),
            mount("/proc/kcore", 5, 0, Some("/dev/null")),
            mount("/proc/sys", 1, 15, None),
        ]
    }

    fn told(mounts: &[Mount], grant: &Grant) -> Vec<String> {
        let mut all = Vec::new();
        check(mounts, grant, |path| path != Path::new("/proc/none"), &mut all);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mounts_are_those_of_the_configuration() {
        let plain = grant("", false);
        assert_eq!(told(&usual(), &plain), [""; 0]);
        assert_eq!(told(&[], &plain)[0], "nothing is mounted at /");
        for (more, expected) in [
            (mount("/disk", 16, 0, None), "auto is mounted at /disk"),
            (mount("/over", 17, 0, None), "overlay is mounted at /over"),
            (mount("/groups", 12, 0, None), "cgroup is mounted at /groups"),
            (mount("/groups", 23, 0, None), "cgroup2 is mounted at /groups"),
            (mount("/host", 5, 1, None), "tmpfs is mounted at /host"),
            (mount("/proc", 5, 14, None), "tmpfs is mounted at /proc"),
            (mount("/debug", 11, 0, None), "debugfs is mounted at /debug"),
            (mount("/x", 99, 0, None), "unknown is mounted at /x"),
            (mount("/proc/self", 5, 1, None), "tmpfs is mounted at /proc/self"),
            (mount("/sys/firmware", 5, 0, None), "tmpfs is mounted at /sys/firmware"),
        ] {
            let mounts: Vec<Mount> = usual().into_iter().chain([more]).collect();
            assert_eq!(told(&mounts, &plain), [expected]);
        }
    }

    #[test]
    fn whoever_may_mount_has_mounted() {
        let mounts: Vec<Mount> = usual().into_iter().chain([mount("/scratch", 5, 0, None)]).collect();
        assert_eq!(told(&mounts, &grant("", false)), ["tmpfs is mounted at /scratch"]);
        assert!(told(&mounts, &grant(r#""CAP_SYS_ADMIN""#, false)).is_empty());
        let mounts: Vec<Mount> = usual().into_iter().chain([mount("/disk", 16, 0, None)]).collect();
        assert_eq!(told(&mounts, &grant(r#""CAP_SYS_ADMIN""#, false)), ["auto is mounted at /disk"]);
    }

    #[test]
    fn what_other_engines_cover_up_may_be_covered_up() {
        let mounts: Vec<Mount> = usual().into_iter().chain([mount("/sys/firmware", 5, 1, None)]).collect();
        assert_eq!(told(&mounts, &grant("", false)), [""; 0]);
    }

    #[test]
    fn a_terminal_is_mounted_where_the_configuration_has_one() {
        let plain = grant("", false);
        let at_terminal = Grant { terminal: true, ..plain.clone() };
        let with: Vec<Mount> = usual().into_iter().chain([mount("/dev/console", 6, 0, None)]).collect();
        assert_eq!(told(&with, &at_terminal), [""; 0]);
        assert_eq!(told(&with, &plain), ["devpts is mounted at /dev/console"]);
        assert_eq!(told(&usual(), &at_terminal), [""; 0]);
    }

    #[test]
    fn restrictions_hold() {
        for (index, flags, expected) in [
            (1, 2, &["the mount at /proc is not nodev", "the mount at /proc is not noexec"][..]),
            (4, 0, &["the mount at /sys/fs/cgroup/cpu is not ro"]),
            (5, 0, &["the mount at /host is not ro"]),
            (7, 14, &["/proc/sys is neither masked nor read-only"]),
        ] {
            let mut mounts = usual();
            mounts[index].flags = flags;
            assert_eq!(told(&mounts, &grant("", false)), expected);
        }
        assert_eq!(told(&usual(), &grant("", true)), ["the mount at / is not ro"]);
        let mut mounts = usual();
        mounts.remove(6);
        assert_eq!(told(&mounts, &grant("", false)), ["/proc/kcore is neither masked nor read-only"]);
    }
}

//! What a mount is to a program, told from its line in mountinfo.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Mount;

/// What a mount is to the program that lives on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MountClass {
    /// A container's own root: a layer of its own over an image, gone with the container.
    ContainerRoot,
    /// The root of a machine, on a disk that outlives the program.
    DiskRoot,
    /// A tmpfs the program writes to, gone with the container.
    PrivateTmpfs,
    /// A tmpfs of a machine, where others keep their files too.
    MachineTmpfs,
    /// Storage that outlives the container, or is shared with others.
    Volume,
    /// A window into the kernel: proc, sysfs, cgroups, terminals.
    KernelPseudo,
    /// Made anew by the container runtime at each start: `/etc/resolv.conf`, secrets.
    RuntimeFile,
}

impl MountClass {
    /// In words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::ContainerRoot => "container root",
            Self::DiskRoot => "root on a disk",
            Self::PrivateTmpfs => "private tmpfs",
            Self::MachineTmpfs => "tmpfs of the machine",
            Self::Volume => "volume",
            Self::KernelPseudo => "kernel",
            Self::RuntimeFile => "made by the runtime",
        }
    }

    /// Tells the class of a mount, within a container or on a machine.
    #[must_use]
    pub fn of(mount: &Mount, in_container: bool) -> Self {
        let point = mount.point.as_path();
        // Engines hide parts of /proc and /sys behind an empty tmpfs.
        if KERNEL.contains(&mount.file_system.as_str())
            || point.starts_with("/proc")
            || point.starts_with("/sys")
        {
            return Self::KernelPseudo;
        }
        if RUNTIME_FILES.iter().any(|file| point == Path::new(file))
            || RUNTIME_DIRECTORIES.iter().any(|directory| point.starts_with(directory))
        {
            return Self::RuntimeFile;
        }
        if point == Path::new("/") {
            return if in_container || is_container_root(mount) {
                Self::ContainerRoot
            } else {
                Self::DiskRoot
            };
        }
        // A bind of a part of some tmpfs is shared with whoever made it.
        if matches!(mount.file_system.as_str(), "tmpfs" | "ramfs") && mount.root == Path::new("/") {
            return if in_container { Self::PrivateTmpfs } else { Self::MachineTmpfs };
        }
        Self::Volume
    }
}

/// Whether these are the mounts of a container: its root is one by its kind, or the engine mounted a file that only
/// engines mount (a devmapper snapshotter gives a root like any disk).
pub(super) fn in_container(mounts: &[&Mount]) -> bool {
    mounts.iter().any(|mount| {
        let point = mount.point.as_path();
        (point == Path::new("/") && is_container_root(mount))
            || ENGINE_FILES.iter().any(|file| point == Path::new(file))
    })
}

fn is_container_root(mount: &Mount) -> bool {
    UNION.contains(&mount.file_system.as_str())
        || mount.file_system == "tmpfs"
        // Docker's and containers/storage's vfs, btrfs and zfs drivers give a directory or subvolume of their own.
        || mount.root.components().any(|part| {
            STORAGE_DIRECTORIES.iter().any(|directory| part.as_os_str() == *directory)
        })
}

/// File systems made of layers, and those by which a virtual machine's container gets its root.
const UNION: &[&str] = &[
    "overlay",
    "overlayfs",
    "aufs",
    "unionfs",
    "fuse.fuse-overlayfs",
    "fuse.unionfs-fuse",
    "virtiofs",
    "9p",
];

/// Directories container engines keep their containers' roots in.
const STORAGE_DIRECTORIES: &[&str] =
    &["docker", "containers", "containerd", "io.containerd.snapshotter.v1.btrfs"];

const KERNEL: &[&str] = &[
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

const RUNTIME_FILES: &[&str] = &[
    "/dev/console",
    "/dev/termination-log",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/run/.containerenv",
    "/.dockerenv",
];

/// Of those, the ones that nothing but a container engine mounts.
const ENGINE_FILES: &[&str] = &["/etc/hosts", "/dev/termination-log", "/run/.containerenv"];

const RUNTIME_DIRECTORIES: &[&str] = &["/run/secrets", "/var/run/secrets"];

#[cfg(test)]
mod tests {
    use super::super::Mounts;
    use super::*;

    #[test]
    fn a_container_is_told_from_a_machine() {
        let table = [
            ("1 0 0:50 / / rw - overlay overlay rw\n", true),
            ("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", false),
            ("1 0 253:3 / / rw - ext4 /dev/dm-3 rw\n2 1 8:1 /x /etc/hosts rw - ext4 /dev/sda1 rw\n", true),
            ("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 /x /etc/resolv.conf rw - tmpfs tmpfs rw\n", false),
        ];
        for (text, expected) in table {
            let mounts = Mounts::parse(text.as_bytes()).unwrap();
            assert_eq!(in_container(&mounts.reachable()), expected, "{text}");
        }
        let tmpfs = Mounts::parse(b"2 1 0:60 / /tmp rw - tmpfs tmpfs rw").unwrap();
        assert_eq!(MountClass::of(&tmpfs.all()[0], false), MountClass::MachineTmpfs);
    }

    #[test]
    fn mounts_are_told_apart() {
        use MountClass::*;
        let table = [
            ("1 0 0:50 / / rw - overlay overlay rw,lowerdir=a", ContainerRoot),
            ("1 0 254:0 / / rw - ext4 /dev/vda rw", DiskRoot),
            ("1 0 0:50 /@ / rw - btrfs /dev/sda2 rw,subvol=/@", DiskRoot),
            ("1 0 0:50 /var/lib/docker/btrfs/subvolumes/0a1b / rw - btrfs /dev/sda2 rw", ContainerRoot),
            ("1 0 8:1 /var/lib/containers/storage/vfs/dir/0a / rw - xfs /dev/sda1 rw", ContainerRoot),
            ("2 1 0:60 / /dev/shm rw - tmpfs shm rw,size=65536k", PrivateTmpfs),
            ("2 1 0:60 / /tmp rw - tmpfs tmpfs rw", PrivateTmpfs),
            ("2 1 0:60 /x /srv rw - tmpfs tmpfs rw", Volume),
            ("2 1 8:1 /var/lib/kubelet/pods/1/volumes/e /data rw - ext4 /dev/sda1 rw", Volume),
            ("2 1 0:61 / /data rw - nfs4 server:/export rw", Volume),
            ("2 1 8:1 /pods/1/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw", RuntimeFile),
            ("2 1 0:62 / /run/secrets/kubernetes.io/serviceaccount ro - tmpfs tmpfs rw", RuntimeFile),
            ("2 1 0:63 / /proc rw - proc proc rw", KernelPseudo),
            ("2 1 0:64 / /dev/mqueue rw - mqueue mqueue rw", KernelPseudo),
            ("2 1 0:65 / /dev/pts rw - devpts devpts rw", KernelPseudo),
            ("2 1 0:66 / /proc/acpi rw - tmpfs tmpfs rw", KernelPseudo),
        ];
        for (line, class) in table {
            let mounts = Mounts::parse(line.as_bytes()).unwrap();
            let mount = &mounts.all()[0];
            let in_container = mount.point != Path::new("/");
            assert_eq!(MountClass::of(mount, in_container), class, "{line}");
        }
    }
}

//! What plain processes find in their sandbox in the place of each of the machine's mounts.
//!
//! The plan is decided from the mount table alone, and from what kind of thing each mount point is; [`super::root`] carries it out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::sandbox::Volumes;
use crate::mounts::{Mount, MountClass, escaped_path, escaped_paths};

/// The largest file that is copied, in bytes: what is mounted as a file is small, as names and addresses are.
const COPIED: u64 = 16 << 20;
/// Where devices are.
const DEVICES: &str = "/dev";

/// Directories with programs and their libraries: a mount there is no volume.
const PROGRAMS: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/etc", "/nix", "/gnu"];

/// What is at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A socket, a device, or something that root may not look at.
    Other,
}

/// What is in a mount's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cover {
    /// What the machine has there, with changes that go nowhere.
    Scratch,
    /// What the machine has there, which nobody can change.
    ReadOnly,
    /// A copy of the file.
    Copy,
    /// An empty directory.
    Empty,
    /// A file system in memory.
    Memory,
    /// `/proc` of the sandbox.
    Processes,
    /// `/sys` of the sandbox's network, which nobody can change.
    Kernel,
    /// Devices that lead nowhere.
    Devices,
    /// Terminals of the sandbox's own.
    Terminals,
    /// Message queues of the sandbox's own.
    Messages,
}

/// One mount of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Covered {
    /// Where it is.
    #[serde(with = "escaped_path")]
    pub(crate) at: PathBuf,
    /// What is there.
    pub(crate) cover: Cover,
    /// Whether it was read-only.
    pub(crate) read_only: bool,
}

/// All mounts of the sandbox, each after the one that it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxMounts {
    /// What is mounted.
    pub(crate) covered: Vec<Covered>,
    /// Mounts of the machine that the sandbox has not: sockets, windows into the kernel, networks that could be entered.
    #[serde(with = "escaped_paths")]
    pub(crate) left_out: Vec<PathBuf>,
}

impl SandboxMounts {
    /// Decides it for mounts that can be reached, with what is at each.
    pub(crate) fn of<'a>(
        mounts: impl IntoIterator<Item = (&'a Mount, Point)>,
        volumes: Volumes,
    ) -> SandboxMounts {
        let own = |at: &str, cover| Covered { at: at.into(), cover, read_only: false };
        let mut covered = vec![
            own("/proc", Cover::Processes),
            own("/sys", Cover::Kernel),
            own(DEVICES, Cover::Devices),
            own("/dev/pts", Cover::Terminals),
            own("/dev/mqueue", Cover::Messages),
            own("/dev/shm", Cover::Memory),
        ];
        let mut left_out = Vec::new();
        for (mount, point) in mounts {
            let Some(cover) = cover(mount, point, volumes) else {
                if !["/proc", "/sys", DEVICES].iter().any(|own| mount.point.starts_with(own)) {
                    left_out.push(mount.point.clone());
                }
                continue;
            };
            covered.retain(|other| other.at != mount.point);
            covered.push(Covered { at: mount.point.clone(), cover, read_only: mount.read_only });
        }
        covered.sort_by_key(|covered| covered.at.components().count());
        SandboxMounts { covered, left_out }
    }
}

/// What is in a mount's place; none where the sandbox has its own, or nothing.
fn cover(mount: &Mount, point: Point, volumes: Volumes) -> Option<Cover> {
    let at = mount.point.as_path();
    if at.starts_with("/sys/fs/cgroup") {
        return Some(Cover::ReadOnly);
    }
    let is_shared_memory = at == Path::new("/dev/shm");
    if at.starts_with(DEVICES) && !is_shared_memory {
        return None;
    }
    let class = MountClass::of(mount, false);
    match (class, point) {
        (MountClass::KernelPseudo, _) | (_, Point::Other) => None,
        (_, Point::File(size)) if size > COPIED => Some(Cover::ReadOnly),
        (_, Point::File(_)) => Some(Cover::Copy),
        (MountClass::Volume, Point::Directory)
            if volumes == Volumes::Empty && !PROGRAMS.iter().any(|programs| at.starts_with(programs)) =>
        {
            Some(Cover::Empty)
        }
        (_, Point::Directory) => Some(Cover::Scratch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::Mounts;

    /// What is in the place of a mount, by its line in mountinfo.
    fn cover_of(line: &str, point: Point, volumes: Volumes) -> Option<Cover> {
        let mounts = Mounts::parse(line.as_bytes()).unwrap();
        cover(&mounts.all()[0], point, volumes)
    }

    #[test]
    fn whatever_can_be_written_goes_nowhere_and_what_leads_out_is_left_out() {
        use Point::{Directory, File, Other};
        let table = [
            ("1 0 254:0 / / rw - ext4 /dev/vda rw", Directory, Some(Cover::Scratch), Some(Cover::Scratch)),
            ("2 1 8:1 / /data rw - ext4 /dev/sdb rw", Directory, Some(Cover::Scratch), Some(Cover::Empty)),
            (
                "2 1 0:61 / /home/nfs rw - nfs4 server:/x rw",
                Directory,
                Some(Cover::Scratch),
                Some(Cover::Empty),
            ),
            ("2 1 8:2 / /usr ro - ext4 /dev/sdc ro", Directory, Some(Cover::Scratch), Some(Cover::Scratch)),
            ("2 1 0:60 / /run rw - tmpfs tmpfs rw", Directory, Some(Cover::Scratch), Some(Cover::Scratch)),
            ("2 1 8:1 /h /etc/hosts rw - ext4 /dev/sda1 rw", File(90), Some(Cover::Copy), Some(Cover::Copy)),
            (
                "2 1 8:1 /h /srv/disk rw - ext4 /dev/sda1 rw",
                File(1 << 30),
                Some(Cover::ReadOnly),
                Some(Cover::ReadOnly),
            ),
            ("2 1 0:60 /d /var/run/docker.sock rw - tmpfs tmpfs rw", Other, None, None),
            ("2 1 0:4 net:[4026532] /run/netns/blue rw - nsfs nsfs rw", File(0), None, None),
            ("2 1 0:63 / /srv/root/proc rw - proc proc rw", Directory, None, None),
            ("2 1 0:7 / /sys/kernel/debug rw - debugfs debugfs rw", Directory, None, None),
            (
                "2 1 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                Directory,
                Some(Cover::ReadOnly),
                Some(Cover::ReadOnly),
            ),
            ("2 1 0:6 / /dev rw - devtmpfs devtmpfs rw", Directory, None, None),
            (
                "2 1 0:60 / /dev/shm rw - tmpfs tmpfs rw",
                Directory,
                Some(Cover::Scratch),
                Some(Cover::Scratch),
            ),
            ("2 1 8:9 / /dev/disk rw - ext4 /dev/sdd rw", Directory, None, None),
        ];
        for (line, point, unchanged, empty) in table {
            assert_eq!(cover_of(line, point, Volumes::Unchanged), unchanged, "{line}");
            assert_eq!(cover_of(line, point, Volumes::Empty), empty, "{line}, empty");
        }
    }

    #[test]
    fn each_mount_comes_after_the_one_that_it_is_on_and_what_is_the_kernels_is_the_sandboxes_own() {
        let table = "3 1 8:1 / /srv/a/b rw - ext4 /dev/sdb rw\n\
            1 0 254:0 / / rw - ext4 /dev/vda rw\n\
            2 1 8:1 / /srv ro - ext4 /dev/sda1 rw\n\
            4 1 0:4 net:[4026532] /run/netns/blue rw - nsfs nsfs rw\n\
            5 1 0:6 / /dev rw - devtmpfs devtmpfs rw\n\
            6 5 0:60 / /dev/shm rw - tmpfs tmpfs rw\n";
        let mounts = Mounts::parse(table.as_bytes()).unwrap();
        let points = mounts.all().iter().map(|mount| (mount, Point::Directory));
        let plan = SandboxMounts::of(points, Volumes::Unchanged);
        let told: Vec<_> = plan
            .covered
            .iter()
            .map(|covered| format!("{} {:?}", covered.at.display(), covered.cover))
            .collect();
        assert_eq!(
            told,
            [
                "/ Scratch",
                "/proc Processes",
                "/sys Kernel",
                "/dev Devices",
                "/srv Scratch",
                "/dev/pts Terminals",
                "/dev/mqueue Messages",
                "/dev/shm Scratch",
                "/srv/a/b Scratch",
            ]
        );
        assert_eq!(plan.left_out, [Path::new("/run/netns/blue")]);
        assert!(plan.covered.iter().all(|covered| covered.read_only == (covered.at == Path::new("/srv"))));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<SandboxMounts>(&text).unwrap(), plan);
    }
}

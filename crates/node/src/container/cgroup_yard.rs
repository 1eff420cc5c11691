//! Where CRIU finds the machine's control groups.
//!
//! Left to itself CRIU mounts each hierarchy once more, under the freeze. With version 1 the kernel waits each time until
//! groups that are going away have gone: with ten hierarchies half a second was seen. A *cgroup yard* is a directory that
//! has them all under the names CRIU looks for (CRIU, `criu/cgroup.c`); machines usually have one.

use std::path::{Path, PathBuf};

use crate::mounts::Mounts;

/// Where machines mount control groups.
const USUAL: &str = "/sys/fs/cgroup";

/// The machine's yard; none where it has no such directory, or one hierarchy is missing there.
pub(super) fn find() -> Option<PathBuf> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = Mounts::of_process(None).ok()?;
    is_yard(Path::new(USUAL), &cgroups, &mounts).then(|| PathBuf::from(USUAL))
}

/// Whether a directory has each hierarchy of a process's `cgroups` (cgroups(7), `/proc/PID/cgroup`), from its root on.
fn is_yard(directory: &Path, cgroups: &str, mounts: &Mounts) -> bool {
    let mut names = cgroups.lines().filter_map(|line| line.split(':').nth(1)).map(|controllers| {
        match controllers.strip_prefix("name=").unwrap_or(controllers) {
            "" => "unified",
            name => name,
        }
    });
    let is_mounted = |name: &str| {
        let point = directory.join(name);
        // The last one covers the others.
        let mount = mounts.all().iter().rev().find(|mount| mount.point == point);
        mount.is_some_and(|mount| mount.file_system.starts_with("cgroup") && mount.root == Path::new("/"))
    };
    !cgroups.is_empty() && names.all(is_mounted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
4 1 0:86 / /sys/fs/cgroup rw - tmpfs tmpfs rw
5 4 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
6 4 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
7 4 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
8 4 0:36 /pod /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";

    #[test]
    fn a_yard_has_every_hierarchy_from_its_root_on() {
        let mounts = Mounts::parse(MOUNTS.as_bytes()).unwrap();
        for (cgroups, expected) in [
            ("4:cpu,cpuacct:/pod\n2:name=systemd:/\n0::/pod\n", true),
            ("4:cpu,cpuacct:/\n3:memory:/\n0::/\n", false),
            ("8:pids:/\n", false),
            ("", false),
        ] {
            assert_eq!(is_yard(Path::new("/sys/fs/cgroup"), cgroups, &mounts), expected, "{cgroups}");
        }
        let unified = Mounts::parse(b"4 1 0:86 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").unwrap();
        assert!(
            !is_yard(Path::new("/sys/fs/cgroup"), "0::/pod\n", &unified),
            "CRIU wants it one level below"
        );
    }
}

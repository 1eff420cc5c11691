//! File systems that are mounted nowhere: for as long as a descriptor is kept, only its holder can look into them.
//!
//! Nothing of them stays where the holder is killed (Linux, `fs/namespace.c`, `fsmount(2)`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::files::magic_link;
use crate::sys::loop_device::LoopDevice;

/// Options that are the mount's own, or mount(8)'s, and not the file system's.
const NOT_ITS: [&str; 14] = [
    "atime",
    "bind",
    "defaults",
    "dev",
    "exec",
    "loop",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "rbind",
    "relatime",
    "suid",
];

/// A file system that can be read.
#[derive(Debug)]
pub(crate) struct DetachedMount {
    tree: OwnedFd,
}

impl DetachedMount {
    /// Mounts a file system with options as mount(8) has them, but never to be written.
    pub(crate) fn new(kind: &str, source: &Path, options: &[String]) -> io::Result<DetachedMount> {
        let is_file = options.iter().any(|option| option == "loop");
        let device = is_file.then(|| LoopDevice::of(source)).transpose()?;
        let source = device.as_ref().map_or(source, LoopDevice::path);
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        rustix::mount::fsconfig_set_string(context, "source", source)?;
        for option in options.iter().map(String::as_str) {
            match option.split_once('=') {
                _ if NOT_ITS.contains(&option) || matches!(option, "ro" | "rw") => {}
                Some((key, value)) => rustix::mount::fsconfig_set_string(context, key, value)?,
                None => rustix::mount::fsconfig_set_flag(context, option)?,
            }
        }
        rustix::mount::fsconfig_set_flag(context, "ro")?;
        rustix::mount::fsconfig_create(context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let tree = rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(DetachedMount { tree })
    }

    /// Its root, for this process.
    pub(crate) fn path(&self) -> PathBuf {
        magic_link(&self.tree).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(all: &[&str]) -> Vec<String> {
        all.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn nobody_but_the_holder_sees_it_and_nobody_writes() {
        let wanted = options(&["rw", "noatime", "size=64k"]);
        let mount = match DetachedMount::new("tmpfs", Path::new("none"), &wanted) {
            Ok(mount) => mount,
            Err(error) => return eprintln!("left out: this takes CAP_SYS_ADMIN: {error}"),
        };
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
        let written = std::fs::write(mount.path().join("file"), "x").unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!before.contains("size=64k"));
    }

    #[test]
    fn what_is_no_option_of_the_file_system_is_an_error() {
        assert!(DetachedMount::new("tmpfs", Path::new("none"), &options(&["no-such-option"])).is_err());
    }
}

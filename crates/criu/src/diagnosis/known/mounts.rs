//! Failures of mounts.

use crate::diagnosis::Known;
use crate::diagnosis::Operation::{Checkpoint, Restore};

pub(super) const ROWS: &[Known] = &[
    Known {
        id: "mount-mapping",
        operation: Some(Restore),
        messages: &["No mapping for * mountpoint"],
        with: None,
        cause: "the checkpoint has the mount {1}, which this container lacks",
        remedy: "give the new container the same volumes as the old one",
    },
    Known {
        id: "mount-external",
        operation: Some(Checkpoint),
        messages: &["Mount * is autodetected external mount"],
        with: None,
        cause: "the mount {1} comes from outside the container",
        remedy: "name it in volumes to have it left out, or carried",
    },
    Known {
        id: "mount-sharing",
        operation: Some(Checkpoint),
        messages: &["* has unreachable sharing. Try --enable-external-masters"],
        with: None,
        cause: "the mount {1} receives events from one outside of the container",
        remedy: "make the mount private, or allow it with --criu-option enable-external-masters",
    },
    Known {
        id: "mount-unsupported",
        operation: Some(Checkpoint),
        messages: &["FS mnt * dev * root * unsupported id *"],
        with: None,
        cause: "the file system mounted at {1} is of a kind that CRIU cannot freeze",
        remedy: "unmount it, or name it in volumes to have it left out",
    },
    Known {
        id: "mount-root",
        operation: Some(Checkpoint),
        messages: &["* doesn't have a proper root mount"],
        with: None,
        cause: "the mount {1} shows a part of a file system whose whole is not mounted",
        remedy: "name it in volumes to have it left out, or mount it from outside the container",
    },
    Known {
        id: "mount-shared",
        operation: Some(Restore),
        messages: &["Failed to copy sharing from -1:* to *", "Failed to copy sharing from source * to *"],
        with: None,
        cause: "{1} is on a mount that is private here, and was on a shared one where the checkpoint was made",
        remedy: "make the mount that it is on shared with `mount --make-rshared`, as systemd does with /, before the container is made",
    },
    Known {
        id: "mount-restore",
        operation: Some(Restore),
        messages: &[
            "mnt: Unable to mount *",
            "Can't mount at *",
            "A few mount points can't be mounted",
            "mnt-v2: Failed to *",
        ],
        with: None,
        cause: "a mount of the checkpoint cannot be made here",
        remedy: "give the new container the same volumes as the old one; `torpor doctor` shows which privileges are missing",
    },
    Known {
        id: "mount-propagation",
        operation: Some(Restore),
        messages: &["Unable to make * slave: Invalid argument", "Unable to make * private: Invalid argument"],
        with: None,
        cause: "this CRIU cannot restore mounts on this kernel; it has to be 4.1.1 or newer",
        remedy: "use a newer CRIU: `torpor doctor` shows which are there, and what each lacks",
    },
    Known {
        id: "mount-namespace-root",
        operation: Some(Restore),
        messages: &["The --root option is required to restore a mount namespace"],
        with: None,
        cause: "the checkpoint has a mount namespace of its own, as those of containers have",
        remedy: "restore it as a container: with the RuntimeClass torpor, or into an image",
    },
];

//! Failures of limits of the machine and the container.

use crate::diagnosis::Known;

pub(super) const ROWS: &[Known] = &[
    Known {
        id: "disk-full",
        operation: None,
        messages: &["No space left on device", "Disk quota exceeded"],
        with: None,
        cause: "the disk is full",
        remedy: "free space, or put the store on a larger disk",
    },
    Known {
        id: "descriptor-limit",
        operation: None,
        messages: &["Too many open files", "Too big FD number to restore"],
        with: None,
        cause: "the limit of open files is reached",
        remedy: "raise the limit of open files (ulimit -n) to that of the old container",
    },
];

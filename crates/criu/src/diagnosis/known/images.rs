//! Failures of the checkpoint itself, and the way to it.

use crate::diagnosis::Known;
use crate::diagnosis::Operation::{Checkpoint, Restore};

pub(super) const ROWS: &[Known] = &[
    Known {
        id: "page-server",
        operation: Some(Checkpoint),
        messages: &[
            "The page server doesn't answer",
            "Can't write pages to socket",
            "Can't write to page server",
            "Can't send PSI * to server",
            "Unable to spice data",
            "A pipe was closed unexpectedly",
        ],
        with: None,
        cause: "the connection that carries the memory to Torpor broke: Torpor refused it, was killed, or ran out of memory",
        remedy: "see the message before this one; give the container more memory, or a smaller --memory-budget",
    },
    Known {
        id: "image-trimmed",
        operation: Some(Restore),
        messages: &[
            "Img trimmed *",
            "Unexpected EOF",
            "Read * bytes while * expected from *",
            "Reached EOF unexpectedly while reading page from image",
            "Can't read mapping page",
        ],
        with: None,
        cause: "the checkpoint is incomplete, or was written by a newer CRIU",
        remedy: "check it with `torpor verify`, and see that this CRIU is at least as new as the one that made it",
    },
    Known {
        id: "image-magic",
        operation: Some(Restore),
        messages: &[
            "Magic doesn't match for *",
            "Head magic doesn't match for *",
            "Failed unpacking object * from *",
        ],
        with: None,
        cause: "a part of the checkpoint is damaged ({1})",
        remedy: "check the checkpoint with `torpor verify`, and restore an earlier generation",
    },
    Known {
        id: "image-version",
        operation: Some(Restore),
        messages: &[
            "Too old image, no longer supported",
            "Not supported images version *",
            "Images corrupted or too old criu was used",
        ],
        with: None,
        cause: "the checkpoint was made by a CRIU of another generation",
        remedy: "restore with the CRIU that made it, which `torpor show` names",
    },
    Known {
        id: "image-generation",
        operation: Some(Restore),
        messages: &[
            "Page entry address * outside of VMA",
            "Trying to restore page for non-private VMA",
            "Missing * in parent pagemap",
        ],
        with: None,
        cause: "the list of pages does not fit the program's memory: the checkpoint is damaged, or made by CRIU 4.2 or newer and read by an older one",
        remedy: "use the CRIU that made it, which `torpor show` names",
    },
    Known {
        id: "image-missing",
        operation: Some(Restore),
        messages: &[
            "Unable to open *.img: No such file or directory",
            "No parent for snapshot pagemap",
            "Can't open parent path",
            "Can't find regfile for *",
            "No IDS for root task",
        ],
        with: None,
        cause: "a part of the checkpoint is missing",
        remedy: "check it with `torpor verify`, and restore an earlier generation",
    },
    Known {
        id: "plugin-missing",
        operation: Some(Restore),
        messages: &["Missing required plugin: *"],
        with: None,
        cause: "the checkpoint needs CRIU's plugin {1}, which is not installed here",
        remedy: "restore it with the tool that made it: Torpor lets CRIU load no plugins",
    },
    Known {
        id: "script-refused",
        operation: None,
        messages: &[
            "RPC client reported script error",
            "Pre dump script failed with *",
            "Aborting restore due to * script ret code",
        ],
        with: None,
        cause: "Torpor itself stopped CRIU",
        remedy: "see Torpor's own message before this one",
    },
    Known {
        id: "parasite",
        operation: Some(Checkpoint),
        messages: &["Can't infect (pid: *) with parasite", "Can't inject syscall blob (pid: *)"],
        with: None,
        cause: "CRIU could not run its code inside process {1}: a seccomp filter or a security module forbids it",
        remedy: "run the container with the seccomp profile that comes with Torpor; `torpor doctor` shows what is missing",
    },
];

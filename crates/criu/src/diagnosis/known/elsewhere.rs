//! What to do about known failures of containers and processes that do not run under `torpor run`: they have neither its
//! configuration nor its hooks, and a restore of theirs has few flags.

/// Remedies that are others there, by the failures' ids.
const REMEDIES: &[(&str, &str)] = &[
    ("inotify-handle", "have the program end the watch before the checkpoint"),
    ("inotify-restore", "put back what it watched before the restore"),
    ("file-lock-outside", "end the other program, or have this one give up the lock before the checkpoint"),
    ("unreachable-path", CLOSE),
    ("device-file", CLOSE),
    ("unsupported-file", CLOSE),
    ("socket-protocol", CLOSE),
    ("netlink-socket", CLOSE),
    ("packet-socket", CLOSE),
    ("file-changed", "put the file back as it was at the checkpoint"),
    ("file-missing", "put it back, or mount what it is on"),
    ("mapping-unsupported", "have the program let go of it before the checkpoint"),
    ("uprobes", "end the tracing"),
    ("page-server", "see the message before this one; make memory free on this machine"),
    ("ipc-outside", "start it with an IPC namespace of its own"),
    (
        "cgroup",
        "see that all hierarchies of control groups are mounted here as where it ran, and can be written to",
    ),
    ("cpu-features", "restore on a machine with the same kind of processor"),
    (
        "mount-external",
        "unmount it before the checkpoint, or have it mounted by who starts the container, whose configuration then names it",
    ),
    ("mount-unsupported", "unmount it before the checkpoint"),
    ("mount-root", "unmount it before the checkpoint, or mount it from outside of the container"),
    ("tcp-established-restore", "checkpoint it with --tcp close, or restore where its old address is"),
    ("tcp-close-needed", CLOSED),
    ("tcp-restore", CLOSED),
    ("tcp-repair", "grant CAP_NET_ADMIN; `torpor doctor` shows what is missing"),
    ("port-in-use", "stop the other program, or restore in another network"),
    ("port-privilege", "grant CAP_NET_BIND_SERVICE"),
    (
        "unix-external",
        "give --ext-unix-sockets here and at the restore, or end the connection before the checkpoint",
    ),
    ("unix-external-restore", "start who was at the other end; --ext-unix-sockets restores it without"),
    ("unix-reconnect", "start the program that serves the socket first"),
    ("network-lock-iptables", "install iptables, and grant CAP_NET_ADMIN"),
    ("network-lock-nftables", "grant CAP_NET_ADMIN, on a kernel with nftables"),
    ("pid-taken", "restore in a PID namespace of its own, or end that process"),
    ("not-session-leader", "give --shell-job, at the checkpoint and at the restore; or start it by setsid"),
    ("terminal-outside", "give --shell-job, here and at the restore; or start it without a terminal"),
    ("terminal-session", "give --shell-job; or start it by setsid, and take another checkpoint"),
];

const CLOSE: &str = "have the program close it before the checkpoint";
const CLOSED: &str = "checkpoint it with --tcp close";

/// The remedy for the failure of that id, where it is another.
pub(super) fn remedy(id: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(known, _)| *known == id).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::known;

    #[test]
    fn every_row_is_about_a_failure() {
        for (id, remedy) in REMEDIES {
            assert!(known().any(|known| known.id == *id), "{id}");
            assert!(!remedy.contains('{') && !remedy.ends_with('.'), "{id}");
        }
    }

    #[test]
    fn no_remedy_is_about_the_configuration_of_torpor_run() {
        const OURS: [&str; 6] = [
            "hook preCheckpoint",
            "in volumes",
            "additionalPaths",
            "inotifyIncompatible",
            "extUnixSockets",
            "torpor run",
        ];
        for known in known() {
            let remedy = known.remedy_elsewhere();
            assert!(!OURS.iter().any(|words| remedy.contains(words)), "{}: {remedy}", known.id);
        }
    }
}

//! Rows about what this process may do. `docs/privileges.md` has the same list for people.

use super::{Row, Topic};
use crate::privileges::{Operation, Outcome, Privileges};

struct Meaning {
    id: &'static str,
    title: &'static str,
    /// What does not work without it.
    without: &'static str,
    remedy: &'static str,
    needed: bool,
}

const fn needed(
    id: &'static str,
    title: &'static str,
    without: &'static str,
    remedy: &'static str,
) -> Meaning {
    Meaning { id, title, without, remedy, needed: true }
}

const fn useful(
    id: &'static str,
    title: &'static str,
    without: &'static str,
    remedy: &'static str,
) -> Meaning {
    Meaning { id, title, without, remedy, needed: false }
}

fn meaning(operation: Operation) -> Meaning {
    use Operation as O;
    match operation {
        O::Ptrace => needed(
            "privilege.ptrace",
            "trace other processes",
            "nothing can be frozen",
            "grant CAP_SYS_PTRACE",
        ),
        O::ReadMemory => useful(
            "privilege.readMemory",
            "read other processes' memory",
            "memory is copied more slowly",
            "grant CAP_SYS_PTRACE",
        ),
        O::Kcmp => needed(
            "privilege.kcmp",
            "compare kernel objects (kcmp)",
            "shared descriptors cannot be told apart",
            "grant CAP_SYS_PTRACE, and run without a seccomp filter",
        ),
        O::MapFiles => needed(
            "privilege.mapFiles",
            "follow mapped files (map_files)",
            "programs with shared or deleted mappings cannot be frozen",
            "grant CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) in the machine's own user namespace",
        ),
        O::ChoosePid => needed(
            "privilege.choosePid",
            "choose process numbers (clone3)",
            "nothing can be restored",
            "grant CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN)",
        ),
        O::LastPid => useful(
            "privilege.lastPid",
            "write ns_last_pid",
            "kernels before 5.5 cannot restore; others choose numbers by clone3",
            "nothing to do where clone3 works; else a /proc/sys that can be written, and CAP_CHECKPOINT_RESTORE",
        ),
        O::TimeNamespace => useful(
            "privilege.timeNamespace",
            "time namespaces",
            "after a restore on another machine, programs see monotonic time jump",
            "grant CAP_SYS_ADMIN and CAP_SYS_TIME",
        ),
        O::IpcNamespace => useful(
            "privilege.ipcNamespace",
            "IPC namespaces",
            "programs that use System V shared memory or semaphores cannot be frozen",
            "grant CAP_SYS_ADMIN",
        ),
        O::MountNamespace => useful(
            "privilege.mountNamespace",
            "mount namespaces",
            "containers cannot be restored from outside; `torpor run` in a container does not need it",
            "grant CAP_SYS_ADMIN",
        ),
        O::PidNamespace => useful(
            "privilege.pidNamespace",
            "PID namespaces",
            "containers cannot be restored from outside; `torpor run` in a container does not need it",
            "grant CAP_SYS_ADMIN",
        ),
        O::TcpRepair => useful(
            "privilege.tcpRepair",
            "repair TCP sockets",
            "programs with established TCP connections cannot be frozen unless the connections are closed",
            "grant CAP_NET_ADMIN in the network's user namespace",
        ),
        O::ForceBuffers => useful(
            "privilege.forceBuffers",
            "exceed the limit on socket buffers",
            "freezing is slower where net.core.wmem_max is small; some socket buffers are restored smaller",
            "grant CAP_NET_ADMIN in the machine's own user namespace, or set net.core.wmem_max to 4194304",
        ),
        O::SocketDiagnosis => needed(
            "privilege.socketDiagnosis",
            "ask about sockets",
            "CRIU cannot list sockets",
            "run without a seccomp filter",
        ),
        O::RaiseLimit => useful(
            "privilege.raiseLimit",
            "raise hard limits",
            "a program whose hard limits are above Torpor's cannot be restored",
            "grant CAP_SYS_RESOURCE",
        ),
        O::SuspendSeccomp => useful(
            "privilege.suspendSeccomp",
            "put aside a program's seccomp filter",
            "programs under a seccomp filter of their own cannot be frozen",
            "grant CAP_SYS_ADMIN, and run Torpor itself without a filter (seccompProfile Unconfined)",
        ),
        O::KernelFaults => useful(
            "privilege.kernelFaults",
            "page faults inside the kernel",
            "restores load all memory first instead of on demand",
            "grant CAP_SYS_PTRACE or set vm.unprivileged_userfaultfd=1",
        ),
        O::UserFaults => useful(
            "privilege.userFaults",
            "page faults of user code",
            "restores load all memory first instead of on demand",
            "run without a seccomp filter, on a kernel with CONFIG_USERFAULTFD=y",
        ),
        O::SoftDirty => useful(
            "privilege.softDirty",
            "track written pages (soft-dirty)",
            "CRIU's pre-dump does not work; Torpor finds what changed by content",
            "use a kernel with CONFIG_MEM_SOFT_DIRTY=y",
        ),
    }
}

pub(super) fn rows(privileges: &Privileges) -> Vec<Row> {
    privileges
        .trials
        .iter()
        .map(|trial| {
            let meaning = meaning(trial.operation);
            let row = Row::new(meaning.id, Topic::Privilege, meaning.title);
            let found = format!("{}; without it, {}", trial.outcome, meaning.without);
            match &trial.outcome {
                Outcome::Granted => row.ok("allowed"),
                Outcome::Untried { .. } => row.skip(found),
                _ if meaning.needed => row.fail(found, meaning.remedy),
                // Choosing numbers by clone3 makes the older way unneeded.
                _ if trial.operation == Operation::LastPid && privileges.allow(Operation::ChoosePid) => {
                    row.skip(format!("{}: not needed, clone3 works", trial.outcome))
                }
                // Torpor does without, so a warning would ask for nothing.
                _ if trial.operation == Operation::SoftDirty => row.skip(found),
                _ => row.warn(found, meaning.remedy),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Status, findings};
    use super::*;

    #[test]
    fn a_refusal_weighs_what_depends_on_it() {
        let table = [
            (Operation::Ptrace, Status::Fail),
            (Operation::ChoosePid, Status::Fail),
            (Operation::TimeNamespace, Status::Warn),
            (Operation::LastPid, Status::Skip),
            (Operation::SoftDirty, Status::Skip),
        ];
        for (operation, status) in table {
            let mut privileges = findings::tests::perfect().privileges;
            let trial = privileges.trials.iter_mut().find(|trial| trial.operation == operation).unwrap();
            trial.outcome = Outcome::Refused { errno: 1 };
            let rows = rows(&privileges);
            let row = rows.iter().find(|row| row.status != Status::Ok).unwrap();
            assert_eq!((row.status, row.id.as_str()), (status, meaning(operation).id));
        }
    }
}

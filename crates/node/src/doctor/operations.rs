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
            "grant CAP_SYS_PTRACE, and allow ptrace in the seccomp profile",
        ),
        O::ReadMemory => useful(
            "privilege.readMemory",
            "read other processes' memory",
            "memory is copied more slowly",
            "grant CAP_SYS_PTRACE, and allow process_vm_readv in the seccomp profile",
        ),
        O::Kcmp => needed(
            "privilege.kcmp",
            "compare kernel objects (kcmp)",
            "shared descriptors cannot be told apart",
            "allow kcmp in the seccomp profile (deploy/seccomp.json), and grant CAP_SYS_PTRACE",
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
            "grant CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN), and allow clone3 in the seccomp profile",
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
            "grant CAP_SYS_ADMIN and CAP_SYS_TIME, and allow unshare in the seccomp profile",
        ),
        O::IpcNamespace => useful(
            "privilege.ipcNamespace",
            "IPC namespaces",
            "programs that use System V shared memory or semaphores cannot be frozen",
            "grant CAP_SYS_ADMIN, and allow unshare in the seccomp profile",
        ),
        O::MountNamespace => useful(
            "privilege.mountNamespace",
            "mount namespaces",
            "containers cannot be restored from outside; `torpor run` in a container does not need it",
            "grant CAP_SYS_ADMIN, and allow unshare and mount in the seccomp profile",
        ),
        O::PidNamespace => useful(
            "privilege.pidNamespace",
            "PID namespaces",
            "containers cannot be restored from outside; `torpor run` in a container does not need it",
            "grant CAP_SYS_ADMIN, and allow unshare in the seccomp profile",
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
            "allow socket(AF_NETLINK) in the seccomp profile",
        ),
        O::RaiseLimit => useful(
            "privilege.raiseLimit",
            "raise hard limits",
            "a program that lowered a hard limit below Torpor's is refused at restore where the limit must be raised",
            "grant CAP_SYS_RESOURCE",
        ),
        O::SuspendSeccomp => useful(
            "privilege.suspendSeccomp",
            "put aside a program's seccomp filter",
            "programs under a seccomp filter of their own cannot be frozen",
            "grant CAP_SYS_ADMIN, and run Torpor itself without a filter (seccompProfile: Unconfined)",
        ),
        O::KernelFaults => useful(
            "privilege.kernelFaults",
            "page faults inside the kernel",
            "restores load all memory first instead of on demand",
            "grant CAP_SYS_PTRACE or set vm.unprivileged_userfaultfd=1, and allow userfaultfd in the seccomp profile",
        ),
        O::UserFaults => useful(
            "privilege.userFaults",
            "page faults of user code",
            "restores load all memory first instead of on demand",
            "allow userfaultfd in the seccomp profile; the kernel needs CONFIG_USERFAULTFD",
        ),
        O::SoftDirty => useful(
            "privilege.softDirty",
            "track written pages (soft-dirty)",
            "CRIU's pre-dump does not work; Torpor finds what changed by content",
            "nothing to do for Torpor; else a kernel with CONFIG_MEM_SOFT_DIRTY=y",
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
            let found = format!("{}: {}", trial.outcome, meaning.without);
            match &trial.outcome {
                Outcome::Granted => row.ok("allowed"),
                Outcome::Untried { .. } => row.skip(found),
                _ if meaning.needed => row.fail(found, meaning.remedy),
                // Choosing numbers by clone3 makes the older way unneeded.
                _ if trial.operation == Operation::LastPid && privileges.allow(Operation::ChoosePid) => {
                    row.skip(format!("{}: not needed, clone3 works", trial.outcome))
                }
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
            (Operation::SoftDirty, Status::Warn),
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

//! Rows about what confines this process: filters, modules, namespaces, and the network's tools.

use super::{Findings, Row, Topic};
use crate::privileges::{Operation, Seccomp, WANTED_SEND_BUFFER};

pub(super) fn rows(findings: &Findings) -> Vec<Row> {
    vec![
        seccomp(findings),
        label(findings),
        new_privileges(findings),
        user_namespace(findings),
        send_buffer(findings),
        firewall(findings),
    ]
}

fn seccomp(findings: &Findings) -> Row {
    let row = Row::new("confinement.seccomp", Topic::Confinement, "seccomp filter");
    match findings.privileges.seccomp {
        Seccomp::Off => row.ok("none"),
        // The program inherits the filter, and the kernel lets only an unfiltered process put aside a filter
        // (kernel/ptrace.c, PTRACE_O_SUSPEND_SECCOMP), which CRIU must: no profile, however wide, can work.
        Seccomp::Filter => row.fail(
            "filtered: what is started here inherits the filter, and from under a filter it cannot be frozen",
            "give the container seccompProfile Unconfined (Docker: --security-opt seccomp=unconfined)",
        ),
        Seccomp::Strict => {
            row.fail("strict: nothing can be started", "run Torpor outside strict seccomp mode")
        }
        Seccomp::Unknown => row.skip("the kernel does not say"),
    }
}

fn label(findings: &Findings) -> Row {
    let row = Row::new("confinement.label", Topic::Confinement, "security module");
    let Some(label) = &findings.privileges.security_label else {
        return row.ok("none confines this process");
    };
    let free = ["unconfined", "unconfined_t", "spc_t", "kernel"];
    let confined = !free.iter().any(|word| label.split([':', ' ']).any(|part| part == *word));
    match (confined, findings.privileges.allow(Operation::Ptrace)) {
        (false, _) => row.ok(label),
        (true, true) => row.ok(format!("{label}; tracing is allowed all the same")),
        (true, false) => row.warn(
            format!("{label}: may be what forbids tracing"),
            "AppArmor: appArmorProfile Unconfined, or a profile with `ptrace` and `mount`; SELinux: type spc_t",
        ),
    }
}

fn new_privileges(findings: &Findings) -> Row {
    let row = Row::new("confinement.noNewPrivileges", Topic::Confinement, "no_new_privs");
    match (findings.privileges.no_new_privileges, findings.privileges.user) {
        (false, _) => row.ok("off"),
        (true, 0) => row.ok("on; without effect on root"),
        (true, _) => row.warn(
            "on: file capabilities on Torpor's binary have no effect",
            "set allowPrivilegeEscalation: true in the container's security context, or run as root",
        ),
    }
}

fn user_namespace(findings: &Findings) -> Row {
    let row = Row::new("confinement.userNamespace", Topic::Confinement, "user namespace");
    if findings.privileges.initial_user_namespace {
        return row.ok("the machine's own");
    }
    row.warn(
        "one of its own: capabilities count only inside, and some of what CRIU does is checked against the machine's",
        "set hostUsers: true for the pod, or run rootful containers; the rows on privileges say what is really refused",
    )
}

fn send_buffer(findings: &Findings) -> Row {
    let row = Row::new("confinement.sendBuffer", Topic::Confinement, "socket buffers");
    let got = findings.privileges.send_buffer;
    let limit =
        findings.send_buffer_limit.map(|limit| format!(", net.core.wmem_max is {limit}")).unwrap_or_default();
    let found = format!("{} KiB of {} KiB asked for{limit}", got >> 10, WANTED_SEND_BUFFER >> 10);
    if got >= u64::from(WANTED_SEND_BUFFER) {
        return row.ok(found);
    }
    row.warn(
        format!("{found}: freezing takes longer"),
        format!("grant CAP_NET_ADMIN in the machine's own user namespace, or set net.core.wmem_max to {WANTED_SEND_BUFFER}"),
    )
}

fn firewall(findings: &Findings) -> Row {
    let row = Row::new("confinement.firewall", Topic::Confinement, "network lock");
    if findings.firewalls.is_empty() {
        return row.warn(
            "neither iptables-restore nor nft: established connections cannot be locked while they are copied",
            "install nftables or iptables, or close connections (--tcp close)",
        );
    }
    row.ok(findings.firewalls.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::{Status, findings};
    use super::*;
    use crate::privileges::Outcome;

    fn refuse(findings: &mut Findings, operation: Operation) {
        for trial in &mut findings.privileges.trials {
            if trial.operation == operation {
                trial.outcome = Outcome::Refused { errno: 1 };
            }
        }
    }

    #[test]
    fn any_filter_on_ourselves_is_one_too_many() {
        let mut findings = findings::tests::perfect();
        for (mode, status) in
            [(Seccomp::Off, Status::Ok), (Seccomp::Filter, Status::Fail), (Seccomp::Strict, Status::Fail)]
        {
            findings.privileges.seccomp = mode;
            assert_eq!(seccomp(&findings).status, status);
        }
    }

    #[test]
    fn a_label_matters_only_where_tracing_is_refused() {
        for (text, traced, status) in [
            ("unconfined", false, Status::Ok),
            ("system_u:system_r:spc_t:s0", false, Status::Ok),
            ("docker-default (enforce)", true, Status::Ok),
            ("docker-default (enforce)", false, Status::Warn),
            ("system_u:system_r:container_t:s0:c1,c2", false, Status::Warn),
        ] {
            let mut findings = findings::tests::perfect();
            findings.privileges.security_label = Some(text.into());
            if !traced {
                refuse(&mut findings, Operation::Ptrace);
            }
            assert_eq!(label(&findings).status, status, "{text}");
        }
    }

    #[test]
    fn no_new_privileges_matter_to_users_only() {
        let mut findings = findings::tests::perfect();
        findings.privileges.no_new_privileges = true;
        assert_eq!(new_privileges(&findings).status, Status::Ok);
        findings.privileges.user = 1000;
        assert_eq!(new_privileges(&findings).status, Status::Warn);
    }
}

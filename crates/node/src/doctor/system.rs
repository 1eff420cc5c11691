//! Rows about the kernel, the processor and control groups.

use super::{Findings, Row, Topic};
use crate::machine::{Cgroups, KernelOption, KernelVersion};

/// The oldest kernel in long-term support; nothing older is tried.
const OLDEST: KernelVersion = KernelVersion(5, 10);

pub(super) fn rows(findings: &Findings) -> Vec<Row> {
    let machine = &findings.machine;
    let kernel = &machine.kernel;
    let row = Row::new("kernel.version", Topic::Machine, "kernel");
    let release = format!("{} {}", kernel.release, kernel.architecture);
    let version = match kernel.version() {
        Some(version) if version < OLDEST => row.fail(
            format!("{release}: older than {OLDEST}"),
            format!("use a machine with kernel {OLDEST} or newer"),
        ),
        Some(_) => row.ok(release),
        None => row.warn(release, format!("Torpor is tested on kernels from {OLDEST}")),
    };

    let row = Row::new("kernel.checkpointRestore", Topic::Machine, "CONFIG_CHECKPOINT_RESTORE");
    let option = match kernel.checkpoint_restore {
        KernelOption::Built => row.ok("built in"),
        KernelOption::Seen => row.ok("built in, by what the kernel does"),
        KernelOption::Missing => row.fail(
            "not built in",
            "use a kernel built with CONFIG_CHECKPOINT_RESTORE=y, as those of Debian, Ubuntu, Fedora, RHEL and the large clouds are",
        ),
        KernelOption::Unknown => row.warn(
            "cannot be seen from here",
            "look for it in /boot/config-$(uname -r) on the machine itself",
        ),
    };

    let cpu = &machine.cpu;
    let level = cpu.level.map(|level| format!(", x86-64-v{level}")).unwrap_or_default();
    let features = format!("{}{level}, {} features recorded", cpu.model, cpu.features.len());
    let cpu = Row::new("cpu", Topic::Machine, "processor").ok(features);

    let row = Row::new("cgroups", Topic::Machine, "control groups");
    let cgroups = match machine.cgroups {
        Cgroups::Unified => row.ok("version 2"),
        Cgroups::Hybrid => row.ok("version 1, with version 2 beside it"),
        Cgroups::Legacy => row.ok("version 1"),
        Cgroups::None => {
            row.skip("not mounted: memory limits cannot be seen, budgets go by the machine's memory")
        }
    };

    let row = Row::new("container", Topic::Machine, "container");
    let container = match &machine.container {
        None => row.ok("none seen"),
        Some(container) => {
            let mut words = vec![container.kind.clone()];
            words.extend(container.system.clone());
            words.extend(container.id.as_ref().map(|id| id.chars().take(12).collect()));
            row.ok(words.join(", "))
        }
    };
    vec![version, option, cpu, cgroups, container]
}

#[cfg(test)]
mod tests {
    use super::super::{Status, findings};
    use super::*;

    #[test]
    fn kernels_are_judged_by_version_and_option() {
        use KernelOption::{Built, Missing, Seen, Unknown};
        let table = [
            ("6.18.1", Built, Status::Ok, Status::Ok),
            ("5.10.0-28-amd64", Seen, Status::Ok, Status::Ok),
            ("4.19.0", Missing, Status::Fail, Status::Fail),
            ("odd", Unknown, Status::Warn, Status::Warn),
        ];
        for (release, option, by_version, by_option) in table {
            let mut findings = findings::tests::perfect();
            findings.machine.kernel.release = release.into();
            findings.machine.kernel.checkpoint_restore = option;
            let rows = rows(&findings);
            assert_eq!((rows[0].status, rows[1].status), (by_version, by_option), "{release}");
        }
    }
}

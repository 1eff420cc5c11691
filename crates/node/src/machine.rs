//! What this machine is: kernel, processor, control groups, identity. Recorded with every checkpoint, and compared
//! before one is restored.

mod cpu;
mod kernel;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use cpu::Cpu;
pub use kernel::{Kernel, KernelOption, KernelVersion};

/// Facts about the machine and the container around this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The running kernel.
    pub kernel: Kernel,
    /// The processor.
    pub cpu: Cpu,
    /// The size of a page, in bytes.
    pub page_size: u64,
    /// Which control groups are mounted.
    pub cgroups: Cgroups,
    /// What this kernel calls the machine.
    pub host_name: String,
    /// Random for each boot of the kernel (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Stays over boots where there is one (`/etc/machine-id`); in a container it is often empty, or the image's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine_id: Option<String>,
    /// The container this process is in, if it looks like one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
}

/// Which version of control groups the machine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cgroups {
    /// One tree for all controllers.
    Unified,
    /// A tree for each controller, and one of version 2 without controllers.
    Hybrid,
    /// A tree for each controller.
    Legacy,
    /// None is mounted at `/sys/fs/cgroup`.
    None,
}

/// Hints about the container around this process. All are hints: nothing obliges a runtime to leave them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// How it was recognised: `kubernetes`, `docker`, `podman`, or what the variable `container` says.
    pub kind: String,
    /// The container's 64-digit id, from the control group or from the mounts a runtime makes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// The image's name, where the runtime tells it (Podman does, in `/run/.containerenv`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<String>,
    /// `ID` and `VERSION_ID` of the image's operating system, such as `debian 12`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system: Option<String>,
}

impl Machine {
    /// Reads the facts. What cannot be read is left empty: no single fact is worth failing for.
    #[must_use]
    pub fn read() -> Machine {
        let names = rustix::system::uname();
        Machine {
            kernel: Kernel::read(),
            cpu: Cpu::read(),
            page_size: rustix::param::page_size() as u64,
            cgroups: cgroups(&text("/proc/self/mountinfo")),
            host_name: names.nodename().to_string_lossy().into_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            machine_id: Some(text("/etc/machine-id").trim().to_owned()).filter(|id| !id.is_empty()),
            container: container(&Traces::read()),
        }
    }

    /// Whether `other` was read during the same boot of the same kernel.
    #[must_use]
    pub fn same_boot(&self, other: &Machine) -> bool {
        !self.boot_id.is_empty() && self.boot_id == other.boot_id
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Reads the version from the mounts: `cgroup2` at the root is the unified tree.
fn cgroups(mountinfo: &str) -> Cgroups {
    let mut unified = false;
    let mut legacy = false;
    let mut beside = false;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).unwrap_or_default();
        match right.split(' ').next() {
            Some("cgroup2") if point == "/sys/fs/cgroup" => unified = true,
            Some("cgroup2") if point.starts_with("/sys/fs/cgroup/") => beside = true,
            Some("cgroup") => legacy = true,
            _ => {}
        }
    }
    match (unified, legacy, beside) {
        (true, false, _) => Cgroups::Unified,
        (_, true, true) | (true, true, _) => Cgroups::Hybrid,
        (false, true, false) => Cgroups::Legacy,
        (false, false, _) => Cgroups::None,
    }
}

/// What runtimes leave behind for a container to see.
#[derive(Debug, Default)]
struct Traces {
    kubernetes: bool,
    docker: bool,
    podman: Option<String>,
    variable: Option<String>,
    cgroup: String,
    mountinfo: String,
    os_release: String,
}

impl Traces {
    fn read() -> Traces {
        Traces {
            kubernetes: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            docker: Path::new("/.dockerenv").exists(),
            podman: fs::read_to_string("/run/.containerenv").ok(),
            variable: std::env::var("container").ok().filter(|kind| !kind.is_empty()),
            cgroup: text("/proc/self/cgroup"),
            mountinfo: text("/proc/self/mountinfo"),
            os_release: text("/etc/os-release"),
        }
    }
}

fn container(traces: &Traces) -> Option<Container> {
    let kind = if traces.kubernetes {
        "kubernetes".to_owned()
    } else if traces.docker {
        "docker".to_owned()
    } else if traces.podman.is_some() {
        "podman".to_owned()
    } else {
        traces.variable.clone()?
    };
    let assigned = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches('"').to_owned())
            .filter(|value| !value.is_empty())
    };
    let system =
        assigned(&traces.os_release, "ID").map(|id| match assigned(&traces.os_release, "VERSION_ID") {
            Some(version) => format!("{id} {version}"),
            None => id,
        });
    Some(Container {
        kind,
        id: long_id(&traces.cgroup).or_else(|| long_id(&traces.mountinfo)),
        image: traces.podman.as_deref().and_then(|text| assigned(text, "image")),
        system,
    })
}

/// The last run of exactly 64 hexadecimal digits.
fn long_id(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .rfind(|word| word.len() == 64 && !word.bytes().any(|byte| byte.is_ascii_uppercase()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_through_json() {
        let machine = Machine::read();
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
        assert!(machine.page_size >= 4096);
        assert!(machine.same_boot(&machine));
    }

    #[test]
    fn control_groups_are_told_apart_by_their_mounts() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let v1 = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let beside = "32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroups(v2), Cgroups::Unified);
        assert_eq!(cgroups(v1), Cgroups::Legacy);
        assert_eq!(cgroups(&format!("{v1}{beside}")), Cgroups::Hybrid);
        assert_eq!(cgroups(""), Cgroups::None);
    }

    #[test]
    fn a_container_is_recognised_by_what_its_runtime_left() {
        let id = "0123456789abcdef".repeat(4);
        let traces = Traces {
            podman: Some("engine=\"podman-5\"\nimage=\"example/app:1\"\n".into()),
            cgroup: format!("0::/libpod-{id}.scope\n"),
            os_release: "NAME=x\nID=debian\nVERSION_ID=\"12\"\n".into(),
            ..Traces::default()
        };
        let found = container(&traces).unwrap();
        assert_eq!(found.kind, "podman");
        assert_eq!(found.id, Some(id));
        assert_eq!(found.image.as_deref(), Some("example/app:1"));
        assert_eq!(found.system.as_deref(), Some("debian 12"));
        assert_eq!(container(&Traces::default()), None);
    }
}

//! The configuration of a container that is to become a template (OCI runtime specification, `config.md`, `config-linux.md`).
//!
//! It has what any engine gives a container, and nothing that one of them withholds: what is restored must not have more than
//! it is granted where it is restored, and it is not known where that is. So it has the fewest capabilities, the strictest
//! flags of mounts and the highest `oom_score_adj` of them all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use torpor_criu::image::credential::CAPABILITIES as KNOWN;

use super::user::User;
use crate::capabilities::Capabilities;
use crate::seccomp::Profile;

/// Capabilities that containers have under each engine (containers/common, `pkg/config`: the shortest list).
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// What those allow, for whoever asks by bits.
#[must_use]
pub fn capabilities() -> Capabilities {
    let plain = |name: &str| name.trim_start_matches("CAP_").to_ascii_lowercase();
    let number = |name: &&str| KNOWN.iter().position(|known| *known == plain(name));
    Capabilities::from_bits(CAPABILITIES.iter().filter_map(number).fold(0, |set, number| set | 1 << number))
}

/// What system calls are held against where nothing else is said: what the profiles of containerd (`contrib/seccomp/seccomp_default.go`,
/// Docker's is the same) and of Podman (containers-common, `seccomp.json`) both let through.
const PROFILE: &str = include_str!("profile.json");

/// That profile.
#[must_use]
pub fn profile() -> Profile {
    serde_json::from_str(PROFILE).unwrap_or_else(|error| unreachable!("a profile of ours: {error}"))
}

/// Paths that are covered up (containerd, `pkg/oci/spec.go`; containers/common, `pkg/config`).
pub(crate) const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
/// Paths that are read-only.
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Where programs are looked for, as engines have it.
const SEARCH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that every engine makes for a container.
pub(super) const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// What a program that is warmed up is called in its network.
pub(super) const HOSTNAME: &str = "warm";
/// How many files may be open at least under each engine: as systemd has it.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What an image says about the program in it (OCI image specification, `config.md`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Program {
    /// Variables, as NAME=VALUE.
    pub env: Option<Vec<String>>,
    /// The program and its first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments, or the program where there is no entrypoint.
    pub cmd: Option<Vec<String>>,
    /// Whom it runs as.
    pub user: Option<String>,
    /// Where it begins.
    pub working_dir: Option<PathBuf>,
}

impl Program {
    /// The command, with other arguments than the image's where there are any.
    #[must_use]
    pub fn command(&self, arguments: &[String]) -> Vec<String> {
        let entrypoint = self.entrypoint.clone().unwrap_or_default();
        let rest =
            if arguments.is_empty() { self.cmd.clone().unwrap_or_default() } else { arguments.to_vec() };
        entrypoint.into_iter().chain(rest).collect()
    }

    /// The variables, with others on top.
    fn environment(&self, given: &[String], user: &User) -> Vec<String> {
        let home = user.home.as_deref().unwrap_or(Path::new("/")).display();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let usual = [SEARCH.to_owned(), format!("HOME={home}")];
        for variable in usual.iter().chain(self.env.iter().flatten()).chain(given) {
            if let Some((name, value)) = variable.split_once('=') {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
        all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// What else a container is made of.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// Other arguments than the image's.
    pub arguments: &'a [String],
    /// Further variables, as NAME=VALUE.
    pub environment: &'a [String],
    /// Whether its processes may gain privileges, as by setuid programs.
    pub new_privileges: bool,
    /// What system calls are held against, in the runtime's form.
    pub seccomp: Option<Value>,
    /// Where something will be mounted; here it is an empty directory.
    pub mounts: &'a [PathBuf],
}

/// What only is known once there is a place for the container.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// The directory with the files of [`FILES`], `shm`, and one for each mount by its number.
    pub(super) outside: &'a Path,
    pub(super) user: &'a User,
    /// The network namespace that it joins.
    pub(super) network: &'a Path,
    /// Its control group.
    pub(super) group: &'a str,
    /// Whether the machine has version 2 of control groups.
    pub(super) unified: bool,
    /// The most files that this process may let it open.
    pub(super) open_files: u64,
}

/// The configuration.
pub(super) fn configuration(program: &Program, parts: &Parts<'_>, around: &Surroundings<'_>) -> Value {
    let user = around.user;
    let cwd = program.working_dir.as_deref().filter(|path| path.is_absolute()).unwrap_or(Path::new("/"));
    let most = around.open_files.min(OPEN_FILES.1);
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
        json!({"type": "network", "path": around.network}),
    ];
    // As engines do it: hidden in version 2, the machine's in version 1.
    if around.unified {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": around.group,
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    });
    if let Some(seccomp) = &parts.seccomp {
        linux["seccomp"] = seccomp.clone();
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
            "args": program.command(parts.arguments),
            "env": program.environment(parts.environment, user),
            "cwd": cwd,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "noNewPrivileges": !parts.new_privileges,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES.0.min(most), "hard": most}],
            "oomScoreAdj": 1000,
        },
        "root": {"path": super::ROOT, "readonly": false},
        "hostname": HOSTNAME,
        "mounts": mounts(parts, around.outside),
        "linux": linux,
    })
}

fn mounts(parts: &Parts<'_>, outside: &Path) -> Vec<Value> {
    let own = |place: &str, kind: &str, options: &[&str]| {
        let options: Vec<_> = ["nosuid", "noexec"].iter().chain(options).collect();
        json!({"destination": place, "type": kind, "source": kind, "options": options})
    };
    let bind = |place: &Path, from: &str, options: &[&str]| {
        let options: Vec<_> = ["rbind", "rprivate", "nosuid", "nodev"].iter().chain(options).collect();
        json!({"destination": place, "type": "bind", "source": outside.join(from), "options": options})
    };
    let mut all = vec![
        own("/proc", "proc", &["nodev"]),
        own("/dev", "tmpfs", &["strictatime", "mode=755", "size=65536k"]),
        own("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        own("/dev/mqueue", "mqueue", &["nodev"]),
        own("/sys", "sysfs", &["nodev", "ro"]),
        own("/sys/fs/cgroup", "cgroup", &["nodev", "relatime", "ro"]),
        bind(Path::new("/dev/shm"), "shm", &["noexec"]),
    ];
    for name in FILES {
        all.push(bind(&Path::new("/etc").join(name), name, &["noexec"]));
    }
    for (number, place) in parts.mounts.iter().enumerate() {
        all.push(bind(place, &number.to_string(), &[]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Around;

    const IMAGE: &str = r#"{"Env": ["PATH=/opt/bin", "MODE=web"], "Entrypoint": ["/app"], "Cmd": ["serve"], "User": "web",
        "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}}"#;

    fn made(image: &str, parts: &Parts<'_>, unified: bool) -> Value {
        let user = User { uid: 33, gid: 34, groups: vec![40], home: Some("/srv".into()) };
        let around = Surroundings {
            outside: Path::new("/room/outside"),
            user: &user,
            network: Path::new("/proc/1/task/2/ns/net"),
            group: "/torpor-warm/1",
            unified,
            open_files: 4096,
        };
        configuration(&serde_json::from_str(image).unwrap(), parts, &around)
    }

    const PLAIN: Parts<'static> =
        Parts { arguments: &[], environment: &[], new_privileges: false, seccomp: None, mounts: &[] };

    #[test]
    fn the_program_is_the_images() {
        let config = made(IMAGE, &PLAIN, false);
        let process = &config["process"];
        assert_eq!(process["args"], json!(["/app", "serve"]));
        assert_eq!(process["env"], json!(["HOME=/srv", "MODE=web", "PATH=/opt/bin"]));
        assert_eq!(process["user"], json!({"uid": 33, "gid": 34, "additionalGids": [40]}));
        assert_eq!((&process["cwd"], &process["noNewPrivileges"]), (&json!("/srv"), &json!(true)));
        assert_eq!(process["rlimits"][0]["hard"], 4096);
        assert_eq!(config["linux"]["namespaces"].as_array().unwrap().len(), 5);
        assert_eq!(made("{}", &PLAIN, true)["linux"]["namespaces"][5]["type"], "cgroup");
        assert_eq!(made("{}", &PLAIN, true)["process"]["cwd"], "/");
    }

    #[test]
    fn the_profile_is_one_that_runtimes_take() {
        let around = Around { capabilities: capabilities(), kernel: "6.18.5" };
        let made = profile().for_runtime(around);
        assert_eq!(made["defaultErrnoRet"], 38);
        let groups = made["syscalls"].as_array().unwrap();
        let of = |name: &str| -> Vec<&Value> {
            let has = |group: &&Value| group["names"].as_array().unwrap().iter().any(|one| one == name);
            groups.iter().filter(has).collect()
        };
        assert_eq!(of("read")[0]["action"], "SCMP_ACT_ALLOW");
        assert_eq!(of("mount")[0]["errnoRet"], 1);
        assert_eq!(of("clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(of("chroot").len(), 1, "it has the capability");
        assert!(profile().filter(around).is_ok());
    }

    #[test]
    fn all_capabilities_are_known() {
        assert_eq!(capabilities().bits().count_ones() as usize, CAPABILITIES.len());
        assert!(capabilities().has("chown") && !capabilities().has("sys_admin"));
    }

    #[test]
    fn what_is_given_goes_before_the_images() {
        let arguments = ["warm".to_owned()];
        let environment = ["MODE=test".to_owned()];
        let mounts = [PathBuf::from("/data")];
        let parts = Parts {
            arguments: &arguments,
            environment: &environment,
            mounts: &mounts,
            new_privileges: true,
            seccomp: Some(json!({"defaultAction": "SCMP_ACT_ALLOW"})),
        };
        let config = made(IMAGE, &parts, false);
        assert_eq!(config["process"]["args"], json!(["/app", "warm"]));
        assert_eq!(config["process"]["env"][1], "MODE=test");
        assert_eq!(config["process"]["noNewPrivileges"], false);
        assert_eq!(config["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
        let last = config["mounts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["destination"], &last["source"]), (&json!("/data"), &json!("/room/outside/0")));
    }
}

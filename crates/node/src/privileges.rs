//! What this process may do, each thing tried alone.
//!
//! Capabilities say what should be allowed; seccomp filters, security modules, namespaces and kernel configuration
//! decide what is. So each operation that CRIU or Torpor needs is done for real in a child of its own, without effect
//! on anybody else. All of it takes a few milliseconds.

use std::ffi::CString;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::sys::probe::{self, Answer, Context, Question, Victim};

/// An operation that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Operation {
    /// Tracing a process that is neither child nor parent (`CAP_SYS_PTRACE`).
    Ptrace,
    /// Reading another process's memory (`process_vm_readv`, `CAP_SYS_PTRACE`).
    ReadMemory,
    /// Comparing kernel objects of two processes (`kcmp`).
    Kcmp,
    /// Following `/proc/PID/map_files` (`CAP_CHECKPOINT_RESTORE`).
    MapFiles,
    /// Starting a process with a chosen PID (`clone3` with `set_tid`, `CAP_CHECKPOINT_RESTORE`).
    ChoosePid,
    /// Writing `ns_last_pid`, the older way to choose a PID (`CAP_CHECKPOINT_RESTORE`).
    LastPid,
    /// A time namespace with an offset (`CAP_SYS_ADMIN`, `CAP_SYS_TIME`).
    TimeNamespace,
    /// An IPC namespace (`CAP_SYS_ADMIN`).
    IpcNamespace,
    /// A mount namespace (`CAP_SYS_ADMIN`).
    MountNamespace,
    /// A PID namespace (`CAP_SYS_ADMIN`).
    PidNamespace,
    /// A TCP socket's repair mode (`CAP_NET_ADMIN`).
    TcpRepair,
    /// Socket buffers beyond the system's limit (`CAP_NET_ADMIN`).
    ForceBuffers,
    /// Asking the kernel about sockets (`NETLINK_SOCK_DIAG`).
    SocketDiagnosis,
    /// Raising a hard resource limit (`CAP_SYS_RESOURCE`).
    RaiseLimit,
    /// Putting aside the seccomp filter of a traced process (`CAP_SYS_ADMIN`).
    SuspendSeccomp,
    /// Taking over page faults, also inside the kernel (`userfaultfd`, `CAP_SYS_PTRACE`).
    KernelFaults,
    /// Taking over page faults of user code (`userfaultfd` with `UFFD_USER_MODE_ONLY`).
    UserFaults,
    /// Tracking written pages (`CONFIG_MEM_SOFT_DIRTY`).
    SoftDirty,
}

/// Every operation, in the order in which they are shown, and how it is tried.
const QUESTIONS: &[(Operation, Question)] = &[
    (Operation::Ptrace, probe::ptrace),
    (Operation::ReadMemory, probe::read_memory),
    (Operation::Kcmp, probe::kcmp),
    (Operation::MapFiles, probe::map_files),
    (Operation::ChoosePid, probe::choose_pid),
    (Operation::LastPid, probe::last_pid),
    (Operation::TimeNamespace, probe::time_namespace),
    (Operation::IpcNamespace, probe::ipc_namespace),
    (Operation::MountNamespace, probe::mount_namespace),
    (Operation::PidNamespace, probe::pid_namespace),
    (Operation::TcpRepair, probe::tcp_repair),
    (Operation::ForceBuffers, probe::force_buffers),
    (Operation::SocketDiagnosis, probe::socket_diagnosis),
    (Operation::RaiseLimit, probe::raise_limit),
    (Operation::SuspendSeccomp, probe::suspend_seccomp),
    (Operation::KernelFaults, probe::kernel_faults),
    (Operation::UserFaults, probe::user_mode_faults),
    (Operation::SoftDirty, probe::soft_dirty),
];

impl Operation {
    /// Every operation, in the order in which they are shown.
    pub fn all() -> impl Iterator<Item = Operation> {
        QUESTIONS.iter().map(|(operation, _)| *operation)
    }
}

/// What came of trying an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
#[non_exhaustive]
pub enum Outcome {
    /// It is allowed.
    Granted,
    /// The kernel refused.
    Refused {
        /// The error number (`EPERM` is 1).
        errno: i32,
    },
    /// It was accepted and did nothing: the kernel was built without it.
    NoEffect,
    /// The process that tried was killed, as by a seccomp filter.
    Killed {
        /// The signal.
        signal: i32,
    },
    /// It could not be tried.
    Untried {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// Whether it is allowed.
    #[must_use]
    pub fn granted(&self) -> bool {
        *self == Outcome::Granted
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Granted => write!(f, "allowed"),
            Outcome::Refused { errno } => {
                // The library appends the number, which people cannot use.
                let text = rustix::io::Errno::from_raw_os_error(*errno).to_string();
                write!(f, "refused: {}", text.split(" (os error").next().unwrap_or(&text))
            }
            Outcome::NoEffect => write!(f, "not in this kernel"),
            Outcome::Killed { signal } => write!(f, "killed by signal {signal} when it tried"),
            Outcome::Untried { reason } => write!(f, "could not be tried: {reason}"),
        }
    }
}

/// One operation and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The operation.
    pub operation: Operation,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How system calls of this process are filtered (`Seccomp` in `/proc/PID/status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seccomp {
    /// Not at all.
    Off,
    /// Only read, write and exit are allowed.
    Strict,
    /// By a filter, such as a container runtime's profile.
    Filter,
    /// The kernel does not say.
    Unknown,
}

/// Everything this process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Privileges {
    /// Each operation that was tried.
    pub trials: Vec<Trial>,
    /// The effective capabilities, as the kernel's bit set.
    pub effective_capabilities: u64,
    /// The bounding set of capabilities.
    pub bounding_capabilities: u64,
    /// How system calls are filtered.
    pub seccomp: Seccomp,
    /// Whether file capabilities and set-uid are without effect (`no_new_privs`).
    pub no_new_privileges: bool,
    /// The security module's label, such as `docker-default (enforce)`; none where no module has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub security_label: Option<String>,
    /// The send buffer, in bytes, that a socket gets of 4 MiB asked for.
    pub send_buffer: u64,
    /// The effective user id.
    pub user: u32,
    /// Whether user ids are those of the initial user namespace.
    pub initial_user_namespace: bool,
}

/// What the page server asks for (see `torpor-criu`): a freeze is fastest with this much.
pub const WANTED_SEND_BUFFER: u32 = 4 << 20;

impl Privileges {
    /// Tries everything, each operation in a child of its own.
    #[must_use]
    pub fn read() -> Privileges {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Privileges {
            trials: try_all(),
            effective_capabilities: hexadecimal(&status, "CapEff:"),
            bounding_capabilities: hexadecimal(&status, "CapBnd:"),
            seccomp: seccomp(&status),
            no_new_privileges: field(&status, "NoNewPrivs:") == Some("1"),
            security_label: security_label(),
            send_buffer: probe::send_buffer(WANTED_SEND_BUFFER).unwrap_or(0),
            user: rustix::process::geteuid().as_raw(),
            initial_user_namespace: fs::read_to_string("/proc/self/uid_map")
                .is_ok_and(|map| maps_everyone(&map)),
        }
    }

    /// What came of `operation`; none if these were recorded by a version that did not try it.
    #[must_use]
    pub fn of(&self, operation: Operation) -> Option<&Outcome> {
        self.trials.iter().find(|trial| trial.operation == operation).map(|trial| &trial.outcome)
    }

    /// Whether `operation` was tried and is allowed.
    #[must_use]
    pub fn allow(&self, operation: Operation) -> bool {
        self.of(operation).is_some_and(Outcome::granted)
    }
}

fn try_all() -> Vec<Trial> {
    let victim = match Victim::new() {
        Ok(victim) => victim,
        Err(error) => {
            let untried = || Outcome::Untried { reason: format!("cannot fork: {error}") };
            return Operation::all().map(|operation| Trial { operation, outcome: untried() }).collect();
        }
    };
    let context = Context { victim: victim.pid(), map_file: map_file() };
    let mut trials = Vec::with_capacity(QUESTIONS.len());
    for (operation, question) in QUESTIONS {
        let outcome = match probe::ask(*question, &context) {
            Ok(Answer::Granted) => Outcome::Granted,
            Ok(Answer::Refused(errno)) => Outcome::Refused { errno },
            Ok(Answer::NoEffect) => Outcome::NoEffect,
            Ok(Answer::Killed(signal)) => Outcome::Killed { signal },
            Err(error) => Outcome::Untried { reason: error.to_string() },
        };
        trials.push(Trial { operation: *operation, outcome });
    }
    trials
}

/// The link in `/proc/self/map_files` of the first file this process has mapped.
fn map_file() -> Option<CString> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let range = first_file_mapping(&maps)?;
    CString::new(format!("/proc/self/map_files/{range}")).ok()
}

fn first_file_mapping(maps: &str) -> Option<String> {
    let line =
        maps.lines().find(|line| line.split_whitespace().nth(5).is_some_and(|p| p.starts_with('/')))?;
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    // Names of links have no leading zeros; /proc/PID/maps pads small addresses.
    let plain = |hex: &str| u64::from_str_radix(hex, 16).ok();
    Some(format!("{:x}-{:x}", plain(from)?, plain(to)?))
}

/// What `/proc/PID/status` says behind `name`, which ends in a colon.
pub(crate) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The bit set behind `name` in `/proc/PID/status`.
pub(crate) fn hexadecimal(status: &str, name: &str) -> u64 {
    field(status, name).and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or(0)
}

fn seccomp(status: &str) -> Seccomp {
    match field(status, "Seccomp:") {
        Some("0") => Seccomp::Off,
        Some("1") => Seccomp::Strict,
        Some("2") => Seccomp::Filter,
        _ => Seccomp::Unknown,
    }
}

fn security_label() -> Option<String> {
    // Modules can be stacked; the newer directories say which module a label is of, the plain file does not.
    ["apparmor/current", "selinux/current", "current"].iter().find_map(|name| {
        let label = fs::read_to_string(format!("/proc/self/attr/{name}")).ok()?;
        let label = label.trim_end_matches(['\0', '\n']).trim();
        (!label.is_empty()).then(|| label.to_owned())
    })
}

fn maps_everyone(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_tried_and_survived() {
        let privileges = Privileges::read();
        assert_eq!(privileges.trials.len(), Operation::all().count());
        // Asking the kernel about its sockets needs no privilege.
        assert!(privileges.of(Operation::SocketDiagnosis).is_some());
        assert!(privileges.send_buffer > 0);
    }

    #[test]
    fn privileges_keep_through_json() {
        let privileges = Privileges::read();
        let text = serde_json::to_string(&privileges).unwrap();
        assert_eq!(serde_json::from_str::<Privileges>(&text).unwrap(), privileges);
        assert!(text.contains(r#""operation":"ptrace""#), "{text}");
    }

    #[test]
    fn status_fields_are_read() {
        let status = "Name:\tx\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(hexadecimal(status, "CapEff:"), 0xa804_25fb);
        assert_eq!(seccomp(status), Seccomp::Filter);
        assert_eq!(seccomp(""), Seccomp::Unknown);
        assert_eq!(field(status, "NoNewPrivs:"), Some("1"));
    }

    #[test]
    fn the_initial_user_namespace_is_known_by_its_map() {
        assert!(maps_everyone("         0          0 4294967295\n"));
        assert!(!maps_everyone("         0     100000      65536\n"));
    }

    #[test]
    fn a_mapped_file_is_found_by_its_range() {
        let maps = "00400000-00401000 rw-p 00000000 00:00 0 \n\
                    7f00-8f00 r--p 00000000 fe:00 12 /usr/bin/x y\n";
        assert_eq!(first_file_mapping(maps).as_deref(), Some("7f00-8f00"));
        let padded = "00400000-00401000 r--p 00000000 fe:00 12 /usr/bin/x\n";
        assert_eq!(first_file_mapping(padded).as_deref(), Some("400000-401000"));
    }
}

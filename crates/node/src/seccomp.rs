//! Seccomp profiles, for the program alone.
//!
//! A filter on Torpor would be CRIU's too, and a filtered process may not put aside the filter of a program it freezes
//! (`PTRACE_O_SUSPEND_SECCOMP`, kernel/ptrace.c). So Torpor runs without, and the profile that a container runtime would
//! apply to all of the container is applied to the program only, as the last thing before it is executed. A restored
//! program has its filter from CRIU's images.
//!
//! Profiles are those of container runtimes: the `linux.seccomp` of an OCI configuration (runtime-spec,
//! `config-linux.md`), and the same with `includes` and `excludes` (containers/common, `pkg/seccomp`).

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use crate::capabilities::Capabilities;

mod bpf;

pub use bpf::Filter;
pub(crate) use bpf::Instruction;

/// Longest profile that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// `EPERM`, which a denied call fails with where the profile says nothing else.
const DENIED: u32 = libc::EPERM as u32;
/// The highest errno that a filter can return (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// Why a profile cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// It cannot be read.
    #[error("the seccomp profile {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than any profile is.
    #[error("the seccomp profile {} is longer than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no profile.
    #[error("the seccomp profile {} cannot be understood", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// An action that needs a process beside the program.
    #[error("the seccomp profile has the action {action}, which needs a process that answers")]
    Action {
        /// The action.
        action: &'static str,
    },
    /// A number that no filter can have.
    #[error("the seccomp profile has {what} {number}, and the highest is {most}")]
    Number {
        /// What it numbers.
        what: &'static str,
        /// The number.
        number: u32,
        /// The highest possible.
        most: u32,
    },
    /// More instructions than the kernel takes.
    #[error("the seccomp profile takes {count} instructions, and the kernel takes {} at most", bpf::MOST)]
    TooBig {
        /// How many it takes.
        count: usize,
    },
    /// A program with a filter could not be frozen.
    #[error("a program with a seccomp profile cannot be frozen without CAP_SYS_ADMIN")]
    Privilege,
}

impl SeccompError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            SeccompError::Read { .. } => "name a file in the container with --seccomp-profile",
            SeccompError::TooLong { .. } | SeccompError::Syntax { .. } | SeccompError::Number { .. } => {
                "use a profile as container runtimes take it: JSON with defaultAction and syscalls"
            }
            SeccompError::Action { .. } => {
                "use SCMP_ACT_ERRNO, SCMP_ACT_LOG or SCMP_ACT_KILL_PROCESS instead"
            }
            SeccompError::TooBig { .. } => "use a profile with fewer conditions on arguments",
            SeccompError::Privilege => "grant SYS_ADMIN to the container, or leave --seccomp-profile out",
        }
    }
}

/// A profile, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: Action,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Group>,
}

/// System calls that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    names: Vec<String>,
    /// One name, as older profiles have it.
    #[serde(default)]
    name: Option<String>,
    action: Action,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

/// When a group counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// A condition on an argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Comparison,
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    Differs,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    AtMost,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equals,
    #[serde(rename = "SCMP_CMP_GE")]
    AtLeast,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// The bits of `value` are those of `valueTwo`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    Masked,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// What conditions in a profile are held against.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// What the program may do.
    pub capabilities: Capabilities,
    /// The kernel's release, such as `6.18.5`.
    pub kernel: &'a str,
}

impl Profile {
    /// Reads a profile from a file.
    ///
    /// # Errors
    /// Where it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Profile, SeccompError> {
        let failed = |source| SeccompError::Read { path: path.to_owned(), source };
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(SeccompError::TooLong { path: path.to_owned() });
        }
        serde_json::from_slice(&text).map_err(|source| SeccompError::Syntax { path: path.to_owned(), source })
    }

    /// The profile as a runtime takes it (`linux.seccomp` of its configuration), with the groups that count here.
    #[must_use]
    pub fn for_runtime(&self, around: Around<'_>) -> serde_json::Value {
        let groups = self.syscalls.iter().filter(|group| group.counts(around)).map(|group| {
            let names: Vec<_> = group.names.iter().chain(&group.name).collect();
            let mut made = serde_json::json!({"names": names, "action": group.action});
            if let Some(errno) = group.errno_ret {
                made["errnoRet"] = errno.into();
            }
            if let Some(arguments) = &group.args {
                made["args"] = serde_json::json!(arguments);
            }
            made
        });
        let syscalls: Vec<_> = groups.collect();
        let mut made = serde_json::json!({
            "defaultAction": self.default_action,
            "architectures": ARCHITECTURES,
            "syscalls": syscalls,
        });
        if let Some(errno) = self.default_errno_ret {
            made["defaultErrnoRet"] = errno.into();
        }
        made
    }

    /// The filter that a program with these capabilities gets here. Calls that this release does not know by name are
    /// left out, as runtimes do.
    ///
    /// # Errors
    /// Where no filter can do what the profile says.
    pub fn filter(&self, around: Around<'_>) -> Result<Filter, SeccompError> {
        let mut filter = bpf::Builder::new(self.default_action.code(self.default_errno_ret)?);
        for group in self.syscalls.iter().filter(|group| group.counts(around)) {
            let action = group.action.code(group.errno_ret)?;
            let arguments = group.args.as_deref().unwrap_or_default();
            if let Some(argument) = arguments.iter().find(|argument| argument.index > 5) {
                return Err(SeccompError::Number { what: "the argument", number: argument.index, most: 5 });
            }
            let numbers = group.names.iter().chain(&group.name).filter_map(|name| name.parse::<Sysno>().ok());
            for number in numbers {
                filter.add(number.id() as u32, arguments, action);
            }
        }
        filter.finish()
    }
}

impl Group {
    fn counts(&self, around: Around<'_>) -> bool {
        let Condition { caps, arches, min_kernel } = &self.includes;
        let of = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let has = |name: &String| {
            let name = name.to_ascii_lowercase();
            around.capabilities.has(name.strip_prefix("cap_").unwrap_or(&name))
        };
        let included = of(caps).iter().all(has)
            && (of(arches).is_empty() || of(arches).iter().any(|arch| arch == ARCH))
            && min_kernel.as_ref().is_none_or(|least| at_least(around.kernel, least));
        let Condition { caps, arches, min_kernel } = &self.excludes;
        let excluded = of(caps).iter().any(has)
            || of(arches).iter().any(|arch| arch == ARCH)
            || min_kernel.as_ref().is_some_and(|least| at_least(around.kernel, least));
        included && !excluded
    }
}

/// This machine's architecture, by the name that profiles have for it.
const ARCH: &str = match () {
    () if cfg!(target_arch = "x86_64") => "amd64",
    () if cfg!(target_arch = "aarch64") => "arm64",
    () => std::env::consts::ARCH,
};

/// The ways in which calls are made on this machine, by the names that runtimes have for them.
const ARCHITECTURES: &[&str] = match () {
    () if cfg!(target_arch = "x86_64") => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    () if cfg!(target_arch = "aarch64") => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    () => &[],
};

/// Whether a kernel's release is `least` or later, by its first two numbers.
fn at_least(release: &str, least: &str) -> bool {
    let numbers = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0u32), numbers.next().unwrap_or(0u32))
    };
    numbers(release) >= numbers(least)
}

impl Action {
    /// What a filter returns (Linux, include/uapi/linux/seccomp.h).
    fn code(self, errno: Option<u32>) -> Result<u32, SeccompError> {
        let errno = errno.unwrap_or(DENIED);
        match self {
            Action::Allow => Ok(0x7fff_0000),
            Action::Log => Ok(0x7ffc_0000),
            Action::Errno if errno > MAX_ERRNO => {
                Err(SeccompError::Number { what: "the errno", number: errno, most: MAX_ERRNO })
            }
            Action::Errno => Ok(0x0005_0000 | errno),
            Action::Trap => Ok(0x0003_0000),
            Action::KillThread => Ok(0),
            Action::KillProcess => Ok(0x8000_0000),
            Action::Trace => Err(SeccompError::Action { action: "SCMP_ACT_TRACE" }),
            Action::Notify => Err(SeccompError::Action { action: "SCMP_ACT_NOTIFY" }),
        }
    }
}

#[cfg(test)]
mod tests;

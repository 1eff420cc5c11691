//! The check before a freeze: can this be captured, and what stands in the way?

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use torpor_criu::options::Tcp;
use torpor_criu::rpc::NetworkLock;

use super::error::CheckpointError;
use crate::capabilities::Capabilities;
use crate::facts;
use crate::files::watched;
use crate::mounts::{MountPlan, MountPolicy};
use crate::open_files::{OpenFile, OpenFiles, OpenKind};
use crate::tcp::{self, Connections};
use crate::triggers::Kind;
use crate::{config, privileges, process_tree};

/// How sockets with a peer outside are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// Established connections whose peer is outside.
    pub tcp: config::Tcp,
    /// Whether Unix sockets may have a peer outside.
    pub external_unix: bool,
    /// Whether this process may look into connections at all (`CAP_NET_ADMIN`).
    pub repair: bool,
}

/// What the check found.
#[derive(Debug)]
pub struct Ability {
    /// What the tree has open.
    pub open: OpenFiles,
    /// Its connections.
    pub connections: Connections,
    /// Files it watches that CRIU must be told where to find.
    pub watched: Vec<PathBuf>,
    /// Its memory that may have to be copied, in bytes.
    pub memory: u64,
    /// What stands in the way, worst first; nothing if it can be captured.
    pub obstacles: Vec<Obstacle>,
}

/// Something that stands in the way of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Torpor has no capability for CRIU to work with.
    NoCapability,
    /// CRIU could not give the program its bounding set back: it removes what is not in it, also where it is not there
    /// (CRIU, criu/pie/restorer.c).
    NoSetpcap,
    /// CRIU would change to the user 0, which it may, and then could not use what it has opened as another
    /// (CRIU, criu/namespaces.c).
    Setuid,
    /// A process uses io_uring, which CRIU cannot dump.
    IoUring {
        /// The process.
        pid: i32,
    },
    /// Connections lead out, and the policy is to refuse then.
    Connected {
        /// Which, in words.
        connections: String,
    },
    /// Connections inside the tree cannot be kept without a privilege.
    NoRepair {
        /// How many ends there are.
        ends: usize,
    },
    /// A file of a mount is open whose policy is to refuse then.
    RefusedMount {
        /// The file.
        path: PathBuf,
        /// The mount.
        mount: PathBuf,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoCapability => {
                write!(f, "Torpor has neither CAP_CHECKPOINT_RESTORE nor CAP_SYS_ADMIN")
            }
            Obstacle::NoSetpcap => write!(f, "without CAP_SETPCAP the program could not be restored"),
            Obstacle::Setuid => {
                write!(f, "with CAP_SETUID, but not as root, Torpor could not restore the program")
            }
            Obstacle::IoUring { pid } => {
                write!(f, "process {pid} uses io_uring, whose state no checkpoint can hold")
            }
            Obstacle::Connected { connections } => write!(f, "the program is connected: {connections}"),
            Obstacle::NoRepair { ends } => {
                write!(
                    f,
                    "{ends} ends of TCP connections inside the program cannot be kept without CAP_NET_ADMIN"
                )
            }
            Obstacle::RefusedMount { path, mount } => {
                write!(
                    f,
                    "{} is open, and {} must not be in use at a checkpoint",
                    path.display(),
                    mount.display()
                )
            }
        }
    }
}

impl Obstacle {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Obstacle::NoCapability => {
                "give Torpor CAP_CHECKPOINT_RESTORE, which it does not pass on to the program"
            }
            Obstacle::NoSetpcap => "give Torpor CAP_SETPCAP, which container runtimes grant by default",
            Obstacle::Setuid => "take CAP_SETUID from Torpor, or run it as root",
            Obstacle::IoUring { .. } => {
                "let the program do without io_uring: for Node.js set UV_USE_IO_URING=0; on a whole machine, \
                 `sysctl kernel.io_uring_disabled=2` makes programs fall back"
            }
            Obstacle::Connected { .. } => {
                "let them be closed with --tcp close, or close them in a preCheckpoint hook"
            }
            Obstacle::NoRepair { .. } => {
                "give Torpor CAP_NET_ADMIN, which it does not pass on to the program"
            }
            Obstacle::RefusedMount { .. } => {
                "close it in a preCheckpoint hook, or change the mount's policy to carry or leave"
            }
        }
    }
}

impl Sockets {
    /// The policy, and what privileges allow.
    #[must_use]
    pub fn new(tcp: config::Tcp, unix: config::ExtUnixSockets) -> Sockets {
        Sockets {
            tcp,
            external_unix: unix == config::ExtUnixSockets::Reconnect,
            repair: Capabilities::effective().has("net_admin"),
        }
    }

    /// What CRIU is told. Connections inside the tree are always kept, so all are captured where that is possible at
    /// all; which of them to close is decided at the restore, when both ends are known.
    /// What is restored many times has no connections: several could not share one.
    pub(super) fn dump_option(self, kind: Kind) -> Tcp {
        if self.captures_connections(kind) { Tcp::Established } else { Tcp::Close }
    }

    fn captures_connections(self, kind: Kind) -> bool {
        self.repair && kind != Kind::Template
    }

    /// A lock keeps peers from noticing that the program is away, which matters only where they are to find it again.
    /// It cuts off the whole network namespace, so it is taken for nothing less.
    pub(super) fn network_lock(self, ability: &Ability) -> Option<NetworkLock> {
        let keeps = self.tcp == config::Tcp::Established && !ability.connections.outside.is_empty()
            || self.repair && !ability.connections.inside.is_empty();
        Some(if keeps { NetworkLock::Nftables } else { NetworkLock::Skip })
    }

    /// What a manifest says about it.
    pub(super) fn tcp_facts(self, ability: &Ability, kind: Kind) -> facts::Tcp {
        let captured = self.captures_connections(kind);
        let inside = if captured { ability.connections.inside.len() } else { 0 };
        facts::Tcp { captured, inside, close_outside: self.tcp != config::Tcp::Established }
    }
}

impl Ability {
    /// Looks at the tree below `root`, without touching it.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn of(root: i32, mounts: &MountPlan, sockets: Sockets) -> Result<Ability, CheckpointError> {
        let open = OpenFiles::of_tree(process_tree::pid(root)?)?;
        let held: HashSet<u64> = open.iter().filter_map(socket_inode).collect();
        let connections = tcp::connections(&tcp::of_namespace(root), &held);
        let memory = process_tree::of(root).into_iter().filter_map(process_tree::resident).sum();
        let obstacles = obstacles(&open, &connections, mounts, sockets);
        let watched = watched::paths(&open, mounts)?;
        Ok(Ability { open, connections, watched, memory, obstacles })
    }
}

/// What is wrong with Torpor's privileges for every program, whatever it has open. It is asked first: without it, what the program has open
/// can often not be told either.
pub(super) fn lack_of_privilege(root: i32) -> Option<Obstacle> {
    let status = fs::read_to_string(format!("/proc/{root}/status")).unwrap_or_default();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    let last = last.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    let bounding = Capabilities::from_bits(privileges::hexadecimal(&status, "CapBnd:"));
    lack_of(Capabilities::effective(), rustix::process::geteuid().is_root(), bounding.is_full(last))
}

fn lack_of(own: Capabilities, root: bool, bounding_is_full: bool) -> Option<Obstacle> {
    if !own.has("checkpoint_restore") && !own.has("sys_admin") {
        return Some(Obstacle::NoCapability);
    }
    if own.has("setuid") && !root {
        return Some(Obstacle::Setuid);
    }
    (!own.has("setpcap") && !bounding_is_full).then_some(Obstacle::NoSetpcap)
}

/// The number in `socket:[N]`.
fn socket_inode(file: &OpenFile) -> Option<u64> {
    let name = file.path.to_str().filter(|_| file.kind == OpenKind::Socket)?;
    name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn obstacles(
    open: &OpenFiles,
    connections: &Connections,
    mounts: &MountPlan,
    sockets: Sockets,
) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if let Some(file) = open.iter().find(|file| file.kind == OpenKind::IoUring) {
        obstacles.push(Obstacle::IoUring { pid: file.pid.as_raw_nonzero().get() });
    }
    if sockets.tcp == config::Tcp::Fail && !connections.outside.is_empty() {
        obstacles.push(Obstacle::Connected { connections: connections.to_string() });
    }
    if !sockets.repair && !connections.inside.is_empty() {
        obstacles.push(Obstacle::NoRepair { ends: connections.inside.len() });
    }
    for file in open.iter().filter(|file| file.is_in_file_system()) {
        if let Some(mount) = file.mount(mounts)
            && mount.policy == MountPolicy::Refuse
        {
            let mount = mount.mount.point.clone();
            obstacles.push(Obstacle::RefusedMount { path: file.path.clone(), mount });
            break;
        }
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_restore_could_do_without_is_missed_before_the_freeze() {
        for (own, root, bounding_is_full, lack) in [
            ("checkpoint_restore,setpcap", true, false, None),
            ("sys_admin,setpcap", true, false, None),
            ("checkpoint_restore", true, true, None),
            ("checkpoint_restore,sys_ptrace", true, false, Some(Obstacle::NoSetpcap)),
            ("checkpoint_restore,setpcap", false, false, None),
            ("checkpoint_restore,setpcap,setuid", false, false, Some(Obstacle::Setuid)),
            ("checkpoint_restore,setpcap,setuid", true, false, None),
            ("setpcap,net_admin,sys_ptrace", true, true, Some(Obstacle::NoCapability)),
        ] {
            assert_eq!(lack_of(own.parse().unwrap(), root, bounding_is_full), lack, "{own}");
        }
        assert!(Capabilities::from_bits((1 << 41) - 1).is_full(40));
        assert!(!Capabilities::TORPORS_OWN.is_full(40));
    }
}

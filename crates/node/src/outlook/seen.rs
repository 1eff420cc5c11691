//! What there is to see of something that runs.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::accelerator::{Accelerators, Plugins};
use crate::budget;
use crate::container::obstacle::{self, Obstacle};
use crate::container::{Container, Status};
use crate::mounts::{Mounts, MountsError};
use crate::open_files::{OpenFile, OpenFiles, OpenFilesError, OpenKind, Place};
use crate::process_tree::{self, Gone};
use crate::tcp::{self, Connections};
use crate::unix_sockets::{self, Outside};

/// The kernel's names of namespaces, in `/proc/PID/ns`.
const NAMESPACES: [&str; 8] = ["mnt", "net", "pid", "user", "uts", "ipc", "time", "cgroup"];

/// Why something that runs cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutlookError {
    /// There is no such process.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// What it has open cannot be told.
    #[error(transparent)]
    OpenFiles(#[from] OpenFilesError),
    /// Its mounts cannot be told.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

impl OutlookError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Gone(_) => "check the PID: it must be of a process that runs on this machine",
            Self::OpenFiles(error) => error.remedy(),
            Self::Mounts(error) => error.remedy(),
        }
    }
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Its PID.
    pub pid: i32,
    /// Who traces it; 0 for nobody.
    pub tracer: i32,
    /// The leader of its session, as its own PID namespace numbers it; 0 for one outside of it.
    pub session: i32,
    /// Its own PID in that namespace.
    pub own_pid: i32,
    /// The inodes of its namespaces.
    pub namespaces: BTreeMap<&'static str, u64>,
}

/// What there is to see.
#[derive(Debug, Default)]
pub struct Seen {
    /// What a container does; none for a process.
    pub status: Option<Status>,
    /// Its processes, the first of all before the others.
    pub tasks: Vec<Task>,
    /// The inodes of this process's own namespaces.
    pub own_namespaces: BTreeMap<&'static str, u64>,
    /// What they have open.
    pub open: Vec<OpenFile>,
    /// What of that stands in the way of any container.
    pub obstacles: Vec<Obstacle>,
    /// Devices that a plugin of CRIU's captures.
    pub accelerators: Vec<Accelerators>,
    /// Protocols of sockets by the kernel's names, each with a process that has one.
    pub protocols: BTreeMap<String, i32>,
    /// TCP connections.
    pub connections: Connections,
    /// Unix sockets with peers outside, where the kernel tells.
    pub unix: Option<Outside>,
    /// Memory that may have to be copied, in bytes.
    pub memory: u64,
    /// Memory that a checkpoint may take to hold it, in bytes.
    pub budget: u64,
}

impl Seen {
    /// Looks at a process and all below it.
    ///
    /// # Errors
    /// There is no such process, or `/proc` does not tell.
    pub fn of_process(root: i32) -> Result<Seen, OutlookError> {
        let pid = process_tree::pid(root)?;
        let task = Task::read(root).ok_or(Gone(root))?;
        let open = OpenFiles::of_tree(pid)?;
        let mounts = Mounts::of_process(Some(pid))?;
        let held = sockets(&open);
        let others = process_tree::of(root).into_iter().filter(|pid| *pid != root).filter_map(Task::read);
        let tasks: Vec<Task> = [task].into_iter().chain(others).collect();
        Ok(Seen {
            status: None,
            accelerators: Vec::new(),
            own_namespaces: namespaces("self"),
            // Terminals are decided about by sessions, too.
            obstacles: obstacle::of_files(open.iter(), &mounts, false),
            protocols: protocols(&open),
            connections: tcp::connections(&tcp::of_namespace(root), &held),
            unix: unix_sockets::of_namespace(root).ok().map(|all| unix_sockets::outside(&all, &held)),
            memory: tasks.iter().filter_map(|task| process_tree::resident(task.pid)).sum(),
            budget: budget::decide(None, budget::Memory::read()),
            open: open.iter().cloned().collect(),
            tasks,
        })
    }

    /// Looks at a container. Of one that has no processes, only that is told.
    ///
    /// # Errors
    /// `/proc` does not tell.
    pub fn of_container(container: &Container) -> Result<Seen, OutlookError> {
        let status = container.status();
        let seen = match status {
            Status::Stopped => Seen::default(),
            _ => Seen::of_process(container.init)?,
        };
        Ok(Seen { status: Some(status), ..seen })
    }

    /// The same where CRIU has plugins: what they capture stands in the way no more.
    #[must_use]
    pub fn with_plugins(mut self, plugins: Option<&Plugins>) -> Seen {
        self.accelerators = obstacle::captured(&mut self.obstacles, plugins);
        self
    }
}

impl Task {
    fn read(pid: i32) -> Option<Task> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Task { pid, namespaces: namespaces(pid), ..Task::of_status(&status) })
    }

    /// What `/proc/PID/status` tells (proc_pid_status(5)). Numbers in several namespaces end with the own one.
    fn of_status(status: &str) -> Task {
        let last = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_ascii_whitespace().next_back()?.parse().ok()).unwrap_or(0)
        };
        Task {
            tracer: last("TracerPid:"),
            session: last("NSsid:"),
            own_pid: last("NSpid:"),
            ..Task::default()
        }
    }
}

fn namespaces(pid: impl std::fmt::Display) -> BTreeMap<&'static str, u64> {
    let inode = |kind: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|found| found.ino());
    NAMESPACES.into_iter().filter_map(|kind| Some((kind, inode(kind)?))).collect()
}

fn sockets(open: &OpenFiles) -> HashSet<u64> {
    let sockets = open.iter().filter(|file| file.kind == OpenKind::Socket);
    sockets.filter_map(|file| file.stat.map(|stat| stat.ino)).collect()
}

/// The protocols of all sockets. The kernel tells them as an extended attribute (Linux, net/socket.c).
fn protocols(open: &OpenFiles) -> BTreeMap<String, i32> {
    let mut found = BTreeMap::new();
    for file in open.iter().filter(|file| file.kind == OpenKind::Socket) {
        let Place::Descriptor(descriptor) = file.place else { continue };
        let pid = file.pid.as_raw_nonzero().get();
        let mut name = [0; 64];
        let link = format!("/proc/{pid}/fd/{descriptor}");
        let Ok(length) = rustix::fs::getxattr(link, "system.sockprotoname", &mut name[..]) else { continue };
        let name = String::from_utf8_lossy(&name[..length]).trim_end_matches('\0').to_owned();
        found.entry(name).or_insert(pid);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn numbers_are_those_of_the_own_namespace() {
        let status = "Name:\tsh\nPid:\t300\nTracerPid:\t7\nNStgid:\t300\t4\nNSpid:\t300\t4\nNSsid:\t299\t0\n";
        let task = Task::of_status(status);
        assert_eq!((task.tracer, task.own_pid, task.session), (7, 4, 0));
    }

    #[test]
    fn a_process_is_seen_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seen = Seen::of_process(std::process::id() as i32).unwrap();
        assert_eq!(seen.tasks[0].pid, std::process::id() as i32);
        assert_eq!(seen.tasks[0].namespaces, seen.own_namespaces);
        assert!(seen.protocols.contains_key("TCP") && seen.protocols.contains_key("UDP"));
        assert!(seen.memory > 0 && seen.budget > 0 && seen.unix.is_some());
        drop((listener, udp));
        assert!(matches!(Seen::of_process(i32::MAX), Err(OutlookError::Gone(_))));
    }
}

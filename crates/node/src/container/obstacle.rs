//! The check before a container is frozen: what stands in the way of a dump.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use torpor_criu::options::Tcp;

use super::ContainerError;
use super::dump::Sight;
use super::state::{Container, Status};
use crate::accelerator::{self, Accelerators, Plugins, Vendor};
use crate::freeze::LOG;
use crate::open_files::{OpenFile, OpenFiles, OpenKind, Place};
use crate::tcp::{self, Connections};
use crate::{mounts::Mounts, process_tree};

/// Character devices that CRIU dumps: memory (`/dev/null` and its like) and `/dev/net/tun` (CRIU, `criu/files.c`).
const MEMORY: u32 = 1;
const TUN: (u32, u32) = (10, 200);

/// Something that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// It does not run.
    Status {
        /// What it does.
        status: Status,
    },
    /// A process uses io_uring, which CRIU cannot dump.
    IoUring {
        /// The process.
        pid: i32,
    },
    /// A process uses a device, such as a graphics processor, that only a plugin of CRIU's could dump.
    Device {
        /// The process.
        pid: i32,
        /// The device's path.
        path: PathBuf,
        /// Its number.
        number: (u32, u32),
    },
    /// A descriptor leads to a file of the host's.
    Outside {
        /// The process.
        pid: i32,
        /// The descriptor.
        descriptor: i32,
        /// The file.
        path: PathBuf,
    },
    /// A terminal of the host's.
    Terminal {
        /// The process.
        pid: i32,
        /// The terminal.
        path: PathBuf,
    },
    /// There are connections, and nothing was said about them.
    Connected {
        /// Which, in words.
        connections: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Status { status } => write!(f, "it is {status}, not running"),
            Obstacle::IoUring { pid } => {
                write!(f, "process {pid} uses io_uring, whose state no checkpoint can hold")
            }
            Obstacle::Device { pid, path, number: (major, minor) } => {
                write!(f, "process {pid} uses the device {} ({major}:{minor})", path.display())
            }
            Obstacle::Outside { pid, descriptor, path } => {
                write!(
                    f,
                    "descriptor {descriptor} of process {pid} is {}, a file outside of the container",
                    path.display()
                )
            }
            Obstacle::Terminal { pid, path } => {
                write!(f, "process {pid} is at {}, a terminal outside of the container", path.display())
            }
            Obstacle::Connected { connections } => write!(f, "it has TCP connections: {connections}"),
        }
    }
}

impl Obstacle {
    /// How long it may take to pass by itself.
    pub(super) fn may_pass_within(&self) -> Duration {
        match self {
            // CRIU's own log, which a process has open while it is dumped: after a dump that was cut off, for a moment.
            Obstacle::Outside { path, .. } if path.file_name() == Some(OsStr::new(LOG)) => {
                Duration::from_secs(5)
            }
            // A command that was run in the container, and is about to end; or its first process, which the runtime has just
            // let go: it closes what it had of the machine's, and then becomes the program.
            Obstacle::Outside { .. } | Obstacle::Terminal { .. } => Duration::from_millis(500),
            _ => Duration::ZERO,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Obstacle::Status { status: Status::Paused } => "resume it first",
            Obstacle::Status { .. } => "start it first",
            Obstacle::IoUring { .. } => {
                "let the program do without io_uring: for Node.js set UV_USE_IO_URING=0; on a whole machine, \
                 `sysctl kernel.io_uring_disabled=2` makes programs fall back"
            }
            Obstacle::Device { .. } => {
                "have the program close it before the checkpoint; the state of NVIDIA's and AMD's is captured where CRIU's plugin for them \
                 is in the directory that --criu-plugins names"
            }
            Obstacle::Outside { .. } => {
                "start the container with its output in a pipe or a terminal of its own, as engines do"
            }
            Obstacle::Terminal { .. } => {
                "start the container detached, or give --shell-job here and at the restore"
            }
            Obstacle::Connected { .. } => {
                "say --tcp close to have them closed, or --tcp established to have them kept for a restore at the same address"
            }
        }
    }
}

/// What was found.
#[derive(Debug)]
pub struct Ability {
    /// Whether there are connections to be kept.
    pub connected: bool,
    /// Memory that may have to be copied, in bytes.
    pub memory: u64,
    /// What stands in the way, worst first.
    pub obstacles: Vec<Obstacle>,
    /// Devices that a plugin captures.
    pub accelerators: Vec<Accelerators>,
}

impl Ability {
    /// Looks at a container, without touching it.
    ///
    /// # Errors
    /// Where `/proc` does not tell.
    pub fn of(
        container: &Container,
        sight: &Sight,
        tcp: Tcp,
        shell_job: bool,
    ) -> Result<Ability, ContainerError> {
        let open = OpenFiles::of_tree(process_tree::pid(container.init)?)?;
        let held: HashSet<u64> = open.iter().filter_map(socket_inode).collect();
        let connections = tcp::connections(&tcp::of_namespace(container.init), &held);
        let memory = process_tree::of(container.init).into_iter().filter_map(process_tree::resident).sum();
        let connected = !(connections.inside.is_empty() && connections.outside.is_empty());
        let mut obstacles = of_files(open.iter(), &sight.mounts, shell_job);
        obstacles.extend(of_connections(connections, tcp));
        Ok(Ability { connected, memory, obstacles, accelerators: Vec::new() })
    }

    /// The same where CRIU has plugins: what they capture stands in the way no more.
    #[must_use]
    pub fn with_plugins(mut self, plugins: Option<&Plugins>) -> Ability {
        self.accelerators = captured(&mut self.obstacles, plugins);
        self
    }
}

/// Takes out devices that plugins capture. Returns them.
pub(crate) fn captured(obstacles: &mut Vec<Obstacle>, plugins: Option<&Plugins>) -> Vec<Accelerators> {
    let needed = |vendor| accelerator::needed(vendor, plugins, accelerator::driver);
    let mut captured = Vec::new();
    obstacles.retain(|obstacle| {
        let Obstacle::Device { path, .. } = obstacle else { return true };
        let Some(Ok(found)) = Vendor::of_device(path).map(needed) else { return true };
        if !captured.contains(&found) {
            captured.push(found);
        }
        false
    });
    captured
}

fn socket_inode(file: &OpenFile) -> Option<u64> {
    (file.kind == OpenKind::Socket).then(|| file.stat.map(|stat| stat.ino)).flatten()
}

fn of_connections(mut connections: Connections, tcp: Tcp) -> Option<Obstacle> {
    connections.outside.append(&mut connections.inside);
    let stands = tcp == Tcp::Fail && !connections.outside.is_empty();
    stands.then(|| Obstacle::Connected { connections: connections.to_string() })
}

/// What is wrong with what is open, each file once.
pub(crate) fn of_files<'a>(
    open: impl Iterator<Item = &'a OpenFile>,
    mounts: &Mounts,
    shell_job: bool,
) -> Vec<Obstacle> {
    let mut found: Vec<Obstacle> = Vec::new();
    let mut seen = HashSet::new();
    for file in open {
        let pid = file.pid.as_raw_nonzero().get();
        // Pipes, sockets and the like are in file systems that are mounted nowhere.
        let foreign = file.mount_id.is_some_and(|id| mounts.by_id(id).is_none());
        let obstacle = match (&file.kind, &file.place) {
            (OpenKind::IoUring, _) => Obstacle::IoUring { pid },
            (OpenKind::Character { major, minor }, _) if *major != MEMORY && (*major, *minor) != TUN => {
                Obstacle::Device { pid, path: file.path.clone(), number: (*major, *minor) }
            }
            (OpenKind::Block { major, minor }, _) => {
                Obstacle::Device { pid, path: file.path.clone(), number: (*major, *minor) }
            }
            (OpenKind::Terminal { .. }, Place::Descriptor(_)) if foreign && !shell_job => {
                Obstacle::Terminal { pid, path: file.path.clone() }
            }
            (OpenKind::File | OpenKind::Directory | OpenKind::Fifo, Place::Descriptor(descriptor))
                if foreign =>
            {
                Obstacle::Outside { pid, descriptor: *descriptor, path: file.path.clone() }
            }
            _ => continue,
        };
        if seen.insert((pid, file.path.clone())) {
            found.push(obstacle);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;

    fn file(kind: OpenKind, place: Place, path: &str, mount_id: u64) -> OpenFile {
        OpenFile {
            pid: Pid::from_raw(7).unwrap(),
            place,
            path: path.into(),
            kind,
            writable: true,
            flags: 0,
            position: 0,
            deleted: false,
            mount_id: Some(mount_id),
            stat: None,
        }
    }

    fn found(file: &OpenFile) -> Option<String> {
        let mounts = Mounts::parse(b"5 1 0:60 / / rw - overlay overlay rw\n").unwrap();
        of_files([file].into_iter(), &mounts, false).first().map(ToString::to_string)
    }

    #[test]
    fn what_a_dump_or_a_command_leaves_for_a_moment_is_waited_for() {
        let within = |pid, path: &str| {
            Obstacle::Outside { pid, descriptor: 2, path: path.into() }.may_pass_within().as_millis()
        };
        assert_eq!(within(1, "/run/torpor/container-web/dump.log"), 5000);
        assert_eq!(within(7, "/var/log/web.log"), 500);
        assert_eq!(within(1, "/1/task/1/fd"), 500);
        assert!(Obstacle::IoUring { pid: 7 }.may_pass_within().is_zero());
    }

    #[test]
    fn what_leads_out_or_cannot_be_captured_stands_in_the_way() {
        let descriptor = Place::Descriptor(1);
        for (kind, path, mount, told) in [
            (OpenKind::File, "/var/log/x", 5, None),
            (
                OpenKind::File,
                "/var/log/x",
                9,
                Some("descriptor 1 of process 7 is /var/log/x, a file outside of the container"),
            ),
            (OpenKind::Pipe, "pipe:[1]", 9, None),
            (OpenKind::Socket, "socket:[1]", 9, None),
            (OpenKind::Character { major: 1, minor: 3 }, "/dev/null", 9, None),
            (
                OpenKind::Character { major: 195, minor: 0 },
                "/dev/nvidia0",
                5,
                Some("process 7 uses the device /dev/nvidia0 (195:0)"),
            ),
            (OpenKind::Character { major: 10, minor: 200 }, "/dev/net/tun", 5, None),
            (OpenKind::Terminal { major: 136, minor: 0 }, "/dev/pts/0", 5, None),
            (
                OpenKind::Terminal { major: 136, minor: 0 },
                "/dev/pts/0",
                9,
                Some("process 7 is at /dev/pts/0, a terminal outside of the container"),
            ),
            (
                OpenKind::IoUring,
                "anon_inode:[io_uring]",
                9,
                Some("process 7 uses io_uring, whose state no checkpoint can hold"),
            ),
        ] {
            assert_eq!(found(&file(kind, descriptor, path, mount)).as_deref(), told, "{path}");
        }
    }

    #[test]
    fn a_file_is_told_once_and_every_obstacle_has_a_remedy() {
        let mounts = Mounts::default();
        let twice = [1, 2].map(|number| file(OpenKind::File, Place::Descriptor(number), "/log", 9));
        assert_eq!(of_files(twice.iter(), &mounts, false).len(), 1);
        let terminal =
            file(OpenKind::Terminal { major: 136, minor: 0 }, Place::Descriptor(0), "/dev/pts/0", 9);
        assert!(of_files([&terminal].into_iter(), &mounts, true).is_empty(), "--shell-job allows it");
        for status in [Status::Created, Status::Paused, Status::Stopped] {
            assert!(!Obstacle::Status { status }.remedy().is_empty());
        }
    }

    #[test]
    fn connections_need_a_word() {
        let socket = crate::tcp::Socket {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:4000".parse().unwrap(),
            state: crate::tcp::State::Connected,
            inode: 5,
        };
        let connections = Connections { inside: Vec::new(), outside: vec![socket] };
        let told = of_connections(connections.clone(), Tcp::Fail).unwrap().to_string();
        assert_eq!(told, "it has TCP connections: 10.0.0.1:80 to 10.0.0.2:4000");
        for tcp in [Tcp::Close, Tcp::Established] {
            assert_eq!(of_connections(connections.clone(), tcp), None);
        }
        assert_eq!(of_connections(Connections::default(), Tcp::Fail), None);
    }
}

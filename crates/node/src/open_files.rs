//! What the tasks of a tree have open: descriptors, mappings, working directories, roots and executables.
//!
//! Read from `/proc/PID/{fd,fdinfo,maps,cwd,root,exe}` and `/proc/PID/task/*/children` (proc(5)). It tells the
//! capture which files are being written, the check what cannot be frozen, and [`crate::volumes`] what to record.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::files::{Inode, Stat};
use crate::mounts::{MountPlan, MountPolicy, PlannedMount};

mod fdinfo;
mod maps;
mod reading;

pub use fdinfo::{FdInfo, FdInfoError, InotifyWatch};
pub use maps::{Mapping, MapsError};
pub use reading::tree;

/// Why the open files of a tree could not be listed. A task that ends meanwhile is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFilesError {
    /// A file of `/proc` could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A descriptor's fdinfo is not understood.
    #[error("cannot understand {}", .path.display())]
    FdInfo {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FdInfoError,
    },
    /// A task's maps are not understood.
    #[error("cannot understand {}", .path.display())]
    Maps {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MapsError,
    },
}

impl OpenFilesError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "run as the program's user with CAP_SYS_PTRACE, and check that /proc is mounted"
            }
            Self::FdInfo { .. } | Self::Maps { .. } => {
                "this kernel writes the file in an unknown form; please report its content"
            }
        }
    }
}

/// Where a task holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A descriptor.
    Descriptor(i32),
    /// The working directory.
    WorkingDirectory,
    /// The root directory.
    Root,
    /// The executable.
    Executable,
    /// A mapping, by its first address.
    Mapping(u64),
}

/// What kind of thing is open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link (`O_PATH`).
    Symlink,
    /// A named pipe.
    Fifo,
    /// A terminal: a character device of a terminal's major number.
    Terminal {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// Another character device.
    Character {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// One end of a pipe.
    Pipe,
    /// A socket; its inode number is as in `/proc/net`.
    Socket,
    /// An inotify descriptor and what it watches.
    Inotify(Vec<InotifyWatch>),
    /// A fanotify descriptor.
    Fanotify,
    /// An io_uring, which CRIU cannot dump.
    IoUring,
    /// A memfd.
    Memory,
    /// Another file without a name, by the kernel's word for it, such as `eventfd`.
    Anonymous(String),
}

/// A file a task holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// The task.
    pub pid: Pid,
    /// Where it holds it.
    pub place: Place,
    /// The path, or the kernel's word such as `socket:[123]`, as Torpor sees it.
    pub path: PathBuf,
    /// What it is.
    pub kind: OpenKind,
    /// Open for writing, or mapped shared and writable (or able to become so).
    pub writable: bool,
    /// The open flags, for a descriptor.
    pub flags: u32,
    /// The position in it, for a descriptor.
    pub position: u64,
    /// It has no name any more.
    pub deleted: bool,
    /// The mount it was opened through, for a descriptor.
    pub mount_id: Option<u64>,
    /// The inode's state, if it could be asked for.
    pub stat: Option<Stat>,
}

impl OpenFile {
    /// A file with a name, or that had one, in some file system.
    #[must_use]
    pub fn is_in_file_system(&self) -> bool {
        matches!(
            self.kind,
            OpenKind::File
                | OpenKind::Directory
                | OpenKind::Symlink
                | OpenKind::Fifo
                | OpenKind::Terminal { .. }
                | OpenKind::Character { .. }
                | OpenKind::Block { .. }
        )
    }

    /// The mount it lies on.
    #[must_use]
    pub fn mount<'a>(&self, plan: &'a MountPlan) -> Option<&'a PlannedMount> {
        self.mount_id.and_then(|id| plan.by_id(id)).or_else(|| plan.holding(&self.path))
    }
}

/// Everything a tree holds.
#[derive(Debug, Clone, Default)]
pub struct OpenFiles {
    files: Vec<OpenFile>,
    written: HashSet<Inode>,
}

impl OpenFiles {
    /// Lists what these tasks hold. Those that end meanwhile are left out.
    pub fn of(pids: &[Pid]) -> Result<Self, OpenFilesError> {
        let mut files = Vec::new();
        for pid in pids {
            files.extend(reading::of_task(*pid)?);
        }
        Ok(Self::from_files(files))
    }

    /// Lists what a tree of tasks holds.
    pub fn of_tree(root: Pid) -> Result<Self, OpenFilesError> {
        Self::of(&tree(root)?)
    }

    /// From files that are known.
    #[must_use]
    pub fn from_files(files: Vec<OpenFile>) -> Self {
        let written = files
            .iter()
            .filter(|file| file.writable && file.kind == OpenKind::File)
            .filter_map(|file| file.stat.map(|stat| stat.inode()))
            .collect();
        Self { files, written }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &OpenFile> {
        self.files.iter()
    }

    /// The regular file with this state is open for writing, or mapped shared and writable.
    #[must_use]
    pub fn is_writable(&self, stat: Option<&Stat>) -> bool {
        stat.is_some_and(|stat| self.written.contains(&stat.inode()))
    }

    /// Files on mounts whose policy refuses a checkpoint while one of theirs is open.
    pub fn refused<'a>(&'a self, plan: &'a MountPlan) -> impl Iterator<Item = (&'a OpenFile, &'a Path)> {
        self.files.iter().filter(|file| file.is_in_file_system()).filter_map(|file| {
            let planned = file.mount(plan).filter(|planned| planned.policy == MountPolicy::Refuse)?;
            Some((file, planned.mount.point.as_path()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Command, Stdio};

    fn own() -> OpenFiles {
        OpenFiles::of(&[rustix::process::getpid()]).unwrap()
    }

    #[test]
    fn each_kind_of_descriptor_is_told() {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        use std::os::fd::AsRawFd;
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let written = File::create(at("written")).unwrap();
        std::fs::write(at("read (deleted)"), "x").unwrap();
        let read = File::open(at("read (deleted)")).unwrap();
        let gone = File::create(at("gone")).unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        let directory = File::open(root.path()).unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let inotify = init(CreateFlags::CLOEXEC).unwrap();
        add_watch(&inotify, root.path(), WatchFlags::CREATE).unwrap();
        let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let null = File::open("/dev/null").unwrap();

        let open = own();
        let find = |descriptor: &dyn AsRawFd| {
            let place = Place::Descriptor(descriptor.as_raw_fd());
            open.iter().find(|file| file.place == place).unwrap()
        };
        let file = find(&written);
        assert!(file.writable && !file.deleted && file.kind == OpenKind::File);
        assert!(open.is_writable(file.stat.as_ref()));
        let file = find(&read);
        assert!(!file.writable && !file.deleted && file.path == at("read (deleted)"));
        let file = find(&gone);
        assert!(file.writable && file.deleted && file.path == at("gone"));
        assert_eq!(find(&directory).kind, OpenKind::Directory);
        assert_eq!(find(&reader).kind, OpenKind::Pipe);
        assert_eq!(find(&socket).kind, OpenKind::Socket);
        assert_eq!(find(&memory).kind, OpenKind::Memory);
        assert_eq!(find(&event).kind, OpenKind::Anonymous("eventfd".into()));
        assert_eq!(find(&null).kind, OpenKind::Character { major: 1, minor: 3 });
        let OpenKind::Inotify(watches) = &find(&inotify).kind else { panic!("not an inotify descriptor") };
        assert_eq!(watches[0].ino, Stat::follow(root.path()).unwrap().ino);
        let places: HashSet<Place> = open.iter().map(|file| file.place).collect();
        assert!(
            [Place::WorkingDirectory, Place::Root, Place::Executable]
                .iter()
                .all(|place| places.contains(place))
        );
    }

    #[test]
    fn a_tree_is_its_root_and_all_descendants() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo ready; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let root = Pid::from_child(&child);
        let pids = tree(root).unwrap();
        assert_eq!((pids.len(), pids[0]), (2, root));
        let open = OpenFiles::of_tree(root).unwrap();
        assert!(pids.iter().all(|pid| open.iter().any(|file| file.pid == *pid)));
        rustix::process::kill_process(pids[1], rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(OpenFiles::of(&[root]).unwrap().iter().next().is_none(), "a task that ended holds nothing");
    }

    #[test]
    fn open_files_on_a_refused_mount_are_named() {
        use crate::files::tests::plan_of;
        let root = tempfile::tempdir().unwrap();
        let _file = File::open(root.path()).unwrap();
        let mut plan = plan_of(root.path());
        plan.mounts[0].policy = MountPolicy::Refuse;
        let open = own();
        let refused: Vec<_> = open.refused(&plan).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0.path.as_path(), refused[0].1), (root.path(), root.path()));
    }
}

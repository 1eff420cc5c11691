//! Open files.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use torpor_criu::image::file::{
    Descriptor, File, FileType, MemoryFile, PipeData, RegularFile, RemappedPath, RemovedFile,
};
use torpor_criu::image::process::Machine;
use torpor_criu::image::terminal::{Terminal, TerminalType};

use super::images::Images;
use super::namespaces::flag_name;
use super::sockets;

/// An open file, as one descriptor of a process has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenFile {
    /// The descriptor.
    pub fd: u32,
    /// CRIU's number of the open file: descriptors with the same share position and flags.
    pub id: u32,
    /// What it is, as `regular`, `pipe`, `tcp socket`.
    pub kind: &'static str,
    /// Its path, or what stands for it, as `pipe:[1234]`.
    pub target: String,
    /// Flags of open(2), as `O_RDWR`; the descriptor's `FD_CLOEXEC` is the last.
    pub flags: Vec<String>,
    /// The position, for files that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// The size when it was dumped, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes waiting in it, for pipes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// It was removed while open; the checkpoint holds it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// Every open file of a checkpoint, and what other images know about them.
#[derive(Debug, Default)]
pub(super) struct Files {
    by_id: HashMap<u32, File>,
    memory_files: HashMap<u64, MemoryFile>,
    terminals: HashMap<u32, Terminal>,
    pipes: HashMap<u32, u64>,
    removed: HashMap<u32, Option<u64>>,
    machine: Option<Machine>,
}

impl Files {
    /// Reads what is needed to name files.
    pub(super) fn read(images: &Images<'_>, machine: Option<Machine>) -> Self {
        let mut files = Self { machine, ..Self::default() };
        files.by_id.extend(images.all::<File>(0).into_iter().map(|file| (file.id, file)));
        let memory_files = images.all::<MemoryFile>(0).into_iter();
        files.memory_files.extend(memory_files.map(|file| (file.inode_id, file)));
        images.each::<RemappedPath>(0, |remap| {
            if let Some(image) = remap.removed_file() {
                let size = images.one::<RemovedFile>(u64::from(image)).and_then(|file| file.size);
                files.removed.insert(remap.orig_id, size);
            }
        });
        files
    }

    /// Reads what is needed to list descriptors, too.
    pub(super) fn read_contents(&mut self, images: &Images<'_>) {
        self.terminals.extend(images.all::<Terminal>(0).into_iter().map(|terminal| (terminal.id, terminal)));
        images.each::<PipeData>(0, |data| {
            *self.pipes.entry(data.pipe_id).or_default() += u64::from(data.bytes)
        });
    }

    pub(super) fn get(&self, id: u32) -> Option<&File> {
        self.by_id.get(&id)
    }

    /// The path of a regular file, by its id.
    pub(super) fn path(&self, id: u32) -> Option<String> {
        let file = self.get(id)?;
        match &file.reg {
            Some(regular) => Some(regular.name.clone()),
            None => Some(self.memory_file(file)?.0),
        }
    }

    /// The name and size of a file in memory.
    fn memory_file(&self, file: &File) -> Option<(String, Option<u64>)> {
        let inode = file.memfd?.inode_id;
        Some(match self.memory_files.get(&u64::from(inode)) {
            Some(found) => (format!("memfd:{}", found.name), Some(found.size)),
            None => (format!("memfd:[{inode}]"), None),
        })
    }

    /// The descriptors of a table, in the order of their numbers.
    pub(super) fn table(&self, descriptors: &[Descriptor]) -> Vec<OpenFile> {
        let mut open: Vec<_> = descriptors.iter().map(|descriptor| self.open_file(descriptor)).collect();
        open.sort_by_key(|file| file.fd);
        open
    }

    fn open_file(&self, descriptor: &Descriptor) -> OpenFile {
        let id = descriptor.id;
        let mut open = OpenFile {
            fd: descriptor.fd,
            id,
            kind: kind_name(descriptor.r#type),
            target: format!("[{id}]"),
            flags: Vec::new(),
            position: None,
            size: None,
            queued: None,
            removed: self.removed.contains_key(&id),
        };
        let mut flags = None;
        if let Some(file) = self.get(id) {
            flags = self.describe(file, &mut open);
        }
        open.flags = flags.map(|flags| flag_names(flags, self.machine)).unwrap_or_default();
        if descriptor.flags & 1 != 0 {
            open.flags.push("FD_CLOEXEC".to_owned());
        }
        open
    }

    /// Fills in what the open file's own message says, and returns its flags.
    fn describe(&self, file: &File, open: &mut OpenFile) -> Option<u32> {
        if let Some(regular) = &file.reg {
            open.kind = regular_kind(regular);
            open.target.clone_from(&regular.name);
            open.position = Some(regular.pos);
            open.size = regular.size.or(self.removed.get(&open.id).copied().flatten());
            return Some(regular.flags);
        }
        if let Some(pipe) = &file.pipe {
            open.target = format!("pipe:[{}]", pipe.pipe_id);
            open.queued = Some(self.pipes.get(&pipe.pipe_id).copied().unwrap_or(0));
            return Some(pipe.flags);
        }
        if let Some(fifo) = &file.fifo {
            let at = fifo.regf_id.and_then(|id| self.path(id));
            open.target = at.unwrap_or_else(|| format!("pipe:[{}]", fifo.pipe_id));
            return None;
        }
        if let Some((name, size)) = self.memory_file(file) {
            open.target = name;
            open.size = size;
            open.position = file.memfd.map(|file| file.pos);
            return file.memfd.map(|file| file.flags);
        }
        if let Some(terminal) = &file.tty {
            open.target = terminal
                .regf_id
                .and_then(|id| self.path(id))
                .or_else(|| self.terminals.get(&terminal.tty_info_id).map(terminal_name))
                .unwrap_or_else(|| format!("terminal:[{}]", terminal.tty_info_id));
            return Some(terminal.flags);
        }
        if let Some(socket) = sockets::brief(file) {
            (open.kind, open.target) = socket;
            return sockets::flags(file);
        }
        self.describe_event(file, open)
    }

    fn describe_event(&self, file: &File, open: &mut OpenFile) -> Option<u32> {
        if let Some(counter) = &file.efd {
            open.target = format!("count {}", counter.counter);
            return Some(counter.flags);
        }
        if let Some(poll) = &file.epfd {
            let mut waits: Vec<_> = poll.tfd.iter().map(|target| target.tfd).collect();
            waits.sort_unstable();
            open.target = format!("waits for {}", listed(waits));
            return Some(poll.flags);
        }
        if let Some(signals) = &file.sgfd {
            let set = (1..=64).filter(|number| signals.sigmask >> (number - 1) & 1 == 1);
            open.target = listed(set.map(super::signal_name));
            return Some(signals.flags);
        }
        if let Some(timer) = &file.tfd {
            let seconds = |whole: u64, nano: u64| whole as f64 + nano as f64 / 1e9;
            open.target = format!(
                "fires in {} s, then every {} s",
                seconds(timer.vsec, timer.vnsec),
                seconds(timer.isec, timer.insec)
            );
            return Some(timer.flags);
        }
        if let Some(notify) = &file.ify {
            let watched = notify.wd.iter().map(|watch| match &watch.f_handle.path {
                Some(path) => path.clone(),
                None => format!("inode {}", watch.i_ino),
            });
            open.target = format!("watches {}", listed(watched));
            return Some(notify.flags);
        }
        if let Some(namespace) = &file.nsf {
            open.target = format!("{}:[{}]", flag_name(namespace.ns_cflag), namespace.ns_id);
            return Some(namespace.flags);
        }
        if let Some(process) = &file.pidfd {
            open.target = match process.nspid {
                -1 => "a process that has ended".to_owned(),
                pid => format!("process {pid}"),
            };
            return Some(process.flags);
        }
        None
    }
}

fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

fn terminal_name(terminal: &Terminal) -> String {
    match TerminalType::try_from(terminal.r#type) {
        Ok(TerminalType::Pty) => {
            let index = terminal.pty.map_or_else(|| "?".to_owned(), |pty| pty.index.to_string());
            format!("/dev/pts/{index}")
        }
        Ok(TerminalType::Console) => "/dev/console".to_owned(),
        Ok(TerminalType::Ctty) => "/dev/tty".to_owned(),
        _ => format!("terminal:[{:x}]", terminal.rdev),
    }
}

fn regular_kind(file: &RegularFile) -> &'static str {
    match file.mode.map(|mode| mode & 0o170_000) {
        Some(0o040_000) => "directory",
        Some(0o020_000) => "character device",
        Some(0o060_000) => "block device",
        Some(0o120_000) => "symbolic link",
        Some(0o010_000) => "fifo",
        Some(0o140_000) => "socket file",
        _ => "regular",
    }
}

fn kind_name(number: i32) -> &'static str {
    match FileType::try_from(number) {
        Ok(FileType::Regular) => "regular",
        Ok(FileType::Pipe) => "pipe",
        Ok(FileType::Fifo) => "fifo",
        Ok(FileType::InetSocket) => "inet socket",
        Ok(FileType::UnixSocket) => "unix socket",
        Ok(FileType::EventFd) => "event counter",
        Ok(FileType::EventPoll) => "event poll",
        Ok(FileType::Inotify) => "inotify",
        Ok(FileType::SignalFd) => "signal descriptor",
        Ok(FileType::PacketSocket) => "packet socket",
        Ok(FileType::Terminal) => "terminal",
        Ok(FileType::Fanotify) => "fanotify",
        Ok(FileType::NetlinkSocket) => "netlink socket",
        Ok(FileType::Namespace) => "namespace",
        Ok(FileType::Tunnel) => "tunnel",
        Ok(FileType::External) => "external",
        Ok(FileType::TimerFd) => "timer",
        Ok(FileType::MemFd) => "memory file",
        Ok(FileType::BpfMap) => "bpf map",
        Ok(FileType::PidFd) => "process descriptor",
        Ok(FileType::Undefined) | Err(_) => "unknown",
    }
}

/// Flags of open(2) that have the same bit on every machine but MIPS (`include/uapi/asm-generic/fcntl.h` of the kernel).
const FLAGS: [(u32, &str); 11] = [
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10_000, "O_DSYNC"),
    (0o20_000, "O_ASYNC"),
    (0o1_000_000, "O_NOATIME"),
    (0o4_000_000, "O_SYNC"),
    (0o10_000_000, "O_PATH"),
];

/// The names of flags of open(2). Four bits differ between machines.
pub(super) fn flag_names(flags: u32, machine: Option<Machine>) -> Vec<String> {
    let differing = match machine {
        Some(Machine::Arm | Machine::Aarch64 | Machine::Ppc64) => {
            ["O_DIRECTORY", "O_NOFOLLOW", "O_DIRECT", "O_LARGEFILE"]
        }
        _ => ["O_DIRECT", "O_LARGEFILE", "O_DIRECTORY", "O_NOFOLLOW"],
    };
    let differing = [0o40_000, 0o100_000, 0o200_000, 0o400_000].into_iter().zip(differing);
    let mut known: BTreeMap<u32, &str> = FLAGS.into_iter().collect();
    known.extend(differing);
    let mut names = vec![
        match flags & 3 {
            0 => "O_RDONLY",
            1 => "O_WRONLY",
            _ => "O_RDWR",
        }
        .to_owned(),
    ];
    let mut rest = flags & !3;
    for (bit, name) in known {
        // The kernel sets it on every file of a 64-bit program: it tells nothing.
        if rest & bit != 0 && name != "O_LARGEFILE" {
            names.push(name.to_owned());
        }
        rest &= !bit;
    }
    if rest != 0 {
        names.push(format!("{rest:#o}"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_names_of_their_machine() {
        assert_eq!(flag_names(0o102_002, None), ["O_RDWR", "O_APPEND"]);
        assert_eq!(flag_names(0o200_000, Some(Machine::X86_64)), ["O_RDONLY", "O_DIRECTORY"]);
        assert_eq!(flag_names(0o200_000, Some(Machine::Aarch64)), ["O_RDONLY", "O_DIRECT"]);
        assert_eq!(flag_names(0x4000_0001, None), ["O_WRONLY", "0o10000000000"]);
    }

    #[test]
    fn a_descriptor_of_nothing_is_still_listed() {
        let descriptor = Descriptor { id: 9, flags: 1, r#type: 77, fd: 3, ..Descriptor::default() };
        let open = &Files::default().table(&[descriptor])[0];
        assert_eq!((open.kind, open.target.as_str(), open.fd), ("unknown", "[9]", 3));
        assert_eq!(open.flags, ["FD_CLOEXEC"]);
    }
}

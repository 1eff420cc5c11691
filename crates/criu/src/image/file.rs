//! Open files (CRIU `images/fdinfo.proto`, `regfile.proto`, `fown.proto`, `pipe.proto`, `fifo.proto`, `tty.proto`, `ext-file.proto`,
//! `ns.proto`, `memfd.proto`, `remap-file-path.proto`, `ghost-file.proto`).

use prost::Message;

use super::event::{EventFd, EventPoll, Inotify, PidFd, SignalFd, TimerFd};
use super::records;
use super::socket::{InetSocket, NetlinkSocket, PacketSocket, UnixSocket};

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FileType {
    /// Not known.
    Undefined = 0,
    /// A regular file, a directory or a device.
    Regular = 1,
    /// A pipe.
    Pipe = 2,
    /// A named pipe.
    Fifo = 3,
    /// An IPv4 or IPv6 socket.
    InetSocket = 4,
    /// A Unix socket.
    UnixSocket = 5,
    /// An event counter.
    EventFd = 6,
    /// An event poll.
    EventPoll = 7,
    /// An inotify descriptor.
    Inotify = 8,
    /// A signal descriptor.
    SignalFd = 9,
    /// A packet socket.
    PacketSocket = 10,
    /// A terminal.
    Terminal = 11,
    /// A fanotify descriptor.
    Fanotify = 12,
    /// A netlink socket.
    NetlinkSocket = 13,
    /// A namespace.
    Namespace = 14,
    /// A tunnel.
    Tunnel = 15,
    /// A file that a plugin takes care of.
    External = 16,
    /// A timer descriptor.
    TimerFd = 17,
    /// A file in memory.
    MemFd = 18,
    /// A BPF map.
    BpfMap = 19,
    /// A process descriptor.
    PidFd = 20,
}

/// `fdinfo-ID.img`: one descriptor of a table.
#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    /// The open file, by its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// 1 if it closes on exec.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// The open file's type.
    #[prost(enumeration = "FileType", required, tag = "3")]
    pub r#type: i32,
    /// The descriptor's number.
    #[prost(uint32, required, tag = "4")]
    pub fd: u32,
    /// SELinux label.
    #[prost(string, optional, tag = "5")]
    pub xattr_security_selinux: Option<String>,
}

/// `files.img`: one open file, with the part that its type says.
#[derive(Clone, PartialEq, Message)]
pub struct File {
    /// Its type. One that is not known stays as its number.
    #[prost(enumeration = "FileType", required, tag = "1")]
    pub r#type: i32,
    /// The id that descriptors, mappings and directories point to.
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    /// A regular file, a directory or a device.
    #[prost(message, optional, tag = "3")]
    pub reg: Option<RegularFile>,
    /// An IPv4 or IPv6 socket.
    #[prost(message, optional, tag = "4")]
    pub isk: Option<InetSocket>,
    /// A namespace.
    #[prost(message, optional, tag = "5")]
    pub nsf: Option<NamespaceFile>,
    /// A packet socket.
    #[prost(message, optional, tag = "6")]
    pub psk: Option<PacketSocket>,
    /// A netlink socket.
    #[prost(message, optional, tag = "7")]
    pub nlsk: Option<NetlinkSocket>,
    /// An event counter.
    #[prost(message, optional, tag = "8")]
    pub efd: Option<EventFd>,
    /// An event poll.
    #[prost(message, optional, tag = "9")]
    pub epfd: Option<EventPoll>,
    /// A signal descriptor.
    #[prost(message, optional, tag = "10")]
    pub sgfd: Option<SignalFd>,
    /// A timer descriptor.
    #[prost(message, optional, tag = "12")]
    pub tfd: Option<TimerFd>,
    /// An inotify descriptor.
    #[prost(message, optional, tag = "13")]
    pub ify: Option<Inotify>,
    /// A file that a plugin takes care of.
    #[prost(message, optional, tag = "15")]
    pub ext: Option<ExternalFile>,
    /// A Unix socket.
    #[prost(message, optional, tag = "16")]
    pub usk: Option<UnixSocket>,
    /// A named pipe.
    #[prost(message, optional, tag = "17")]
    pub fifo: Option<Fifo>,
    /// A pipe.
    #[prost(message, optional, tag = "18")]
    pub pipe: Option<Pipe>,
    /// A terminal.
    #[prost(message, optional, tag = "19")]
    pub tty: Option<TerminalFile>,
    /// A file in memory.
    #[prost(message, optional, tag = "20")]
    pub memfd: Option<MemFd>,
    /// A process descriptor.
    #[prost(message, optional, tag = "22")]
    pub pidfd: Option<PidFd>,
}

/// Who is signalled when a file is ready.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Owner {
    /// Real user who set it.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Effective user who set it.
    #[prost(uint32, required, tag = "2")]
    pub euid: u32,
    /// Signal sent.
    #[prost(uint32, required, tag = "3")]
    pub signum: u32,
    /// Whether the next field is a thread, a process or a group.
    #[prost(uint32, required, tag = "4")]
    pub pid_type: u32,
    /// Who is signalled; zero for nobody.
    #[prost(uint32, required, tag = "5")]
    pub pid: u32,
}

/// A regular file, a directory or a device.
#[derive(Clone, PartialEq, Message)]
pub struct RegularFile {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Position.
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    /// Who is signalled.
    #[prost(message, required, tag = "5")]
    pub fown: Owner,
    /// Path, seen from the root of its mount namespace, or a name the restore is given a descriptor for.
    #[prost(string, required, tag = "6")]
    pub name: String,
    /// Its mount, -1 for none.
    #[prost(sint32, optional, tag = "7", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Size when dumped, in bytes; a restore refuses another.
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    /// It comes from outside.
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    /// File type and permissions.
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    /// Build id of a program or library, four bytes in each word.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
}

/// A pipe's end.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Pipe {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The pipe both ends share: the inode it had.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: Owner,
}

/// `pipes-data.img` and `fifo-data.img`: what is in a pipe; the bytes follow.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PipeData {
    /// The pipe.
    #[prost(uint32, required, tag = "1")]
    pub pipe_id: u32,
    /// How many bytes follow.
    #[prost(uint32, required, tag = "2")]
    pub bytes: u32,
    /// The pipe's capacity in bytes.
    #[prost(uint32, optional, tag = "3")]
    pub size: Option<u32>,
}

/// A named pipe.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Fifo {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The pipe all of its ends share.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// The regular file that says where it is.
    #[prost(uint32, optional, tag = "3")]
    pub regf_id: Option<u32>,
}

/// An open terminal.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TerminalFile {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The terminal in `tty-info.img`.
    #[prost(uint32, required, tag = "2")]
    pub tty_info_id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: Owner,
    /// The regular file that says where it is.
    #[prost(uint32, optional, tag = "6")]
    pub regf_id: Option<u32>,
}

/// A file that a plugin takes care of.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ExternalFile {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
}

/// An open namespace.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct NamespaceFile {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The namespace's id.
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    /// Its kind, as a flag of clone(2).
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}

/// An open file in memory.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MemFd {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// Position.
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    /// The file in `memfd.img`.
    #[prost(uint32, required, tag = "5")]
    pub inode_id: u32,
}

/// `memfd.img`: a file that lives in memory only. Its pages are in `pagemap-shmem-SHMID.img`.
#[derive(Clone, PartialEq, Message)]
pub struct MemoryFile {
    /// Its name.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// Owner.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Size in bytes.
    #[prost(uint64, required, tag = "4")]
    pub size: u64,
    /// Where its pages are.
    #[prost(uint32, required, tag = "5")]
    pub shmid: u32,
    /// Seals, as in fcntl(2).
    #[prost(uint32, required, tag = "6")]
    pub seals: u32,
    /// The id that open files of it point to.
    #[prost(uint64, required, tag = "7")]
    pub inode_id: u64,
    /// Size of its huge pages, as a flag of memfd_create(2).
    #[prost(uint32, optional, tag = "8")]
    pub hugetlb_flag: Option<u32>,
    /// File type and permissions.
    #[prost(uint32, optional, tag = "9")]
    pub mode: Option<u32>,
}

/// `remap-fpath.img`: an open file whose path has to be replaced.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RemappedPath {
    /// The file, by its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    /// What to open instead: a file's id, the id of a removed file, or a process id.
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    /// See [`RemapType`].
    #[prost(enumeration = "RemapType", optional, tag = "3")]
    pub remap_type: Option<i32>,
}

/// How a path is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RemapType {
    /// By a link that the dump made.
    Linked = 0,
    /// By a file from `ghost-file-ID.img`.
    Removed = 1,
    /// A file in `/proc` of a process that has ended.
    Procfs = 2,
}

impl RemappedPath {
    /// The highest bit of [`Self::remap_id`], by which images without a type mark removed files.
    const REMOVED_BIT: u32 = 1 << 31;

    /// How the path is replaced; `None` if the number is not known.
    #[must_use]
    pub fn kind(&self) -> Option<RemapType> {
        match self.remap_type {
            Some(number) => RemapType::try_from(number).ok(),
            None if self.remap_id & Self::REMOVED_BIT != 0 => Some(RemapType::Removed),
            None => Some(RemapType::Linked),
        }
    }

    /// The number of the image `ghost-file-ID.img`, for a removed file.
    #[must_use]
    pub fn removed_file(&self) -> Option<u32> {
        (self.kind() == Some(RemapType::Removed)).then_some(self.remap_id & !Self::REMOVED_BIT)
    }
}

/// `ghost-file-ID.img`, first entry: a file that was removed while open. Read it with [`super::read_one`], which leaves the file's
/// contents alone.
#[derive(Clone, PartialEq, Message)]
pub struct RemovedFile {
    /// Owner.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    /// File type and permissions.
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    /// Device it was on.
    #[prost(uint32, optional, tag = "4")]
    pub dev: Option<u32>,
    /// Inode it was.
    #[prost(uint64, optional, tag = "5")]
    pub ino: Option<u64>,
    /// Device it is, for device files.
    #[prost(uint32, optional, tag = "6")]
    pub rdev: Option<u32>,
    /// The contents follow in chunks, holes left out.
    #[prost(bool, optional, tag = "9")]
    pub chunks: Option<bool>,
    /// Size in bytes.
    #[prost(uint64, optional, tag = "10")]
    pub size: Option<u64>,
    /// Where it points, for symbolic links.
    #[prost(string, optional, tag = "11")]
    pub symlnk_target: Option<String>,
}

records! {
    Descriptor => Descriptors,
    File => Files,
    PipeData => PipeData,
    MemoryFile => MemoryFiles,
    RemappedPath => RemappedPaths,
    RemovedFile => RemovedFile,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_images_mark_removed_files_in_the_id() {
        let remap = |remap_id, remap_type| RemappedPath { orig_id: 1, remap_id, remap_type };
        assert_eq!(remap(5, Some(1)).removed_file(), Some(5));
        assert_eq!(remap(1 << 31 | 5, None).removed_file(), Some(5));
        assert_eq!(remap(5, None).removed_file(), None);
        assert_eq!(remap(5, Some(9)).kind(), None);
    }
}

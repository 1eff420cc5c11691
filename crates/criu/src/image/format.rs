//! Which messages an image of each kind consists of, and what `crit` calls it (CRIU 4.2, `criu/include/magic.h` and
//! `lib/pycriu/images/images.py`).

use std::io::{Chain, Cursor, Read};

use super::framing::{COMMON_MAGIC, SERVICE_MAGIC};
use super::schema::{self, Schema};
use super::{ImageError, Kind};

/// The messages of one kind of image.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// The kind.
    pub kind: Kind,
    /// The name of its magic, as JSON has it.
    pub magic: &'static str,
    first: &'static str,
    rest: &'static str,
}

macro_rules! formats {
    ($($kind:ident $magic:literal $first:ident $($rest:ident)?;)+) => {
        /// All kinds that have entries. Several kinds may share a magic: then the first counts.
        const FORMATS: &[Format] = &[$(Format {
            kind: Kind::$kind,
            magic: $magic,
            first: stringify!($first),
            rest: formats!(@rest $first $($rest)?),
        }),+];
    };
    (@rest $first:ident) => { stringify!($first) };
    (@rest $first:ident $rest:ident) => { stringify!($rest) };
}

formats! {
    Inventory "INVENTORY" inventory_entry;
    ProcessTree "PSTREE" pstree_entry;
    Core "CORE" core_entry;
    Ids "IDS" task_kobj_ids_entry;
    Memory "MM" mm_entry;
    Pagemap "PAGEMAP" pagemap_head pagemap_entry;
    SharedPagemap "PAGEMAP" pagemap_head pagemap_entry;
    Descriptors "FDINFO" fdinfo_entry;
    Files "FILES" file_entry;
    FileSystem "FS" fs_entry;
    RemappedPaths "REMAP_FPATH" remap_file_path_entry;
    RemovedFile "GHOST_FILE" ghost_file_entry ghost_chunk_entry;
    MemoryFiles "MEMFD_INODE" memfd_inode_entry;
    PipeData "PIPES_DATA" pipe_data_entry;
    FifoData "FIFO_DATA" pipe_data_entry;
    SocketQueues "SK_QUEUES" sk_packet_entry;
    TcpStream "TCP_STREAM" tcp_stream_entry;
    Terminals "TTY_INFO" tty_info_entry;
    TerminalData "TTY_DATA" tty_data_entry;
    FileLocks "FILE_LOCKS" file_lock_entry;
    Seccomp "SECCOMP" seccomp_entry;
    Cgroup "CGROUP" cgroup_entry;
    AppArmor "APPARMOR" apparmor_entry;
    CpuInfo "CPUINFO" cpuinfo_entry;
    BpfMapData "BPFMAP_DATA" bpfmap_data_entry;
    Mounts "MNTS" mnt_entry;
    TimeNamespace "TIMENS" timens_entry;
    PidNamespace "PIDNS" pidns_entry;
    UtsNamespace "UTSNS" utsns_entry;
    UserNamespace "USERNS" userns_entry;
    IpcSettings "IPC_VAR" ipc_var_entry;
    IpcShared "IPCNS_SHM" ipc_shm_entry;
    IpcMessages "IPCNS_MSG" ipc_msg_entry;
    IpcSemaphores "IPCNS_SEM" ipc_sem_entry;
    NetworkNamespace "NETNS" netns_entry;
    NetworkDevices "NETDEV" net_device_entry;
    Automounts "AUTOFS" autofs_entry;
    BinaryFormats "BINFMT_MISC" binfmt_misc_entry;
    OldBinaryFormats "BINFMT_MISC" binfmt_misc_entry;
    Statistics "STATS" stats_entry;
    InodeCache "IRMAP_CACHE" irmap_cache_entry;
    RegularFiles "REG_FILES" reg_file_entry;
    ExternalFiles "EXT_FILES" ext_file_entry;
    NamespaceFiles "NS_FILES" ns_file_entry;
    EventFds "EVENTFD_FILE" eventfd_file_entry;
    EventPolls "EVENTPOLL_FILE" eventpoll_file_entry;
    EventPollTargets "EVENTPOLL_TFD" eventpoll_tfd_entry;
    SignalFds "SIGNALFD" signalfd_entry;
    InotifyFiles "INOTIFY_FILE" inotify_file_entry;
    InotifyWatches "INOTIFY_WD" inotify_wd_entry;
    FanotifyFiles "FANOTIFY_FILE" fanotify_file_entry;
    FanotifyMarks "FANOTIFY_MARK" fanotify_mark_entry;
    Pipes "PIPES" pipe_entry;
    Fifos "FIFO" fifo_entry;
    UnixSockets "UNIXSK" unix_sk_entry;
    InetSockets "INETSK" inet_sk_entry;
    PacketSockets "PACKETSK" packet_sock_entry;
    NetlinkSockets "NETLINK_SK" netlink_sk_entry;
    TerminalFiles "TTY_FILES" tty_file_entry;
    Tunnels "TUNFILE" tunfile_entry;
    TimerFds "TIMERFD" timerfd_entry;
    BpfMaps "BPFMAP_FILE" bpfmap_file_entry;
    PidFds "PIDFD" pidfd_entry;
    OldMappings "VMAS" vma_entry;
    OldSignalActions "SIGACT" sa_entry;
    OldIntervalTimers "ITIMERS" itimer_entry;
    OldPosixTimers "POSIX_TIMERS" posix_timer_entry;
    OldCredentials "CREDS" creds_entry;
    OldLimits "RLIMIT" rlimit_entry;
    OldProcessSignals "SIGNAL" siginfo_entry;
    OldThreadSignals "SIGNAL" siginfo_entry;
}

impl Format {
    /// The format of a kind; `None` for those that are raw or older than all messages.
    #[must_use]
    pub fn of(kind: Kind) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.kind == kind)
    }

    /// The format whose magic has this name.
    #[must_use]
    pub fn named(magic: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.magic == magic)
    }

    /// All formats.
    pub fn all() -> impl Iterator<Item = &'static Format> {
        FORMATS.iter()
    }

    /// The message of the entry with this index.
    ///
    /// # Panics
    ///
    /// Never: a test looks up every message of the table.
    #[must_use]
    pub fn schema(&self, index: u64) -> &'static Schema {
        let name = if index == 0 { self.first } else { self.rest };
        schema::message(name).expect("the table names messages that exist")
    }

    fn of_magic(magic: u32) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.kind.description().magic == magic)
    }
}

/// An image, its first bytes having been looked at.
pub type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// Finds out by its magic what an image is. The bytes looked at are put back in front.
///
/// # Errors
///
/// When the input is shorter than a magic, cannot be read, or starts with a number that is no magic.
pub fn identify<R: Read>(mut input: R) -> Result<(&'static Format, Whole<R>), ImageError> {
    let mut head = Vec::with_capacity(8);
    let mut read = |head: &mut Vec<u8>| {
        let before = head.len();
        (&mut input).take(4).read_to_end(head).map_err(|source| ImageError::Unreadable { source })?;
        match head[before..].first_chunk() {
            Some(bytes) => Ok(u32::from_le_bytes(*bytes)),
            None => Err(ImageError::NoMagic { size: head.len() }),
        }
    };
    let mut magic = read(&mut head)?;
    if matches!(magic, COMMON_MAGIC | SERVICE_MAGIC) {
        magic = read(&mut head)?;
    }
    let format = Format::of_magic(magic).ok_or(ImageError::UnknownMagic { found: magic })?;
    Ok((format, Cursor::new(head).chain(input)))
}

/// What the images are that have no entries, for people who ask.
#[must_use]
pub fn raw_contents(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Pages => "pages of memory, one after the other",
        Kind::OldSharedPages => "pages of a shared mapping, as CRIU before 1.3 wrote them",
        Kind::Addresses => "addresses, as `ip address save` wrote them",
        Kind::Routes | Kind::Routes6 => "routes, as `ip route save` wrote them",
        Kind::Rules => "routing rules, as `ip rule save` wrote them",
        Kind::Iptables | Kind::Ip6tables => "packet filters, as `iptables-save` wrote them: text",
        Kind::Nftables => "packet filters, as `nft` listed them: text",
        Kind::Conntrack | Kind::ConntrackExpected => "tracked connections, as netlink messages",
        Kind::Tmpfs | Kind::TmpfsDevice => "the files of a tmpfs, as a compressed tar",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::kind::KINDS;
    use crate::image::{Framing, ImageWriter};

    #[test]
    fn every_kind_has_messages_or_is_raw() {
        for row in KINDS {
            match Format::of(row.kind) {
                Some(format) => {
                    assert_ne!(row.framing, Framing::Raw, "{}", row.kind);
                    assert_eq!(format.schema(0).name, format.first);
                    assert_eq!(format.schema(1).name, format.rest);
                    assert_eq!(raw_contents(row.kind), None);
                }
                None => assert!(raw_contents(row.kind).is_some(), "{}", row.kind),
            }
        }
    }

    #[test]
    fn the_magic_tells_the_kind() {
        for format in Format::all() {
            let image = ImageWriter::new(format.kind, Vec::new()).unwrap().into_inner();
            let (found, mut rest) = identify(image.as_slice()).unwrap();
            assert_eq!(found.magic, format.magic);
            let mut again = Vec::new();
            rest.read_to_end(&mut again).unwrap();
            assert_eq!(again, image);
            assert_eq!(Format::named(format.magic).unwrap().kind, found.kind);
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_its_first_bytes() {
        let error = |bytes: &[u8]| identify(bytes).unwrap_err().to_string();
        assert_eq!(error(b""), "no image: it has 0 bytes, fewer than a magic");
        assert_eq!(error(b"\x7fELF"), "no image: it starts with 0x464c457f, which is no magic");
    }
}

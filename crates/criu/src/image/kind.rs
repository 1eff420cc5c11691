//! Every kind of image, in one table.

use std::fmt;

/// How the file name of a kind varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// There is one such image in a checkpoint.
    None,
    /// One for each number, written in decimal: a pid, or the id of a namespace, a set of descriptors or a set of pages.
    Decimal,
    /// One for each number, written in hexadecimal: an inode, or the id of a removed file.
    Hexadecimal,
    /// One for each word: `dump` or `restore`.
    Word,
}

/// What stands before the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The kind's magic alone. In checkpoints of version 1 all images are like that.
    Magic,
    /// The common magic, then the kind's.
    Common,
    /// The service magic, then the kind's: files about a run of CRIU rather than about the program.
    Service,
    /// Nothing, and there are no entries: a format of its own.
    Raw,
}

/// What follows the message of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// As many bytes as the fields of these numbers say together.
    Sum(&'static [u32]),
    /// Semaphores: two bytes for each of field 2, rounded up to 8.
    Semaphores,
    /// Messages: field 3 times a size, a message of that size, and as many bytes as its field 2 says, rounded up to 8.
    MessageQueue,
    /// The bytes of a segment (field 2, rounded up to 4) unless field 3 says that they are in a pagemap.
    SharedSegment,
    /// A file: chunks with a message each if field 9 is set, or else all that is left of the image.
    RemovedFile,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The kind it describes.
    pub kind: Kind,
    /// The file name up to the argument.
    pub prefix: &'static str,
    /// What varies in the file name.
    pub argument: Argument,
    /// The file name after the argument.
    pub suffix: &'static str,
    /// The number that tells the kind, zero for raw ones.
    pub magic: u32,
    /// What stands before the first entry.
    pub framing: Framing,
    /// What follows each entry's message.
    pub extra: Extra,
}

macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident $prefix:literal $argument:ident $suffix:literal $magic:literal $framing:ident $extra:expr;)+) => {
        /// What an image is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])+ $kind,)+
        }

        /// All kinds of images, in the order of [`Kind`].
        pub const KINDS: &[Description] = &[$(Description {
            kind: Kind::$kind,
            prefix: $prefix,
            argument: Argument::$argument,
            suffix: $suffix,
            magic: $magic,
            framing: Framing::$framing,
            extra: $extra,
        }),+];
    };
}

kinds! {
    /// What the checkpoint is as a whole.
    Inventory "inventory" None ".img" 0x5831_3116 Magic Extra::None;
    /// The processes and their threads.
    ProcessTree "pstree" None ".img" 0x5027_3030 Common Extra::None;
    /// One thread: registers, credentials, and for the first of a process what belongs to the process.
    Core "core-" Decimal ".img" 0x5505_3847 Common Extra::None;
    /// The ids under which a process shares things with others.
    Ids "ids-" Decimal ".img" 0x5443_2030 Common Extra::None;
    /// The address space of a process.
    Memory "mm-" Decimal ".img" 0x5749_2820 Common Extra::None;
    /// Which pages of a process are in the checkpoint.
    Pagemap "pagemap-" Decimal ".img" 0x5608_4025 Common Extra::None;
    /// Which pages of a shared mapping are in the checkpoint.
    SharedPagemap "pagemap-shmem-" Decimal ".img" 0x5608_4025 Common Extra::None;
    /// The pages themselves, without frame.
    Pages "pages-" Decimal ".img" 0 Raw Extra::None;
    /// The pages of a shared mapping, before CRIU 1.3.
    OldSharedPages "pages-shmem-" Decimal ".img" 0x5608_4025 Common Extra::None;
    /// The descriptors of a process.
    Descriptors "fdinfo-" Decimal ".img" 0x5621_3732 Common Extra::None;
    /// Every open file of every type.
    Files "files" None ".img" 0x5630_3138 Common Extra::None;
    /// Working directory, root and umask of a process.
    FileSystem "fs-" Decimal ".img" 0x5140_3912 Common Extra::None;
    /// Open files whose path had to be replaced.
    RemappedPaths "remap-fpath" None ".img" 0x5913_3954 Common Extra::None;
    /// A file that was removed while open.
    RemovedFile "ghost-file-" Hexadecimal ".img" 0x5258_3605 Common Extra::RemovedFile;
    /// Files that live in memory only.
    MemoryFiles "memfd" None ".img" 0x4845_3499 Common Extra::None;
    /// What is in the pipes.
    PipeData "pipes-data" None ".img" 0x5645_3709 Common Extra::Sum(&[2]);
    /// What is in the named pipes.
    FifoData "fifo-data" None ".img" 0x5933_3054 Common Extra::Sum(&[2]);
    /// What is in the queues of Unix and netlink sockets.
    SocketQueues "sk-queues" None ".img" 0x5626_4026 Common Extra::Sum(&[2]);
    /// An established TCP connection and what is in its queues.
    TcpStream "tcp-stream-" Hexadecimal ".img" 0x5146_5506 Common Extra::Sum(&[1, 3]);
    /// Terminals.
    Terminals "tty-info" None ".img" 0x5945_3036 Common Extra::None;
    /// What is in the buffers of terminals.
    TerminalData "tty-data" None ".img" 0x5941_3026 Common Extra::None;
    /// Locks on files.
    FileLocks "filelocks" None ".img" 0x5432_3616 Common Extra::None;
    /// Seccomp filters.
    Seccomp "seccomp" None ".img" 0x6441_3049 Common Extra::None;
    /// Control groups.
    Cgroup "cgroup" None ".img" 0x5938_3330 Common Extra::None;
    /// AppArmor profiles.
    AppArmor "apparmor" None ".img" 0x5942_3047 Common Extra::None;
    /// The processor's features.
    CpuInfo "cpuinfo" None ".img" 0x6140_4013 Common Extra::None;
    /// The contents of BPF maps.
    BpfMapData "bpfmap-data" None ".img" 0x6432_4033 Common Extra::Sum(&[2, 3]);
    /// A mount namespace.
    Mounts "mountpoints-" Decimal ".img" 0x5556_3928 Common Extra::None;
    /// The clocks of a time namespace.
    TimeNamespace "timens-" Decimal ".img" 0x4311_4433 Common Extra::None;
    /// A PID namespace.
    PidNamespace "pidns-" Decimal ".img" 0x6115_7326 Common Extra::None;
    /// A UTS namespace.
    UtsNamespace "utsns-" Decimal ".img" 0x5447_3203 Common Extra::None;
    /// A user namespace.
    UserNamespace "userns-" Decimal ".img" 0x5547_4906 Common Extra::None;
    /// The settings of an IPC namespace.
    IpcSettings "ipcns-var-" Decimal ".img" 0x5311_5007 Common Extra::None;
    /// System V shared memory.
    IpcShared "ipcns-shm-" Decimal ".img" 0x4628_3044 Common Extra::SharedSegment;
    /// System V message queues.
    IpcMessages "ipcns-msg-" Decimal ".img" 0x5545_3737 Common Extra::MessageQueue;
    /// System V semaphores.
    IpcSemaphores "ipcns-sem-" Decimal ".img" 0x5957_3019 Common Extra::Semaphores;
    /// The settings of a network namespace.
    NetworkNamespace "netns-" Decimal ".img" 0x5593_3752 Common Extra::None;
    /// Network devices.
    NetworkDevices "netdev-" Decimal ".img" 0x5737_3951 Common Extra::None;
    /// Automounts.
    Automounts "autofs-" Decimal ".img" 0x4935_3943 Common Extra::None;
    /// Binary formats.
    BinaryFormats "binfmt-misc" None ".img" 0x6734_3323 Common Extra::None;
    /// Binary formats of one mount, before CRIU 3.17.
    OldBinaryFormats "binfmt-misc-" Decimal ".img" 0x6734_3323 Common Extra::None;
    /// Statistics of a dump or a restore.
    Statistics "stats-" Word "" 0x5709_3306 Service Extra::None;
    /// Where inodes were found.
    InodeCache "irmap-cache" None "" 0x5700_4059 Service Extra::None;
    /// Addresses of a network namespace, as `ip` saved them.
    Addresses "ifaddr-" Decimal ".img" 0 Raw Extra::None;
    /// IPv4 routes, as `ip` saved them.
    Routes "route-" Decimal ".img" 0 Raw Extra::None;
    /// IPv6 routes, as `ip` saved them.
    Routes6 "route6-" Decimal ".img" 0 Raw Extra::None;
    /// Routing rules, as `ip` saved them.
    Rules "rule-" Decimal ".img" 0 Raw Extra::None;
    /// Packet filters, as `iptables-save` wrote them.
    Iptables "iptables-" Decimal ".img" 0 Raw Extra::None;
    /// Packet filters, as `ip6tables-save` wrote them.
    Ip6tables "ip6tables-" Decimal ".img" 0 Raw Extra::None;
    /// Packet filters, as `nft` listed them.
    Nftables "nftables-" Decimal ".img" 0 Raw Extra::None;
    /// Connection tracking.
    Conntrack "netns-ct-" Decimal ".img" 0 Raw Extra::None;
    /// Expected connections.
    ConntrackExpected "netns-exp-" Decimal ".img" 0 Raw Extra::None;
    /// The files of a tmpfs, by mount.
    Tmpfs "tmpfs-" Decimal ".tar.gz.img" 0 Raw Extra::None;
    /// The files of a tmpfs, by device.
    TmpfsDevice "tmpfs-dev-" Decimal ".tar.gz.img" 0 Raw Extra::None;
    /// Regular files, before CRIU 3.4 (as all that follow, which are in `files.img` since).
    RegularFiles "reg-files" None ".img" 0x5036_3636 Common Extra::None;
    /// Files that a plugin takes care of.
    ExternalFiles "ext-files" None ".img" 0x5925_5641 Common Extra::None;
    /// Open namespaces.
    NamespaceFiles "ns-files" None ".img" 0x6139_4011 Common Extra::None;
    /// Event counters.
    EventFds "eventfd" None ".img" 0x4452_3722 Common Extra::None;
    /// Event polls.
    EventPolls "eventpoll" None ".img" 0x4502_3858 Common Extra::None;
    /// The targets of event polls.
    EventPollTargets "eventpoll-tfd" None ".img" 0x4443_3746 Common Extra::None;
    /// Signal descriptors.
    SignalFds "signalfd" None ".img" 0x5732_3820 Common Extra::None;
    /// Inotify descriptors.
    InotifyFiles "inotify" None ".img" 0x4842_4431 Common Extra::None;
    /// Inotify watches.
    InotifyWatches "inotify-wd" None ".img" 0x5456_2009 Common Extra::None;
    /// Fanotify descriptors.
    FanotifyFiles "fanotify" None ".img" 0x5509_6122 Common Extra::None;
    /// Fanotify marks.
    FanotifyMarks "fanotify-mark" None ".img" 0x5650_6035 Common Extra::None;
    /// Pipes.
    Pipes "pipes" None ".img" 0x5651_3555 Common Extra::None;
    /// Named pipes.
    Fifos "fifo" None ".img" 0x5836_4939 Common Extra::None;
    /// Unix sockets.
    UnixSockets "unixsk" None ".img" 0x5437_3943 Common Extra::None;
    /// Internet sockets.
    InetSockets "inetsk" None ".img" 0x5644_3851 Common Extra::None;
    /// Packet sockets.
    PacketSockets "packetsk" None ".img" 0x6045_4618 Common Extra::None;
    /// Netlink sockets.
    NetlinkSockets "netlinksk" None ".img" 0x5800_5614 Common Extra::None;
    /// Open terminals.
    TerminalFiles "tty" None ".img" 0x5943_3025 Common Extra::None;
    /// Tunnels.
    Tunnels "tunfile" None ".img" 0x5714_3751 Common Extra::None;
    /// Timer descriptors.
    TimerFds "timerfd" None ".img" 0x5049_3712 Common Extra::None;
    /// BPF maps.
    BpfMaps "bpfmap-file" None ".img" 0x5750_6142 Common Extra::None;
    /// Process descriptors.
    PidFds "pidfd" None ".img" 0x5443_5556 Common Extra::None;
    /// Mappings, before they moved into `mm`.
    OldMappings "vmas-" Decimal ".img" 0x5412_3737 Common Extra::None;
    /// Signal handlers, before they moved into `core`.
    OldSignalActions "sigacts-" Decimal ".img" 0x5534_4201 Common Extra::None;
    /// Interval timers, before they moved into `core`.
    OldIntervalTimers "itimers-" Decimal ".img" 0x5746_4056 Common Extra::None;
    /// POSIX timers, before they moved into `core`.
    OldPosixTimers "posix-timers-" Decimal ".img" 0x5260_3957 Common Extra::None;
    /// Credentials, before they moved into `core`.
    OldCredentials "creds-" Decimal ".img" 0x5402_3547 Common Extra::None;
    /// Resource limits, before they moved into `core`.
    OldLimits "rlimit-" Decimal ".img" 0x5711_3925 Common Extra::None;
    /// Signals sent to a process, before they moved into `core`.
    OldProcessSignals "signal-s-" Decimal ".img" 0x5925_5647 Common Extra::None;
    /// Signals sent to a thread, before they moved into `core`.
    OldThreadSignals "signal-p-" Decimal ".img" 0x5925_5647 Common Extra::None;
}

/// A file name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The kind of image the file is.
    pub kind: Kind,
    /// The number in the name, for kinds that have one.
    pub id: Option<u64>,
}

impl Kind {
    /// The kind's row in the table.
    #[must_use]
    pub fn description(self) -> &'static Description {
        &KINDS[self as usize]
    }

    /// The file name of the image with this number; kinds without a number ignore it.
    ///
    /// ```
    /// use torpor_criu::image::Kind;
    /// assert_eq!(Kind::TcpStream.file_name(0x2f), "tcp-stream-2f.img");
    /// ```
    #[must_use]
    pub fn file_name(self, id: u64) -> String {
        let Description { prefix, argument, suffix, .. } = self.description();
        match argument {
            Argument::None => format!("{prefix}{suffix}"),
            Argument::Decimal => format!("{prefix}{id}{suffix}"),
            Argument::Hexadecimal => format!("{prefix}{id:x}{suffix}"),
            Argument::Word => format!("{prefix}{}{suffix}", if id == 0 { "dump" } else { "restore" }),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { prefix, .. } = self.description();
        f.write_str(prefix.trim_end_matches('-'))
    }
}

impl Name {
    /// What a file in an image directory is, by its name; `None` for files that are not CRIU's, such as logs.
    ///
    /// Files that a plugin writes (`amdgpu-…`) have formats of their own and are not known here.
    #[must_use]
    pub fn parse(file_name: &str) -> Option<Self> {
        KINDS.iter().find_map(|row| {
            let argument = file_name.strip_prefix(row.prefix)?.strip_suffix(row.suffix)?;
            let id = match row.argument {
                Argument::None => argument.is_empty().then_some(None)?,
                Argument::Decimal => Some(parse_number(argument, 10)?),
                Argument::Hexadecimal => Some(parse_number(argument, 16)?),
                Argument::Word => Some(["dump", "restore"].iter().position(|word| *word == argument)? as u64),
            };
            Some(Self { kind: row.kind, id })
        })
    }
}

/// A number as CRIU prints it: digits only.
fn parse_number(digits: &str, radix: u32) -> Option<u64> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_tell_the_kind() {
        let cases = [
            ("inventory.img", Kind::Inventory, None),
            ("core-17.img", Kind::Core, Some(17)),
            ("pagemap-3.img", Kind::Pagemap, Some(3)),
            ("pagemap-shmem-3.img", Kind::SharedPagemap, Some(3)),
            ("tcp-stream-1a2b.img", Kind::TcpStream, Some(0x1a2b)),
            ("tmpfs-12.tar.gz.img", Kind::Tmpfs, Some(12)),
            ("netns-ct-1.img", Kind::Conntrack, Some(1)),
            ("stats-restore", Kind::Statistics, Some(1)),
            ("tty.img", Kind::TerminalFiles, None),
        ];
        for (file, kind, id) in cases {
            assert_eq!(Name::parse(file), Some(Name { kind, id }), "{file}");
            assert_eq!(kind.file_name(id.unwrap_or(0)), file);
        }
    }

    #[test]
    fn other_files_are_not_images() {
        for file in [
            "dump.log",
            "descriptors.json",
            "core-.img",
            "core-+1.img",
            "core-1.img.tmp",
            "parent",
            "core-x.img",
        ] {
            assert_eq!(Name::parse(file), None, "{file}");
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_kinds_and_no_two_share_a_name() {
        for (index, row) in KINDS.iter().enumerate() {
            assert_eq!(row.kind as usize, index);
            assert_eq!(row.magic == 0, row.framing == Framing::Raw, "{}", row.kind);
            let name = row.kind.file_name(1);
            assert_eq!(Name::parse(&name).map(|name| name.kind), Some(row.kind), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_taken_apart_without_panic(name in "\\PC*") {
            let _ = Name::parse(&name);
        }
    }
}

//! Words for numbers: what `crit` calls flags, socket states and the like (CRIU 4.2, `lib/pycriu/images/pb2dict.py`).

/// A number and what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The number, or the bit.
    pub value: u64,
    /// Its name.
    pub name: &'static str,
}

macro_rules! words {
    ($($list:ident { $($value:literal $name:literal;)+ })+) => {
        $(pub(super) static $list: &[Word] = &[$(Word { value: $value, name: $name }),+];)+
    };
}

words! {
    PROTECTION {
        0x1 "PROT_READ";
        0x2 "PROT_WRITE";
        0x4 "PROT_EXEC";
    }
    MAPPING {
        0x1 "MAP_SHARED";
        0x2 "MAP_PRIVATE";
        0x8 "MAP_DROPPABLE";
        0x20 "MAP_ANON";
        0x100 "MAP_GROWSDOWN";
    }
    STATUS {
        0x1 "VMA_AREA_REGULAR";
        0x2 "VMA_AREA_STACK";
        0x4 "VMA_AREA_VSYSCALL";
        0x8 "VMA_AREA_VDSO";
        0x20 "VMA_AREA_HEAP";
        0x40 "VMA_FILE_PRIVATE";
        0x80 "VMA_FILE_SHARED";
        0x100 "VMA_ANON_SHARED";
        0x200 "VMA_ANON_PRIVATE";
        0x400 "VMA_AREA_SYSVIPC";
        0x800 "VMA_AREA_SOCKET";
        0x1000 "VMA_AREA_VVAR";
        0x2000 "VMA_AREA_AIORING";
        0x4000 "VMA_AREA_MEMFD";
        0x8000 "VMA_AREA_SHSTK";
        0x2_0000 "VMA_AREA_UPROBES";
        0x8000_0000 "VMA_UNSUPP";
    }
    OPEN {
        0o1 "O_WRONLY";
        0o2 "O_RDWR";
        0o100 "O_CREAT";
        0o200 "O_EXCL";
        0o400 "O_NOCTTY";
        0o1000 "O_TRUNC";
        0o2000 "O_APPEND";
        0o4000 "O_NONBLOCK";
        0o1_0000 "O_DSYNC";
        0o2_0000 "FASYNC";
        0o4_0000 "O_DIRECT";
        0o10_0000 "O_LARGEFILE";
        0o20_0000 "O_DIRECTORY";
        0o40_0000 "O_NOFOLLOW";
        0o100_0000 "O_NOATIME";
        0o200_0000 "O_CLOEXEC";
    }
    SEALS {
        0x1 "F_SEAL_SEAL";
        0x2 "F_SEAL_SHRINK";
        0x4 "F_SEAL_GROW";
        0x8 "F_SEAL_WRITE";
        0x10 "F_SEAL_FUTURE_WRITE";
    }
    PAGES {
        0x1 "PE_PARENT";
        0x2 "PE_LAZY";
        0x4 "PE_PRESENT";
    }
    TASK_STATE {
        1 "Alive";
        3 "Zombie";
        6 "Stopped";
    }
    FAMILY {
        1 "UNIX";
        2 "INET";
        10 "INET6";
        16 "NETLINK";
        17 "PACKET";
    }
    TYPE {
        1 "STREAM";
        2 "DGRAM";
        3 "RAW";
        5 "SEQPACKET";
        10 "PACKET";
    }
    STATE {
        1 "ESTABLISHED";
        2 "SYN_SENT";
        3 "SYN_RECV";
        4 "FIN_WAIT1";
        5 "FIN_WAIT2";
        6 "TIME_WAIT";
        7 "CLOSE";
        8 "CLOSE_WAIT";
        9 "LAST_ACK";
        10 "LISTEN";
    }
    PROTOCOL {
        0 "IP";
        6 "TCP";
        17 "UDP";
        136 "UDPLITE";
    }
}

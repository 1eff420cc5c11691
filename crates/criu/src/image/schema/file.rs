//! Descriptors, files, pipes and what is in them (CRIU 4.2: `images/fdinfo.proto`, `images/regfile.proto`,
//! `images/fown.proto`, `images/fh.proto`, `images/ghost-file.proto`, `images/remap-file-path.proto`,
//! `images/fs.proto`, `images/ext-file.proto`, `images/file-lock.proto`, `images/pipe.proto`, `images/pipe-data.proto`,
//! `images/fifo.proto`, `images/memfd.proto`, `images/bpfmap-file.proto`, `images/bpfmap-data.proto`).

use super::event::{
    eventfd_file_entry, eventpoll_file_entry, fanotify_file_entry, inotify_file_entry, pidfd_entry,
    signalfd_entry, timerfd_entry,
};
use super::namespace::{ns_file_entry, timeval};
use super::network::tunfile_entry;
use super::socket::{inet_sk_entry, netlink_sk_entry, packet_sock_entry, unix_sk_entry};
use super::terminal::tty_file_entry;
use super::words::{OPEN, SEALS};
use super::{enumerations, messages};

enumerations! {
    fd_types {
        0 UND; 1 REG; 2 PIPE; 3 FIFO; 4 INETSK; 5 UNIXSK; 6 EVENTFD; 7 EVENTPOLL; 8 INOTIFY; 9 SIGNALFD;
        10 PACKETSK; 11 TTY; 12 FANOTIFY; 13 NETLINKSK; 14 NS; 15 TUNF; 16 EXT; 17 TIMERFD; 18 MEMFD;
        19 BPFMAP; 20 PIDFD; 65534 CTL_TTY; 65535 AUTOFS_PIPE;
    }
    remap_type {
        0 LINKED; 1 GHOST; 2 PROCFS;
    }
}

messages! {
    fdinfo_entry {
        1 id! u32;
        2 flags! u32;
        3 type! one_of(fd_types);
        4 fd! u32;
        5 xattr_security_selinux? text;
    }
    file_entry {
        1 type! one_of(fd_types);
        2 id! u32;
        3 reg? message(reg_file_entry);
        4 isk? message(inet_sk_entry);
        5 nsf? message(ns_file_entry);
        6 psk? message(packet_sock_entry);
        7 nlsk? message(netlink_sk_entry);
        8 efd? message(eventfd_file_entry);
        9 epfd? message(eventpoll_file_entry);
        10 sgfd? message(signalfd_entry);
        11 tunf? message(tunfile_entry);
        12 tfd? message(timerfd_entry);
        13 ify? message(inotify_file_entry);
        14 ffy? message(fanotify_file_entry);
        15 ext? message(ext_file_entry);
        16 usk? message(unix_sk_entry);
        17 fifo? message(fifo_entry);
        18 pipe? message(pipe_entry);
        19 tty? message(tty_file_entry);
        20 memfd? message(memfd_file_entry);
        21 bpf? message(bpfmap_file_entry);
        22 pidfd? message(pidfd_entry);
    }
    reg_file_entry {
        1 id! u32;
        2 flags! u32 as flags(OPEN);
        3 pos! u64;
        5 fown! message(fown_entry);
        6 name! text;
        7 mnt_id? s32;
        8 size? u64;
        9 ext? flag;
        10 mode? u32;
        11 build_id* u32;
        12 checksum? u32;
        13 checksum_config? u32;
        14 checksum_parameter? u32;
    }
    fown_entry {
        1 uid! u32;
        2 euid! u32;
        3 signum! u32;
        4 pid_type! u32;
        5 pid! u32;
    }
    fh_entry {
        1 bytes! u32;
        2 type! u32;
        3 handle* u64;
        4 path? text;
        5 mnt_id? u32;
    }
    irmap_cache_entry {
        1 dev! u32 as old_device;
        2 inode! u64;
        3 path! text;
    }
    ghost_file_entry {
        1 uid! u32;
        2 gid! u32;
        3 mode! u32;
        4 dev? u32 as device;
        5 ino? u64;
        6 rdev? u32 as old_device;
        7 atim? message(timeval);
        8 mtim? message(timeval);
        9 chunks? flag;
        10 size? u64;
        11 symlnk_target? text;
    }
    ghost_chunk_entry {
        1 len! u64;
        2 off! u64;
    }
    remap_file_path_entry {
        1 orig_id! u32;
        2 remap_id! u32;
        3 remap_type? one_of(remap_type);
    }
    fs_entry {
        1 cwd_id! u32;
        2 root_id! u32;
        3 umask? u32;
    }
    ext_file_entry {
        1 id! u32;
        5 fown! message(fown_entry);
    }
    file_lock_entry {
        1 flag! u32;
        2 type! u32;
        3 pid! i32;
        4 fd! i32;
        5 start! i64;
        6 len! i64;
    }
    pipe_entry {
        1 id! u32;
        2 pipe_id! u32;
        3 flags! u32 as hex;
        4 fown! message(fown_entry);
    }
    pipe_data_entry {
        1 pipe_id! u32;
        2 bytes! u32;
        3 size? u32;
    }
    fifo_entry {
        1 id! u32;
        2 pipe_id! u32;
        3 regf_id? u32;
    }
    memfd_file_entry {
        1 id! u32;
        2 flags! u32 as flags(OPEN);
        3 pos! u64;
        4 fown! message(fown_entry);
        5 inode_id! u32;
    }
    memfd_inode_entry {
        1 name! text;
        2 uid! u32;
        3 gid! u32;
        4 size! u64;
        5 shmid! u32;
        6 seals! u32 as flags(SEALS);
        7 inode_id! u64;
        8 hugetlb_flag? u32;
        9 mode? u32;
    }
    bpfmap_file_entry {
        1 id! u32;
        2 flags! u32 as flags(OPEN);
        3 pos! u64;
        4 fown! message(fown_entry);
        5 map_type! u32;
        6 key_size! u32;
        7 value_size! u32;
        8 map_id! u32;
        9 max_entries! u32;
        10 map_flags! u32;
        11 memlock! u64;
        12 frozen! flag;
        13 map_name! text;
        14 ifindex! u32;
        15 mnt_id? s32;
        16 map_extra? u64;
    }
    bpfmap_data_entry {
        1 map_id! u32;
        2 keys_bytes! u32;
        3 values_bytes! u32;
        4 count! u32;
    }
}

//! Namespaces, mounts and control groups (CRIU 4.2: `images/mnt.proto`, `images/ns.proto`, `images/userns.proto`,
//! `images/utsns.proto`, `images/pidns.proto`, `images/timens.proto`, `images/time.proto`, `images/autofs.proto`,
//! `images/binfmt-misc.proto`, `images/cgroup.proto`).

use super::messages;

messages! {
    mnt_entry {
        1 fstype! u32;
        2 mnt_id! u32;
        3 root_dev! u32 as device;
        4 parent_mnt_id! u32;
        5 flags! u32 as hex;
        6 root! text;
        7 mountpoint! text;
        8 source! text;
        9 options! text;
        10 shared_id? u32;
        11 master_id? u32;
        12 with_plugin? flag;
        13 ext_mount? flag;
        14 fsname? text;
        15 internal_sharing? flag;
        16 deleted? flag;
        17 sb_flags? u32 as hex;
        18 ext_key? text;
    }
    ns_file_entry {
        1 id! u32;
        2 ns_id! u32;
        3 ns_cflag! u32;
        4 flags! u32;
    }
    uid_gid_extent {
        1 first! u32;
        2 lower_first! u32;
        3 count! u32;
    }
    userns_entry {
        1 uid_map* message(uid_gid_extent);
        2 gid_map* message(uid_gid_extent);
    }
    utsns_entry {
        1 nodename! text;
        2 domainname! text;
    }
    pidns_entry {
        1 ext_key? text;
    }
    timespec {
        1 tv_sec! u64;
        2 tv_nsec! u64;
    }
    timens_entry {
        1 monotonic! message(timespec);
        2 boottime! message(timespec);
    }
    timeval {
        1 tv_sec! u64;
        2 tv_usec! u64;
    }
    autofs_entry {
        1 fd! i32;
        2 pgrp! i32;
        3 timeout! i32;
        4 minproto! i32;
        5 maxproto! i32;
        6 mode! i32;
        7 uid? i32;
        8 gid? i32;
        9 read_fd? i32;
    }
    binfmt_misc_entry {
        1 name! text;
        2 enabled! flag;
        3 interpreter! text;
        4 flags? text;
        5 extension? text;
        6 magic? text;
        7 mask? text;
        8 offset? i32;
    }
    cgroup_perms {
        1 mode! u32;
        2 uid! u32;
        3 gid! u32;
    }
    cgroup_prop_entry {
        1 name! text;
        2 value! text;
        3 perms? message(cgroup_perms);
    }
    cgroup_dir_entry {
        1 dir_name! text;
        2 children* message(cgroup_dir_entry);
        3 properties* message(cgroup_prop_entry);
        4 dir_perms? message(cgroup_perms);
    }
    cg_controller_entry {
        1 cnames* text;
        2 dirs* message(cgroup_dir_entry);
        3 is_threaded? flag;
    }
    cg_member_entry {
        1 name! text;
        2 path! text;
        3 cgns_prefix? u32;
    }
    cg_set_entry {
        1 id! u32;
        2 ctls* message(cg_member_entry);
    }
    cgroup_entry {
        1 sets* message(cg_set_entry);
        2 controllers* message(cg_controller_entry);
    }
}

//! What is said to and by CRIU's service and its image streamer (CRIU 4.2: `images/rpc.proto`,
//! `images/img-streamer.proto`).

use super::{enumerations, messages};

enumerations! {
    criu_cg_mode {
        0 IGNORE; 1 CG_NONE; 2 PROPS; 3 SOFT; 4 FULL; 5 STRICT; 6 DEFAULT;
    }
    criu_network_lock_method {
        1 IPTABLES; 2 NFTABLES; 3 SKIP;
    }
    criu_pre_dump_mode {
        1 SPLICE; 2 VM_READ;
    }
    criu_req_type {
        0 EMPTY; 1 DUMP; 2 RESTORE; 3 CHECK; 4 PRE_DUMP; 5 PAGE_SERVER; 6 NOTIFY; 7 CPUINFO_DUMP;
        8 CPUINFO_CHECK; 9 FEATURE_CHECK; 10 VERSION; 11 WAIT_PID; 12 PAGE_SERVER_CHLD; 13 SINGLE_PRE_DUMP;
    }
}

messages! {
    criu_page_server_info {
        1 address? text;
        2 port? i32;
        3 pid? i32;
        4 fd? i32;
    }
    criu_veth_pair {
        1 if_in! text;
        2 if_out! text;
    }
    ext_mount_map {
        1 key! text;
        2 val! text;
    }
    join_namespace {
        1 ns! text;
        2 ns_file! text;
        3 extra_opt? text;
    }
    inherit_fd {
        1 key! text;
        2 fd! i32;
    }
    cgroup_root {
        1 ctrl? text;
        2 path! text;
    }
    unix_sk {
        1 inode! u32;
    }
    criu_opts {
        1 images_dir_fd! i32;
        2 pid? i32;
        3 leave_running? flag;
        4 ext_unix_sk? flag;
        5 tcp_established? flag;
        6 evasive_devices? flag;
        7 shell_job? flag;
        8 file_locks? flag;
        9 log_level? i32;
        10 log_file? text;
        11 ps? message(criu_page_server_info);
        12 notify_scripts? flag;
        13 root? text;
        14 parent_img? text;
        15 track_mem? flag;
        16 auto_dedup? flag;
        17 work_dir_fd? i32;
        18 link_remap? flag;
        19 veths* message(criu_veth_pair);
        20 cpu_cap? u32;
        21 force_irmap? flag;
        22 exec_cmd* text;
        23 ext_mnt* message(ext_mount_map);
        24 manage_cgroups? flag;
        25 cg_root* message(cgroup_root);
        26 rst_sibling? flag;
        27 inherit_fd* message(inherit_fd);
        28 auto_ext_mnt? flag;
        29 ext_sharing? flag;
        30 ext_masters? flag;
        31 skip_mnt* text;
        32 enable_fs* text;
        33 unix_sk_ino* message(unix_sk);
        34 manage_cgroups_mode? one_of(criu_cg_mode);
        35 ghost_limit? u32;
        36 irmap_scan_paths* text;
        37 external* text;
        38 empty_ns? u32;
        39 join_ns* message(join_namespace);
        41 cgroup_props? text;
        42 cgroup_props_file? text;
        43 cgroup_dump_controller* text;
        44 freeze_cgroup? text;
        45 timeout? u32;
        46 tcp_skip_in_flight? flag;
        47 weak_sysctls? flag;
        48 lazy_pages? flag;
        49 status_fd? i32;
        50 orphan_pts_master? flag;
        51 config_file? text;
        52 tcp_close? flag;
        53 lsm_profile? text;
        54 tls_cacert? text;
        55 tls_cacrl? text;
        56 tls_cert? text;
        57 tls_key? text;
        58 tls? flag;
        59 tls_no_cn_verify? flag;
        60 cgroup_yard? text;
        61 pre_dump_mode? one_of(criu_pre_dump_mode);
        62 pidfd_store_sk? i32;
        63 lsm_mount_context? text;
        64 network_lock? one_of(criu_network_lock_method);
        65 mntns_compat_mode? flag;
        66 skip_file_rwx_check? flag;
        67 unprivileged? flag;
        68 images_dir? text;
        69 leave_stopped? flag;
        70 display_stats? flag;
        71 log_to_stderr? flag;
    }
    criu_dump_resp {
        1 restored? flag;
    }
    criu_restore_resp {
        1 pid! i32;
    }
    criu_notify {
        1 script? text;
        2 pid? i32;
    }
    criu_features {
        1 mem_track? flag;
        2 lazy_pages? flag;
        3 pidfd_store? flag;
    }
    criu_req {
        1 type! one_of(criu_req_type);
        2 opts? message(criu_opts);
        3 notify_success? flag;
        4 keep_open? flag;
        5 features? message(criu_features);
        6 pid? u32;
    }
    criu_resp {
        1 type! one_of(criu_req_type);
        2 success! flag;
        3 dump? message(criu_dump_resp);
        4 restore? message(criu_restore_resp);
        5 notify? message(criu_notify);
        6 ps? message(criu_page_server_info);
        7 cr_errno? i32;
        8 features? message(criu_features);
        9 cr_errmsg? text;
        10 version? message(criu_version);
        11 status? i32;
    }
    criu_version {
        1 major_number! i32;
        2 minor_number! i32;
        3 gitid? text;
        4 sublevel? i32;
        5 extra? i32;
        6 name? text;
    }
    img_streamer_request_entry {
        1 filename! text;
    }
    img_streamer_reply_entry {
        1 exists! flag;
    }
}

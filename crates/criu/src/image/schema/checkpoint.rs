//! The checkpoint as a whole (CRIU 4.2: `images/inventory.proto`, `images/stats.proto`, `images/cpuinfo.proto`).

use super::process::task_kobj_ids_entry;
use super::{enumerations, messages};

enumerations! {
    lsmtype {
        0 NO_LSM; 1 SELINUX; 2 APPARMOR;
    }
    vendor {
        0 UNKNOWN; 1 INTEL; 2 AMD;
    }
    endianness {
        0 BIGENDIAN; 1 LITTLEENDIAN;
    }
}

messages! {
    plugins_entry {
        12 plugins* text;
    }
    inventory_entry {
        1 img_version! u32;
        2 fdinfo_per_id? flag;
        3 root_ids? message(task_kobj_ids_entry);
        4 ns_per_id? flag;
        5 root_cg_set? u32;
        6 lsmtype? one_of(lsmtype);
        8 dump_uptime? u64;
        9 pre_dump_mode? u32;
        10 tcp_close? flag;
        11 network_lock_method? u32;
        12 plugins_entry? message(plugins_entry);
        13 dump_criu_run_id? text;
        14 allow_uprobes? flag;
    }
    dump_stats_entry {
        1 freezing_time! u32;
        2 frozen_time! u32;
        3 memdump_time! u32;
        4 memwrite_time! u32;
        5 pages_scanned! u64;
        6 pages_skipped_parent! u64;
        7 pages_written! u64;
        8 irmap_resolve? u32;
        9 pages_lazy! u64;
        10 page_pipes? u64;
        11 page_pipe_bufs? u64;
        12 shpages_scanned? u64;
        13 shpages_skipped_parent? u64;
        14 shpages_written? u64;
    }
    restore_stats_entry {
        1 pages_compared! u64;
        2 pages_skipped_cow! u64;
        3 forking_time! u32;
        4 restore_time! u32;
        5 pages_restored? u64;
    }
    stats_entry {
        1 dump? message(dump_stats_entry);
        2 restore? message(restore_stats_entry);
    }
    cpuinfo_x86_entry {
        1 vendor_id! one_of(vendor);
        2 cpu_family! u32;
        3 model! u32;
        4 stepping! u32;
        5 capability_ver! u32;
        6 capability* u32;
        7 model_id? text;
        8 xfeatures_mask? u64;
        9 xsave_size? u32;
        10 xsave_size_max? u32;
    }
    cpuinfo_ppc64_entry {
        1 endian! one_of(endianness);
        2 hwcap* u64;
    }
    cpuinfo_s390_entry {
        2 hwcap* u64;
    }
    cpuinfo_entry {
        1 x86_entry* message(cpuinfo_x86_entry);
        2 ppc64_entry* message(cpuinfo_ppc64_entry);
        3 s390_entry* message(cpuinfo_s390_entry);
    }
}

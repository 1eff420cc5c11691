//! Processes and threads (CRIU 4.2: `images/pstree.proto`, `images/core.proto`, `images/rlimit.proto`,
//! `images/timer.proto`, `images/sa.proto`, `images/siginfo.proto`, `images/rseq.proto`).

use super::registers::{
    thread_info_aarch64, thread_info_arm, thread_info_loongarch64, thread_info_mips, thread_info_ppc64,
    thread_info_riscv64, thread_info_s390, thread_info_x86,
};
use super::security::creds_entry;
use super::words::TASK_STATE;
use super::{enumerations, messages};

enumerations! {
    seccomp_mode {
        0 disabled; 1 strict; 2 filter;
    }
    march {
        0 UNKNOWN; 1 X86_64; 2 ARM; 3 AARCH64; 4 PPC64; 5 S390; 6 MIPS; 7 LOONGARCH64; 8 RISCV64;
    }
}

messages! {
    pstree_entry {
        1 pid! u32;
        2 ppid! u32;
        3 pgid! u32;
        4 sid! u32;
        5 threads* u32;
    }
    task_core_entry {
        1 task_state! u32 as words(TASK_STATE);
        2 exit_code! u32;
        3 personality! u32;
        4 flags! u32;
        5 blk_sigset! u64 as hex;
        6 comm! text;
        7 timers? message(task_timers_entry);
        8 rlimits? message(task_rlimits_entry);
        9 cg_set? u32;
        10 signals_s? message(signal_queue_entry);
        11 old_seccomp_mode? one_of(seccomp_mode);
        12 old_seccomp_filter? u32;
        13 loginuid? u32;
        14 oom_score_adj? i32;
        15 sigactions* message(sa_entry);
        18 child_subreaper? flag;
        20 blk_sigset_extended? u64 as hex;
        21 stop_signo? u32;
        22 membarrier_registration_mask? u32 as hex;
    }
    task_kobj_ids_entry {
        1 vm_id! u32;
        2 files_id! u32;
        3 fs_id! u32;
        4 sighand_id! u32;
        5 pid_ns_id? u32;
        6 net_ns_id? u32;
        7 ipc_ns_id? u32;
        8 uts_ns_id? u32;
        9 mnt_ns_id? u32;
        10 user_ns_id? u32;
        11 cgroup_ns_id? u32;
        12 time_ns_id? u32;
    }
    thread_sas_entry {
        1 ss_sp! u64;
        2 ss_size! u64;
        3 ss_flags! u32;
    }
    thread_core_entry {
        1 futex_rla! u64;
        2 futex_rla_len! u32;
        3 sched_nice? s32;
        4 sched_policy? u32;
        5 sched_prio? u32;
        6 blk_sigset? u64;
        7 sas? message(thread_sas_entry);
        8 pdeath_sig? u32;
        9 signals_p? message(signal_queue_entry);
        10 creds? message(creds_entry);
        11 seccomp_mode? one_of(seccomp_mode);
        12 seccomp_filter? u32;
        13 comm? text;
        14 blk_sigset_extended? u64;
        15 rseq_entry? message(rseq_entry);
        16 cg_set? u32;
    }
    task_rlimits_entry {
        1 rlimits* message(rlimit_entry);
    }
    core_entry {
        1 mtype! one_of(march);
        2 thread_info? message(thread_info_x86);
        3 tc? message(task_core_entry);
        4 ids? message(task_kobj_ids_entry);
        5 thread_core? message(thread_core_entry);
        6 ti_arm? message(thread_info_arm);
        8 ti_aarch64? message(thread_info_aarch64);
        9 ti_ppc64? message(thread_info_ppc64);
        10 ti_s390? message(thread_info_s390);
        11 ti_mips? message(thread_info_mips);
        12 ti_loongarch64? message(thread_info_loongarch64);
        13 ti_riscv64? message(thread_info_riscv64);
    }
    rlimit_entry {
        1 cur! u64;
        2 max! u64;
    }
    itimer_entry {
        1 isec! u64;
        2 iusec! u64;
        3 vsec! u64;
        4 vusec! u64;
    }
    posix_timer_entry {
        1 it_id! u32;
        2 clock_id! u32;
        3 si_signo! u32;
        4 it_sigev_notify! u32;
        5 sival_ptr! u64;
        6 overrun! u32;
        7 isec! u64;
        8 insec! u64;
        9 vsec! u64;
        10 vnsec! u64;
        11 notify_thread_id? i32;
    }
    task_timers_entry {
        1 real! message(itimer_entry);
        2 virt! message(itimer_entry);
        3 prof! message(itimer_entry);
        4 posix* message(posix_timer_entry);
    }
    sa_entry {
        1 sigaction! u64 as hex;
        2 flags! u64 as hex;
        3 restorer! u64 as hex;
        4 mask! u64 as hex;
        5 compat_sigaction? flag;
        6 mask_extended? u64 as hex;
    }
    siginfo_entry {
        1 siginfo! bytes;
    }
    signal_queue_entry {
        1 signals* message(siginfo_entry);
    }
    rseq_entry {
        1 rseq_abi_pointer! u64;
        2 rseq_abi_size! u32;
        3 signature! u32;
        4 rseq_cs_pointer? u64;
    }
}

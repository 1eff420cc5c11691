//! Processes: the checkpoint as a whole, the tree, and each task's state (CRIU `images/inventory.proto`, `pstree.proto`,
//! `core.proto`, `rlimit.proto`, `timer.proto`, `fs.proto`, `sa.proto`,
//! `siginfo.proto`).

use prost::Message;

use super::credential::Creds;
use super::records;

/// `inventory.img`: the checkpoint as a whole.
#[derive(Clone, PartialEq, Message)]
pub struct Inventory {
    /// 1 or 2; CRIU has written 2 since 2014.
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
    /// Descriptors are kept by the id of their table. Always set; CRIU refuses to restore without it.
    #[prost(bool, optional, tag = "2")]
    pub fdinfo_per_id: Option<bool>,
    /// The namespaces of CRIU itself when it dumped: what has the same ids was not in a namespace of its own.
    #[prost(message, optional, tag = "3")]
    pub root_ids: Option<Ids>,
    /// Namespace images are kept by namespace, not by process.
    #[prost(bool, optional, tag = "4")]
    pub ns_per_id: Option<bool>,
    /// The set of control groups CRIU itself was in.
    #[prost(uint32, optional, tag = "5")]
    pub root_cg_set: Option<u32>,
    /// The security module in force: see [`LsmType`].
    #[prost(enumeration = "LsmType", optional, tag = "6")]
    pub lsmtype: Option<i32>,
    /// Uptime of the machine at the dump, in microseconds.
    #[prost(uint64, optional, tag = "8")]
    pub dump_uptime: Option<u64>,
    /// How a pre-dump read memory.
    #[prost(uint32, optional, tag = "9")]
    pub pre_dump_mode: Option<u32>,
    /// Dumped with `tcp-close`: restoring needs it too.
    #[prost(bool, optional, tag = "10")]
    pub tcp_close: Option<bool>,
    /// How the network was locked: 0 by iptables, 1 by nftables, 2 not at all. CRIU unlocks the same way.
    #[prost(uint32, optional, tag = "11")]
    pub network_lock_method: Option<u32>,
    /// Plugins the dump used. Absent before CRIU 4.1, which then loads them all.
    #[prost(message, optional, tag = "12")]
    pub plugins_entry: Option<Plugins>,
    /// Names the nftables table of the network lock.
    #[prost(string, optional, tag = "13")]
    pub dump_criu_run_id: Option<String>,
    /// Dumped with `allow-uprobes`: restoring needs it too.
    #[prost(bool, optional, tag = "14")]
    pub allow_uprobes: Option<bool>,
}

/// Plugins by name.
#[derive(Clone, PartialEq, Message)]
pub struct Plugins {
    /// Their names, as `cuda_plugin`.
    #[prost(string, repeated, tag = "12")]
    pub plugins: Vec<String>,
}

/// A Linux security module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum LsmType {
    /// None.
    NoLsm = 0,
    /// SELinux.
    Selinux = 1,
    /// AppArmor.
    Apparmor = 2,
}

/// `pstree.img`: one process, parents before their children.
#[derive(Clone, PartialEq, Message)]
pub struct TreeEntry {
    /// Process id, in the innermost PID namespace.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Parent, zero for the root of the tree.
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
    /// Process group.
    #[prost(uint32, required, tag = "3")]
    pub pgid: u32,
    /// Session.
    #[prost(uint32, required, tag = "4")]
    pub sid: u32,
    /// Threads, the first of which has the process's id. Zombies have one.
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub threads: Vec<u32>,
}

/// `ids-PID.img`, and inside `core`: processes with the same id share the thing.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Ids {
    /// Address space.
    #[prost(uint32, required, tag = "1")]
    pub vm_id: u32,
    /// Descriptor table, which names the image `fdinfo-ID.img`.
    #[prost(uint32, required, tag = "2")]
    pub files_id: u32,
    /// Working directory and root.
    #[prost(uint32, required, tag = "3")]
    pub fs_id: u32,
    /// Signal handlers.
    #[prost(uint32, required, tag = "4")]
    pub sighand_id: u32,
    /// PID namespace.
    #[prost(uint32, optional, tag = "5")]
    pub pid_ns_id: Option<u32>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "6")]
    pub net_ns_id: Option<u32>,
    /// IPC namespace.
    #[prost(uint32, optional, tag = "7")]
    pub ipc_ns_id: Option<u32>,
    /// UTS namespace.
    #[prost(uint32, optional, tag = "8")]
    pub uts_ns_id: Option<u32>,
    /// Mount namespace.
    #[prost(uint32, optional, tag = "9")]
    pub mnt_ns_id: Option<u32>,
    /// User namespace.
    #[prost(uint32, optional, tag = "10")]
    pub user_ns_id: Option<u32>,
    /// Cgroup namespace.
    #[prost(uint32, optional, tag = "11")]
    pub cgroup_ns_id: Option<u32>,
    /// Time namespace.
    #[prost(uint32, optional, tag = "12")]
    pub time_ns_id: Option<u32>,
}

/// `core-TID.img`: one thread. Registers are left out.
#[derive(Clone, PartialEq, Message)]
pub struct Core {
    /// The processor: see [`Machine`].
    #[prost(enumeration = "Machine", required, tag = "1")]
    pub mtype: i32,
    /// What belongs to the process; there for its first thread.
    #[prost(message, optional, tag = "3")]
    pub tc: Option<Task>,
    /// What the process shares; absent for zombies and threads.
    #[prost(message, optional, tag = "4")]
    pub ids: Option<Ids>,
    /// What belongs to the thread; absent for zombies.
    #[prost(message, optional, tag = "5")]
    pub thread_core: Option<Thread>,
}

/// The processor of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Machine {
    /// Not recorded.
    Unknown = 0,
    /// x86-64, and 32-bit programs on it.
    X86_64 = 1,
    /// 32-bit Arm.
    Arm = 2,
    /// 64-bit Arm.
    Aarch64 = 3,
    /// 64-bit POWER.
    Ppc64 = 4,
    /// IBM Z.
    S390 = 5,
    /// MIPS.
    Mips = 6,
    /// LoongArch.
    Loongarch64 = 7,
    /// RISC-V.
    Riscv64 = 8,
}

/// What belongs to a process as a whole.
#[derive(Clone, PartialEq, Message)]
pub struct Task {
    /// See [`TaskState`].
    #[prost(uint32, required, tag = "1")]
    pub task_state: u32,
    /// A zombie's exit status, as `wait` reports it.
    #[prost(uint32, required, tag = "2")]
    pub exit_code: u32,
    /// Execution domain, as in personality(2).
    #[prost(uint32, required, tag = "3")]
    pub personality: u32,
    /// The kernel's flags of the task.
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// Blocked signals of the first thread; newer images have them in the thread.
    #[prost(uint64, required, tag = "5")]
    pub blk_sigset: u64,
    /// The name in `/proc/PID/comm`.
    #[prost(string, required, tag = "6")]
    pub comm: String,
    /// Timers.
    #[prost(message, optional, tag = "7")]
    pub timers: Option<Timers>,
    /// Resource limits.
    #[prost(message, optional, tag = "8")]
    pub rlimits: Option<Rlimits>,
    /// Set of control groups; newer images have it in the thread.
    #[prost(uint32, optional, tag = "9")]
    pub cg_set: Option<u32>,
    /// Seccomp mode; newer images have it in the thread.
    #[prost(uint32, optional, tag = "11")]
    pub old_seccomp_mode: Option<u32>,
    /// Seccomp filter; newer images have it in the thread.
    #[prost(uint32, optional, tag = "12")]
    pub old_seccomp_filter: Option<u32>,
    /// Signals sent to the process and not yet delivered.
    #[prost(message, optional, tag = "10")]
    pub signals_s: Option<SignalQueue>,
    /// Audit's login user id.
    #[prost(uint32, optional, tag = "13")]
    pub loginuid: Option<u32>,
    /// The out-of-memory killer's adjustment.
    #[prost(int32, optional, tag = "14")]
    pub oom_score_adj: Option<i32>,
    /// What is done with each signal, from number 1 on, without SIGKILL and SIGSTOP.
    #[prost(message, repeated, tag = "15")]
    pub sigactions: Vec<SignalAction>,
    /// Adopts orphans among its descendants (`PR_SET_CHILD_SUBREAPER`).
    #[prost(bool, optional, tag = "18")]
    pub child_subreaper: Option<bool>,
    /// The signal that stopped it.
    #[prost(uint32, optional, tag = "21")]
    pub stop_signo: Option<u32>,
    /// What it registered for with membarrier(2).
    #[prost(uint32, optional, tag = "22")]
    pub membarrier_registration_mask: Option<u32>,
}

/// What a process was doing (CRIU `compel/include/uapi/task-state.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Running, sleeping or waiting.
    Alive,
    /// Ended, and not yet waited for.
    Dead,
    /// Ended and not yet waited for, as CRIU sees it while it dumps.
    Zombie,
    /// Stopped by a signal.
    Stopped,
    /// A number this version does not know.
    Other(u32),
}

impl Task {
    /// What the process was doing.
    #[must_use]
    pub fn state(&self) -> TaskState {
        match self.task_state {
            1 => TaskState::Alive,
            2 => TaskState::Dead,
            3 => TaskState::Stopped,
            6 => TaskState::Zombie,
            other => TaskState::Other(other),
        }
    }
}

/// What belongs to one thread.
#[derive(Clone, PartialEq, Message)]
pub struct Thread {
    /// Address of the list of robust futexes.
    #[prost(uint64, required, tag = "1")]
    pub futex_rla: u64,
    /// Length of that list's head.
    #[prost(uint32, required, tag = "2")]
    pub futex_rla_len: u32,
    /// Nice value.
    #[prost(sint32, optional, tag = "3")]
    pub sched_nice: Option<i32>,
    /// Scheduling policy, as in sched(7).
    #[prost(uint32, optional, tag = "4")]
    pub sched_policy: Option<u32>,
    /// Real-time priority.
    #[prost(uint32, optional, tag = "5")]
    pub sched_prio: Option<u32>,
    /// Blocked signals.
    #[prost(uint64, optional, tag = "6")]
    pub blk_sigset: Option<u64>,
    /// Signal sent when the parent dies.
    #[prost(uint32, optional, tag = "8")]
    pub pdeath_sig: Option<u32>,
    /// Signals sent to the thread and not yet delivered.
    #[prost(message, optional, tag = "9")]
    pub signals_p: Option<SignalQueue>,
    /// Who the thread acts as.
    #[prost(message, optional, tag = "10")]
    pub creds: Option<Creds>,
    /// 0 off, 1 strict, 2 filtered.
    #[prost(uint32, optional, tag = "11")]
    pub seccomp_mode: Option<u32>,
    /// The last filter's place in `seccomp.img`.
    #[prost(uint32, optional, tag = "12")]
    pub seccomp_filter: Option<u32>,
    /// The thread's own name.
    #[prost(string, optional, tag = "13")]
    pub comm: Option<String>,
    /// Set of control groups.
    #[prost(uint32, optional, tag = "16")]
    pub cg_set: Option<u32>,
}

/// Signals not yet delivered.
#[derive(Clone, PartialEq, Message)]
pub struct SignalQueue {
    /// In the order in which they were sent.
    #[prost(message, repeated, tag = "1")]
    pub signals: Vec<QueuedSignal>,
}

/// A signal not yet delivered.
#[derive(Clone, PartialEq, Message)]
pub struct QueuedSignal {
    /// The kernel's `siginfo_t`; its first four bytes are the signal's number.
    #[prost(bytes = "vec", required, tag = "1")]
    pub siginfo: Vec<u8>,
}

impl QueuedSignal {
    /// The signal's number; none where the record is too short.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.siginfo.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

/// What is done with a signal.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SignalAction {
    /// The address of its handler, 0 for the default, 1 for none.
    #[prost(uint64, required, tag = "1")]
    pub sigaction: u64,
    /// Flags, as in sigaction(2).
    #[prost(uint64, required, tag = "2")]
    pub flags: u64,
    /// Signals blocked while it is handled.
    #[prost(uint64, required, tag = "4")]
    pub mask: u64,
}

/// Resource limits, in the order of their numbers in getrlimit(2).
#[derive(Clone, PartialEq, Message)]
pub struct Rlimits {
    /// One for each number, from zero.
    #[prost(message, repeated, tag = "1")]
    pub rlimits: Vec<Rlimit>,
}

/// One resource limit; `u64::MAX` is none.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Rlimit {
    /// Soft limit.
    #[prost(uint64, required, tag = "1")]
    pub cur: u64,
    /// Hard limit.
    #[prost(uint64, required, tag = "2")]
    pub max: u64,
}

/// Timers of a process.
#[derive(Clone, PartialEq, Message)]
pub struct Timers {
    /// Counts real time.
    #[prost(message, required, tag = "1")]
    pub real: IntervalTimer,
    /// Counts the process's own time.
    #[prost(message, required, tag = "2")]
    pub virt: IntervalTimer,
    /// Counts the process's and the kernel's time for it.
    #[prost(message, required, tag = "3")]
    pub prof: IntervalTimer,
    /// Timers of timer_create(2).
    #[prost(message, repeated, tag = "4")]
    pub posix: Vec<PosixTimer>,
}

/// A timer of setitimer(2).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct IntervalTimer {
    /// Interval, seconds.
    #[prost(uint64, required, tag = "1")]
    pub isec: u64,
    /// Interval, microseconds.
    #[prost(uint64, required, tag = "2")]
    pub iusec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "3")]
    pub vsec: u64,
    /// Time left, microseconds.
    #[prost(uint64, required, tag = "4")]
    pub vusec: u64,
}

/// A timer of timer_create(2).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PosixTimer {
    /// Its id.
    #[prost(uint32, required, tag = "1")]
    pub it_id: u32,
    /// Clock, as in clock_gettime(2).
    #[prost(uint32, required, tag = "2")]
    pub clock_id: u32,
    /// Signal sent.
    #[prost(uint32, required, tag = "3")]
    pub si_signo: u32,
    /// How it notifies, as in sigevent(3).
    #[prost(uint32, required, tag = "4")]
    pub it_sigev_notify: u32,
    /// Value sent.
    #[prost(uint64, required, tag = "5")]
    pub sival_ptr: u64,
    /// Expirations not delivered.
    #[prost(uint32, required, tag = "6")]
    pub overrun: u32,
    /// Interval, seconds.
    #[prost(uint64, required, tag = "7")]
    pub isec: u64,
    /// Interval, nanoseconds.
    #[prost(uint64, required, tag = "8")]
    pub insec: u64,
    /// Time left, seconds.
    #[prost(uint64, required, tag = "9")]
    pub vsec: u64,
    /// Time left, nanoseconds.
    #[prost(uint64, required, tag = "10")]
    pub vnsec: u64,
    /// Thread notified.
    #[prost(int32, optional, tag = "11")]
    pub notify_thread_id: Option<i32>,
}

/// `fs-PID.img`: where a process stands in the file system.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct FileSystem {
    /// Working directory, by its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub cwd_id: u32,
    /// Root, by its id in `files.img`.
    #[prost(uint32, required, tag = "2")]
    pub root_id: u32,
    /// Mask for the mode of new files.
    #[prost(uint32, optional, tag = "3")]
    pub umask: Option<u32>,
}

records! {
    Inventory => Inventory,
    TreeEntry => ProcessTree,
    Ids => Ids,
    Core => Core,
    FileSystem => FileSystem,
}

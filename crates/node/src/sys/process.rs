//! Start a program by `clone3`, with a PID of our choice and namespaces of its own, and wait for children.
//!
//! Between `clone3` and `execve` the child of a threaded process may call nothing that takes a lock or allocates, so
//! everything it needs is laid out before the call, and it uses system calls only.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::seccomp::{Filter, Instruction};

/// Linux's `struct clone_args` (include/uapi/linux/sched.h), as far as the second version of it goes.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_NEWTIME`; `clone3` alone takes it, because it lies among the bits of the exit signal.
pub(crate) const CLONE_NEWTIME: u64 = 0x80;
/// All namespaces that a sandbox has of its own: mounts, host name, IPC, PIDs, network (Linux, include/uapi/linux/sched.h).
pub(crate) const SANDBOX: u64 = 0x0002_0000 | 0x0400_0000 | CLONE_NEWIPC | 0x2000_0000 | 0x4000_0000;
/// `CLONE_NEWIPC`.
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;

const CAP_VERSION_3: u32 = 0x2008_0522;
/// One past the highest capability number that any kernel up to 6.18 knows.
const LAST_CAP: u32 = 41;

/// Everything a child needs to become the program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) program: CString,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) directory: Option<CString>,
    /// What becomes descriptors 0, 1 and 2.
    pub(crate) streams: [RawFd; 3],
    /// Whether one of the streams is the program's own terminal, which becomes its controlling terminal.
    pub(crate) terminal: Option<RawFd>,
    /// Capabilities, a bit each, taken from every set of the program.
    pub(crate) drop_capabilities: u64,
    /// What every system call of the program is held against.
    pub(crate) filter: Option<Filter>,
    pub(crate) clone_flags: u64,
    pub(crate) pid: Option<i32>,
}

/// A child that waits to be told to go on.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) pid: i32,
    go: OwnedFd,
    failed: OwnedFd,
}

/// The step of the child at which it failed, in the order it takes them.
const STEPS: [&str; 8] = [
    "waiting",
    "new session",
    "terminal",
    "streams",
    "working directory",
    "seccomp profile",
    "capabilities",
    "execute",
];

/// Clones a child as `child` says; it waits until [`Held::release`].
pub(crate) fn clone_held(child: &Child) -> io::Result<Held> {
    let (go_read, go_write) = pipe()?;
    let (failed_read, failed_write) = pipe()?;
    let argv: Vec<*const c_char> = pointers(&child.arguments);
    let envp: Vec<*const c_char> = pointers(&child.environment);
    let tid = child.pid.unwrap_or(0);
    let args = CloneArgs {
        flags: child.clone_flags,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: if child.pid.is_some() { &raw const tid as u64 } else { 0 },
        set_tid_size: u64::from(child.pid.is_some()),
        ..CloneArgs::default()
    };
    // SAFETY: the arguments outlive the call; without CLONE_VM the child has its own copy of all memory, and it calls
    // nothing but system calls until it executes or exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above; `become_program` never returns.
            unsafe { become_program(child, &argv, &envp, go_read.as_raw_fd(), failed_write.as_raw_fd()) }
        }
        pid => Ok(Held { pid: pid as i32, go: go_write, failed: failed_read }),
    }
}

impl Held {
    /// Lets the child execute the program, and waits until it has.
    ///
    /// # Errors
    /// The system's error of the step that failed, with that step's name.
    pub(crate) fn release(self) -> Result<i32, (&'static str, io::Error)> {
        drop(self.go);
        let mut report = [0u8; 8];
        let mut filled = 0;
        let mut file = std::fs::File::from(self.failed);
        while filled < report.len() {
            match io::Read::read(&mut file, &mut report[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(("execute", error)),
            }
        }
        if filled < report.len() {
            return Ok(self.pid);
        }
        let step = u32::from_ne_bytes([report[0], report[1], report[2], report[3]]) as usize;
        let errno = i32::from_ne_bytes([report[4], report[5], report[6], report[7]]);
        Err((STEPS.get(step).copied().unwrap_or("execute"), io::Error::from_raw_os_error(errno)))
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// # Safety
/// Only in a child that shares no memory with its parent; the pointers are to live, null-ended arrays.
unsafe fn become_program(
    child: &Child,
    argv: &[*const c_char],
    envp: &[*const c_char],
    go: RawFd,
    failed: RawFd,
) -> ! {
    let mut step: u32;
    // SAFETY: plain system calls on memory that the caller keeps alive; errno is this thread's own.
    unsafe {
        'steps: {
            // The parent closes its end of `go` to let us run; our own copy of that end must be gone first, and so must
            // every descriptor that a parent of Torpor left open, or CRIU could not dump the program.
            let keep = [go, failed, child.streams[0], child.streams[1], child.streams[2]];
            close_all_but(&keep);
            let mut byte = 0u8;
            while libc::read(go, (&raw mut byte).cast(), 1) == -1 && *libc::__errno_location() == libc::EINTR
            {
            }
            reset_signals();
            step = 1;
            if libc::setsid() == -1 {
                break 'steps;
            }
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_long, 0 as c_long, 0 as c_long, 0 as c_long);
            step = 2;
            if let Some(terminal) = child.terminal
                && libc::ioctl(terminal, libc::TIOCSCTTY, 0) == -1
            {
                break 'steps;
            }
            step = 3;
            let mut sources = [0 as RawFd; 3];
            for (source, stream) in sources.iter_mut().zip(child.streams) {
                *source = libc::fcntl(stream, libc::F_DUPFD_CLOEXEC, 3);
                if *source == -1 {
                    break 'steps;
                }
            }
            for (number, source) in sources.iter().enumerate() {
                if libc::dup2(*source, number as c_int) == -1 {
                    break 'steps;
                }
            }
            step = 4;
            if let Some(directory) = &child.directory
                && libc::chdir(directory.as_ptr()) == -1
            {
                break 'steps;
            }
            step = 5;
            // While CAP_SYS_ADMIN is there: without, a filter would take no_new_privs.
            if let Some(filter) = &child.filter
                && set_filter(filter.instructions()) == -1
            {
                break 'steps;
            }
            step = 6;
            if child.drop_capabilities != 0 && drop_capabilities(child.drop_capabilities) == -1 {
                break 'steps;
            }
            step = 7;
            libc::execve(child.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
        }
        let errno = *libc::__errno_location();
        let mut report = [0u8; 8];
        report[..4].copy_from_slice(&step.to_ne_bytes());
        report[4..].copy_from_slice(&errno.to_ne_bytes());
        libc::write(failed, report.as_ptr().cast::<c_void>(), report.len());
        libc::_exit(127)
    }
}

/// # Safety
/// Only in a child about to execute: closes descriptors that others may own.
unsafe fn close_all_but(keep: &[RawFd]) {
    let mut from = 3;
    loop {
        let next = keep.iter().copied().filter(|fd| *fd >= from).min();
        let until = next.map_or(u32::MAX, |fd| fd as u32 - 1);
        if until >= from as u32 {
            // SAFETY: the caller's promise.
            unsafe { libc::syscall(libc::SYS_close_range, from, until, 0) };
        }
        match next {
            Some(fd) => from = fd + 1,
            None => return,
        }
    }
}

/// # Safety
/// Only in a child about to execute: handlers and mask go back to the defaults.
unsafe fn reset_signals() {
    // SAFETY: both structures are valid when zeroed; ignored signals would otherwise stay ignored after execve (Rust's
    // runtime ignores SIGPIPE), and the mask is inherited.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Linux's `struct sock_fprog` (include/uapi/linux/filter.h).
#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const Instruction,
}

/// # Safety
/// Only in a child about to execute: whatever it calls from here on is held against the filter.
unsafe fn set_filter(instructions: &[Instruction]) -> c_int {
    let program = FilterProgram { length: instructions.len() as u16, instructions: instructions.as_ptr() };
    // SAFETY: the kernel copies the program, which lives here, and whose instructions have its own layout.
    unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER as c_long,
            &raw const program,
            0 as c_long,
            0 as c_long,
        )
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// # Safety
/// Only in a child about to execute: gives up privileges of the whole process.
unsafe fn drop_capabilities(bits: u64) -> c_int {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: capget and capset take a header and two data structures, which live here.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as c_long,
            0 as c_long,
            0 as c_long,
            0 as c_long,
        );
        if libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) == -1 {
            return -1;
        }
        for capability in 0..LAST_CAP {
            if bits & (1 << capability) != 0 {
                // Fails without CAP_SETPCAP; the sets below are what counts then.
                libc::prctl(
                    libc::PR_CAPBSET_DROP,
                    c_long::from(capability),
                    0 as c_long,
                    0 as c_long,
                    0 as c_long,
                );
            }
        }
        for (half, data) in data.iter_mut().enumerate() {
            let keep = !((bits >> (32 * half)) as u32);
            data.effective &= keep;
            data.permitted &= keep;
            data.inheritable &= keep;
        }
        libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) as c_int
    }
}

/// The effective capabilities of the calling thread, a bit each.
pub(crate) fn effective_capabilities() -> u64 {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: capget takes a header and two data structures, which live here.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if result == -1 { 0 } else { u64::from(data[0].effective) | u64::from(data[1].effective) << 32 }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "code {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Ended {
    /// The exit code that a shell would report: the program's own, or 128 and the signal.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// Which children to ask about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// This one, and take it away if it has ended.
    Reap(i32),
    /// Any, and leave it where it is.
    PeekAny,
}

/// The child that has ended, if one has; never blocks.
pub(crate) fn ended_child(wait: Wait) -> io::Result<Option<(i32, Ended)>> {
    let (kind, id, flags) = match wait {
        Wait::Reap(pid) => (libc::P_PID, pid as libc::id_t, 0),
        Wait::PeekAny => (libc::P_ALL, 0, libc::WNOWAIT),
    };
    // SAFETY: siginfo_t is valid when zeroed, and waitid only writes to it.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags), info)
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the fields of SIGCHLD, or left the structure zeroed.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let ended = if info.si_code == libc::CLD_EXITED { Ended::Code(status) } else { Ended::Signal(status) };
    Ok(Some((pid, ended)))
}

/// Blocks every signal in this thread (and those it starts) and gives a descriptor to read them from.
pub(crate) fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: the set is filled before use; signalfd gives a new descriptor that nobody else owns.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        // Faults of our own must still end us, not be queued.
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
            libc::sigdelset(&raw mut all, signal);
        }
        if libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The signals that wait in `descriptor`, oldest first, with the PID of the sender.
pub(crate) fn read_signals(descriptor: &OwnedFd) -> io::Result<Vec<(i32, i32)>> {
    let mut signals = Vec::new();
    loop {
        // SAFETY: signalfd writes whole structures of this type, which is valid for any bytes.
        let (read, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            (libc::read(descriptor.as_raw_fd(), (&raw mut info).cast(), size), info)
        };
        if read == -1 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(signals),
                io::ErrorKind::Interrupted => continue,
                _ => Err(error),
            };
        }
        signals.push((info.ssi_signo as i32, info.ssi_pid as i32));
    }
}

/// Sends `signal` to `pid` (a negative one means its process group).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers.
    if unsafe { libc::kill(pid, signal) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the command's process killed when this one ends, however that happens. It is to be started by the first thread.
pub(crate) fn ends_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let kill = Some(rustix::process::Signal::KILL);
    // SAFETY: between fork and exec there is one system call, which takes a number and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(rustix::process::set_parent_process_death_signal(kill)?));
    }
}

/// Has the command's process enter control groups, by their `cgroup.procs`, before it begins; those that take it.
pub(crate) fn starts_in(command: &mut std::process::Command, groups: Vec<std::fs::File>) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec there are system calls alone, on descriptors that the closure owns.
    unsafe {
        command.pre_exec(move || {
            for group in &groups {
                // 0 is who writes.
                let _ = rustix::io::write(group, b"0");
            }
            Ok(())
        });
    }
}

/// Makes orphans of our descendants our children, as they are for PID 1.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    let result = unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_long, 0 as c_long, 0 as c_long, 0 as c_long)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves this thread into the mounts of another process, whose `ns/mnt` is given. Its root and working directory are no longer those of
/// the other threads.
pub(crate) fn enter_mounts(mounts: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: only this thread's root and working directory come apart from those of others, on which no memory or descriptor depends.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    Ok(rustix::thread::move_into_link_name_space(mounts, Some(rustix::thread::LinkNameSpaceType::Mount))?)
}

/// Gives this process an empty session keyring of its own (keyctl(2)), in the place of the one that whoever started it has.
pub(crate) fn own_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: c_long = 1;
    let unnamed: *const c_char = std::ptr::null();
    // SAFETY: the call takes a number and a name, which may be null.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, unnamed) };
    if joined == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this thread a network namespace of its own.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: unshare of a network namespace changes nothing that Rust's rules on memory or files depend on.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?)
}

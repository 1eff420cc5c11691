//! One question to the kernel, asked in a child of its own so that neither the answer nor a crash changes us.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::ptr;

use libc::{c_int, c_long, pid_t};

/// What a child found: the kernel's answer, or that it had to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel did it.
    Granted,
    /// The kernel refused with this error number.
    Refused(i32),
    /// It was done without error, and had no effect.
    NoEffect,
    /// The child was killed: a seccomp filter that kills, or no answer within a second.
    Killed(i32),
}

/// Exit code of a child whose request was accepted without effect; error numbers end at 133.
const NO_EFFECT: c_int = 250;

/// A question; runs in a forked child, so it may call only what is safe after a fork (no allocation, no locks).
pub(crate) type Question = fn(&Context) -> c_int;

/// What a question may need, made before the fork.
#[derive(Debug)]
pub(crate) struct Context {
    /// A process that waits to be ended and is no ancestor or descendant of the one that asks.
    pub(crate) victim: pid_t,
    /// A link below `/proc/self/map_files` that exists in us, and so in a fork of us.
    pub(crate) map_file: Option<std::ffi::CString>,
}

/// A process that does nothing until it is dropped.
#[derive(Debug)]
pub(crate) struct Victim(pid_t);

impl Victim {
    /// Forks it.
    pub(crate) fn new() -> io::Result<Victim> {
        // SAFETY: the child calls only async-signal-safe functions and never returns.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: both calls are async-signal-safe; the death signal covers our own sudden end.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    loop {
                        libc::pause();
                    }
                }
            }
            pid => Ok(Victim(pid)),
        }
    }

    pub(crate) fn pid(&self) -> pid_t {
        self.0
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // SAFETY: the pid is our own child, not yet waited for, so it cannot have been reused.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// Asks `question` in a child and waits for its answer.
pub(crate) fn ask(question: Question, context: &Context) -> io::Result<Answer> {
    // SAFETY: the child runs `question`, which by contract is async-signal-safe, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: `alarm` and `_exit` are async-signal-safe. SIGALRM's default ends a child that hangs.
            unsafe {
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                libc::alarm(1);
                libc::_exit(question(context));
            }
        }
        pid => {
            let mut status = 0;
            loop {
                // SAFETY: waits for our own child; `status` lives through the call.
                let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
                if waited == pid {
                    break;
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(if libc::WIFEXITED(status) {
                match libc::WEXITSTATUS(status) {
                    0 => Answer::Granted,
                    NO_EFFECT => Answer::NoEffect,
                    errno => Answer::Refused(errno),
                }
            } else {
                Answer::Killed(libc::WTERMSIG(status))
            })
        }
    }
}

fn errno() -> c_int {
    // SAFETY: the pointer is this thread's own error number.
    unsafe { *libc::__errno_location() }
}

fn answer(returned: c_long) -> c_int {
    if returned < 0 { errno() } else { 0 }
}

/// May it trace a process that is not its child, as CRIU does?
pub(crate) fn ptrace(context: &Context) -> c_int {
    // SAFETY: no memory is passed.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, context.victim, 0, 0) })
}

/// May it put aside a seccomp filter of what it traces?
pub(crate) fn suspend_seccomp(context: &Context) -> c_int {
    // Number from the kernel's include/uapi/linux/ptrace.h.
    const PTRACE_O_SUSPEND_SECCOMP: c_long = 1 << 21;
    // SAFETY: no memory is passed.
    answer(unsafe { libc::ptrace(libc::PTRACE_SEIZE, context.victim, 0, PTRACE_O_SUSPEND_SECCOMP) })
}

/// May it read another process's memory?
pub(crate) fn read_memory(context: &Context) -> c_int {
    // Forks share their layout, so an address of ours is one of the victim's.
    static PROBED: u8 = 7;
    let mut byte = 0_u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: (&raw const PROBED).cast_mut().cast(), iov_len: 1 };
    // SAFETY: `local` is one valid byte; `remote` is only read, in the other process.
    answer(unsafe {
        libc::process_vm_readv(context.victim, &raw const local, 1, &raw const remote, 1, 0) as c_long
    })
}

/// May it compare kernel objects of two processes?
pub(crate) fn kcmp(context: &Context) -> c_int {
    const KCMP_VM: c_long = 1;
    // SAFETY: no memory is passed.
    answer(unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            c_long::from(libc::getpid()),
            c_long::from(context.victim),
            KCMP_VM,
            0,
            0,
        )
    })
}

/// May it follow `/proc/self/map_files`? Needs the checkpoint/restore capability.
pub(crate) fn map_files(context: &Context) -> c_int {
    match &context.map_file {
        Some(path) => open(path, libc::O_RDONLY),
        None => libc::ENOENT,
    }
}

/// May it start a process with a number of its choice?
pub(crate) fn choose_pid(_: &Context) -> c_int {
    // SAFETY: plain data for which zero is valid; glibc has no wrapper for clone3.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: no memory is passed.
    let own = unsafe { libc::getpid() };
    let mut last = libc::EEXIST;
    for step in 1..=8 {
        let wanted: pid_t = if own > 20_000 { own - 1_000 - step } else { own + 1_000 + step };
        arguments.set_tid = (&raw const wanted) as u64;
        arguments.set_tid_size = 1;
        // SAFETY: `arguments` and `wanted` outlive the call; no stack is given, so the child is as after a fork.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut arguments, mem::size_of::<libc::clone_args>())
        };
        match pid {
            0 => {
                // SAFETY: ends the grandchild at once.
                unsafe { libc::_exit(0) }
            }
            -1 if errno() == libc::EEXIST => last = libc::EEXIST,
            -1 => return errno(),
            pid => {
                // SAFETY: waits for our own child.
                unsafe { libc::waitpid(pid as pid_t, ptr::null_mut(), 0) };
                return 0;
            }
        }
    }
    last
}

/// May it set the number after which the next process gets its own?
pub(crate) fn last_pid(_: &Context) -> c_int {
    rewrite(c"/proc/sys/kernel/ns_last_pid", None)
}

/// May it have time namespaces, with an offset of its choice?
pub(crate) fn time_namespace(_: &Context) -> c_int {
    // The kernel's CLONE_NEWTIME, which glibc's `unshare` passes on as it is.
    const CLONE_NEWTIME: c_int = 0x80;
    match unshare(CLONE_NEWTIME) {
        0 => rewrite(c"/proc/self/timens_offsets", Some(b"monotonic 1 0\n")),
        refused => refused,
    }
}

/// May it have an IPC namespace of its own?
pub(crate) fn ipc_namespace(_: &Context) -> c_int {
    unshare(libc::CLONE_NEWIPC)
}

/// May it have a mount namespace of its own?
pub(crate) fn mount_namespace(_: &Context) -> c_int {
    unshare(libc::CLONE_NEWNS)
}

/// May it have a PID namespace of its own?
pub(crate) fn pid_namespace(_: &Context) -> c_int {
    unshare(libc::CLONE_NEWPID)
}

/// May it put a TCP socket into repair mode?
pub(crate) fn tcp_repair(_: &Context) -> c_int {
    const TCP_REPAIR: c_int = 19;
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    set_integer(socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// May it exceed the limit on socket buffers?
pub(crate) fn force_buffers(_: &Context) -> c_int {
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    set_integer(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 65_536)
}

/// May it ask the kernel about sockets?
pub(crate) fn socket_diagnosis(_: &Context) -> c_int {
    const NETLINK_SOCK_DIAG: c_int = 4;
    // SAFETY: no memory is passed.
    answer(c_long::from(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    }))
}

/// May it raise a hard limit?
pub(crate) fn raise_limit(_: &Context) -> c_int {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let more = libc::rlimit { rlim_cur: 0, rlim_max: 1 };
    // SAFETY: both structures outlive their calls.
    unsafe {
        match libc::setrlimit(libc::RLIMIT_CORE, &raw const none) {
            0 => answer(c_long::from(libc::setrlimit(libc::RLIMIT_CORE, &raw const more))),
            _ => errno(),
        }
    }
}

/// May it take over page faults, those inside the kernel included?
pub(crate) fn kernel_faults(_: &Context) -> c_int {
    user_faults(0)
}

/// May it take over page faults of user code?
pub(crate) fn user_mode_faults(_: &Context) -> c_int {
    const UFFD_USER_MODE_ONLY: c_int = 1;
    user_faults(UFFD_USER_MODE_ONLY)
}

/// Does the kernel tell which pages were written since it was asked?
pub(crate) fn soft_dirty(_: &Context) -> c_int {
    const SOFT_DIRTY: u64 = 1 << 55;
    const PAGE: usize = 4096;
    // SAFETY: an anonymous mapping of our own, used below within its size and never unmapped before the end.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return errno();
    }
    // SAFETY: the mapping above.
    unsafe { page.cast::<u8>().write_volatile(1) };
    let cleared = write_once(c"/proc/self/clear_refs", b"4");
    if cleared != 0 {
        return cleared;
    }
    // SAFETY: the mapping above; then reading eight bytes into a local of that size. The page size only scales
    // the offset into the table.
    unsafe {
        page.cast::<u8>().write_volatile(2);
        let file = libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return errno();
        }
        let mut entry = 0_u64;
        let size = libc::sysconf(libc::_SC_PAGESIZE);
        let offset = (page as i64 / size) * 8;
        if libc::pread(file, (&raw mut entry).cast(), 8, offset) != 8 {
            return errno();
        }
        if entry & SOFT_DIRTY == 0 { NO_EFFECT } else { 0 }
    }
}

fn user_faults(flags: c_int) -> c_int {
    // SAFETY: no memory is passed.
    answer(unsafe { libc::syscall(libc::SYS_userfaultfd, c_long::from(flags | libc::O_CLOEXEC)) })
}

fn unshare(flags: c_int) -> c_int {
    // SAFETY: no memory is passed; only this child changes.
    answer(c_long::from(unsafe { libc::unshare(flags) }))
}

fn set_integer(socket: c_int, level: c_int, name: c_int, value: c_int) -> c_int {
    if socket < 0 {
        return errno();
    }
    // SAFETY: `value` outlives the call and has the size given.
    answer(c_long::from(unsafe {
        libc::setsockopt(
            socket,
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<c_int>() as libc::socklen_t,
        )
    }))
}

fn open(path: &CStr, flags: c_int) -> c_int {
    // SAFETY: `path` ends with a zero byte.
    answer(c_long::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }))
}

fn write_once(path: &CStr, text: &[u8]) -> c_int {
    // SAFETY: `path` ends with a zero byte and `text` has the length given.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return errno();
        }
        answer(libc::write(file, text.as_ptr().cast(), text.len()) as c_long)
    }
}

/// Writes `text`, or without it what the file already says.
fn rewrite(path: &CStr, text: Option<&[u8]>) -> c_int {
    let mut buffer = [0_u8; 64];
    match text {
        Some(text) => write_once(path, text),
        None => {
            // SAFETY: `path` ends with a zero byte; at most the buffer's size is read into it.
            let read = unsafe {
                let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                if file < 0 {
                    return errno();
                }
                libc::read(file, buffer.as_mut_ptr().cast(), buffer.len())
            };
            match usize::try_from(read) {
                Ok(read) => write_once(path, &buffer[..read]),
                Err(_) => errno(),
            }
        }
    }
}

/// The size in bytes of the send buffer a Unix socket really gets when `wanted` is asked for, by force if allowed.
///
/// # Errors
/// No socket can be made.
pub(crate) fn send_buffer(wanted: u32) -> io::Result<u64> {
    use rustix::net::{AddressFamily, SocketType, socket, sockopt};
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    if sockopt::set_socket_send_buffer_size_force(&socket, wanted as usize).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, wanted as usize)?;
    }
    // The kernel doubles what is asked for, for its own bookkeeping (socket(7)).
    Ok(sockopt::socket_send_buffer_size(&socket)? as u64 / 2)
}

/// Whether this program was started with more privileges than its caller (file capabilities, set-uid).
pub(crate) fn started_with_more_privileges() -> bool {
    // SAFETY: reads a value the kernel laid beside the program's arguments.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

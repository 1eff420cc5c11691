//! Starting a program with exactly the descriptors, capabilities and PID it is meant to have.
//!
//! The standard library can neither choose a PID nor hand over descriptors under chosen numbers while closing all
//! others, so the child is made by `clone3` and prepared by system calls alone.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// `struct clone_args` of `linux/sched.h`, up to `set_tid_size`.
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
}

/// All that the child will need, allocated before it exists.
pub(crate) struct Plan<'a> {
    /// Program and arguments; the program is a path.
    pub(crate) arguments: &'a [CString],
    /// `KEY=VALUE`, complete.
    pub(crate) environment: &'a [CString],
    /// Descriptors and their numbers in the child; all others are closed.
    pub(crate) descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// The PID to have.
    pub(crate) pid: Option<Pid>,
    /// Capabilities to keep across the exec.
    pub(crate) capabilities: CapabilitySet,
    /// Whether the child leads a process group of its own.
    pub(crate) own_group: bool,
}

/// Where the child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Clone,
    Descriptors,
    Capabilities,
    Group,
    Exec,
}

impl Stage {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Clone => "create its process",
            Self::Descriptors => "hand over descriptors",
            Self::Capabilities => "raise capabilities",
            Self::Group => "put it into a process group of its own",
            Self::Exec => "execute it",
        }
    }

    fn from_byte(byte: u8) -> Self {
        [Self::Descriptors, Self::Capabilities, Self::Group]
            .into_iter()
            .find(|stage| *stage as u8 == byte)
            .unwrap_or(Self::Exec)
    }
}

/// Starts the program and returns when its exec has succeeded.
pub(crate) fn spawn(plan: &Plan<'_>) -> Result<(Pid, OwnedFd), (Stage, io::Error)> {
    let arguments = pointers(plan.arguments);
    let environment = pointers(plan.environment);
    // Targets must not be overwritten while they are still sources, so every source first moves above all of them.
    let above = plan.descriptors.iter().map(|(_, number)| *number).max().unwrap_or(2).max(2) + 1;
    let mut moved = vec![-1; plan.descriptors.len()];
    let descriptors = |errno: rustix::io::Errno| (Stage::Descriptors, io::Error::from(errno));
    let (report, low) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(descriptors)?;
    let report_child = rustix::io::fcntl_dupfd_cloexec(&low, above).map_err(descriptors)?;
    drop(low);

    let mut pidfd: c_int = -1;
    let set_tid = plan.pid.map(|pid| pid.as_raw_nonzero().get());
    let mut args = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(tid) = &set_tid {
        args.set_tid = std::ptr::from_ref(tid).expose_provenance() as u64;
        args.set_tid_size = 1;
    }

    // Between the clone and the exec the child runs with one thread but with every handler of this process; none may
    // run there. The mask is put back at once in the parent; the child empties its own.
    let before = mask_all();
    // SAFETY: `args` is a valid clone_args of the size given, its pointers refer to locals that live until the call
    // returns. Without CLONE_VM the child has its own copy of memory and goes on here with one thread.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>()) } as c_int;
    if pid == 0 {
        let (stage, errno) = become_program(plan, &arguments, &environment, &mut moved, above);
        let mut message = [0; 5];
        message[0] = stage as u8;
        message[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: write and _exit are plain system calls on a descriptor that this function owns and on a buffer that
        // lives here; _exit runs no destructors, which belong to the parent.
        unsafe {
            libc::write(report_child.as_raw_fd(), message.as_ptr().cast::<c_void>(), message.len());
            libc::_exit(127)
        }
    }
    let error = io::Error::last_os_error();
    unmask(&before);
    drop(report_child);
    let Some(child) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err((Stage::Clone, error));
    };
    // SAFETY: the kernel stored a new descriptor there because of CLONE_PIDFD; nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };

    let mut message = [0; 5];
    let length = loop {
        match rustix::io::read(&report, &mut message) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.unwrap_or(0),
        }
    };
    if length == message.len() {
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        );
        let [stage, errno @ ..] = message;
        return Err((Stage::from_byte(stage), io::Error::from_raw_os_error(i32::from_ne_bytes(errno))));
    }
    Ok((child, pidfd))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

fn mask_all() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; the calls write to locals of that type only.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn unmask(mask: &libc::sigset_t) {
    // SAFETY: `mask` was filled by pthread_sigmask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// Runs in the child: no allocation, no lock, no panic. Returns only if something failed.
fn become_program(
    plan: &Plan<'_>,
    arguments: &[*const c_char],
    environment: &[*const c_char],
    moved: &mut [RawFd],
    above: RawFd,
) -> (Stage, i32) {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    for (slot, (source, _)) in moved.iter_mut().zip(plan.descriptors) {
        // SAFETY: plain system call on a descriptor borrowed for the whole of spawn().
        *slot = unsafe { libc::fcntl(source.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) };
        if *slot < 0 {
            return (Stage::Descriptors, errno());
        }
    }
    // SAFETY: plain system call; everything from 0 up, the descriptors just duplicated included, closes at the exec.
    unsafe {
        let rc = libc::syscall(libc::SYS_close_range, 0, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if rc < 0 && close_on_exec_one_by_one() < 0 {
            return (Stage::Descriptors, errno());
        }
    }
    for (source, (_, number)) in moved.iter().zip(plan.descriptors) {
        // SAFETY: `source` was duplicated above and `number` is below it, so no source is lost; dup2 leaves the new
        // descriptor open across the exec.
        if unsafe { libc::dup2(*source, *number) } < 0 {
            return (Stage::Descriptors, errno());
        }
    }
    if plan.own_group {
        // SAFETY: plain system call about this process.
        if unsafe { libc::setpgid(0, 0) } < 0 {
            return (Stage::Group, errno());
        }
    }
    if !plan.capabilities.is_empty()
        && let Err(error) = keep_capabilities(plan.capabilities)
    {
        return (Stage::Capabilities, error.raw_os_error());
    }
    default_signals();
    // SAFETY: both arrays end with a null pointer and point to strings that live in the plan.
    unsafe { libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr()) };
    (Stage::Exec, errno())
}

/// For kernels below 5.11, which lack `CLOSE_RANGE_CLOEXEC`.
fn close_on_exec_one_by_one() -> c_int {
    // SAFETY: getrlimit writes to a local; fcntl on an unused number fails without effect.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) < 0 {
            return -1;
        }
        let last = c_int::try_from(limit.rlim_cur).unwrap_or(c_int::MAX).min(1 << 20);
        for descriptor in 0..last {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        0
    }
}

/// Ambient capabilities survive the exec of a program that has none of its own.
fn keep_capabilities(wanted: CapabilitySet) -> rustix::io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective | wanted,
            permitted: held.permitted,
            inheritable: held.inheritable | wanted,
        },
    )?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if wanted.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

/// Ignored signals and the signal mask survive an exec; CRIU expects neither.
///
/// The C library's `sigaction` takes a lock for SIGABRT (glibc 2.42), which a thread that stayed with the parent may have
/// held at the clone. So the kernel is asked directly.
fn default_signals() {
    /// Handler, flags, restorer and mask, whatever their order: all zero is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    /// Bytes of a mask.
    const MASK: usize = 8;
    // SAFETY: sets dispositions and the mask of this process, which has one thread and is about to exec. The kernel's
    // `struct sigaction` takes at most the 32 bytes that are given.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null_mut::<u8>(), MASK);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn run(script: &str, descriptors: &[(BorrowedFd<'_>, RawFd)], capabilities: CapabilitySet) -> i32 {
        let arguments = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
        let plan = Plan {
            arguments: &arguments,
            environment: &[],
            descriptors,
            pid: None,
            capabilities,
            own_group: true,
        };
        let (_, pidfd) = spawn(&plan).unwrap();
        let status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        status.unwrap().unwrap().exit_status().unwrap()
    }

    #[test]
    fn the_child_has_the_descriptors_named_and_no_others() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (other_reader, other_writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&other_writer, b"given\n").unwrap();
        let status = run(
            "echo crossed >&5; read word <&4; test \"$word\" = given || exit 2; \
             for n in 0 3 6 7 8 9 10 11; do test ! -e /proc/$$/fd/$n || exit 3; done",
            &[
                (other_reader.as_fd(), 4),
                (writer.as_fd(), 5),
                (rustix::stdio::stderr(), 1),
                (rustix::stdio::stderr(), 2),
            ],
            CapabilitySet::empty(),
        );
        let mut line = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut line).unwrap(), 8);
        assert_eq!(&line, b"crossed\n");
        assert_eq!(status, 0);
    }

    #[test]
    fn capabilities_raised_are_ambient_in_the_child_alone() {
        let chown = CapabilitySet::CHOWN;
        if !rustix::thread::capabilities(None).unwrap().permitted.contains(chown) {
            eprintln!("SKIPPED: CAP_CHOWN is not permitted here");
            return;
        }
        let stderr = rustix::stdio::stderr();
        let script = "grep -q 'CapAmb:.*0001$' /proc/$$/status";
        assert_eq!(run(script, &[(stderr, 2)], chown), 0);
        assert!(!rustix::thread::capability_is_in_ambient_set(chown).unwrap());
    }

    #[test]
    fn a_program_that_is_not_there_is_reported_from_the_child() {
        let arguments = [CString::new("/no/such/program").unwrap()];
        let plan = Plan {
            arguments: &arguments,
            environment: &[],
            descriptors: &[],
            pid: None,
            capabilities: CapabilitySet::empty(),
            own_group: false,
        };
        let (stage, error) = spawn(&plan).unwrap_err();
        assert_eq!(stage, Stage::Exec);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}

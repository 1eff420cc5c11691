//! CRIU's process: waiting for it, and killing it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// How CRIU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It has ended, but somebody else in this process has waited for it.
    Unknown,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended, how is not known"),
        }
    }
}

/// A CRIU that was started. Reaped exactly once, by whoever of this type's users waits first; a general reaper in
/// the same process should leave its PID alone (else the end is [`Ended::Unknown`]).
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Mutex<Option<Ended>>,
}

impl Process {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: Mutex::new(None) }
    }

    /// CRIU's PID.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that polls readable once CRIU has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills CRIU at once. A tree that it was dumping may be left stopped and half changed, one that it was restoring
    /// half made: hanging up (dropping the session) or refusing a notification is the gentle way.
    pub fn kill(&self) {
        // Fails only if it has ended already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the end, at most `patience`; `None` if CRIU still runs then.
    pub fn wait(&self, patience: Duration) -> Option<Ended> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ended) = self.reap() {
                return Some(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return self.reap(),
            }
        }
    }

    pub(super) fn wait_or_kill(&self, patience: Duration) -> Ended {
        if let Some(ended) = self.wait(patience) {
            return ended;
        }
        tracing::warn!(pid = self.pid.as_raw_nonzero().get(), "criu does not end and is killed");
        self.kill();
        self.wait(patience).unwrap_or(Ended::Unknown)
    }

    fn reap(&self) -> Option<Ended> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            *ended = match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, Some(signal)) => Ended::Signal(signal),
                    (None, None) => Ended::Unknown,
                }),
                Ok(None) | Err(Errno::INTR) => None,
                Err(_) => Some(Ended::Unknown),
            };
        }
        *ended
    }
}

/// Takes away the zombie of a root that CRIU has killed after a failed restore: it is this process' child. Until then
/// its PID cannot be another's.
pub(super) fn reap_killed(root: Pid) {
    let Ok(pidfd) = rustix::process::pidfd_open(root, PidfdFlags::empty()) else { return };
    Process::new(root, pidfd).wait(Duration::from_secs(1));
}

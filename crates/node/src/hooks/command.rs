//! A hook that runs a command: its output is logged, and it is killed when its time is over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{HookError, Occasion, Point};

/// A longer line is logged in pieces.
const LONGEST_LINE: usize = 4096;

/// Runs `words` in a process group of its own and waits until it ends, or `timeout` is over.
pub(super) fn run(
    point: Point,
    words: &[String],
    occasion: &Occasion,
    timeout: Duration,
) -> Result<(), HookError> {
    let hook = point.key();
    let [program, arguments @ ..] = words else {
        return Err(HookError::Start {
            hook,
            program: String::new(),
            source: io::ErrorKind::InvalidInput.into(),
        });
    };
    let start = |source| HookError::Start { hook, program: program.clone(), source };
    let deadline = Instant::now() + timeout;
    let (output, theirs) = std::io::pipe().map_err(start)?;
    let also_theirs = theirs.try_clone().map_err(start)?;
    let child = Command::new(program)
        .args(arguments)
        .envs(occasion.variables(point))
        .stdin(Stdio::null())
        .stdout(theirs)
        .stderr(also_theirs)
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let mut running = Running { child, ended: false };
    let mut lines = Lines { hook, held: Vec::new(), last: String::new() };
    let ended = running
        .watch(&OwnedFd::from(output), deadline, &mut lines)
        .map_err(|source| HookError::Wait { hook, source })?;
    lines.flush();
    let last_line = lines.last;
    match ended {
        None => Err(HookError::Timeout { hook, timeout, last_line }),
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            Err(HookError::Status { hook, program: program.clone(), status: in_words(status), last_line })
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A command that is killed, with its process group, if it is dropped before its end.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    /// Waits for the end of the command, not of its output: what it left in the background may hold that open for ever.
    fn watch(
        &mut self,
        output: &OwnedFd,
        deadline: Instant,
        lines: &mut Lines,
    ) -> io::Result<Option<ExitStatus>> {
        let flags = rustix::fs::fcntl_getfl(output)?;
        rustix::fs::fcntl_setfl(output, flags | rustix::fs::OFlags::NONBLOCK)?;
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        let mut output_open = true;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut watched = vec![PollFd::new(&pidfd, PollFlags::IN)];
            if output_open {
                watched.push(PollFd::new(output, PollFlags::IN));
            }
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut watched, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let has_ended = !watched[0].revents().is_empty();
            if output_open {
                output_open = lines.take_in(output)?;
            }
            if has_ended {
                self.ended = true;
                return self.child.wait().map(Some);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // It may be gone in this moment, which is as good.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// What a command writes, logged line by line.
struct Lines {
    hook: &'static str,
    held: Vec<u8>,
    last: String,
}

impl Lines {
    /// Logs what is there to be read. Returns whether more may come.
    fn take_in(&mut self, output: impl AsFd) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        // A command that writes without end must not keep its own deadline from being looked at.
        for _ in 0..16 {
            match rustix::io::read(&output, &mut buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => self.add(&buffer[..length]),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush();
            } else {
                self.held.push(byte);
                if self.held.len() >= LONGEST_LINE {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.held).trim_end().to_owned();
        self.held.clear();
        if !line.is_empty() {
            tracing::info!(hook = self.hook, "{line}");
            self.last = line;
        }
    }
}

//! A runtime whose CRIU was killed.
//!
//! Processes that CRIU had made by then live on, and hold the socket on which the runtime waits for CRIU's word. So it waits for ever, with a dead
//! child that it never looks at (seen with runc 1.3, `libcontainer/criu_linux.go`).

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::process_tree;
use crate::sys::process;

/// How often a runtime is looked at.
const PACE: Duration = Duration::from_millis(250);
/// In how many looks one after the other it must have a dead child. A runtime that is well takes notice at once.
const LOOKS: u32 = 8;

/// Waits for the end of a runtime's `restore`, and ends one that was deserted.
///
/// # Errors
/// The system's.
pub(crate) fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    wait_at(child, PACE)
}

fn wait_at(child: &mut Child, pace: Duration) -> io::Result<ExitStatus> {
    let pid = child.id() as i32;
    let (done, ended) = mpsc::channel::<()>();
    let watch = move || {
        let mut looks = 0;
        while ended.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
            looks = if has_dead_child(pid) { looks + 1 } else { 0 };
            if looks == LOOKS {
                tracing::warn!(pid, "the runtime waits for a CRIU that was killed, and is ended");
                let _ = process::kill(pid, libc::SIGKILL);
                return;
            }
        }
    };
    std::thread::Builder::new().name("runtime".into()).spawn(watch)?;
    let status = child.wait();
    drop(done);
    status
}

fn has_dead_child(pid: i32) -> bool {
    let below = process_tree::of(pid).into_iter();
    below
        .filter(|one| process_tree::parent(*one) == Some(pid))
        .any(|one| process_tree::state(one) == Some('Z'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    fn ending(script: &str) -> ExitStatus {
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        wait_at(&mut child, Duration::from_millis(1)).unwrap()
    }

    #[test]
    fn one_that_never_looks_at_a_dead_child_is_ended() {
        assert_eq!(ending("true & exec sleep 1000").signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn one_that_ends_by_itself_has_its_code() {
        assert_eq!(ending("sleep 0.05; exit 3").code(), Some(3));
    }
}

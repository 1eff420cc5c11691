//! The processes below one, from `/proc`.

use std::time::{Duration, Instant};

use crate::open_files;

/// The tree below `root`, itself first, children behind their parents. Empty where there is no such process.
#[must_use]
pub fn of(root: i32) -> Vec<i32> {
    let tree = pid(root).ok().filter(|_| state(root).is_some()).and_then(|root| open_files::tree(root).ok());
    tree.unwrap_or_default().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect()
}

/// The state letter of a process (proc(5)): R, S, D, T, t, Z and so on. None where it is gone.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    state_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent of a process. None where it is gone.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A process's PID in the PID namespace that `root` lives in. None where it is gone, or lives outside.
#[must_use]
pub fn pid_as_seen_by(pid: i32, root: i32) -> Option<i32> {
    let depth = pids(root).len().checked_sub(1)?;
    pids(pid).get(depth).copied()
}

/// A process's PID in its innermost namespace. None where it is gone.
#[must_use]
pub fn innermost_pid(pid: i32) -> Option<i32> {
    pids(pid).last().copied()
}

/// A process's PIDs, from our PID namespace to its own. Empty where it is gone.
fn pids(pid: i32) -> Vec<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_or_else(|_| Vec::new(), |status| pids_in(&status))
}

/// When a process was started, in clock ticks since boot; with its PID this tells it from any other. None where it is gone.
#[must_use]
pub fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// How a process ended that nobody has waited for yet, as a wait status. None where it runs, is gone, or may not be looked at.
#[must_use]
pub fn exit_status(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    exit_status_in(&stat)
}

fn exit_status_in(stat: &str) -> Option<i32> {
    let fields: Vec<&str> = after_name(stat)?.split_ascii_whitespace().collect();
    // The state is the third field, and the status the 52nd (proc_pid_stat(5)).
    fields.first().filter(|state| **state == "Z")?;
    fields.get(49)?.parse().ok()
}

/// Bytes of memory of a process that are in use and not shared with a file: what a capture has to copy at most. None
/// where it is gone.
#[must_use]
pub fn resident(pid: i32) -> Option<u64> {
    resident_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// A PID as rustix has it.
///
/// # Errors
/// [`Gone`], where it is no PID.
pub fn pid(pid: i32) -> Result<rustix::process::Pid, Gone> {
    rustix::process::Pid::from_raw(pid).filter(|_| pid > 0).ok_or(Gone(pid))
}

/// There is no such process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no process {0}")]
pub struct Gone(pub i32);

/// Stops the whole tree below `root`. Processes that are traced are stopped once they are not any more.
pub fn stop(root: i32) {
    for pid in of(root) {
        let _ = crate::sys::process::kill(pid, libc::SIGSTOP);
    }
}

/// Whether a process is stopped, or will be as soon as nobody traces it.
#[must_use]
pub fn is_stopped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_stopped_in(&status))
}

/// Ends the whole tree below `root` at once, whether it is stopped or traced.
pub fn kill(root: i32) {
    // The root goes last: its children would become somebody else's, and no longer be found.
    for pid in of(root).into_iter().rev() {
        let _ = crate::sys::process::kill(pid, libc::SIGKILL);
    }
}

/// Ends every descendant of this process that is not among `others`, and takes the status of those that are its
/// children, until none is left. What is orphaned on the way is this process' child, where it is PID 1 or a subreaper.
pub fn end_all_but(others: &[i32]) {
    let own = std::process::id() as i32;
    // What hangs in the kernel cannot be waited for.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let left: Vec<i32> = of(own).into_iter().skip(1).filter(|pid| !others.contains(pid)).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = crate::sys::process::kill(pid, libc::SIGKILL);
            // Those that are no children of ours are their parents' to wait for, and ours once these are gone.
            let _ = crate::sys::process::ended_child(crate::sys::process::Wait::Reap(pid));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Private and shared memory without a file behind it (proc(5), status).
fn resident_in(status: &str) -> Option<u64> {
    let kilobytes = |key: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
    };
    Some((kilobytes("RssAnon:")? + kilobytes("RssShmem:")? + kilobytes("VmSwap:").unwrap_or(0)) * 1024)
}

/// The same (proc(5), status).
fn pids_in(status: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_ascii_whitespace().map_while(|pid| pid.parse().ok()).collect()
}

/// Its state, or a stop among the signals that are pending (proc(5), status).
fn is_stopped_in(status: &str) -> bool {
    const STOP: u64 = 1 << (libc::SIGSTOP - 1);
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let pending = |key| value(key).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    value("State:").is_some_and(|state| state.starts_with('T'))
        || (pending("SigPnd:") | pending("ShdPnd:")) & STOP != 0
}

fn state_in(stat: &str) -> Option<char> {
    after_name(stat)?.chars().next()
}

/// The command's name stands in parentheses and may hold anything, parentheses too.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ").map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        assert_eq!(state_in("42 (a) R (b) S 1 42 42 0"), Some('S'));
        assert_eq!(state_in("42 (unfinished"), None);
    }

    #[test]
    fn a_process_has_a_pid_in_each_namespace() {
        assert_eq!(pids_in("Name:\tsh\nNSpid:\t4711\t23\t1\n"), [4711, 23, 1]);
        assert!(pids_in("Name:\tsh\n").is_empty());
        let own = std::process::id() as i32;
        assert_eq!(pid_as_seen_by(own, own), innermost_pid(own));
        assert!(innermost_pid(own).is_some());
    }

    #[test]
    fn memory_of_files_is_not_counted() {
        let status =
            "VmRSS:\t 900 kB\nRssAnon:\t     10 kB\nRssFile:\t 800 kB\nRssShmem:\t 5 kB\nVmSwap:\t 1 kB\n";
        assert_eq!(resident_in(status), Some(16 * 1024));
    }

    #[test]
    fn a_stop_that_is_still_to_come_counts() {
        for (status, expected) in [
            ("State:\tT (stopped)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", true),
            ("State:\tt (tracing stop)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000040000\n", true),
            ("State:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n", false),
            ("", false),
        ] {
            assert_eq!(is_stopped_in(status), expected, "{status}");
        }
    }

    #[test]
    fn children_are_found_and_strangers_are_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let own = std::process::id() as i32;
        let tree = of(own);
        assert_eq!(tree[0], own);
        assert!(tree.contains(&(child.id() as i32)));
        assert!(!tree.contains(&1));
        assert_eq!(parent(child.id() as i32), Some(own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of(child.id() as i32).is_empty());
    }
}

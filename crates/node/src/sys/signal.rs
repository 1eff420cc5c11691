//! Signals by number: rustix has no safe value for real-time ones.

use std::io;

/// Sends `signal` to the process `pid`.
pub(crate) fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

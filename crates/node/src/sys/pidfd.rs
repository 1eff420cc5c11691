//! What a descriptor of a process tells of its end (Linux, `include/uapi/linux/pidfd.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct pidfd_info`, as far as its first version goes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pids: [u32; 3],
    ids: [u32; 8],
    exit: i32,
}

/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: libc::Ioctl =
    ((3_u32 << 30) | ((size_of::<Info>() as u32) << 16) | (0xff << 8) | 11) as libc::Ioctl;

/// How a process ended that somebody has waited for, as a wait status. None where the kernel (before 6.15) does not tell.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the pointer is to a live structure of the size that is a part of the request's number.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((info.mask & EXIT != 0).then_some(info.exit)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_has_ended_tells_how() {
        let mut child = Command::new("sh")
            .args(["-c", "read line; exit 7"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        // Kernels that do not know of it say so.
        if let Ok(Some(status)) = exit_status(pidfd.as_fd()) {
            assert_eq!(status, 7 << 8);
        }
    }
}

//! Who is at the other end of a Unix socket.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// The user and group at the other end, as this user namespace sees them.
///
/// rustix has a wrapper, but its process id cannot be zero, and the kernel gives zero for a process of a PID namespace
/// that this one cannot see: another container.
pub(crate) fn user_and_group(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers are to live local variables, and `length` is the size of what the first one points to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were zero, which is a valid value of three integers, and the kernel wrote no others.
    let credentials = unsafe { credentials.assume_init() };
    Ok((credentials.uid, credentials.gid))
}

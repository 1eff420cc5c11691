//! The repair mode of TCP sockets (Linux, `include/uapi/linux/tcp.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a socket out of repair mode. Returns whether it was in it; what is no TCP socket never is.
pub(crate) fn end(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut mode: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and the length is that of the first.
    let result = unsafe {
        let mode = (&raw mut mode).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, mode, &raw mut length)
    };
    if result == -1 || mode == 0 {
        return Ok(false);
    }
    let off: libc::c_int = 0;
    // SAFETY: the pointer is to a live variable of the length that is given.
    let result = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const off).cast(),
            length,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(true) }
}

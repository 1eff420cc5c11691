//! The socket pair that memory travels through.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// How large buffers became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Bytes that may be on their way, as the kernel counts them: twice what was asked for when all was granted.
    pub bytes: usize,
    /// Whether all that was asked for was granted. If not, the process lacks `CAP_NET_ADMIN` and
    /// `net.core.wmem_max` is smaller.
    pub whole: bool,
}

/// A connected pair of stream sockets.
#[derive(Debug)]
pub struct SocketPair {
    /// For [`PageServer`](super::PageServer).
    pub ours: OwnedFd,
    /// For CRIU. It must be passed on and closed here, else the server never notices that CRIU has gone.
    pub criu: OwnedFd,
    /// The size of the buffers.
    pub granted: Granted,
}

/// Makes a socket pair with buffers of `buffer_bytes`, or as near as this process is allowed.
///
/// # Errors
/// No descriptors are left.
pub fn socket_pair(buffer_bytes: usize) -> io::Result<SocketPair> {
    let (ours, criu) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // What is on its way counts against the sender's buffer; the answers are a few bytes.
    if sockopt::set_socket_send_buffer_size_force(&criu, buffer_bytes).is_err() {
        sockopt::set_socket_send_buffer_size(&criu, buffer_bytes)?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&ours, buffer_bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(&ours, buffer_bytes)?;
    }
    let bytes = sockopt::socket_send_buffer_size(&criu)?;
    Ok(SocketPair { ours, criu, granted: Granted { bytes, whole: bytes >= buffer_bytes.saturating_mul(2) } })
}

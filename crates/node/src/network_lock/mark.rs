//! A sign in a network namespace that a checkpoint or restore is under way, whose lock is not to be taken away.
//!
//! It is a Unix socket with an abstract name. Those belong to the network namespace, so containers of a pod see each
//! other's, whatever else they do not share; and the kernel takes one away with the last process that holds it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const NAME: &str = "torpor/capture/";
/// Of this thread's namespace, as `/proc/net` is that of the process.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// Set for as long as it lives.
#[derive(Debug)]
pub struct Mark {
    socket: OwnedFd,
}

impl Mark {
    /// Sets one.
    ///
    /// # Errors
    /// Where no socket can be had.
    pub fn set() -> io::Result<Mark> {
        let unique = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let address = SocketAddrUnix::new_abstract_name(format!("{NAME}{}", unique.trim()).as_bytes())?;
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &address)?;
        Ok(Mark { socket })
    }

    /// The same one, for another process to hold too.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// How many are set in this network namespace. Where that cannot be known there are more than anybody's own.
    #[must_use]
    pub fn count() -> usize {
        std::fs::read_to_string(SOCKETS).map_or(usize::MAX, |sockets| count(&sockets))
    }
}

/// How many marks are among the sockets, which are as `/proc/net/unix` has them: the name last, `@` for abstract.
fn count(sockets: &str) -> usize {
    let names = sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(7));
    names.filter_map(|name| name.strip_prefix('@')).filter(|name| name.starts_with(NAME)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_from_other_sockets() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        let line =
            |path: &str| format!("{head}0000000000000000: 00000002 00000000 00000000 0002 01 22001 {path}\n");
        assert_eq!(count(&line("@torpor/capture/5d0c")), 1);
        for other in ["", "/run/torpor/capture/x", "@/tmp/.X11-unix/X0", "torpor/capture/5d0c"] {
            assert_eq!(count(&line(other)), 0, "{other}");
        }
    }
}

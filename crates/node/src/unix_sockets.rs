//! Unix sockets and their peers, which only the kernel's socket diagnosis tells (Linux, `include/uapi/linux/unix_diag.h`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Length of a netlink header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Length of what is told of each socket before its attributes (`struct unix_diag_msg`).
const TOLD: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `UDIAG_SHOW_PEER`, and the attribute that then comes.
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;
const DATAGRAM: u8 = 2;
/// More messages than any namespace has sockets.
const MOST: usize = 1 << 20;

/// A Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode, by which descriptors refer to it.
    pub inode: u64,
    /// Whether it sends datagrams rather than being one end of a stream.
    pub is_datagram: bool,
    /// The inode of its peer; none where it has none.
    pub peer: Option<u64>,
}

/// Sockets of a tree whose peers are not the tree's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outside {
    /// Ends of streams, which no dump can cut.
    pub streams: usize,
    /// Datagram sockets.
    pub datagrams: usize,
}

/// Those of the `held` sockets whose peers are not among them.
#[must_use]
pub fn outside(all: &[UnixSocket], held: &HashSet<u64>) -> Outside {
    let by_inode: HashMap<u64, &UnixSocket> = all.iter().map(|socket| (socket.inode, socket)).collect();
    let mut outside = Outside::default();
    for socket in held.iter().filter_map(|inode| by_inode.get(inode)) {
        // A connection that waits to be accepted belongs to nobody yet: its inode is 0.
        match socket.peer {
            Some(peer) if peer != 0 && !held.contains(&peer) && socket.is_datagram => outside.datagrams += 1,
            Some(peer) if peer != 0 && !held.contains(&peer) => outside.streams += 1,
            _ => {}
        }
    }
    outside
}

/// All Unix sockets of the network namespace of a process.
///
/// # Errors
/// Where the kernel does not tell: the namespace may not be entered, or it has no socket diagnosis.
pub fn of_namespace(pid: i32) -> io::Result<Vec<UnixSocket>> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // The thread that enters another namespace ends there.
    let asked = std::thread::spawn(move || {
        let own = std::fs::metadata("/proc/self/ns/net")?;
        let other = namespace.metadata()?;
        if (own.dev(), own.ino()) != (other.dev(), other.ino()) {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        ask()
    });
    asked.join().unwrap_or_else(|_| Err(io::Error::other("the thread that asks for sockets died")))
}

fn ask() -> io::Result<Vec<UnixSocket>> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, &request(), SendFlags::empty())?;
    let mut sockets = Vec::new();
    for _ in 0..MOST {
        let answer = receive(&socket)?;
        if read(&answer, &mut sockets)? {
            return Ok(sockets);
        }
    }
    Err(io::Error::other("the kernel does not stop telling of sockets"))
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Asks for all sockets in any state, with their peers (`struct unix_diag_req`).
fn request() -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 24);
    message.extend((HEADER as u32 + 24).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([AddressFamily::UNIX.as_raw() as u8, 0, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(SHOW_PEER.to_ne_bytes());
    // No cookie: any socket.
    message.extend([0xff; 8]);
    message
}

/// Reads the messages of a datagram. True where the last of all was among them.
fn read(mut datagram: &[u8], sockets: &mut Vec<UnixSocket>) -> io::Result<bool> {
    while let Some(length) = word(datagram, 0) {
        let length = length as usize;
        let (Some(kind), Some(body)) = (half(datagram, 4), datagram.get(HEADER..length)) else { break };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let number = word(body, 0).map_or(0, |word| (word as i32).wrapping_neg());
                return Err(io::Error::from_raw_os_error(number));
            }
            SOCK_DIAG_BY_FAMILY => sockets.extend(socket(body)),
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn socket(body: &[u8]) -> Option<UnixSocket> {
    let kind = *body.get(1)?;
    let inode = word(body, 4)?;
    let mut attributes = body.get(TOLD..)?;
    let mut peer = None;
    while let (Some(length), Some(name)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else { break };
        if name == PEER {
            peer = word(value, 0).map(u64::from);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(UnixSocket { inode: inode.into(), is_datagram: kind == DATAGRAM, peer })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use proptest::prelude::*;

    use super::*;

    fn inode(socket: &impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn the_kernel_tells_who_is_connected_to_whom() {
        let (one, other) = UnixStream::pair().unwrap();
        let (datagrams, far) = UnixDatagram::pair().unwrap();
        let alone = UnixDatagram::unbound().unwrap();
        let all = of_namespace(std::process::id() as i32).unwrap();
        let find = |inode: u64| all.iter().find(|socket| socket.inode == inode).unwrap();
        assert_eq!(find(inode(&one)).peer, Some(inode(&other)));
        assert_eq!(find(inode(&alone)).peer, None);
        for (held, streams, datagram_sockets) in [
            (vec![inode(&one), inode(&other), inode(&datagrams), inode(&far), inode(&alone)], 0, 0),
            (vec![inode(&one), inode(&datagrams)], 1, 1),
            (vec![inode(&alone)], 0, 0),
        ] {
            let expected = Outside { streams, datagrams: datagram_sockets };
            assert_eq!(outside(&all, &held.into_iter().collect()), expected);
        }
    }

    proptest! {
        #[test]
        fn takes_any_answer_without_panic(answer: Vec<u8>) {
            let _ = read(&answer, &mut Vec::new());
        }
    }
}

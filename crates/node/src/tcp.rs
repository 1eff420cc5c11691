//! The TCP connections of a program, from `/proc/PID/net/tcp` and `tcp6` (Linux, Documentation/networking/proc_net_tcp).

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP socket of the network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The address it is bound to.
    pub local: SocketAddr,
    /// The address it is connected to.
    pub remote: SocketAddr,
    /// Its state.
    pub state: State,
    /// Its inode, by which descriptors refer to it; 0 where no process holds it any more.
    pub inode: u64,
}

/// What matters of a TCP state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for connections.
    Listening,
    /// It has a peer.
    Connected,
    /// It has none, or none any more.
    Closed,
}

/// The connections of a tree, sorted by where their peers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connections {
    /// Both ends are held by the tree.
    pub inside: Vec<Socket>,
    /// The peer is somewhere else.
    pub outside: Vec<Socket>,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .outside
            .iter()
            .take(4)
            .map(|socket| format!("{} to {}", socket.local, socket.remote))
            .collect();
        f.write_str(&names.join(", "))?;
        match self.outside.len().saturating_sub(names.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The sockets that one of the two tables lists. Lines that cannot be read are passed over: the kernel adds columns,
/// never changes them.
pub fn sockets(table: &str) -> impl Iterator<Item = Socket> + '_ {
    table.lines().skip(1).filter_map(socket)
}

fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = match u8::from_str_radix(fields.get(3)?, 16).ok()? {
        0x0A => State::Listening,
        0x07 | 0x06 => State::Closed,
        _ => State::Connected,
    };
    Some(Socket {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        state,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Addresses are hexadecimal words in the byte order of the host, ports in that of people.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u32> = (0..host.len() / 8)
        .map(|word| u32::from_str_radix(host.get(word * 8..word * 8 + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let host = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(host, port))
}

/// Which connections of `all` the tree holds (by the inodes of its descriptors), and whether their peers are inside.
#[must_use]
pub fn connections(all: &[Socket], held: &HashSet<u64>) -> Connections {
    let of_tree: Vec<&Socket> = all
        .iter()
        .filter(|socket| socket.state == State::Connected && held.contains(&socket.inode))
        .collect();
    let mut connections = Connections::default();
    for socket in &of_tree {
        let has_peer = of_tree.iter().any(|peer| peer.local == socket.remote && peer.remote == socket.local);
        let list = if has_peer { &mut connections.inside } else { &mut connections.outside };
        list.push((*socket).clone());
    }
    connections
}

/// All sockets of the network namespace of a process.
#[must_use]
pub fn of_namespace(pid: i32) -> Vec<Socket> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| sockets(&table).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_line_of_the_kernel_s_is_read() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3021 1\n\
            1: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000100007F:D431 01 00000000:00000000 00:0 0 0 0 77 1\n\
            garbage\n";
        let read: Vec<Socket> = sockets(table).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].local, "127.0.0.1:6379".parse().unwrap());
        assert_eq!((read[0].state, read[0].inode), (State::Listening, 3021));
        assert_eq!(read[1].remote, "127.0.0.1:54321".parse().unwrap());
    }

    #[test]
    fn a_connection_with_both_ends_here_is_inside() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        let inode = |fd: i32| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            let link = link.to_str().unwrap();
            link["socket:[".len()..link.len() - 1].parse::<u64>().unwrap()
        };
        let all = of_namespace(std::process::id() as i32);
        let (ours, theirs) = (inode(client.as_raw_fd()), inode(server.as_raw_fd()));
        let both = connections(&all, &HashSet::from([ours, theirs]));
        assert_eq!((both.inside.len(), both.outside.len()), (2, 0));
        let one = connections(&all, &HashSet::from([ours]));
        assert_eq!((one.inside.len(), one.outside.len()), (0, 1));
        assert!(one.to_string().starts_with("127.0.0.1:"));
    }

    proptest::proptest! {
        #[test]
        fn no_table_makes_it_panic(table in ".{0,200}\n.{0,200}") {
            let _ = sockets(&table).count();
        }
    }
}

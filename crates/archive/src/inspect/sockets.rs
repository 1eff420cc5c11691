//! Sockets: who a program was talking to.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Serialize;
use torpor_criu::image::file::{Descriptor, File};
use torpor_criu::image::socket::{
    InetSocket, NetlinkSocket, PacketSocket, QueuedPacket, SocketOptions, TCP, TcpStream, UnixSocket,
};

use super::descriptors::Files;
use super::images::Images;
use super::strings;

/// A socket, as one descriptor of a process has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Socket {
    /// The descriptor.
    pub fd: u32,
    /// CRIU's number of the open socket: descriptors with the same share it.
    pub id: u32,
    /// `tcp`, `udp`, `udplite`, `icmp`, `raw`, `unix`, `netlink`, `packet`.
    pub protocol: String,
    /// `ipv4`, `ipv6`, `unix`, `netlink`, `packet`.
    pub family: &'static str,
    /// `stream`, `datagram`, `seqpacket`, `raw`.
    pub kind: String,
    /// As `LISTEN` and `ESTABLISHED`.
    pub state: String,
    /// Its own end: an address with a port, a path, an abstract name after `@`, or a netlink port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Address>,
    /// The other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Address>,
    /// Who has the other end, where that is in the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Bytes received and not read.
    pub receive_queue: u64,
    /// Bytes sent and not acknowledged.
    pub send_queue: u64,
    /// The receive buffer, as the kernel counts it, in bytes.
    pub receive_buffer: u32,
    /// The send buffer, as the kernel counts it, in bytes.
    pub send_buffer: u32,
    /// How many connections may wait, for those that listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// `reading`, `writing` or `both`, where it is shut down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<&'static str>,
    /// Options that are set.
    pub options: Vec<String>,
}

/// One end of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address, path or name.
    pub address: String,
    /// The port, for those that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(0) if self.address.contains(':') => write!(f, "[{}]:*", self.address),
            Some(0) => write!(f, "{}:*", self.address),
            Some(port) if self.address.contains(':') => write!(f, "[{}]:{port}", self.address),
            Some(port) => write!(f, "{}:{port}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// Who has the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// The process.
    pub pid: u32,
    /// Its descriptor.
    pub fd: u32,
}

/// What else is known about sockets, for all processes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Inode of a Unix socket to the first process that has it.
    unix: HashMap<u32, Peer>,
    /// Number of an open socket to the bytes in its receive queue.
    queues: HashMap<u32, u64>,
}

impl Ends {
    /// Finds who has which end, given the descriptors of each process.
    pub(super) fn read(images: &Images<'_>, files: &Files, tables: &BTreeMap<u32, Vec<Descriptor>>) -> Self {
        let mut ends = Self::default();
        images.each::<QueuedPacket>(0, |packet| {
            *ends.queues.entry(packet.id_for).or_default() += u64::from(packet.length);
        });
        for (pid, descriptors) in tables {
            for descriptor in descriptors {
                if let Some(socket) = files.get(descriptor.id).and_then(|file| file.usk.as_ref()) {
                    ends.unix.entry(socket.ino).or_insert(Peer { pid: *pid, fd: descriptor.fd });
                }
            }
        }
        ends
    }

    /// The sockets among the descriptors of a table, in the order of their numbers.
    pub(super) fn sockets(
        &self,
        images: &Images<'_>,
        files: &Files,
        descriptors: &[Descriptor],
    ) -> Vec<Socket> {
        let mut sockets: Vec<_> = descriptors
            .iter()
            .filter_map(|descriptor| {
                let file = files.get(descriptor.id)?;
                let mut socket = self.socket(images, file)?;
                (socket.fd, socket.id) = (descriptor.fd, descriptor.id);
                Some(socket)
            })
            .collect();
        sockets.sort_by_key(|socket| socket.fd);
        sockets
    }

    fn socket(&self, images: &Images<'_>, file: &File) -> Option<Socket> {
        if let Some(socket) = &file.isk {
            return Some(self.inet(images, socket));
        }
        if let Some(socket) = &file.usk {
            return Some(self.unix(socket));
        }
        if let Some(socket) = &file.nlsk {
            return Some(self.netlink(socket));
        }
        file.psk.as_ref().map(packet)
    }

    fn inet(&self, images: &Images<'_>, socket: &InetSocket) -> Socket {
        let stream =
            socket.is_tcp_connection().then(|| images.one::<TcpStream>(u64::from(socket.ino))).flatten();
        let mut options = options(&socket.opts);
        if let Some(tcp) = &socket.tcp_opts {
            let names = [("TCP_NODELAY", tcp.nodelay), ("TCP_CORK", tcp.cork)];
            options.extend(
                names.iter().filter(|(_, set)| *set == Some(true)).map(|(name, _)| (*name).to_owned()),
            );
        }
        if socket.v6only == Some(true) {
            options.push("IPV6_V6ONLY".to_owned());
        }
        let listens = socket.proto == TCP && socket.state == 10;
        Socket {
            protocol: inet_protocol(socket),
            family: if socket.family == 10 { "ipv6" } else { "ipv4" },
            kind: kind_name(socket.r#type),
            state: inet_state(socket),
            local: end(socket.source(), socket.src_port, socket.ifname.as_deref()),
            remote: if listens || (socket.dst_port == 0 && socket.r#type != 3) {
                None
            } else {
                end(socket.destination(), socket.dst_port, None)
            },
            receive_queue: stream
                .map(|stream| u64::from(stream.inq_len))
                .unwrap_or_else(|| self.queues.get(&socket.id).copied().unwrap_or(0)),
            send_queue: stream.map_or(0, |stream| u64::from(stream.outq_len)),
            backlog: listens.then_some(socket.backlog),
            shutdown: shutdown(socket.shutdown),
            options,
            ..buffers(&socket.opts)
        }
    }

    fn unix(&self, socket: &UnixSocket) -> Socket {
        Socket {
            protocol: "unix".to_owned(),
            family: "unix",
            kind: kind_name(socket.r#type),
            state: unix_state(socket.state),
            local: unix_name(socket).map(|address| Address { address, port: None }),
            remote: (socket.peer != 0)
                .then(|| Address { address: format!("socket:[{}]", socket.peer), port: None }),
            peer: self.unix.get(&socket.peer).copied().filter(|_| socket.peer != 0),
            receive_queue: self.queues.get(&socket.id).copied().unwrap_or(0),
            backlog: (socket.state == 10).then_some(socket.backlog),
            shutdown: shutdown(socket.shutdown),
            options: options(&socket.opts),
            ..buffers(&socket.opts)
        }
    }

    fn netlink(&self, socket: &NetlinkSocket) -> Socket {
        Socket {
            protocol: "netlink".to_owned(),
            family: "netlink",
            kind: "raw".to_owned(),
            state: unix_state(socket.state),
            local: Some(Address { address: netlink_name(socket.protocol), port: Some(socket.portid) }),
            remote: (socket.dst_portid != 0 || socket.state == 1)
                .then(|| Address { address: "kernel".to_owned(), port: Some(socket.dst_portid) }),
            receive_queue: self.queues.get(&socket.id).copied().unwrap_or(0),
            options: options(&socket.opts),
            ..buffers(&socket.opts)
        }
    }
}

fn packet(socket: &PacketSocket) -> Socket {
    // The protocol is kept in network order.
    let protocol = u16::from_be(socket.protocol as u16);
    Socket {
        protocol: "packet".to_owned(),
        family: "packet",
        kind: kind_name(socket.r#type),
        state: "UNCONNECTED".to_owned(),
        local: Some(Address {
            address: format!("protocol {protocol:#06x}, device {}", socket.ifindex),
            port: None,
        }),
        options: options(&socket.opts),
        ..buffers(&socket.opts)
    }
}

fn buffers(options: &SocketOptions) -> Socket {
    Socket { receive_buffer: options.so_rcvbuf, send_buffer: options.so_sndbuf, ..Socket::default() }
}

/// What a socket is and whom it connects, for a list of files; none for files that are no sockets.
pub(super) fn brief(file: &File) -> Option<(&'static str, String)> {
    if let Some(socket) = &file.isk {
        let kind = match socket.proto {
            6 => "tcp socket",
            17 => "udp socket",
            _ => "inet socket",
        };
        let local = end(socket.source(), socket.src_port, socket.ifname.as_deref());
        let remote =
            if socket.dst_port == 0 { None } else { end(socket.destination(), socket.dst_port, None) };
        return Some((kind, ends(local.as_ref(), remote.as_ref())));
    }
    if let Some(socket) = &file.usk {
        let local = unix_name(socket).unwrap_or_else(|| format!("socket:[{}]", socket.ino));
        let remote = if socket.peer == 0 { String::new() } else { format!(" → socket:[{}]", socket.peer) };
        return Some(("unix socket", local + &remote));
    }
    if let Some(socket) = &file.nlsk {
        return Some(("netlink socket", format!("{}:{}", netlink_name(socket.protocol), socket.portid)));
    }
    let socket = file.psk.as_ref()?;
    let local = packet(socket).local.map(|address| address.to_string());
    Some(("packet socket", local.unwrap_or_default()))
}

/// The flags of an open socket.
pub(super) fn flags(file: &File) -> Option<u32> {
    let inet = file.isk.as_ref().map(|socket| socket.flags);
    let unix = file.usk.as_ref().map(|socket| socket.flags);
    let netlink = file.nlsk.as_ref().map(|socket| socket.flags);
    inet.or(unix).or(netlink).or_else(|| file.psk.as_ref().map(|socket| socket.flags))
}

fn ends(local: Option<&Address>, remote: Option<&Address>) -> String {
    let local = local.map_or_else(|| "?".to_owned(), ToString::to_string);
    match remote {
        Some(remote) => format!("{local} → {remote}"),
        None => local,
    }
}

fn end(address: Option<IpAddr>, port: u32, device: Option<&str>) -> Option<Address> {
    let address = address?.to_string();
    let address = match device {
        Some(device) => format!("{address}%{device}"),
        None => address,
    };
    Some(Address { address, port: Some(port) })
}

/// An abstract name follows an `@`, as `ss` and `/proc/net/unix` show it.
fn unix_name(socket: &UnixSocket) -> Option<String> {
    let name = match socket.name.as_slice() {
        [] => return None,
        [0, name @ ..] => format!("@{}", strings::text(name)),
        name => {
            let path = strings::text(name.strip_suffix(&[0]).unwrap_or(name));
            match &socket.name_dir {
                Some(directory) if !path.starts_with('/') => {
                    format!("{}/{path}", directory.trim_end_matches('/'))
                }
                _ => path,
            }
        }
    };
    Some(if socket.deleted == Some(true) { name + " (removed)" } else { name })
}

fn inet_protocol(socket: &InetSocket) -> String {
    match socket.proto {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        136 => "udplite".to_owned(),
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        other if socket.r#type == 3 => format!("raw {other}"),
        other => format!("protocol {other}"),
    }
}

fn kind_name(number: u32) -> String {
    match number {
        1 => "stream".to_owned(),
        2 => "datagram".to_owned(),
        3 => "raw".to_owned(),
        5 => "seqpacket".to_owned(),
        10 => "packet".to_owned(),
        other => other.to_string(),
    }
}

fn inet_state(socket: &InetSocket) -> String {
    const STATES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    if socket.proto != TCP {
        return if socket.dst_port == 0 { "UNCONNECTED" } else { "ESTABLISHED" }.to_owned();
    }
    let index = (socket.state as usize).wrapping_sub(1);
    STATES.get(index).map_or_else(|| socket.state.to_string(), |state| (*state).to_owned())
}

fn unix_state(state: u32) -> String {
    match state {
        1 => "ESTABLISHED".to_owned(),
        7 => "UNCONNECTED".to_owned(),
        10 => "LISTEN".to_owned(),
        other => other.to_string(),
    }
}

/// Netlink protocols by their numbers (`include/uapi/linux/netlink.h` of the kernel).
fn netlink_name(protocol: u32) -> String {
    let name = match protocol {
        0 => "route",
        2 => "usersock",
        3 => "firewall",
        4 => "sock_diag",
        5 => "nflog",
        6 => "xfrm",
        7 => "selinux",
        8 => "iscsi",
        9 => "audit",
        10 => "fib_lookup",
        11 => "connector",
        12 => "netfilter",
        15 => "kobject_uevent",
        16 => "generic",
        20 => "rdma",
        21 => "crypto",
        other => return format!("protocol {other}"),
    };
    name.to_owned()
}

fn shutdown(number: Option<u32>) -> Option<&'static str> {
    match number {
        Some(1) => Some("reading"),
        Some(2) => Some("writing"),
        Some(3) => Some("both"),
        _ => None,
    }
}

fn options(options: &SocketOptions) -> Vec<String> {
    let set = [
        ("SO_REUSEADDR", options.reuseaddr),
        ("SO_REUSEPORT", options.so_reuseport),
        ("SO_KEEPALIVE", options.so_keepalive),
        ("SO_BROADCAST", options.so_broadcast),
        ("SO_PASSCRED", options.so_passcred),
    ];
    let mut names: Vec<_> =
        set.iter().filter(|(_, set)| *set == Some(true)).map(|(name, _)| (*name).to_owned()).collect();
    if let Some(device) = &options.so_bound_dev {
        names.push(format!("SO_BINDTODEVICE={device}"));
    }
    for (name, value) in [("SO_MARK", options.so_mark), ("SO_PRIORITY", options.so_priority)] {
        if let Some(value) = value.filter(|value| *value != 0) {
            names.push(format!("{name}={value}"));
        }
    }
    if let Some(seconds) = options.so_linger {
        names.push(format!("SO_LINGER={seconds}"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(name: &[u8]) -> UnixSocket {
        UnixSocket { name: name.to_vec(), ..UnixSocket::default() }
    }

    #[test]
    fn names_of_unix_sockets() {
        assert_eq!(unix_name(&unix(b"")), None);
        assert_eq!(unix_name(&unix(b"\0bus\0x")).as_deref(), Some("@bus\\x00x"));
        assert_eq!(unix_name(&unix(b"/run/a.sock\0")).as_deref(), Some("/run/a.sock"));
        let relative = UnixSocket { name_dir: Some("/srv/".to_owned()), ..unix(b"a.sock") };
        assert_eq!(unix_name(&relative).as_deref(), Some("/srv/a.sock"));
    }

    #[test]
    fn addresses_of_version_six_stand_in_brackets() {
        let address = |address: &str, port| Address { address: address.to_owned(), port }.to_string();
        assert_eq!(address("::1", Some(80)), "[::1]:80");
        assert_eq!(address("10.0.0.1", Some(0)), "10.0.0.1:*");
        assert_eq!(address("/run/a", None), "/run/a");
    }
}

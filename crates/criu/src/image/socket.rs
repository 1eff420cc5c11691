//! Sockets (CRIU `images/sk-inet.proto`, `sk-unix.proto`, `packet-sock.proto`, `sk-netlink.proto`, `tcp-stream.proto`,
//! `sk-opts.proto`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use prost::Message;

use super::file::Owner;
use super::records;

/// An IPv4 or IPv6 socket.
#[derive(Clone, PartialEq, Message)]
pub struct InetSocket {
    /// Its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Its inode, which names `tcp-stream-INO.img` in hexadecimal.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Address family: 2 IPv4, 10 IPv6.
    #[prost(uint32, required, tag = "3")]
    pub family: u32,
    /// Socket type: 1 stream, 2 datagram, 3 raw.
    #[prost(uint32, required, tag = "4")]
    pub r#type: u32,
    /// Protocol: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6, 136 UDP-Lite.
    #[prost(uint32, required, tag = "5")]
    pub proto: u32,
    /// TCP state by the kernel's number: see [`TcpState`].
    #[prost(uint32, required, tag = "6")]
    pub state: u32,
    /// Local port, zero if not bound.
    #[prost(uint32, required, tag = "7")]
    pub src_port: u32,
    /// Remote port, zero if not connected.
    #[prost(uint32, required, tag = "8")]
    pub dst_port: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "9")]
    pub flags: u32,
    /// Backlog of a listening socket.
    #[prost(uint32, required, tag = "10")]
    pub backlog: u32,
    /// Local address, in network order as it lies in memory: one word, or four.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub src_addr: Vec<u32>,
    /// Remote address.
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub dst_addr: Vec<u32>,
    /// Options of every socket.
    #[prost(message, required, tag = "14")]
    pub opts: SocketOptions,
    /// Takes IPv6 connections only.
    #[prost(bool, optional, tag = "15")]
    pub v6only: Option<bool>,
    /// The device of a link-local address.
    #[prost(string, optional, tag = "17")]
    pub ifname: Option<String>,
    /// Its network namespace.
    #[prost(uint32, optional, tag = "18")]
    pub ns_id: Option<u32>,
    /// What is shut down: 1 reading, 2 writing, 3 both.
    #[prost(uint32, optional, tag = "19")]
    pub shutdown: Option<u32>,
    /// Options of TCP (since CRIU 4.0).
    #[prost(message, optional, tag = "20")]
    pub tcp_opts: Option<TcpOptions>,
}

/// Options of every socket, as in socket(7). Times are absent where they are not set.
#[derive(Clone, PartialEq, Message)]
pub struct SocketOptions {
    /// Send buffer, as the kernel counts it, in bytes.
    #[prost(uint32, required, tag = "1")]
    pub so_sndbuf: u32,
    /// Receive buffer, as the kernel counts it, in bytes.
    #[prost(uint32, required, tag = "2")]
    pub so_rcvbuf: u32,
    /// Time limit for sending, seconds.
    #[prost(uint64, required, tag = "3")]
    pub so_snd_tmo_sec: u64,
    /// Time limit for sending, microseconds.
    #[prost(uint64, required, tag = "4")]
    pub so_snd_tmo_usec: u64,
    /// Time limit for receiving, seconds.
    #[prost(uint64, required, tag = "5")]
    pub so_rcv_tmo_sec: u64,
    /// Time limit for receiving, microseconds.
    #[prost(uint64, required, tag = "6")]
    pub so_rcv_tmo_usec: u64,
    /// `SO_REUSEADDR`.
    #[prost(bool, optional, tag = "7")]
    pub reuseaddr: Option<bool>,
    /// `SO_PRIORITY`.
    #[prost(uint32, optional, tag = "8")]
    pub so_priority: Option<u32>,
    /// `SO_RCVLOWAT`.
    #[prost(uint32, optional, tag = "9")]
    pub so_rcvlowat: Option<u32>,
    /// `SO_MARK`.
    #[prost(uint32, optional, tag = "10")]
    pub so_mark: Option<u32>,
    /// `SO_PASSCRED`.
    #[prost(bool, optional, tag = "11")]
    pub so_passcred: Option<bool>,
    /// `SO_BINDTODEVICE`.
    #[prost(string, optional, tag = "15")]
    pub so_bound_dev: Option<String>,
    /// `SO_REUSEPORT`.
    #[prost(bool, optional, tag = "17")]
    pub so_reuseport: Option<bool>,
    /// `SO_BROADCAST`.
    #[prost(bool, optional, tag = "18")]
    pub so_broadcast: Option<bool>,
    /// `SO_KEEPALIVE`.
    #[prost(bool, optional, tag = "19")]
    pub so_keepalive: Option<bool>,
    /// `SO_LINGER`, seconds.
    #[prost(uint32, optional, tag = "24")]
    pub so_linger: Option<u32>,
}

/// Options of a TCP socket, as in tcp(7).
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TcpOptions {
    /// `TCP_CORK`.
    #[prost(bool, optional, tag = "1")]
    pub cork: Option<bool>,
    /// `TCP_NODELAY`.
    #[prost(bool, optional, tag = "2")]
    pub nodelay: Option<bool>,
    /// `TCP_KEEPCNT`.
    #[prost(uint32, optional, tag = "3")]
    pub keepcnt: Option<u32>,
    /// `TCP_KEEPIDLE`, seconds.
    #[prost(uint32, optional, tag = "4")]
    pub keepidle: Option<u32>,
    /// `TCP_KEEPINTVL`, seconds.
    #[prost(uint32, optional, tag = "5")]
    pub keepintvl: Option<u32>,
}

/// What is in a socket's queue: `sk-queues.img`. The bytes follow.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct QueuedPacket {
    /// The socket, by its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id_for: u32,
    /// How many bytes follow.
    #[prost(uint32, required, tag = "2")]
    pub length: u32,
}

/// `IPPROTO_TCP`.
pub const TCP: u32 = 6;
/// `AF_INET`.
pub const IPV4: u32 = 2;
/// `AF_INET6`.
pub const IPV6: u32 = 10;

/// A TCP socket's state (`include/net/tcp_states.h` of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum TcpState {
    /// Connected.
    Established = 1,
    /// Connecting.
    SynSent = 2,
    /// Being connected to.
    SynReceived = 3,
    /// Closed here, not acknowledged.
    FinWait1 = 4,
    /// Closed here, open there.
    FinWait2 = 5,
    /// Waiting out late packets.
    TimeWait = 6,
    /// Not connected.
    Close = 7,
    /// Closed there, open here.
    CloseWait = 8,
    /// Closed on both sides, not acknowledged.
    LastAck = 9,
    /// Listening.
    Listen = 10,
    /// Closed on both sides at once.
    Closing = 11,
    /// Being connected to, as the kernel keeps it.
    NewSynReceived = 12,
}

impl TcpState {
    /// The state of this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynReceived,
            _ => return None,
        })
    }
}

impl InetSocket {
    /// The local address; `None` if the image has too few words for the family.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        address(self.family, &self.src_addr)
    }

    /// The remote address; `None` if the image has too few words for the family.
    #[must_use]
    pub fn destination(&self) -> Option<IpAddr> {
        address(self.family, &self.dst_addr)
    }

    /// The TCP state; `None` for other protocols and unknown numbers.
    #[must_use]
    pub fn tcp_state(&self) -> Option<TcpState> {
        (self.proto == TCP).then(|| TcpState::from_number(self.state)).flatten()
    }

    /// Whether CRIU restores it as a connection, which it decides by the remote port (`criu/sk-inet.c`, `tcp_connection`).
    #[must_use]
    pub fn is_tcp_connection(&self) -> bool {
        self.proto == TCP && self.dst_port != 0
    }
}

/// An address from the words of an image, which hold it in network order as it lay in memory.
#[must_use]
pub fn address(family: u32, words: &[u32]) -> Option<IpAddr> {
    match family {
        IPV4 => words.first().map(|word| IpAddr::V4(Ipv4Addr::from(word.to_le_bytes()))),
        IPV6 => {
            let words: &[u32; 4] = words.first_chunk()?;
            let mut octets = [0; 16];
            for (chunk, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *chunk = word.to_le_bytes();
            }
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

/// The words of an image for an address: the reverse of [`address`].
#[must_use]
pub fn address_words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![u32::from_le_bytes(address.octets())],
        IpAddr::V6(address) => {
            address.octets().as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect()
        }
    }
}

/// A Unix socket.
#[derive(Clone, PartialEq, Message)]
pub struct UnixSocket {
    /// Its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Its inode, by which peers know it.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Socket type: 1 stream, 2 datagram, 5 sequenced packets.
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    /// 1 connected, 7 not, 10 listening.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// CRIU's own (`criu/sk-unix.c`): bit 0 the other end is outside, bit 2 a plugin takes care of it, bit 3 a restore inherits it.
    #[prost(uint32, required, tag = "6")]
    pub uflags: u32,
    /// Backlog of a listening socket.
    #[prost(uint32, required, tag = "7")]
    pub backlog: u32,
    /// The inode of the other end, zero if not connected.
    #[prost(uint32, required, tag = "8")]
    pub peer: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "9")]
    pub fown: Owner,
    /// Options of every socket.
    #[prost(message, required, tag = "10")]
    pub opts: SocketOptions,
    /// Path, or an abstract name starting with a zero byte; empty if unnamed.
    #[prost(bytes = "vec", required, tag = "11")]
    pub name: Vec<u8>,
    /// What is shut down: 1 reading, 2 writing, 3 both.
    #[prost(uint32, optional, tag = "12")]
    pub shutdown: Option<u32>,
    /// The directory a relative path starts from.
    #[prost(string, optional, tag = "14")]
    pub name_dir: Option<String>,
    /// Its file was removed.
    #[prost(bool, optional, tag = "15")]
    pub deleted: Option<bool>,
    /// Its network namespace.
    #[prost(uint32, optional, tag = "16")]
    pub ns_id: Option<u32>,
    /// The mount its file is on.
    #[prost(sint32, optional, tag = "17", default = "-1")]
    pub mnt_id: Option<i32>,
}

/// A packet socket.
#[derive(Clone, PartialEq, Message)]
pub struct PacketSocket {
    /// Its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Socket type.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Protocol.
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    /// The device it is bound to, zero for all.
    #[prost(uint32, required, tag = "5")]
    pub ifindex: u32,
    /// Options of every socket.
    #[prost(message, required, tag = "7")]
    pub opts: SocketOptions,
    /// Its network namespace.
    #[prost(uint32, optional, tag = "20")]
    pub ns_id: Option<u32>,
}

/// A netlink socket.
#[derive(Clone, PartialEq, Message)]
pub struct NetlinkSocket {
    /// Its id in `files.img`.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Its inode.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// Protocol, as in netlink(7).
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    /// 1 connected, 7 not.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Flags, as in open(2).
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    /// Port.
    #[prost(uint32, required, tag = "7")]
    pub portid: u32,
    /// Groups it listens to, 32 in each word.
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub groups: Vec<u32>,
    /// The other end's port.
    #[prost(uint32, required, tag = "9")]
    pub dst_portid: u32,
    /// The other end's groups.
    #[prost(uint32, required, tag = "10")]
    pub dst_group: u32,
    /// Options of every socket.
    #[prost(message, required, tag = "12")]
    pub opts: SocketOptions,
    /// Its network namespace.
    #[prost(uint32, optional, tag = "13")]
    pub ns_id: Option<u32>,
}

/// `tcp-stream-INO.img`: an established connection; what was received and not read, then what was sent and not acknowledged, follows.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TcpStream {
    /// Bytes received and not read.
    #[prost(uint32, required, tag = "1")]
    pub inq_len: u32,
    /// Sequence number after those.
    #[prost(uint32, required, tag = "2")]
    pub inq_seq: u32,
    /// Bytes sent and not acknowledged, or not yet sent.
    #[prost(uint32, required, tag = "3")]
    pub outq_len: u32,
    /// Sequence number after those.
    #[prost(uint32, required, tag = "4")]
    pub outq_seq: u32,
    /// Options agreed on, as bits of `TCPI_OPT_…`.
    #[prost(uint32, required, tag = "5")]
    pub opt_mask: u32,
    /// Bytes not yet sent.
    #[prost(uint32, optional, tag = "12")]
    pub unsq_len: Option<u32>,
}

records! {
    TcpStream => TcpStream,
    QueuedPacket => SocketQueues,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_in_network_order() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(address_words(loopback), [0x0100_007f]);
        for text in ["127.0.0.1", "10.1.2.3", "::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            let ip: IpAddr = text.parse().unwrap();
            let family = if ip.is_ipv4() { IPV4 } else { IPV6 };
            assert_eq!(address(family, &address_words(ip)), Some(ip));
        }
        assert_eq!(address(IPV6, &[1]), None);
        assert_eq!(address(1, &[1]), None);
    }
}

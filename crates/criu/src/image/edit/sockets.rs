//! The sockets of a checkpoint.

use std::net::{IpAddr, SocketAddr};

use crate::image::file::File;
use crate::image::socket::{self, TcpState};
use crate::image::{ImageError, read_all};

/// What a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP, with its state; `None` for a number this version does not know.
    Tcp(Option<TcpState>),
    /// UDP or UDP-Lite.
    Udp,
    /// Any other protocol, by number.
    Other(u32),
}

/// An IPv4 or IPv6 socket of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its id in `files.img`.
    pub id: u32,
    /// Its inode when dumped.
    pub inode: u32,
    /// Address family: 2 IPv4, 10 IPv6.
    pub family: u32,
    /// Protocol and state.
    pub kind: SocketKind,
    /// Local address; `None` if the image does not hold a whole one.
    pub source: Option<IpAddr>,
    /// Local port, zero if not bound.
    pub source_port: u16,
    /// Remote address; `None` if the image does not hold a whole one.
    pub destination: Option<IpAddr>,
    /// Remote port, zero if not connected.
    pub destination_port: u16,
    /// Its network namespace, if the dump had several.
    pub namespace: Option<u32>,
}

impl Socket {
    /// Whether it is a TCP socket that takes connections.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.kind == SocketKind::Tcp(Some(TcpState::Listen))
    }

    /// Whether CRIU restores it as a TCP connection.
    #[must_use]
    pub fn is_tcp_connection(&self) -> bool {
        matches!(self.kind, SocketKind::Tcp(_)) && self.destination_port != 0
    }

    /// Local address and port, IPv4 addresses of IPv6 sockets as IPv4.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.source?.to_canonical(), self.source_port))
    }

    /// Remote address and port, IPv4 addresses of IPv6 sockets as IPv4.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.destination?.to_canonical(), self.destination_port))
    }
}

/// Every IPv4 and IPv6 socket of a `files.img`, in its order.
///
/// # Errors
///
/// When the image is damaged.
pub fn sockets(files: &[u8]) -> Result<Vec<Socket>, ImageError> {
    let files: Vec<File> = read_all(files)?;
    Ok(files.into_iter().filter_map(|file| file.isk).map(|isk| from_image(&isk)).collect())
}

fn from_image(isk: &socket::InetSocket) -> Socket {
    Socket {
        id: isk.id,
        inode: isk.ino,
        family: isk.family,
        kind: match isk.proto {
            socket::TCP => SocketKind::Tcp(isk.tcp_state()),
            17 | 136 => SocketKind::Udp,
            other => SocketKind::Other(other),
        },
        source: isk.source(),
        source_port: isk.src_port as u16,
        destination: isk.destination(),
        destination_port: isk.dst_port as u16,
        namespace: isk.ns_id,
    }
}

/// The TCP connections of which both ends are in the checkpoint, as positions in the list. Such connections can always be restored,
/// whatever became of the network.
#[must_use]
pub fn internal_pairs(sockets: &[Socket]) -> Vec<(usize, usize)> {
    let key = |socket: &Socket| Some((socket.namespace, socket.local()?, socket.remote()?));
    let mut open = std::collections::HashMap::new();
    let mut pairs = Vec::new();
    for (index, socket) in sockets.iter().enumerate().filter(|(_, socket)| socket.is_tcp_connection()) {
        let Some((namespace, local, remote)) = key(socket) else { continue };
        match open.remove(&(namespace, remote, local)) {
            Some(other) => pairs.push((other, index)),
            None => {
                open.insert((namespace, local, remote), index);
            }
        }
    }
    pairs.sort_unstable();
    pairs
}

//! Changes to images that a restore needs: from bytes to bytes, keeping every field that is not meant, known or not.

use std::net::IpAddr;

use super::socket::{self, InetSocket, TcpState};
use super::{ImageError, ImageReader, ImageWriter, Kind, Limits};
use crate::wire::{Message, WireError};

mod credentials;
mod files;
mod sockets;
mod surroundings;

pub use credentials::limit_capabilities;
pub use files::{Moved, move_files};
pub use sockets::{Socket, SocketKind, internal_pairs, sockets};
pub use surroundings::{
    MOUNTS_OF_ENGINES, any_mode_of_root, external_network, mounts_in_use, without_mounts,
};

/// Why an image cannot be changed as asked.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No socket listens on the port that should change.
    #[error("no socket of the checkpoint listens on TCP port {port}{}", listed(.listening))]
    NotListening {
        /// The port asked for.
        port: u16,
        /// The ports that are listened on.
        listening: Vec<u16>,
    },
    /// Two listening sockets would get the same port.
    #[error(
        "TCP port {port} would be listened on twice: by the socket from port {first} and the one from port {second}"
    )]
    PortTaken {
        /// The port both would get.
        port: u16,
        /// The port one had.
        first: u16,
        /// The port the other had.
        second: u16,
    },
    /// A port is mentioned twice.
    #[error("TCP port {port} is remapped twice")]
    RemappedTwice {
        /// The port.
        port: u16,
    },
    /// An address cannot become one of another family.
    #[error("sockets bound to {from} cannot be bound to {to}, which is of another address family")]
    Families {
        /// The old address.
        from: IpAddr,
        /// The new address.
        to: IpAddr,
    },
}

impl EditError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Image(_) => "check the checkpoint with `torpor verify`, and restore an earlier generation",
            Self::NotListening { .. } => {
                "name a port the program listens on in --tcp-listen-remap, or leave it out"
            }
            Self::PortTaken { .. } => "choose another new port in --tcp-listen-remap",
            Self::RemappedTwice { .. } => "name each old port once in --tcp-listen-remap",
            Self::Families { .. } => "give the new container an address of the same family",
        }
    }
}

fn listed(ports: &[u16]) -> String {
    if ports.is_empty() {
        return " (none does on any)".into();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!(" (listened on: {})", ports.join(", "))
}

/// One listening port to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRemap {
    /// The port in the checkpoint.
    pub old: u16,
    /// The port to listen on from now on.
    pub new: u16,
}

/// `files.img` with the listening TCP sockets of some ports on others, all at once, so that two ports can be swapped. Sockets of any
/// family and address are meant; connections already accepted keep their port.
///
/// # Errors
///
/// When nothing listens on an old port, two sockets would end up on one port, or the image is damaged.
pub fn remap_listening_ports(files: &[u8], remaps: &[PortRemap]) -> Result<Vec<u8>, EditError> {
    let mut listening: Vec<u16> =
        sockets(files)?.iter().filter(|s| s.is_listening()).map(|s| s.source_port).collect();
    listening.sort_unstable();
    listening.dedup();
    plan_ports(&listening, remaps)?;

    let image = edit_inet(files, |message, socket| {
        if socket.tcp_state() == Some(TcpState::Listen)
            && let Some(remap) = remaps.iter().find(|remap| u32::from(remap.old) == socket.src_port)
        {
            message.set_varint(field::SOURCE_PORT, remap.new.into());
        }
    })?;
    Ok(image)
}

/// Whether the ports listened on can change so.
fn plan_ports(listening: &[u16], remaps: &[PortRemap]) -> Result<(), EditError> {
    for (index, remap) in remaps.iter().enumerate() {
        if remaps[..index].iter().any(|earlier| earlier.old == remap.old) {
            return Err(EditError::RemappedTwice { port: remap.old });
        }
        if !listening.contains(&remap.old) {
            return Err(EditError::NotListening { port: remap.old, listening: listening.to_vec() });
        }
    }
    let new_port = |old: u16| remaps.iter().find(|remap| remap.old == old).map_or(old, |remap| remap.new);
    for (index, &second) in listening.iter().enumerate() {
        let port = new_port(second);
        // Port zero means any, and any number of sockets may have that.
        if let Some(&first) = listening[..index].iter().find(|&&first| port != 0 && new_port(first) == port) {
            return Err(EditError::PortTaken { port, first, second });
        }
    }
    Ok(())
}

/// `files.img` with sockets bound to one local address bound to another: listening sockets, datagram sockets, and TCP connections
/// between two sockets of the checkpoint, whose other end changes, too. IPv6 sockets bound to an IPv4 address (`::ffff:…`) follow
/// that. TCP connections to the outside are left alone: nobody there knows the new address.
///
/// # Errors
///
/// When the addresses are of different families, or the image is damaged.
pub fn rebind(files: &[u8], from: IpAddr, to: IpAddr) -> Result<Vec<u8>, EditError> {
    if from.is_ipv4() != to.is_ipv4() {
        return Err(EditError::Families { from, to });
    }
    let all = sockets(files)?;
    let pairs = internal_pairs(&all);
    let inside: Vec<u32> = pairs.iter().flat_map(|&(a, b)| [all[a].id, all[b].id]).collect();

    let image = edit_inet(files, |message, socket| {
        if socket.is_tcp_connection() && !inside.contains(&socket.id) {
            return;
        }
        for (number, address) in
            [(field::SOURCE_ADDRESS, socket.source()), (field::DESTINATION_ADDRESS, socket.destination())]
        {
            if let Some(new) = address.and_then(|address| translate(address, from, to)) {
                let words: Vec<u64> = socket::address_words(new).into_iter().map(u64::from).collect();
                message.set_varints(number, &words);
            }
        }
    })?;
    Ok(image)
}

/// The new address of a socket, if it had the old one, in its own family.
fn translate(address: IpAddr, from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    if address == from {
        return Some(to);
    }
    match (address, to) {
        (IpAddr::V6(mapped), IpAddr::V4(to)) if mapped.to_ipv4_mapped().map(IpAddr::V4) == Some(from) => {
            Some(IpAddr::V6(to.to_ipv6_mapped()))
        }
        _ => None,
    }
}

/// What closing connections results in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The new `files.img`.
    pub image: Vec<u8>,
    /// The inodes of the sockets closed: their `tcp-stream-INO.img` are not needed any more.
    pub inodes: Vec<u32>,
}

/// `files.img` with chosen TCP connections closed: after the restore the program reads the end of the stream from them and gets
/// `EPIPE` when it writes, as with CRIU's `tcp-close`, which can only close all of them. The socket becomes one that is not connected
/// and not bound, shut down in both directions.
///
/// A lock on the network that the dump took for such a connection is not lifted by the restore.
///
/// # Errors
///
/// When the image is damaged.
pub fn close_connections(files: &[u8], mut choose: impl FnMut(&Socket) -> bool) -> Result<Closed, EditError> {
    let chosen: Vec<Socket> =
        sockets(files)?.into_iter().filter(|socket| socket.is_tcp_connection() && choose(socket)).collect();
    let image = edit_inet(files, |message, socket| {
        if !chosen.iter().any(|chosen| chosen.id == socket.id) {
            return;
        }
        const BOTH: u64 = 3;
        message.set_varint(field::STATE, TcpState::Close as u64);
        message.set_varint(field::SOURCE_PORT, 0);
        message.set_varint(field::DESTINATION_PORT, 0);
        message.set_varints(field::SOURCE_ADDRESS, &vec![0; socket.src_addr.len()]);
        message.set_varints(field::DESTINATION_ADDRESS, &vec![0; socket.dst_addr.len()]);
        message.set_varint(field::SHUTDOWN, BOTH);
    })?;
    Ok(Closed { image, inodes: chosen.iter().map(|socket| socket.inode).collect() })
}

/// A `tcp-stream-INO.img` in which everything still to be sent counts as sent already, and is sent again until the peer
/// has acknowledged it.
///
/// CRIU really sends, in the midst of the restore, what counts as not sent (soccr/soccr.c). Unless the network is locked
/// meanwhile, a peer that is restored later answers for want of a socket with a reset, and the connection is lost. What
/// counts as sent is put into the queue in silence.
///
/// # Errors
///
/// When the image is damaged.
pub fn count_as_sent(tcp_stream: &[u8]) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::TcpStream, tcp_stream, |entry| {
        entry.set_varint(field::NOT_SENT, 0);
        Ok(())
    })
}

/// An `inventory.img` that does not ask for connections to be closed at the restore: those in `files.img` are closed
/// already, by [`close_connections`]. runc has no word for CRIU's option, without which CRIU refuses such images.
///
/// # Errors
///
/// When the image is damaged.
pub fn connections_are_closed(inventory: &[u8]) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::Inventory, inventory, |entry| {
        if entry.has(field::TCP_CLOSE) {
            entry.set_varint(field::TCP_CLOSE, 0);
        }
        Ok(())
    })
}

/// Numbers of the fields that are changed (CRIU `images/fdinfo.proto`, `images/inventory.proto`, `images/sk-inet.proto`,
/// `images/tcp-stream.proto`).
mod field {
    pub(super) const TCP_CLOSE: u32 = 10;
    pub(super) const INET_SOCKET: u32 = 4;
    pub(super) const STATE: u32 = 6;
    pub(super) const SOURCE_PORT: u32 = 7;
    pub(super) const DESTINATION_PORT: u32 = 8;
    pub(super) const SOURCE_ADDRESS: u32 = 11;
    pub(super) const DESTINATION_ADDRESS: u32 = 12;
    pub(super) const SHUTDOWN: u32 = 19;
    pub(super) const NOT_SENT: u32 = 12;
}

/// Changes the IPv4 and IPv6 sockets of a `files.img`.
fn edit_inet(
    files: &[u8],
    mut change: impl FnMut(&mut Message<'_>, &InetSocket),
) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::Files, files, |entry| {
        entry.edit(field::INET_SOCKET, |message| {
            // What the wire level can read, the decoder cannot always: a field of another type is damage, too.
            let socket = <InetSocket as prost::Message>::decode(message.encode().as_slice());
            let socket = socket
                .map_err(|_| WireError::Mismatch { number: field::INET_SOCKET, expected: "a socket" })?;
            change(message, &socket);
            Ok::<_, WireError>(())
        })?;
        Ok(())
    })
}

/// Changes the entries of an image one by one; payloads are kept.
///
/// # Errors
///
/// When the image is damaged, or a change fails.
pub fn edit_entries(
    kind: Kind,
    image: &[u8],
    mut change: impl FnMut(&mut Message<'_>) -> Result<(), WireError>,
) -> Result<Vec<u8>, ImageError> {
    let limits = Limits { payload: image.len() as u64, ..Limits::default() };
    let mut reader = ImageReader::new(kind, image, limits)?;
    let failed = |source| ImageError::Io { kind, offset: 0, source };
    let mut writer =
        ImageWriter::with_head(reader.head(), Vec::with_capacity(image.len())).map_err(failed)?;
    while let Some(entry) = reader.next_entry()? {
        let wire = |source| ImageError::Wire { kind, offset: entry.offset, source };
        let mut message = Message::parse(entry.message).map_err(wire)?;
        change(&mut message).map_err(wire)?;
        writer.entry(&message.encode(), entry.extra).map_err(failed)?;
    }
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests;

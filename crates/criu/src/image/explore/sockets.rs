//! The sockets of each process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::super::schema::Shown;
use super::super::tree::{Tree, Value};
use super::{ExploreError, FileNames, Images, Kind, entries, enumerated, first, listed, needed, quoted_name};

/// The sockets of a process that has some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenSockets {
    /// Its PID.
    pub pid: u32,
    /// Its sockets, in the order of the descriptors' image.
    pub sockets: Vec<OpenSocket>,
}

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenSocket {
    /// The descriptor.
    pub fd: u32,
    /// What CRIU calls this type of file.
    pub fd_type: String,
    /// The address family.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub family: String,
    /// The protocol: a name for those of the internet, or a number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Stream, datagram and the like.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub socket_type: String,
    /// The state, as TCP calls it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// The own address, or the name of a Unix socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src_addr: String,
    /// The own port; zero where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub src_port: u32,
    /// The other end's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dest_addr: String,
    /// The other end's port; zero where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub dest_port: u32,
    /// The size of the buffer for sending.
    pub send_buf: String,
    /// The size of the buffer for receiving.
    pub recv_buf: String,
}

fn is_zero(port: &u32) -> bool {
    *port == 0
}

/// The sockets of all processes that have some.
///
/// # Errors
///
/// When an image is missing or damaged.
pub fn open_sockets(images: &dyn Images) -> Result<Vec<OpenSockets>, ExploreError> {
    let names = FileNames::read(images)?;
    let mut all = Vec::new();
    for process in listed(images)? {
        if process.has_ended(images)? {
            continue;
        }
        let pid = u64::from(process.pid);
        let ids = first(needed(images, Kind::Ids, pid)?, Kind::Ids, pid)?;
        let descriptors = entries(images, Kind::Descriptors, ids.number("files_id"))?.unwrap_or_default();
        let sockets: Vec<OpenSocket> =
            descriptors.iter().filter_map(|descriptor| socket(descriptor, &names)).collect();
        if !sockets.is_empty() {
            all.push(OpenSockets { pid: process.pid, sockets });
        }
    }
    Ok(all)
}

/// A descriptor's socket; `None` for what is none.
fn socket(descriptor: &Tree, names: &FileNames) -> Option<OpenSocket> {
    let fd_type = enumerated(descriptor, "type");
    let (member, family) = match fd_type.as_str() {
        "INETSK" => ("isk", ""),
        "UNIXSK" => ("usk", "UNIX"),
        "PACKETSK" => ("psk", "PACKET"),
        "NETLINKSK" => ("nlsk", "NETLINK"),
        _ => return None,
    };
    let tree = names.of(descriptor.number("id") as u32, member)?;
    let buffer = |name: &str| size(tree.message("opts").map_or(0, |options| options.number(name)));
    let number = |name: &str| tree.get(name).map(|value| value.number().to_string()).unwrap_or_default();
    Some(OpenSocket {
        fd: descriptor.number("fd") as u32,
        family: if family.is_empty() { word(tree, "family") } else { family.into() },
        protocol: if member == "isk" { word(tree, "proto") } else { number("protocol") },
        socket_type: word(tree, "type"),
        state: if member == "nlsk" { number("state") } else { word(tree, "state") },
        src_addr: if member == "usk" { quoted_name(tree) } else { address(tree, "src_addr") },
        src_port: tree.number("src_port") as u32,
        dest_addr: address(tree, "dst_addr"),
        dest_port: tree.number("dst_port") as u32,
        send_buf: buffer("so_sndbuf"),
        recv_buf: buffer("so_rcvbuf"),
        fd_type,
    })
}

/// The word for the number in a field, or the number; empty if the field is absent.
fn word(tree: &Tree, field: &str) -> String {
    let Some(number) = tree.get(field).map(Value::number) else { return String::new() };
    match tree.schema().named(field).map(|field| field.shown) {
        Some(Shown::Words(words)) => words
            .iter()
            .find(|word| word.value == number)
            .map_or_else(|| number.to_string(), |word| word.name.to_owned()),
        _ => number.to_string(),
    }
}

fn address(tree: &Tree, field: &str) -> String {
    let octets: Vec<u8> = tree.all(field).flat_map(|value| (value.number() as u32).to_le_bytes()).collect();
    match (<[u8; 4]>::try_from(octets.as_slice()), <[u8; 16]>::try_from(octets.as_slice())) {
        (Ok(four), _) => IpAddr::V4(Ipv4Addr::from(four)).to_string(),
        (_, Ok(six)) => IpAddr::V6(Ipv6Addr::from(six)).to_string(),
        _ => String::new(),
    }
}

/// A size as go-criu writes it, such as `212992 B` below a KiB and `208.0 KB` above.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = " KMGTPE".chars();
    let mut unit = units.next();
    while value >= 1024.0 {
        value /= 1024.0;
        unit = units.next();
    }
    match unit {
        Some(unit) if unit != ' ' => format!("{value:.1} {unit}B"),
        _ => format!("{bytes} B"),
    }
}

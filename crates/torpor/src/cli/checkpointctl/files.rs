//! Open files and sockets in the words of CRIU's images, as checkpointctl has them (checkpoint-restore/go-criu,
//! `crit/explore.go`).

use std::collections::HashMap;
use std::io::BufReader;
use std::net::IpAddr;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_criu::image::file::{Descriptor, File, FileType};
use torpor_criu::image::process::{FileSystem, Ids};
use torpor_criu::image::socket::{SocketOptions, TcpState};
use torpor_criu::image::{ImageReader, Limits, Record};

use super::document::{Files, OpenFile, Socket, SocketData, Sockets};
use super::values;

/// All open files of a checkpoint.
#[derive(Debug)]
pub(super) struct Tables<'a> {
    checkpoint: &'a Checkpoint,
    files: HashMap<u32, File>,
}

impl<'a> Tables<'a> {
    /// Reads `files.img`.
    pub(super) fn read(checkpoint: &'a Checkpoint) -> anyhow::Result<Self> {
        let files = all::<File>(checkpoint, 0)?.into_iter().map(|file| (file.id, file)).collect();
        Ok(Self { checkpoint, files })
    }

    /// The descriptors of a process.
    pub(super) fn of(&self, pid: u32) -> anyhow::Result<Vec<Descriptor>> {
        let ids = all::<Ids>(self.checkpoint, pid.into())?;
        let ids = ids.first().with_context(|| format!("ids-{pid}.img is missing"))?;
        all(self.checkpoint, ids.files_id.into())
    }

    /// The open files, the working directory and the root directory of a process.
    pub(super) fn files(&self, pid: u32, table: &[Descriptor]) -> anyhow::Result<Files> {
        let mut open_files: Vec<_> = table
            .iter()
            .map(|descriptor| {
                let name = type_name(descriptor.r#type);
                OpenFile {
                    fd: format!("{name} {}", descriptor.fd),
                    path: self.path(descriptor.id, descriptor.r#type),
                    r#type: name,
                }
            })
            .collect();
        let place = all::<FileSystem>(self.checkpoint, pid.into())?;
        let place = place.first().with_context(|| format!("fs-{pid}.img is missing"))?;
        for (fd, id) in [("cwd", place.cwd_id), ("root", place.root_id)] {
            let path = self.path(id, FileType::Regular as i32);
            open_files.push(OpenFile { r#type: String::new(), fd: fd.to_owned(), path });
        }
        Ok(Files { pid, open_files })
    }

    fn path(&self, id: u32, kind: i32) -> String {
        let file = self.files.get(&id);
        match FileType::try_from(kind) {
            Ok(FileType::Regular) => file
                .and_then(|file| file.reg.as_ref())
                .map_or_else(|| "unknown".to_owned(), |regular| regular.name.clone()),
            Ok(FileType::Pipe) => file
                .and_then(|file| file.pipe)
                .map_or_else(|| "pipe[?]".to_owned(), |pipe| format!("pipe[{}]", pipe.pipe_id)),
            Ok(FileType::UnixSocket) => file.and_then(|file| file.usk.as_ref()).map_or_else(
                || "unix[?]".to_owned(),
                |socket| format!("unix[{} ({}) {}]", socket.ino, socket.peer, address(&socket.name)),
            ),
            _ => format!("{}.{id}", type_name(kind)),
        }
    }

    /// The sockets of a process; none where it has none.
    pub(super) fn sockets(&self, pid: u32, table: &[Descriptor]) -> Option<Sockets> {
        let open_sockets: Vec<_> =
            table.iter().filter_map(|descriptor| socket(self.files.get(&descriptor.id)?)).collect();
        (!open_sockets.is_empty()).then_some(Sockets { pid, open_sockets })
    }
}

/// A file as a socket, if it is one.
fn socket(file: &File) -> Option<Socket> {
    let with_buffers = |options: &SocketOptions, data: SocketData| SocketData {
        send_buf: values::buffer(options.so_sndbuf),
        recv_buf: values::buffer(options.so_rcvbuf),
        ..data
    };
    if let Some(inet) = &file.isk {
        let protocol = protocol_name(inet.proto).to_owned();
        let shown = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let data = SocketData {
            r#type: protocol.clone(),
            state: state_name(inet.state).to_owned(),
            src: shown(inet.source()),
            src_port: inet.src_port,
            dst: shown(inet.destination()),
            dst_port: inet.dst_port,
            ..SocketData::default()
        };
        return Some(Socket { protocol, data: with_buffers(&inet.opts, data) });
    }
    if let Some(unix) = &file.usk {
        let data = SocketData {
            r#type: "UNIX".to_owned(),
            address: address(&unix.name),
            shape: shape_name(unix.r#type),
            ..SocketData::default()
        };
        return Some(Socket { protocol: String::new(), data });
    }
    if let Some(packet) = &file.psk {
        let protocol = protocol_name(packet.protocol).to_owned();
        return Some(Socket { protocol, data: with_buffers(&packet.opts, SocketData::default()) });
    }
    let netlink = file.nlsk.as_ref()?;
    let protocol = protocol_name(netlink.protocol).to_owned();
    Some(Socket { protocol, data: with_buffers(&netlink.opts, SocketData::default()) })
}

/// The name of a Unix socket: without the zero byte at the end of a path, and with `@` for the one an abstract name starts
/// with.
fn address(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, rest)) => format!("@{}", torpor_archive::inspect::text(rest)),
        _ => torpor_archive::inspect::text(name.strip_suffix(&[0]).unwrap_or(name)),
    }
}

/// All messages of an image of the newest layer; none where it is not there.
fn all<M: Record>(checkpoint: &Checkpoint, id: u64) -> anyhow::Result<Vec<M>> {
    let entry = checkpoint.layers().first().and_then(|layer| checkpoint.image(layer, M::KIND, id));
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let read = || {
        let mut reader =
            ImageReader::new(M::KIND, BufReader::new(checkpoint.body(entry)), Limits::default())?;
        let mut messages = Vec::new();
        while let Some(message) = reader.next_message()? {
            messages.push(message);
        }
        anyhow::Ok(messages)
    };
    read().with_context(|| format!("cannot read {} in {}", entry.name, checkpoint.source().name()))
}

/// The names of types in CRIU's `images/fdinfo.proto`.
fn type_name(number: i32) -> String {
    let name = match FileType::try_from(number) {
        Ok(FileType::Undefined) => "UND",
        Ok(FileType::Regular) => "REG",
        Ok(FileType::Pipe) => "PIPE",
        Ok(FileType::Fifo) => "FIFO",
        Ok(FileType::InetSocket) => "INETSK",
        Ok(FileType::UnixSocket) => "UNIXSK",
        Ok(FileType::EventFd) => "EVENTFD",
        Ok(FileType::EventPoll) => "EVENTPOLL",
        Ok(FileType::Inotify) => "INOTIFY",
        Ok(FileType::SignalFd) => "SIGNALFD",
        Ok(FileType::PacketSocket) => "PACKETSK",
        Ok(FileType::Terminal) => "TTY",
        Ok(FileType::Fanotify) => "FANOTIFY",
        Ok(FileType::NetlinkSocket) => "NETLINKSK",
        Ok(FileType::Namespace) => "NS",
        Ok(FileType::Tunnel) => "TUNF",
        Ok(FileType::External) => "EXT",
        Ok(FileType::TimerFd) => "TIMERFD",
        Ok(FileType::MemFd) => "MEMFD",
        Ok(FileType::BpfMap) => "BPFMAP",
        Ok(FileType::PidFd) => "PIDFD",
        Err(_) => return number.to_string(),
    };
    name.to_owned()
}

/// Protocols of `netinet/in.h`.
fn protocol_name(number: u32) -> &'static str {
    match number {
        1 => "ICMP",
        2 => "IGMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPV6",
        136 => "UDPLITE",
        255 => "RAW",
        _ => "",
    }
}

/// Types of socket(2).
fn shape_name(number: u32) -> &'static str {
    match number {
        1 => "STREAM",
        2 => "DGRAM",
        3 => "RAW",
        4 => "RDM",
        5 => "SEQPACKET",
        10 => "PACKET",
        _ => "",
    }
}

fn state_name(number: u32) -> &'static str {
    match TcpState::from_number(number) {
        Some(TcpState::Established) => "ESTABLISHED",
        Some(TcpState::SynSent) => "SYN_SENT",
        Some(TcpState::SynReceived) => "SYN_RECEIVED",
        Some(TcpState::FinWait1) => "FIN_WAIT_1",
        Some(TcpState::FinWait2) => "FIN_WAIT_2",
        Some(TcpState::TimeWait) => "TIME_WAIT",
        Some(TcpState::Close) => "CLOSE",
        Some(TcpState::CloseWait) => "CLOSE_WAIT",
        Some(TcpState::LastAck) => "LAST_ACK",
        Some(TcpState::Listen) => "LISTEN",
        Some(TcpState::Closing) => "CLOSING",
        Some(TcpState::NewSynReceived) => "NEW_SYN_RECV",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::socket::{InetSocket, UnixSocket, address_words};

    use super::*;

    #[test]
    fn an_ipv6_listener() {
        let any = "2001:db8::1".parse().unwrap();
        let inet = InetSocket {
            family: 10,
            proto: 6,
            state: 10,
            src_port: 6379,
            src_addr: address_words(any),
            dst_addr: address_words("::".parse().unwrap()),
            opts: SocketOptions { so_sndbuf: 16384, so_rcvbuf: 131_072, ..SocketOptions::default() },
            ..InetSocket::default()
        };
        let shown = socket(&File { isk: Some(inet), ..File::default() }).unwrap();
        assert_eq!(shown.protocol, "TCP");
        assert_eq!((shown.data.src.as_str(), shown.data.dst.as_str()), ("2001:db8::1", "::"));
        assert_eq!((shown.data.state.as_str(), shown.data.send_buf.as_str()), ("LISTEN", "16.0 KB"));
    }

    #[test]
    fn names_of_unix_sockets() {
        for (name, shown) in [(&b"/run/a\0"[..], "/run/a"), (b"\0abstract", "@abstract"), (b"", "")] {
            let unix = UnixSocket { r#type: 1, name: name.to_vec(), ..UnixSocket::default() };
            let shown_as = socket(&File { usk: Some(unix), ..File::default() }).unwrap().data;
            assert_eq!((shown_as.address.as_str(), shown_as.shape), (shown, "STREAM"));
        }
    }
}

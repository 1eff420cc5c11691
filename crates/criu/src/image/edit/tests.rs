use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::image::file::{File, FileType};
use crate::image::framing::tests::image;
use crate::image::read_all;
use crate::image::socket::{IPV4, IPV6, TCP, address_words};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn inet(id: u32, proto: u32, state: TcpState, source: &str, destination: &str) -> InetSocket {
    let split = |end: &str| {
        let end: std::net::SocketAddr = end.parse().unwrap();
        (address_words(end.ip()), u32::from(end.port()))
    };
    let (src_addr, src_port) = split(source);
    let (dst_addr, dst_port) = split(destination);
    InetSocket {
        id,
        ino: id + 1000,
        family: if src_addr.len() == 1 { IPV4 } else { IPV6 },
        r#type: if proto == TCP { 1 } else { 2 },
        proto,
        state: state as u32,
        src_port,
        dst_port,
        src_addr,
        dst_addr,
        ..InetSocket::default()
    }
}

/// A `files.img` of sockets, each followed by a field that nobody knows, and a file of a type that nobody knows.
fn files(sockets: &[InetSocket]) -> Vec<u8> {
    let mut entries = vec![vec![0x08, 99, 0x10, 77, 0xfa, 0x3f, 3, b'n', b'e', b'w']];
    for socket in sockets {
        let mut isk = socket.encode_to_vec();
        isk.extend([0xf8, 0x3f, 5]);
        let mut entry =
            File { r#type: FileType::InetSocket as i32, id: socket.id, ..File::default() }.encode_to_vec();
        entry.extend([0x22, u8::try_from(isk.len()).unwrap()]);
        entry.extend(isk);
        entries.push(entry);
    }
    let entries: Vec<(&[u8], &[u8])> = entries.iter().map(|entry| (entry.as_slice(), &[][..])).collect();
    image(Kind::Files, &entries)
}

fn listing(files: &[u8]) -> Vec<String> {
    sockets(files)
        .unwrap()
        .iter()
        .map(|socket| {
            let end =
                |address: Option<IpAddr>, port| std::net::SocketAddr::new(address.unwrap(), port).to_string();
            let SocketKind::Tcp(Some(state)) = socket.kind else {
                return format!("udp {}", end(socket.source, socket.source_port));
            };
            let local = end(socket.source, socket.source_port);
            format!("{state:?} {local} {}", end(socket.destination, socket.destination_port))
        })
        .collect()
}

fn sample() -> Vec<u8> {
    files(&[
        inet(1, TCP, TcpState::Listen, "10.0.0.5:8080", "0.0.0.0:0"),
        inet(2, TCP, TcpState::Listen, "[::]:9090", "[::]:0"),
        inet(3, TCP, TcpState::Established, "10.0.0.5:8080", "192.0.2.1:50000"),
        inet(4, 17, TcpState::Close, "10.0.0.5:53", "0.0.0.0:0"),
        inet(5, TCP, TcpState::Established, "[::ffff:10.0.0.5]:8080", "[::ffff:10.0.0.5]:41000"),
        inet(6, TCP, TcpState::Established, "10.0.0.5:41000", "10.0.0.5:8080"),
        inet(7, TCP, TcpState::Listen, "[::ffff:10.0.0.5]:7000", "[::]:0"),
    ])
}

#[test]
fn listening_ports_change_and_accepted_connections_keep_theirs() {
    let remaps = [PortRemap { old: 8080, new: 9090 }, PortRemap { old: 9090, new: 8080 }];
    let edited = remap_listening_ports(&sample(), &remaps).unwrap();
    assert_eq!(
        listing(&edited),
        [
            "Listen 10.0.0.5:9090 0.0.0.0:0",
            "Listen [::]:8080 [::]:0",
            "Established 10.0.0.5:8080 192.0.2.1:50000",
            "udp 10.0.0.5:53",
            "Established [::ffff:10.0.0.5]:8080 [::ffff:10.0.0.5]:41000",
            "Established 10.0.0.5:41000 10.0.0.5:8080",
            "Listen [::ffff:10.0.0.5]:7000 [::]:0",
        ]
    );
}

#[test]
fn impossible_port_changes_are_refused_with_the_ports_there_are() {
    let refused =
        |old, new| remap_listening_ports(&sample(), &[PortRemap { old, new }]).unwrap_err().to_string();
    assert_eq!(
        refused(80, 81),
        "no socket of the checkpoint listens on TCP port 80 (listened on: 7000, 8080, 9090)"
    );
    assert_eq!(
        refused(8080, 9090),
        "TCP port 9090 would be listened on twice: by the socket from port 8080 and the one from port 9090"
    );
    let twice = [PortRemap { old: 8080, new: 1 }, PortRemap { old: 8080, new: 2 }];
    assert!(matches!(remap_listening_ports(&sample(), &twice), Err(EditError::RemappedTwice { port: 8080 })));
}

#[test]
fn the_old_address_gives_way_to_the_new_except_in_connections_to_the_outside() {
    let edited = rebind(&sample(), ip("10.0.0.5"), ip("10.9.9.9")).unwrap();
    assert_eq!(
        listing(&edited),
        [
            "Listen 10.9.9.9:8080 0.0.0.0:0",
            "Listen [::]:9090 [::]:0",
            "Established 10.0.0.5:8080 192.0.2.1:50000",
            "udp 10.9.9.9:53",
            "Established [::ffff:10.9.9.9]:8080 [::ffff:10.9.9.9]:41000",
            "Established 10.9.9.9:41000 10.9.9.9:8080",
            "Listen [::ffff:10.9.9.9]:7000 [::]:0",
        ]
    );
    assert!(matches!(rebind(&sample(), ip("10.0.0.5"), ip("::1")), Err(EditError::Families { .. })));

    let v6 = files(&[inet(1, TCP, TcpState::Listen, "[2001:db8::1]:80", "[::]:0")]);
    let edited = rebind(&v6, ip("2001:db8::1"), ip("2001:db8::2")).unwrap();
    assert_eq!(listing(&edited), ["Listen [2001:db8::2]:80 [::]:0"]);
}

#[test]
fn chosen_connections_become_unconnected_sockets_shut_down_both_ways() {
    let before = sample();
    let all = sockets(&before).unwrap();
    let inside: Vec<u32> = internal_pairs(&all).iter().flat_map(|&(a, b)| [all[a].id, all[b].id]).collect();
    assert_eq!(inside, [5, 6]);

    let closed = close_connections(&before, |socket| !inside.contains(&socket.id)).unwrap();
    assert_eq!(closed.inodes, [1003]);
    assert_eq!(listing(&closed.image)[2], "Close 0.0.0.0:0 0.0.0.0:0");
    assert_eq!(listing(&closed.image)[4..], listing(&before)[4..]);
    let after: Vec<File> = read_all(&closed.image).unwrap();
    assert_eq!(after[3].isk.as_ref().unwrap().shutdown, Some(3));
}

#[test]
fn what_is_still_to_be_sent_counts_as_sent_and_stays_in_the_queue() {
    let stream = socket::TcpStream { inq_len: 2, outq_len: 3, unsq_len: Some(2), ..Default::default() };
    let before = image(Kind::TcpStream, &[(&stream.encode_to_vec(), b"inout")]);
    let after = image(
        Kind::TcpStream,
        &[(&socket::TcpStream { unsq_len: Some(0), ..stream }.encode_to_vec(), b"inout")],
    );
    assert_eq!(count_as_sent(&before).unwrap(), after);
}

#[test]
fn two_sockets_of_different_namespaces_are_no_pair() {
    let mut here = inet(1, TCP, TcpState::Established, "127.0.0.1:1", "127.0.0.1:2");
    let mut there = inet(2, TCP, TcpState::Established, "127.0.0.1:2", "127.0.0.1:1");
    (here.ns_id, there.ns_id) = (Some(1), Some(2));
    assert_eq!(internal_pairs(&sockets(&files(&[here.clone(), there.clone()])).unwrap()), []);
    there.ns_id = Some(1);
    assert_eq!(internal_pairs(&sockets(&files(&[here, there])).unwrap()), [(0, 1)]);
}

#[test]
fn fields_nobody_knows_are_kept() {
    let before = sample();
    assert_eq!(rebind(&before, ip("192.0.2.200"), ip("192.0.2.201")).unwrap(), before);

    let edited = rebind(&before, ip("10.0.0.5"), ip("10.9.9.9")).unwrap();
    // Both addresses take the same number of bytes.
    assert_eq!(edited.len(), before.len());
    let unknown = |bytes: &[u8]| bytes.windows(3).filter(|window| *window == [0xf8, 0x3f, 5]).count();
    assert_eq!(unknown(&edited), 7);
    assert!(edited.windows(3).any(|window| window == b"new"));
}

proptest! {
    #[test]
    fn edits_of_hostile_images_end_in_an_error_or_change_nothing(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = limit_capabilities(&[image(Kind::Core, &[]), body.clone()].concat(), 0);
        let bytes = [image(Kind::Files, &[]), body].concat();
        let unused = ip("203.0.113.77");
        if let Ok(edited) = rebind(&bytes, unused, unused) {
            prop_assert_eq!(&edited, &bytes);
        }
        let _ = close_connections(&bytes, |_| true);
        let _ = remap_listening_ports(&bytes, &[PortRemap { old: 1, new: 2 }]);
    }
}

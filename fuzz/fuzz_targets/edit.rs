//! Changes to `files.img`: no input makes them panic, and one that concerns no socket changes nothing.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use torpor_criu::image::edit::{
    PortRemap, close_connections, internal_pairs, rebind, remap_listening_ports, sockets,
};
use torpor_criu::image::{ImageWriter, Kind};

fuzz_target!(|input: (u16, u16, [u8; 4], &[u8])| {
    let (old, new, address, body) = input;
    let Ok(writer) = ImageWriter::new(Kind::Files, Vec::new()) else { return };
    let image = [writer.into_inner(), body.to_vec()].concat();

    if let Ok(closed) = close_connections(&image, |_| false) {
        assert_eq!(closed.image, image);
    }
    let from = IpAddr::V4(Ipv4Addr::from(address));
    let _ = rebind(&image, from, Ipv4Addr::LOCALHOST.into());
    let _ = remap_listening_ports(&image, &[PortRemap { old, new }]);
    let Ok(all) = sockets(&image) else { return };
    let pairs = internal_pairs(&all);
    assert!(pairs.len() * 2 <= all.len());

    let Ok(closed) = close_connections(&image, |_| true) else { return };
    assert!(
        sockets(&closed.image)
            .expect("a changed image can be read")
            .iter()
            .all(|socket| !socket.is_tcp_connection())
    );
});

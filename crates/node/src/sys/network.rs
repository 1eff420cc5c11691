//! A network namespace that was just made.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType};

/// What `SIOCGIFFLAGS` and `SIOCSIFFLAGS` take (netdevice(7)).
#[repr(C)]
struct Flags {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Sets the loopback up, and lets sockets have addresses that are not there, in the network of this thread.
pub(crate) fn make_usable() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let mut flags = Flags { name, flags: 0, rest: [0; 22] };
    let ask = |request, flags: &mut Flags| {
        // SAFETY: both requests read and write a structure of this size and layout, which lives as long as the call.
        let answer = unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_mut(flags)) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    ask(libc::SIOCGIFFLAGS, &mut flags)?;
    flags.flags |= libc::IFF_UP as i16;
    ask(libc::SIOCSIFFLAGS, &mut flags)?;
    for version in ["ipv4", "ipv6"] {
        // A machine may have the one alone, or keep its settings from being changed.
        let path = format!("/proc/sys/net/{version}/ip_nonlocal_bind");
        if let Err(error) = std::fs::write(path, "1") {
            tracing::debug!(version, %error, "sockets with other addresses cannot be bound");
        }
    }
    Ok(())
}

//! The addresses of a network namespace, to which a program's sockets may be bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// All addresses but those of loopback, sorted.
#[must_use]
pub fn of_machine() -> Vec<IpAddr> {
    of_thread()
}

/// Those of another network namespace.
///
/// # Errors
/// It cannot be entered.
pub fn of_namespace(path: &Path) -> io::Result<Vec<IpAddr>> {
    let namespace = std::fs::File::open(path)?;
    let read = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(of_thread())
    };
    // A thread of its own: this one must stay where it is.
    let thread = std::thread::Builder::new().name("addresses".into()).spawn(read)?;
    thread.join().map_err(|_| io::Error::other("the thread that looked has ended"))?
}

/// Those of the network namespace that this thread is in.
fn of_thread() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let mut all: Vec<IpAddr> = local_v4(&v4).map(IpAddr::V4).chain(local_v6(&v6).map(IpAddr::V6)).collect();
    all.retain(|address| !address.is_loopback());
    all.sort_unstable();
    all.dedup();
    all
}

/// In the kernel's routing table, the address stands in the line above `/32 host LOCAL`.
fn local_v4(table: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
    table
        .lines()
        .zip(table.lines().skip(1))
        .filter(|(_, kind)| kind.trim() == "/32 host LOCAL")
        .filter_map(|(address, _)| address.trim_start_matches([' ', '|', '-', '+']).parse().ok())
}

/// One interface a line: the address in hexadecimal, then its index, prefix, scope (20 is the link's own), flags, name.
fn local_v6(table: &str) -> impl Iterator<Item = Ipv6Addr> + '_ {
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? != "20").then_some(Ipv6Addr::from(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_are_read() {
        let v4 = "Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(v4).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 7)]);
        let v6 = "fe80000000000000042ac3fffe000001 02 40 20 80 eth0\nfd000000000000000000000000000002 02 40 00 80 eth0\n";
        assert_eq!(local_v6(v6).collect::<Vec<_>>(), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
    }
}

//! What a CRIU that was killed in the midst of a dump leaves in the network: its lock, and sockets under repair.
//!
//! CRIU 4.2 locks connections by an nftables table called `CRIU-` and the identity of its run (`criu/netfilter.c`).
//! Messages are those of nfnetlink (Linux, `include/uapi/linux/netfilter/nfnetlink.h` and `nf_tables.h`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::{process_tree, sys};

mod iptables;
mod mark;
mod resets;

pub use mark::Mark;
pub use resets::NoResets;

/// What the names of CRIU's tables begin with.
const PREFIX: &[u8] = b"CRIU-";

const SUBSYSTEM: u16 = 10;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// `NFTA_TABLE_NAME`.
const NAME: u16 = 1;
/// `NFPROTO_UNSPEC` and `NFPROTO_INET`.
const ANY: u8 = 0;
const INET: u8 = 1;
/// The header of every message, and the one of netfilter after it, in bytes.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// Takes away every lock of CRIU's in this network namespace, for whoever has seen its CRIU fail. Leaves them where somebody
/// else is at work too, by their [`Mark`]. Returns how many there were. Without nftables or the privilege to use it there
/// are none.
///
/// # Errors
/// Where there is one that cannot be taken away.
pub fn remove() -> io::Result<usize> {
    remove_but(1, |_| false)
}

/// Takes away the locks that no CRIU needs any more: one that was killed with its container in the midst of a dump leaves
/// its own behind, in a network that containers of a pod share. `is_kept` says of the identity of a run whether its
/// connections wait, locked, for their restore. `by_iptables` says that CRIU was told to lock by iptables, where runs
/// cannot be told apart. Returns how many there were.
///
/// # Errors
/// Where there is one that cannot be taken away.
pub fn remove_stale(by_iptables: bool, is_kept: impl FnMut(&str) -> bool) -> io::Result<usize> {
    if criu_is_here() {
        return Ok(0);
    }
    let mut removed = remove_but(0, is_kept)?;
    if by_iptables && Mark::count() == 0 {
        removed += iptables::remove()?;
    }
    Ok(removed)
}

fn remove_but(own_marks: usize, mut is_kept: impl FnMut(&str) -> bool) -> io::Result<usize> {
    let unusable = |error: &io::Error| {
        let without =
            [libc::EPERM, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP];
        error.raw_os_error().is_some_and(|errno| without.contains(&errno))
    };
    let tables = match connect().and_then(|socket| tables(&socket)) {
        Ok(tables) => tables,
        Err(error) if unusable(&error) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut locks = tables;
    locks.retain(|name| name.starts_with(PREFIX));
    // Asked only now: whoever has made one of these had set its mark before.
    if locks.is_empty() || Mark::count() > own_marks {
        return Ok(0);
    }
    locks.retain(|name| !is_kept(&String::from_utf8_lossy(&name[PREFIX.len()..])));
    for name in &locks {
        delete(&connect()?, name)?;
    }
    Ok(locks.len())
}

/// Whether a process of CRIU's can be seen in this network namespace. It may outlive its Torpor, which has the mark.
fn criu_is_here() -> bool {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let is_criu = |process: &str| {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
        name.is_ok_and(|name| name.trim_end() == "criu") && network(process) == network("thread-self")
    };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let names = processes.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())).any(|name| is_criu(&name))
}

/// As [`remove`], in the network namespace of another process, where this one's own mark is not.
///
/// # Errors
/// As [`remove`], and where its namespace cannot be entered.
pub fn remove_in_namespace_of(pid: i32) -> io::Result<usize> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    // A thread of its own, which is in that namespace until its end.
    let thread = std::thread::Builder::new().name("network-lock".into()).spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        remove_but(0, |_| false)
    })?;
    thread.join().map_err(|_| io::Error::other("the thread has panicked"))?
}

/// Takes the TCP sockets of these processes out of repair mode, in which they answer nobody. Returns how many were.
///
/// # Errors
/// Where one is in it and cannot be taken out.
pub fn end_repair(processes: &[i32]) -> io::Result<usize> {
    let mut ended = 0;
    for pid in processes {
        let Ok(listed) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let sockets = listed.flatten().filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        });
        for number in sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            // A process may close it or end at any time.
            let Ok(socket) = descriptor_of(*pid, number) else { continue };
            ended += usize::from(sys::tcp_repair::end(socket.as_fd())?);
        }
    }
    Ok(ended)
}

fn descriptor_of(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let pid: Pid = process_tree::pid(pid).map_err(io::Error::other)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}

fn connect() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// The names of all tables.
fn tables(socket: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    rustix::net::send(socket, &message(GETTABLE, REQUEST | DUMP, 1, ANY, 0, &[]), SendFlags::empty())?;
    let mut names = Vec::new();
    loop {
        let answer = receive(socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                NEWTABLE => names.extend(table_name(body).map(<[u8]>::to_vec)),
                DONE => return Ok(names),
                ERROR => check(body)?,
                _ => {}
            }
        }
    }
}

/// Deletes a table, in the batch of one that nftables wants.
fn delete(socket: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let mut batch = message(BATCH_BEGIN, REQUEST, 1, ANY, SUBSYSTEM, &[]);
    batch.extend(message(DELTABLE, REQUEST | ACKNOWLEDGE, 2, INET, 0, &attribute(NAME, name)));
    batch.extend(message(BATCH_END, REQUEST, 3, ANY, SUBSYSTEM, &[]));
    rustix::net::send(socket, &batch, SendFlags::empty())?;
    let answer = receive(socket)?;
    match messages(&answer).find(|(kind, _)| *kind == ERROR) {
        Some((_, body)) => match check(body) {
            // Whoever made it was faster.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        },
        None => Ok(()),
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let (length, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A message as nfnetlink has it; `resource` is in its header's last field, in network order.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + NETFILTER_HEADER + attributes.len()) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

/// An attribute with a string, with the zero that belongs to it.
fn attribute(kind: u16, text: &[u8]) -> Vec<u8> {
    bytes(kind, &[text, b"\0"].concat())
}

/// An attribute with bytes, and the padding behind it.
fn bytes(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = Vec::with_capacity(length.next_multiple_of(4));
    attribute.extend((length as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// The kinds and bodies of the messages in a datagram, as far as they are whole.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The name in the body of a message about a table.
fn table_name(body: &[u8]) -> Option<&[u8]> {
    let mut attributes = body.get(NETFILTER_HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == NAME {
            return value.split(|byte| *byte == 0).next();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// An error message carries an errno, negative, or 0 for an acknowledgement.
fn check(body: &[u8]) -> io::Result<()> {
    let errno = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno.wrapping_neg())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_is_found_by_its_name() {
        let mut datagram = message(NEWTABLE, 0, 1, INET, 0, &attribute(NAME, b"CRIU-1"));
        let mut second = attribute(2, b"flags");
        second.extend(attribute(NAME, b"filter"));
        datagram.extend(message(NEWTABLE, 0, 1, INET, 0, &second));
        let names: Vec<_> = messages(&datagram).map(|(kind, body)| (kind, table_name(body))).collect();
        assert_eq!(names, [(NEWTABLE, Some(&b"CRIU-1"[..])), (NEWTABLE, Some(&b"filter"[..]))]);
    }

    #[test]
    fn an_error_is_one_unless_it_is_zero() {
        assert!(check(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(check(&(-libc::EPERM).to_ne_bytes()).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn there_is_no_lock_in_a_new_namespace() {
        alone(|| {
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            assert_eq!(remove_in_namespace_of(own).unwrap(), 0);
        });
    }

    #[test]
    fn a_socket_that_is_not_under_repair_is_left_alone() {
        let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(end_repair(&[std::process::id() as i32]).unwrap(), 0);
    }

    /// In a network namespace of its own; not where none can be made.
    pub(super) fn alone(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| match sys::process::own_network() {
            Ok(()) => test(),
            Err(error) => eprintln!("SKIPPED: no network namespace: {error}"),
        })
        .join()
        .unwrap();
    }

    fn nft(words: &str) -> Option<String> {
        let output = std::process::Command::new("nft").args(words.split(' ')).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn a_lock_that_nobody_needs_is_taken_away() {
        alone(|| {
            let lock = "add table inet CRIU-1f0c; add table inet CRIU-kept; add table inet other";
            if nft(lock).is_none() {
                return eprintln!("SKIPPED: no nft here");
            }
            let kept = |run: &str| run == "kept";
            let mark = Mark::set().unwrap();
            assert_eq!(remove_stale(false, kept).unwrap(), 0, "somebody is at work");
            drop(mark);
            assert_eq!(remove_stale(false, kept).unwrap(), 1);
            assert_eq!(nft("list tables").unwrap(), "table inet CRIU-kept\ntable inet other\n");
            assert_eq!(remove().unwrap(), 1);
        });
    }

    #[test]
    fn so_is_one_by_iptables_where_criu_was_told_to_lock_so() {
        alone(|| {
            let rule = "-I INPUT --protocol tcp -m mark ! --mark 0xC114 --source 10.0.0.1 --sport 80 \
                        --destination 10.0.0.2 --dport 4000 -j DROP";
            let made = std::process::Command::new("iptables").args(rule.split_ascii_whitespace()).output();
            if !made.is_ok_and(|output| output.status.success()) {
                return eprintln!("SKIPPED: no iptables here");
            }
            assert_eq!(remove_stale(false, |_| false).unwrap(), 0);
            assert_eq!(remove_stale(true, |_| false).unwrap(), 1);
            assert_eq!(remove_stale(true, |_| false).unwrap(), 0);
        });
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_panic(datagram: Vec<u8>) {
            for (_, body) in messages(&datagram) {
                let _ = (table_name(body), check(body));
            }
            let _ = table_name(&datagram);
        }
    }
}

//! What a checkpoint adds to memory, sampled while it is made.
//!
//! Counted are the anonymous and shared memory of everything this process started (Torpor, the program, CRIU, the guard,
//! the command that asks), as the kernel shows it in `/proc/PID/status`; what is on its way in their Unix sockets, by `NETLINK_SOCK_DIAG` (kernel, `include/uapi/linux/unix_diag.h`); and what is in CRIU's pipes. Memory
//! that two processes share counts twice, and pages of the program that a socket or a pipe only refers to count as if
//! they were copies, so the sum is at least what was added.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Often enough for a freeze of a tenth of a second, seldom enough to take little of it.
const BETWEEN: Duration = Duration::from_millis(15);

/// What was there at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Anonymous and shared memory of processes.
    pub(super) processes: u64,
    /// On its way in sockets.
    pub(super) sockets: u64,
    /// In pipes.
    pub(super) pipes: u64,
}

impl Memory {
    pub(super) fn all(self) -> u64 {
        self.processes + self.sockets + self.pipes
    }

    /// What this is more than `before`, each part for itself.
    fn above(self, before: Memory) -> Memory {
        Memory {
            processes: self.processes.saturating_sub(before.processes),
            sockets: self.sockets.saturating_sub(before.sockets),
            pipes: self.pipes.saturating_sub(before.pipes),
        }
    }
}

/// Looks at memory until it is told to finish.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<AtomicBool>,
    sampler: JoinHandle<Memory>,
}

impl Watch {
    /// Begins with what all that this process started have now.
    pub(super) fn begin() -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let before = sample();
        let sampler = thread::spawn(move || {
            let mut most = Memory::default();
            while !until.load(Ordering::Relaxed) {
                let added = sample().above(before);
                if added.all() > most.all() {
                    most = added;
                }
                thread::sleep(BETWEEN);
            }
            most
        });
        Watch { ended, sampler }
    }

    /// The most that was added at one moment.
    pub(super) fn finish(self) -> Result<Memory> {
        self.ended.store(true, Ordering::Relaxed);
        self.sampler.join().map_err(|_| anyhow!("the samples of memory were not taken"))
    }
}

fn sample() -> Memory {
    let mut memory = Memory::default();
    let mut sockets = HashSet::new();
    let mut pipes = HashSet::new();
    for pid in descendants(std::process::id()) {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
        memory.processes += kilobytes(&status, "RssAnon:") + kilobytes(&status, "RssShmem:");
        // A private CRIU is run by a loader, whose name it has then; the mode it is started in tells it.
        let command = fs::read(directory.join("cmdline")).unwrap_or_default();
        let is_criu = command.split(|byte| *byte == 0).any(|word| word == b"swrk");
        for entry in fs::read_dir(directory.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            if let Some(inode) = inode(&target, "socket:[") {
                sockets.insert(inode);
            } else if is_criu
                && let Some(inode) = inode(&target, "pipe:[")
                && pipes.insert(inode)
            {
                memory.pipes += waiting(&entry.path());
            }
        }
    }
    memory.sockets = in_sockets(&sockets).unwrap_or(0);
    memory
}

/// All descendants of a process: `/proc/PID/task/TID/children` of each of its threads, and so on. A walk over all of
/// `/proc` would take a good part of a processor from what is measured.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
            let new: Vec<_> = children.filter(|child| !found.contains(child)).collect();
            found.extend(new);
        }
        next += 1;
    }
    found.split_off(1)
}

fn kilobytes(status: &str, key: &str) -> u64 {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

fn inode(target: &str, sort: &str) -> Option<u32> {
    target.strip_prefix(sort)?.strip_suffix(']')?.parse().ok()
}

/// The bytes that wait in a pipe of another process.
fn waiting(descriptor: &Path) -> u64 {
    use rustix::fs::{Mode, OFlags, open};
    open(descriptor, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::io::ioctl_fionread)
        .unwrap_or(0)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const SHOW_MEMINFO: u32 = 0x20;
const MEMINFO: u16 = 5;
/// Where the bytes that were sent and not yet received stand in `SK_MEMINFO`.
const WMEM_ALLOC: usize = 2;
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// What was sent through these Unix sockets, by inode, and not yet received.
fn in_sockets(inodes: &HashSet<u32>) -> rustix::io::Result<u64> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let mut request = Vec::with_capacity(HEADER + 24);
    request.extend_from_slice(&40_u32.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // Family, then: all states, no inode, what to show, no cookie.
    request.extend_from_slice(&[AddressFamily::UNIX.as_raw() as u8, 0, 0, 0]);
    for word in [u32::MAX, 0, SHOW_MEMINFO, u32::MAX, u32::MAX] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut sum = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (_, got) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let (more, found) = sum_of(&buffer[..got], inodes);
        sum += found;
        if !more || got == 0 {
            return Ok(sum);
        }
    }
}

/// What a datagram of answers says of these sockets, and whether more follows.
fn sum_of(mut datagram: &[u8], inodes: &HashSet<u32>) -> (bool, u64) {
    let mut sum = 0;
    while let (Some(length), Some(sort)) = (word(datagram, 0), half(datagram, 4)) {
        let length = length as usize;
        if sort == DONE || sort == ERROR || length < HEADER || length > datagram.len() {
            return (false, sum);
        }
        let message = &datagram[HEADER..length];
        if word(message, 4).is_some_and(|inode| inodes.contains(&inode)) {
            sum += attribute(message.get(MESSAGE..).unwrap_or_default(), MEMINFO)
                .and_then(|info| word(info, 4 * WMEM_ALLOC))
                .map_or(0, u64::from);
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (true, sum)
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(length), Some(sort)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length);
        let body = attributes.get(4..length)?;
        if sort == wanted {
            return Some(body);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_socket_is_seen() {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let inodes = [&ours, &theirs].map(|socket| rustix::fs::fstat(socket).unwrap().st_ino as u32);
        let Ok(before) = in_sockets(&HashSet::from(inodes)) else { return };
        rustix::net::send(&ours, &[7; 10_000], SendFlags::empty()).unwrap();
        let after = in_sockets(&HashSet::from(inodes)).unwrap();
        assert!(before == 0 && after >= 10_000, "{before} {after}");
    }

    #[test]
    fn what_a_process_started_descends_from_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants(std::process::id());
        let _ = child.kill();
        let _ = child.wait();
        assert!(found.contains(&child.id()) && !found.contains(&std::process::id()));
    }

    #[test]
    fn answers_of_any_shape_are_taken() {
        assert_eq!(sum_of(&[], &HashSet::new()), (true, 0));
        assert_eq!(sum_of(&[255; 40], &HashSet::new()), (false, 0));
        assert_eq!(attribute(&[0; 8], MEMINFO), None);
    }
}

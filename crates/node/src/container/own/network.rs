//! The network of a container of our own: loopback alone, or one that somebody has made.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sys::process;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, which a thread of ours is in for as long as this is there.
#[derive(Debug)]
pub struct Network {
    path: PathBuf,
    jobs: Sender<Job>,
}

impl Network {
    /// A new one, with nothing but loopback.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> io::Result<Network> {
        Network::in_thread(|| {
            process::own_network()?;
            raise_loopback()
        })
    }

    /// One that there is, by its path.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn join(path: &Path) -> io::Result<Network> {
        let namespace = File::open(path)?;
        Network::in_thread(move || {
            Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
        })
    }

    /// Where runtimes find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does something in it, in the one thread that is there.
    pub(super) fn run<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, wait) = mpsc::channel();
        let job = move || {
            // Whoever waits is there.
            let _ = done.send(act());
        };
        self.jobs.send(Box::new(job)).ok()?;
        wait.recv().ok()
    }

    fn in_thread(enter: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Network> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (told, entered) = mpsc::channel();
        std::thread::Builder::new().name("network".into()).spawn(move || {
            let thread = rustix::thread::gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            let result = enter().map(|()| PathBuf::from(path));
            let failed = result.is_err();
            if told.send(result).is_err() || failed {
                return;
            }
            for job in work {
                job();
            }
        })?;
        let path = entered.recv().map_err(|_| io::Error::other("the thread in the network died"))??;
        Ok(Network { path, jobs })
    }
}

/// `RTM_NEWLINK` (Linux, `include/uapi/linux/rtnetlink.h`).
const NEW_LINK: u16 = 16;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const ACKNOWLEDGED: u16 = 5;
/// Length of a netlink header and of what tells a link (`struct nlmsghdr`, `struct ifinfomsg`).
const HEADER: usize = 16;
const LENGTH: u32 = 32;
/// Loopback is the first of each namespace.
const LOOPBACK: i32 = 1;
/// `IFF_UP`.
const UP: u32 = 1;

/// Has the loopback device of this thread's namespace work.
fn raise_loopback() -> io::Result<()> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    // `NETLINK_ROUTE` is 0, which is no protocol to rustix.
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(ACKNOWLEDGED.to_ne_bytes());
    // Its number and sender, then family and type of device: nobody asks for them.
    message.extend([0; 12]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let errno = answer[..length].get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn loopback_works_in_a_new_network_and_in_one_that_is_joined() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: networks are made by root");
            return;
        }
        let network = Network::new().unwrap();
        let listener = network.run(|| TcpListener::bind("127.0.0.1:4567").unwrap()).unwrap();
        let reaches = || TcpStream::connect("127.0.0.1:4567").is_ok();
        assert_eq!(network.run(reaches), Some(true));
        assert!(!reaches(), "it is another network");
        let joined = Network::join(network.path()).unwrap();
        assert_eq!(joined.run(reaches), Some(true));
        drop(listener);
        assert!(Network::join(Path::new("/no/network")).is_err());
    }
}

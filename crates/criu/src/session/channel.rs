//! The socket to CRIU: one message per datagram, at times with a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown};

use super::process::Process;
use crate::rpc::{Request, Response};

/// The largest datagram that is read. CRIU's largest, a notification or an error line, has a few hundred bytes.
const DATAGRAM_LIMIT: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

pub(super) enum ReceiveError {
    Io(io::Error),
    Message(prost::DecodeError),
}

impl From<Errno> for ReceiveError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    pub(super) fn send(&self, request: &Request) -> io::Result<()> {
        let datagram = request.encode_to_vec();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &datagram, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next response; `None` when CRIU has gone.
    pub(super) fn receive(
        &self,
        process: &Process,
    ) -> Result<Option<(Response, Option<OwnedFd>)>, ReceiveError> {
        if !self.wait(process)? {
            return Ok(None);
        }
        // With TRUNC the true length is returned, however small the buffer.
        let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut [0_u8; 1][..], peek))?;
        if length == 0 {
            return Ok(None);
        }
        if length > DATAGRAM_LIMIT {
            return Err(ReceiveError::Io(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("datagram of {length} bytes is longer than {DATAGRAM_LIMIT}"),
            )));
        }
        let mut datagram = vec![0; length];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut slices = [io::IoSliceMut::new(&mut datagram)];
            rustix::net::recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // Further descriptors, which CRIU never sends, close here.
        let descriptor = descriptors.next().and_then(|mut descriptors| descriptors.next());
        let response = Response::from_datagram(&datagram[..received.bytes]).map_err(ReceiveError::Message)?;
        Ok(Some((response, descriptor)))
    }

    /// Waits for a datagram. Children of CRIU hold the socket too, so its end alone does not tell that CRIU has gone.
    fn wait(&self, process: &Process) -> Result<bool, Errno> {
        loop {
            let mut polled = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN),
            ];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) if polled[0].revents().contains(PollFlags::IN) => return Ok(true),
                Ok(_) if !polled[0].revents().is_empty() || !polled[1].revents().is_empty() => {
                    return Ok(false);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Tells CRIU that nobody is there any more; it then gives up what it waits for.
    pub(super) fn hang_up(&self) {
        let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Both);
    }
}

//! Our end of the page-server protocol: memory arrives here while the program is frozen.
//!
//! CRIU sends pages to a page server over a stream socket (CRIU, `criu/page-xfer.c`); given one end of a socket pair
//! as [`PageTarget::Socket`](crate::options::PageTarget), that server is this process. [`PageServer::serve`] reads the
//! stream, hands it to a [`PageSink`], and acknowledges the end only after the sink has closed.
//!
//! Pages are always copied by `read`, never spliced: since kernel 6.5 CRIU's splice into a Unix socket passes pages
//! by reference, and what is not copied before the acknowledgement would change when the program runs on.
//!
//! The header has 24 bytes up to CRIU 4.1 and 32 since 4.2, without a handshake. A session starts with a command whose
//! sender waits for an answer, so the size is told by that first one ([`HeaderSize`]).
//!
//! The end of the stream says nothing about the dump: CRIU also ends it in order when it has failed.

mod header;
mod socket;

pub use crate::image::pagemap::PageFlags;
pub use header::{HeaderSize, PagemapId, PagemapKind};
pub use socket::{Granted, SocketPair, socket_pair};

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use header::{Command, Header, HeaderError};

/// Takes what a page server receives. An error of any method ends the dump: CRIU loses its connection, fails, and lets
/// the program run on.
pub trait PageSink {
    /// A pagemap begins; all that follows for `id` belongs to it until the next `open`. Returns whether the sink has
    /// a parent of it, so that CRIU may leave out pages that did not change (it then sends
    /// [`hole`](Self::hole)s with [`PageFlags::PARENT`]).
    ///
    /// # Errors
    /// As the sink has them.
    fn open(&mut self, id: PagemapId) -> io::Result<bool>;

    /// Whether there is a parent of the pagemap, before it is opened.
    ///
    /// # Errors
    /// As the sink has them.
    fn has_parent(&mut self, id: PagemapId) -> io::Result<bool>;

    /// `pages` pages at `vaddr` (for [`PagemapKind::Shared`] the offset in the segment), whose bytes are in `body`.
    /// What the sink leaves unread is dropped. Runs come in ascending order within a pagemap of an honest CRIU; the
    /// page server checks alignment and range only.
    ///
    /// # Errors
    /// As the sink has them, and those of `body`.
    fn pages(
        &mut self,
        id: PagemapId,
        vaddr: u64,
        flags: PageFlags,
        pages: u64,
        body: &mut dyn Read,
    ) -> io::Result<()>;

    /// `pages` pages at `vaddr` without bytes: in the parent, or fetched later, as `flags` say.
    ///
    /// # Errors
    /// As the sink has them.
    fn hole(&mut self, id: PagemapId, vaddr: u64, flags: PageFlags, pages: u64) -> io::Result<()>;

    /// All has arrived. CRIU is answered only after this returns, and fails when it fails.
    ///
    /// # Errors
    /// As the sink has them.
    fn close(&mut self) -> io::Result<()>;
}

/// What was received until the end of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The header's size, which tells CRIU's generation; `None` when nothing but the end arrived.
    pub header: Option<HeaderSize>,
    /// Pagemaps opened.
    pub pagemaps: u64,
    /// Runs of pages.
    pub runs: u64,
    /// Pages with bytes.
    pub pages: u64,
    /// Pages without.
    pub holes: u64,
}

/// A page server on one connected socket.
#[derive(Debug)]
pub struct PageServer<'a> {
    socket: BorrowedFd<'a>,
    header: Option<HeaderSize>,
    page_size: u64,
}

/// Why a page server stopped before the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageServerError {
    /// CRIU went away before the end.
    #[error("criu's page stream ended early, while {reading} was awaited")]
    Truncated {
        /// What was being read.
        reading: &'static str,
    },
    /// A header makes no sense.
    #[error("criu's page stream is not valid")]
    Header(#[from] HeaderError),
    /// The socket failed.
    #[error("cannot {doing} criu's page stream")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The sink failed.
    #[error("cannot take the pages of {}", subject(*id))]
    Sink {
        /// The pagemap; `None` while closing.
        id: Option<PagemapId>,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn subject(id: Option<PagemapId>) -> String {
    id.map_or_else(|| "the checkpoint".to_owned(), |id| id.to_string())
}

/// The answer to a close that the sink could not carry out; CRIU takes any number but 0 for a failure.
const CLOSE_FAILED: i32 = -1;

impl<'a> PageServer<'a> {
    /// A server on `socket`, our end of a [`socket_pair`].
    #[must_use]
    pub fn new(socket: &'a impl AsFd) -> Self {
        Self { socket: socket.as_fd(), header: None, page_size: rustix::param::page_size() as u64 }
    }

    /// Receives until CRIU ends the stream. Can be called again on the same socket for the next pre-dump.
    ///
    /// On an error the connection is shut down, which makes CRIU's dump fail.
    ///
    /// # Errors
    /// The stream is not valid or ends early, or the sink failed.
    pub fn serve(&mut self, sink: &mut dyn PageSink) -> Result<Served, PageServerError> {
        let result = self.receive(sink);
        if result.is_err() {
            // Fails only when the other end has gone already.
            let _ = rustix::net::shutdown(self.socket, Shutdown::Both);
        }
        result
    }

    fn receive(&mut self, sink: &mut dyn PageSink) -> Result<Served, PageServerError> {
        let mut served = Served::default();
        let mut current = None;
        loop {
            let header = self.header()?;
            served.header = self.header;
            match header.command(self.page_size)? {
                Command::Open { id, answer } => {
                    let parent = sink.open(id).map_err(|source| failed(id, source))?;
                    current = Some(id);
                    served.pagemaps += 1;
                    if answer {
                        self.answer(&[u8::from(parent)])?;
                    }
                }
                Command::Parent { id } => {
                    let parent = sink.has_parent(id).map_err(|source| failed(id, source))?;
                    self.answer(&i32::from(parent).to_ne_bytes())?;
                }
                Command::Run { id, vaddr, pages, flags } => {
                    if current != Some(id) {
                        return Err(HeaderError::NotOpen { id }.into());
                    }
                    served.runs += 1;
                    if flags.contains(PageFlags::PRESENT) {
                        served.pages += pages;
                        self.pages(sink, id, vaddr, flags, pages)?;
                    } else {
                        served.holes += pages;
                        sink.hole(id, vaddr, flags, pages).map_err(|source| failed(id, source))?;
                    }
                }
                Command::Close => {
                    let closed = sink.close();
                    let status = if closed.is_ok() { 0 } else { CLOSE_FAILED };
                    self.answer(&status.to_ne_bytes())?;
                    closed.map_err(|source| PageServerError::Sink { id: None, source })?;
                    return Ok(served);
                }
            }
        }
    }

    /// Reads a header; the first one tells its size.
    fn header(&mut self) -> Result<Header, PageServerError> {
        let mut bytes = [0; HeaderSize::LARGEST];
        let short = HeaderSize::Short.bytes();
        let size = match self.header {
            Some(size) => {
                self.read_exactly(&mut bytes[..size.bytes()], "a header")?;
                return Ok(Header::parse(size, &bytes));
            }
            None => {
                self.read_exactly(&mut bytes[..short], "the first header")?;
                HeaderSize::detect(&bytes[..short])?
            }
        };
        match size {
            Some(size) => {
                self.read_exactly(&mut bytes[short..size.bytes()], "the first header")?;
                self.header = Some(size);
                Ok(Header::parse(size, &bytes))
            }
            None => {
                // A close carries nothing that tells its size, but CRIU sends a header at once and then waits, so
                // whatever else belongs to it has arrived with its beginning.
                let rest = &mut bytes[short..];
                let _ = rustix::net::recv(self.socket, rest, RecvFlags::DONTWAIT);
                Ok(Header::parse(HeaderSize::Short, &bytes))
            }
        }
    }

    fn pages(
        &self,
        sink: &mut dyn PageSink,
        id: PagemapId,
        vaddr: u64,
        flags: PageFlags,
        pages: u64,
    ) -> Result<(), PageServerError> {
        let mut body = Body { socket: self.socket, left: pages * self.page_size, broken: None };
        let taken = sink.pages(id, vaddr, flags, pages, &mut body);
        match body.broken.take() {
            Some(Broken::Truncated) => return Err(PageServerError::Truncated { reading: "pages" }),
            Some(Broken::Socket(errno)) => {
                return Err(PageServerError::Socket { doing: "read pages from", source: errno.into() });
            }
            None => taken.map_err(|source| failed(id, source))?,
        }
        if body.left > 0 {
            let mut dropped = vec![0; DROPPED_AT_ONCE.min(usize::try_from(body.left).unwrap_or(usize::MAX))];
            while body.left > 0 {
                let length = dropped.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
                self.read_exactly(&mut dropped[..length], "pages")?;
                body.left -= length as u64;
            }
        }
        Ok(())
    }

    fn read_exactly(&self, mut buffer: &mut [u8], reading: &'static str) -> Result<(), PageServerError> {
        while !buffer.is_empty() {
            match rustix::net::recv(self.socket, &mut *buffer, RecvFlags::WAITALL) {
                // A peer that closes before it has read an answer resets the connection.
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(PageServerError::Truncated { reading }),
                Ok((_, length)) => buffer = &mut buffer[length..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(PageServerError::Socket { doing: "read", source: errno.into() }),
            }
        }
        Ok(())
    }

    fn answer(&self, bytes: &[u8]) -> Result<(), PageServerError> {
        // At most four bytes, which a socket takes whole or not at all.
        rustix::io::retry_on_intr(|| rustix::net::send(self.socket, bytes, SendFlags::NOSIGNAL))
            .map_err(|errno| PageServerError::Socket { doing: "answer", source: errno.into() })?;
        Ok(())
    }
}

const DROPPED_AT_ONCE: usize = 1 << 20;

fn failed(id: PagemapId, source: io::Error) -> PageServerError {
    PageServerError::Sink { id: Some(id), source }
}

/// The bytes of a run: reads straight from the socket into the sink's buffer.
struct Body<'a> {
    socket: BorrowedFd<'a>,
    left: u64,
    broken: Option<Broken>,
}

enum Broken {
    Truncated,
    Socket(Errno),
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        match rustix::net::recv(self.socket, &mut buffer[..length], RecvFlags::WAITALL) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => {
                self.broken = Some(Broken::Truncated);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok((_, length)) => {
                self.left -= length as u64;
                Ok(length)
            }
            Err(Errno::INTR) => Err(io::ErrorKind::Interrupted.into()),
            Err(errno) => {
                self.broken = Some(Broken::Socket(errno));
                Err(errno.into())
            }
        }
    }
}

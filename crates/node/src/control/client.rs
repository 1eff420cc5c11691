//! The caller's end.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, LineError};
use super::{Outcome, PhaseReply, Reply, Request};

/// How often a socket that is not there yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A connection to a wrapper.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Where nobody listens there, or not to us.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client { stream, path: path.to_owned() }),
            Err(source) if is_absent(&source) => Err(ClientError::Absent { path: path.to_owned(), source }),
            Err(source) => Err(ClientError::Connect { path: path.to_owned(), source }),
        }
    }

    /// Connects, waiting until `deadline` for a wrapper that has not begun to listen; without one, for as long as it
    /// takes.
    ///
    /// # Errors
    /// As [`Client::connect`], where nobody listens when the time is over.
    pub fn connect_until(path: &Path, deadline: Option<Instant>) -> Result<Client, ClientError> {
        loop {
            match Client::connect(path) {
                Err(ClientError::Absent { .. })
                    if deadline.is_none_or(|deadline| Instant::now() < deadline) =>
                {
                    thread::sleep(LOOK_AGAIN);
                }
                result => return result,
            }
        }
    }

    /// Sends `request` and returns what becomes of it, telling `on_phase` of each phase. Without a `deadline` it waits
    /// for as long as it takes. A wrapper that ends waits a moment for its callers, so keep the client until the answer
    /// is told.
    ///
    /// # Errors
    /// Where there is no answer in time, or none of the protocol. What was asked for goes on.
    pub fn ask(
        &mut self,
        request: &Request,
        deadline: Option<Instant>,
        mut on_phase: impl FnMut(&PhaseReply),
    ) -> Result<Outcome, ClientError> {
        self.set_timeout(deadline)?;
        wire::write(&mut self.stream, request).map_err(|source| self.lost(source.into()))?;
        let mut replies = BufReader::new(self.stream.try_clone().map_err(|source| self.lost(source.into()))?);
        loop {
            self.set_timeout(deadline)?;
            match wire::read(&mut replies) {
                Ok(Reply::Phase(phase)) => on_phase(&phase),
                Ok(Reply::Outcome(outcome)) => return Ok(outcome),
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn set_timeout(&self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let Some(deadline) = deadline else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout { path: self.path.clone() });
        }
        self.stream
            .set_read_timeout(Some(left))
            .and_then(|()| self.stream.set_write_timeout(Some(left)))
            .map_err(|source| self.lost(source.into()))
    }

    fn lost(&self, error: LineError) -> ClientError {
        let path = self.path.clone();
        match error {
            LineError::Io(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                ClientError::Timeout { path }
            }
            error => ClientError::Answer { path, source: Box::new(error) },
        }
    }
}

/// Whether there is no socket, or one that nobody listens at.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Why a wrapper could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("no torpor listens at {}", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody may listen, but not to us.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("torpor at {} did not answer in time", path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The connection ended, or the answer is none.
    #[error("there is no answer from torpor at {}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            ClientError::Absent { .. } => {
                "check that the program runs under `torpor run` with this name, and that its runtime directory is shared \
                 with this container; --control-socket names the socket itself"
            }
            ClientError::Connect { .. } => "run it as the user that runs the program, or as root",
            ClientError::Timeout { .. } => {
                "what was asked for goes on; its log and `torpor ls` tell what became of it"
            }
            ClientError::Answer { .. } => "the log of the program's torpor tells more",
        }
    }
}

//! The wrapper's end: a thread that accepts, and one for each of a few callers.

use std::fs::{self, Permissions};
use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::wire::{self, LineError};
use super::{Incoming, Outcome, Replier, Reply, Request};
use crate::sys::peer;

/// How long a caller may take to send its request, or to take in a reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a caller that has its answer may take to go. The end of a wrapper that is PID 1 ends the callers in its
/// container too, before they have told anybody what they were told.
const FAREWELL: Duration = Duration::from_millis(500);
/// Callers served at a time.
const MOST_CALLERS: usize = 32;
/// What `sun_path` of a socket's address holds (unix(7)), without the final zero.
const LONGEST_PATH: usize = 107;
/// What is added to the path while the socket is being made.
const BEING_MADE: &str = ".new";

/// The control socket. Dropping it removes the socket, and waits a moment for callers to go with their answers.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket, so that a successor's is not removed.
    identity: (u64, u64),
    ending: Arc<AtomicBool>,
    callers: Arc<Callers>,
}

impl Server {
    /// Makes the socket at `path`, for this user and root, and for the group `group` if there is one; each request is
    /// given to `deliver`, which must not block. The socket of a wrapper that is gone is replaced.
    ///
    /// # Errors
    /// Where another wrapper listens there, something else has the path, or the socket cannot be made.
    pub fn start(
        path: &Path,
        group: Option<u32>,
        deliver: impl Fn(Incoming) + Send + Sync + 'static,
    ) -> Result<Server, ServerError> {
        if path.as_os_str().len() + BEING_MADE.len() > LONGEST_PATH {
            return Err(ServerError::PathTooLong { path: path.to_owned() });
        }
        check_vacant(path)?;
        let wrong = |source| ServerError::Make { path: path.to_owned(), source };
        let (listener, identity) = make(path, group).map_err(wrong)?;
        let ending = Arc::new(AtomicBool::new(false));
        let gate = Gate { group, own_user: rustix::process::geteuid().as_raw() };
        let deliver: Deliver = Arc::new(deliver);
        let stop = Arc::clone(&ending);
        let callers = Arc::new(Callers::default());
        let served = Arc::clone(&callers);
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, gate, &deliver, &stop, &served))
            .map_err(wrong)?;
        Ok(Server { path: path.to_owned(), identity, ending, callers })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Wakes the thread; a listener nobody reaches any more needs no waking.
        let _ = UnixStream::connect(&self.path);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // A socket that is left is recognised as stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
        self.callers.wait_until_gone(FAREWELL);
    }
}

/// Whether the path is free, or has a socket nobody listens at.
fn check_vacant(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ServerError::Make { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::Taken { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // It went away in between.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ServerError::Make { path: path.to_owned(), source }),
    }
}

/// Makes the socket beside its place and moves it there, so that it never has another mode than it should.
fn make(path: &Path, group: Option<u32>) -> io::Result<(UnixListener, (u64, u64))> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(BEING_MADE);
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    let placed = (|| {
        if group.is_some() {
            chown(&beside, None, group)?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&beside, Permissions::from_mode(mode))?;
        let made = fs::symlink_metadata(&beside)?;
        fs::rename(&beside, path)?;
        Ok((made.dev(), made.ino()))
    })();
    match placed {
        Ok(identity) => Ok((listener, identity)),
        Err(error) => {
            // Half-made, it is of no use to anybody.
            let _ = fs::remove_file(&beside);
            Err(error)
        }
    }
}

type Deliver = Arc<dyn Fn(Incoming) + Send + Sync>;

/// Who is let in.
#[derive(Debug, Clone, Copy)]
struct Gate {
    group: Option<u32>,
    own_user: u32,
}

impl Gate {
    /// With a group, the socket's mode already keeps everybody else out, and the kernel tells only the primary group of
    /// the caller, so there is nothing more to look at.
    fn admits(self, user: u32) -> bool {
        user == 0 || user == self.own_user || self.group.is_some()
    }
}

fn accept(
    listener: &UnixListener,
    gate: Gate,
    deliver: &Deliver,
    ending: &AtomicBool,
    callers: &Arc<Callers>,
) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // A caller that gave up, or too many open files: the next one may have more luck.
            Err(error) => {
                tracing::debug!(%error, "cannot accept a caller of the control socket");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if ending.load(Ordering::Acquire) {
            return;
        }
        let Some(caller) = Caller::enter(callers) else {
            turn_away(stream);
            continue;
        };
        let deliver = Arc::clone(deliver);
        let served = thread::Builder::new().name("control-caller".into()).spawn(move || {
            let _caller = caller;
            if let Err(error) = serve(stream, gate, &deliver) {
                tracing::debug!(%error, "a caller of the control socket went away or was refused");
            }
        });
        if let Err(error) = served {
            tracing::warn!(%error, "cannot serve a caller of the control socket");
        }
    }
}

/// How many callers are served.
#[derive(Debug, Default)]
struct Callers {
    number: Mutex<usize>,
    fewer: Condvar,
}

impl Callers {
    fn wait_until_gone(&self, at_most: Duration) {
        let number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is left then is left.
        drop(self.fewer.wait_timeout_while(number, at_most, |number| *number > 0));
    }
}

/// One that is served; one less, however its thread ends.
struct Caller(Arc<Callers>);

impl Caller {
    /// None where there are enough.
    fn enter(callers: &Arc<Callers>) -> Option<Caller> {
        let mut number = callers.number.lock().unwrap_or_else(PoisonError::into_inner);
        (*number < MOST_CALLERS).then(|| {
            *number += 1;
            Caller(Arc::clone(callers))
        })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        *self.0.number.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.fewer.notify_all();
    }
}

fn turn_away(mut stream: UnixStream) {
    let reply = Reply::Outcome(Outcome::refused("too many callers wait at the control socket already"));
    // One short line fits any socket's buffer; a caller that is gone needs no answer.
    let _ = stream.set_nonblocking(true).and_then(|()| wire::write(&mut stream, &reply));
}

fn serve(stream: UnixStream, gate: Gate, deliver: &Deliver) -> Result<(), LineError> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (user, _) = peer::user_and_group(&stream)?;
    let mut writer = stream.try_clone()?;
    if !gate.admits(user) {
        let reply = Reply::Outcome(Outcome::refused(format!("user {user} may not use this control socket")));
        return Ok(wire::write(&mut writer, &reply)?);
    }
    let mut reader = BufReader::new(stream);
    let request: Request = match wire::read(&mut reader) {
        Ok(request) => request,
        Err(error) => {
            wire::write(&mut writer, &Reply::Outcome(Outcome::refused(&error)))?;
            return Err(error);
        }
    };
    let (send, replies) = mpsc::channel();
    // A caller that went away does not stop what it asked for.
    let replier = Replier::new(move |reply| drop(send.send(reply)));
    deliver(Incoming { request, caller: format!("uid {user}"), replier });
    for reply in replies {
        wire::write(&mut writer, &reply)?;
    }
    // It goes once it has told what it was told. How it goes does not matter.
    let _ = writer
        .shutdown(Shutdown::Write)
        .and_then(|()| writer.set_read_timeout(Some(FAREWELL)))
        .and_then(|()| reader.read(&mut [0]));
    Ok(())
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The path does not fit a socket's address.
    #[error("the path of the control socket is too long: {}", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another wrapper listens there.
    #[error("another torpor listens at {}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{} is in the way of the control socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot make the control socket {}", path.display())]
    Make {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ServerError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            ServerError::PathTooLong { .. } => "name one of at most 103 bytes with --control-socket",
            ServerError::Taken { .. } => {
                "a program of this name runs already; give this one another --name, or end the other one"
            }
            ServerError::NotASocket { .. } => "remove it, or name another place with --control-socket",
            ServerError::Make { .. } => "name a writable place with --control-socket",
        }
    }
}

//! Where a container that an engine makes waits until it has ended at its source.
//!
//! `torpor receive` has a directory for it, with what was sent. An engine calls its runtime to create the container and at once to start it; the
//! start knocks here, and is answered once the source has said that the container ended there. Where nobody answers any more, it depends
//! on whether the source may have ended it: then it stands still, for people to decide.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// The annotation by which a container is one that is received; its value is the directory's [`token`].
pub const ANNOTATION: &str = "torpor.dev/receive";
/// What such directories are called, before their token.
pub(crate) const PREFIX: &str = "receive-";
/// The store that the source has filled, in such a directory.
pub(crate) const STORE: &str = "store";
/// Tells the generation's manifest.
pub(crate) const MANIFEST: &str = "manifest";
/// Where a start knocks.
const SOCKET: &str = "gate";
/// There once the container may be ours alone: the source was told that all is ready and may have ended it, or it is being claimed.
const READY: &str = "ready";
/// The answer.
const GO_ON: u8 = b'1';
/// How long who knocks may take to say which process it is about.
const PATIENCE: Duration = Duration::from_secs(10);
/// The digits of a token.
const DIGITS: usize = 32;

/// Where all such directories of a node are, below the state of its runtime.
#[must_use]
pub fn room(state: &Path) -> PathBuf {
    state.join("receptions")
}

/// A word for a directory that nobody guesses.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn token() -> io::Result<String> {
    let mut random = [0; DIGITS / 2];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether it is such a word, and thus no path.
#[must_use]
pub fn is_token(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where containers wait.
#[derive(Debug)]
pub(super) struct Gate {
    listener: UnixListener,
}

/// A container that waits.
#[derive(Debug)]
pub(super) struct Guest {
    stream: UnixStream,
    /// Its first process.
    pub(super) pid: i32,
}

impl Gate {
    pub(super) fn at(directory: &Path) -> io::Result<Gate> {
        Ok(Gate { listener: UnixListener::bind(directory.join(SOCKET))? })
    }

    /// The container that knocks, if one does for so long.
    pub(super) fn knock(&self, patience: Duration) -> io::Result<Option<Guest>> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&patience))? == 0 {
            return Ok(None);
        }
        let (stream, _) = self.listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut pid = [0; 4];
        (&stream).read_exact(&mut pid)?;
        Ok(Some(Guest { stream, pid: i32::from_le_bytes(pid) }))
    }
}

impl Guest {
    /// Lets it go on.
    pub(super) fn let_go(mut self) -> io::Result<()> {
        self.stream.write_all(&[GO_ON])
    }
}

/// Notes that the source may have ended the container from now on.
pub(super) fn ready(directory: &Path) -> io::Result<()> {
    std::fs::write(directory.join(READY), b"")
}

/// Notes that it has not, after all.
pub(super) fn not_ready(directory: &Path) -> io::Result<()> {
    std::fs::remove_file(directory.join(READY))
}

/// Whether it may have.
pub(super) fn is_ready(directory: &Path) -> bool {
    directory.join(READY).exists()
}

/// What is to become of a container that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It goes on.
    GoOn,
    /// It stands still: nobody knows whether it ended at its source.
    Stay,
    /// It is not to be: it runs on at its source.
    Never,
}

/// Asks what is to become of a container, by its first process. Waits until that is known.
pub(crate) fn ask(directory: &Path, pid: i32) -> Word {
    let answer = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(directory.join(SOCKET))?;
        stream.write_all(&pid.to_le_bytes())?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer == [GO_ON])
    };
    match answer() {
        Ok(true) => Word::GoOn,
        _ if is_ready(directory) => Word::Stay,
        _ => Word::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `answer` does at the gate, and what becomes of the container.
    fn met(answer: impl FnOnce(&Path, Guest) + Send + 'static) -> Word {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::at(directory.path()).unwrap();
        let path = directory.path().to_owned();
        let asking = std::thread::spawn(move || ask(&path, 4711));
        let guest = gate.knock(PATIENCE).unwrap().unwrap();
        assert_eq!(guest.pid, 4711);
        answer(directory.path(), guest);
        asking.join().unwrap()
    }

    #[test]
    fn a_container_goes_on_once_it_is_let_go_and_never_before() {
        assert_eq!(met(|_, guest| guest.let_go().unwrap()), Word::GoOn);
        assert_eq!(met(|_, guest| drop(guest)), Word::Never);
        let told = |directory: &Path, guest| {
            ready(directory).unwrap();
            drop(guest);
        };
        assert_eq!(met(told), Word::Stay);
    }

    #[test]
    fn where_nobody_listens_any_more_it_stays_only_if_it_may_have_ended_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        drop(Gate::at(directory.path()).unwrap());
        assert_eq!(ask(directory.path(), 1), Word::Never);
        ready(directory.path()).unwrap();
        assert_eq!(ask(directory.path(), 1), Word::Stay);
        assert_eq!(ask(&directory.path().join("none"), 1), Word::Never);
    }

    #[test]
    fn a_token_is_no_path() {
        assert!(is_token(&token().unwrap()));
        assert_ne!(token().unwrap(), token().unwrap());
        for text in ["", "../../etc/passwd", "0123", &"g".repeat(32)] {
            assert!(!is_token(text), "{text}");
        }
    }

    #[test]
    fn nobody_is_waited_for_in_vain() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::at(directory.path()).unwrap();
        assert!(gate.knock(Duration::ZERO).unwrap().is_none());
    }
}

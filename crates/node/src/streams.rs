//! Standard input, output and error: what they are, so that they can be reconnected to the descriptors of another
//! container.
//!
//! A pipe, a file or a device is given to the program as it is. CRIU then knows it by a key, and at the restore puts
//! the new container's descriptor in its place. A terminal cannot be passed on that way (its session would lead
//! outside of the tree), and neither can a socket: these the program gets through a terminal or pipe of its own, which
//! Torpor connects with the outside ([`relay`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

pub mod input;
pub mod relay;

use input::{Feed, Input};
use relay::{Relay, Terminal};

/// What one of the program's standard streams is, as it is remembered in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Stream {
    /// A pipe whose other end is outside.
    Pipe {
        /// The number of the pipe, which is CRIU's key for it.
        inode: u64,
    },
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A device like `/dev/null`, which is there in every container.
    Device {
        /// Its path.
        path: PathBuf,
    },
    /// The program's own terminal, connected to the outside by Torpor.
    Terminal,
    /// Not open.
    Closed,
}

impl Stream {
    /// Its path, for a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Stream::File { path } => Some(path),
            _ => None,
        }
    }

    /// The key that CRIU's `inherit-fd` takes for it (criu/files.c); none where nothing needs to take its place.
    #[must_use]
    pub fn inherit_key(&self) -> Option<String> {
        match self {
            Stream::Pipe { inode } => Some(format!("pipe:[{inode}]")),
            Stream::File { path } => Some(path.to_string_lossy().trim_start_matches('/').to_owned()),
            Stream::Device { .. } | Stream::Terminal | Stream::Closed => None,
        }
    }
}

/// What stands behind a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outside {
    Direct(Stream),
    Terminal,
    /// A socket, or a file that this mount namespace does not have: CRIU can find neither again.
    Unreachable,
}

/// The standard streams of a program, ready to be given to it.
#[derive(Debug)]
pub struct Streams {
    /// What each is, as the program sees it.
    pub kinds: [Stream; 3],
    given: [OwnedFd; 3],
    terminal: Option<Terminal>,
    relays: Vec<Relay>,
    input: Arc<Input>,
}

/// What a checkpoint has kept of standard input: it is the image [`UNREAD`] of the generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadInput {
    /// How many bytes.
    pub bytes: u64,
    /// The boot of the machine: a pipe with the same number in the same boot is the same pipe.
    pub boot: String,
}

/// The image with what the program had not read of its standard input.
pub const UNREAD: &str = "standard-input";

impl UnreadInput {
    /// That so many bytes were unread.
    #[must_use]
    pub fn here(bytes: usize) -> UnreadInput {
        UnreadInput { bytes: bytes as u64, boot: boot() }
    }
}

fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Why the standard streams cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("standard stream {number}: {action}")]
pub struct StreamError {
    /// 0, 1 or 2.
    pub number: usize,
    /// What was tried.
    pub action: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Streams {
    /// Torpor's own standard streams, as a program should get them. Relays run from now on.
    ///
    /// # Errors
    /// Where no terminal or pipe can be had.
    pub fn of_torpor() -> Result<Streams, StreamError> {
        Streams::connected(Vec::new(), |_, outside| outside)
    }

    /// Whether what was unread at a checkpoint is still where it was: Torpor's own standard input is the pipe the program
    /// had then, as in a shell's loop.
    #[must_use]
    pub fn still_have(recorded: &[Stream; 3], unread: &UnreadInput) -> bool {
        outside(rustix::stdio::stdin()) == Outside::Direct(recorded[0].clone())
            && matches!(recorded[0], Stream::Pipe { .. })
            && unread.boot == boot()
    }

    /// Torpor's own standard streams, to take the places of those `recorded` at a checkpoint. A program keeps its own
    /// terminal, if it had one; it gets none that it had not, because it could not be captured with it. What was `unread`
    /// comes first.
    ///
    /// # Errors
    /// Where no pipe can be had.
    pub fn in_place_of(recorded: &[Stream; 3], unread: Vec<u8>) -> Result<Streams, StreamError> {
        Streams::connected(unread, |number, outside| match (&recorded[number], outside) {
            (Stream::Terminal | Stream::Device { .. } | Stream::Closed, _) => {
                Outside::Direct(recorded[number].clone())
            }
            (_, Outside::Terminal) => Outside::Unreachable,
            (_, outside) => outside,
        })
    }

    fn connected(
        unread: Vec<u8>,
        choose: impl Fn(usize, Outside) -> Outside,
    ) -> Result<Streams, StreamError> {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let mut terminal: Option<Terminal> = None;
        let mut relays = Vec::new();
        let mut input = Input::default();
        let mut kinds = [Stream::Closed, Stream::Closed, Stream::Closed];
        let mut given = Vec::with_capacity(3);
        for (number, descriptor) in own.into_iter().enumerate() {
            let failed = |action| move |source: io::Error| StreamError { number, action, source };
            let (kind, fd) = match choose(number, outside(descriptor)) {
                Outside::Direct(Stream::Pipe { .. } | Stream::File { .. } | Stream::Device { .. })
                | Outside::Unreachable
                    if number == 0 && !unread.is_empty() =>
                {
                    let (feed, end) = Feed::start(descriptor, unread.clone()).map_err(failed("relay it"))?;
                    input = Input::feed(feed);
                    (pipe_of(&end), end)
                }
                Outside::Direct(Stream::Terminal) => {
                    (Stream::Terminal, relay::null().map_err(failed("open /dev/null"))?)
                }
                Outside::Direct(Stream::Closed) => {
                    let null = relay::null().map_err(failed("open /dev/null"))?;
                    (Stream::Device { path: "/dev/null".into() }, null)
                }
                Outside::Direct(kind) => {
                    let duplicate = || descriptor.try_clone_to_owned().map_err(failed("duplicate"));
                    if number == 0 && matches!(kind, Stream::Pipe { .. }) {
                        input = Input::pipe(duplicate()?);
                    }
                    (kind, duplicate()?)
                }
                Outside::Terminal => {
                    if terminal.is_none() {
                        terminal = Some(Terminal::open(descriptor).map_err(failed("open a terminal"))?);
                    }
                    let slave = terminal.as_ref().map(Terminal::slave).transpose();
                    let slave = slave.map_err(failed("open a terminal"))?.unwrap_or_else(|| unreachable!());
                    (Stream::Terminal, slave)
                }
                Outside::Unreachable if number == 0 => {
                    let (feed, end) = Feed::start(descriptor, Vec::new()).map_err(failed("relay it"))?;
                    input = Input::feed(feed);
                    (pipe_of(&end), end)
                }
                Outside::Unreachable => {
                    let (relay, end) = Relay::start(descriptor).map_err(failed("relay it"))?;
                    relays.push(relay);
                    (pipe_of(&end), end)
                }
            };
            kinds[number] = kind;
            given.push(fd);
        }
        let given: [OwnedFd; 3] =
            given.try_into().unwrap_or_else(|_| unreachable!("three streams were pushed"));
        Ok(Streams { kinds, given, terminal, relays, input: Arc::new(input) })
    }

    /// Standard input, as a checkpoint sees it.
    #[must_use]
    pub fn input(&self) -> Arc<Input> {
        Arc::clone(&self.input)
    }

    /// What the program gets as 0, 1 and 2.
    #[must_use]
    pub fn for_program(&self) -> [BorrowedFd<'_>; 3] {
        [self.given[0].as_fd(), self.given[1].as_fd(), self.given[2].as_fd()]
    }

    /// The one of these that is the program's own terminal.
    #[must_use]
    pub fn controlling_terminal(&self) -> Option<BorrowedFd<'_>> {
        self.kinds.iter().position(|kind| *kind == Stream::Terminal).map(|number| self.given[number].as_fd())
    }

    /// What must take the place of the streams that were `recorded` at the checkpoint: CRIU's key, and the descriptor.
    /// Streams that were one pipe or file stay one.
    #[must_use]
    pub fn replacements(&self, recorded: &[Stream; 3]) -> Vec<(String, BorrowedFd<'_>)> {
        let mut replacements: Vec<(String, BorrowedFd<'_>)> = Vec::new();
        for (number, stream) in recorded.iter().enumerate() {
            if let Some(key) = stream.inherit_key()
                && !replacements.iter().any(|(known, _)| *known == key)
            {
                replacements.push((key, self.given[number].as_fd()));
            }
        }
        replacements
    }

    /// What the streams of a program are that had those `recorded` and got the replacements.
    #[must_use]
    pub fn after_restore(&self, recorded: &[Stream; 3]) -> [Stream; 3] {
        recorded.clone().map(|stream| match stream.inherit_key() {
            None => stream,
            Some(_) => {
                let first = recorded.iter().position(|other| *other == stream).unwrap_or(0);
                self.kinds[first].clone()
            }
        })
    }

    /// Connects the outside with the terminal of a restored program. Where the outside is no terminal any more, what
    /// the program prints still goes there.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn adopt_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        let terminal = Terminal::adopt(master, rustix::stdio::stdin(), rustix::stdio::stdout())?;
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Lets go of the program's ends, once it has them: a pipe must end when the program ends.
    ///
    /// # Errors
    /// Where `/dev/null` cannot be opened in their place.
    pub fn release(&mut self) -> io::Result<()> {
        for (kind, end) in self.kinds.iter().zip(&mut self.given) {
            if !matches!(kind, Stream::Device { .. }) {
                *end = relay::null()?;
            }
        }
        Ok(())
    }

    /// Tells the program's terminal that the outside one changed its size.
    pub fn resize(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.resize();
        }
    }

    /// Passes on everything the program wrote before it ended, and gives the outside terminal its settings back.
    pub fn drain(self) {
        let Streams { given, terminal, relays, .. } = self;
        drop(given);
        for relay in relays {
            relay.finish();
        }
        if let Some(terminal) = terminal {
            terminal.finish();
        }
    }
}

fn pipe_of(end: &OwnedFd) -> Stream {
    rustix::fs::fstat(end).map_or(Stream::Closed, |stat| Stream::Pipe { inode: stat.st_ino })
}

fn outside(descriptor: BorrowedFd<'_>) -> Outside {
    let Ok(stat) = rustix::fs::fstat(descriptor) else {
        return Outside::Direct(Stream::Closed);
    };
    let path = || rustix::fs::readlink(format!("/proc/self/fd/{}", raw(descriptor)), Vec::new());
    let path = || {
        use std::os::unix::ffi::OsStringExt;
        path().map(|link| PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()))).unwrap_or_default()
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Outside::Direct(Stream::Pipe { inode: stat.st_ino }),
        FileType::Socket => Outside::Unreachable,
        FileType::CharacterDevice if rustix::termios::isatty(descriptor) => Outside::Terminal,
        FileType::CharacterDevice => Outside::Direct(Stream::Device { path: path() }),
        _ => match path() {
            path if is_at(&stat, &path) => Outside::Direct(Stream::File { path }),
            _ => Outside::Unreachable,
        },
    }
}

fn is_at(stat: &rustix::fs::Stat, path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
}

fn raw(descriptor: BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd;
    descriptor.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_what_stands_behind_it() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let inode = rustix::fs::fstat(&read).unwrap().st_ino;
        assert_eq!(outside(read.as_fd()), Outside::Direct(Stream::Pipe { inode }));
        let null = relay::null().unwrap();
        assert_eq!(outside(null.as_fd()), Outside::Direct(Stream::Device { path: "/dev/null".into() }));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(outside(socket.as_fd()), Outside::Unreachable);
    }

    #[test]
    fn keys_are_criu_s() {
        assert_eq!(Stream::Pipe { inode: 7 }.inherit_key(), Some("pipe:[7]".into()));
        assert_eq!(Stream::File { path: "/var/log/x".into() }.inherit_key(), Some("var/log/x".into()));
        assert_eq!(Stream::Device { path: "/dev/null".into() }.inherit_key(), None);
    }
}

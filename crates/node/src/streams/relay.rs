//! Bytes between the outside and a program that cannot have the outside's own descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{Builder, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::{OptionalActions, Termios};

/// What the program writes into a pipe, on its way to a socket outside.
#[derive(Debug)]
pub struct Relay {
    thread: JoinHandle<()>,
}

impl Relay {
    /// Starts passing on. Returns the program's end of the pipe, too.
    pub(super) fn start(outside: BorrowedFd<'_>) -> io::Result<(Relay, OwnedFd)> {
        let outside = outside.try_clone_to_owned()?;
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let thread = Builder::new().name("standard-output".into()).spawn(move || {
            let _ = pass(&ours, &outside);
        })?;
        Ok((Relay { thread }, theirs))
    }

    pub(super) fn finish(self) {
        let _ = self.thread.join();
    }
}

/// A terminal of the program's own, connected to the one outside.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    outside: OwnedFd,
    settings: Option<Termios>,
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread once the program has ended.
    stop: Option<OwnedFd>,
}

impl Terminal {
    /// Opens a terminal of the size and settings of `outside`.
    pub(super) fn open(outside: BorrowedFd<'_>) -> io::Result<Terminal> {
        let master = rustix::pty::openpt(
            rustix::pty::OpenptFlags::RDWR
                | rustix::pty::OpenptFlags::NOCTTY
                | rustix::pty::OpenptFlags::CLOEXEC,
        )?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        if let Ok(settings) = rustix::termios::tcgetattr(outside) {
            rustix::termios::tcsetattr(&master, OptionalActions::Now, &settings)?;
        }
        Terminal::adopt(master, outside, outside)
    }

    /// Connects `master` with the outside, whether that is a terminal or not.
    pub(super) fn adopt(
        master: OwnedFd,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> io::Result<Terminal> {
        let settings = rustix::termios::tcgetattr(input).ok();
        if let Some(settings) = &settings {
            let mut raw = settings.clone();
            raw.make_raw();
            // Fails while we are in the background; input then simply is not ours to read.
            let _ = rustix::termios::tcsetattr(input, OptionalActions::Now, &raw);
        }
        let outside = output.try_clone_to_owned()?;
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let thread = {
            let (master, input, output) =
                (master.try_clone()?, input.try_clone_to_owned()?, output.try_clone_to_owned()?);
            Builder::new()
                .name("terminal".into())
                .spawn(move || connect(&master, &input, &output, &stopped))?
        };
        let terminal = Terminal { master, outside, settings, thread: Some(thread), stop: Some(stop) };
        terminal.resize();
        Ok(terminal)
    }

    /// A descriptor of the program's side.
    pub(super) fn slave(&self) -> io::Result<OwnedFd> {
        let name = rustix::pty::ptsname(&self.master, Vec::new())?;
        Ok(rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
    }

    pub(super) fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(&self.outside) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    pub(super) fn finish(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.settings {
            let _ = rustix::termios::tcsetattr(&self.outside, OptionalActions::Drain, settings);
        }
    }
}

/// `/dev/null`, for reading and writing.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

fn pass(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0u8; 16 * 1024];
    loop {
        match read(from.as_fd(), &mut buffer)? {
            0 => return Ok(()),
            n => write_all(to.as_fd(), &buffer[..n])?,
        }
    }
}

/// Passes bytes both ways until the program's side is closed, or until `stopped` is and nothing is left to read.
fn connect(master: &OwnedFd, input: &OwnedFd, output: &OwnedFd, stopped: &OwnedFd) {
    let mut buffer = [0u8; 16 * 1024];
    let mut input_open = true;
    loop {
        let mut watched = vec![PollFd::new(master, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        if input_open {
            watched.push(PollFd::new(input, PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let (from_program, stop) = (watched[0].revents(), watched[1].revents());
        let from_outside = watched.get(2).map_or(PollFlags::empty(), PollFd::revents);
        if from_program.intersects(PollFlags::IN) {
            // EIO: no process has the program's side open.
            match read(master.as_fd(), &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let _ = write_all(output.as_fd(), &buffer[..n]);
                    continue;
                }
            }
        }
        if from_program.intersects(PollFlags::HUP | PollFlags::ERR) || !stop.is_empty() {
            return;
        }
        if !from_outside.is_empty() {
            match read(input.as_fd(), &mut buffer) {
                Ok(0) | Err(_) => input_open = false,
                Ok(n) => {
                    let _ = write_all(master.as_fd(), &buffer[..n]);
                }
            }
        }
    }
}

pub(super) fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

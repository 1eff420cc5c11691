//! Standard input at a checkpoint. What was written into its pipe and not read yet belongs to the program, but a restored
//! program gets another pipe: so it is copied, and given to the program first after the restore.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::relay;

/// The most that is copied, in bytes; a pipe holds 64 KiB unless somebody enlarged it.
const MOST: usize = 16 << 20;
/// What a pipe that has room takes without blocking, in bytes (pipe(7), `PIPE_BUF`).
const STEP: usize = 4096;

/// The program's standard input, as a checkpoint sees it.
#[derive(Debug, Default)]
pub struct Input {
    source: Option<Source>,
}

#[derive(Debug)]
enum Source {
    /// The program has the outside's own pipe.
    Pipe(OwnedFd),
    /// It has one that Torpor fills.
    Feed(Arc<Feed>),
}

/// Standard input that stands still until this is dropped, and for good once it is kept.
#[derive(Debug)]
pub struct Held<'a> {
    feed: Option<&'a Feed>,
    /// What the program has not read yet.
    pub unread: Vec<u8>,
}

impl Input {
    pub(super) fn pipe(pipe: OwnedFd) -> Input {
        Input { source: Some(Source::Pipe(pipe)) }
    }

    pub(super) fn feed(feed: Arc<Feed>) -> Input {
        Input { source: Some(Source::Feed(feed)) }
    }

    /// Copies what the program, which stands still, has not read. Nothing is taken out of its pipe.
    ///
    /// # Errors
    /// Where the pipe cannot be copied.
    pub fn hold(&self) -> io::Result<Held<'_>> {
        match &self.source {
            None => Ok(Held { feed: None, unread: Vec::new() }),
            Some(Source::Pipe(pipe)) => Ok(Held { feed: None, unread: copy(pipe.as_fd())? }),
            Some(Source::Feed(feed)) => {
                let mut state = feed.state();
                state.paused = true;
                let mut held = Held { feed: Some(feed), unread: copy(feed.program.as_fd())? };
                held.unread.extend_from_slice(&state.pending);
                Ok(held)
            }
        }
    }
}

impl Held<'_> {
    /// The program is gone for good: nothing more is taken from the outside.
    pub fn keep(mut self) {
        self.feed = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(feed) = self.feed {
            feed.state().paused = false;
            feed.goes_on.notify_all();
        }
    }
}

/// Passes what comes from outside to a pipe of the program's, in steps between which nothing is on its way.
#[derive(Debug)]
pub(super) struct Feed {
    /// The program's end, to look into.
    program: OwnedFd,
    state: Mutex<State>,
    goes_on: Condvar,
}

#[derive(Debug)]
struct State {
    paused: bool,
    /// Goes to the program before anything from outside does.
    pending: Vec<u8>,
}

impl Feed {
    /// Starts with `pending`. Returns the program's end of the pipe, too.
    pub(super) fn start(outside: BorrowedFd<'_>, pending: Vec<u8>) -> io::Result<(Arc<Feed>, OwnedFd)> {
        let outside = outside.try_clone_to_owned()?;
        let (program, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let theirs = program.try_clone()?;
        let state = Mutex::new(State { paused: false, pending });
        let feed = Arc::new(Feed { program, state, goes_on: Condvar::new() });
        let thread = Arc::clone(&feed);
        // Nobody waits for its end: the outside may never say another word.
        Builder::new().name("standard-input".into()).spawn(move || {
            let _ = thread.pass(&outside, &ours);
        })?;
        Ok((feed, theirs))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, outside: &OwnedFd, ours: &OwnedFd) -> io::Result<()> {
        let mut buffer = [0u8; STEP];
        loop {
            wait(ours, PollFlags::OUT, None)?;
            if self.state().pending.is_empty() {
                wait(outside, PollFlags::IN, None)?;
            }
            let state = self.state();
            let mut state =
                self.goes_on.wait_while(state, |state| state.paused).unwrap_or_else(PoisonError::into_inner);
            if !state.pending.is_empty() {
                let step = state.pending.len().min(STEP);
                relay::write_all(ours.as_fd(), &state.pending[..step])?;
                state.pending.drain(..step);
            } else if wait(outside, PollFlags::IN, Some(Timespec { tv_sec: 0, tv_nsec: 0 }))? {
                match relay::read(outside.as_fd(), &mut buffer)? {
                    0 => return Ok(()),
                    n => relay::write_all(ours.as_fd(), &buffer[..n])?,
                }
            }
        }
    }
}

/// Waits until a descriptor is ready. Returns whether it is.
fn wait(descriptor: &OwnedFd, ready: PollFlags, time: Option<Timespec>) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(descriptor, ready)], time.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is in a pipe, which keeps it (tee(2)).
fn copy(pipe: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    if rustix::io::ioctl_fionread(pipe)? == 0 {
        return Ok(Vec::new());
    }
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Each buffer of the one takes a buffer of the other, however little is in it.
    let size = rustix::pipe::fcntl_getpipe_size(pipe)?;
    if size > rustix::pipe::fcntl_getpipe_size(&write)? {
        rustix::pipe::fcntl_setpipe_size(&write, size)?;
    }
    let mut left = match rustix::pipe::tee(pipe, &write, MOST, SpliceFlags::NONBLOCK) {
        Err(Errno::AGAIN) => 0,
        copied => copied?,
    };
    let mut bytes = Vec::with_capacity(left);
    let mut buffer = [0u8; STEP];
    while left > 0 {
        let n = relay::read(read.as_fd(), &mut buffer)?;
        bytes.extend_from_slice(&buffer[..n]);
        left = left.saturating_sub(n.max(1));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_copy_leaves_the_pipe_as_it_was() {
        let (mut read, mut write) = io::pipe().unwrap();
        assert_eq!(copy(read.as_fd()).unwrap(), b"");
        for word in ["one ", "two ", "three"] {
            write.write_all(word.as_bytes()).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(copy(read.as_fd()).unwrap(), b"one two three");
        }
        drop(write);
        assert_eq!(copy(read.as_fd()).unwrap(), b"one two three", "nobody writes any more");
        let mut all = String::new();
        read.read_to_string(&mut all).unwrap();
        assert_eq!((all.as_str(), copy(read.as_fd()).unwrap().len()), ("one two three", 0));
    }

    #[test]
    fn a_full_pipe_is_copied_whole() {
        let (read, mut write) = io::pipe().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(65_536).collect();
        write.write_all(&bytes).unwrap();
        assert_eq!(copy(read.as_fd()).unwrap(), bytes);
    }

    #[test]
    fn what_was_left_unread_comes_first_and_nothing_is_lost_on_the_way() {
        let (outside, mut write) = io::pipe().unwrap();
        let pending: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mut expected = pending.clone();
        let (feed, theirs) = Feed::start(outside.as_fd(), pending).unwrap();
        let input = Input::feed(feed);
        let mut program = std::fs::File::from(theirs);
        write.write_all(b"and then more").unwrap();
        drop(write);
        expected.extend(b"and then more");

        let mut got = vec![0; 40_000];
        program.read_exact(&mut got).unwrap();
        let held = input.hold().unwrap();
        // From outside nothing is taken before the rest has gone.
        assert_eq!(held.unread, expected[40_000..100_000]);
        drop(held);
        program.read_to_end(&mut got).unwrap();
        assert!(got == expected);
    }

    #[test]
    fn what_is_kept_takes_nothing_more_from_outside() {
        let (outside, mut write) = io::pipe().unwrap();
        let (feed, theirs) = Feed::start(outside.as_fd(), Vec::new()).unwrap();
        let input = Input::feed(feed);
        input.hold().unwrap().keep();
        write.write_all(b"later").unwrap();
        drop(theirs);
        assert_eq!(copy(outside.as_fd()).unwrap(), b"later");
        assert_eq!(input.hold().unwrap().unread, b"");
    }
}

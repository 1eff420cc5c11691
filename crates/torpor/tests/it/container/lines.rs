//! Output, taken as it comes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Lines that somebody prints, taken by a thread.
#[derive(Clone)]
pub(super) struct Lines {
    so_far: Arc<Mutex<Vec<String>>>,
    complete: Arc<Mutex<bool>>,
}

impl Lines {
    pub(super) fn of(stream: Option<impl Read + Send + 'static>) -> Lines {
        let lines = Lines { so_far: Arc::default(), complete: Arc::new(Mutex::new(stream.is_none())) };
        if let Some(stream) = stream {
            let taken = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    taken.so_far.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                }
                *taken.complete.lock().unwrap() = true;
            });
        }
        lines
    }

    pub(super) fn get(&self) -> Vec<String> {
        self.so_far.lock().unwrap().clone()
    }

    /// Whether whoever prints them has closed the stream.
    pub(super) fn are_complete(&self) -> bool {
        *self.complete.lock().unwrap()
    }
}

/// A process outside whose lines are taken.
pub(crate) struct Printing {
    child: Child,
    lines: Lines,
}

impl Printing {
    pub(crate) fn start(mut command: Command) -> Printing {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stdout.take());
        Printing { child, lines }
    }

    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.get()
    }

    /// Kills it; what it printed before.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines()
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

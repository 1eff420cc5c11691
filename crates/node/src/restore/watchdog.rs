//! A CRIU that comes to no end is killed: a start that waits for ever is worse than one that fails.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use torpor_criu::session::Process;

/// Watches one CRIU until it is dismissed or dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    pub(crate) fn watch(criu: Arc<Process>, patience: Duration) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let bites = stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if bites {
                criu.kill();
            }
            bites
        })?;
        Ok(Watchdog { stop, thread })
    }

    /// Returns whether it had to kill.
    pub(crate) fn dismiss(self) -> bool {
        drop(self.stop);
        self.thread.join().unwrap_or(false)
    }
}

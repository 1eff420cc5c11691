//! Terminals that tests hold the other end of.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal of the test's own.
#[derive(Clone)]
pub(crate) struct Terminal {
    master: Arc<OwnedFd>,
}

impl Terminal {
    pub(crate) fn new(rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = Terminal { master: Arc::new(master) };
        terminal.resize(rows, columns);
        terminal
    }

    /// Whoever has it open is told.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&*self.master, size).unwrap();
    }

    /// What somebody types.
    pub(crate) fn type_in(&self, text: &str) {
        rustix::io::write(&*self.master, text.as_bytes()).unwrap();
    }

    /// What the program prints.
    pub(super) fn output(&self) -> File {
        File::from(self.master.try_clone().unwrap())
    }

    /// What the program gets.
    pub(super) fn slave(&self) -> Stdio {
        let name = ptsname(&*self.master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap().into()
    }
}

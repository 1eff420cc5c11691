//! Signals to Torpor: read in a thread, handled in the loop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::event_loop::Message;
use crate::sys::process;

/// What a signal to Torpor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A child has ended or changed.
    Child,
    /// The terminal outside has another size.
    Resized,
    /// It is the trigger.
    Trigger,
    /// It is for the program.
    PassOn,
    /// It concerns Torpor's own input and output, and means nothing to the program.
    Nothing,
}

pub(super) fn meaning(signal: i32, trigger: i32) -> Meaning {
    match signal {
        libc::SIGCHLD => Meaning::Child,
        _ if signal == trigger => Meaning::Trigger,
        libc::SIGWINCH => Meaning::Resized,
        libc::SIGPIPE | libc::SIGTTIN | libc::SIGTTOU | libc::SIGURG | libc::SIGIO => Meaning::Nothing,
        _ => Meaning::PassOn,
    }
}

/// Reads signals for as long as somebody wants to hear of them.
pub(super) fn watch(descriptor: OwnedFd, messages: Sender<Message>) -> io::Result<()> {
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let Ok(signals) = process::read_signals(&descriptor) else { return };
            for (signal, _) in signals {
                if messages.send(Message::Signal(signal)).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_meaning() {
        for (signal, trigger, expected) in [
            (libc::SIGTERM, libc::SIGTERM, Meaning::Trigger),
            (libc::SIGTERM, libc::SIGUSR1, Meaning::PassOn),
            (libc::SIGUSR1, libc::SIGUSR1, Meaning::Trigger),
            (libc::SIGCHLD, libc::SIGTERM, Meaning::Child),
            (libc::SIGWINCH, libc::SIGTERM, Meaning::Resized),
            (libc::SIGPIPE, libc::SIGTERM, Meaning::Nothing),
            (libc::SIGHUP, libc::SIGTERM, Meaning::PassOn),
        ] {
            assert_eq!(meaning(signal, trigger), expected, "{signal}");
        }
    }
}

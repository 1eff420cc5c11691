//! A restored container that dies at once: an attempt of its checkpoint has failed.
//!
//! Whoever starts a container ends before that can be seen, and engines do not tell how one ended. So a process of our own looks on
//! for as long as a restore is not known to have been good ([`SETTLE`]), and ends with the container or that time. A container that
//! fails by itself meanwhile is noted with its generation, which is offered twice at most. One that somebody ended, or that ended
//! well, is not.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use torpor_store::lineage::SETTLE;
use torpor_store::name::Name;

use super::history::Undo;
use super::record::{Record, RecordPlace};
use super::settings::Settings;
use super::{NAME, stored};
use crate::process_tree;
use crate::sys::pidfd;

/// The word by which this program looks on.
pub(super) const WORD: &str = "torpor-looks-on";
/// The file in a record's directory that is not empty once somebody wanted the container to end.
const ENDED: &str = "ended";
/// How long, at most, it takes until somebody has waited for a process that has ended.
const REAPED: Duration = Duration::from_secs(5);
/// How often it is looked for that.
const LOOK: Duration = Duration::from_millis(10);

/// A generation that a container was restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name.
    pub name: Name,
    /// The generation.
    pub number: u64,
    /// The epoch that restored it.
    pub epoch: u64,
    /// Whether it is where the program stopped. Then a failed attempt is no reason to begin anew.
    pub suspend: bool,
}

/// What whoever looks on has to know. All that was there at the start may be gone at the end.
#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    pid: i32,
    from: Origin,
    undo: Option<Undo>,
}

/// Has somebody look on at a container that does not run yet: it may end, and be waited for, before anybody could open it.
pub(super) fn look_on(place: &RecordPlace, record: &Record) -> io::Result<()> {
    let Some(from) = record.from.clone() else { return Ok(()) };
    let ended = File::create(place.directory().join(ENDED))?;
    let pid = Pid::from_raw(record.pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let subject = Subject { pid: record.pid, from, undo: record.undo.clone() };
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(WORD).arg(serde_json::to_string(&subject)?).current_dir("/");
    command.stdin(process).stdout(ended).stderr(Stdio::null());
    // What is sent to whoever started the container is not for it.
    command.process_group(0).spawn().map(drop)
}

/// Notes that somebody wants the container to end.
pub(super) fn is_wanted(place: &RecordPlace) {
    let file = OpenOptions::new().append(true).open(place.directory().join(ENDED));
    if let Ok(mut file) = file {
        // Whoever looks on takes this end for one of the container's own else.
        let _ = file.write_all(b"x");
    }
}

/// Looks on: at the process that is standard input, with the file that [`is_wanted`] writes as standard output.
pub(super) fn stand(subject: &OsStr) -> io::Result<()> {
    let subject: Subject = serde_json::from_slice(subject.as_encoded_bytes())?;
    let Some(reason) = end(subject.pid)?.and_then(failure) else { return Ok(()) };
    if rustix::fs::fstat(io::stdout())?.st_size > 0 {
        return Ok(());
    }
    let settings = Settings::load().map_err(io::Error::other)?;
    stored::died(&settings, &subject.from, &reason).map_err(io::Error::other)?;
    if let Some(undo) = subject.undo.filter(|_| subject.from.suspend) {
        undo.put_back();
    }
    Ok(())
}

/// How the container ended, as a wait status; none where it runs on, or nobody can tell.
fn end(pid: i32) -> io::Result<Option<i32>> {
    let process = io::stdin();
    let time = Duration::try_from(SETTLE).map_err(io::Error::other)?;
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    if rustix::event::poll(&mut polled, Some(&time))? == 0 {
        return Ok(None);
    }
    let until = Instant::now() + REAPED;
    while Instant::now() < until {
        if let Ok(Some(status)) = pidfd::exit_status(process.as_fd()) {
            return Ok(Some(status));
        }
        if let Some(status) = process_tree::exit_status(pid) {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

/// What a wait status says of a container that failed by itself.
fn failure(status: i32) -> Option<String> {
    match (status & 0x7f, (status >> 8) & 0xff) {
        (0, 0) => None,
        (0, code) => Some(format!("the container ended with code {code} within seconds")),
        (signal, _) => Some(format!("signal {signal} ended the container within seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_with_an_error_or_by_a_signal_is_a_failure() {
        for (status, said) in [
            (0, None),
            (7 << 8, Some("the container ended with code 7 within seconds")),
            (11, Some("signal 11 ended the container within seconds")),
            (11 | 0x80, Some("signal 11 ended the container within seconds")),
        ] {
            assert_eq!(failure(status).as_deref(), said);
        }
    }
}

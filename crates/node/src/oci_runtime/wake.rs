//! A restored container from its creation to its end: `start`, `kill` and `delete`.
//!
//! Until its start all its processes are stopped, and the file in the runtime's state by which runc and crun know a container that waits
//! (`exec.fifo`) is there: their `state`, `list` and `delete` tell and do what is right.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Call;
use super::early_end;
use super::error::RuntimeError;
use super::hooks::{Point, Subject};
use super::log::Level;
use super::record::{Record, RecordPlace, Stage};
use super::remains::let_go_of_root;
use crate::migration::gate::{self, Word};
use crate::process_tree;
use crate::sys::process;

/// The file by which a container is known that waits for its start.
pub(super) fn fifo(root: &Path, id: &str) -> PathBuf {
    root.join(id).join("exec.fifo")
}

/// Lets the container go on.
pub(super) fn start(
    call: &Call<'_>,
    id: &str,
    place: &RecordPlace,
    record: &mut Record,
) -> Result<(), RuntimeError> {
    let word = record.gate.as_deref().map_or(Word::GoOn, |gate| gate::ask(gate, record.pid));
    if word == Word::Never {
        if let Some(undo) = &record.undo {
            undo.put_back();
        }
        return Err(RuntimeError::NotLetGo);
    }
    if process_tree::started(record.pid) != Some(record.started)
        || process_tree::state(record.pid) == Some('Z')
    {
        return Err(RuntimeError::Stopped);
    }
    record.stage = Stage::Started;
    record.gate = None;
    place.write(record).map_err(RuntimeError::place(place.directory()))?;
    let fifo = fifo(call.root(), id);
    match std::fs::remove_file(&fifo) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(RuntimeError::place(&fifo)(error));
        }
        _ => {}
    }
    if word == Word::Stay {
        let told = format!(
            "container {id} stands still: whether it has ended where it came from is not known. Where it has, `kill -CONT {}` lets it go on",
            record.pid
        );
        call.say(Level::Warning, &told);
        return Ok(());
    }
    if let Err(error) = early_end::look_on(place, record) {
        tracing::warn!(%error, "nobody looks on whether it dies at once");
    }
    go_on(record.pid, &record.stopped);
    let config = std::fs::read(record.bundle.join("config.json")).unwrap_or_default();
    let (pid, bundle) = (record.pid, record.bundle.as_path());
    // As the specification has it, one that fails is told, and the container goes on.
    if let Err(error) = (Subject { id, pid, bundle, config: &config }).run(Point::Poststart) {
        call.say(Level::Warning, &RuntimeError::from(error).line());
    }
    Ok(())
}

/// Lets all processes below `root` go on, but for those that were stopped at the checkpoint, by their PIDs in the container.
pub(crate) fn go_on(root: i32, stopped: &[u32]) {
    // Children first: a parent that looks after them finds them as they were.
    for pid in process_tree::of(root).into_iter().rev() {
        let inner = process_tree::innermost_pid(pid).map(i32::unsigned_abs);
        if !inner.is_some_and(|inner| stopped.contains(&inner)) {
            let _ = process::kill(pid, libc::SIGCONT);
        }
    }
}

/// What a signal is for a container that waits for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It ends it: there is nobody yet who could do anything else about it.
    Ends,
    /// It would let it go on, or stop what is stopped.
    Nothing,
    /// It is kept for the start, or asks whether there is a container.
    Passes,
}

/// What the signal, by name or number as runtimes take it, is until the start.
pub(super) fn signal(text: &str) -> Signal {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match name {
        "KILL" | "9" | "TERM" | "15" | "INT" | "2" | "HUP" | "1" | "QUIT" | "3" => Signal::Ends,
        "CONT" | "18" | "STOP" | "19" | "TSTP" | "20" | "TTIN" | "21" | "TTOU" | "22" => Signal::Nothing,
        _ => Signal::Passes,
    }
}

/// `kill`, for a container that waits. None where it is the real runtime's, as it was asked.
pub(super) fn kill(call: &Call<'_>, id: &str, text: &str) -> Result<Option<u8>, RuntimeError> {
    match signal(text) {
        Signal::Passes => Ok(None),
        Signal::Nothing => Ok(Some(0)),
        Signal::Ends => {
            let words = [OsString::from("kill"), id.into(), "KILL".into()];
            let words = call.line.global.words.iter().cloned().chain(words);
            Err(call.real.exec(&words.collect::<Vec<_>>()).into())
        }
    }
}

/// `delete`, as it was asked: what the real runtime has of it, and what we have.
pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<u8, RuntimeError> {
    let place = call.record(id);
    let failed = RuntimeError::place(place.directory());
    let record = place.read().map_err(&failed)?;
    if let Some(record) = record.filter(Record::is_cut_off) {
        call.take_away(id, &place, &record)?;
    }
    let state = call.root().join(id);
    let_go_of_root(&state, None);
    let code = by_real(call, call.words)?;
    // One that runs is not deleted without force, and stays ours.
    if !state.exists() {
        place.remove().map_err(&failed)?;
    }
    call.sweep();
    Ok(code)
}

/// Deletes a container that was run to its end.
pub(super) fn delete_by_id(call: &Call<'_>, id: &str) -> Result<(), RuntimeError> {
    let words = [OsString::from("delete"), "--force".into(), id.into()];
    let words: Vec<OsString> = call.line.global.words.iter().cloned().chain(words).collect();
    by_real(call, &words)?;
    let place = call.record(id);
    place.remove().map_err(RuntimeError::place(place.directory())).map(drop)
}

fn by_real(call: &Call<'_>, words: &[OsString]) -> Result<u8, RuntimeError> {
    let program = &call.real.program;
    let status = Command::new(program).args(words).status().map_err(RuntimeError::place(program))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// Waits for the end of a container that was run, and passes on what is sent to us. Returns its exit code.
pub(super) fn wait(pid: i32) -> Result<u8, RuntimeError> {
    let code = crate::container::restore::wait(pid).map_err(|source| RuntimeError::Container {
        checkpoint: "the container".to_owned(),
        source: Box::new(source),
        log: None,
    })?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_the_start_a_signal_ends_waits_or_is_nothing() {
        for (text, expected) in [
            ("SIGKILL", Signal::Ends),
            ("kill", Signal::Ends),
            ("15", Signal::Ends),
            ("SIGTERM", Signal::Ends),
            ("SIGCONT", Signal::Nothing),
            ("18", Signal::Nothing),
            ("STOP", Signal::Nothing),
            ("USR1", Signal::Passes),
            ("0", Signal::Passes),
            ("no such", Signal::Passes),
        ] {
            assert_eq!(signal(text), expected, "{text}");
        }
    }
}

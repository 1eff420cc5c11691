//! `torpor-runtime`: an OCI runtime that hands everything but restored containers to runc or crun.
//!
//! It is called as they are called ([`command_line`]), and becomes the real runtime ([`real`]) by `exec`, with the same words,
//! descriptors and environment, for everything that is not about a container that was or is to be restored. What the node's
//! operator says is in [`settings`]; what is said to the engine goes to the runtime's log ([`log`]).
//!
//! Whether a new container is restored is decided from its annotations ([`decision`]) and from what its pod was restored from before
//! ([`history`]). Its images are held against the container's configuration ([`fit`]) and made to fit its network ([`images`]); the real runtime's `restore` then builds it, with a CRIU of our choice
//! ([`criu`]), and leaves it stopped until its `start` ([`record`]).

mod carried;
pub mod command_line;
mod create;
pub mod criu;
pub mod decision;
mod early_end;
mod error;
pub mod fit;
pub mod history;
pub mod hooks;
pub mod images;
mod kept_log;
pub mod log;
mod networks;
pub mod projections;
pub mod real;
mod received;
pub mod record;
pub(crate) mod remains;
pub mod settings;
mod stored;
pub(crate) mod wake;

use std::ffi::OsString;
use std::path::Path;

pub use early_end::Origin;
pub use error::RuntimeError;

use command_line::{Command, CommandLine};
use log::Level;
use real::Real;
use record::{RecordPlace, Stage};
use settings::Settings;

/// The name under which the binary is this runtime.
pub const NAME: &str = "torpor-runtime";
/// What the process ends with where it fails by itself, as runc.
const FAILED: u8 = 1;

/// One call of the runtime.
#[derive(Debug)]
struct Call<'a> {
    settings: Settings,
    real: Real,
    line: &'a CommandLine,
    words: &'a [OsString],
}

impl Call<'_> {
    /// The directory of states.
    fn root(&self) -> &Path {
        self.line.global.root.as_deref().unwrap_or_else(|| self.real.usual_root())
    }

    /// Where it is known what was restored of a container.
    fn record(&self, id: &str) -> RecordPlace {
        RecordPlace::new(&self.settings.run, self.root(), id)
    }
}

/// Does what the words after the program's name say. Returns what the process ends with, where it did not become the real
/// runtime.
#[must_use]
pub fn run(words: &[OsString]) -> u8 {
    if let [word, directory] = words
        && word == early_end::WORD
    {
        return early_end::stand(directory).map_or(FAILED, |()| 0);
    }
    let line = CommandLine::parse(words);
    match act(&line, words) {
        Ok(code) => code,
        Err(error) => {
            log::write(&line.global, Level::Error, &error.line());
            FAILED
        }
    }
}

fn act(line: &CommandLine, words: &[OsString]) -> Result<u8, RuntimeError> {
    let settings = Settings::load()?;
    let real = Real::find(settings.runtime.as_deref())?;
    let call = Call { settings, real, line, words };
    match own(&call)? {
        Some(code) => Ok(code),
        None => Err(call.real.exec(words).into()),
    }
}

/// What is about restored containers. None where the call is the real runtime's.
fn own(call: &Call<'_>) -> Result<Option<u8>, RuntimeError> {
    let (id, new) = match &call.line.command {
        Command::Create(new) => return create::create(call, new, false),
        Command::Run(new) => return create::create(call, new, true),
        Command::Start { id } | Command::Kill { id, .. } | Command::Delete { id } => (id, &call.line.command),
        Command::Other => return Ok(None),
    };
    let place = call.record(id);
    if !place.directory().exists() {
        if matches!(new, Command::Delete { .. }) {
            // As good a moment as any to look after what others left.
            call.sweep();
        }
        return Ok(None);
    }
    let record = place.read().map_err(RuntimeError::place(place.directory()))?;
    if matches!(new, Command::Kill { .. } | Command::Delete { .. }) {
        early_end::is_wanted(&place);
    }
    match (new, record) {
        (Command::Delete { .. }, _) => wake::delete(call, id).map(Some),
        (Command::Start { .. }, Some(mut record)) if record.stage == Stage::Created => {
            wake::start(call, id, &place, &mut record)?;
            Ok(Some(0))
        }
        (Command::Kill { signal, .. }, Some(record)) if record.stage == Stage::Created => {
            wake::kill(call, id, signal)
        }
        _ => Ok(None),
    }
}

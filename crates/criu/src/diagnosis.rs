//! Why CRIU failed, in words that help.
//!
//! CRIU says what it stumbled over in its log, in its own terms. A table of known failures turns that into a cause in plain words and
//! a remedy in Torpor's own: a flag, a key of the configuration, or a command. What is not in the table is reported with the errors
//! of the log, as they are.

use crate::log::{Level, Line, Log};

mod known;
mod pattern;

pub use known::known;
use pattern::captures;

/// What CRIU was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A dump or a pre-dump.
    Checkpoint,
    /// A restore.
    Restore,
}

/// A known failure: one row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// A short name that does not change, for scripts and documentation.
    pub id: &'static str,
    /// The operation it belongs to; `None` for both.
    pub operation: Option<Operation>,
    /// Messages of the log that tell it, `*` standing for anything. A message may have more before and behind.
    pub messages: &'static [&'static str],
    /// A message that has to be somewhere in the log as well.
    pub with: Option<&'static str>,
    /// What happened; `{1}` is what the first `*` stood for, and so on.
    pub cause: &'static str,
    /// What to do about it under `torpor run`.
    pub remedy: &'static str,
}

/// Why CRIU failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The known failure's name, or `unknown`.
    pub id: &'static str,
    /// What happened.
    pub cause: String,
    /// What to do about it under `torpor run`.
    pub remedy: String,
    /// What to do about it where a container or process does not run under `torpor run`.
    pub remedy_elsewhere: String,
    /// What the failure is about, as it stands in the log: paths, ports, ids. Empty if the log does not say.
    pub subjects: Vec<String>,
    /// The lines of the log that this was concluded from; for an unknown failure, its errors.
    pub lines: Vec<String>,
}

/// The id of a failure that is not in the table.
pub const UNKNOWN: &str = "unknown";

/// Most lines of the log in a diagnosis.
const MOST_LINES: usize = 12;

/// Finds out why CRIU failed. The first error that is known decides, since those behind it mostly follow from it; warnings decide
/// only if no error does.
#[must_use]
pub fn diagnose(operation: Operation, log: &Log) -> Diagnosis {
    let found = log.errors().find_map(|line| recognise(operation, &line, log)).or_else(|| {
        log.lines()
            .filter(|line| line.level == Level::Warning)
            .find_map(|line| recognise(operation, &line, log))
    });
    found.unwrap_or_else(|| unknown(operation, log))
}

fn recognise(operation: Operation, line: &Line<'_>, log: &Log) -> Option<Diagnosis> {
    known().filter(|known| known.operation.is_none_or(|only| only == operation)).find_map(|known| {
        let subjects = known.messages.iter().find_map(|message| captures(message, line.message))?;
        let second = match known.with {
            Some(with) => {
                let second = log.lines().find_map(|other| Some((other.text, captures(with, other.message)?)));
                Some(second?)
            }
            None => None,
        };
        let mut subjects: Vec<String> = subjects.into_iter().map(str::to_owned).collect();
        let mut lines = vec![line.text.to_owned()];
        if let Some((text, more)) = second {
            subjects.extend(more.into_iter().map(str::to_owned));
            lines.push(text.to_owned());
        }
        Some(Diagnosis {
            id: known.id,
            cause: fill(known.cause, &subjects),
            remedy: fill(known.remedy, &subjects),
            remedy_elsewhere: fill(known.remedy_elsewhere(), &subjects),
            subjects,
            lines,
        })
    })
}

fn unknown(operation: Operation, log: &Log) -> Diagnosis {
    let mut lines: Vec<String> = log.errors().map(|line| line.text.to_owned()).collect();
    if lines.is_empty() {
        lines = log.tail(MOST_LINES).into_iter().map(str::to_owned).collect();
    }
    // The first errors are the cause, the last the consequence.
    lines.truncate(MOST_LINES);
    let (verb, log_name) = match operation {
        Operation::Checkpoint => ("freeze the program", "dump.log"),
        Operation::Restore => ("restore the program", "restore.log"),
    };
    let cause = match lines.is_empty() {
        true => format!("CRIU could not {verb} and logged nothing"),
        false => format!("CRIU could not {verb} for a reason that is not known here"),
    };
    let remedy = format!(
        "read the errors from {log_name} below, and run `torpor doctor` to see what this machine lacks"
    );
    Diagnosis { id: UNKNOWN, cause, remedy_elsewhere: remedy.clone(), remedy, subjects: Vec::new(), lines }
}

/// Puts what was found into a sentence.
fn fill(template: &str, subjects: &[String]) -> String {
    let mut filled = template.to_owned();
    for (index, subject) in subjects.iter().enumerate() {
        filled = filled.replace(&format!("{{{}}}", index + 1), subject);
    }
    filled
}

#[cfg(test)]
mod tests;

//! Hooks: commands, HTTP requests and signals around checkpoints and restores. `docs/hooks.md` tells people.

mod command;
mod request;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::config::{HookAction, HookConfig, Hooks, OnHookFailure, Signal, show_duration};
use crate::sys::process;

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// Before the program is frozen.
    PreCheckpoint,
    /// When a checkpoint ended, well or not, and the program runs on.
    PostCheckpoint,
    /// When the program goes on after a restore.
    PostRestore,
    /// Once the program runs, fresh or restored.
    OnAppReady,
}

impl Point {
    /// The key hooks of this point are configured under.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Point::PreCheckpoint => "preCheckpoint",
            Point::PostCheckpoint => "postCheckpoint",
            Point::PostRestore => "postRestore",
            Point::OnAppReady => "onAppReady",
        }
    }

    /// The hooks of this point.
    #[must_use]
    pub fn of(self, hooks: &Hooks) -> &[HookConfig] {
        match self {
            Point::PreCheckpoint => &hooks.pre_checkpoint,
            Point::PostCheckpoint => &hooks.post_checkpoint,
            Point::PostRestore => &hooks.post_restore,
            Point::OnAppReady => &hooks.on_app_ready,
        }
    }
}

/// What hooks are told: commands as variables, HTTP requests as a JSON body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Occasion {
    /// The name checkpoints are kept under.
    pub name: String,
    /// Which start of the name this is.
    pub epoch: u64,
    /// What this running copy is called, new at every start.
    pub instance: String,
    /// The generation made or restored, where there is one.
    pub generation: Option<u64>,
    /// The phase it is: `check` before a checkpoint, `thaw` after one, `go-on` after a restore.
    pub phase: String,
    /// `suspend`, `running` or `template` for a checkpoint; `fresh` or `restored` for a start.
    pub kind: String,
    /// `committed` or `failed`, after a checkpoint.
    pub outcome: Option<String>,
    /// The program's process id, as Torpor sees it.
    pub program_pid: i32,
    /// The status file.
    pub status_file: PathBuf,
}

impl Occasion {
    /// The variables a command gets on top of Torpor's own environment.
    #[must_use]
    pub fn variables(&self, point: Point) -> Vec<(&'static str, OsString)> {
        let Occasion { name, epoch, instance, generation, phase, kind, outcome, program_pid, status_file } =
            self;
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("TORPOR_HOOK", point.key().into()),
            ("TORPOR_NAME", name.into()),
            ("TORPOR_EPOCH", epoch.to_string().into()),
            ("TORPOR_INSTANCE", instance.into()),
            ("TORPOR_PHASE", phase.into()),
            ("TORPOR_KIND", kind.into()),
            ("TORPOR_PROGRAM_PID", program_pid.to_string().into()),
            ("TORPOR_STATUS_FILE", status_file.into()),
        ];
        variables.extend(generation.map(|generation| ("TORPOR_GENERATION", generation.to_string().into())));
        variables.extend(outcome.as_ref().map(|outcome| ("TORPOR_OUTCOME", outcome.into())));
        variables
    }
}

/// Runs the hooks of `point` one after the other. A hook whose failure is ignored logs a warning; the first other
/// failure ends it.
///
/// `limit` is what all of them may take together, such as what a deadline leaves; each has its own timeout besides.
///
/// Commands are children of the calling process. Nobody else may take their status while this runs.
///
/// # Errors
/// Where a hook whose failure counts fails.
pub fn run(
    point: Point,
    hooks: &Hooks,
    occasion: &Occasion,
    limit: Option<Duration>,
) -> Result<(), HookError> {
    let begun = std::time::Instant::now();
    for hook in point.of(hooks) {
        let left =
            limit.map_or(hook.timeout, |limit| limit.saturating_sub(begun.elapsed()).min(hook.timeout));
        let result = one(point, hook, occasion, left);
        match (result, hook.on_failure) {
            (Ok(()), _) => tracing::debug!(hook = point.key(), elapsed = ?begun.elapsed(), "hook done"),
            (Err(error), OnHookFailure::Ignore) => {
                tracing::warn!(hook = point.key(), %error, "ignoring a failed hook");
            }
            (Err(error), OnHookFailure::Fail) => return Err(error),
        }
    }
    Ok(())
}

fn one(point: Point, hook: &HookConfig, occasion: &Occasion, timeout: Duration) -> Result<(), HookError> {
    if timeout.is_zero() {
        return Err(HookError::NoTime { hook: point.key() });
    }
    match &hook.action {
        HookAction::Command(words) => command::run(point, words, occasion, timeout),
        HookAction::Http { method, url } => request::make(point, *method, url, occasion, timeout),
        HookAction::Signal(signal) => send(point, *signal, occasion.program_pid),
    }
}

fn send(point: Point, number: Signal, pid: i32) -> Result<(), HookError> {
    let wrong = |source| HookError::Signal { hook: point.key(), signal: number, pid, source };
    // Zero and negative numbers mean groups of processes, Torpor's own among them.
    if pid <= 0 {
        return Err(wrong(io::ErrorKind::InvalidInput.into()));
    }
    process::kill(pid, number.number()).map_err(wrong)
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// Its command cannot be started.
    #[error("the {hook} hook cannot start {program:?}")]
    Start {
        /// The hook.
        hook: &'static str,
        /// The command's program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its command ended otherwise than with 0.
    #[error("the {hook} hook's command {program:?} ended with {status}{}", told(last_line))]
    Status {
        /// The hook.
        hook: &'static str,
        /// The command's program.
        program: String,
        /// The exit status, in words.
        status: String,
        /// The last line it wrote.
        last_line: String,
    },
    /// It took too long; a command was killed with everything in its process group.
    #[error("the {hook} hook took longer than {}{}", show_duration(*timeout), told(last_line))]
    Timeout {
        /// The hook.
        hook: &'static str,
        /// What it was allowed.
        timeout: Duration,
        /// The last line it wrote.
        last_line: String,
    },
    /// Its command cannot be watched.
    #[error("the {hook} hook's command cannot be waited for")]
    Wait {
        /// The hook.
        hook: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its request failed.
    #[error("the {hook} hook cannot reach {url}")]
    Request {
        /// The hook.
        hook: &'static str,
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// Its request was answered otherwise than with success.
    #[error("the {hook} hook's request to {url} was answered with status {status}")]
    Answer {
        /// The hook.
        hook: &'static str,
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// Its signal could not be sent.
    #[error("the {hook} hook cannot send {signal} to process {pid}")]
    Signal {
        /// The hook.
        hook: &'static str,
        /// The signal.
        signal: Signal,
        /// The program.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The time for all hooks together was over before it began.
    #[error("no time is left for the {hook} hook")]
    NoTime {
        /// The hook.
        hook: &'static str,
    },
}

/// What a command wrote last, as the end of a sentence.
fn told(last_line: &str) -> String {
    if last_line.is_empty() { String::new() } else { format!(", saying {last_line:?}") }
}

impl HookError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            HookError::Timeout { .. } | HookError::NoTime { .. } => {
                "give it a longer timeout (and grace), or set its onFailure to ignore"
            }
            _ => "correct the hook, or set its onFailure to ignore",
        }
    }
}

#[cfg(test)]
mod tests;

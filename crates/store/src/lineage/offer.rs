//! Which generation a start restores, or why it starts fresh: a pure decision over the name's record.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::attempt::ATTEMPTS;
use super::record::{Generation, Outcome, Program, Progress, Record, State};
use crate::id::ManifestId;
use crate::manifest::GenerationKind;

/// What a start after a crash does: after a signal ended the program, or nobody told how it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AfterCrash {
    /// It starts fresh.
    Fresh,
    /// It restores the last checkpoint the program left while it ran.
    #[default]
    Last,
    /// It fails, and leaves the decision to a person.
    Fail,
}

/// What a start does when no generation that should be restored can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnRestoreFailure {
    /// It starts fresh.
    #[default]
    Fresh,
    /// It fails.
    Fail,
}

/// What a start wants, and what it has found out so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// What the program is now.
    pub program: Program,
    /// What to do after a crash.
    pub after_crash: AfterCrash,
    /// What to do when nothing can be restored.
    pub on_restore_failure: OnRestoreFailure,
    /// Start fresh in any case.
    pub no_restore: bool,
    /// Restore even though the command, executable or image changed.
    pub allow_changed: bool,
    /// Take a template in place of a fresh start.
    pub templates: bool,
    /// Generations that cannot be restored here, with the reason: damaged, or refused by the check. Ask again with
    /// one more entry after a refusal.
    pub refused: BTreeMap<u64, String>,
}

/// What to do at a start, and which generations were passed over on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// What to do.
    pub decision: Decision,
    /// Which generations were considered and not taken, newest first.
    pub passed_over: Vec<PassedOver>,
}

/// What to do at a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Decision {
    /// Restore this generation.
    Restore {
        /// Its number.
        number: u64,
        /// Its manifest.
        manifest: ManifestId,
        /// Its kind.
        kind: GenerationKind,
        /// Why.
        because: Reason,
    },
    /// Start fresh.
    Fresh {
        /// Why.
        because: Reason,
    },
    /// Do not start.
    Fail {
        /// Why not.
        because: Reason,
    },
}

/// Why a start does what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Reason {
    /// The name never ran.
    FirstStart,
    /// A fresh start was asked for.
    Asked,
    /// The program was suspended.
    Suspended {
        /// In this epoch.
        epoch: u64,
    },
    /// The program ended by itself.
    Ended {
        /// In this epoch.
        epoch: u64,
        /// With this code.
        code: i32,
    },
    /// The program was killed by a signal.
    Crashed {
        /// In this epoch.
        epoch: u64,
        /// By this signal, if it is known.
        signal: Option<i32>,
    },
    /// Nobody told how the program ended: its node or its wrapper is gone.
    Lost {
        /// In this epoch.
        epoch: u64,
    },
    /// The program is not the one that was checkpointed.
    Changed {
        /// What differs.
        what: &'static str,
        /// From this generation.
        number: u64,
    },
    /// There is nothing to restore.
    NothingKept,
    /// All that is kept was passed over.
    NoneAllowed,
}

/// A generation that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// Its number.
    pub number: u64,
    /// Why not.
    pub because: Objection,
}

/// Why a generation is not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "objection", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Objection {
    /// It was resumed, and the program ran on from it.
    Spent {
        /// The epoch that resumed it.
        epoch: u64,
    },
    /// It is marked as failed.
    Failed {
        /// Why.
        text: String,
    },
    /// This start has tried it.
    FailedNow {
        /// Why it failed.
        text: String,
    },
    /// Earlier starts have tried it as often as is allowed.
    TooManyAttempts {
        /// How often.
        attempts: usize,
        /// Why the newest failed.
        text: String,
    },
    /// It cannot be restored here.
    Refused {
        /// Why not.
        text: String,
    },
    /// The program is not the one that was checkpointed.
    Changed {
        /// What differs.
        what: &'static str,
    },
}

/// Decides what a start in the record's newest epoch does.
#[must_use]
pub fn offer(record: &Record, wish: &Wish) -> Offer {
    let mut passed_over = Vec::new();
    let decision = decide(record, wish, &mut passed_over);
    Offer { decision, passed_over }
}

fn decide(record: &Record, wish: &Wish, passed_over: &mut Vec<PassedOver>) -> Decision {
    if wish.no_restore {
        return Decision::Fresh { because: Reason::Asked };
    }
    let after_crash = match record.progress {
        Progress::Suspended { epoch, .. } => {
            return newest(record, wish, Reason::Suspended { epoch }, passed_over);
        }
        Progress::New => return fresh(record, wish, Reason::FirstStart, passed_over),
        Progress::Ended { epoch, code, .. } => {
            return fresh(record, wish, Reason::Ended { epoch, code }, passed_over);
        }
        Progress::Crashed { epoch, signal, .. } => Reason::Crashed { epoch, signal },
        Progress::Running { epoch, .. } => Reason::Lost { epoch },
    };
    match wish.after_crash {
        AfterCrash::Fresh => fresh(record, wish, after_crash, passed_over),
        AfterCrash::Last => newest(record, wish, after_crash, passed_over),
        AfterCrash::Fail => Decision::Fail { because: after_crash },
    }
}

/// The newest generation without an objection, or what follows from there being none.
fn newest(record: &Record, wish: &Wish, because: Reason, passed_over: &mut Vec<PassedOver>) -> Decision {
    let mut failed = false;
    let line = record.generations.iter().rev().filter(|generation| {
        generation.kind != GenerationKind::Template && generation.number >= record.floor
    });
    for generation in line {
        let Some(objection) = objection(record.epoch, generation, wish) else {
            return restore(generation, because);
        };
        passed_over.push(PassedOver { number: generation.number, because: objection.clone() });
        match objection {
            // Older generations may match, but going back to one would skip what the newest holds.
            Objection::Changed { what } => {
                let because = Reason::Changed { what, number: generation.number };
                return fresh(record, wish, because, passed_over);
            }
            // The program went on from here: everything older lies behind.
            Objection::Spent { .. } => break,
            _ => failed = true,
        }
    }
    if failed && wish.on_restore_failure == OnRestoreFailure::Fail {
        return Decision::Fail { because: Reason::NoneAllowed };
    }
    let because = if passed_over.is_empty() { Reason::NothingKept } else { Reason::NoneAllowed };
    fresh(record, wish, because, passed_over)
}

/// A fresh start, or the newest template in place of one.
fn fresh(record: &Record, wish: &Wish, because: Reason, passed_over: &mut Vec<PassedOver>) -> Decision {
    if wish.templates {
        let templates =
            record.generations.iter().rev().filter(|generation| generation.kind == GenerationKind::Template);
        for template in templates {
            match objection(record.epoch, template, wish) {
                None => return restore(template, because),
                Some(because) => passed_over.push(PassedOver { number: template.number, because }),
            }
        }
    }
    Decision::Fresh { because }
}

fn restore(generation: &Generation, because: Reason) -> Decision {
    Decision::Restore {
        number: generation.number,
        manifest: generation.manifest,
        kind: generation.kind,
        because,
    }
}

/// What speaks against restoring a generation in `epoch`, if anything does.
fn objection(epoch: u64, generation: &Generation, wish: &Wish) -> Option<Objection> {
    match &generation.state {
        State::Failed { reason } => return Some(Objection::Failed { text: reason.clone() }),
        State::Resumed { epoch } if generation.kind == GenerationKind::Suspend && generation.is_settled() => {
            return Some(Objection::Spent { epoch: *epoch });
        }
        State::Resumed { .. } | State::Committed => {}
    }
    let tried_now =
        generation.attempts.iter().rev().take_while(|attempt| attempt.epoch == epoch).find_map(|attempt| {
            match &attempt.outcome {
                Outcome::Failed { reason } => Some(reason.clone()),
                _ => None,
            }
        });
    if let Some(text) = tried_now {
        return Some(Objection::FailedNow { text });
    }
    let attempts = generation.failed_attempts(epoch);
    if attempts >= ATTEMPTS {
        let text = generation.last_failure().unwrap_or("unknown").to_owned();
        return Some(Objection::TooManyAttempts { attempts, text });
    }
    if !wish.allow_changed
        && let Some(what) = generation.program.difference(&wish.program)
    {
        return Some(Objection::Changed { what });
    }
    wish.refused.get(&generation.number).map(|text| Objection::Refused { text: text.clone() })
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decision.fmt(f)?;
        for passed in &self.passed_over {
            write!(f, "; {passed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Restore { number, kind, because, .. } => {
                write!(f, "restore generation {number} ({kind}): {because}")
            }
            Decision::Fresh { because } => write!(f, "start fresh: {because}"),
            Decision::Fail { because } => write!(f, "do not start: {because}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::FirstStart => f.write_str("this is the first start of the name"),
            Reason::Asked => f.write_str("a fresh start was asked for"),
            Reason::Suspended { epoch } => write!(f, "the program was suspended in epoch {epoch}"),
            Reason::Ended { epoch, code } => {
                write!(f, "the program ended by itself in epoch {epoch}, with code {code}")
            }
            Reason::Crashed { epoch, signal: Some(signal) } => {
                write!(f, "signal {signal} ended the program in epoch {epoch}")
            }
            Reason::Crashed { epoch, signal: None } => write!(f, "the program died in epoch {epoch}"),
            Reason::Lost { epoch } => write!(f, "epoch {epoch} never told how the program ended"),
            Reason::Changed { what, number } => {
                write!(f, "the {what} changed since generation {number}")
            }
            Reason::NothingKept => f.write_str("nothing is kept that could be restored"),
            Reason::NoneAllowed => f.write_str("no generation that is kept can be restored"),
        }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} was passed over: {}", self.number, self.because)
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Spent { epoch } => write!(f, "epoch {epoch} resumed it"),
            Objection::Failed { text } => f.write_str(text),
            Objection::FailedNow { text } => write!(f, "this start tried it: {text}"),
            Objection::TooManyAttempts { attempts, text } => {
                write!(f, "{attempts} attempts failed, the last because {text}")
            }
            Objection::Refused { text } => write!(f, "it cannot be restored here: {text}"),
            Objection::Changed { what } => write!(f, "the {what} changed since"),
        }
    }
}

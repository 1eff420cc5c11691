//! Is a checkpoint whole, and would it restore?
//!
//! Each question has an answer with its reason. What cannot be known is called so.

use serde::Serialize;

use crate::Checkpoint;

mod contents;
mod here;
mod pages;
mod references;

pub use here::{PLUGIN_DIRECTORIES, Site, here};

/// What a question comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// It cannot be known.
    Unknown,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was asked, one word: stays the same over releases.
    pub topic: &'static str,
    /// What was asked, for people.
    pub question: &'static str,
    /// The answer.
    pub answer: Answer,
    /// Why it is so.
    pub reason: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What is wrong in particular.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// Something wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The entry.
    pub entry: String,
    /// Where in it, in bytes, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// Most faults that one finding tells.
const MAX_FAULTS: usize = 64;

impl Finding {
    /// A question that is answered with yes.
    #[must_use]
    pub fn yes(topic: &'static str, question: &'static str, reason: impl Into<String>) -> Self {
        Self { topic, question, answer: Answer::Yes, reason: reason.into(), remedy: None, faults: Vec::new() }
    }

    /// A question that is answered with no.
    #[must_use]
    pub fn no(
        topic: &'static str,
        question: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { answer: Answer::No, remedy, ..Self::yes(topic, question, reason) }
    }

    /// A question that cannot be answered.
    #[must_use]
    pub fn unknown(topic: &'static str, question: &'static str, reason: impl Into<String>) -> Self {
        Self { answer: Answer::Unknown, ..Self::yes(topic, question, reason) }
    }

    /// With what to do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// No for what is wrong, or yes where nothing is.
    fn of_faults(topic: &'static str, question: &'static str, good: String, mut faults: Vec<Fault>) -> Self {
        let count = faults.len();
        let Some(first) = faults.first() else { return Self::yes(topic, question, good) };
        let at = first.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
        let reason = format!("{}{at}: {}{more}", first.entry, first.problem);
        faults.truncate(MAX_FAULTS);
        let remedy = "use another copy, or an older checkpoint";
        Self { faults, ..Self::no(topic, question, reason, remedy) }
    }
}

/// Whether a checkpoint is whole: its place, its images, and its pages. Every body is read once.
#[must_use]
pub fn whole(checkpoint: &Checkpoint) -> Vec<Finding> {
    let mut findings = vec![contents::ending(checkpoint)];
    findings.extend(contents::readable(checkpoint));
    findings.push(references::well_formed(checkpoint));
    findings.push(references::complete(checkpoint));
    findings.push(pages::matching(checkpoint));
    findings.extend(pages::parents(checkpoint));
    findings
}

//! What a checkpoint of something that runs would meet, told without freezing anything.
//!
//! [`Seen`] is what `/proc` and the kernel tell of a process or container and all below it; [`findings`] is what that
//! means. Rules about what CRIU can dump: `criu/files.c`, `criu/sockets.c`, `criu/sk-inet.c`, `criu/namespaces.c`.

mod decision;
mod seen;

use std::time::Duration;

use serde::Serialize;
use torpor_criu::options::Tcp;

pub use decision::{Estimate, findings};
pub use seen::{OutlookError, Seen, Task};

/// What a question comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is so.
    Yes,
    /// It is not so, and stands in the way.
    No,
    /// It cannot be known.
    Unknown,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    pub remedy: Option<&'static str>,
}

/// What a checkpoint would be told, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What happens to TCP connections.
    pub tcp: Tcp,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// A terminal or session may be somebody else's.
    pub shell_job: bool,
    /// How long it may stand still.
    pub standstill: Option<Duration>,
    /// How long a checkpoint that ends it may take in all.
    pub grace: Option<Duration>,
}

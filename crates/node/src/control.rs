//! The control socket: how `torpor checkpoint`, `torpor wait` and programs beside the wrapper ask it for something.
//!
//! A Unix stream socket, one request a connection. The caller writes one line of JSON; lines of JSON come back, phases
//! first and one result last. `docs/control-socket.md` is the protocol's document. The HTTP endpoint ([`crate::http`])
//! hands over the same requests.
//!
//! Nothing here decides anything: a request is a value, [`Incoming`], that the wrapper's loop takes and answers when it
//! is done.

mod client;
mod server;
mod wire;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::status::Status;

pub use client::{Client, ClientError};
pub use server::{Server, ServerError};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// A checkpoint.
    Checkpoint {
        /// Whether the program runs on after it.
        #[serde(default)]
        leave_running: bool,
        /// Whether it may be restored many times. The program runs on.
        #[serde(default)]
        template: bool,
    },
    /// What the wrapper is doing.
    Status,
    /// An answer once no checkpoint and no restore is under way.
    Wait,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// A phase begins. More replies follow.
    Phase(PhaseReply),
    /// The result. Nothing follows.
    Outcome(Outcome),
}

/// A phase begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseReply {
    /// Its name, such as `capture`.
    pub phase: String,
    /// Milliseconds since the checkpoint began.
    pub elapsed_ms: u64,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// The checkpoint exists.
    Done {
        /// The name.
        name: String,
        /// The generation.
        generation: u64,
        /// Whether the program ended with it. A request to leave it running ends so where the trigger signal came in
        /// between.
        suspended: bool,
        /// Each phase and the milliseconds it took, in order.
        phases: Vec<(String, f64)>,
    },
    /// There is no checkpoint.
    Failed {
        /// Why.
        message: String,
        /// What to do about it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        remedy: Option<String>,
    },
    /// Nothing was begun.
    Refused {
        /// Why.
        message: String,
    },
    /// What the wrapper is doing.
    Status {
        /// As in the status file.
        status: Box<Status>,
    },
    /// No checkpoint and no restore is under way.
    Ready,
}

impl Outcome {
    /// A failure without a remedy.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Outcome {
        Outcome::Failed { message: message.into(), remedy: None }
    }

    /// A refusal.
    #[must_use]
    pub fn refused(reason: impl fmt::Display) -> Outcome {
        Outcome::Refused { message: reason.to_string() }
    }
}

/// A request on its way to the wrapper's loop.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked for.
    pub request: Request,
    /// Who asks, for the log: `uid 0` or an address.
    pub caller: String,
    /// Where the answer goes.
    pub replier: Replier,
}

/// Where the answer to a request goes. One that is dropped unanswered tells the caller that Torpor ended.
pub struct Replier {
    send: Option<Box<dyn FnMut(Reply) + Send>>,
}

impl Replier {
    /// A replier that gives each reply to `send`, which must not block.
    pub fn new(send: impl FnMut(Reply) + Send + 'static) -> Replier {
        Replier { send: Some(Box::new(send)) }
    }

    /// Tells that a phase begins, `elapsed` after the checkpoint did.
    pub fn phase(&mut self, name: &str, elapsed: Duration) {
        if let Some(send) = &mut self.send {
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            send(Reply::Phase(PhaseReply { phase: name.to_owned(), elapsed_ms }));
        }
    }

    /// Tells what became of the request.
    pub fn finish(mut self, outcome: Outcome) {
        if let Some(mut send) = self.send.take() {
            send(Reply::Outcome(outcome));
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(mut send) = self.send.take() {
            send(Reply::Outcome(Outcome::failed("torpor ended before it had an answer")));
        }
    }
}

impl fmt::Debug for Replier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier").field("open", &self.send.is_some()).finish()
    }
}

#[cfg(test)]
mod tests;

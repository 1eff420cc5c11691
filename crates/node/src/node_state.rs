//! The question whether the node shuts down, asked on the trigger signal.
//!
//! The protocol is crik's (qawolf/crik, internal/controller/node/server.go and internal/exec): `GET`, and an answer
//! `{"name": NODE, "state": "unknown" | "shutting-down"}`. crik's server, its client and its documentation each use
//! another path, so they are tried in turn: `/v1/nodes/NODE`, `/nodes/NODE`, `/node-state/NODE`. An answer about another
//! node (crik's server takes `nodes/NODE` for a name) is none. A URL that ends in `/nodes` or `/node-state` says which.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::config::{NodeStateConfig, NodeStateUnreachable, show_duration};

/// The state that means a suspend.
const SHUTTING_DOWN: &str = "shutting-down";
/// More than this is no answer.
const LONGEST_ANSWER: u64 = 64 << 10;

/// What the trigger signal leads to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether to suspend; otherwise the program gets the signal.
    pub suspend: bool,
    /// Why, for the log.
    pub reason: String,
}

/// What the server says.
#[derive(Debug)]
pub enum Answer {
    /// The node's state.
    State(String),
    /// Nothing that can be used.
    None(NodeStateError),
}

/// Asks, and decides. Takes as long as `config.timeout` at most.
#[must_use]
pub fn ask(config: &NodeStateConfig) -> Verdict {
    decide(&question(config), config.unreachable)
}

/// What an answer means.
#[must_use]
pub fn decide(answer: &Answer, unreachable: NodeStateUnreachable) -> Verdict {
    match answer {
        Answer::State(state) if state == SHUTTING_DOWN => {
            Verdict { suspend: true, reason: "the node is shutting down".into() }
        }
        Answer::State(state) => Verdict {
            suspend: false,
            reason: format!("the node is not shutting down, its state is {state:?}"),
        },
        Answer::None(error) => Verdict {
            suspend: unreachable == NodeStateUnreachable::Suspend,
            reason: format!("{}; nodeStateUnreachable is {unreachable}", told(error)),
        },
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Asks in a thread of its own, so that nothing in the system's resolver can hold up the suspend.
fn question(config: &NodeStateConfig) -> Answer {
    if config.node.is_empty() {
        return Answer::None(NodeStateError::NoNode);
    }
    let deadline = Instant::now() + config.timeout;
    let (send, answer) = mpsc::channel();
    let asked = config.clone();
    let thread = thread::Builder::new().name("node-state".into()).spawn(move || {
        // Nobody waits any more for an answer that comes too late.
        let _ = send.send(try_paths(&asked, deadline));
    });
    if let Err(source) = thread {
        return Answer::None(NodeStateError::Thread { source });
    }
    match answer.recv_timeout(config.timeout) {
        Ok(Ok(state)) => Answer::State(state),
        Ok(Err(error)) => Answer::None(error),
        Err(_) => Answer::None(NodeStateError::Slow { url: config.url.clone(), timeout: config.timeout }),
    }
}

fn try_paths(config: &NodeStateConfig, deadline: Instant) -> Result<String, NodeStateError> {
    let mut first_error = None;
    for url in urls(&config.url, &config.node) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NodeStateError::Slow { url: config.url.clone(), timeout: config.timeout });
        }
        match get(&url, left).and_then(|(status, body)| understand(&url, &config.node, status, &body)) {
            Ok(state) => return Ok(state),
            // Another path of the same server leads no further.
            Err(error @ NodeStateError::Unreachable { .. }) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "no answer to the node state question at this path");
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or(NodeStateError::NoNode))
}

/// Where to ask about `node`, in order.
fn urls(server: &str, node: &str) -> Vec<String> {
    let node = escape(node);
    let server = server.trim_end_matches('/');
    if server.ends_with("/nodes") || server.ends_with("/node-state") {
        return vec![format!("{server}/{node}")];
    }
    ["/v1/nodes", "/nodes", "/node-state"].iter().map(|path| format!("{server}{path}/{node}")).collect()
}

/// `name` as one segment of a URL's path: everything but the unreserved characters of RFC 3986 as `%XX`.
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

fn get(url: &str, timeout: Duration) -> Result<(u16, String), NodeStateError> {
    let wrong = |source| NodeStateError::Unreachable { url: url.to_owned(), source: Box::new(source) };
    // A proxy is for the program's way out of the cluster, and this is inside.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(wrong)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().map_err(wrong)?;
    Ok((status, body))
}

/// The state that `body` tells of `node`.
fn understand(url: &str, node: &str, status: u16, body: &str) -> Result<String, NodeStateError> {
    #[derive(Deserialize)]
    struct Body {
        name: Option<String>,
        state: String,
    }
    if status != 200 {
        return Err(NodeStateError::Status { url: url.to_owned(), status });
    }
    let body: Body =
        serde_json::from_str(body).map_err(|source| NodeStateError::Odd { url: url.to_owned(), source })?;
    match body.name {
        Some(name) if name != node => Err(NodeStateError::OtherNode { url: url.to_owned(), name }),
        _ => Ok(body.state),
    }
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeStateError {
    /// Nothing says which node this is.
    #[error("the node's name is not known: set KUBERNETES_NODE_NAME by the downward API, or nodeName")]
    NoNode,
    /// There is no connection, or it broke.
    #[error("cannot ask {url}")]
    Unreachable {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// No answer in time.
    #[error("{url} did not answer within {}", show_duration(*timeout))]
    Slow {
        /// The server.
        url: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The answer is no success.
    #[error("{url} answered with status {status}")]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is something else.
    #[error("the answer of {url} is no node state")]
    Odd {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is about another node.
    #[error("{url} answered about {name:?}")]
    OtherNode {
        /// The URL.
        url: String,
        /// The node it is about.
        name: String,
    },
    /// No thread could be started to ask.
    #[error("cannot start a thread to ask for the node state")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
mod tests;

//! When a program is ready: what it is waited for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use regex::Regex;

use crate::tcp::{self, State};

/// How long a program may take to answer once.
const PATIENCE: Duration = Duration::from_secs(2);

/// What tells that a program is ready.
#[derive(Debug, Clone)]
pub enum Condition {
    /// It listens on this TCP port.
    Port(u16),
    /// It answers at this address with a status below 400.
    Http(String),
    /// A line of what it says matches.
    Log(Regex),
    /// This shell command succeeds in its container.
    Exec(String),
}

/// Why a text is no condition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// It begins with none of the words.
    #[error("{text:?} is no condition")]
    Kind {
        /// The text.
        text: String,
    },
    /// It is no port.
    #[error("{text:?} is no TCP port")]
    Port {
        /// The text.
        text: String,
    },
    /// It is no address that can be asked.
    #[error("{text:?} is no address of HTTP's without TLS")]
    Address {
        /// The text.
        text: String,
    },
    /// It is no regular expression.
    #[error("{text:?} is no regular expression")]
    Expression {
        /// The text.
        text: String,
        /// Why not.
        #[source]
        source: regex::Error,
    },
}

impl ConditionError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            ConditionError::Kind { .. } => "write port:NUMBER, http:URL, log:REGEX or exec:COMMAND",
            ConditionError::Port { .. } => "write a number from 1 to 65535",
            ConditionError::Address { .. } => "write it as http://localhost:8080/ready",
            ConditionError::Expression { .. } => "put a backslash before what stands for itself, such as \\[",
        }
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let unknown = || ConditionError::Kind { text: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        match kind {
            "port" => match rest.parse() {
                Ok(port @ 1..) => Ok(Condition::Port(port)),
                _ => Err(ConditionError::Port { text: rest.to_owned() }),
            },
            "http" => {
                // `http:http://…`, and the address alone.
                let address = if rest.starts_with("//") { format!("http:{rest}") } else { rest.to_owned() };
                match address.parse::<ureq::http::Uri>() {
                    Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => {
                        Ok(Condition::Http(address))
                    }
                    _ => Err(ConditionError::Address { text: rest.to_owned() }),
                }
            }
            "log" => match Regex::new(rest) {
                Ok(expression) => Ok(Condition::Log(expression)),
                Err(source) => Err(ConditionError::Expression { text: rest.to_owned(), source }),
            },
            "exec" if !rest.trim().is_empty() => Ok(Condition::Exec(rest.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Port(port) => write!(f, "something listens on port {port}"),
            Condition::Http(address) => write!(f, "{address} answers"),
            Condition::Log(expression) => write!(f, "a line matches {expression}"),
            Condition::Exec(command) => write!(f, "`{command}` succeeds"),
        }
    }
}

/// Whether a process listens on a port, in the network namespace of the process `pid`. It is not connected to, which the program
/// would notice.
pub(crate) fn listens(pid: i32, port: u16) -> bool {
    let listening = |socket: &tcp::Socket| socket.state == State::Listening && socket.local.port() == port;
    tcp::of_namespace(pid).iter().any(listening)
}

/// Whether an address answers with success or elsewhere, asked from the network namespace of this thread.
pub(crate) fn answers(address: &str) -> bool {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .max_idle_connections(0)
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    agent.get(address).call().is_ok_and(|answer| answer.status().as_u16() < 400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::Loopback;

    #[test]
    fn conditions_are_words() {
        for (text, shown) in [
            ("port:6379", "something listens on port 6379"),
            ("http:http://localhost:8080/ready", "http://localhost:8080/ready answers"),
            ("http://127.0.0.1/", "http://127.0.0.1/ answers"),
            ("log:Ready to accept .*", "a line matches Ready to accept .*"),
            ("exec:redis-cli ping", "`redis-cli ping` succeeds"),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_condition_says_what_is() {
        for (text, said) in [
            ("ready", "is no condition"),
            ("exec:", "is no condition"),
            ("port:0", "is no TCP port"),
            ("port:http", "is no TCP port"),
            ("http:https://localhost/", "is no address"),
            ("http:/ready", "is no address"),
            ("log:(", "is no regular expression"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(!error.remedy().is_empty());
        }
    }

    #[test]
    fn an_address_answers_once_its_status_is_a_good_one() {
        let good = Loopback::start(|_| Some((204, String::new())));
        let bad = Loopback::start(|_| Some((503, String::new())));
        assert!(answers(&good.url));
        assert!(!answers(&bad.url));
        assert!(!answers("http://127.0.0.1:1/"));
    }

    #[test]
    fn a_port_is_seen_without_being_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = std::process::id() as i32;
        assert!(listens(pid, port));
        drop(listener);
        assert!(!listens(pid, port));
    }
}

//! What goes wrong in a session.

use std::io;
use std::path::PathBuf;

use rustix::process::Pid;

use super::{Ended, Event};
use crate::rpc::RequestKind;

/// CRIU could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No such program in [`SEARCH_PATH`](super::SEARCH_PATH).
    #[error("criu is not installed: there is no {} in {}", program.display(), super::SEARCH_PATH)]
    NotFound {
        /// The name looked for.
        program: PathBuf,
    },
    /// An argument or a part of the environment contains a zero byte.
    #[error("cannot start {}: zero byte in {what:?}", program.display())]
    ZeroByte {
        /// CRIU.
        program: PathBuf,
        /// The text.
        what: String,
    },
    /// A step of starting it failed.
    #[error("cannot start {}: cannot {step}", program.display())]
    Step {
        /// CRIU.
        program: PathBuf,
        /// The step.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "install criu 4.2 or newer, or name its path",
            Self::ZeroByte { .. } => "remove the zero byte",
            Self::Step { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "check the path, and that the program's loader is there",
                io::ErrorKind::PermissionDenied => {
                    "check the program's mode, and that the capabilities asked for are permitted here"
                }
                _ => "see the cause",
            },
        }
    }
}

/// A request was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// CRIU says so.
    #[error("criu: {request} failed{}{}", refused_text(refused.as_ref(), last.as_ref()), message_text(message.as_deref(), *errno))]
    Failed {
        /// What was asked for.
        request: RequestKind,
        /// CRIU's number for it: `ESRCH` no such process, `EEXIST` PID taken, `EBADRQC` bad options, `ENOTSUP` the
        /// CPU lacks features.
        errno: Option<i32>,
        /// The first error line of CRIU's log (CRIU 4.2 and newer).
        message: Option<String>,
        /// The last notification before.
        last: Option<Event>,
        /// The notification that our side refused, which is then the cause.
        refused: Option<Event>,
        /// The root of a tree that was being restored.
        root: Option<Pid>,
    },
    /// CRIU ended without an answer.
    #[error("criu {ended} during {request}{}", refused_text(None, last.as_ref()))]
    Died {
        /// What was asked for.
        request: RequestKind,
        /// How it ended.
        ended: Ended,
        /// The last notification before.
        last: Option<Event>,
    },
    /// The socket failed.
    #[error("lost criu during {request}")]
    Channel {
        /// What was asked for.
        request: RequestKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// CRIU sent something that is no message.
    #[error("criu's answer to {request} cannot be read")]
    Message {
        /// What was asked for.
        request: RequestKind,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// CRIU answered something else.
    #[error("criu answered {request} with an answer of type {answer}")]
    Unexpected {
        /// What was asked for.
        request: RequestKind,
        /// The answer's type, of [`RequestKind`].
        answer: i32,
    },
    /// CRIU's answer lacks what it is about.
    #[error("criu's answer to {request} lacks {lacks}")]
    Incomplete {
        /// What was asked for.
        request: RequestKind,
        /// The field.
        lacks: &'static str,
    },
    /// A directory for CRIU cannot be opened.
    #[error("cannot open directory {} for {request}", path.display())]
    Directory {
        /// What was asked for.
        request: RequestKind,
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A configuration file for CRIU cannot be read.
    #[error("cannot read criu's configuration file {} for {request}", path.display())]
    ConfigFile {
        /// What was asked for.
        request: RequestKind,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SessionError {
    /// What was asked for.
    #[must_use]
    pub fn request(&self) -> RequestKind {
        match self {
            Self::Failed { request, .. }
            | Self::Died { request, .. }
            | Self::Channel { request, .. }
            | Self::Message { request, .. }
            | Self::Unexpected { request, .. }
            | Self::Incomplete { request, .. }
            | Self::Directory { request, .. }
            | Self::ConfigFile { request, .. } => *request,
        }
    }

    /// The last notification that CRIU sent before.
    #[must_use]
    pub fn last_event(&self) -> Option<&Event> {
        match self {
            Self::Failed { last, .. } | Self::Died { last, .. } => last.as_ref(),
            _ => None,
        }
    }

    /// The notification that our side refused.
    #[must_use]
    pub fn refused(&self) -> Option<&Event> {
        match self {
            Self::Failed { refused, .. } => refused.as_ref(),
            _ => None,
        }
    }

    /// Whether CRIU ended without an answer, so that it could not clean up behind itself.
    #[must_use]
    pub fn criu_died(&self) -> bool {
        matches!(self, Self::Died { .. })
    }

    /// What to do about it, as far as this error alone tells; the log's diagnosis tells more.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Failed { refused: Some(_), .. } => "see why the step was refused",
            Self::Failed { errno: Some(libc::ESRCH), .. } => {
                "the process has ended; there is nothing to freeze"
            }
            Self::Failed { errno: Some(libc::EEXIST), .. } => {
                "a PID of the program is taken; restore in a new PID namespace, or end the process that has it"
            }
            Self::Failed { errno: Some(libc::EBADRQC), .. } => {
                "criu does not take these options; check its version and those given to it"
            }
            Self::Failed { .. } => "see criu's log",
            Self::Died { ended: Ended::Signal(libc::SIGKILL), .. } => {
                "criu was killed, by a person or for want of memory; see the kernel's log"
            }
            Self::Died { .. } => "see criu's log and its standard error",
            Self::Channel { .. } => "see the cause",
            Self::Message { .. } | Self::Unexpected { .. } | Self::Incomplete { .. } => {
                "use criu 4.2 or newer, and check that the program is criu"
            }
            Self::Directory { .. } | Self::ConfigFile { .. } => "create it, or name another",
        }
    }
}

fn refused_text(refused: Option<&Event>, last: Option<&Event>) -> String {
    match (refused, last) {
        (Some(event), _) => format!(" because {event} was refused"),
        (None, Some(event)) => format!(" after {event}"),
        (None, None) => String::new(),
    }
}

fn message_text(message: Option<&str>, errno: Option<i32>) -> String {
    match (message, errno) {
        (Some(message), _) => format!(": {message}"),
        (None, Some(errno)) => format!(": {}", io::Error::from_raw_os_error(errno)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: Option<&str>, errno: Option<i32>, refused: Option<Event>) -> SessionError {
        SessionError::Failed {
            request: RequestKind::Dump,
            errno,
            message: message.map(str::to_owned),
            last: Some(Event::NetworkLock),
            refused,
            root: None,
        }
    }

    #[test]
    fn failures_say_how_far_criu_got_and_why() {
        for (error, text) in [
            (failed(Some("Can't lock"), None, None), "criu: dump failed after network-lock: Can't lock"),
            (
                failed(None, Some(libc::ESRCH), None),
                "criu: dump failed after network-lock: No such process (os error 3)",
            ),
            (failed(None, None, Some(Event::PostDump)), "criu: dump failed because post-dump was refused"),
            (
                SessionError::Died { request: RequestKind::Restore, ended: Ended::Signal(9), last: None },
                "criu was killed by signal 9 during restore",
            ),
        ] {
            assert_eq!(error.to_string(), text);
            assert!(!error.remedy().is_empty());
        }
    }
}

//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

use torpor_store::name::NameError;

use super::given::Place;
use super::quantity::QuantityError;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is there, or was asked for, and cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no YAML.
    #[error("cannot understand the configuration file {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// The file is YAML, but no mapping.
    #[error("the configuration file {} is no mapping of keys to values", path.display())]
    NotMapping {
        /// The file.
        path: PathBuf,
    },
    /// A key of the file is no setting.
    #[error("unknown key {key} in the configuration file {}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A value cannot be understood.
    #[error("{place}: {source}")]
    Value {
        /// Which setting, and where it was given.
        place: Place,
        /// Why.
        source: ValueError,
    },
    /// Two settings contradict each other.
    #[error("{one} and {other} cannot be used together")]
    Conflict {
        /// One of them.
        one: Place,
        /// The other.
        other: Place,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A setting needs another one.
    #[error("{one} needs {other}")]
    Needs {
        /// The one that was given.
        one: Place,
        /// The key of the other.
        other: &'static str,
        /// What for.
        remedy: &'static str,
    },
    /// No program was named.
    #[error("no program to run was given")]
    NoProgram,
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            ConfigError::Read { .. } => {
                Some("check its path and permissions, or name another with --config-path".into())
            }
            ConfigError::Parse { .. } => None,
            ConfigError::NotMapping { .. } => Some("write one `key: value` a line".into()),
            ConfigError::UnknownKey { nearest, .. } => Some(match nearest {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => {
                    "`torpor run --help` lists all keys, as flags: onRestoreFailure is --on-restore-failure"
                        .into()
                }
            }),
            ConfigError::Value { source, .. } => source.remedy(),
            ConfigError::Conflict { remedy, .. } | ConfigError::Needs { remedy, .. } => {
                Some((*remedy).into())
            }
            ConfigError::NoProgram => {
                Some("write it after two dashes: `torpor run -- program arguments`".into())
            }
        }
    }
}

/// Why a value cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Another kind of YAML value was expected.
    #[error("{expected} is expected, not {found}")]
    Kind {
        /// What is expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Not one of the words.
    #[error("{found:?} is none of {}", allowed.join(", "))]
    Word {
        /// What is there.
        found: String,
        /// What may be there.
        allowed: &'static [&'static str],
    },
    /// Not a duration, size, port map or signal.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// Not a number in the range.
    #[error("{found:?} is no whole number from {least} to {most}")]
    Number {
        /// What is there.
        found: String,
        /// The least that may be there.
        least: u64,
        /// The most that may be there.
        most: u64,
    },
    /// Not an absolute path.
    #[error("{found:?} is no absolute path")]
    Path {
        /// What is there.
        found: String,
    },
    /// Not a URL Torpor understands here.
    #[error("{found:?} is not understood here: {problem}")]
    Url {
        /// What is there.
        found: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not an address with a port.
    #[error("{found:?} is no address with a port")]
    Address {
        /// What is there.
        found: String,
    },
    /// Not `PATH=POLICY`.
    #[error("{found:?} is no rule for a mount")]
    VolumeRule {
        /// What is there.
        found: String,
    },
    /// The signal cannot be caught.
    #[error("{signal} cannot be caught")]
    Uncatchable {
        /// The signal.
        signal: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A hook has no action, more than one, or an unknown key.
    #[error("this is no hook: {problem}")]
    Hook {
        /// What is wrong with it.
        problem: String,
    },
    /// It must not be zero.
    #[error("it must be more than nothing")]
    Zero,
}

impl ValueError {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            ValueError::Path { .. } => "write the path from the root, beginning with /",
            ValueError::Address { .. } => "write 127.0.0.1:8089 or [::]:8089",
            ValueError::VolumeRule { .. } => "write PATH=carry, PATH=leave or PATH=refuse",
            ValueError::Uncatchable { .. } => "choose another signal, such as SIGTERM or SIGUSR1",
            ValueError::Hook { .. } => {
                "give it one of command, http and signal, and optionally timeout and onFailure"
            }
            ValueError::Name(error) => error.remedy(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

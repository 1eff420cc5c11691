//! Why a draft cannot take something in, or be finished.

use crate::backend::BackendError;
use crate::read::ReadError;

/// Why data cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// The place failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Something that is needed cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The data's source failed.
    #[error("cannot read {what}")]
    Source {
        /// What was being read.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An earlier part could not be written, which was reported then.
    #[error("the checkpoint is broken: an earlier part of it was not written")]
    Broken,
    /// What was given cannot be kept: beyond a limit of the format, or twice.
    #[error("cannot keep {what}: {reason}")]
    Refused {
        /// What was given.
        what: String,
        /// Why it cannot be kept.
        reason: String,
    },
}

impl DraftError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.remedy(),
            Self::Read(error) => error.remedy(),
            Self::Source { .. } => "check the file and the program that uses it, and checkpoint again",
            Self::Broken => "checkpoint again, after the first error is seen to",
            Self::Refused { .. } => "leave it out of the checkpoint, or report it",
        }
    }
}

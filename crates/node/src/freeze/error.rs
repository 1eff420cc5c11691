//! Why a tree of processes cannot be captured.

use std::io;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::{self, Diagnosis, Operation};
use torpor_criu::image::ImageError;
use torpor_criu::log::Log;
use torpor_criu::session::{Ended, SessionError, StartError};
use torpor_store::DraftError;

use crate::order::Expired;

/// Why a tree of processes cannot be captured. It runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// CRIU cannot be started.
    #[error("CRIU cannot be started")]
    Start(#[from] StartError),
    /// CRIU failed, and its log says why.
    #[error("CRIU cannot dump it: {}", .diagnosis.cause)]
    Dump {
        /// What the log says.
        diagnosis: Box<Diagnosis>,
        /// What CRIU answered: no cause of its own, because it quotes the log's first error, whatever that is.
        answer: Box<SessionError>,
    },
    /// CRIU failed before it wrote a log, or was killed.
    #[error("CRIU cannot dump it")]
    Session(#[from] SessionError),
    /// CRIU came to no end and was killed.
    #[error("CRIU came to no end in the time it had")]
    Stuck,
    /// CRIU said that it was done without having said that everything is dumped.
    #[error("CRIU ended the dump without a word on its end")]
    NoPostDump,
    /// CRIU was killed while it held what was to end.
    #[error("CRIU {0} while it held what was to end")]
    Released(Ended),
    /// A thread, the guard or the socket for pages cannot be had.
    #[error("cannot {doing}")]
    Helper {
        /// What was to be done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Images cannot be written or read.
    #[error("cannot use {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pagemap of CRIU's cannot be read.
    #[error("{} cannot be read", path.display())]
    Pagemap {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// CRIU left memory in a process that is not there.
    #[error("{} tells of memory of a process that is gone", .0.display())]
    NoProcess(PathBuf),
    /// The store does not take the data.
    #[error("the store does not take the checkpoint")]
    Draft(#[from] DraftError),
    /// Its time is over.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// Another tree that was to be captured at the same moment cannot be.
    #[error("what was to be captured at the same moment cannot be")]
    OtherFailed,
}

impl FreezeError {
    /// An error of the place `path`.
    pub(super) fn place(path: &Path) -> impl Fn(io::Error) -> FreezeError {
        move |source| FreezeError::Place { path: path.to_owned(), source }
    }

    /// An error of what takes pages: the store's, or of the place where images are.
    pub(super) fn of_sink(images: &Path, source: io::Error) -> FreezeError {
        match source.downcast::<DraftError>() {
            Ok(error) => FreezeError::Draft(error),
            Err(source) => FreezeError::place(images)(source),
        }
    }

    /// An error of a helper.
    pub(super) fn helper(doing: &'static str) -> impl Fn(io::Error) -> FreezeError {
        move |source| FreezeError::Helper { doing, source }
    }

    /// Adds what CRIU's log says, where CRIU was the one that failed.
    #[must_use]
    pub fn with_log(self, log: &Path) -> FreezeError {
        match self {
            // The log of a CRIU that was killed tells nothing of that.
            FreezeError::Session(SessionError::Died { .. }) => self,
            FreezeError::Session(answer) if answer.refused().is_none() => match std::fs::read(log) {
                Ok(log) => FreezeError::Dump {
                    diagnosis: Box::new(diagnosis::diagnose(Operation::Checkpoint, &Log::from_bytes(&log))),
                    answer: Box::new(answer),
                },
                Err(_) => FreezeError::Session(answer),
            },
            other => other,
        }
    }

    /// What CRIU's log says, where it was asked.
    #[must_use]
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        match self {
            FreezeError::Dump { diagnosis, .. } => Some(diagnosis),
            _ => None,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            FreezeError::Start(error) => error.remedy().to_owned(),
            FreezeError::Dump { diagnosis, .. } => diagnosis.remedy.to_string(),
            FreezeError::Session(error) => error.remedy().to_owned(),
            FreezeError::Stuck => "see whether a process of it hangs in the kernel (state D)".to_owned(),
            FreezeError::NoPostDump | FreezeError::Pagemap { .. } | FreezeError::NoProcess(_) => {
                "run `torpor doctor` to see whether this CRIU works here".to_owned()
            }
            FreezeError::Released(_) => {
                "try again; if memory was short (see the kernel's log), raise the limit".to_owned()
            }
            FreezeError::Helper { .. } => "raise the limits on processes and descriptors".to_owned(),
            FreezeError::Place { .. } => {
                "make it writable, free space there, or name another place".to_owned()
            }
            FreezeError::Draft(error) => error.remedy().to_owned(),
            FreezeError::Expired(_) => "give it more time, or a faster place for the checkpoint".to_owned(),
            FreezeError::OtherFailed => "see why that one failed".to_owned(),
        }
    }
}

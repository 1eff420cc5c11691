//! Why a checkpoint cannot be made.

use std::io;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::{self, Diagnosis, Operation};
use torpor_criu::image::ImageError;
use torpor_criu::log::Log;
use torpor_criu::session::{SessionError, StartError};
use torpor_store::lineage::LineageError;
use torpor_store::{DraftError, OpenError};

use super::check::Obstacle;
use super::order::Expired;
use crate::deadline::Fit;
use crate::facts::FactsError;
use crate::files::FilesError;
use crate::files::inotify::AsideError;
use crate::hooks::HookError;
use crate::open_files::OpenFilesError;
use crate::volumes::VolumeError;

/// Why a checkpoint cannot be made. The program runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Something about the program stands in the way, seen before the freeze.
    #[error("{0}")]
    Obstacle(Obstacle),
    /// Its time is over.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// CRIU failed, and its log says why.
    #[error("CRIU cannot dump the program: {}", .diagnosis.cause)]
    Dump {
        /// What the log says.
        diagnosis: Box<Diagnosis>,
        /// What CRIU answered: no cause of its own, because it quotes the log's first error, whatever that is.
        answer: Box<SessionError>,
    },
    /// CRIU failed before it wrote a log.
    #[error("CRIU cannot dump the program")]
    Session(#[from] SessionError),
    /// CRIU cannot be started.
    #[error("CRIU cannot be started")]
    Criu(#[from] StartError),
    /// CRIU said that it was done without having said that everything is dumped.
    #[error("CRIU ended the dump without a word on its end")]
    NoPostDump,
    /// CRIU was killed while it held the program.
    #[error("CRIU {0} while it held the program")]
    Released(torpor_criu::session::Ended),
    /// The page server's socket or thread cannot be had.
    #[error("the page server cannot be started")]
    PageSocket(#[source] io::Error),
    /// No guard can be started.
    #[error("the guard cannot be started")]
    Guard(#[source] io::Error),
    /// The staging directory cannot be used.
    #[error("the staging directory {} cannot be used", path.display())]
    Staging {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
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
    /// The name's record does not take the generation.
    #[error("the checkpoint cannot be published")]
    Lineage(#[from] LineageError),
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] OpenError),
    /// Files cannot be copied.
    #[error("the program's files cannot be copied")]
    Files(#[from] FilesError),
    /// What the program has open cannot be told.
    #[error("what the program has open cannot be told")]
    OpenFiles(#[from] OpenFilesError),
    /// A file outside of the capture cannot be recorded.
    #[error("a file outside of the capture cannot be recorded")]
    Volume(#[from] VolumeError),
    /// Paths that inotify watches cannot be set aside or put back.
    #[error("a path of inotifyIncompatiblePaths cannot be set aside")]
    Inotify(#[from] AsideError),
    /// What is known of the program cannot be written down.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// What is left of the grace period is too little to try.
    #[error("{0}")]
    NoTime(Fit),
    /// A preCheckpoint hook failed.
    #[error("a preCheckpoint hook failed")]
    Hook(#[from] HookError),
    /// There is no such process any more.
    #[error("the program has ended")]
    Ended(#[from] crate::process_tree::Gone),
}

impl CheckpointError {
    /// An error of the staging directory at `path`.
    pub(super) fn staging(path: &Path) -> impl Fn(io::Error) -> CheckpointError {
        move |source| CheckpointError::Staging { path: path.to_owned(), source }
    }

    /// Adds what CRIU's log says, where CRIU was the one that failed.
    pub(super) fn with_log(self, log: &Path) -> CheckpointError {
        match self {
            // The log of a CRIU that was killed tells nothing of that.
            CheckpointError::Session(SessionError::Died { .. }) => self,
            CheckpointError::Session(source) if source.refused().is_none() => match std::fs::read(log) {
                Ok(log) => CheckpointError::Dump {
                    diagnosis: Box::new(diagnosis::diagnose(Operation::Checkpoint, &Log::from_bytes(&log))),
                    answer: Box::new(source),
                },
                Err(_) => CheckpointError::Session(source),
            },
            other => other,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            CheckpointError::Obstacle(obstacle) => obstacle.remedy().to_owned(),
            CheckpointError::Hook(error) => error.remedy().to_owned(),
            CheckpointError::Expired(_) | CheckpointError::NoTime(_) => {
                "raise the grace period (terminationGracePeriodSeconds and --grace), or \
                checkpoint periodically with --every so that little is left to store at the end"
                    .to_owned()
            }
            CheckpointError::Dump { diagnosis, .. } => diagnosis.remedy.to_string(),
            CheckpointError::Session(error) => error.remedy().to_owned(),
            CheckpointError::Criu(error) => error.remedy().to_owned(),
            CheckpointError::Released(_) => {
                "try again; if memory was short (see the kernel's log), lower --memory-budget or raise the limit"
                    .to_owned()
            }
            CheckpointError::NoPostDump
            | CheckpointError::Pagemap { .. }
            | CheckpointError::NoProcess(_) => {
                "run `torpor doctor` to see whether this CRIU works here".to_owned()
            }
            CheckpointError::PageSocket(_) | CheckpointError::Guard(_) => {
                "raise the container's limits on processes and descriptors".to_owned()
            }
            CheckpointError::Staging { .. } => "make it writable, or free space there".to_owned(),
            CheckpointError::Draft(error) => error.remedy().to_owned(),
            CheckpointError::Lineage(error) => error.remedy().to_string(),
            CheckpointError::Store(error) => error.remedy().to_string(),
            CheckpointError::Files(error) => error.remedy().to_owned(),
            CheckpointError::OpenFiles(error) => error.remedy().to_owned(),
            CheckpointError::Volume(error) => error.remedy().to_owned(),
            CheckpointError::Inotify(error) => error.remedy().to_owned(),
            CheckpointError::Facts(_) => "name files and directories in Unicode".to_owned(),
            CheckpointError::Ended(_) => "look at the program's own output for the reason".to_owned(),
        }
    }

    /// Whether a newer start has taken the name over, so that no further checkpoint can succeed.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, CheckpointError::Lineage(LineageError::Fenced { .. }))
    }
}

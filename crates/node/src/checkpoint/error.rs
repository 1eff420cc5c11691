//! Why a checkpoint cannot be made.

use std::io;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::Diagnosis;
use torpor_store::lineage::LineageError;
use torpor_store::{DraftError, OpenError};

use super::check::Obstacle;
use crate::deadline::Fit;
use crate::facts::FactsError;
use crate::files::FilesError;
use crate::files::inotify::AsideError;
use crate::freeze::FreezeError;
use crate::hooks::HookError;
use crate::open_files::OpenFilesError;
use crate::order::Expired;
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
    /// The program cannot be captured.
    #[error(transparent)]
    Freeze(FreezeError),
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

    /// What CRIU's log says, where CRIU was the one that failed.
    #[must_use]
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        match self {
            CheckpointError::Freeze(error) => error.diagnosis(),
            _ => None,
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
            CheckpointError::Freeze(error) => error.remedy(),
            CheckpointError::Guard(_) => {
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

impl From<FreezeError> for CheckpointError {
    fn from(error: FreezeError) -> CheckpointError {
        match error {
            FreezeError::Expired(expired) => CheckpointError::Expired(expired),
            FreezeError::Draft(error) => CheckpointError::Draft(error),
            error => CheckpointError::Freeze(error),
        }
    }
}

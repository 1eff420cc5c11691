//! Why `torpor run` comes to nothing.

use std::io;
use std::path::PathBuf;

use torpor_store::lineage::{LineageError, Reason};
use torpor_store::name::NameError;

use crate::control::ServerError;
use crate::files::FilesError;
use crate::files::inotify::AsideError;
use crate::hooks::HookError;
use crate::launch::LaunchError;
use crate::mounts::{MountsError, PolicyError};
use crate::restore::RestoreError;
use crate::seccomp::SeccompError;
use crate::status::StatusError;
use crate::streams::StreamError;

/// Why `torpor run` comes to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrapperError {
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name's record does not allow it.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The program cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The seccomp profile cannot be applied.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A standard stream cannot be had.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The mounts cannot be read.
    #[error("the mounts cannot be read")]
    Mounts(#[from] MountsError),
    /// A rule for mounts does not fit them.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The files at the start cannot be read.
    #[error("the files of the container cannot be read")]
    Files(#[from] FilesError),
    /// A path that an earlier start took away cannot be put back.
    #[error("a path that an earlier start took away cannot be put back")]
    Aside(#[from] AsideError),
    /// The staging directory cannot be made.
    #[error("the staging directory {} cannot be made", path.display())]
    Staging {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] ServerError),
    /// The status file cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A hook failed whose failure counts.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Nothing could be restored, and a fresh start was not wanted then.
    #[error("{because}; no fresh start was made")]
    NotRestored {
        /// Why not, by the record.
        because: Reason,
        /// Why the last generation tried could not be restored.
        #[source]
        source: Option<Box<RestoreError>>,
    },
    /// Only a restore was asked for, and there is nothing to restore.
    #[error("there is nothing to restore: {because}")]
    NoProgram {
        /// Why.
        because: Reason,
    },
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// The system does not tell what became of the program.
    #[error("the system does not tell what became of the program")]
    Wait(#[source] io::Error),
}

impl WrapperError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            WrapperError::Name(error) => error.remedy().to_owned(),
            WrapperError::Lineage(error) => error.remedy().to_string(),
            WrapperError::Seccomp(error) => error.remedy().into(),
            WrapperError::Launch(error) => error.remedy().to_owned(),
            WrapperError::Mounts(error) => error.remedy().to_owned(),
            WrapperError::Policy(error) => error.remedy().to_owned(),
            WrapperError::Files(error) => error.remedy().to_owned(),
            WrapperError::Aside(error) => error.remedy().to_owned(),
            WrapperError::Control(error) => error.remedy().to_owned(),
            WrapperError::Hook(error) => error.remedy().to_owned(),
            WrapperError::Staging { .. } => {
                "make it writable, or choose another place with TORPOR_RUNTIME_DIR".to_owned()
            }
            WrapperError::NotRestored { source: Some(error), .. } => {
                format!("{}; or start fresh with --no-restore or --on-restore-failure fresh", error.remedy())
            }
            WrapperError::NotRestored { source: None, .. } => {
                "start fresh with --no-restore, or look at `torpor show`".to_owned()
            }
            WrapperError::NoProgram { .. } => "name the program to start: torpor run -- PROGRAM".to_owned(),
            WrapperError::Stream(_)
            | WrapperError::Status(_)
            | WrapperError::Signals(_)
            | WrapperError::Thread(_)
            | WrapperError::Wait(_) => return None,
        })
    }

    /// The exit code that shells give for it, if they have one.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            WrapperError::Launch(error) => Some(error.exit_code()),
            _ => None,
        }
    }
}

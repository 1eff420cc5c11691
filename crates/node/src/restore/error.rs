//! Why a generation cannot be restored.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use torpor_criu::diagnosis::{self, Diagnosis, Operation};
use torpor_criu::image::ImageError;
use torpor_criu::image::edit::EditError;
use torpor_criu::log::Log;
use torpor_criu::session::{SessionError, StartError};
use torpor_store::ReadError;
use torpor_store::lineage::LineageError;

use super::check::Misfit;
use crate::facts::FactsError;
use crate::files::layout::LayoutError;
use crate::hooks::HookError;
use crate::status::StatusError;
use crate::streams::StreamError;
use crate::volumes::VolumeError;

/// Why a generation cannot be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It does not fit this machine or container; nothing was touched.
    #[error("{0}")]
    Misfit(Misfit),
    /// CRIU failed, and its log says why.
    #[error("CRIU cannot restore the program: {}", .diagnosis.cause)]
    Restore {
        /// What the log says.
        diagnosis: Box<Diagnosis>,
        /// What CRIU answered: no cause of its own, because it quotes the log's first error, whatever that is.
        answer: Box<SessionError>,
    },
    /// CRIU failed before it wrote a log.
    #[error("CRIU cannot restore the program")]
    Session(#[from] SessionError),
    /// CRIU cannot be started.
    #[error("CRIU cannot be started")]
    Criu(#[from] StartError),
    /// The record knows no such generation any more.
    #[error("generation {number} is gone")]
    Gone {
        /// Its number.
        number: u64,
    },
    /// A postRestore hook failed.
    #[error("a postRestore hook failed")]
    Hook(#[from] HookError),
    /// The status file cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// No guard can be started.
    #[error("the guard cannot be started")]
    Guard(#[source] io::Error),
    /// A standard stream cannot be had.
    #[error(transparent)]
    Streams(#[from] StreamError),
    /// A standard stream cannot be passed on.
    #[error("a standard stream cannot be passed on")]
    Stream(#[source] io::Error),
    /// The staging directory cannot be used.
    #[error("the staging directory {} cannot be used", path.display())]
    Staging {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// CRIU did not come to an end.
    #[error("CRIU did not restore the program within {} s and was killed", after.as_secs())]
    TooLong {
        /// How long it was let.
        after: Duration,
    },
    /// What would kill a CRIU that comes to no end cannot be started.
    #[error("the watch over CRIU cannot be started")]
    Watchdog(#[source] io::Error),
    /// Memory was not laid out as the checkpoint says.
    #[error("pages-{number}.img has {length} bytes where the checkpoint has {expected}")]
    ShortPages {
        /// The number in the file's name.
        number: u32,
        /// How long it is, in bytes.
        length: u64,
        /// How long it has to be, in bytes.
        expected: u64,
    },
    /// The checkpoint cannot be read.
    #[error("the checkpoint cannot be read")]
    Read(#[from] ReadError),
    /// The program's sockets cannot be changed as asked.
    #[error("the program's sockets cannot be moved")]
    Sockets(#[from] EditError),
    /// An image of CRIU's is damaged.
    #[error("an image of the checkpoint cannot be read")]
    Image(#[from] ImageError),
    /// Files cannot be put back.
    #[error("the program's files cannot be put back")]
    Layout(#[from] LayoutError),
    /// A file outside of the checkpoint cannot be looked at.
    #[error("a file outside of the checkpoint cannot be looked at")]
    Volume(#[from] VolumeError),
    /// What is known of the program cannot be read.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The name's record does not allow it.
    #[error("the restore cannot be recorded")]
    Lineage(#[from] LineageError),
}

impl RestoreError {
    /// An error of the staging directory at `path`.
    pub(super) fn staging(path: &Path) -> impl Fn(io::Error) -> RestoreError {
        move |source| RestoreError::Staging { path: path.to_owned(), source }
    }

    /// Adds what CRIU's log says, where CRIU was the one that failed.
    pub(super) fn with_log(self, log: &Path) -> RestoreError {
        match self {
            // The log of a CRIU that was killed tells nothing of that.
            RestoreError::Session(SessionError::Died { .. }) => self,
            RestoreError::Session(source) => match std::fs::read(log) {
                Ok(log) => {
                    let diagnosis = diagnosis::diagnose(Operation::Restore, &Log::from_bytes(&log));
                    RestoreError::Restore { diagnosis: Box::new(diagnosis), answer: Box::new(source) }
                }
                Err(_) => RestoreError::Session(source),
            },
            other => other,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            RestoreError::Misfit(misfit) => misfit.remedy(),
            RestoreError::Restore { diagnosis, .. } => diagnosis.remedy.clone(),
            RestoreError::Session(error) => error.remedy().to_owned(),
            RestoreError::Criu(error) => error.remedy().to_owned(),
            RestoreError::Gone { .. } => "`torpor ls` lists what there is".to_owned(),
            RestoreError::Hook(error) => error.remedy().to_owned(),
            RestoreError::Status(_) => {
                "make its directory writable, or choose another --status-file".to_owned()
            }
            RestoreError::Watchdog(_)
            | RestoreError::Guard(_)
            | RestoreError::Streams(_)
            | RestoreError::Stream(_) => {
                "raise the container's limits on processes and descriptors".to_owned()
            }
            RestoreError::Staging { .. } => "make it writable, or free space there".to_owned(),
            RestoreError::Read(error) => error.remedy().to_owned(),
            RestoreError::Sockets(error) => error.remedy().to_owned(),
            RestoreError::TooLong { .. } => {
                "look at the load of this machine; `torpor doctor` tells whether this CRIU works here"
                    .to_owned()
            }
            RestoreError::Image(_) | RestoreError::ShortPages { .. } => {
                "check the store with `torpor verify`, and restore an earlier generation".to_owned()
            }
            RestoreError::Layout(error) => error.remedy().to_owned(),
            RestoreError::Volume(error) => error.remedy().to_owned(),
            RestoreError::Facts(_) => "use the torpor that wrote the checkpoint, or a newer one".to_owned(),
            RestoreError::Lineage(error) => error.remedy().to_string(),
        }
    }

    /// The lines of CRIU's log that say why, if CRIU failed.
    #[must_use]
    pub fn log_lines(&self) -> &[String] {
        match self {
            RestoreError::Restore { diagnosis, .. } => &diagnosis.lines,
            _ => &[],
        }
    }
}

//! Why an operation on a name is refused.

use jiff::Timestamp;

use super::record::{Holder, RecordError};
use crate::backend::BackendError;
use crate::id::ManifestId;
use crate::name::{Name, NameError};
use crate::read::ReadError;

/// Why an operation on a name is refused. Every variant names the name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// Somebody else runs under this name.
    #[error("{name} is held by {}, whose lease lasts until {until:.0}", describe(.holder))]
    Held {
        /// The name.
        name: Name,
        /// Who holds it.
        holder: Box<Holder>,
        /// Until when, by the store's clock.
        until: Timestamp,
    },
    /// A newer start has taken the name over: what this one makes is not kept.
    #[error("epoch {epoch} of {name} is over: epoch {newest} was begun by {}", .holder.as_deref().map_or_else(|| "nobody known".to_owned(), describe))]
    Fenced {
        /// The name.
        name: Name,
        /// The epoch that is over.
        epoch: u64,
        /// The newest.
        newest: u64,
        /// Who began it.
        holder: Option<Box<Holder>>,
    },
    /// The store knows nothing of the name.
    #[error("the store has no checkpoint of {name}")]
    NoSuchName {
        /// The name.
        name: Name,
    },
    /// The name has no such generation.
    #[error("{name} has no generation {number}")]
    NoSuchGeneration {
        /// The name.
        name: Name,
        /// The number.
        number: u64,
    },
    /// A suspend generation is resumed once, and this one was.
    #[error("generation {number} of {name} was resumed by epoch {epoch} already")]
    Spent {
        /// The name.
        name: Name,
        /// The generation.
        number: u64,
        /// The epoch that resumed it.
        epoch: u64,
    },
    /// All allowed attempts to restore it failed.
    #[error("{attempts} attempts to restore generation {number} of {name} failed")]
    TooManyAttempts {
        /// The name.
        name: Name,
        /// The generation.
        number: u64,
        /// How many were made.
        attempts: usize,
    },
    /// The step does not follow from what the record says.
    #[error("cannot {step} in epoch {epoch} of {name}: {because}")]
    OutOfOrder {
        /// The name.
        name: Name,
        /// The epoch.
        epoch: u64,
        /// What was to be recorded.
        step: &'static str,
        /// What is in the way.
        because: String,
    },
    /// Too many generations are kept.
    #[error("{name} has {count} generations, as many as a record holds")]
    TooManyGenerations {
        /// The name.
        name: Name,
        /// How many.
        count: usize,
    },
    /// Data of the new generation is about to be collected, or has been.
    #[error("manifest {manifest} of {name} refers to data that is being collected: {object}")]
    Collected {
        /// The name.
        name: Name,
        /// The manifest.
        manifest: ManifestId,
        /// What is being collected.
        object: String,
    },
    /// Others kept changing the record.
    #[error("the record of {name} was changed by others {attempts} times in a row")]
    Contended {
        /// The name.
        name: Name,
        /// How often it was tried.
        attempts: u32,
    },
    /// The record is no record.
    #[error("the record of {name} ({key}) cannot be used")]
    Record {
        /// The name, as far as it is known.
        name: String,
        /// Its key in the store.
        key: String,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// The record cannot be opened.
    #[error("the record {key} cannot be read")]
    Sealed {
        /// Its key in the store.
        key: String,
        /// Why not.
        #[source]
        source: ReadError,
    },
    /// The slot is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store cannot be reached.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl LineageError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            LineageError::Held { .. } => {
                "end that program, or give this one a --name of its own; if that one is gone, its lease runs out by itself"
                    .to_owned()
            }
            LineageError::Fenced { .. } => {
                "the newer start goes on; end this program, or let it run on without checkpoints with --fenced run"
                    .to_owned()
            }
            LineageError::NoSuchName { .. } => "`torpor ls` lists the names in the store".to_owned(),
            LineageError::NoSuchGeneration { name, .. } => {
                format!("`torpor ls {name}` lists the generations there are")
            }
            LineageError::Spent { .. } => {
                "make a template (`torpor checkpoint --template`) of what should be restored many times".to_owned()
            }
            LineageError::TooManyAttempts { name, number, .. } => {
                format!("`torpor show {name}@{number}` tells why they failed")
            }
            LineageError::OutOfOrder { .. } => "this is a defect of torpor; please report it".to_owned(),
            LineageError::TooManyGenerations { name, .. } => {
                format!("`torpor prune {name} --keep-last 10` drops the oldest")
            }
            LineageError::Collected { .. } => {
                "checkpoint again: it took longer than `torpor gc` waits for sessions (--longest-session)".to_owned()
            }
            LineageError::Contended { name, .. } => {
                format!("look for another wrapper that uses {name}, and try again")
            }
            LineageError::Record { source: RecordError::Newer { .. }, .. } => {
                "use the release that wrote it, or a newer one".to_owned()
            }
            LineageError::Record { .. } => {
                "`torpor verify` tells what else is damaged; the generations' data may still be whole".to_owned()
            }
            LineageError::Sealed { source, .. } => source.remedy().to_owned(),
            LineageError::Name(error) => error.remedy().to_owned(),
            LineageError::Backend(error) => error.remedy().to_owned(),
        }
    }

    /// Whether a newer start has taken the name over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, LineageError::Fenced { .. })
    }
}

/// A holder in words: where it runs, and since when.
fn describe(holder: &Holder) -> String {
    let pod = holder.pod.as_ref().map(|pod| format!(" in pod {pod}")).unwrap_or_default();
    format!("process {} on {}{pod} (since {:.0})", holder.pid, holder.host, holder.since)
}

//! What differs between two checkpoints: of the same program at two moments, or of two copies of it.
//!
//! Processes are matched first ([`pairs`]). Then each pair is compared: what the kernel knew about them, and their memory, page by
//! page. Memory is streamed from both sides in the order of addresses, so that a large checkpoint needs no more room than a small one.

use serde::Serialize;

use crate::Checkpoint;
use crate::inspect::{Mount, Parts, Problem, Report};
use crate::memory::{AddressSpaces, MemoryError};

mod change;
mod container;
mod mapping;
mod pages;
mod pair;
mod process;

#[cfg(test)]
mod tests;

pub use change::{Changed, Changes};
pub use container::LayerPath;
pub use mapping::{MappingDiff, MappingState};
pub use pages::{MemoryDiff, PageCounts};
pub use pair::{Pair, pairs};
pub use process::{FieldChange, Identity, ProcessDiff, State, VariableChange};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aspects {
    /// Environments.
    pub environment: bool,
    /// Open files.
    pub files: bool,
    /// Open sockets.
    pub sockets: bool,
    /// Mounts.
    pub mounts: bool,
    /// Credentials.
    pub credentials: bool,
    /// Memory.
    pub memory: bool,
    /// Show values of environment variables.
    pub secrets: bool,
}

impl Aspects {
    /// Everything, with secrets left out.
    pub const ALL: Self = Self {
        environment: true,
        files: true,
        sockets: true,
        mounts: true,
        credentials: true,
        memory: true,
        secrets: false,
    };
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// Where the first checkpoint is kept.
    pub before: String,
    /// Where the second one is kept.
    pub after: String,
    /// Whether nothing that was compared differs.
    pub equal: bool,
    /// Whether the report holds secrets: values of environment variables.
    pub secrets: bool,
    /// The processes of both: those of the second in their order, then those that are gone.
    pub processes: Vec<ProcessDiff>,
    /// What differs about the container itself: its image, name, pod and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container: Vec<FieldChange>,
    /// Mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Changes<Mount>>,
    /// What the container changed in its file system; none where neither checkpoint tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable_layer: Option<Changes<LayerPath>>,
    /// What is missing or could not be read, in either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Diff {
    /// Compares two checkpoints.
    ///
    /// # Errors
    /// Where processes or memory cannot be read. What else is damaged is named in [`Diff::problems`].
    pub fn between(before: &Checkpoint, after: &Checkpoint, aspects: Aspects) -> Result<Self, MemoryError> {
        let parts = Parts {
            processes: true,
            arguments: true,
            environment: aspects.environment,
            files: aspects.files,
            sockets: aspects.sockets,
            credentials: aspects.credentials,
            mounts: aspects.mounts,
            // Values are needed to see that they differ; they are taken out below.
            secrets: true,
            ..Parts::default()
        };
        let mut old = Report::read(before, parts, None);
        let mut new = Report::read(after, parts, None);
        let (old_processes, new_processes) =
            (old.processes.take().unwrap_or_default(), new.processes.take().unwrap_or_default());
        let spaces = if aspects.memory {
            Some((AddressSpaces::new(before)?, AddressSpaces::new(after)?))
        } else {
            None
        };
        let mut processes = Vec::new();
        for pair in pairs(&old_processes, &new_processes) {
            let (old, new) = (pair.before.map(|place| &old_processes[place]), pair.after);
            let new = new.map(|place| &new_processes[place]);
            let mut process = ProcessDiff::between(old, new, aspects);
            if let Some(spaces) = &spaces {
                process.compare_memory(spaces, old, new)?;
            }
            processes.push(process);
        }
        let mounts = old.mounts.zip(new.mounts).map(|(old, new)| mounts(old, new));
        old.problems.append(&mut new.problems);
        let container = container::fields(before, after, &mut old.problems);
        let writable_layer = container::writable_layer(before, after, &mut old.problems);
        let equal = processes.iter().all(|process| process.state == State::Same)
            && container.is_empty()
            && mounts.as_ref().is_none_or(Changes::is_empty)
            && writable_layer.as_ref().is_none_or(Changes::is_empty);
        Ok(Self {
            before: old.source,
            after: new.source,
            equal,
            secrets: aspects.secrets && aspects.environment,
            processes,
            container,
            mounts,
            writable_layer,
            problems: old.problems,
        })
    }
}

/// Mounts are known by where they are. Their numbers differ from dump to dump, and mean nothing.
fn mounts(before: Vec<Mount>, after: Vec<Mount>) -> Changes<Mount> {
    let comparable = |mount: &Mount| Mount { id: 0, parent: 0, shared: None, master: None, ..mount.clone() };
    Changes::between(
        before,
        after,
        |mount| (mount.namespace, mount.mountpoint.clone()),
        |before, after| comparable(before) == comparable(after),
    )
}

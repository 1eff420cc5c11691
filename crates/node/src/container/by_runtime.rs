//! A checkpoint by the container's own runtime, which lacks much of what ours does: a guard, a limit of time, a commit.

use std::path::Path;

use torpor_criu::diagnosis::Operation;

use super::checkpoint::{Done, Job};
use super::directory::{begin, beside, make_durable, room};
use super::route::Runtime;
use super::{ContainerError, release};
use crate::freeze::LOG;
use crate::guard::{self, Guard, Watch};
use crate::phase::{Phase, Phases};
use crate::process_tree;
use crate::staging::Staging;

/// What CRIU's log of a dump ends with (`criu/cr-dump.c`).
const FINISHED: &str = "Dumping finished successfully";
/// The suffix of a directory that a runtime writes to.
const SUFFIX: &str = ".runtime-partial";

impl Job<'_> {
    /// Has the container's runtime make it, by its own command.
    ///
    /// # Errors
    /// As [`into_directory`](Self::into_directory).
    pub fn by_runtime(&self, runtime: &Runtime, directory: &Path) -> Result<Done, ContainerError> {
        let mut phases = Phases::begin(Phase::Check);
        let _lock = self.lock()?;
        let partial = partial(directory)?;
        let (_, ability) = self.check()?;
        room(partial.path(), ability.memory)?;
        let mut guard = Guard::start().map_err(ContainerError::helper("start the guard"))?;
        phases.enter(Phase::Capture);
        let (root, freezer) = (self.container.init, self.container.freezer.as_ref());
        let directory_of_freezer = || freezer.map(|freezer| freezer.directory().to_owned());
        let mut tell = |criu| {
            if let Err(error) = guard.watch(Watch::Container { criu, root, freezer: directory_of_freezer() })
            {
                tracing::warn!(%error, "the guard is gone; the checkpoint goes on without");
            }
        };
        // All may be killed before CRIU is seen, which has frozen the container by then. Of us nothing is left that the guard would wait for.
        tell(std::process::id().cast_signed());
        let mut criu = None;
        let mut look = |runtime: i32| {
            let Some(found) = process_tree::of(runtime).get(1).copied().filter(|found| criu != Some(*found))
            else {
                return;
            };
            criu = Some(found);
            tell(found);
        };
        let made = runtime
            .checkpoint(self.container, partial.path(), &self.wishes, self.timeout, &mut look)
            .map_err(|error| error.with_log(&partial.path().join(LOG), Operation::Checkpoint));
        if made.is_err() {
            // A runtime that was killed leaves CRIU, which lets the container go on once it notices, or is killed itself.
            if let Some(criu) = criu {
                guard::end_of(criu);
            }
            release(root, freezer);
        }
        guard.dismiss();
        made?;
        phases.enter(Phase::Commit);
        make_durable(partial.path()).map_err(ContainerError::place(partial.path()))?;
        std::fs::rename(partial.path(), directory).map_err(ContainerError::place(directory))?;
        partial.keep();
        Ok(Done { phases, frozen: None })
    }
}

/// A directory beside the one that is to be. What a runtime had finished there when all were killed is all there is of a container
/// that ended with it, so it is put into its place instead of being removed.
fn partial(directory: &Path) -> Result<Staging, ContainerError> {
    let partial = beside(directory, SUFFIX)?;
    if is_finished(&partial) {
        make_durable(&partial).map_err(ContainerError::place(&partial))?;
        std::fs::rename(&partial, directory).map_err(ContainerError::place(directory))?;
        tracing::warn!(path = %directory.display(), "an earlier checkpoint was cut off once it was whole; it is there now");
        return Err(ContainerError::Occupied { path: directory.to_owned() });
    }
    begin(&partial)
}

fn is_finished(images: &Path) -> bool {
    let log = std::fs::read(images.join(LOG)).unwrap_or_default();
    String::from_utf8_lossy(&log).contains(FINISHED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_runtime_had_finished_is_kept_and_anything_else_is_not() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("images");
        let left = |text: &str| {
            let staging = partial(&directory).unwrap();
            std::fs::write(staging.path().join(LOG), text).unwrap();
            staging.keep();
        };
        left("Error (criu/x.c:1): no\n");
        left("(00.1) Dumping finished successfully\n");
        assert!(matches!(partial(&directory), Err(ContainerError::Occupied { .. })));
        assert!(directory.join(LOG).exists());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}

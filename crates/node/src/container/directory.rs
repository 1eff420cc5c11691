//! A dump into a directory of CRIU's images.
//!
//! Everything is written beside the place where it is to be, and put there by one rename once it is whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::Operation;
use torpor_criu::image::edit::{self, EditError};
use torpor_criu::options::{DumpOptions, Tcp};
use torpor_criu::program::Program;
use torpor_criu::session::DefaultConfig;

use super::ContainerError;
use super::checkpoint::Done;
use super::pages::PagesIntoDirectory;
use super::together::{Stage, Together};
use crate::budget;
use crate::freeze::{Engine, Fate, Freeze, Frozen, LOG, Standstill, Tree};
use crate::huge_pages;
use crate::order::Order;
use crate::phase::{Phase, Phases};
use crate::staging::Staging;

/// A dump that is to be made.
pub(crate) struct IntoDirectory<'a> {
    /// What is dumped.
    pub(crate) tree: Tree<'a>,
    /// The CRIU to use.
    pub(crate) criu: &'a Program,
    /// Until when.
    pub(crate) order: &'a Order,
    /// What CRIU is told, by where the images go.
    pub(crate) options: &'a dyn Fn(&Path) -> DumpOptions,
    /// What happens to TCP connections.
    pub(crate) tcp: Tcp,
    /// Memory that may have to be copied, in bytes.
    pub(crate) memory: u64,
    /// What the capture may take of memory, in bytes; by default half of what is free.
    pub(crate) memory_budget: Option<u64>,
    /// Others that are checkpointed at the same moment.
    pub(crate) together: Option<&'a Together>,
    /// Files that are put beside the images: their names and content.
    pub(crate) beside: Vec<(&'a str, String)>,
}

impl IntoDirectory<'_> {
    /// Makes it in `partial`, which then becomes `directory`.
    pub(crate) fn make(
        &self,
        directory: &Path,
        partial: Staging,
        mut phases: Phases,
    ) -> Result<Done, ContainerError> {
        let order = self.order;
        room(partial.path(), self.memory)?;
        let engine = Engine::start(self.criu, DefaultConfig::Ignore)?;
        let generation = engine.generation();
        let together = self.together;
        let others = || Together::stand_still(together, order);
        let standstill = Standstill::among(&others);
        let memory = budget::of_draft(
            budget::decide(self.memory_budget, budget::Memory::read()),
            engine.memory(self.memory),
            self.memory,
        );
        let sink = PagesIntoDirectory::new(partial.path(), order, &standstill, memory, !order.runs_on())
            .map_err(ContainerError::helper("take memory for the pages"))?;
        if order.runs_on() {
            huge_pages::gather(self.tree.root, order);
        }
        order.check()?;

        let failed = ContainerError::place(partial.path());
        let mut options = (self.options)(partial.path());
        engine.lead_memory(&mut options);
        let meet = |stage| self.together.map_or(Ok(()), |together| together.wait(stage, order));
        let finish = |sink: PagesIntoDirectory<'_>| -> Result<(), ContainerError> {
            order.check()?;
            sink.finish(generation).map_err(&failed)?;
            for (name, content) in &self.beside {
                std::fs::write(partial.path().join(name), content).map_err(&failed)?;
            }
            close_connections(self.tcp, partial.path())?;
            make_durable(partial.path()).map_err(&failed)?;
            order.check()?;
            // Past this, it exists.
            std::fs::rename(partial.path(), directory).map_err(ContainerError::place(directory))?;
            if let Err(error) = sync_directory(parent(directory)) {
                tracing::warn!(%error, "a crash of the machine may undo the checkpoint");
            }
            meet(Stage::Committed).inspect_err(|_| {
                if let Err(error) = std::fs::rename(directory, partial.path()) {
                    tracing::warn!(%error, path = %directory.display(), "the checkpoint of one container alone stays");
                }
            })
        };
        let freeze = Freeze {
            tree: self.tree,
            order,
            options: &options,
            standstill: &standstill,
            phases: &mut phases,
        };
        let frozen = freeze.run(engine, sink, |sink, phases, held| {
            meet(Stage::Captured)?;
            if order.runs_on() {
                return Ok(Fate::Runs(Some(sink)));
            }
            phases.enter(Phase::Commit);
            held.keep()?;
            finish(sink).map(|()| Fate::Ends(None))
        });
        let Frozen { taken: sink, duration, .. } = frozen.map_err(|error: ContainerError| {
            error.with_log(&partial.path().join(LOG), Operation::Checkpoint)
        })?;
        if let Some(sink) = sink {
            phases.enter(Phase::Commit);
            finish(sink)?;
        }
        partial.keep();
        Ok(Done { phases, frozen: Some(duration) })
    }
}

/// Closes connections in the images, where that is wished for: CRIU leaves it to the restore otherwise, and not every
/// runtime can tell CRIU to.
pub(crate) fn close_connections(tcp: Tcp, images: &Path) -> Result<(), ContainerError> {
    if tcp != Tcp::Close {
        return Ok(());
    }
    change(&images.join("files.img"), |files| Ok(edit::close_connections(files, |_| true)?.image))?;
    change(&images.join("inventory.img"), |inventory| Ok(edit::connections_are_closed(inventory)?))
}

/// Changes an image.
fn change(path: &Path, change: impl Fn(&[u8]) -> Result<Vec<u8>, EditError>) -> Result<(), ContainerError> {
    let bytes = std::fs::read(path).map_err(ContainerError::place(path))?;
    let changed = change(&bytes).map_err(|source| ContainerError::Edit { path: path.to_owned(), source })?;
    std::fs::write(path, changed).map_err(ContainerError::place(path))
}

/// A directory beside the one that is to be, on the same file system. What an earlier checkpoint left there when it was
/// killed is removed.
pub(crate) fn partial(directory: &Path) -> Result<Staging, ContainerError> {
    begin(&beside(directory, ".torpor-partial")?)
}

/// The path of what is not yet the directory, which must not be there, or be empty.
pub(super) fn beside(directory: &Path, suffix: &str) -> Result<PathBuf, ContainerError> {
    let failed = ContainerError::place(directory);
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(ContainerError::Occupied { path: directory.to_owned() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let name = directory.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(suffix);
    Ok(parent(directory).join(partial))
}

/// Makes that, in place of what an earlier checkpoint has left there.
pub(super) fn begin(partial: &Path) -> Result<Staging, ContainerError> {
    let failed = ContainerError::place(partial);
    if partial.exists() {
        tracing::warn!(path = %partial.display(), "an earlier checkpoint was cut off; what it left is removed");
    }
    let name = partial.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    Staging::create(parent(partial), name).map_err(failed)
}

fn parent(directory: &Path) -> &Path {
    directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The room on the disk of a place, in bytes.
pub(crate) fn free(path: &Path) -> Result<u64, ContainerError> {
    let free = rustix::fs::statvfs(path).map_err(|errno| ContainerError::place(path)(errno.into()))?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}

/// Refuses what certainly does not fit.
pub(crate) fn room(path: &Path, needed: u64) -> Result<(), ContainerError> {
    let available = free(path)?;
    if available < needed {
        // Where somebody can make room: not in a directory that is gone again.
        let is_ours =
            |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".torpor-"));
        let path = path.ancestors().find(|path| !is_ours(path)).unwrap_or(path).to_owned();
        Err(ContainerError::Room { path, needed, available })
    } else {
        Ok(())
    }
}

/// Has the system write all small files of a directory, and the directory itself. Pages were written by their writer.
pub(super) fn make_durable(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b"pages-") && entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_data()?;
        }
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_checkpoint_left_is_removed_by_the_next() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("images");
        let first = partial(&directory).unwrap();
        std::fs::write(first.path().join("core-1.img"), "").unwrap();
        first.keep();
        let second = partial(&directory).unwrap();
        assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0);
        drop(second);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("precious"), "").unwrap();
        assert!(matches!(partial(place.path()).unwrap_err(), ContainerError::Occupied { .. }));
        let empty = place.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(partial(&empty).is_ok());
        assert!(matches!(
            partial(Path::new("/")).unwrap_err(),
            ContainerError::Place { .. } | ContainerError::Occupied { .. }
        ));
    }

    #[test]
    fn what_certainly_does_not_fit_is_refused() {
        let place = tempfile::tempdir().unwrap();
        assert!(room(place.path(), 1).is_ok());
        assert!(matches!(room(place.path(), u64::MAX).unwrap_err(), ContainerError::Room { .. }));
    }
}

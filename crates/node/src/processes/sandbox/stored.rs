//! A generation in a store, to be looked at: of plain processes, or of a program under `torpor run` with its files.

use std::path::{Path, PathBuf};

use torpor_store::{Manifest, Repository};

use super::{Look, Sandbox};
use crate::container::ContainerError;
use crate::container::stored::{Below, images_into, record_below, writable};
use crate::facts::Facts;
use crate::files::Selection;
use crate::files::layout::LayoutPlan;
use crate::machine::Machine;
use crate::mounts::MountPlan;
use crate::restore::check;
use crate::stored_files::FromManifest;
use crate::streams::Stream;
use crate::{container, processes, volumes};

/// Restores a generation into a sandbox, whatever became of it. Its images are laid out in `room`, an empty directory; of `look`, the
/// images are those.
///
/// # Errors
/// It is a container's, does not fit this machine, or cannot be laid out or restored. Nothing is left then.
pub fn from_manifest(
    repository: &Repository,
    manifest: &Manifest,
    room: &Path,
    look: &Look<'_>,
) -> Result<Sandbox, ContainerError> {
    let description = manifest.description();
    let machine = Machine::read();
    let fits = |was: &Machine| check::machine(was, &machine).map_err(ContainerError::Machine);
    let (recorded, streams) = match processes::generation::Facts::parse(&description.facts)? {
        Some(facts) => {
            fits(&facts.machine)?;
            (facts.volumes, Vec::new())
        }
        None if container::generation::Facts::parse(&description.facts)?.is_some() => {
            let checkpoint = format!("{}@{}", description.name, description.generation);
            return Err(ContainerError::NeedsBundle { checkpoint });
        }
        None => {
            let facts = Facts::parse(&description.facts)?;
            fits(&facts.machine)?;
            let files = facts.streams.iter().filter(|stream| matches!(stream, Stream::File { .. }));
            (facts.volumes, files.filter_map(Stream::inherit_key).collect())
        }
    };
    for changed in volumes::compare(&recorded)? {
        tracing::warn!("{changed}; the sandbox has it as it is now");
    }
    images_into(repository, manifest, room)?;
    let put = |root: &Path, written: &[PathBuf]| put(repository, manifest, root, written);
    Sandbox::new(&Look { images: room, streams, ..look.clone() }, Some(&put))
}

/// Puts the files that the generation carries below `root`.
fn put(
    repository: &Repository,
    manifest: &Manifest,
    root: &Path,
    written: &[PathBuf],
) -> Result<(), ContainerError> {
    let files = FromManifest::read(repository, manifest)?;
    let mut below = Below { files, at: PathBuf::from("/"), root: root.to_owned() };
    let records: Vec<_> =
        below.files.records().into_iter().map(|record| record_below(record, Path::new("/"), root)).collect();
    let points = written.iter().map(|at| root.join(at.strip_prefix("/").unwrap_or(at)));
    let mounts = points.flat_map(|point| writable(&point).mounts).collect();
    let plan =
        LayoutPlan::new(records, &MountPlan { mounts, unused_rules: Vec::new() }, &Selection::default())?;
    for (path, lost) in &plan.apply(&mut below)?.lost {
        tracing::warn!(path = %path.display(), ?lost, "a file could not be put back exactly");
    }
    Ok(())
}

//! A container that comes from another machine, by `torpor receive` on this one.
//!
//! What was sent lies in a directory of that command, which the annotation names by a word that nobody guesses. The container waits at its
//! start until it has ended where it came from ([`gate`]). Started again later, it begins like any other.

use std::path::Path;
use std::sync::Arc;

use torpor_store::{Credentials, GenerationKind, LocalBackend, ManifestId, Repository};

use super::create::{Making, Outcome};
use super::error::RuntimeError;
use super::history::{self, History, Restored};
use super::record::Record;
use super::stored::Wanted;
use crate::container::ContainerError;
use crate::container::stored::Kept;
use crate::machine::Machine;
use crate::migration::gate;

/// Restores the container from what was sent.
pub(super) fn restore(making: &Making<'_>, token: &str) -> Result<Outcome, RuntimeError> {
    let settings = &making.call.settings;
    let checkpoint = making.order.source.to_string();
    let failed = making.failed(&checkpoint);
    let directory = gate::room(&settings.state).join(format!("{}{token}", gate::PREFIX));
    let history = History::of(&settings.state, None, &making.new.id, &making.bundle);
    let cannot = RuntimeError::place(&settings.state);
    let last = history.last().map_err(&cannot)?;
    let next = Restored { name: format!("received {token}"), generation: None };
    if let Err(because) = history::permitted(last.as_ref(), &next, GenerationKind::Suspend) {
        return Ok(Outcome::Nothing(because.to_string()));
    }
    if !directory.exists() {
        // Whoever received it removes the container, too, where nothing came of it.
        return Ok(Outcome::Nothing("its move is long over".to_owned()));
    }

    let store = directory.join(gate::STORE);
    let repository = Repository::open(Arc::new(LocalBackend::new(&store)), &Credentials::None)
        .map_err(|source| RuntimeError::Store { url: store.display().to_string(), source })?;
    let manifest = repository.manifest(manifest(&directory.join(gate::MANIFEST))?)?;
    let kept = Kept::new(&repository, &manifest).map_err(&failed)?;
    kept.check(&Machine::read()).map_err(&failed)?;
    let vendors = kept.check_accelerators(None).map_err(&failed)?;
    let mut files = vec![kept.files_for(&making.rootfs).map_err(&failed)?];
    let given = |at: &Path| {
        let mount =
            making.grant.mounts.iter().rev().find(|mount| mount.is_bind() && mount.destination == at)?;
        mount.source.clone()
    };
    let missing = |at| ContainerError::MissingMounts { bundle: making.bundle.clone(), missing: vec![at] };
    files.extend(kept.mounts_for(given, missing).map_err(&failed)?);

    let undo = history.undo(last.as_ref());
    let room = making.room(&checkpoint, undo.clone())?;
    let wanted = Wanted { kept: &kept, files, checkpoint: &checkpoint, vendors: &vendors };
    wanted.lay_out(making, room.path())?;
    let prepared = wanted.prepare(making, room.path())?;
    let record =
        wanted.make(making, room.path(), &prepared, &undo, || history.remember(&next).map_err(&cannot))?;
    let record = Record { gate: Some(directory), undo: Some(undo), ..record };
    let place = making.call.record(&making.new.id);
    place.write(&record).map_err(RuntimeError::place(place.directory()))?;
    Ok(Outcome::Restored(Box::new(record)))
}

fn manifest(path: &Path) -> Result<ManifestId, RuntimeError> {
    let failed = RuntimeError::place(path);
    let text = std::fs::read_to_string(path).map_err(&failed)?;
    text.trim().parse().map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))
}

//! What was imported: a directory of CRIU's images, laid out again as it was; or an engine's archive.

use std::io;
use std::path::Path;

use torpor_archive::Checkpoint;
use torpor_archive::blueprint::{self, chain};
use torpor_archive::source::Stored;
use torpor_node::container::ContainerError;
use torpor_node::container::stored::{self, Origin};
use torpor_store::lineage::Lineage;
use torpor_store::{Manifest, Repository};

use super::unpacked;

/// What a generation was imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A directory of CRIU's images.
    Directory,
    /// An engine's archive.
    Archive,
}

/// What the generation that is meant was imported from; none where Torpor made it.
pub(super) fn form(from: &Origin<'_>) -> anyhow::Result<Option<Form>> {
    let record = Lineage::new(from.repository, from.reference.name.clone()).record()?;
    let generations = record.map(|record| record.generations).unwrap_or_default();
    let found = match from.reference.generation {
        Some(number) => generations.iter().find(|one| one.number == number),
        None => generations.last(),
    };
    let Some(found) = found else { return Ok(None) };
    Ok(form_of(&from.repository.manifest(found.manifest)?))
}

/// The same of a manifest.
pub(super) fn form_of(manifest: &Manifest) -> Option<Form> {
    let has = |name: &str| manifest.images().iter().any(|image| image.name == name);
    if has(chain::LISTING) {
        Some(Form::Directory)
    } else {
        has(blueprint::BLUEPRINT).then_some(Form::Archive)
    }
}

/// Restores it from what it was, or in part: `make` gets the directory that [`rebuild`] makes.
pub(super) fn go_on(
    from: &Origin<'_>,
    form: Form,
    id: &str,
    make: &dyn Fn(&Path) -> Result<Option<i32>, ContainerError>,
) -> Result<Option<i32>, ContainerError> {
    let lay_out = |manifest: &Manifest, directory: &Path| {
        rebuild(from.repository, manifest, form, directory).map_err(|error| ContainerError::Place {
            path: directory.to_owned(),
            source: io::Error::other(crate::cli::failure::sentence(&error)),
        })
    };
    stored::from_layout(from, id, &lay_out, make)
}

/// Lays it out in an empty directory: as the directory that it was, or an archive as [`unpacked::container_into`] has it.
pub(super) fn rebuild(
    repository: &Repository,
    manifest: &Manifest,
    form: Form,
    directory: &Path,
) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::new(Box::new(Stored::open(repository.clone(), manifest)?))?;
    match form {
        Form::Directory => Ok(chain::rebuild(&checkpoint, directory)?),
        Form::Archive => unpacked::container_into(&checkpoint, directory),
    }
}

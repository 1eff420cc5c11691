//! What was imported as a directory of CRIU's images: laid out again as it was.

use std::io;
use std::path::Path;

use torpor_archive::Checkpoint;
use torpor_archive::blueprint::chain;
use torpor_archive::source::Stored;
use torpor_node::container::ContainerError;
use torpor_node::container::stored::{self, Origin};
use torpor_store::lineage::Lineage;
use torpor_store::{Manifest, Repository};

/// Whether the generation that is meant was imported so.
pub(super) fn is_directory(from: &Origin<'_>) -> anyhow::Result<bool> {
    let record = Lineage::new(from.repository, from.reference.name.clone()).record()?;
    let generations = record.map(|record| record.generations).unwrap_or_default();
    let found = match from.reference.generation {
        Some(number) => generations.iter().find(|one| one.number == number),
        None => generations.last(),
    };
    let Some(found) = found else { return Ok(false) };
    Ok(is_listed(&from.repository.manifest(found.manifest)?))
}

/// The same of a manifest.
pub(super) fn is_listed(manifest: &Manifest) -> bool {
    manifest.images().iter().any(|image| image.name == chain::LISTING)
}

/// Restores it from the directory that it was, or in part: `make` gets the images.
pub(super) fn go_on(
    from: &Origin<'_>,
    id: &str,
    make: &dyn Fn(&Path) -> Result<Option<i32>, ContainerError>,
) -> Result<Option<i32>, ContainerError> {
    let lay_out = |manifest: &Manifest, directory: &Path| {
        rebuild(from.repository, manifest, directory).map_err(|error| ContainerError::Place {
            path: directory.to_owned(),
            source: io::Error::other(crate::cli::failure::sentence(&error)),
        })
    };
    stored::from_layout(from, id, &lay_out, make)
}

/// Lays it out in an empty directory.
pub(super) fn rebuild(repository: &Repository, manifest: &Manifest, directory: &Path) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::new(Box::new(Stored::open(repository.clone(), manifest)?))?;
    Ok(chain::rebuild(&checkpoint, directory)?)
}

//! A container that runc or crun makes from a bundle.

use std::path::Path;

use torpor_store::{Credentials, Repository};

use super::{HalfMade, Held, Made, Maker, Sent, sentence};
use crate::container::ContainerError;
use crate::container::restore::{self, Wanted, container, has_mounts, root_of_bundle};
use crate::container::route::Runtime;
use crate::container::stored::Kept;
use crate::migration::MigrationError;
use crate::migration::message::Offer;
use crate::oci_runtime::fit::{self, Claim, Grant};
use crate::oci_runtime::images;
use crate::staging::Staging;

/// How many misfits are told one by one.
const TOLD: usize = 3;

/// A bundle that a container goes on in.
#[derive(Debug, Clone, Copy)]
pub struct Bundle<'a> {
    /// Who makes it.
    pub runtime: &'a Runtime,
    /// The directory of the runtime's states, where it is not the usual one.
    pub root: Option<&'a Path>,
    /// The directory of its configuration.
    pub directory: &'a Path,
    /// Unix sockets may have peers outside, as at the source.
    pub external_unix: bool,
    /// Its terminal or session may be somebody else's, as at the source.
    pub shell_job: bool,
    /// Where what is sent is kept until it runs: on a disk.
    pub room: &'a Path,
    /// Where logs are kept while it is made.
    pub staging: &'a Path,
}

impl<'a> Bundle<'a> {
    /// Whether a container fits it, by what is known before it is frozen.
    pub(super) fn could_take(&self, id: &str, offer: &Offer) -> Result<ByRuntime<'a>, MigrationError> {
        has_mounts(&offer.external.iter().cloned().collect(), self.directory)?;
        self.runtime.has_not(self.root, id)?;
        Ok(ByRuntime { bundle: *self, id: id.to_owned() })
    }
}

/// The runtime makes it.
pub(super) struct ByRuntime<'a> {
    bundle: Bundle<'a>,
    id: String,
}

impl Maker for ByRuntime<'_> {
    fn make(&self, sent: &Sent<'_>) -> Result<Made, MigrationError> {
        let Bundle { runtime, directory, .. } = self.bundle;
        let unknown = |_| MigrationError::Nonsense { peer: "the source".to_owned(), what: "a manifest" };
        let repository = Repository::open(sent.store.clone(), &Credentials::None)?;
        let manifest = repository.manifest(sent.manifest.parse().map_err(unknown)?)?;
        let kept = Kept::new(&repository, &manifest)?;
        let images = Staging::create(sent.place, "images").map_err(ContainerError::place(sent.place))?;
        kept.images_into(images.path())?;
        restore::take_any_root(images.path())?;
        self.fits(images.path())?;
        let mut files = kept.all_files_for(directory)?;
        // The bundle's root must be there before anything is noted of it.
        root_of_bundle(directory)?;
        let half_made = HalfMade::Runtime {
            program: runtime.program().to_owned(),
            flavor: runtime.flavor(),
            root: self.bundle.root.map(Path::to_owned),
            id: self.id.clone(),
            bundle: directory.to_owned(),
        };
        half_made.note(sent.place)?;
        let before = files.iter().map(|files| files.before()).collect::<Result<Vec<_>, _>>()?;
        for files in &mut files {
            files.put()?;
        }
        let pid_file = sent.place.join("pid");
        let wanted = Wanted {
            id: &self.id,
            bundle: directory,
            root: self.bundle.root,
            images: images.path(),
            detach: true,
            pid_file: Some(&pid_file),
            external_unix: self.bundle.external_unix,
            shell_job: self.bundle.shell_job,
            stopped: true,
            alone: false,
            staging: self.bundle.staging,
        };
        container(runtime, &wanted)?;
        let text = std::fs::read_to_string(&pid_file).map_err(ContainerError::place(&pid_file))?;
        let broken = |_| ContainerError::place(&pid_file)(std::io::ErrorKind::InvalidData.into());
        let stopped = images::stopped(images.path())?;
        let pid = text.trim().parse().map_err(broken)?;
        Ok(Made { id: self.id.clone(), pid, held: Held::Signals { stopped, before } })
    }
}

impl ByRuntime<'_> {
    /// Whether the bundle grants what the images ask for.
    fn fits(&self, images: &Path) -> Result<(), MigrationError> {
        let bundle = self.bundle.directory;
        restore::check(images, bundle)?;
        let path = bundle.join("config.json");
        let config = std::fs::read(&path).map_err(ContainerError::place(&path))?;
        let grant = Grant::parse(&config).map_err(|error| MigrationError::Beyond {
            bundle: bundle.to_owned(),
            misfits: sentence(&error),
        })?;
        let misfits = fit::misfits(&Claim::read(images)?, &grant, Path::exists);
        if misfits.is_empty() {
            return Ok(());
        }
        let mut told: Vec<String> = misfits.iter().take(TOLD).map(ToString::to_string).collect();
        if misfits.len() > TOLD {
            told.push(format!("and {} more", misfits.len() - TOLD));
        }
        Err(MigrationError::Beyond { bundle: bundle.to_owned(), misfits: told.join("; ") })
    }
}

//! Why an engine gets no container of a checkpoint.

use std::io;
use std::path::PathBuf;

use torpor_store::ReadError;
use torpor_store::lineage::LineageError;

use super::Adopter;
use super::outline::Mount;
use crate::container::ContainerError;

/// Why an engine gets no container of a checkpoint. There is none of it then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptionError {
    /// There is no such engine.
    #[error("{adopter} cannot be called")]
    Program {
        /// The engine.
        adopter: Adopter,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The engine does not know the runtime.
    #[error("{adopter} has no runtime torpor")]
    NoRuntime {
        /// The engine.
        adopter: Adopter,
    },
    /// torpor-runtime looks elsewhere.
    #[error("torpor-runtime does not look for checkpoints in {}", store.display())]
    Store {
        /// The store's directory.
        store: PathBuf,
    },
    /// The engine does not have the image.
    #[error("{adopter} has no image {image}")]
    NoImage {
        /// The engine.
        adopter: Adopter,
        /// Its name or ID.
        image: String,
    },
    /// The checkpoint does not tell the image.
    #[error("the image of {what} is not known")]
    ImageUnknown {
        /// The container.
        what: String,
    },
    /// The container had mounts from outside.
    #[error("{what} had mounts that are not given: {}", told(missing))]
    Mounts {
        /// The container.
        what: String,
        /// The mounts.
        missing: Vec<Mount>,
    },
    /// It has a container of that name.
    #[error("{adopter} has a container {name} already")]
    Exists {
        /// The engine.
        adopter: Adopter,
        /// The name.
        name: String,
    },
    /// The engine failed.
    #[error("{} {action} failed: {said}", .adopter.program())]
    Failed {
        /// The engine.
        adopter: Adopter,
        /// What it was to do.
        action: &'static str,
        /// What it said.
        said: String,
    },
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The name has no such checkpoint.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The store does not give it.
    #[error("the checkpoint cannot be read")]
    Read(#[from] ReadError),
}

pub(crate) fn told(mounts: &[Mount]) -> String {
    let told = |mount: &Mount| format!("{} (from {})", mount.at.display(), mount.from);
    mounts.iter().map(told).collect::<Vec<_>>().join(", ")
}

impl AdoptionError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            AdoptionError::Program { .. } => "install its command line, or put it in PATH".to_owned(),
            AdoptionError::NoRuntime { adopter: Adopter::Docker } => {
                "`torpor install-node` adds it to /etc/docker/daemon.json; then `systemctl reload docker`"
                    .to_owned()
            }
            AdoptionError::NoRuntime { adopter: Adopter::Podman } => {
                "`torpor install-node` adds it to what /etc/containers/containers.conf says".to_owned()
            }
            AdoptionError::Store { store } => {
                format!("add `- url: file://{}` to `stores` in /etc/torpor/runtime.yaml", store.display())
            }
            AdoptionError::NoImage { .. } => {
                "pull or load it, or name another that has the same files with --image".to_owned()
            }
            AdoptionError::ImageUnknown { .. } => "name the image with --image".to_owned(),
            AdoptionError::Mounts { missing, .. } => {
                let flags =
                    missing.iter().map(|mount| format!(" --volume {}:{}", mount.from, mount.at.display()));
                format!(
                    "give them at the end, from where they are to come: `--{}`",
                    flags.collect::<String>()
                )
            }
            AdoptionError::Exists { .. } => "remove that one, or give another name with --id".to_owned(),
            AdoptionError::Failed { .. } => {
                "see what it says; further flags of its own can be given at the end, behind `--`".to_owned()
            }
            AdoptionError::Container(error) => error.remedy(),
            AdoptionError::Lineage(error) => error.remedy(),
            AdoptionError::Read(error) => error.remedy().to_owned(),
        }
    }
}

//! Why Docker gets no container of a checkpoint.

use std::io;
use std::path::PathBuf;

use torpor_store::ReadError;
use torpor_store::lineage::LineageError;
use torpor_store::name::Reference;

use crate::container::ContainerError;

/// Something of the machine's that a container had mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where the container had it.
    pub at: PathBuf,
    /// Where it came from: a path, or the name of a volume of Docker's.
    pub from: String,
}

/// Why Docker gets no container of a checkpoint. There is none of it then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptionError {
    /// There is no Docker.
    #[error("docker cannot be called")]
    Program(#[source] io::Error),
    /// Docker does not know the runtime.
    #[error("Docker has no runtime torpor")]
    NoRuntime,
    /// torpor-runtime looks elsewhere.
    #[error("torpor-runtime does not look for checkpoints in {}", store.display())]
    Store {
        /// The store's directory.
        store: PathBuf,
    },
    /// Docker does not have the image.
    #[error("Docker has no image {image}")]
    NoImage {
        /// Its name or ID.
        image: String,
    },
    /// The checkpoint does not tell the image.
    #[error("{reference} does not tell the container's image")]
    ImageUnknown {
        /// The checkpoint.
        reference: Reference,
    },
    /// The container had mounts from outside.
    #[error("the container in {reference} had mounts that are not given: {}", told(missing))]
    Mounts {
        /// The checkpoint.
        reference: Reference,
        /// The mounts.
        missing: Vec<Mount>,
    },
    /// Docker failed.
    #[error("docker {action} failed: {said}")]
    Failed {
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

fn told(mounts: &[Mount]) -> String {
    let told = |mount: &Mount| format!("{} (from {})", mount.at.display(), mount.from);
    mounts.iter().map(told).collect::<Vec<_>>().join(", ")
}

impl AdoptionError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            AdoptionError::Program(_) => "install Docker's command line, or put it in PATH".to_owned(),
            AdoptionError::NoRuntime => {
                "`torpor install-node` adds it to /etc/docker/daemon.json; then `systemctl reload docker`"
                    .to_owned()
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
            AdoptionError::Failed { .. } => {
                "see what it says; flags of `docker create` can be given at the end, behind `--`".to_owned()
            }
            AdoptionError::Container(error) => error.remedy(),
            AdoptionError::Lineage(error) => error.remedy(),
            AdoptionError::Read(error) => error.remedy().to_owned(),
        }
    }

    pub(super) fn program(source: io::Error) -> AdoptionError {
        AdoptionError::Program(source)
    }
}

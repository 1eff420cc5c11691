//! Torpor on a node: its binaries below a prefix of its own, and a handler `torpor` in the engines that are there.
//!
//! What is to be changed is a value first ([`plan`]), from what the machine's files say. Doing it twice changes nothing the second time.
//! What was there before is kept beside the binaries ([`ledger`]), so that it can be put back.

pub mod containerd;
pub mod crio;
pub mod docker;
pub mod kubelet;
pub mod ledger;
pub mod plan;
pub mod podman;
pub mod site;
mod trial;
mod users;

use std::io;
use std::path::{Path, PathBuf};

pub use ledger::Ledger;
pub use plan::{Change, Plan, Wanted};
pub use site::Site;

/// Where everything goes.
pub const PREFIX: &str = "/opt/torpor";
/// The handler's name.
pub const HANDLER: &str = "torpor";

/// Why a node cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} cannot be extended: {because}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        because: String,
    },
    /// An engine does not take its new configuration, by its own word. Nothing was changed.
    #[error("{engine} would not take its new configuration: {said}")]
    Refused {
        /// The engine.
        engine: &'static str,
        /// What it said.
        said: String,
    },
    /// The ledger of what was done cannot be read.
    #[error("{} does not tell what was installed", path.display())]
    Ledger {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Containers run under the handler, and could not be stopped without its program. Nothing was changed.
    #[error("{} containers run under {}: {}", .containers.len(), runtime.display(), containers.join(", "))]
    InUse {
        /// The handler's program.
        runtime: PathBuf,
        /// Their IDs, those of pods' sandboxes among them.
        containers: Vec<String>,
    },
    /// Nothing is installed there.
    #[error("nothing is installed in {}", prefix.display())]
    NotInstalled {
        /// Where it was looked for.
        prefix: PathBuf,
    },
}

impl InstallError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            InstallError::Place { .. } => {
                "run it as root on the node, and see whether the disk is full or read-only"
            }
            InstallError::Format { .. } => {
                "add the handler by hand; --dry-run and docs/runtime.md show what it takes"
            }
            InstallError::Refused { .. } => {
                "see what it says of its configuration as it is; add the handler by hand"
            }
            InstallError::Ledger { .. } => "remove by hand what docs/runtime.md lists",
            InstallError::InUse { .. } => {
                "end them first, as `kubectl drain` does; with --force it goes all the same, and their engine can neither stop nor remove them"
            }
            InstallError::NotInstalled { .. } => "name the place with --prefix",
        }
    }

    pub(crate) fn place(path: &Path) -> impl Fn(io::Error) -> InstallError + use<> {
        let path = path.to_owned();
        move |source| InstallError::Place { path: path.clone(), source }
    }
}

/// Sees that no container runs under the handler any more.
///
/// # Errors
/// One does.
pub fn check_unused(site: &Site) -> Result<(), InstallError> {
    let runtime = site.prefix.join("bin/torpor-runtime");
    let containers = users::of(site, &runtime);
    if containers.is_empty() { Ok(()) } else { Err(InstallError::InUse { runtime, containers }) }
}

/// The RuntimeClass of the handler, to be applied to the cluster.
#[must_use]
pub fn runtime_class() -> String {
    format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {HANDLER}\nhandler: {HANDLER}\n"
    )
}

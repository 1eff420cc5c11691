//! Why a runtime restores no container.

use std::io;
use std::path::PathBuf;

use crate::container::adoption::outline::Mount;
use crate::container::adoption::told;
use crate::container::cri::configuration::FileError;
use crate::container::cri::{CriError, MessageError, Unable};

/// Why a runtime restores no container. There is none of it then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriRestoreError {
    /// The runtime does not restore.
    #[error("{runtime} {version} {}", reason(*unable))]
    Unable {
        /// The runtime.
        runtime: String,
        /// Its version.
        version: String,
        /// Why.
        unable: Unable,
    },
    /// The sandbox is over.
    #[error("the sandbox {id} has ended")]
    PodEnded {
        /// Its ID.
        id: String,
    },
    /// A configuration cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A configuration is none.
    #[error("the configuration of the {of} cannot be used")]
    Configuration {
        /// Whose it is.
        of: &'static str,
        /// Why.
        #[source]
        source: MessageError,
    },
    /// The container had mounts from outside.
    #[error("the container had mounts that it is not given: {}", told(missing))]
    Mounts {
        /// The mounts.
        missing: Vec<Mount>,
    },
    /// What is to be mounted is not there.
    #[error("there is nothing on this machine for mounts of the container: {}", told(missing))]
    Sources {
        /// The mounts.
        missing: Vec<Mount>,
    },
    /// The directory of the pod's logs cannot be made.
    #[error("cannot make {} for the container's log", path.display())]
    Logs {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be recorded, so nobody could clean up after a kill.
    #[error("cannot record the restore in {}", path.display())]
    Record {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime refuses.
    #[error("the runtime does not {action}: {said}")]
    Refused {
        /// What it was to do.
        action: &'static str,
        /// What it said.
        said: String,
    },
    /// It took too long.
    #[error("the runtime did not {action} in time")]
    Expired {
        /// What it was to do.
        action: &'static str,
    },
    /// The runtime does not answer.
    #[error(transparent)]
    Cri(CriError),
}

fn reason(unable: Unable) -> &'static str {
    match unable {
        Unable::Old => "restores no containers yet",
        Unable::Gone => "restores no containers from checkpoints any more",
        Unable::SwitchedOff => "restores no containers, for that is switched off",
        Unable::Foreign => "is no runtime that restores containers",
    }
}

impl CriRestoreError {
    /// Tells what the runtime was to do.
    pub(super) fn because(action: &'static str) -> impl Fn(CriError) -> CriRestoreError {
        move |error| match error {
            CriError::Refused { said, .. } => CriRestoreError::Refused { action, said },
            CriError::Expired => CriRestoreError::Expired { action },
            error => CriRestoreError::Cri(error),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            CriRestoreError::Unable { runtime, unable, .. } => unable.remedy(runtime),
            CriRestoreError::PodEnded { .. } => {
                "see `crictl pods` for those that there are, or leave --pod out: then one is made"
            }
            CriRestoreError::File(_) => "give a file as `crictl runp` and `crictl create` take it",
            CriRestoreError::Configuration { .. } => {
                "correct the file of --pod-config or --container-config; they are as crictl takes them"
            }
            CriRestoreError::Mounts { .. } => "add them to `mounts` in the file of --container-config",
            CriRestoreError::Sources { .. } => {
                "make them, or say with --container-config where they come from"
            }
            CriRestoreError::Logs { .. } => "name another `log_directory` in the file of --pod-config",
            CriRestoreError::Record { .. } => "see that root can write there",
            CriRestoreError::Refused { said, .. } => remedy_of(said),
            CriRestoreError::Expired { .. } => "see the runtime's log on the node",
            CriRestoreError::Cri(error) => error.remedy(),
        }
    }
}

/// What to do about what a runtime says. Its interface tells causes apart in their texts alone.
fn remedy_of(said: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&[
        "pull checkpoint base image",
        "failed to pull",
        "unable to pull",
        "image not known",
        "manifest unknown",
    ]) {
        "log in at the registry of the image that the container was started from, or name a file with --authfile; containerd 2.1 pulls it without credentials in any case: name another with --image"
    } else if says(&["is reserved for", "name is in use", "already exists"]) {
        "there is a container or a pod of that name: name another with --id or --pod-config, or remove it"
    } else if says(&["criu", "CRIU", "failed to start containerd task", "failed to create containerd task"]) {
        "see CRIU's log on the node; mounts and paths have to be as they were, which --container-config says"
    } else {
        "see the runtime's log on the node"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_say_has_a_remedy() {
        for (said, part) in [
            ("failed to pull checkpoint base image localhost/web:1: not found", "--image"),
            ("failed to reserve container name \"web\": name \"web\" is reserved for \"a\"", "--id"),
            ("failed to create containerd task: criu failed: path= /run/restore.log", "CRIU's log"),
            ("no such thing", "runtime's log"),
        ] {
            let refused = CriRestoreError::because("create the container")(CriError::Refused {
                said: said.to_owned(),
                refusal: crate::container::refusal::Refusal::Other,
            });
            assert_eq!(refused.to_string(), format!("the runtime does not create the container: {said}"));
            assert!(refused.remedy().contains(part), "{said}: {}", refused.remedy());
        }
    }
}

//! Why `torpor-runtime` fails by itself.

use std::io;
use std::path::{Path, PathBuf};

use torpor_store::lineage::LineageError;
use torpor_store::name::Reference;
use torpor_store::{KeyError, OpenError, ReadError};

use super::decision::DecisionError;
use super::fit::{GrantError, Misfit};
use super::hooks::OciHookError;
use super::real::RealError;
use super::settings::SettingsError;
use crate::container::ContainerError;
use crate::criu_bundle::FindCriuError;
use crate::permit::{KeyPairError, Objection};

/// Why it fails by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The operator's file cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no real runtime.
    #[error(transparent)]
    Real(#[from] RealError),
    /// Annotations cannot be followed.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// There is no CRIU.
    #[error(transparent)]
    Criu(#[from] FindCriuError),
    /// A file of a bundle, or of our own, cannot be used.
    #[error("cannot use {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A bundle's configuration is none.
    #[error("{} is no configuration of a container", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A store is not where one can be.
    #[error("the store {url} is no directory by its whole path")]
    StoreUrl {
        /// As configured.
        url: String,
    },
    /// What opens a store cannot be read.
    #[error("the store {url} cannot be opened")]
    Key {
        /// As configured.
        url: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A store cannot be opened.
    #[error("the store {url} cannot be opened")]
    Store {
        /// As configured.
        url: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// A name's record cannot be read or changed.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// A manifest cannot be read.
    #[error("the checkpoint cannot be read")]
    Read(#[from] ReadError),
    /// There is no such checkpoint.
    #[error("there is no checkpoint {reference} in this node's stores")]
    NoCheckpoint {
        /// What was asked for.
        reference: Reference,
    },
    /// The lineage offers another.
    #[error("{reference} is not what can be gone on from: {because}")]
    NotOffered {
        /// What was asked for.
        reference: Reference,
        /// Why.
        because: String,
    },
    /// It belongs to another namespace.
    #[error(
        "{checkpoint} is a checkpoint of {}, and this pod is in namespace {own:?}{}",
        whose(namespace),
        besides(objections)
    )]
    Foreign {
        /// Its name and number.
        checkpoint: String,
        /// The namespace it was made in.
        namespace: Option<String>,
        /// The pod's namespace.
        own: String,
        /// Why its permits do not hold.
        objections: Vec<Objection>,
    },
    /// A key that the configuration names cannot be had.
    #[error("whom this node trusts cannot be told")]
    TrustedKey(#[from] KeyPairError),
    /// Only root can restore.
    #[error("a container can be restored by root only")]
    NotRoot,
    /// It has hooks that a restore cannot run.
    #[error(
        "a container with {kind} hooks cannot be restored: they are run by a process that a restore does not have"
    )]
    Hooks {
        /// Which.
        kind: &'static str,
    },
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] OciHookError),
    /// Somebody else restores a container of this ID.
    #[error("container {id} is being restored already")]
    InTheMaking {
        /// Its ID.
        id: String,
    },
    /// A container that comes from another machine is not to go on here.
    #[error("the container was not let go by who received it, and runs on where it came from")]
    NotLetGo,
    /// A container that waits was to be started, and has ended.
    #[error("cannot start a container that has stopped")]
    Stopped,
    /// A configuration cannot be understood well enough to hold a checkpoint against it.
    #[error("{} cannot be held against a checkpoint", path.display())]
    Grant {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: GrantError,
    },
    /// It asks for more than the container is granted.
    #[error("{checkpoint} asks for more than this container is granted: {}", list(misfits))]
    Misfits {
        /// What was to be restored.
        checkpoint: String,
        /// What is too much.
        misfits: Vec<Misfit>,
    },
    /// The restore itself fails.
    #[error("{checkpoint} cannot be restored")]
    Container {
        /// What was to be restored.
        checkpoint: String,
        /// Why not.
        #[source]
        source: Box<ContainerError>,
        /// CRIU's log, where it is kept.
        log: Option<PathBuf>,
    },
}

fn whose(namespace: &Option<String>) -> String {
    match namespace {
        Some(namespace) => format!("namespace {namespace:?}"),
        None => "no namespace".to_owned(),
    }
}

fn besides(objections: &[Objection]) -> String {
    objections.iter().map(|objection| format!("; {objection}")).collect()
}

fn list(misfits: &[Misfit]) -> String {
    misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl RuntimeError {
    /// An error of the place `path`.
    pub(super) fn place(path: &Path) -> impl Fn(io::Error) -> RuntimeError + use<> {
        let path = path.to_owned();
        move |source| RuntimeError::Place { path: path.clone(), source }
    }

    /// Whether the container may start from its beginning instead, where that was asked for. What is not allowed, or not known,
    /// is not.
    #[must_use]
    pub fn may_start_fresh(&self) -> bool {
        !matches!(
            self,
            RuntimeError::Foreign { .. }
                | RuntimeError::TrustedKey(_)
                | RuntimeError::Decision(_)
                | RuntimeError::Settings(_)
                | RuntimeError::InTheMaking { .. }
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            RuntimeError::Settings(error) => error.remedy().to_owned(),
            RuntimeError::Real(error) => error.remedy().to_owned(),
            RuntimeError::Decision(error) => error.remedy(),
            RuntimeError::Criu(error) => error.remedy().to_owned(),
            RuntimeError::Place { .. } => "see whether the disk is full or read-only".to_owned(),
            RuntimeError::Config { .. } => "see what wrote it".to_owned(),
            RuntimeError::StoreUrl { .. } => "write file:///PATH in /etc/torpor/runtime.yaml".to_owned(),
            RuntimeError::Key { source, .. } => source.remedy().to_owned(),
            RuntimeError::Store { source, .. } => source.remedy().to_owned(),
            RuntimeError::Lineage(error) => error.remedy().to_string(),
            RuntimeError::Read(error) => error.remedy().to_owned(),
            RuntimeError::NoCheckpoint { .. } => {
                "`torpor ls` lists what there is; stores are named in /etc/torpor/runtime.yaml".to_owned()
            }
            RuntimeError::NotOffered { reference, .. } => {
                format!(
                    "`torpor show {}` tells what there is, and what was restored; with torpor.dev/on-restore-failure: fresh it begins instead",
                    reference.name
                )
            }
            RuntimeError::Foreign { checkpoint, own, .. } => format!(
                "make the checkpoint in the pod's own namespace, or permit it by `torpor sign {checkpoint} --namespace {own} --key FILE` \
                 with a key whose public half /etc/torpor/runtime.yaml names under trustedKeys"
            ),
            RuntimeError::TrustedKey(error) => error.remedy().to_owned(),
            RuntimeError::NotRoot => "set the annotation torpor.dev/restore to none".to_owned(),
            RuntimeError::Hooks { .. } => {
                "leave them out, as for CDI devices, or set torpor.dev/on-restore-failure to fresh".to_owned()
            }
            RuntimeError::Hook(_) => "see what the hook is for".to_owned(),
            RuntimeError::InTheMaking { .. } => "wait for that, or use another ID".to_owned(),
            RuntimeError::NotLetGo => "see what `torpor receive` and `torpor migrate` said".to_owned(),
            RuntimeError::Stopped => "delete it, and create it again".to_owned(),
            RuntimeError::Grant { .. } => "see what wrote it".to_owned(),
            RuntimeError::Misfits { .. } => {
                "restore it into a container with the security context, mounts and limits that it had"
                    .to_owned()
            }
            RuntimeError::Container { source, .. } => source.remedy(),
        }
    }

    /// All of it in one line: what, why, and what to do.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some tell their cause themselves.
            if !line.ends_with(&cause_text) {
                line = format!("{line}: {cause_text}");
            }
            source = cause.source();
        }
        if let RuntimeError::Container { log: Some(log), .. } = self {
            line = format!("{line}; CRIU's log is {}", log.display());
        }
        format!("{line} ({})", self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_why_and_what_to_do() {
        let source = Box::new(ContainerError::NotAContainer { path: "/i".into() });
        let error = RuntimeError::Container { checkpoint: "web@3".into(), source, log: None };
        let line = error.line();
        assert!(
            line.starts_with("web@3 cannot be restored: /i holds no checkpoint of a container"),
            "{line}"
        );
        assert!(line.ends_with("as plain processes)"), "{line}");
    }

    #[test]
    fn what_is_not_allowed_does_not_start_at_all() {
        let foreign = RuntimeError::Foreign {
            checkpoint: "web@3".into(),
            namespace: Some("a".into()),
            own: "b".into(),
            objections: vec![Objection::Unknown],
        };
        assert!(!foreign.may_start_fresh());
        assert_eq!(
            foreign.to_string(),
            "web@3 is a checkpoint of namespace \"a\", and this pod is in namespace \"b\"; a permit is signed by none of the keys that \
             this node trusts"
        );
        assert!(RuntimeError::NoCheckpoint { reference: "web@1".parse().unwrap() }.may_start_fresh());
    }
}

//! Why a container cannot be checkpointed or restored.

use std::io;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::{self, Diagnosis, Operation};
use torpor_criu::image::ImageError;
use torpor_criu::image::edit::EditError;
use torpor_criu::log::Log;
use torpor_criu::session::{SessionError, StartError};
use torpor_store::lineage::LineageError;
use torpor_store::{DraftError, ReadError};

use super::FindError;
use super::cri::CriError;
use super::cri::restore::CriRestoreError;
use super::kubelet::KubeletError;
use super::obstacle::Obstacle;
use super::snapshot::{NOT_COMPARED, ViewError};
use crate::accelerator::PluginError;
use crate::facts::FactsError;
use crate::files::FilesError;
use crate::files::layout::LayoutError;
use crate::freeze::FreezeError;
use crate::migration::MigrationError;
use crate::mounts::MountsError;
use crate::open_files::OpenFilesError;
use crate::order::Expired;
use crate::outlook::OutlookError;
use crate::processes::sandbox::SandboxError;
use crate::restore::{Misfit, RestoreError};
use crate::volumes::VolumeError;

/// Why a container cannot be checkpointed or restored. After a failed checkpoint it runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// It cannot be found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Something stands in the way, seen before the freeze.
    #[error("container {id} cannot be checkpointed: {obstacle}")]
    Obstacle {
        /// The container.
        id: String,
        /// What it is.
        obstacle: Obstacle,
    },
    /// Something about plain processes stands in the way, seen before the freeze.
    #[error("process {pid} cannot be checkpointed: {reason}")]
    Processes {
        /// The first of them.
        pid: i32,
        /// What it is.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// This program is among the processes.
    #[error("process {pid} cannot be checkpointed: this torpor runs below it")]
    OwnTree {
        /// The first of them.
        pid: i32,
    },
    /// Plain processes cannot be looked at.
    #[error(transparent)]
    Outlook(#[from] OutlookError),
    /// A file that they had open for writing cannot be recorded or compared.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Somebody else makes a checkpoint of it.
    #[error("another checkpoint of {id} is being made")]
    Busy {
        /// The container.
        id: String,
    },
    /// Its time is over.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// CRIU failed, and its log says why.
    #[error("CRIU cannot {}: {}", if *.restoring { "restore it" } else { "dump it" }, .diagnosis.cause)]
    Criu {
        /// Whether it was a restore.
        restoring: bool,
        /// What the log says.
        diagnosis: Box<Diagnosis>,
    },
    /// CRIU failed before it wrote a log, or was killed.
    #[error("CRIU failed")]
    Session(#[from] SessionError),
    /// CRIU cannot be started.
    #[error("CRIU cannot be started")]
    Start(#[from] StartError),
    /// Its processes cannot be captured.
    #[error(transparent)]
    Freeze(FreezeError),
    /// A thread, the guard or a descriptor cannot be had.
    #[error("cannot {doing}")]
    Helper {
        /// What was to be done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Images cannot be written or read.
    #[error("cannot use {}", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory for the images is there and holds something.
    #[error("{} is not empty", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// There is too little room for the images.
    #[error("{} has room for {} MiB, and the memory to be kept takes {} MiB", path.display(), available >> 20, needed.div_ceil(1 << 20))]
    Room {
        /// The directory.
        path: PathBuf,
        /// What is needed, in bytes.
        needed: u64,
        /// What there is, in bytes.
        available: u64,
    },
    /// What it changed in its image cannot be copied.
    #[error("the container's files cannot be copied")]
    Files(#[source] FilesError),
    /// The store does not take the data.
    #[error("the store does not take the checkpoint")]
    Draft(#[from] DraftError),
    /// The store does not give the data.
    #[error("the checkpoint cannot be read")]
    Read(#[from] ReadError),
    /// The name's record does not take the generation, or does not give it.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// What is known of the container cannot be written down.
    #[error("what is known of it cannot be written down")]
    Facts(#[source] serde_json::Error),
    /// It takes a network from whoever restores it, and there is none.
    #[error("the container was in a network that somebody had made, and is to have an empty one of its own")]
    NoNetwork,
    /// Its mounts cannot be told.
    #[error("the container's mounts cannot be told")]
    Mounts(#[from] MountsError),
    /// What the container has open cannot be told.
    #[error("what is open cannot be told")]
    OpenFiles(#[from] OpenFilesError),
    /// There is no such process any more.
    #[error("it has ended")]
    Ended(#[from] crate::process_tree::Gone),
    /// Files or memory cannot be put back.
    #[error("the checkpoint cannot be laid out")]
    Layout(#[source] Box<RestoreError>),
    /// Files of the container cannot be put back.
    #[error("the container's files cannot be put back")]
    PutBack(#[from] LayoutError),
    /// The generation is of a program under `torpor run`.
    #[error("{generation} holds a program that ran under `torpor run`, not a container")]
    OfAProgram {
        /// The name.
        generation: String,
    },
    /// The checkpoint is of a container.
    #[error("{checkpoint} holds a container, which is restored from a bundle")]
    NeedsBundle {
        /// The generation's name, or the directory.
        checkpoint: String,
    },
    /// The lineage does not offer it.
    #[error("{reference} is not to be restored: {because}")]
    NotOffered {
        /// What was asked for.
        reference: String,
        /// Why not.
        because: String,
    },
    /// It cannot run on this machine.
    #[error("{0}")]
    Machine(Misfit),
    /// What the store tells about the container cannot be used.
    #[error(transparent)]
    NotUnderstood(#[from] FactsError),
    /// The overlay's upper directory is somewhere that cannot be found.
    #[error("the container's files are in {upper:?}, by the options of its root, which names no place")]
    Upper {
        /// What the mount's options say.
        upper: String,
    },
    /// Its root is no overlay, and there is nothing to compare it with.
    #[error(
        "what the container changed in its image cannot be told: its root is {kind}, and the image is not there to be compared"
    )]
    NotCompared {
        /// The root's file system.
        kind: String,
    },
    /// Its image cannot be had to be compared.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Its root is not where the runtime says.
    #[error("the container's root is not at {}, seen from here", path.display())]
    RootElsewhere {
        /// Where the runtime says it is.
        path: PathBuf,
    },
    /// An image has a name that leads elsewhere.
    #[error("the checkpoint holds an image called {name:?}")]
    ImageName {
        /// The name.
        name: String,
    },
    /// Images lack what a container's have.
    #[error("{} holds no checkpoint of a container: there is no descriptors.json", path.display())]
    NotAContainer {
        /// The directory.
        path: PathBuf,
    },
    /// A directory is none of CRIU's images, or of not all.
    #[error("{} holds no whole checkpoint: there is no {missing}", path.display())]
    NoImages {
        /// The directory.
        path: PathBuf,
        /// An image that every checkpoint has.
        missing: &'static str,
    },
    /// There is no bundle.
    #[error("{} is no bundle: there is no config.json", path.display())]
    NoBundle {
        /// The directory.
        path: PathBuf,
    },
    /// A bundle's configuration cannot be read.
    #[error("{} is no configuration of a container", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An image cannot be read.
    #[error("{} cannot be read", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// An image cannot be changed.
    #[error("{} cannot be changed", path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: EditError,
    },
    /// CRIU's plugins are not to be used.
    #[error(transparent)]
    Plugins(#[from] PluginError),
    /// What captured devices is not here, or otherwise.
    #[error("it used devices that are not here as they were: {}", misfits.join("; "))]
    Accelerators {
        /// What does not fit.
        misfits: Vec<String>,
    },
    /// The bundle lacks mounts that the container had.
    #[error("the bundle {} lacks mounts that the container had: {}", bundle.display(), told(missing))]
    MissingMounts {
        /// The bundle.
        bundle: PathBuf,
        /// Where they are to be.
        missing: Vec<PathBuf>,
    },
    /// A dump on top of another lacks that.
    #[error("{} leads to {}, where no images are", link.display(), to.display())]
    NoParent {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// The sandbox of plain processes cannot be made.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// There is no such runtime.
    #[error("there is no {program} in {searched}")]
    NoRuntime {
        /// Its name.
        program: String,
        /// Where it was looked for.
        searched: String,
    },
    /// The container's runtime makes no checkpoint.
    #[error(transparent)]
    Cri(#[from] CriError),
    /// The runtime restores no container.
    #[error(transparent)]
    CriRestore(#[from] CriRestoreError),
    /// The kubelet makes no checkpoint.
    #[error(transparent)]
    Kubelet(#[from] KubeletError),
    /// There is a file already.
    #[error("there is a file {} already", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// Another container of the pod cannot be checkpointed.
    #[error("the checkpoint of another container of the pod failed")]
    OtherFailed,
    /// Another machine, which was to take it over, does not.
    #[error(transparent)]
    Migration(Box<MigrationError>),
    /// What was suspended runs on.
    #[error("{id}, which this checkpoint was to end, still runs")]
    NeverEnded {
        /// The ID.
        id: String,
    },
    /// There is a container of this ID.
    #[error("there is a container {id} already: {}", path.display())]
    Exists {
        /// The ID.
        id: String,
        /// Where the runtime keeps its state.
        path: PathBuf,
    },
    /// The runtime failed.
    #[error("{} {action} failed: {said}", program.display())]
    Runtime {
        /// The runtime.
        program: PathBuf,
        /// What it was to do.
        action: &'static str,
        /// The end of what it said.
        said: String,
    },
}

impl From<FilesError> for ContainerError {
    /// Whose time is over has nothing wrong with its files.
    fn from(error: FilesError) -> ContainerError {
        match &error {
            FilesError::Store { source, .. }
                if source.get_ref().is_some_and(|inner| inner.is::<Expired>()) =>
            {
                Expired.into()
            }
            _ => ContainerError::Files(error),
        }
    }
}

fn told(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl ContainerError {
    /// An error of the place `path`.
    pub(crate) fn place(path: &Path) -> impl Fn(io::Error) -> ContainerError + use<> {
        let path = path.to_owned();
        move |source| ContainerError::Place { path: path.clone(), source }
    }

    /// An error of a helper.
    pub(crate) fn helper(doing: &'static str) -> impl Fn(io::Error) -> ContainerError {
        move |source| ContainerError::Helper { doing, source }
    }

    /// Whether it may well succeed at once: something else on the machine changed meanwhile. Control groups that no runtime
    /// made for the container are everybody's, and CRIU walks them.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, ContainerError::Criu { diagnosis, .. } if diagnosis.id == "cgroup-gone")
    }

    /// Adds what CRIU's log says, where CRIU was the one that failed.
    pub(crate) fn with_log(self, log: &Path, operation: Operation) -> ContainerError {
        match self {
            ContainerError::Freeze(error) => error.with_log(log).into(),
            // The log of a CRIU that was killed tells nothing of that.
            ContainerError::Session(SessionError::Died { .. }) => self,
            ContainerError::Session(source) if source.refused().is_none() => match std::fs::read(log) {
                Ok(log) => ContainerError::Criu {
                    restoring: operation == Operation::Restore,
                    diagnosis: Box::new(diagnosis::diagnose(operation, &Log::from_bytes(&log))),
                },
                Err(_) => ContainerError::Session(source),
            },
            // The runtime's own words are few; CRIU's log has the cause, if it was CRIU that failed.
            ContainerError::Runtime { program, action, said } => {
                match std::fs::read(log).map(|log| Log::from_bytes(&log)) {
                    Ok(log) if log.errors().next().is_some() => ContainerError::Criu {
                        restoring: operation == Operation::Restore,
                        diagnosis: Box::new(diagnosis::diagnose(operation, &log)),
                    },
                    _ => ContainerError::Runtime { program, action, said },
                }
            }
            other => other,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            ContainerError::Find(error) => error.remedy().to_owned(),
            ContainerError::Obstacle { obstacle, .. } => obstacle.remedy().to_owned(),
            ContainerError::Processes { remedy, .. } => (*remedy).to_owned(),
            ContainerError::OwnTree { .. } => "name a process that did not start this torpor".to_owned(),
            ContainerError::Outlook(error) => error.remedy().to_owned(),
            ContainerError::Volume(error) => error.remedy().to_owned(),
            ContainerError::NeedsBundle { .. } => "name the container's bundle with --bundle".to_owned(),
            ContainerError::NoImages { .. } => {
                "name a directory with CRIU's images, an archive, or a checkpoint of the store".to_owned()
            }
            ContainerError::NoBundle { .. } => "name the directory that has the container's config.json with --bundle".to_owned(),
            ContainerError::Busy { .. } => "wait for it".to_owned(),
            ContainerError::Expired(_) => {
                "the container runs on; give it more time with --timeout, or a faster place for the checkpoint".to_owned()
            }
            ContainerError::Criu { diagnosis, .. } => diagnosis.remedy_elsewhere.clone(),
            ContainerError::Session(error) => error.remedy().to_owned(),
            ContainerError::Start(error) => error.remedy().to_owned(),
            ContainerError::Freeze(error) => error.remedy(),
            ContainerError::Helper { .. } => "raise the limits on processes and descriptors".to_owned(),
            ContainerError::Place { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "check the path".to_owned(),
                io::ErrorKind::StorageFull => "make room there, or name another place".to_owned(),
                _ => "make it writable, or name another".to_owned(),
            },
            ContainerError::Occupied { .. } => "name a directory that is not there yet, or is empty".to_owned(),
            ContainerError::Room { .. } => "make room there, or name another place".to_owned(),
            ContainerError::OpenFiles(error) => error.remedy().to_owned(),
            ContainerError::Files(error) => error.remedy().to_owned(),
            ContainerError::Draft(error) => error.remedy().to_owned(),
            ContainerError::Read(error) => error.remedy().to_owned(),
            ContainerError::Lineage(error) => error.remedy().to_string(),
            ContainerError::Facts(_) => "name files and directories in Unicode".to_owned(),
            ContainerError::Mounts(error) => error.remedy().to_owned(),
            ContainerError::Ended(_) => "check that it runs; if it did, its log may have the reason".to_owned(),
            ContainerError::Layout(error) => error.remedy().to_string(),
            ContainerError::PutBack(error) => error.remedy().to_owned(),
            ContainerError::OfAProgram { .. } => "start it with `torpor run`, which restores it".to_owned(),
            ContainerError::NotOffered { .. } => "see `torpor show`; a suspended container is resumed once".to_owned(),
            ContainerError::Machine(misfit) => misfit.remedy(),
            ContainerError::NotUnderstood(_) => "use the release of torpor that made it, or a newer one".to_owned(),
            ContainerError::Upper { .. } => "checkpoint it into a directory, with --images".to_owned(),
            ContainerError::NotCompared { .. } => NOT_COMPARED.to_owned(),
            ContainerError::View(error) => error.remedy().to_owned(),
            ContainerError::RootElsewhere { .. } => "run torpor outside of any container, where the engine runs".to_owned(),
            ContainerError::ImageName { .. } => "the checkpoint was made to do harm: do not restore it".to_owned(),
            ContainerError::NotAContainer { .. } => "restore it without --bundle, as plain processes".to_owned(),
            ContainerError::Config { .. } => "name the bundle that the container was started from".to_owned(),
            ContainerError::Image { .. } => "the checkpoint is damaged; take another".to_owned(),
            ContainerError::Edit { source, .. } => source.remedy().to_owned(),
            ContainerError::Plugins(error) => error.remedy().to_owned(),
            ContainerError::Accelerators { .. } => {
                "restore it by torpor-runtime on a machine with the same devices and driver, whose runtime.yaml names CRIU's plugins"
                    .to_owned()
            }
            ContainerError::MissingMounts { .. } => "mount something there: volumes of the pod, or bind mounts in its config.json".to_owned(),
            ContainerError::NoParent { .. } => "put the images of the dump before back, or name their directory with --prev-images-dir".to_owned(),
            ContainerError::Sandbox(error) => error.remedy().to_owned(),
            ContainerError::NoNetwork => "give it a network; with Podman and Docker, another than `none`".to_owned(),
            ContainerError::NoRuntime { .. } => "name it with --runtime".to_owned(),
            ContainerError::Cri(error) => error.remedy().to_owned(),
            ContainerError::CriRestore(error) => error.remedy().to_owned(),
            ContainerError::Kubelet(error) => error.remedy().to_owned(),
            ContainerError::Taken { .. } => "name another file, or a directory".to_owned(),
            ContainerError::OtherFailed => "see why that one failed".to_owned(),
            ContainerError::Migration(error) => error.remedy(),
            ContainerError::NeverEnded { .. } => "checkpoint it anew, or delete it".to_owned(),
            ContainerError::Exists { .. } => "delete it, or choose another ID".to_owned(),
            ContainerError::Runtime { .. } => "see what it said".to_owned(),
        }
    }
}

impl From<FreezeError> for ContainerError {
    fn from(error: FreezeError) -> ContainerError {
        match error {
            FreezeError::Expired(expired) => ContainerError::Expired(expired),
            FreezeError::Draft(error) => ContainerError::Draft(error),
            FreezeError::OtherFailed => ContainerError::OtherFailed,
            FreezeError::Dump { diagnosis, .. } => ContainerError::Criu { restoring: false, diagnosis },
            error => ContainerError::Freeze(error),
        }
    }
}

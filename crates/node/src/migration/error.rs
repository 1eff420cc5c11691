//! Why a container cannot move.

use std::io;
use std::path::PathBuf;

use torpor_store::{OpenError, ReadError};

use super::carrier::CarrierError;
use super::fit::Unfit;
use crate::container::ContainerError;
use crate::container::adoption::{Adopter, AdoptionError};
use crate::criu_bundle::FindCriuError;

/// Why a container cannot move. It runs on where it was, unless [`Adrift`](MigrationError::Adrift).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes")]
    Random(#[source] io::Error),
    /// The address cannot be listened at, or reached.
    #[error("cannot {doing} {address}")]
    Address {
        /// What was to be done.
        doing: &'static str,
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other side is not the one that is meant, or does not know this one.
    #[error("the other side is not the one that the ticket is for")]
    Stranger(#[source] io::Error),
    /// The connection cannot be secured.
    #[error("the connection cannot be secured")]
    Tls(#[from] rustls::Error),
    /// The connection broke.
    #[error("the connection to {peer} broke")]
    Broken {
        /// The other side.
        peer: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other side says what makes no sense.
    #[error("{peer} says what makes no sense here: {what}")]
    Nonsense {
        /// The other side.
        peer: String,
        /// What it is about.
        what: &'static str,
    },
    /// The other side is of another release, which speaks otherwise.
    #[error("{peer} speaks version {theirs} of migrations, and this torpor version {ours}")]
    Version {
        /// The other side.
        peer: String,
        /// What it speaks.
        theirs: u32,
        /// What we speak.
        ours: u32,
    },
    /// The target refuses the container, before anything is frozen; or it cannot restore it.
    #[error("{peer} cannot take the container: {because}")]
    Refused {
        /// The target.
        peer: String,
        /// Its words.
        because: String,
        /// Its remedy.
        remedy: String,
    },
    /// The target does not fit, which is found before anything is frozen.
    #[error("{peer} does not fit the container: {unfit}")]
    Unfit {
        /// The target.
        peer: String,
        /// Why not.
        unfit: Unfit,
    },
    /// The source has decided against it.
    #[error("the container stays where it is: {because}")]
    Stays {
        /// Its words.
        because: String,
    },
    /// There is no CRIU.
    #[error(transparent)]
    Criu(#[from] FindCriuError),
    /// Its engine would start it again here.
    #[error("{engine} would start {container} again once it has ended here: its restart policy is {policy}")]
    Restarts {
        /// The engine.
        engine: Adopter,
        /// The container.
        container: String,
        /// Its policy.
        policy: String,
    },
    /// It is no engine's, and no bundle is given.
    #[error("container {id} is none of Docker's or Podman's, and no bundle is given for it")]
    NoBundle {
        /// The container.
        id: String,
    },
    /// The container's start cannot be waited for or let go.
    #[error("the container's start cannot be held")]
    Gate {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The engine started the container without its runtime asking here.
    #[error("{adopter} started a container that is not the one that was sent")]
    Anew {
        /// The engine.
        adopter: Adopter,
    },
    /// Who carries the container fails.
    #[error("{place} cannot carry the container: {source}")]
    Carrier {
        /// Where.
        place: String,
        /// Why.
        source: CarrierError,
    },
    /// The carrier did not answer when the container was to be found there.
    #[error("the container runs on here, and {place} did not say whether it is to be found there, too")]
    InDoubt {
        /// Where.
        place: String,
    },
    /// There is something else in the place.
    #[error("{place} holds no container that moves")]
    NoParcel {
        /// Where.
        place: String,
    },
    /// Another target has taken it.
    #[error("somebody else has taken the container from {place}")]
    Taken {
        /// Where.
        place: String,
    },
    /// Whether it was taken is not known.
    #[error("{place} did not say whether container {id} is ours; here it stands still, as process {pid}")]
    Unclaimed {
        /// Where.
        place: String,
        /// The container.
        id: String,
        /// Its first process.
        pid: i32,
        /// Why.
        source: CarrierError,
    },
    /// An engine cannot make the container.
    #[error(transparent)]
    Adoption(#[from] AdoptionError),
    /// Something about the container.
    #[error(transparent)]
    Container(Box<ContainerError>),
    /// The images ask for more than the bundle grants.
    #[error("the container asks for more than the bundle {} grants: {misfits}", bundle.display())]
    Beyond {
        /// The bundle.
        bundle: PathBuf,
        /// What it asks for.
        misfits: String,
    },
    /// The store between the two cannot be opened.
    #[error("the store for the migration cannot be used")]
    Store(#[from] OpenError),
    /// What was sent cannot be read.
    #[error("what was sent cannot be read")]
    Read(#[from] ReadError),
    /// It has ended at the source, and whether it goes on is not known.
    #[error("the container has ended here, and {peer} did not say that it goes on")]
    Adrift {
        /// The target.
        peer: String,
        /// Why.
        #[source]
        source: Box<MigrationError>,
    },
    /// The source is gone after all was restored, and did not say whether it ended there.
    #[error(
        "the source is gone and did not say whether container {id} has ended there; here it stands still, as process {pid}"
    )]
    Orphan {
        /// The container.
        id: String,
        /// Its first process.
        pid: i32,
        /// Why.
        #[source]
        source: Box<MigrationError>,
    },
}

impl From<ContainerError> for MigrationError {
    fn from(error: ContainerError) -> MigrationError {
        MigrationError::Container(Box::new(error))
    }
}

impl MigrationError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            MigrationError::Random(_) => "see the kernel's log".to_owned(),
            MigrationError::Address { .. } => {
                "check the address and port, and that `torpor receive` waits there".to_owned()
            }
            MigrationError::Stranger(_) => {
                "give the ticket that `torpor receive` printed last; each is for one migration".to_owned()
            }
            MigrationError::Tls(_) | MigrationError::Nonsense { .. } | MigrationError::Version { .. } => {
                "use the same release of torpor on both machines".to_owned()
            }
            MigrationError::Broken { .. } => {
                "see why the other side ended, or the network between the two, and try again".to_owned()
            }
            MigrationError::Refused { remedy, .. } => remedy.clone(),
            MigrationError::Unfit { unfit, .. } => unfit.remedy(),
            MigrationError::Stays { .. } => "the source has said what to do about it".to_owned(),
            MigrationError::Criu(error) => error.remedy().to_owned(),
            MigrationError::Restarts { engine, container, .. } => {
                let program = engine.program();
                format!(
                    "`{program} update --restart=no {container}`, and give its policy to `torpor receive`, behind `--`"
                )
            }
            MigrationError::NoBundle { .. } => {
                "name the directory of its configuration with --bundle of `torpor receive`, or an engine with --into"
                    .to_owned()
            }
            MigrationError::Gate { .. } => {
                "see that `state` in /etc/torpor/runtime.yaml is on a disk with room, and has no long path".to_owned()
            }
            MigrationError::Anew { .. } => {
                "see that the engine's runtime torpor is of this release, and reads the same /etc/torpor/runtime.yaml"
                    .to_owned()
            }
            MigrationError::Carrier { source, .. } => source.remedy.clone(),
            MigrationError::InDoubt { place } => {
                format!("look whether there is an image {place}, and delete it before anybody takes it")
            }
            MigrationError::NoParcel { .. } => {
                "name what `torpor migrate` has sent; an image of `torpor build` is started by an engine".to_owned()
            }
            MigrationError::Taken { .. } => "look for it where it was taken to".to_owned(),
            MigrationError::Unclaimed { place, pid, .. } => format!(
                "look whether there is an image {place}: where it is gone and nobody else has taken it, let the container go on by `kill -CONT {pid}`, and its children too; else delete it here"
            ),
            MigrationError::Adoption(error) => error.remedy(),
            MigrationError::Container(error) => error.remedy(),
            MigrationError::Beyond { .. } => {
                "use the configuration that the container was started with, or one that grants as much"
                    .to_owned()
            }
            MigrationError::Store(error) => error.remedy().to_owned(),
            MigrationError::Read(error) => error.remedy().to_owned(),
            MigrationError::Adrift { .. } => {
                "look at the target: there it runs, or stands still and goes on with SIGCONT".to_owned()
            }
            MigrationError::Orphan { pid, .. } => format!(
                "look at the source: where it runs on there, delete it here; where it has ended, let it go on by `kill -CONT {pid}`, and its children too"
            ),
        }
    }
}

//! The side that a container leaves.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use torpor_criu::program::Program;
use torpor_store::name::Name;
use torpor_store::{Credentials, Manifest, Repository};

use super::channel::Channel;
use super::depot::{Depot, Shared};
use super::message::{Answer, Offer, Request, VERSION};
use super::{MigrationError, Ticket, fit};
use crate::container::adoption::outline::bound_mounts;
use crate::container::adoption::{Adopter, Outline};
use crate::container::carry::Carry;
use crate::container::checkpoint::{Done, Heir, Job};
use crate::container::dump::{self, Wishes};
use crate::container::generation::{self, Destination, Stored};
use crate::container::{Container, ContainerError};
use crate::criu_bundle;
use crate::machine::Machine;
use crate::order::Order;

/// What the container is called in the store between the two.
const NAME: &str = "migration";

/// A container that is to move.
#[derive(Debug)]
pub struct Move<'a> {
    /// Which.
    pub container: &'a Container,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What was chosen about the dump.
    pub wishes: Wishes,
    /// How long it may stand still before it is given up.
    pub timeout: Option<Duration>,
    /// How many times its memory is copied ahead, while it runs.
    pub ahead: u32,
    /// Mounts whose content is taken along.
    pub mounts: Carry,
    /// The target's kernel may be older.
    pub older_kernel: bool,
    /// This machine's name.
    pub host: String,
    /// Where staging directories are made.
    pub staging: &'a Path,
}

/// A container that has moved.
#[derive(Debug)]
pub struct Moved {
    /// Where to.
    pub peer: String,
    /// Its first process there.
    pub pid: i32,
    /// How it went.
    pub done: Done,
}

impl Move<'_> {
    /// Moves it to the target at an address. When this returns it has ended here and runs there.
    ///
    /// # Errors
    /// It cannot: it runs on here then, unless the error is [`MigrationError::Adrift`].
    pub fn to(&self, address: &str, ticket: &Ticket) -> Result<Moved, MigrationError> {
        let offer = self.offer()?;
        let mut channel = Channel::connect(address, ticket)?;
        let offer = Box::new(offer);
        channel.say(&Request::Offer(offer.clone()), &[])?;
        let peer = channel.peer().to_owned();
        match channel.hear()?.0 {
            Answer::Accepted { version: VERSION, site } => {
                if let Err(unfit) = fit::check(&offer, &site, self.older_kernel) {
                    let _ = channel.say(&Request::Stays { because: unfit.to_string() }, &[]);
                    return Err(MigrationError::Unfit { peer, unfit });
                }
                tracing::info!(
                    kernel = site.machine.kernel.release,
                    runtime = site.runtime,
                    "the target fits"
                );
            }
            Answer::Accepted { version: theirs, .. } => {
                return Err(MigrationError::Version { peer, theirs, ours: VERSION });
            }
            Answer::Refused { because, remedy } => {
                return Err(MigrationError::Refused { peer, because, remedy });
            }
            _ => return Err(MigrationError::Nonsense { peer, what: "the offer" }),
        }
        let channel: Shared = Arc::new(Mutex::new(channel));
        let depot = Depot::new(Arc::clone(&channel), peer.clone());
        let repository = Repository::create(Arc::new(depot), &Credentials::None)?;
        for round in 1..=self.ahead {
            let stored = self.job(true, None).into_store(&self.destination(&repository)?)?;
            tracing::info!(round, phases = ?stored.done.phases.durations(), "copied ahead");
        }
        let target = Target { channel: Arc::clone(&channel), peer: peer.clone() };
        let Stored { done, .. } =
            self.job(false, Some(&target)).into_store(&self.destination(&repository)?).map_err(own)?;
        let pid = target
            .go_on()
            .map_err(|error| MigrationError::Adrift { peer: peer.clone(), source: Box::new(error) })?;
        Ok(Moved { peer, pid, done })
    }

    pub(super) fn job<'a>(&'a self, leave_running: bool, heir: Option<&'a dyn Heir>) -> Job<'a> {
        Job {
            container: self.container,
            criu: self.criu,
            wishes: Wishes { leave_running, ..self.wishes.clone() },
            timeout: self.timeout,
            memory_budget: None,
            together: None,
            heir,
        }
    }

    pub(super) fn destination<'a>(
        &'a self,
        repository: &'a Repository,
    ) -> Result<Destination<'a>, MigrationError> {
        let nonsense = |_| MigrationError::Nonsense { peer: NAME.to_owned(), what: "a name" };
        Ok(Destination {
            repository,
            name: NAME.parse::<Name>().map_err(nonsense)?,
            host: self.host.clone(),
            signs: None,
            moment: None,
            mounts: self.mounts.clone(),
            staging: self.staging,
        })
    }

    /// What would come. Nothing is touched.
    pub(super) fn offer(&self) -> Result<Offer, MigrationError> {
        let (sight, ability) = self.job(false, None).check()?;
        ends_for_good(self.container)?;
        let external = dump::external_mounts(self.container, &sight);
        Ok(Offer {
            version: VERSION,
            id: self.container.id.clone(),
            engine: self.container.engine.clone(),
            name: self.container.names.first().cloned(),
            outline: Outline {
                image: self.container.image().map(str::to_owned),
                image_id: self.container.made_from.id.clone(),
                command: self.container.description.command.clone(),
                mounts: generation::config(self.container).as_ref().map(bound_mounts).unwrap_or_default(),
            },
            machine: Machine::read(),
            criu: criu_bundle::version(self.criu)?.number(),
            external: external.into_iter().map(|mount| PathBuf::from(mount.val)).collect(),
            memory: ability.memory,
        })
    }
}

/// Refuses a container that its engine would start again here once it has ended.
///
/// # Errors
/// [`MigrationError::Restarts`].
pub fn ends_for_good(container: &Container) -> Result<(), MigrationError> {
    let Some(engine) = Adopter::of(&container.engine) else { return Ok(()) };
    match engine.restarts(&container.id)? {
        None => Ok(()),
        Some(policy) => {
            let container = container.names.first().unwrap_or(&container.id).clone();
            Err(MigrationError::Restarts { engine, container, policy })
        }
    }
}

/// What the target says of a failure is told as it is.
pub(super) fn own(error: ContainerError) -> MigrationError {
    match error {
        ContainerError::Migration(error) => *error,
        other => other.into(),
    }
}

/// The other side, once all is there.
struct Target {
    channel: Shared,
    peer: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Target {
    fn nonsense(&self) -> MigrationError {
        MigrationError::Nonsense { peer: self.peer.clone(), what: "the restore" }
    }

    /// Has it go on there: here it has ended.
    fn go_on(&self) -> Result<i32, MigrationError> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.say(&Request::GoOn, &[])?;
        match channel.hear()?.0 {
            Answer::Runs { pid } => Ok(pid),
            _ => Err(self.nonsense()),
        }
    }
}

impl Heir for Target {
    fn take(&self, generation: &Manifest, order: &Order) -> Result<(), ContainerError> {
        let failed = |error| ContainerError::Migration(Box::new(error));
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request::Restore { manifest: generation.id().to_string() };
        channel.say(&request, &[]).map_err(failed)?;
        loop {
            order.check()?;
            match channel.hear().map_err(failed)?.0 {
                Answer::Working => {}
                Answer::Ready => return Ok(()),
                Answer::Refused { because, remedy } => {
                    let peer = self.peer.clone();
                    return Err(failed(MigrationError::Refused { peer, because, remedy }));
                }
                _ => return Err(failed(self.nonsense())),
            }
        }
    }
}

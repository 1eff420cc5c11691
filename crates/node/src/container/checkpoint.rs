//! Checkpoint a container: check, freeze, capture, commit, and thaw or end.
//!
//! CRIU is spoken to directly, and memory comes to us on the shortest way ([`crate::freeze`]); the runtime notices nothing.
//! Everything is written beside the place where it is to be, and put there by one rename once it is whole: a container that
//! is to end is ended only after that.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use torpor_criu::options::DumpOptions;
use torpor_criu::program::Program;
use torpor_store::Manifest;

use super::ContainerError;
use super::directory::{IntoDirectory, partial};
use super::dump::{self, DESCRIPTORS, Sight, Wishes};
use super::obstacle::{Ability, Obstacle};
use super::state::{Container, Status};
use super::together::Together;
use crate::accelerator::{Accelerators, Plugins, RECORD};
use crate::freeze::{Owner, Tree};
use crate::order::Order;
use crate::phase::{Phase, Phases};
use crate::triggers::Kind;

/// How often it is looked whether an obstacle has passed that may pass by itself.
const PACE: Duration = Duration::from_millis(20);
/// How often a checkpoint is tried that fails for something that may have passed.
const ATTEMPTS: u32 = 4;

/// A checkpoint that is to be made.
#[derive(Debug)]
pub struct Job<'a> {
    /// Of which container.
    pub container: &'a Container,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What was chosen about the dump.
    pub wishes: Wishes,
    /// How long all of it may take.
    pub timeout: Option<Duration>,
    /// What the capture may take of memory, in bytes; by default half of what is free.
    pub memory_budget: Option<u64>,
    /// Others that are checkpointed at the same moment.
    pub together: Option<&'a Together>,
    /// Who must have taken it over before it ends.
    pub heir: Option<&'a dyn Heir>,
}

/// Somebody who takes a container over.
pub trait Heir: std::fmt::Debug + Sync {
    /// Takes it over from a generation, while it stands still. An error lets it run on where it is; the store is the heir's,
    /// and what becomes of the generation too.
    ///
    /// # Errors
    /// It is not taken over.
    fn take(&self, generation: &Manifest, order: &Order) -> Result<(), ContainerError>;
}

/// A checkpoint that exists.
#[derive(Debug)]
pub struct Done {
    /// How long each phase took.
    pub phases: Phases,
    /// How long the container stood still. The runtime does not say that of its own checkpoints.
    pub frozen: Option<Duration>,
}

impl Job<'_> {
    /// Makes it as a directory of CRIU's images that the container's runtime restores.
    ///
    /// # Errors
    /// Where it cannot be made: nothing of it stays then, and the container runs on.
    pub fn into_directory(&self, directory: &Path) -> Result<Done, ContainerError> {
        let order = self.order();
        let _lock = self.lock()?;
        self.patiently(&order, || self.directory(directory, &order))
    }

    fn directory(&self, directory: &Path, order: &Order) -> Result<Done, ContainerError> {
        let phases = Phases::begin(Phase::Check);
        let partial = partial(directory)?;
        let (sight, ability) = self.check()?;
        let into = IntoDirectory {
            tree: self.tree(),
            criu: self.criu,
            order,
            options: &|images| self.options(&sight, &ability, order, images),
            tcp: self.wishes.tcp,
            memory: ability.memory,
            memory_budget: self.memory_budget,
            together: self.together,
            beside: [(DESCRIPTORS, dump::descriptors(self.container))]
                .into_iter()
                .chain(Accelerators::record(&ability.accelerators).map(|used| (RECORD, used)))
                .collect(),
        };
        into.make(directory, partial, phases)
    }

    /// Does it again, a few times, where it failed for something that may have passed. Containers that are captured
    /// together wait for each other, so none of them begins anew alone.
    pub(super) fn patiently<T>(
        &self,
        order: &Order,
        mut attempt: impl FnMut() -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        for _ in 1..ATTEMPTS {
            match attempt() {
                Err(error) if error.is_passing() && self.together.is_none() && order.check().is_ok() => {
                    tracing::info!(%error, "no checkpoint yet; the container runs on meanwhile");
                }
                result => return result,
            }
        }
        attempt()
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        Tree { root: self.container.init, owner: Owner::Other { freezer: self.container.freezer.as_ref() } }
    }

    pub(super) fn order(&self) -> Order {
        let kind = if self.wishes.leave_running { Kind::Running } else { Kind::Suspend };
        Order::new(kind, self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Nobody else makes a checkpoint of it at the same time.
    pub(super) fn lock(&self) -> Result<OwnedFd, ContainerError> {
        let path = self.container.root.join(&self.container.id);
        let failed =
            |errno: rustix::io::Errno| ContainerError::Place { path: path.clone(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(ContainerError::Busy { id: format!("container {}", self.container.id) })
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether it can be done at all.
    pub(crate) fn check(&self) -> Result<(Sight, Ability), ContainerError> {
        let refused = |obstacle| ContainerError::Obstacle { id: self.container.id.clone(), obstacle };
        let status = self.container.status();
        if status != Status::Running {
            return Err(refused(Obstacle::Status { status }));
        }
        let plugins = self.criu.plugins().map(Plugins::trusted).transpose()?;
        let since = Instant::now();
        loop {
            let sight = Sight::of(self.container)?;
            let ability = Ability::of(self.container, &sight, self.wishes.tcp, self.wishes.shell_job)?;
            let ability = ability.with_plugins(plugins.as_ref());
            match ability.obstacles.first() {
                None => return Ok((sight, ability)),
                Some(obstacle) if since.elapsed() < obstacle.may_pass_within() => {
                    std::thread::sleep(PACE);
                }
                Some(obstacle) => return Err(refused(obstacle.clone())),
            }
        }
    }

    pub(super) fn options(
        &self,
        sight: &Sight,
        ability: &Ability,
        order: &Order,
        images: &Path,
    ) -> DumpOptions {
        let seize_timeout = order.left().map(|left| left.max(Duration::from_secs(1)));
        let wishes = Wishes { connected: ability.connected, seize_timeout, ..self.wishes.clone() };
        dump::options(self.container, sight, &wishes, images)
    }
}

//! Checkpoint a tree of plain processes: the same freeze as a container's, with nothing known but a PID.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use torpor_criu::options::DumpOptions;
use torpor_criu::program::Program;
use torpor_criu::rpc::CgroupMode;

use crate::accelerator::{Accelerators, Plugins, RECORD};
use crate::container::ContainerError;
use crate::container::checkpoint::Done;
use crate::container::directory::{IntoDirectory, partial};
use crate::container::dump::Wishes;
use crate::freeze::{Owner, Tree};
use crate::order::Order;
use crate::outlook::{self, Answer, Seen, Wanted};
use crate::phase::{Phase, Phases};
use crate::process_tree;
use crate::triggers::Kind;

/// A checkpoint that is to be made.
#[derive(Debug)]
pub struct Job<'a> {
    /// The first process of the tree.
    pub root: i32,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What was chosen about the dump.
    pub wishes: Wishes,
    /// How long all of it may take.
    pub timeout: Option<Duration>,
}

/// Whether a process and all below it are others than this one, which cannot freeze itself.
///
/// # Errors
/// They are not.
pub fn is_of_others(root: i32) -> Result<(), ContainerError> {
    match process_tree::of(root).contains(&std::process::id().cast_signed()) {
        true => Err(ContainerError::OwnTree { pid: root }),
        false => Ok(()),
    }
}

impl Job<'_> {
    /// Makes it as a directory of CRIU's images.
    ///
    /// # Errors
    /// Where it cannot be made: nothing of it stays then, and the processes run on.
    pub fn into_directory(&self, directory: &Path) -> Result<Done, ContainerError> {
        let order = self.order();
        let _lock = self.lock()?;
        let phases = Phases::begin(Phase::Check);
        let partial = partial(directory)?;
        let seen = self.check()?;
        let into = IntoDirectory {
            tree: self.tree(),
            criu: self.criu,
            order: &order,
            options: &|images| self.options(&seen, &order, images),
            tcp: self.wishes.tcp,
            memory: seen.memory,
            memory_budget: None,
            together: None,
            beside: Accelerators::record(&seen.accelerators).map(|used| (RECORD, used)).into_iter().collect(),
        };
        into.make(directory, partial, phases)
    }

    pub(super) fn order(&self) -> Order {
        let kind = if self.wishes.leave_running { Kind::Running } else { Kind::Suspend };
        Order::new(kind, self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    pub(super) fn tree(&self) -> Tree<'_> {
        Tree { root: self.root, owner: Owner::Other { freezer: None } }
    }

    /// Nobody else makes a checkpoint of it at the same time.
    pub(super) fn lock(&self) -> Result<OwnedFd, ContainerError> {
        process_tree::pid(self.root)?;
        let gone = |_| process_tree::Gone(self.root);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(format!("/proc/{}", self.root), flags, Mode::empty()).map_err(gone)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(ContainerError::Busy { id: format!("process {}", self.root) })
            }
            // A kernel that knows no lock there leaves it to CRIU, which traces a process alone.
            _ => Ok(directory),
        }
    }

    /// Whether it can be done at all.
    pub(super) fn check(&self) -> Result<Seen, ContainerError> {
        is_of_others(self.root)?;
        let plugins = self.criu.plugins().map(Plugins::trusted).transpose()?;
        let seen = Seen::of_process(self.root)?.with_plugins(plugins.as_ref());
        let wanted = Wanted {
            tcp: self.wishes.tcp,
            external_unix: self.wishes.external_unix,
            shell_job: self.wishes.shell_job,
            standstill: None,
            grace: None,
        };
        match outlook::findings(&seen, &wanted).into_iter().find(|finding| finding.answer == Answer::No) {
            Some(found) => Err(ContainerError::Processes {
                pid: self.root,
                reason: found.reason,
                remedy: found.remedy.unwrap_or("see `torpor check`"),
            }),
            None => Ok(seen),
        }
    }

    pub(super) fn options(&self, seen: &Seen, order: &Order, images: &Path) -> DumpOptions {
        let connected = !(seen.connections.inside.is_empty() && seen.connections.outside.is_empty());
        let seize_timeout = order.left().map(|left| left.max(Duration::from_secs(1)));
        let wishes = Wishes { connected, seize_timeout, ..self.wishes.clone() };
        let mut options = wishes.options(self.root, images);
        options.common.cgroups = Some(CgroupMode::Ignore);
        options
    }
}

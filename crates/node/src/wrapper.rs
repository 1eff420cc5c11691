//! `torpor run`: the parent of a program, which starts it where it was suspended and suspends it when told to.
//!
//! [`run`] begins an epoch, starts or restores the program, and then loops over what happens: signals,
//! requests, the period, the end of a checkpoint, the end of the program. What follows from each is decided by
//! [`crate::triggers`]; checkpoints are made in a thread, so that the loop stays awake.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use torpor_criu::options::ExpertOption;
use torpor_criu::program::Program;
use torpor_store::Repository;
use torpor_store::lineage::{Ending, Epoch, Lineage, Record, Start};
use torpor_store::name::Name;

use crate::children::{Children, Ended};
use crate::config::{RunConfig, Surroundings};
use crate::machine::Machine;
use crate::sys::process;

mod captures;
mod epoch;
mod error;
mod event_loop;
mod plain;
mod program;
mod sign_of_life;
mod signals;
mod stale_lock;
mod start;

pub(crate) use epoch::instance;
pub use error::WrapperError;
pub use program::identity;
pub(crate) use sign_of_life::SignOfLife;

use event_loop::{EventLoop, Message};
use program::Kept;

/// What `torpor run` works with, besides its configuration.
#[derive(Debug)]
pub struct Setup {
    /// The store, opened; none where nothing is to be kept.
    pub repository: Option<Repository>,
    /// The CRIU to use.
    pub criu: Program,
    /// Further options for it.
    pub expert_options: Vec<ExpertOption>,
    /// Where this process finds itself.
    pub surroundings: Surroundings,
}

/// Runs the program to its end, or until it is suspended. Returns the exit code.
///
/// # Errors
/// Where the program could neither be restored nor started, or nothing may be started.
pub fn run(config: RunConfig, setup: Setup) -> Result<i32, WrapperError> {
    // Before any thread: they inherit the mask.
    let signals = process::signal_descriptor().map_err(WrapperError::Signals)?;
    if std::process::id() != 1 {
        process::become_subreaper().map_err(WrapperError::Signals)?;
    }
    if crate::sys::probe::started_with_more_privileges() {
        // A binary with file capabilities hides its /proc/PID, through which CRIU finds the directory of the images. Whoever
        // lacks the capabilities that Torpor has still may not look into it or trace it.
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::Dumpable)
            .map_err(|error| WrapperError::Signals(error.into()))?;
    }
    let (messages, inbox) = mpsc::channel();
    signals::watch(signals, messages.clone()).map_err(WrapperError::Signals)?;
    let Some(repository) = setup.repository.clone() else {
        return plain::run(&config, &inbox);
    };

    let signs = sign_of_life::directory(&config);
    let (epoch, start) = epoch::begin(&repository, &config, &setup.surroundings, signs.as_deref())?;
    let config = epoch::in_slot(config, epoch.name(), &setup.surroundings);
    let alive = signs.and_then(|directory| SignOfLife::give(&directory, &start.id));
    let lineage = Lineage::new(&repository, config.name.clone());
    let holder = start.id.clone();
    let staging = staging(&setup.surroundings, &config.name);
    let code = hold(config, &setup, repository, epoch, &start, messages, inbox);
    // Only where it is empty: images of a failed restore are kept there for someone to look into.
    let _ = std::fs::remove_dir(staging);
    if let Some(alive) = alive
        && lineage.record().is_ok_and(|record| record.is_some_and(|record| is_held_by(&record, &holder)))
    {
        // The end could not be recorded, so the next start must see by the lock that nobody holds the name.
        alive.leave_behind();
    }
    code
}

/// Runs the program in an epoch that has begun.
fn hold(
    config: RunConfig,
    setup: &Setup,
    repository: Repository,
    epoch: Epoch,
    start: &Start,
    messages: Sender<Message>,
    inbox: Receiver<Message>,
) -> Result<i32, WrapperError> {
    let machine = Machine::read();
    let children = Children::default();
    let mut kept = Kept::new(config, setup, repository, epoch, machine)?;
    let held = epoch::Held::keep(Arc::clone(&kept.epoch), start.lease, messages.clone());
    let running = match start::start(&kept, &children) {
        Ok(running) => running,
        Err(error) => {
            held.let_go();
            return Err(error);
        }
    };
    stale_lock::remove(&kept);
    kept.baseline.assume_changed(running.files.iter().cloned());
    let code = EventLoop::new(Arc::new(kept), running, children, messages, inbox)?.run();
    drop(held);
    code
}

/// Whether a record says that this holder has the name still.
fn is_held_by(record: &Record, id: &str) -> bool {
    record.live_holder(jiff::Timestamp::now()).is_some_and(|holder| holder.id == id)
}

/// What the end of the program means to the name.
fn ending(ended: Ended, on_purpose: bool) -> Ending {
    match ended {
        Ended::Code(code) => Ending::Exited(code),
        Ended::Signal(signal) if on_purpose => Ending::Exited(128 + signal),
        Ended::Signal(signal) => Ending::Signaled(signal),
    }
}

/// Where a wrapper puts what lives no longer than itself.
fn staging(surroundings: &Surroundings, name: &Name) -> PathBuf {
    surroundings.runtime_dir.join("torpor/staging").join(name.to_string().replace(['/', ':'], "_"))
}

//! The epoch of this start: begun once, held by a lease that a thread renews.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use torpor_store::Repository;
use torpor_store::lineage::{Claim, Claimed, Epoch, Holder, Lineage, LineageError, Start};
use torpor_store::name::Name;

use super::event_loop::Message;
use super::sign_of_life::SignOfLife;
use crate::config::{AfterCrash, RunConfig, Slots, Surroundings};

/// How long a name is held without a word from its holder.
const LEASE: SignedDuration = SignedDuration::from_secs(60);

/// How often a slot that is being given up is looked at again, and how long at most.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Begins an epoch of the configured name, or of a slot of it.
pub(super) fn begin(
    repository: &Repository,
    config: &RunConfig,
    surroundings: &Surroundings,
    signs: Option<&Path>,
) -> Result<(Epoch, Start), LineageError> {
    let is_gone = |holder: &Holder| signs.is_some_and(|signs| SignOfLife::is_gone(signs, &holder.id));
    let lineage = Lineage::new(repository, config.name.clone());
    let mut start = Start {
        id: instance(),
        incarnation: surroundings
            .pod
            .as_ref()
            .map(|pod| format!("{pod}/{}", surroundings.container.as_deref().unwrap_or_default())),
        host: surroundings.host.clone(),
        pod: surroundings.pod.clone(),
        pid: std::process::id(),
        lease: LEASE,
        known_gone: None,
    };
    let epoch = match config.slots {
        Slots::Own => {
            let holder = lineage.record()?.and_then(|record| record.holder);
            start.known_gone = holder.filter(is_gone).map(|holder| holder.id);
            let epoch = lineage.begin(&start)?;
            if let (Some(signs), Some(gone)) = (signs, &start.known_gone) {
                SignOfLife::forget(signs, gone);
            }
            epoch
        }
        Slots::Claim => claim(repository, config, surroundings, &start, &is_gone)?,
    };
    tracing::info!(name = %epoch.name(), epoch = epoch.number(), "began an epoch");
    Ok((epoch, start))
}

/// Claims a slot, and waits for one that is being given up.
fn claim(
    repository: &Repository,
    config: &RunConfig,
    surroundings: &Surroundings,
    start: &Start,
    is_gone: &dyn Fn(&Holder) -> bool,
) -> Result<Epoch, LineageError> {
    let own = surroundings.slot();
    let new = &start.id[..start.id.len().min(8)];
    let wait_until = Instant::now() + LONGEST_WAIT;
    let mut waits_for = None;
    loop {
        let claim = Claim {
            name: &config.name,
            own: own.as_deref(),
            new,
            lost: config.after_crash == AfterCrash::Last,
            wait: Instant::now() < wait_until,
            is_gone,
        };
        match Lineage::claim(repository, &claim, start)? {
            Claimed::Slot(epoch) => return Ok(*epoch),
            Claimed::Leaving { slot, until } => {
                if waits_for.as_ref() != Some(&slot) {
                    tracing::info!(%slot, %until, "waits for a slot whose holder is suspending its program");
                    waits_for = Some(slot);
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }
}

/// The configuration as it is in the slot that was taken: what goes by the name goes by the slot's.
pub(super) fn in_slot(config: RunConfig, slot: &Name, surroundings: &Surroundings) -> RunConfig {
    let (pool, name) = (config.name.to_string(), slot.to_string());
    let renamed = |path: PathBuf, by_name: &dyn Fn(&str) -> PathBuf| {
        if path == by_name(&pool) { by_name(&name) } else { path }
    };
    RunConfig {
        control_socket: renamed(config.control_socket, &|name| surroundings.control_socket(name)),
        status_file: renamed(config.status_file, &|name| surroundings.status_file(name)),
        name: slot.clone(),
        ..config
    }
}

/// Tells those who wait for a slot that this one is free before long.
pub(super) fn leave(epoch: &Arc<Epoch>, within: Duration) {
    let epoch = Arc::clone(epoch);
    let within = SignedDuration::try_from(within).unwrap_or(LEASE);
    // The store may be slow, and a suspend does not wait for it.
    let told = std::thread::Builder::new().name("leave".into()).spawn(move || {
        if let Err(error) = epoch.leave(within) {
            tracing::warn!(%error, "replicas are not told that this slot is free soon");
        }
    });
    if let Err(error) = told {
        tracing::warn!(%error, "replicas are not told that this slot is free soon");
    }
}

/// A name for this start that no other has.
pub(crate) fn instance() -> String {
    // The kernel's own generator of such names: 122 random bits.
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map(|uuid| uuid.trim().to_owned())
        .unwrap_or_else(|_| format!("{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond()))
}

/// A lease that is renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    epoch: Arc<Epoch>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Held {
    pub(super) fn keep(epoch: Arc<Epoch>, lease: SignedDuration, messages: Sender<Message>) -> Held {
        let (stop, stopped) = mpsc::channel();
        let third = Duration::try_from(lease).unwrap_or_default() / 3;
        let renewed = Arc::clone(&epoch);
        let thread = std::thread::Builder::new().name("lease".into()).spawn(move || {
            while stopped.recv_timeout(third) == Err(RecvTimeoutError::Timeout) {
                match renewed.renew() {
                    Ok(()) => {}
                    Err(error @ LineageError::Fenced { .. }) => {
                        tracing::error!(%error, "this start is not the newest any more");
                        let _ = messages.send(Message::Fenced);
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "the lease cannot be renewed now"),
                }
            }
        });
        Held { epoch, stop: Some(stop), thread: thread.ok() }
    }

    /// Gives the name up, for a start that came to nothing.
    pub(super) fn let_go(self) {
        if let Err(error) = self.epoch.release() {
            tracing::warn!(%error, "the name stays held until its lease ends");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

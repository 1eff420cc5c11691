//! The epoch of this start: begun once, held by a lease that a thread renews.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::SignedDuration;
use torpor_store::Repository;
use torpor_store::lineage::{Epoch, Lineage, LineageError, Start};
use torpor_store::name::Name;

use super::event_loop::Message;
use super::sign_of_life::SignOfLife;
use crate::config::Surroundings;

/// How long a name is held without a word from its holder.
const LEASE: SignedDuration = SignedDuration::from_secs(60);

/// Begins an epoch of `name`.
pub(super) fn begin(
    repository: &Repository,
    name: &Name,
    surroundings: &Surroundings,
    signs: Option<&Path>,
) -> Result<(Epoch, Start), LineageError> {
    let lineage = Lineage::new(repository, name.clone());
    let start = Start {
        id: instance(),
        incarnation: surroundings
            .pod
            .as_ref()
            .map(|pod| format!("{pod}/{}", surroundings.container.as_deref().unwrap_or_default())),
        host: surroundings.host.clone(),
        pod: surroundings.pod.clone(),
        pid: std::process::id(),
        lease: LEASE,
        known_gone: gone_holder(&lineage, signs)?,
    };
    let epoch = lineage.begin(&start)?;
    tracing::info!(name = %name, epoch = epoch.number(), "began an epoch");
    Ok((epoch, start))
}

/// The holder of the name, if its sign of life says that it is gone.
fn gone_holder(lineage: &Lineage, signs: Option<&Path>) -> Result<Option<String>, LineageError> {
    let Some(holder) = lineage.record()?.and_then(|record| record.holder) else { return Ok(None) };
    Ok(signs.filter(|signs| SignOfLife::is_gone(signs, &holder.id)).map(|_| holder.id))
}

/// A name for this start that no other has.
pub(super) fn instance() -> String {
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

//! The name of a container in a store, held while its checkpoint or restore lasts.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use torpor_store::lineage::{Epoch, Holder, Lineage, LineageError, Start};

use crate::wrapper::{SignOfLife, instance};

/// How long a name is held without a word.
const LEASE: SignedDuration = SignedDuration::from_secs(60);
/// How often it is renewed.
const THIRD: Duration = Duration::from_secs(20);

/// How long a restore waits for its turn, and how often it looks whether it has come.
const PATIENCE: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(100);
/// What begins the incarnation of a holder of this kind.
const CONTAINER: &str = "container ";

/// Who takes a name.
#[derive(Debug, Clone)]
pub struct Taker<'a> {
    /// The container's ID, or the one it is to have. Who takes a name for the same ID on the same machine is believed to
    /// be its successor.
    pub id: &'a str,
    /// Its pod.
    pub pod: Option<String>,
    /// This machine's name.
    pub host: &'a str,
    /// Where holders on this machine show that they live: the directory `holders` of a store that is a directory.
    pub signs: Option<&'a Path>,
}

/// A name that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    epoch: Epoch,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _sign: Option<SignOfLife>,
}

impl Lease {
    /// Takes a name over from whoever held it, if that is allowed.
    ///
    /// # Errors
    /// Another holds it, or the store fails.
    pub(crate) fn take(lineage: &Lineage, taker: &Taker<'_>) -> Result<Lease, LineageError> {
        let holder = lineage.record()?.and_then(|record| record.holder);
        let gone =
            holder.filter(|holder| taker.signs.is_some_and(|signs| SignOfLife::is_gone(signs, &holder.id)));
        let start = Start {
            id: instance(),
            incarnation: Some(format!("{CONTAINER}{} on {}", taker.id, taker.host)),
            host: taker.host.to_owned(),
            pod: taker.pod.clone(),
            pid: std::process::id(),
            lease: LEASE,
            known_gone: gone.map(|holder| holder.id),
        };
        let sign = taker.signs.and_then(|signs| SignOfLife::give(signs, &start.id));
        let epoch = lineage.begin(&start)?;
        if let (Some(signs), Some(gone)) = (taker.signs, &start.known_gone) {
            SignOfLife::forget(signs, gone);
        }
        let (stop, stopped) = mpsc::channel();
        let renewed = epoch.clone();
        let thread = std::thread::Builder::new().name("lease".into()).spawn(move || {
            while stopped.recv_timeout(THIRD) == Err(RecvTimeoutError::Timeout) {
                match renewed.renew() {
                    Ok(()) => {}
                    // A checkpoint of the container that was restored has begun an epoch of its own.
                    Err(LineageError::Fenced { .. }) => return,
                    Err(error) => tracing::warn!(%error, "the lease cannot be renewed now"),
                }
            }
        });
        Ok(Lease { epoch, stop: Some(stop), thread: thread.ok(), _sign: sign })
    }

    /// The same, but a name that another checkpoint or restore of a container holds is waited for: that is done within seconds, and
    /// pods that are alike may start at the same moment.
    ///
    /// # Errors
    /// A program holds it, its turn does not come, or the store fails.
    pub(crate) fn take_in_turn(lineage: &Lineage, taker: &Taker<'_>) -> Result<Lease, LineageError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Lease::take(lineage, taker) {
                Err(LineageError::Held { holder, .. })
                    if holds_briefly(&holder) && Instant::now() < until =>
                {
                    std::thread::sleep(TURN);
                }
                taken => return taken,
            }
        }
    }

    /// The epoch that has begun with it.
    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }
}

/// Whether a holder has a name only for a checkpoint or restore. Nobody watches the program then.
#[must_use]
pub fn holds_briefly(holder: &Holder) -> bool {
    holder.incarnation.as_deref().is_some_and(|incarnation| incarnation.starts_with(CONTAINER))
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Whoever comes next need not wait for the lease to end.
        match self.epoch.release() {
            Ok(()) | Err(LineageError::Fenced { .. }) => {}
            Err(error) => tracing::warn!(%error, "the name stays held until its lease ends"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use torpor_store::{Credentials, LocalBackend, Repository};

    use super::*;

    #[test]
    fn pods_that_are_alike_take_turns_and_a_program_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalBackend::new(place.path().join("store")));
        let repository = Repository::create(store, &Credentials::None).unwrap();
        let lineage = Lineage::new(&repository, "shop/web".parse().unwrap());
        let taker = |id| Taker { id, pod: None, host: "node", signs: None };
        let first = Lease::take(&lineage, &taker("one")).unwrap();
        assert!(matches!(Lease::take(&lineage, &taker("two")), Err(LineageError::Held { .. })));
        let next = std::thread::scope(|scope| {
            let waits = scope.spawn(|| Lease::take_in_turn(&lineage, &taker("two")));
            drop(first);
            waits.join().unwrap().unwrap()
        });
        assert_eq!(next.epoch().number(), 2);
        drop(next);

        let program = Start {
            id: "program".into(),
            incarnation: Some("shop/web-0/app".into()),
            host: "node".into(),
            pod: None,
            pid: 1,
            lease: LEASE,
            known_gone: None,
        };
        lineage.begin(&program).unwrap();
        let since = Instant::now();
        assert!(matches!(Lease::take_in_turn(&lineage, &taker("three")), Err(LineageError::Held { .. })));
        assert!(since.elapsed() < PATIENCE);
    }
}

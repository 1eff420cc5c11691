//! Several containers as they were at one moment.
//!
//! Whoever makes a checkpoint of a container of a pod waits for the others twice: none captures anything of its memory
//! before all stand still, and none lets its container go on, or end, before all are captured. A third time they wait
//! before any of them counts: all are made, or none.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ContainerError;
use crate::order::Order;

/// How long the others are waited for without a look at the own time.
const LOOK: Duration = Duration::from_millis(100);

/// What all have to reach before any goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// All processes stand still.
    Frozen,
    /// Everything is copied.
    Captured,
    /// It would be offered for a restore.
    Committed,
}

/// Where those meet who make checkpoints of several containers at once.
#[derive(Debug)]
pub struct Together {
    count: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    arrived: [usize; 3],
    failed: bool,
}

impl Together {
    /// A meeting of so many.
    #[must_use]
    pub fn new(count: usize) -> Together {
        Together { count, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for all others to come as far.
    ///
    /// # Errors
    /// One of them has failed, or the order's time is over.
    pub(super) fn wait(&self, stage: Stage, order: &Order) -> Result<(), ContainerError> {
        let mut state = self.state();
        state.arrived[stage as usize] += 1;
        self.changed.notify_all();
        while state.arrived[stage as usize] < self.count {
            if state.failed {
                return Err(ContainerError::OtherFailed);
            }
            order.check()?;
            let patience = order.left().map_or(LOOK, |left| left.min(LOOK));
            (state, _) = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Waits for all others to stand still.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub(super) fn stand_still(this: Option<&Together>, order: &Order) -> io::Result<()> {
        this.map_or(Ok(()), |together| together.wait(Stage::Frozen, order)).map_err(io::Error::other)
    }

    /// Tells the others that nothing will come of it.
    pub fn fail(&self) {
        self.state().failed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triggers::Kind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn none_goes_on_before_all_have_come_as_far() {
        let together = Together::new(3);
        let frozen = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let order = Order::new(Kind::Running, None);
                    frozen.fetch_add(1, Ordering::SeqCst);
                    together.wait(Stage::Frozen, &order).unwrap();
                    assert_eq!(frozen.load(Ordering::SeqCst), 3);
                    together.wait(Stage::Captured, &order).unwrap();
                });
            }
        });
    }

    #[test]
    fn a_failure_and_the_end_of_time_end_the_wait() {
        let together = Together::new(2);
        let late = Order::new(Kind::Running, Some(std::time::Instant::now()));
        assert!(matches!(together.wait(Stage::Frozen, &late), Err(ContainerError::Expired(_))));
        together.fail();
        let order = Order::new(Kind::Running, None);
        assert!(matches!(together.wait(Stage::Captured, &order), Err(ContainerError::OtherFailed)));
    }
}

//! What somebody ordered: which checkpoint, and until when it must be committed. Both may change while it is made.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use torpor_store::manifest::GenerationKind;

use crate::triggers::Kind;

/// An order, shared between whoever gave it and whoever carries it out.
#[derive(Debug)]
pub struct Order {
    ordered: Kind,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    kind: Kind,
    give_up: Option<Instant>,
}

/// The time is over: what is not committed is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint was not committed in the time it had")]
pub struct Expired;

impl Order {
    /// Orders a checkpoint that must be committed by `give_up`, or whenever it is ready.
    #[must_use]
    pub fn new(kind: Kind, give_up: Option<Instant>) -> Order {
        Order { ordered: kind, state: Mutex::new(State { kind, give_up }) }
    }

    /// What it is for, as it was ordered: this is what CRIU is told.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.ordered
    }

    /// Whether it was ordered for a program that runs on afterwards: that one must run soon, so work waits until after the
    /// thaw. For one that ends only the commit counts, so work begins at once.
    #[must_use]
    pub fn runs_on(&self) -> bool {
        self.ordered != Kind::Suspend
    }

    /// Gives it a deadline from now on.
    pub fn expect_by(&self, give_up: Instant) {
        self.state().give_up = Some(give_up);
    }

    /// Says what it became, just before the commit.
    pub fn decided(&self, kind: Kind) {
        self.state().kind = kind;
    }

    /// Whether it became a suspend after CRIU had been told to let the program run on.
    #[must_use]
    pub fn was_turned(&self) -> bool {
        self.runs_on() && self.state().kind == Kind::Suspend
    }

    /// What the generation is for.
    #[must_use]
    pub fn generation_kind(&self) -> GenerationKind {
        match self.state().kind {
            Kind::Suspend => GenerationKind::Suspend,
            Kind::Running => GenerationKind::Running,
            Kind::Template => GenerationKind::Template,
        }
    }

    /// What is left of its time; none where it has all the time it needs.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.state().give_up.map(|give_up| give_up.saturating_duration_since(Instant::now()))
    }

    /// Fails once its time is over.
    ///
    /// # Errors
    /// [`Expired`].
    pub fn check(&self) -> Result<(), Expired> {
        match self.state().give_up {
            Some(give_up) if Instant::now() >= give_up => Err(Expired),
            _ => Ok(()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_periodic_checkpoint_can_turn_into_a_suspend() {
        let order = Order::new(Kind::Running, None);
        assert_eq!((order.check(), order.was_turned()), (Ok(()), false));
        order.decided(Kind::Suspend);
        assert!(order.was_turned());
        assert_eq!(order.generation_kind(), GenerationKind::Suspend);
        assert_eq!(order.kind(), Kind::Running, "CRIU was told before");
    }

    #[test]
    fn an_order_expires() {
        let order = Order::new(Kind::Suspend, None);
        order.expect_by(Instant::now());
        assert_eq!(order.check(), Err(Expired));
    }
}

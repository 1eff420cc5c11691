//! Attempts to restore a generation, and what they come to.

use jiff::{SignedDuration, Timestamp};

use super::error::LineageError;
use super::record::{Attempt, MAX_ATTEMPTS, Outcome, Progress, Record, State};
use super::transition::cut;
use crate::manifest::GenerationKind;

/// A program that dies within this time of its restore makes the restore a failed attempt.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(10);
/// Most failed attempts to restore a generation.
pub const ATTEMPTS: usize = 2;

impl Record {
    /// Notes that CRIU is about to restore a generation.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::NoSuchGeneration`], [`LineageError::Spent`],
    /// [`LineageError::TooManyAttempts`].
    pub fn record_attempt(&mut self, epoch: u64, number: u64, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        let name = self.name.clone();
        let generation = self.generation_mut(number)?;
        if generation.kind == GenerationKind::Suspend
            && let State::Resumed { epoch } = generation.state
            && generation.is_settled()
        {
            return Err(LineageError::Spent { name, number, epoch });
        }
        let attempts = generation.failed_attempts(epoch);
        if attempts >= ATTEMPTS {
            return Err(LineageError::TooManyAttempts { name, number, attempts });
        }
        generation.attempts.push(Attempt { epoch, at: now, outcome: Outcome::Started });
        let surplus = generation.attempts.len().saturating_sub(MAX_ATTEMPTS);
        generation.attempts.drain(..surplus);
        Ok(())
    }

    /// Notes that a generation is restored. Record it before the program's first instruction: whoever finds the
    /// attempt without it may restore the generation again.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::NoSuchGeneration`], [`LineageError::OutOfOrder`] without an attempt.
    pub fn record_restored(&mut self, epoch: u64, number: u64, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        let reason = format!("restored from generation {number}");
        let Some(attempt) = self.attempt_mut(epoch, number)? else {
            return Err(self.out_of_order(epoch, "record a restore", "its attempt was not recorded".into()));
        };
        attempt.outcome = Outcome::Restored { at: now };
        let generation = self.generation_mut(number)?;
        if generation.kind == GenerationKind::Template {
            self.floor = self.next;
        } else {
            generation.state = State::Resumed { epoch };
        }
        self.progress = Progress::Running { epoch, from: Some(number), since: now, reason };
        Ok(())
    }

    /// Notes that a restore failed, or that what was restored died within seconds.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::NoSuchGeneration`], [`LineageError::OutOfOrder`] without an attempt.
    pub fn record_failed(
        &mut self,
        epoch: u64,
        number: u64,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        let Some(attempt) = self.attempt_mut(epoch, number)? else {
            return Err(self.out_of_order(
                epoch,
                "record a failed restore",
                "its attempt was not recorded".into(),
            ));
        };
        let was_settled = attempt.outcome == Outcome::Settled;
        attempt.outcome = Outcome::Failed { reason: cut(reason) };
        let generation = self.generation_mut(number)?;
        let failed = generation.failed_attempts(epoch);
        let kind = generation.kind;
        generation.state = match generation.state {
            _ if kind != GenerationKind::Template && failed >= ATTEMPTS => {
                State::Failed { reason: cut(reason) }
            }
            State::Resumed { .. } if !generation.is_settled() => State::Committed,
            ref state => state.clone(),
        };
        if was_settled && kind == GenerationKind::Suspend {
            // It was taken to run on before that could be known, and is what to go on from after all.
            self.floor = self.floor.min(number);
        }
        if let Progress::Running { epoch: running, from: Some(from), .. } = self.progress
            && (running, from) == (epoch, number)
        {
            // The program is where it was: waiting in that generation, or lost after an earlier epoch.
            self.progress = match kind {
                GenerationKind::Suspend => Progress::Suspended { epoch, generation: number, at: now },
                GenerationKind::Running => Progress::Crashed { epoch, signal: None, at: now },
                GenerationKind::Template => Progress::New,
            };
        }
        Ok(())
    }

    /// Notes that what `epoch` restored runs on, without waiting for [`SETTLE`]: for one that nobody watches from here on.
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn record_settled(&mut self, epoch: u64) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        self.settle(epoch);
        Ok(())
    }

    /// Notes that what `epoch` restored runs on: it is spent if it was a suspend, and newer ones were left aside.
    pub(super) fn settle(&mut self, epoch: u64) {
        let Progress::Running { epoch: running, from: Some(number), .. } = self.progress else { return };
        if running != epoch {
            return;
        }
        for generation in &mut self.generations {
            if generation.number == number {
                for attempt in generation.attempts.iter_mut().filter(|attempt| attempt.epoch == epoch) {
                    if matches!(attempt.outcome, Outcome::Restored { .. }) {
                        attempt.outcome = Outcome::Settled;
                    }
                }
                if generation.kind == GenerationKind::Suspend {
                    self.floor = self.floor.max(number + 1);
                }
            } else if generation.number > number
                && generation.epoch < epoch
                && generation.kind != GenerationKind::Template
                && generation.state == State::Committed
            {
                generation.state =
                    State::Failed { reason: format!("the program went on from generation {number}") };
            }
        }
    }

    /// Whether the generation that `epoch` restored has settled.
    pub(super) fn has_settled(&self, epoch: u64, number: u64) -> bool {
        self.generation(number).is_some_and(|generation| {
            generation
                .attempts
                .iter()
                .any(|attempt| attempt.epoch == epoch && attempt.outcome == Outcome::Settled)
        })
    }

    /// The newest attempt at a generation, if this epoch made it.
    fn attempt_mut(&mut self, epoch: u64, number: u64) -> Result<Option<&mut Attempt>, LineageError> {
        let generation = self.generation_mut(number)?;
        Ok(generation.attempts.last_mut().filter(|attempt| attempt.epoch == epoch))
    }
}

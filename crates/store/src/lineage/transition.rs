//! How a record changes: each step as a pure function of the record, what happened, and the store's clock.

use jiff::{SignedDuration, Timestamp};

use super::error::LineageError;
use super::record::{
    Attempt, Generation, Holder, MAX_ATTEMPTS, MAX_GENERATIONS, MAX_TEXT, Outcome, Program, Progress, Record,
    State,
};
use crate::draft::FinishedDraft;
use crate::id::{ManifestId, PackId};
use crate::manifest::{GenerationKind, Sizes};

/// A program that dies within this time of its restore makes the restore a failed attempt.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(10);
/// Most failed attempts to restore a generation.
pub const ATTEMPTS: usize = 2;

/// Who starts, and what is known of who was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Made up at random for this start.
    pub id: String,
    /// What stays the same when the same slot starts again; see [`Holder::incarnation`].
    pub incarnation: Option<String>,
    /// Host name of the node.
    pub host: String,
    /// The pod, if it runs in one.
    pub pod: Option<String>,
    /// Process id of the wrapper.
    pub pid: u32,
    /// How long the name is held without a renewal.
    pub lease: SignedDuration,
    /// The id of a holder that the caller knows to have ended (its process is gone from this machine).
    pub known_gone: Option<String>,
}

/// A generation that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The number it was made with: [`Record::next`] of the epoch.
    pub number: u64,
    /// Its manifest.
    pub manifest: ManifestId,
    /// What it may be used for.
    pub kind: GenerationKind,
    /// How much it holds.
    pub sizes: Sizes,
    /// What the program is.
    pub program: Program,
    /// Whether retention leaves it alone.
    pub pinned: bool,
    /// A remark.
    pub note: Option<String>,
    /// Packs that hold its data: it is refused while one of them is being collected.
    pub packs: Vec<PackId>,
}

impl Publication {
    /// What a finished draft says about itself; the rest is for the caller to fill in.
    #[must_use]
    pub fn new(finished: &FinishedDraft, program: Program) -> Publication {
        let description = finished.manifest.description();
        Publication {
            number: description.generation,
            manifest: finished.id(),
            kind: description.kind,
            sizes: finished.manifest.sizes(),
            program,
            pinned: false,
            note: None,
            packs: [&finished.written[..], &finished.reused[..]].concat(),
        }
    }
}

/// How a program ended, as its parent saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself with this code.
    Exited(i32),
    /// A signal that nobody sent on purpose ended it.
    Signaled(i32),
}

/// What an ending means for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The lineage is closed: the next start is fresh.
    Ended,
    /// The policy for crashes decides.
    Crashed,
    /// It was suspended before: that stands.
    Suspended,
    /// The program died within seconds of its restore: an attempt of this generation failed.
    RestoreFailed {
        /// The generation.
        generation: u64,
    },
}

impl Record {
    /// Begins an epoch, and returns its number.
    ///
    /// # Errors
    /// [`LineageError::Held`] while another holder's lease lasts, unless it is an earlier incarnation of the same
    /// slot or known to have ended.
    pub fn begin(&mut self, start: &Start, now: Timestamp) -> Result<u64, LineageError> {
        if let Some(holder) = self.live_holder(now) {
            let succeeds = holder.id == start.id
                || start.known_gone.as_ref() == Some(&holder.id)
                || (holder.incarnation.is_some() && holder.incarnation == start.incarnation);
            if !succeeds {
                return Err(LineageError::Held {
                    name: self.name.clone(),
                    until: holder.lease_until,
                    holder: Box::new(holder.clone()),
                });
            }
        }
        self.epoch += 1;
        self.holder = Some(Holder {
            id: start.id.clone(),
            incarnation: start.incarnation.clone(),
            host: start.host.clone(),
            pod: start.pod.clone(),
            pid: start.pid,
            since: now,
            lease_until: now + start.lease,
            leaving_until: None,
        });
        Ok(self.epoch)
    }

    /// Whether `epoch` is the newest.
    ///
    /// # Errors
    /// [`LineageError::Fenced`] where it is not.
    pub fn check_epoch(&self, epoch: u64) -> Result<(), LineageError> {
        if epoch == self.epoch {
            return Ok(());
        }
        Err(LineageError::Fenced {
            name: self.name.clone(),
            epoch,
            newest: self.epoch,
            holder: self.holder.clone().map(Box::new),
        })
    }

    /// Lengthens the holder's lease, and notes that a restored program has run on for [`SETTLE`].
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn renew(&mut self, epoch: u64, lease: SignedDuration, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        if let Some(holder) = &mut self.holder {
            holder.lease_until = holder.lease_until.max(now + lease);
        }
        if let Progress::Running { epoch: running, from: Some(_), since, .. } = self.progress
            && running == epoch
            && now.duration_since(since) >= SETTLE
        {
            self.settle(epoch);
        }
        Ok(())
    }

    /// Ends the holder's lease: the next start need not wait. The epoch stays the newest.
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn release(&mut self, epoch: u64, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        if let Some(holder) = &mut self.holder {
            holder.lease_until = holder.lease_until.min(now);
        }
        Ok(())
    }

    /// Publishes a generation: the act that makes a checkpoint exist. A suspend ends the holder's lease. Publishing
    /// what is published already (the first answer was lost) changes nothing.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::TooManyGenerations`], [`LineageError::OutOfOrder`] for a number that
    /// is not the next.
    pub fn publish(
        &mut self,
        epoch: u64,
        publication: &Publication,
        now: Timestamp,
    ) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        if let Some(there) = self.generation(publication.number)
            && there.manifest == publication.manifest
            && there.epoch == epoch
        {
            return Ok(());
        }
        if publication.number != self.next {
            let because = format!("generation {} is not the next, {}", publication.number, self.next);
            return Err(self.out_of_order(epoch, "publish a generation", because));
        }
        if self.generations.len() >= MAX_GENERATIONS {
            return Err(LineageError::TooManyGenerations {
                name: self.name.clone(),
                count: self.generations.len(),
            });
        }
        // What was restored has proved itself by coming this far, and everything it left aside is behind.
        self.settle(epoch);
        self.generations.push(Generation {
            number: publication.number,
            manifest: publication.manifest,
            epoch,
            kind: publication.kind,
            created: now,
            sizes: publication.sizes,
            pinned: publication.pinned,
            state: State::Committed,
            attempts: Vec::new(),
            program: publication.program.clone(),
            note: publication.note.as_deref().map(cut),
            signed: Vec::new(),
        });
        self.next += 1;
        match publication.kind {
            GenerationKind::Suspend => {
                self.progress = Progress::Suspended { epoch, generation: publication.number, at: now };
                self.release(epoch, now)?;
            }
            // Nobody told of the start of a container that knows nothing of us. It runs, as can be seen.
            GenerationKind::Running if !matches!(self.progress, Progress::Running { .. }) => {
                let reason = "it ran at a checkpoint".to_owned();
                self.progress = Progress::Running { epoch, from: None, since: now, reason };
            }
            GenerationKind::Running | GenerationKind::Template => {}
        }
        Ok(())
    }

    /// Takes a suspend back whose program runs on after all, so that it is never resumed beside it.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], [`LineageError::NoSuchGeneration`].
    pub fn withdraw(
        &mut self,
        epoch: u64,
        number: u64,
        reason: &str,
        lease: SignedDuration,
        now: Timestamp,
    ) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        self.generation_mut(number)?.state = State::Failed { reason: cut(reason) };
        if matches!(self.progress, Progress::Suspended { generation, .. } if generation == number) {
            self.progress = Progress::Running {
                epoch,
                from: None,
                since: now,
                reason: "its suspension was taken back".into(),
            };
        }
        self.renew(epoch, lease, now)
    }

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

    /// Notes a fresh start: everything kept before lies behind it.
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn record_fresh(&mut self, epoch: u64, reason: &str, now: Timestamp) -> Result<(), LineageError> {
        self.check_epoch(epoch)?;
        self.floor = self.next;
        self.progress = Progress::Running { epoch, from: None, since: now, reason: cut(reason) };
        Ok(())
    }

    /// Notes how the program ended, and ends the lease.
    ///
    /// # Errors
    /// [`LineageError::Fenced`].
    pub fn close(&mut self, epoch: u64, ending: Ending, now: Timestamp) -> Result<Closed, LineageError> {
        self.check_epoch(epoch)?;
        let closed = match (&self.progress, ending) {
            (&Progress::Suspended { epoch: suspended, .. }, _) if suspended == epoch => Closed::Suspended,
            (
                &Progress::Running { epoch: running, from: Some(generation), since, .. },
                Ending::Signaled(_),
            )
            | (
                &Progress::Running { epoch: running, from: Some(generation), since, .. },
                Ending::Exited(1..),
            ) if running == epoch
                && now.duration_since(since) < SETTLE
                && !self.has_settled(epoch, generation) =>
            {
                let reason = match ending {
                    Ending::Exited(code) => format!("the program ended with code {code} within seconds"),
                    Ending::Signaled(signal) => format!("signal {signal} ended the program within seconds"),
                };
                self.record_failed(epoch, generation, &reason, now)?;
                Closed::RestoreFailed { generation }
            }
            (_, Ending::Exited(code)) => {
                self.settle(epoch);
                self.floor = self.next;
                self.progress = Progress::Ended { epoch, code, at: now };
                Closed::Ended
            }
            (_, Ending::Signaled(signal)) => {
                self.settle(epoch);
                self.progress = Progress::Crashed { epoch, signal: Some(signal), at: now };
                Closed::Crashed
            }
        };
        self.release(epoch, now)?;
        Ok(closed)
    }

    /// Pins a generation, so that retention leaves it alone, or lets it go.
    ///
    /// # Errors
    /// [`LineageError::NoSuchGeneration`].
    pub fn pin(&mut self, number: u64, pinned: bool) -> Result<(), LineageError> {
        self.generation_mut(number)?.pinned = pinned;
        Ok(())
    }

    /// Takes generations out of the record. What lies before a resumed one that is taken out stays behind.
    ///
    /// # Errors
    /// [`LineageError::NoSuchGeneration`].
    pub fn remove(&mut self, numbers: &[u64]) -> Result<(), LineageError> {
        for &number in numbers {
            let generation = self.generation_mut(number)?;
            if generation.kind == GenerationKind::Suspend && matches!(generation.state, State::Resumed { .. })
            {
                self.floor = self.floor.max(number + 1);
            }
            self.generations.retain(|generation| generation.number != number);
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
    fn settle(&mut self, epoch: u64) {
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
    fn has_settled(&self, epoch: u64, number: u64) -> bool {
        self.generation(number).is_some_and(|generation| {
            generation
                .attempts
                .iter()
                .any(|attempt| attempt.epoch == epoch && attempt.outcome == Outcome::Settled)
        })
    }

    pub(super) fn generation_mut(&mut self, number: u64) -> Result<&mut Generation, LineageError> {
        let name = &self.name;
        self.generations
            .iter_mut()
            .find(|generation| generation.number == number)
            .ok_or_else(|| LineageError::NoSuchGeneration { name: name.clone(), number })
    }

    /// The newest attempt at a generation, if this epoch made it.
    fn attempt_mut(&mut self, epoch: u64, number: u64) -> Result<Option<&mut Attempt>, LineageError> {
        let generation = self.generation_mut(number)?;
        Ok(generation.attempts.last_mut().filter(|attempt| attempt.epoch == epoch))
    }

    fn out_of_order(&self, epoch: u64, step: &'static str, because: String) -> LineageError {
        LineageError::OutOfOrder { name: self.name.clone(), epoch, step, because }
    }
}

/// A text no longer than a record keeps.
fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut end = MAX_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

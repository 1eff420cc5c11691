//! How a record changes: each step as a pure function of the record, what happened, and the store's clock.

use jiff::{SignedDuration, Timestamp};

use super::attempt::SETTLE;
use super::error::LineageError;
use super::record::{Generation, MAX_GENERATIONS, MAX_TEXT, Program, Progress, Record, State};
use crate::draft::FinishedDraft;
use crate::id::{ManifestId, PackId};
use crate::manifest::{GenerationKind, Sizes};

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

    pub(super) fn generation_mut(&mut self, number: u64) -> Result<&mut Generation, LineageError> {
        let name = &self.name;
        self.generations
            .iter_mut()
            .find(|generation| generation.number == number)
            .ok_or_else(|| LineageError::NoSuchGeneration { name: name.clone(), number })
    }

    pub(super) fn out_of_order(&self, epoch: u64, step: &'static str, because: String) -> LineageError {
        LineageError::OutOfOrder { name: self.name.clone(), epoch, step, because }
    }
}

/// A text no longer than a record keeps.
pub(super) fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut end = MAX_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

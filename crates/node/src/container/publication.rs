//! A dump into a store: what the freeze brings becomes a generation of a name.

use std::path::Path;
use std::time::Duration;

use torpor_criu::diagnosis::Operation;
use torpor_criu::options::{DumpOptions, Tcp};
use torpor_store::lineage::{Epoch, Lineage, Program, Publication};
use torpor_store::manifest::{Description, GenerationKind};
use torpor_store::{Draft, DraftSettings, FinishedDraft, Manifest, Repository};

use super::ContainerError;
use super::checkpoint::Heir;
use super::directory::close_connections;
use super::together::{Stage, Together};
use crate::budget;
use crate::checkpoint::finish_in_time;
use crate::freeze::{Engine, Fate, Freeze, Frozen, LOG, MemoryIntoDraft, Standstill, Tree, take_images};
use crate::huge_pages;
use crate::order::Order;
use crate::phase::{Phase, Phases};
use crate::precopy;

/// A dump that is to be made.
pub(crate) struct IntoStore<'a> {
    /// What is dumped.
    pub(crate) tree: Tree<'a>,
    /// Until when.
    pub(crate) order: &'a Order,
    /// Others that are checkpointed at the same moment.
    pub(crate) together: Option<&'a Together>,
    /// Who must have taken it over before it ends.
    pub(crate) heir: Option<&'a dyn Heir>,
    /// What happens to TCP connections.
    pub(crate) tcp: Tcp,
    /// The name, held.
    pub(crate) epoch: &'a Epoch,
    /// The generation before.
    pub(crate) predecessor: Option<&'a Manifest>,
    /// What the name's record tells of the program.
    pub(crate) program: Program,
    /// Where CRIU puts its images.
    pub(crate) staging: &'a Path,
    /// What CRIU is told.
    pub(crate) options: &'a DumpOptions,
}

/// What the freeze has brought.
enum Captured {
    Copied(Box<Draft>, Vec<u8>),
    Published(Box<Manifest>),
}

impl IntoStore<'_> {
    /// A draft with room for so many bytes of memory, as far as the budget goes.
    pub(crate) fn draft(
        &self,
        repository: &Repository,
        engine: &Engine,
        budget: u64,
        memory: u64,
    ) -> Result<Draft, ContainerError> {
        let index_limit = budget::of_index(budget);
        let held = self.order.runs_on();
        let shares = budget::shares(budget, engine.memory(memory) + index_limit, memory, held);
        let settings = DraftSettings {
            predecessor: self.predecessor,
            memory_limit: usize::try_from(shares.draft).unwrap_or(usize::MAX),
            index_limit: usize::try_from(index_limit).unwrap_or(usize::MAX),
            ahead_limit: usize::try_from(shares.ahead).unwrap_or(usize::MAX),
            held: if held { memory } else { 0 },
            ..DraftSettings::default()
        };
        Ok(repository.draft(settings)?)
    }

    /// Makes it. While all stands still, `capture` adds what belongs to it besides memory and CRIU's images, and says what
    /// the manifest tells of it.
    pub(crate) fn make(
        &self,
        engine: Engine,
        mut draft: Draft,
        phases: &mut Phases,
        capture: &mut dyn FnMut(&mut Draft) -> Result<Vec<u8>, ContainerError>,
    ) -> Result<(Manifest, Duration), ContainerError> {
        let order = self.order;
        if order.runs_on() {
            huge_pages::gather(self.tree.root, order);
            precopy::precopy(self.tree.root, order, &mut draft)?;
            draft.hold()?;
        }
        order.check()?;
        let number = self.epoch.next_generation()?;
        let others = || Together::stand_still(self.together, order);
        let standstill = Standstill::among(&others);
        let memory = MemoryIntoDraft::new(draft, &engine, order, &standstill);
        let meet = |stage| self.together.map_or(Ok(()), |together| together.wait(stage, order));
        let finish = |draft: Draft, facts: Vec<u8>, phases: &Phases| {
            let manifest = self.publish(draft, self.describe(number, facts, phases))?;
            meet(Stage::Committed).inspect_err(|error| {
                if let Err(error) = self.epoch.withdraw(number, &error.to_string()) {
                    tracing::error!(%error, number, "the checkpoint of one container alone cannot be taken back");
                }
            })?;
            self.heir.map_or(Ok(()), |heir| heir.take(&manifest, order))?;
            Ok(manifest)
        };
        let freeze =
            Freeze { tree: self.tree, order, options: self.options, standstill: &standstill, phases };
        let frozen = freeze.run(engine, memory, |memory, phases, held| {
            let mut draft = memory.complete(held, self.staging)?;
            close_connections(self.tcp, self.staging)?;
            let facts = capture(&mut draft)?;
            take_images(self.staging, &mut draft)?;
            order.check()?;
            meet(Stage::Captured)?;
            if order.runs_on() {
                return Ok(Fate::Runs(Captured::Copied(Box::new(draft), facts)));
            }
            phases.enter(Phase::Commit);
            held.keep()?;
            draft.resume();
            finish(draft, facts, phases).map(|manifest| Fate::Ends(Captured::Published(Box::new(manifest))))
        });
        let Frozen { taken: captured, duration, .. } = frozen.map_err(|error: ContainerError| {
            error.with_log(&self.staging.join(LOG), Operation::Checkpoint)
        })?;
        let manifest = match captured {
            Captured::Published(manifest) => *manifest,
            Captured::Copied(mut draft, facts) => {
                phases.enter(Phase::Commit);
                draft.resume();
                finish(*draft, facts, phases)?
            }
        };
        Ok((manifest, duration))
    }

    fn describe(&self, number: u64, facts: Vec<u8>, phases: &Phases) -> Description {
        let kind = if self.order.runs_on() { GenerationKind::Running } else { GenerationKind::Suspend };
        Description {
            name: self.epoch.name().to_string(),
            epoch: self.epoch.number(),
            generation: number,
            kind,
            parent: self.predecessor.map(|manifest| manifest.description().generation),
            created: jiff::Timestamp::now(),
            phases: phases.recorded(),
            facts,
        }
    }

    /// The act by which the generation begins to exist.
    fn publish(&self, draft: Draft, description: Description) -> Result<Manifest, ContainerError> {
        let finished: FinishedDraft = finish_in_time::<ContainerError>(draft, description, self.order)?;
        self.epoch.publish(&Publication::new(&finished, self.program.clone()))?;
        Ok(finished.manifest)
    }
}

/// The newest generation, whose pages need not be kept again.
pub(crate) fn predecessor(
    repository: &Repository,
    lineage: &Lineage,
) -> Result<Option<Manifest>, ContainerError> {
    let newest = lineage.record()?.and_then(|record| record.generations.last().map(|newest| newest.manifest));
    Ok(newest.and_then(|id| match repository.manifest(id) {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            tracing::warn!(%error, "the generation before cannot be read; nothing is taken from it");
            None
        }
    }))
}

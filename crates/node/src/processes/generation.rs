//! Plain processes in a store: a checkpoint becomes a generation of a name, and goes on from there.

use std::path::Path;

use serde::{Deserialize, Serialize};
use torpor_criu::session::DefaultConfig;
use torpor_store::Manifest;
use torpor_store::lineage::{Epoch, Lineage, Program};

use super::checkpoint::Job;
use super::restore::{Processes, restore};
use crate::accelerator::{self, Accelerators, Plugins, RECORD};
use crate::container::checkpoint::Done;
use crate::container::generation::{Destination, Process, Stored};
use crate::container::publication::{self, IntoStore};
use crate::container::stored::{Origin, attempt, go_on, images_into, never_ended, offered};
use crate::container::{ContainerError, Lease, Taker};
use crate::facts::{self, FactsError};
use crate::freeze::Engine;
use crate::machine::Machine;
use crate::mounts::MountPlan;
use crate::open_files::OpenFiles;
use crate::phase::{Phase, Phases};
use crate::restore::{Misfit, check};
use crate::staging::{self, Staging};
use crate::volumes::{self, VolumeRecord};
use crate::{budget, process_tree};

/// The version of the document that this release writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// What tells the document from others.
const KIND: &str = "processes";

/// What a manifest tells about plain processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// [`VERSION`].
    pub version: u32,
    /// `processes`.
    pub kind: String,
    /// The Torpor that wrote it.
    pub torpor: String,
    /// The command line of the first process.
    pub command: Vec<String>,
    /// That process.
    pub process: Process,
    /// CRIU, and what it was told.
    pub criu: crate::facts::Criu,
    /// Files that they had open for writing.
    pub volumes: Vec<VolumeRecord>,
    /// Devices whose state plugins of CRIU's have captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<Accelerators>,
    /// The machine.
    pub machine: Machine,
}

impl Facts {
    /// Reads the document; none where it is about something else than plain processes.
    ///
    /// # Errors
    /// A newer release wrote it, or it is broken.
    pub fn parse(document: &[u8]) -> Result<Option<Facts>, FactsError> {
        facts::of_kind(document, KIND, VERSION)
    }
}

impl Job<'_> {
    /// Makes the checkpoint as a generation of a name.
    ///
    /// # Errors
    /// Where it cannot be made: nothing of it is offered then, and the processes run on.
    pub fn into_store(&self, into: &Destination<'_>) -> Result<Stored, ContainerError> {
        let order = self.order();
        let _lock = self.lock()?;
        let mut phases = Phases::begin(Phase::Check);
        let seen = self.check()?;
        let lineage = Lineage::new(into.repository, into.name.clone());
        let predecessor = publication::predecessor(into.repository, &lineage)?;
        let id = format!("process {}", self.root);
        let lease =
            Lease::take(&lineage, &Taker { id: &id, pod: None, host: &into.host, signs: into.signs })?;
        staging::clean_up(into.staging, "processes-");
        let staging = Staging::create(into.staging, &format!("processes-{}", self.root))
            .map_err(ContainerError::place(into.staging))?;
        let mut engine = Engine::start(self.criu, DefaultConfig::Ignore)?;
        let budget = budget::decide(None, budget::Memory::read());
        engine.leave_memory(self.root, &order, budget);
        let mut options = self.options(&seen, &order, staging.path());
        engine.lead_memory(&mut options);
        let facts = Facts {
            version: VERSION,
            kind: KIND.to_owned(),
            torpor: env!("CARGO_PKG_VERSION").to_owned(),
            command: command(self.root),
            process: Process {
                pid: self.root,
                started: process_tree::started(self.root).ok_or(process_tree::Gone(self.root))?,
            },
            criu: crate::facts::Criu {
                version: engine.version(),
                options: options.record(),
                own_configuration: false,
            },
            volumes: Vec::new(),
            accelerators: seen.accelerators.clone(),
            machine: Machine::read(),
        };
        let to = IntoStore {
            tree: self.tree(),
            order: &order,
            together: None,
            heir: None,
            tcp: self.wishes.tcp,
            epoch: lease.epoch(),
            predecessor: predecessor.as_ref(),
            program: Program {
                command: Some(facts.command.join(" ")).filter(|command| !command.is_empty()),
                executable: None,
                image: None,
            },
            staging: staging.path(),
            options: &options,
        };
        let draft = to.draft(into.repository, &engine, budget, seen.memory)?;
        let (manifest, frozen) = to.make(engine, draft, &mut phases, &mut |draft| {
            if let Some(used) = Accelerators::record(&seen.accelerators) {
                draft.image(RECORD, &mut used.as_bytes())?;
            }
            let open = OpenFiles::of_tree(process_tree::pid(self.root)?)?;
            let volumes = volumes::record(&open, &MountPlan::default(), &|_| false)?;
            serde_json::to_vec(&Facts { volumes, ..facts.clone() }).map_err(ContainerError::Facts)
        })?;
        Ok(Stored { manifest, done: Done { phases, frozen: Some(frozen) } })
    }
}

/// The command line of a process.
fn command(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    // Each word ends with a zero.
    words.pop();
    words
}

/// Makes processes run again from a generation. Of `wanted`, the images are those of the store. Returns the exit code of
/// their root, where it was waited for. Files that were written since are let pass with `changed_files`.
///
/// # Errors
/// The lineage does not offer it, it does not fit, or CRIU fails: then it may be tried once more.
pub fn from_store(
    wanted: &Processes<'_>,
    from: &Origin<'_>,
    changed_files: bool,
) -> Result<Option<i32>, ContainerError> {
    go_on(from, &format!("processes of {}", from.reference.name), |epoch| {
        let manifest = offered(from, epoch)?;
        check(&manifest, wanted.criu.plugins(), changed_files)?;
        laid_out(wanted, from, epoch, &manifest)
    })
}

/// Whether a generation can go on here.
fn check(manifest: &Manifest, plugins: Option<&Path>, changed_files: bool) -> Result<(), ContainerError> {
    let description = manifest.description();
    let generation = format!("{}@{}", description.name, description.generation);
    let Some(facts) = Facts::parse(&description.facts)? else {
        return Err(match crate::container::generation::Facts::parse(&description.facts)? {
            Some(_) => ContainerError::NeedsBundle { checkpoint: generation },
            None => ContainerError::OfAProgram { generation },
        });
    };
    let machine = Machine::read();
    check::machine(&facts.machine, &machine).map_err(ContainerError::Machine)?;
    if never_ended(manifest, &facts.machine, facts.process, &machine) {
        return Err(ContainerError::NeverEnded { id: format!("process {}", facts.process.pid) });
    }
    let plugins = plugins.filter(|_| !facts.accelerators.is_empty()).map(Plugins::trusted).transpose()?;
    accelerator::fit(&facts.accelerators, plugins.as_ref())?;
    match volumes::compare(&facts.volumes)?.into_iter().next() {
        Some(changed) if !changed_files => Err(ContainerError::Machine(Misfit::Volume(Box::new(changed)))),
        _ => Ok(()),
    }
}

fn laid_out(
    wanted: &Processes<'_>,
    from: &Origin<'_>,
    epoch: &Epoch,
    manifest: &Manifest,
) -> Result<Option<i32>, ContainerError> {
    let number = manifest.description().generation;
    attempt(epoch, number, || {
        let name = format!("restore-{}", std::process::id());
        let room: &Path = from.room;
        let images = Staging::create(room, &name).map_err(ContainerError::place(room))?;
        images_into(from.repository, manifest, images.path())?;
        // Before their first instruction: a suspend is resumed once.
        epoch.record_restored(number)?;
        let code = restore(&Processes { images: images.path(), ..wanted.clone() })?;
        if code.is_none() {
            // Nobody is there who could say later that they run on.
            epoch.record_settled()?;
        }
        Ok(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_container_are_not_those_of_processes() {
        assert!(Facts::parse(br#"{"version": 1, "kind": "container"}"#).unwrap().is_none());
        assert!(matches!(
            Facts::parse(br#"{"version": 9, "kind": "processes"}"#),
            Err(FactsError::TooNew { found: 9 })
        ));
        assert!(Facts::parse(b"{").is_err());
    }

    #[test]
    fn a_command_line_is_told_word_by_word() {
        let own = command(std::process::id() as i32);
        assert_eq!(own, std::env::args().collect::<Vec<_>>());
    }
}

//! A container in a store: a checkpoint becomes a generation of a name, with what the container changed in its image.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use torpor_criu::session::DefaultConfig;
use torpor_store::lineage::{Epoch, Lineage, Program};
use torpor_store::name::Name;
use torpor_store::{Manifest, Repository};

use super::ContainerError;
use super::carry::Carry;
use super::checkpoint::{Done, Job};
use super::dump::{self, DESCRIPTORS, Sight};
use super::lease::{Lease, Taker};
use super::obstacle::Ability;
use super::publication::{self, IntoStore};
use super::snapshot::Changes;
use super::state::{Container, Engine as By, Flavor, PodPlace};
use crate::accelerator::{Accelerators, RECORD};
use crate::facts::{self, FactsError};
use crate::files::upper::Layer;
use crate::freeze::Engine;
use crate::machine::Machine;
use crate::open_files::OpenFiles;
use crate::order::Order;
use crate::phase::{Phase, Phases};
use crate::staging::{self, Staging};
use crate::stored_files::IntoDraft;
use crate::{budget, process_tree};

/// The version of the document that this release writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// What tells the document from that of a program under `torpor run`.
const KIND: &str = "container";

/// What a manifest tells about a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// [`VERSION`].
    pub version: u32,
    /// `container`.
    pub kind: String,
    /// The Torpor that wrote it.
    pub torpor: String,
    /// The container's ID.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Who had it started.
    pub engine: By,
    /// The low-level runtime.
    pub runtime: Flavor,
    /// Its place in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodPlace>,
    /// What it has in common with the generations of other containers that were checkpointed at the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<String>,
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its image's ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Its command.
    pub command: Vec<String>,
    /// Its first process, as the machine had it.
    pub process: Process,
    /// Whether what it changed in its image is in the checkpoint. It is where its root is an overlay.
    pub layer: bool,
    /// Mounts whose content is in the checkpoint, by where the container has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<PathBuf>,
    /// The configuration it was started with (OCI runtime specification).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// CRIU, and what it was told.
    pub criu: crate::facts::Criu,
    /// Devices whose state plugins of CRIU's have captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<Accelerators>,
    /// The machine.
    pub machine: Machine,
}

/// A process of a machine that has not been started anew since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its PID.
    pub pid: i32,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// Whether it still runs on this machine.
    #[must_use]
    pub fn runs(self) -> bool {
        process_tree::started(self.pid) == Some(self.started)
            && process_tree::state(self.pid).is_some_and(|state| state != 'Z')
    }
}

impl Facts {
    /// Reads the document; none where it is about something else than a container.
    ///
    /// # Errors
    /// A newer release wrote it, or it is broken.
    pub fn parse(document: &[u8]) -> Result<Option<Facts>, FactsError> {
        facts::of_kind(document, KIND, VERSION)
    }
}

/// Where a generation goes.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The store.
    pub repository: &'a Repository,
    /// The name.
    pub name: Name,
    /// This machine's name.
    pub host: String,
    /// Where holders on this machine show that they live; see [`Taker::signs`].
    pub signs: Option<&'a Path>,
    /// What the generations of other containers at the same moment have in common with it.
    pub moment: Option<String>,
    /// Mounts whose content is taken along.
    pub mounts: Carry,
    /// Where staging directories are made.
    pub staging: &'a Path,
}

/// A name for a moment at which several containers are checkpointed, that no other has.
#[must_use]
pub fn moment() -> String {
    crate::wrapper::instance()
}

/// A generation that exists.
#[derive(Debug)]
pub struct Stored {
    /// Its manifest.
    pub manifest: Manifest,
    /// How it went.
    pub done: Done,
}

impl Job<'_> {
    /// Makes the checkpoint as a generation of a name.
    ///
    /// # Errors
    /// Where it cannot be made: nothing of it is offered then, and the container runs on.
    pub fn into_store(&self, into: &Destination<'_>) -> Result<Stored, ContainerError> {
        let order = self.order();
        let _lock = self.lock()?;
        self.patiently(&order, || self.store(into, &order))
    }

    fn store(&self, into: &Destination<'_>, order: &Order) -> Result<Stored, ContainerError> {
        let mut phases = Phases::begin(Phase::Check);
        let (sight, ability) = self.check()?;
        let lineage = Lineage::new(into.repository, into.name.clone());
        let predecessor = publication::predecessor(into.repository, &lineage)?;
        let taker = Taker {
            id: &self.container.id,
            pod: self.container.pod().map(|place| format!("{}/{}", place.namespace, place.pod)),
            host: &into.host,
            signs: into.signs,
        };
        let lease = Lease::take(&lineage, &taker)?;
        let (manifest, frozen) = self.generation(
            into,
            lease.epoch(),
            predecessor.as_ref(),
            (&sight, &ability),
            order,
            &mut phases,
        )?;
        Ok(Stored { manifest, done: Done { phases, frozen: Some(frozen) } })
    }

    fn generation(
        &self,
        into: &Destination<'_>,
        epoch: &Epoch,
        predecessor: Option<&Manifest>,
        (sight, ability): (&Sight, &Ability),
        order: &Order,
        phases: &mut Phases,
    ) -> Result<(Manifest, Duration), ContainerError> {
        staging::clean_up(into.staging, "container-");
        let name = format!("container-{}", self.container.id);
        let staging = Staging::create(into.staging, &name).map_err(ContainerError::place(into.staging))?;
        let mut engine = Engine::start(self.criu, DefaultConfig::Ignore)?;
        let budget = budget::decide(self.memory_budget, budget::Memory::read());
        engine.leave_memory(self.container.init, order, budget);
        let mut options = self.options(sight, ability, order, staging.path());
        engine.lead_memory(&mut options);
        let criu = crate::facts::Criu {
            version: engine.version(),
            options: options.record(),
            own_configuration: false,
        };
        let mut changes = Changes::of(self.container)?;
        let config = config(self.container);
        let root = PathBuf::from(format!("/proc/{}/root", self.container.init));
        let mut layers: Vec<Layer> = changes.layer().map(|layer| layer.seen_at(&root)).into_iter().collect();
        layers.extend(into.mounts.of(self.container, config.as_ref()));
        let facts = Facts {
            moment: into.moment.clone(),
            accelerators: ability.accelerators.clone(),
            ..facts(self.container, &layers, config, criu)
        };
        let facts = serde_json::to_vec(&facts).map_err(ContainerError::Facts)?;
        let command = Some(self.container.description.command.join(" "));
        let to = IntoStore {
            tree: self.tree(),
            order,
            together: self.together,
            heir: self.heir,
            tcp: self.wishes.tcp,
            epoch,
            predecessor,
            program: Program {
                command: command.filter(|command| !command.is_empty()),
                executable: None,
                image: self.container.image().map(str::to_owned),
            },
            staging: staging.path(),
            options: &options,
        };
        let mut draft = to.draft(into.repository, &engine, budget, ability.memory)?;
        for layer in &mut layers {
            layer.pass(&writable(self.container)?, &mut IntoDraft::new(&mut draft, order), true)?;
        }
        to.make(engine, draft, phases, &mut |draft| {
            let writable = writable(self.container)?;
            for layer in &mut layers {
                layer.pass(&writable, &mut IntoDraft::new(draft, order), false)?;
            }
            draft.image(DESCRIPTORS, &mut dump::descriptors(self.container).as_bytes())?;
            if let Some(used) = Accelerators::record(&ability.accelerators) {
                draft.image(RECORD, &mut used.as_bytes())?;
            }
            Ok(facts.clone())
        })
    }
}

/// The configuration that a container was started with.
pub(crate) fn config(container: &Container) -> Option<serde_json::Value> {
    serde_json::from_slice(&std::fs::read(container.bundle.join("config.json")).ok()?).ok()
}

fn facts(
    container: &Container,
    layers: &[Layer],
    config: Option<serde_json::Value>,
    criu: crate::facts::Criu,
) -> Facts {
    Facts {
        version: VERSION,
        kind: KIND.to_owned(),
        torpor: env!("CARGO_PKG_VERSION").to_owned(),
        id: container.id.clone(),
        names: container.names.clone(),
        engine: container.engine.clone(),
        runtime: container.flavor,
        pod: container.pod(),
        moment: None,
        image: container.image().map(str::to_owned),
        image_id: container.made_from.id.clone(),
        command: container.description.command.clone(),
        process: Process {
            pid: container.init,
            started: process_tree::started(container.init).unwrap_or(container.started),
        },
        layer: layers.iter().any(|layer| layer.at() == Path::new("/")),
        mounts: layers.iter().map(|layer| layer.at().to_owned()).filter(|at| at != Path::new("/")).collect(),
        config,
        criu,
        accelerators: Vec::new(),
        machine: Machine::read(),
    }
}

/// Paths, as the container has them, that are open for writing.
fn writable(container: &Container) -> Result<HashSet<PathBuf>, ContainerError> {
    let open = OpenFiles::of_tree(process_tree::pid(container.init)?)?;
    Ok(open.iter().filter(|file| file.writable).map(|file| file.path.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_program_are_not_a_containers() {
        assert!(Facts::parse(br#"{"version": 1, "torpor": "0.1.0", "command": []}"#).unwrap().is_none());
        assert!(Facts::parse(b"").is_err());
        let newer = Facts::parse(br#"{"version": 9, "kind": "container"}"#);
        assert!(matches!(newer, Err(FactsError::TooNew { found: 9 })));
    }
}

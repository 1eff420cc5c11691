//! Checkpoint a program: check, freeze, capture, commit, and thaw or end.
//!
//! Memory comes into a draft, read where CRIU left it in place (of a program that runs on, where that is possible) or
//! through the page server; CRIU's small images go through a staging directory;
//! files are copied before the freeze and, what changed since, again under it. A suspend is committed inside CRIU's
//! `post-dump` notification: as long as that is not answered, everything can be rolled back. A checkpoint that leaves
//! the program running is committed after the thaw.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use torpor_criu::options::{AfterDump, Common, DumpOptions, ExpertOption};
use torpor_criu::program::Program;
use torpor_criu::session::DefaultConfig;
use torpor_store::lineage::Epoch;
use torpor_store::manifest::GenerationKind;
use torpor_store::{Draft, DraftSettings, Manifest, Repository};

use crate::config::HugePages;
use crate::facts::Facts;
use crate::files;
use crate::files::baseline::Baseline;
use crate::files::inotify::Aside;
use crate::freeze::{
    Engine, Fate, Freeze, Frozen, GHOST_LIMIT, Held, LOG, MemoryIntoDraft, Owner, Standstill, Tree,
    take_images,
};
use crate::open_files::OpenFiles;
use crate::order::Order;
use crate::phase::{Phase, Phases};
use crate::staging::Staging;
use crate::stored_files::IntoDraft;
use crate::streams::Stream;
use crate::streams::input::Input;
use crate::triggers::Kind;
use crate::{budget, capabilities, huge_pages, precopy, process_tree, volumes};

mod check;
mod commit;
mod error;
mod input;

pub use check::{Ability, Obstacle, Sockets};
pub(crate) use commit::finish_in_time;
pub use error::CheckpointError;

use commit::{describe, publish};

/// A program that can be checkpointed, and all that is known of it.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Subject<'a> {
    /// The root of its tree.
    pub root: i32,
    /// What the manifest will tell of it; brought up to date by every checkpoint.
    pub facts: &'a Facts,
    /// Where it is kept.
    pub repository: &'a Repository,
    /// The epoch it runs in.
    pub epoch: &'a Epoch,
    /// The generation it came from or was captured into last.
    pub predecessor: Option<&'a Manifest>,
    /// Its standard input.
    pub input: &'a Input,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What CRIU is told besides what follows from all this.
    pub expert_options: &'a [ExpertOption],
    /// Whether it reads its own configuration files.
    pub default_config: DefaultConfig,
    /// The carried mounts as they were at the start.
    pub baseline: &'a Baseline,
    /// Which paths are taken besides, and which not.
    pub selection: &'a files::Selection,
    /// What is done about each mount.
    pub mounts: &'a crate::mounts::MountPlan,
    /// Paths that are away while it is captured.
    pub inotify_incompatible: &'a [PathBuf],
    /// How sockets with a peer outside are treated.
    pub sockets: Sockets,
    /// What the capture may add to the container's memory, in bytes; by default what can be spared.
    pub memory_budget: Option<u64>,
    /// Whether its memory is gathered into huge pages first, where it is to run on.
    pub huge_pages: HugePages,
    /// Where staging directories are made.
    pub staging: &'a Path,
    /// Asked when everything is captured: what the order has become meanwhile. From then on it stays so.
    pub decide: &'a dyn Fn() -> Kind,
}

/// A checkpoint that exists.
#[derive(Debug)]
pub struct Committed {
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether the program was ended by it.
    pub ended: bool,
    /// How long each phase took.
    pub phases: Phases,
    /// How long CRIU says the program was frozen.
    pub frozen: Duration,
}

/// Makes a checkpoint as `order` says; each phase is announced as it begins.
///
/// # Errors
/// Where it cannot be made. The program runs on then, unless CRIU was killed in the midst of it.
pub fn checkpoint(
    subject: &Subject<'_>,
    order: &Order,
    announce: impl Fn(Phase) + Send + 'static,
) -> Result<Committed, CheckpointError> {
    let mut phases = Phases::announced(Phase::Check, announce);
    if let Some(obstacle) = check::lack_of_privilege(subject.root) {
        return Err(CheckpointError::Obstacle(obstacle));
    }
    let ability = Ability::of(subject.root, subject.mounts, subject.sockets)?;
    if let Some(obstacle) = ability.obstacles.first() {
        return Err(CheckpointError::Obstacle(obstacle.clone()));
    }
    let staging =
        Staging::create(subject.staging, "images").map_err(CheckpointError::staging(subject.staging))?;
    let mut engine = Engine::start(subject.criu, subject.default_config.clone())?;
    let budget = budget::decide(subject.memory_budget, budget::Memory::read());
    engine.leave_memory(subject.root, order, budget);
    let mut draft = begin_draft(subject, order, &ability, &engine, budget)?;
    let mut files = files::capture::Capture::new(subject.baseline, subject.selection);
    let copied = files.first_pass(&ability.open, &mut IntoDraft::new(&mut draft, order))?;
    tracing::debug!(%copied, "first pass over the files");
    if !files.unreadable().is_empty() {
        tracing::warn!(paths = ?files.unreadable(), "changes in these directories cannot be read and are not kept");
    }
    if order.runs_on() {
        if subject.huge_pages == HugePages::Gather {
            huge_pages::gather(subject.root, order);
        }
        precopy::precopy(subject.root, order, &mut draft)?;
        draft.hold()?;
    }
    order.check()?;

    for path in subject.inotify_incompatible {
        files.hold(path.clone());
    }
    let aside = Aside::take(subject.inotify_incompatible, &inotify_journal(subject.staging))?;
    let frozen = freeze(subject, order, &ability, engine, draft, &mut files, &staging, &mut phases);
    aside.put_back()?;
    let (Frozen { taken: captured, ended, duration }, number) = frozen.map_err(|error| match error {
        CheckpointError::Freeze(error) => CheckpointError::Freeze(error.with_log(&staging.path().join(LOG))),
        error => error,
    })?;
    let manifest = match captured {
        Captured::Published(manifest) => *manifest,
        Captured::Copied { mut draft, facts } => {
            phases.enter(Phase::Commit);
            draft.resume();
            let description = describe(subject, order.generation_kind(), &facts, number, &phases)?;
            publish(subject, draft.finish(description)?)?
        }
    };
    Ok(Committed { manifest, ended, phases, frozen: duration })
}

/// The part for which the program stands still. Returns what it has brought, and the generation's number.
#[expect(clippy::too_many_arguments, reason = "the state of one freeze, used here alone")]
fn freeze<'a>(
    subject: &'a Subject<'a>,
    order: &'a Order,
    ability: &Ability,
    engine: Engine,
    draft: Draft,
    files: &'a mut files::capture::Capture<'a>,
    staging: &'a Staging,
    phases: &mut Phases,
) -> Result<(Frozen<Captured>, u64), CheckpointError> {
    let number = subject.epoch.next_generation()?;
    let mut options = dump_options(subject, order, ability, staging.path());
    engine.lead_memory(&mut options);
    let facts = Facts {
        criu: crate::facts::Criu {
            version: engine.version(),
            options: options.record(),
            own_configuration: subject.default_config != DefaultConfig::Ignore,
        },
        tcp: subject.sockets.tcp_facts(ability, order.kind()),
        tree: crate::facts::Tree { root: subject.root, pids: process_tree::of(subject.root) },
        addresses: crate::addresses::of_machine(),
        ..subject.facts.clone()
    };
    let mut capture = Capture { subject, order, files, images: staging.path(), facts, number };
    let standstill = Standstill::alone();
    let memory = MemoryIntoDraft::new(draft, &engine, order, &standstill);
    let freeze = Freeze {
        tree: Tree { root: subject.root, owner: Owner::Torpor },
        order,
        options: &options,
        standstill: &standstill,
        phases,
    };
    let frozen = freeze.run(engine, memory, |memory, phases, held| capture.take(memory, phases, held))?;
    Ok((frozen, number))
}

/// What the standstill has brought.
enum Captured {
    /// A suspend is committed.
    Published(Box<Manifest>),
    /// Everything is copied; the program runs on, and the commit follows.
    Copied { draft: Box<Draft>, facts: Box<Facts> },
}

/// What is taken while the program stands still.
struct Capture<'a> {
    subject: &'a Subject<'a>,
    order: &'a Order,
    files: &'a mut files::capture::Capture<'a>,
    images: &'a Path,
    facts: Facts,
    number: u64,
}

impl Capture<'_> {
    /// Everything is dumped and the program stands still: takes over what CRIU wrote, and commits a suspend.
    fn take(
        &mut self,
        memory: MemoryIntoDraft<'_>,
        phases: &mut Phases,
        held: &Held<'_>,
    ) -> Result<Fate<Captured>, CheckpointError> {
        let Capture { subject, order, ref mut files, images, ref facts, number } = *self;
        let mut draft = memory.complete(held, images)?;
        let open = OpenFiles::of_tree(process_tree::pid(subject.root)?)?;
        let copied = files.second_pass(&open, &mut IntoDraft::new(&mut draft, order))?;
        tracing::debug!(%copied, "second pass over the files");
        take_images(images, &mut draft)?;
        let mut facts = facts.clone();
        // What goes to the program's own streams is not its state, and the next start has others.
        let streams = facts.streams.iter().filter_map(Stream::path).map(Path::to_owned).collect::<Vec<_>>();
        let carried: HashSet<&Path> = files.paths().chain(streams.iter().map(PathBuf::as_path)).collect();
        facts.volumes = volumes::record(&open, subject.mounts, &|path| carried.contains(path))?;
        let input = input::take(subject.input, &mut draft, &mut facts)?;
        let kind = (subject.decide)();
        order.decided(kind);
        if kind != Kind::Suspend {
            return Ok(Fate::Runs(Captured::Copied { draft: Box::new(draft), facts: Box::new(facts) }));
        }
        phases.enter(Phase::Commit);
        held.keep()?;
        draft.resume();
        order.check()?;
        let description = describe(subject, GenerationKind::Suspend, &facts, number, phases)?;
        let finished = finish_in_time::<CheckpointError>(draft, description, order)?;
        let manifest = publish(subject, finished)?;
        if let Some(input) = input {
            input.keep();
        }
        Ok(Fate::Ends(Captured::Published(Box::new(manifest))))
    }
}

/// Where it is noted which paths are away, for the next start should this one be killed.
#[must_use]
pub fn inotify_journal(staging: &Path) -> PathBuf {
    staging.join("set-aside")
}

fn begin_draft(
    subject: &Subject<'_>,
    order: &Order,
    ability: &Ability,
    engine: &Engine,
    budget: u64,
) -> Result<Draft, CheckpointError> {
    let index_limit = budget::of_index(budget);
    let predecessor =
        subject.predecessor.map_or(0, |manifest| budget::of_predecessor(manifest.sizes().memory));
    let others = engine.memory(ability.memory) + index_limit + predecessor;
    let held = if order.runs_on() { ability.memory } else { 0 };
    let shares = budget::shares(budget, others, ability.memory, held > 0);
    tracing::debug!(budget, ?shares, expected = ability.memory, "the memory of the capture");
    let settings = DraftSettings {
        predecessor: subject.predecessor,
        memory_limit: usize::try_from(shares.draft).unwrap_or(usize::MAX),
        index_limit: usize::try_from(index_limit).unwrap_or(usize::MAX),
        ahead_limit: usize::try_from(shares.ahead).unwrap_or(usize::MAX),
        held,
        ..DraftSettings::default()
    };
    Ok(subject.repository.draft(settings)?)
}

fn dump_options(subject: &Subject<'_>, order: &Order, ability: &Ability, images: &Path) -> DumpOptions {
    let mut common = Common::new(images);
    common.log_file = Some(LOG.to_owned());
    common.tcp = subject.sockets.dump_option(order.kind());
    common.unprivileged = capabilities::unprivileged();
    common.network_lock = subject.sockets.network_lock(ability);
    common.tcp_skip_in_flight = true;
    common.ext_unix_sockets = subject.sockets.external_unix;
    common.file_locks = true;
    // Files deleted under one name that have another: CRIU gives them a name again, which the second pass takes in.
    common.link_remap = true;
    common.irmap_scan_paths =
        ability.watched.iter().filter_map(|path| path.to_str().map(str::to_owned)).collect();
    common.cgroups = Some(torpor_criu::rpc::CgroupMode::Ignore);
    common.config.expert = subject.expert_options.to_vec();
    let after = if order.runs_on() { AfterDump::Running } else { AfterDump::End };
    DumpOptions {
        after,
        ghost_limit: Some(GHOST_LIMIT),
        orphan_pts_master: true,
        ..DumpOptions::new(subject.root, common)
    }
}

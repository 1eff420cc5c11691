//! Checkpoint a program: check, freeze, capture, commit, and thaw or end.
//!
//! Memory comes into a draft, read where CRIU left it in place (of a program that runs on, where that is possible) or
//! through the page server; CRIU's small images go through a staging directory;
//! files are copied before the freeze and, what changed since, again under it. A suspend is committed inside CRIU's
//! `post-dump` notification: as long as that is not answered, everything can be rolled back. A checkpoint that leaves
//! the program running is committed after the thaw.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use torpor_criu::options::{AfterDump, Common, DumpOptions, ExpertOption, PageTarget};
use torpor_criu::page_server::PageServer;
use torpor_criu::program::Program;
use torpor_criu::session::{DefaultConfig, Event, Process as CriuProcess, Verdict};
use torpor_store::lineage::Epoch;
use torpor_store::manifest::GenerationKind;
use torpor_store::{Draft, DraftSettings, Manifest, Repository};

use crate::capabilities::Capabilities;
use crate::config::HugePages;
use crate::facts::Facts;
use crate::files;
use crate::files::baseline::Baseline;
use crate::files::inotify::Aside;
use crate::guard::Watch;
use crate::open_files::OpenFiles;
use crate::phase::{Phase, Phases};
use crate::staging::Staging;
use crate::stored_files::IntoDraft;
use crate::streams::Stream;
use crate::streams::input::Input;
use crate::triggers::Kind;
use crate::{budget, huge_pages, precopy, process_tree, volumes};

mod check;
mod commit;
mod engine;
mod error;
mod in_place;
mod input;
mod order;
pub(crate) mod pages;

pub use check::{Ability, Obstacle, Sockets};
pub(crate) use commit::finish_in_time;
pub use error::CheckpointError;
pub use order::{Expired, Order};

use commit::{describe, publish};
use engine::{Engine, PAGES};
use pages::PagesIntoDraft;

/// CRIU's name for its log of a dump.
const LOG: &str = "dump.log";
/// Deleted files up to this size survive, in bytes: CRIU copies them into an image.
const GHOST_LIMIT: u32 = 1 << 30;

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
    // Helpers are started before the draft takes its memory: a fork afterwards would leave all of it write-protected,
    // and every page would fault once more under the freeze.
    let mut engine = Engine::start(subject)?;
    let budget = budget::decide(subject.memory_budget, budget::Memory::read());
    if !works_while_frozen(order) {
        engine.leave_memory(subject.root, budget);
    }
    let mut draft = begin_draft(subject, order, &ability, &engine, budget)?;
    let mut capture = files::capture::Capture::new(subject.baseline, subject.selection);
    let copied = capture.first_pass(&ability.open, &mut IntoDraft::new(&mut draft, order))?;
    tracing::debug!(%copied, "first pass over the files");
    if !capture.unreadable().is_empty() {
        tracing::warn!(paths = ?capture.unreadable(), "changes in these directories cannot be read and are not kept");
    }
    if !works_while_frozen(order) {
        if subject.huge_pages == HugePages::Gather {
            huge_pages::gather(subject.root, order);
        }
        precopy::precopy(subject.root, order, &mut draft)?;
        draft.hold()?;
    }
    order.check()?;

    for path in subject.inotify_incompatible {
        capture.hold(path.clone());
    }
    let aside = Aside::take(subject.inotify_incompatible, &inotify_journal(subject.staging))?;
    let result = freeze(subject, order, &ability, engine, draft, &mut capture, &staging, &mut phases);
    let ended = matches!(&result, Ok(frozen) if frozen.ended);
    aside.put_back()?;
    let frozen = result.map_err(|error| error.with_log(&staging.path().join(LOG)))?;
    let manifest = match frozen.outcome {
        Outcome::Published(manifest) => *manifest,
        Outcome::Copied { mut draft, facts } => {
            phases.enter(Phase::Commit);
            draft.resume();
            let description = describe(subject, order.generation_kind(), &facts, frozen.number, &phases)?;
            publish(subject, draft.finish(description)?)?
        }
    };
    Ok(Committed { manifest, ended, phases, frozen: frozen.duration })
}

/// What the time in which the program was frozen has brought.
struct Frozen {
    outcome: Outcome,
    ended: bool,
    duration: Duration,
    number: u64,
}

enum Outcome {
    /// A suspend is committed.
    Published(Box<Manifest>),
    /// Everything is copied; the program runs on, and the commit follows.
    Copied { draft: Box<Draft>, facts: Box<Facts> },
}

/// The part for which the program stands still.
#[expect(clippy::too_many_arguments, reason = "the state of one freeze, used here alone")]
fn freeze(
    subject: &Subject<'_>,
    order: &Order,
    ability: &Ability,
    engine: Engine,
    draft: Draft,
    capture: &mut files::capture::Capture<'_>,
    staging: &Staging,
    phases: &mut Phases,
) -> Result<Frozen, CheckpointError> {
    let number = subject.epoch.next_generation()?;
    let options = dump_options(subject, order, ability, staging.path(), engine.in_place);
    let Engine { mut guard, session, version, pages: ours, in_place } = engine;
    let facts = Facts {
        criu: crate::facts::Criu {
            version,
            options: options.record(),
            own_configuration: subject.default_config != DefaultConfig::Ignore,
        },
        tcp: subject.sockets.tcp_facts(ability, order.kind()),
        tree: crate::facts::Tree { root: subject.root, pids: process_tree::of(subject.root) },
        addresses: crate::addresses::of_machine(),
        ..subject.facts.clone()
    };
    let number_of_criu = session.pid().as_raw_nonzero().get();
    let watch = Watch::Dump { criu: number_of_criu, root: subject.root };
    if let Err(error) = guard.watch(watch) {
        tracing::warn!(%error, "the guard is gone; the checkpoint goes on without");
    }

    let criu = session.process();
    let hang_up = ours.try_clone().map_err(CheckpointError::PageSocket)?;
    let (hand_back, handed_back) = mpsc::channel();
    let stopped = OnceLock::new();
    let all_noted = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let (all_noted, still, images, root) = (&all_noted, &stopped, staging.path(), subject.root);
        if in_place {
            // CRIU is not to wait for anybody who wants pages.
            let _ = rustix::net::shutdown(&ours, rustix::net::Shutdown::Write);
            let reader = std::thread::Builder::new().name("memory".into());
            let reading = reader.spawn_scoped(scope, move || {
                let mut draft = draft;
                match in_place::try_early(root, number_of_criu, images, all_noted, &mut draft) {
                    Ok(since) => drop(since.map(|since| still.set(since))),
                    Err(error) => tracing::debug!(%error, "no memory is read early"),
                }
                let _ = hand_back.send(draft);
            });
            reading.map_err(CheckpointError::PageSocket)?;
        } else {
            let server = std::thread::Builder::new().name("page-server".into());
            let served = server.spawn_scoped(scope, move || {
                let mut sink = PagesIntoDraft::new(draft, order, still);
                let served = PageServer::new(&ours).serve(&mut sink);
                drop(ours);
                let _ = hand_back.send(sink.into_draft());
                served
            });
            served.map_err(CheckpointError::PageSocket)?;
        }

        let mut since = Instant::now();
        let mut frozen = None;
        let mut refusal = None;
        let dumped = session.dump(&options, &mut |notification| match notification.event {
            Event::PreDump => {
                phases.enter(Phase::Freeze);
                since = Instant::now();
                Verdict::Proceed
            }
            Event::PostDump => {
                all_noted.store(true, Ordering::Relaxed);
                let draft = handed_back.recv().map_err(|_| CheckpointError::NoPostDump);
                phases.entered(Phase::Capture, stopped.get().copied().unwrap_or_else(Instant::now));
                let result = draft.and_then(|mut draft| {
                    if in_place {
                        in_place::take(staging.path(), subject.root, order, &mut draft)?;
                    }
                    take_over(subject, order, capture, staging, phases, draft, &facts, number, &criu)
                });
                match result {
                    Ok((outcome, ended)) => {
                        frozen = Some((outcome, ended));
                        phases.enter(if ended { Phase::End } else { Phase::Thaw });
                        Verdict::Proceed
                    }
                    Err(error) => {
                        refusal = Some(error);
                        Verdict::Refuse
                    }
                }
            }
            _ => Verdict::Proceed,
        });
        let duration = since.elapsed();
        all_noted.store(true, Ordering::Relaxed);
        if frozen.is_none() || dumped.is_err() && !matches!(frozen, Some((_, true))) {
            // CRIU lets the tree go on by itself; where it was killed, it leaves some of what it did to the tree undone.
            // Its children may live on for a while, and have the page server's socket: nothing waits for them.
            crate::guard::release(subject.root);
            let _ = rustix::net::shutdown(&hang_up, rustix::net::Shutdown::Both);
        }
        match (dumped, frozen, refusal) {
            (_, _, Some(error)) => Err(error),
            // The tree was killed by us once the commit was made, so what CRIU says about its end means nothing.
            (_, Some((outcome, true)), None) => Ok((outcome, true, duration)),
            (Ok(_), Some((outcome, false)), None) => Ok((outcome, false, duration)),
            (Err(error), _, None) => Err(error.into()),
            (Ok(_), None, None) => Err(CheckpointError::NoPostDump),
        }
    });
    guard.dismiss();
    let (outcome, ended, duration) = result?;
    Ok(Frozen { outcome, ended, duration, number })
}

/// Everything is dumped and the program stands still: takes over what CRIU wrote, and commits a suspend.
#[expect(clippy::too_many_arguments, reason = "the state of one freeze, used here alone")]
fn take_over(
    subject: &Subject<'_>,
    order: &Order,
    capture: &mut files::capture::Capture<'_>,
    staging: &Staging,
    phases: &mut Phases,
    mut draft: Draft,
    facts: &Facts,
    number: u64,
    criu: &CriuProcess,
) -> Result<(Outcome, bool), CheckpointError> {
    order.check()?;
    let open = OpenFiles::of_tree(process_tree::pid(subject.root)?)?;
    let copied = capture.second_pass(&open, &mut IntoDraft::new(&mut draft, order))?;
    tracing::debug!(%copied, "second pass over the files");
    take_images(staging.path(), &mut draft)?;
    let mut facts = facts.clone();
    // What goes to the program's own streams is not its state, and the next start has others.
    let streams = facts.streams.iter().filter_map(Stream::path).map(Path::to_owned).collect::<Vec<_>>();
    let carried: HashSet<&Path> = capture.paths().chain(streams.iter().map(PathBuf::as_path)).collect();
    facts.volumes = volumes::record(&open, subject.mounts, &|path| carried.contains(path))?;
    let input = input::take(subject.input, &mut draft, &mut facts)?;
    let kind = (subject.decide)();
    order.decided(kind);
    if kind != Kind::Suspend {
        return Ok((Outcome::Copied { draft: Box::new(draft), facts: Box::new(facts) }, false));
    }
    phases.enter(Phase::Commit);
    // The tree stands still because CRIU holds it, and would go on if CRIU were killed: then what is committed would
    // not be where the program ended. A stop of our own holds it in any case, from a moment at which CRIU still did.
    process_tree::stop(subject.root);
    if let Some(ended) = criu.wait(Duration::ZERO) {
        return Err(CheckpointError::Released(ended));
    }
    draft.resume();
    order.check()?;
    let description = describe(subject, GenerationKind::Suspend, &facts, number, phases)?;
    let finished = finish_in_time::<CheckpointError>(draft, description, order)?;
    let manifest = publish(subject, finished)?;
    // At once, and not by CRIU: it is committed, so it must not take another step, whoever is killed now.
    process_tree::kill(subject.root);
    if let Some(input) = input {
        input.keep();
    }
    Ok((Outcome::Published(Box::new(manifest)), true))
}

/// Where it is noted which paths are away, for the next start should this one be killed.
#[must_use]
pub fn inotify_journal(staging: &Path) -> PathBuf {
    staging.join("set-aside")
}

/// CRIU's way to write a version as one number: 40201 is 4.2.1.
#[must_use]
pub fn criu_number(version: &torpor_criu::rpc::Version) -> u32 {
    let (major, minor, sub) = version.numbers();
    (major * 10_000 + minor * 100 + sub).unsigned_abs()
}

/// A program that runs on must run soon, so work waits until after the thaw; for one that ends, only the commit counts,
/// so work begins at once.
fn works_while_frozen(order: &Order) -> bool {
    order.kind() == Kind::Suspend
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
    let held = if works_while_frozen(order) { 0 } else { ability.memory };
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

/// What CRIU is given that Torpor has.
pub(crate) fn raised_for_criu() -> rustix::thread::CapabilitySet {
    Capabilities::effective().raised_for_criu(rustix::process::geteuid().is_root())
}

/// Whether CRIU works without what root usually has; see [`Capabilities::needs_unprivileged_criu`].
#[must_use]
pub fn unprivileged() -> bool {
    Capabilities::effective().needs_unprivileged_criu(rustix::process::geteuid().is_root())
}

fn dump_options(
    subject: &Subject<'_>,
    order: &Order,
    ability: &Ability,
    images: &Path,
    in_place: bool,
) -> DumpOptions {
    let mut common = Common::new(images);
    common.log_file = Some(LOG.to_owned());
    common.tcp = subject.sockets.dump_option(order.kind());
    common.unprivileged = unprivileged();
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
    let after = if order.kind() == Kind::Suspend { AfterDump::End } else { AfterDump::Running };
    common.lazy_pages = in_place;
    common.config.page_socket = in_place.then_some(PAGES);
    let pages = (!in_place).then_some(PageTarget::Socket(PAGES));
    DumpOptions {
        after,
        pages,
        ghost_limit: Some(GHOST_LIMIT),
        orphan_pts_master: true,
        ..DumpOptions::new(subject.root, common)
    }
}

/// Takes CRIU's images into the draft: everything it wrote but its log, and memory, for which a draft has its own tables.
pub(crate) fn take_images(directory: &Path, draft: &mut Draft) -> Result<(), CheckpointError> {
    let failed = CheckpointError::staging(directory);
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(&failed)?
        .into_iter()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let Some(name) = name.to_str().filter(|name| *name != LOG && !in_place::is_memory(name)) else {
            continue;
        };
        let mut image = std::fs::File::open(directory.join(name)).map_err(&failed)?;
        draft.image(name, &mut image)?;
    }
    Ok(())
}

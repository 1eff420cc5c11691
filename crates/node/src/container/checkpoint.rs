//! Checkpoint a container: check, freeze, capture, commit, and thaw or end.
//!
//! CRIU is spoken to directly, and memory comes through our page server, so that the freeze lasts no longer than memory
//! takes to be copied; the runtime notices nothing. Everything is written beside the place where it is to be, and put
//! there by one rename once it is whole: a container that is to end is ended only after that.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use torpor_criu::diagnosis::Operation;
use torpor_criu::image::edit::{self, EditError};
use torpor_criu::image::pagemap::Generation;
use torpor_criu::options::{DumpOptions, Tcp};
use torpor_criu::page_server::{self, PageServer, PageSink, SocketPair};
use torpor_criu::program::Program;
use torpor_criu::session::{Event, Process as CriuProcess, Session, Spawn, Verdict};

use super::dump::{self, DESCRIPTORS, LOG, PAGES, Sight, Wishes};
use super::obstacle::{Ability, Obstacle};
use super::pages::PagesIntoDirectory;
use super::route::Runtime;
use super::state::{Container, Status};
use super::together::{Meeting, Stage, Together};
use super::{ContainerError, release};
use crate::checkpoint::{Expired, Order, criu_number};
use crate::guard::{Guard, Watch};
use crate::phase::{Phase, Phases};
use crate::restore::watchdog::Watchdog;
use crate::staging::Staging;
use crate::triggers::Kind;
use crate::{budget, process_tree};

/// How long after its time CRIU may take to notice that, before it is killed.
const NOTICE: Duration = Duration::from_secs(2);
/// How often a checkpoint is tried that fails for something that may have passed.
const ATTEMPTS: u32 = 4;

/// A checkpoint that is to be made.
#[derive(Debug)]
pub struct Job<'a> {
    /// Of which container.
    pub container: &'a Container,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What was chosen about the dump.
    pub wishes: Wishes,
    /// How long all of it may take.
    pub timeout: Option<Duration>,
    /// What the capture may take of memory, in bytes; by default half of what is free.
    pub memory_budget: Option<u64>,
    /// Others that are checkpointed at the same moment.
    pub together: Option<&'a Together>,
}

/// A checkpoint that exists.
#[derive(Debug)]
pub struct Done {
    /// How long each phase took.
    pub phases: Phases,
    /// How long the container stood still. The runtime does not say that of its own checkpoints.
    pub frozen: Option<Duration>,
}

impl Job<'_> {
    /// Makes it as a directory of CRIU's images that the container's runtime restores.
    ///
    /// # Errors
    /// Where it cannot be made: nothing of it stays then, and the container runs on.
    pub fn into_directory(&self, directory: &Path) -> Result<Done, ContainerError> {
        let order = self.order();
        let _lock = self.lock()?;
        self.patiently(&order, || self.directory(directory, &order))
    }

    fn directory(&self, directory: &Path, order: &Order) -> Result<Done, ContainerError> {
        let mut phases = Phases::begin(Phase::Check);
        let partial = partial(directory)?;
        let (sight, ability) = self.check()?;
        room(partial.path(), ability.memory)?;
        let engine = Engine::start(self.criu)?;
        let generation = engine.generation;
        let frozen = OnceLock::new();
        let memory = budget::of_draft(
            budget::decide(self.memory_budget, budget::Memory::read()),
            2 * budget::SOCKET,
            ability.memory,
        );
        let sink =
            PagesIntoDirectory::new(partial.path(), order, &frozen, memory, !self.wishes.leave_running)
                .map_err(ContainerError::helper("take memory for the pages"))?;
        let sink = Meeting::new(sink, self.together, order);
        order.check()?;

        let failed = ContainerError::place(partial.path());
        let options = self.options(&sight, &ability, order, partial.path());
        let finish = |sink: Meeting<'_, PagesIntoDirectory<'_>>| -> Result<(), ContainerError> {
            let sink = sink.into_sink();
            order.check()?;
            sink.finish(generation).map_err(&failed)?;
            std::fs::write(partial.path().join(DESCRIPTORS), dump::descriptors(self.container))
                .map_err(&failed)?;
            self.close_connections(partial.path())?;
            make_durable(partial.path()).map_err(&failed)?;
            order.check()?;
            // Past this, it exists.
            std::fs::rename(partial.path(), directory).map_err(ContainerError::place(directory))?;
            if let Err(error) = sync_directory(parent(directory)) {
                tracing::warn!(%error, "a crash of the machine may undo the checkpoint");
            }
            self.meet(Stage::Committed, order).inspect_err(|_| {
                if let Err(error) = std::fs::rename(directory, partial.path()) {
                    tracing::warn!(%error, path = %directory.display(), "the checkpoint of one container alone stays");
                }
            })
        };
        let freeze = Freeze { job: self, order, options: &options, frozen: &frozen, phases: &mut phases };
        let result = freeze.run(engine, sink, &mut |sink, _| {
            self.meet(Stage::Captured, order)?;
            match self.wishes.leave_running {
                true => Ok(Some(sink)),
                false => finish(sink).map(|()| None),
            }
        });
        let (sink, duration) =
            result.map_err(|error| error.with_log(&partial.path().join(LOG), Operation::Checkpoint))?;
        if let Some(sink) = sink {
            phases.enter(Phase::Commit);
            finish(sink)?;
        }
        partial.keep();
        Ok(Done { phases, frozen: Some(duration) })
    }

    /// Has the container's runtime make it, by its own command.
    ///
    /// # Errors
    /// As [`into_directory`](Self::into_directory).
    pub fn by_runtime(&self, runtime: &Runtime, directory: &Path) -> Result<Done, ContainerError> {
        let mut phases = Phases::begin(Phase::Check);
        let _lock = self.lock()?;
        let partial = partial(directory)?;
        let (_, ability) = self.check()?;
        room(partial.path(), ability.memory)?;
        phases.enter(Phase::Capture);
        runtime.checkpoint(self.container, partial.path(), &self.wishes, self.timeout)?;
        phases.enter(Phase::Commit);
        make_durable(partial.path()).map_err(ContainerError::place(partial.path()))?;
        std::fs::rename(partial.path(), directory).map_err(ContainerError::place(directory))?;
        partial.keep();
        Ok(Done { phases, frozen: None })
    }

    /// Waits for those that are checkpointed at the same moment.
    pub(super) fn meet(&self, stage: Stage, order: &Order) -> Result<(), ContainerError> {
        self.together.map_or(Ok(()), |together| together.wait(stage, order))
    }

    /// Does it again, a few times, where it failed for something that may have passed. Containers that are captured
    /// together wait for each other, so none of them begins anew alone.
    pub(super) fn patiently<T>(
        &self,
        order: &Order,
        mut attempt: impl FnMut() -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        for _ in 1..ATTEMPTS {
            match attempt() {
                Err(error) if error.is_passing() && self.together.is_none() && order.check().is_ok() => {
                    tracing::info!(%error, "no checkpoint yet; the container runs on meanwhile");
                }
                result => return result,
            }
        }
        attempt()
    }

    /// Closes connections in the images, where that is wished for: CRIU leaves it to the restore otherwise, and not every
    /// runtime can tell CRIU to.
    pub(super) fn close_connections(&self, images: &Path) -> Result<(), ContainerError> {
        if self.wishes.tcp != Tcp::Close {
            return Ok(());
        }
        change(&images.join("files.img"), |files| Ok(edit::close_connections(files, |_| true)?.image))?;
        change(&images.join("inventory.img"), |inventory| Ok(edit::connections_are_closed(inventory)?))
    }

    pub(super) fn order(&self) -> Order {
        let kind = if self.wishes.leave_running { Kind::Running } else { Kind::Suspend };
        Order::new(kind, self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Nobody else makes a checkpoint of it at the same time.
    pub(super) fn lock(&self) -> Result<OwnedFd, ContainerError> {
        let path = self.container.root.join(&self.container.id);
        let failed =
            |errno: rustix::io::Errno| ContainerError::Place { path: path.clone(), source: errno.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ContainerError::Busy { id: self.container.id.clone() }),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Whether it can be done at all.
    pub(super) fn check(&self) -> Result<(Sight, Ability), ContainerError> {
        let refused = |obstacle| ContainerError::Obstacle { id: self.container.id.clone(), obstacle };
        let status = self.container.status();
        if status != Status::Running {
            return Err(refused(Obstacle::Status { status }));
        }
        let sight = Sight::of(self.container)?;
        let ability = Ability::of(self.container, &sight, self.wishes.tcp, self.wishes.shell_job)?;
        match ability.obstacles.first() {
            Some(obstacle) => Err(refused(obstacle.clone())),
            None => Ok((sight, ability)),
        }
    }

    pub(super) fn options(
        &self,
        sight: &Sight,
        ability: &Ability,
        order: &Order,
        images: &Path,
    ) -> DumpOptions {
        let seize_timeout = order.left().map(|left| left.max(Duration::from_secs(1)));
        let wishes = Wishes { connected: ability.connected, seize_timeout, ..self.wishes.clone() };
        dump::options(self.container, sight, &wishes, images)
    }
}

/// Changes an image.
fn change(path: &Path, change: impl Fn(&[u8]) -> Result<Vec<u8>, EditError>) -> Result<(), ContainerError> {
    let bytes = std::fs::read(path).map_err(ContainerError::place(path))?;
    let changed = change(&bytes).map_err(|source| ContainerError::Edit { path: path.to_owned(), source })?;
    std::fs::write(path, changed).map_err(ContainerError::place(path))
}

/// The processes that help, and the socket between CRIU and us. Started before memory is taken, which a fork would
/// have to copy the tables of.
pub(super) struct Engine {
    guard: Guard,
    session: Session,
    /// CRIU's version as one number.
    pub(super) version: u32,
    generation: Generation,
    pages: OwnedFd,
}

impl Engine {
    pub(super) fn start(criu: &Program) -> Result<Engine, ContainerError> {
        let SocketPair { ours, criu: theirs, granted } = page_server::socket_pair(budget::SOCKET as usize)
            .map_err(ContainerError::helper("make the page server's socket"))?;
        tracing::debug!(?granted, "the page server's socket buffers");
        let guard = Guard::start().map_err(ContainerError::helper("start the guard"))?;
        let mut session = Session::start(criu, Spawn::default().pass(theirs, PAGES))?;
        let version = session.version()?;
        let (major, minor, _) = version.numbers();
        let version = criu_number(&version);
        let generation = Generation::of_version(major.unsigned_abs(), minor.unsigned_abs());
        Ok(Engine { guard, session, version, generation, pages: ours })
    }
}

/// The part for which the container stands still.
pub(super) struct Freeze<'a, 'j> {
    pub(super) job: &'a Job<'j>,
    pub(super) order: &'a Order,
    pub(super) options: &'a DumpOptions,
    pub(super) frozen: &'a OnceLock<Instant>,
    pub(super) phases: &'a mut Phases,
}

impl Freeze<'_, '_> {
    /// Dumps into `sink`. When all is there and nothing goes on yet, `commit` gets the sink; where the container is to
    /// end, it must have made everything last when it returns.
    pub(super) fn run<S: PageSink + Send, T>(
        self,
        engine: Engine,
        sink: S,
        commit: &mut dyn FnMut(S, &Phases) -> Result<T, ContainerError>,
    ) -> Result<(T, Duration), ContainerError> {
        let Freeze { job, order, options, frozen, phases } = self;
        let Engine { mut guard, session, pages, .. } = engine;
        let (container, root) = (job.container, job.container.init);
        let freezer = container.freezer.as_ref();
        let criu = session.process();
        let watch = Watch::Container {
            criu: session.pid().as_raw_nonzero().get(),
            root,
            freezer: freezer.map(|freezer| freezer.directory().to_owned()),
        };
        if let Err(error) = guard.watch(watch) {
            tracing::warn!(%error, "the guard is gone; the checkpoint goes on without");
        }
        let watchdog = order
            .left()
            .map(|left| Watchdog::watch(session.process(), left + NOTICE))
            .transpose()
            .map_err(ContainerError::helper("start the watchdog"))?;

        let (hand_back, handed_back) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            let server = std::thread::Builder::new().name("page-server".into());
            let served = server.spawn_scoped(scope, move || {
                let mut sink = sink;
                let served = PageServer::new(&pages).serve(&mut sink);
                drop(pages);
                let _ = hand_back.send(sink);
                served
            });
            let served = served.map_err(ContainerError::helper("start the page server"))?;
            let mut since = Instant::now();
            let mut outcome = None;
            let mut refusal = None;
            let dumped = session.dump(options, &mut |notification| match notification.event {
                Event::PreDump => {
                    phases.enter(Phase::Freeze);
                    since = Instant::now();
                    Verdict::Proceed
                }
                Event::PostDump => {
                    phases.entered(Phase::Capture, frozen.get().copied().unwrap_or_else(Instant::now));
                    let taken = handed_back
                        .recv()
                        .map_err(|_| ContainerError::NoPostDump)
                        .and_then(|sink| take_over(job, sink, commit, phases, &criu));
                    match taken {
                        Ok(taken) => {
                            outcome = Some(taken);
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
            let served = served.join();
            match (dumped, outcome, refusal) {
                (_, _, Some(error)) => Err(error),
                // It was ended by us once the commit was made, so what CRIU says about its end means nothing.
                (_, Some(taken), None) if !job.wishes.leave_running => Ok((taken, duration)),
                (Ok(_), Some(taken), None) => Ok((taken, duration)),
                (Err(error), _, None) => match served {
                    Ok(Err(page_server::PageServerError::Sink { source, .. })) if order.check().is_ok() => {
                        Err(ContainerError::Place { path: options.common.images_dir.clone(), source })
                    }
                    _ => Err(error.into()),
                },
                (Ok(_), None, None) => Err(ContainerError::NoPostDump),
            }
        });
        let bitten = watchdog.is_some_and(Watchdog::dismiss);
        if result.is_err() {
            // CRIU lets the container go on by itself; where it was killed, it leaves some of what it did undone.
            release(root, freezer);
        }
        guard.dismiss();
        match result {
            Err(_) if bitten => Err(ContainerError::Stuck),
            Err(ContainerError::Session(_)) if order.check().is_err() => Err(Expired.into()),
            result => result,
        }
    }
}

/// Everything is dumped and the container stands still. One that is to end is ended here, once it is committed.
fn take_over<S, T>(
    job: &Job<'_>,
    sink: S,
    commit: &mut dyn FnMut(S, &Phases) -> Result<T, ContainerError>,
    phases: &mut Phases,
    criu: &CriuProcess,
) -> Result<T, ContainerError> {
    if job.wishes.leave_running {
        let taken = commit(sink, phases)?;
        phases.enter(Phase::Thaw);
        return Ok(taken);
    }
    phases.enter(Phase::Commit);
    // It stands still because CRIU holds it, and would go on if CRIU were killed. A stop of our own holds it in any
    // case, from a moment at which CRIU still did.
    process_tree::stop(job.container.init);
    if let Some(ended) = criu.wait(Duration::ZERO) {
        return Err(ContainerError::Released(ended));
    }
    let taken = commit(sink, phases)?;
    phases.enter(Phase::End);
    process_tree::kill(job.container.init);
    Ok(taken)
}

/// A directory beside the one that is to be, on the same file system. What an earlier checkpoint left there when it was
/// killed is removed.
fn partial(directory: &Path) -> Result<Staging, ContainerError> {
    let failed = ContainerError::place(directory);
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(ContainerError::Occupied { path: directory.to_owned() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let name = directory.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(".torpor-partial");
    let parent = parent(directory);
    if parent.join(&partial).exists() {
        tracing::warn!(path = %parent.join(&partial).display(), "an earlier checkpoint was cut off; what it left is removed");
    }
    let name = PathBuf::from(partial);
    let name = name.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    Staging::create(parent, name).map_err(failed)
}

fn parent(directory: &Path) -> &Path {
    directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses what certainly does not fit.
fn room(path: &Path, needed: u64) -> Result<(), ContainerError> {
    let free = rustix::fs::statvfs(path).map_err(|errno| ContainerError::place(path)(errno.into()))?;
    let available = free.f_bavail.saturating_mul(free.f_frsize);
    if available < needed {
        Err(ContainerError::Room { path: path.to_owned(), needed, available })
    } else {
        Ok(())
    }
}

/// Has the system write all small files of a directory, and the directory itself. Pages were written by their writer.
fn make_durable(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b"pages-") && entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_data()?;
        }
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_checkpoint_left_is_removed_by_the_next() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("images");
        let first = partial(&directory).unwrap();
        std::fs::write(first.path().join("core-1.img"), "").unwrap();
        first.keep();
        let second = partial(&directory).unwrap();
        assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0);
        drop(second);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("precious"), "").unwrap();
        assert!(matches!(partial(place.path()).unwrap_err(), ContainerError::Occupied { .. }));
        let empty = place.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(partial(&empty).is_ok());
        assert!(matches!(
            partial(Path::new("/")).unwrap_err(),
            ContainerError::Place { .. } | ContainerError::Occupied { .. }
        ));
    }

    #[test]
    fn what_certainly_does_not_fit_is_refused() {
        let place = tempfile::tempdir().unwrap();
        assert!(room(place.path(), 1).is_ok());
        assert!(matches!(room(place.path(), u64::MAX).unwrap_err(), ContainerError::Room { .. }));
    }
}

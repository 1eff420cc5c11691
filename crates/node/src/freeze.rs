//! The part of a checkpoint for which a tree of processes stands still.
//!
//! CRIU dumps it, and its memory comes to us on a way of its own (`Intake`). When all is copied, one that runs on goes
//! on; one that is to end is ended once its checkpoint is committed. A program under `torpor run`, a container and plain
//! processes all pass through here; they differ in what is taken besides memory, and in what a commit is.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use torpor_criu::options::DumpOptions;
use torpor_criu::page_server::{PageServer, PageServerError, PageSink};
use torpor_criu::session::{Event, Process as CriuProcess, SessionError, Verdict};

use crate::container::freezer::Freezer;
use crate::container::release;
use crate::guard::{self, Watch};
use crate::order::{Expired, Order};
use crate::phase::{Phase, Phases};
use crate::process_tree;
use crate::restore::watchdog::Watchdog;

mod engine;
mod error;
mod images;
mod in_place;
mod memory;
mod pages;
mod standstill;

pub(crate) use engine::Engine;
pub use error::FreezeError;
pub(crate) use images::take_images;
pub(crate) use memory::MemoryIntoDraft;
pub(crate) use standstill::Standstill;

/// CRIU's name for its log of a dump.
pub(crate) const LOG: &str = "dump.log";
/// Deleted files up to this size survive, in bytes: CRIU copies them into an image.
pub(crate) const GHOST_LIMIT: u32 = 1 << 30;
/// How long after its time CRIU may take to notice that, before it is killed.
const NOTICE: Duration = Duration::from_secs(2);

/// Whose processes they are, which says where CRIU leaves its traces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// Ours: they are in our network.
    Torpor,
    /// Somebody else's, in a network that may be another.
    Other {
        /// The control group that holds all of them, where there is one that can freeze.
        freezer: Option<&'a Freezer>,
    },
}

impl Owner<'_> {
    fn watch(self, criu: i32, root: i32) -> Watch {
        match self {
            Owner::Torpor => Watch::Dump { criu, root },
            Owner::Other { freezer } => {
                let freezer = freezer.map(|freezer| freezer.directory().to_owned());
                Watch::Container { criu, root, freezer }
            }
        }
    }

    /// CRIU lets a tree go on by itself; where it was killed, it leaves some of what it did undone.
    fn release(self, root: i32) -> usize {
        match self {
            Owner::Torpor => guard::release(root),
            Owner::Other { freezer } => release(root, freezer),
        }
    }
}

/// What takes memory, on a thread of its own, while CRIU dumps.
pub(crate) trait Intake: Send {
    /// Takes what comes. CRIU gets no further than to its end before this returns.
    ///
    /// # Errors
    /// The way to CRIU broke, or what came cannot be kept. CRIU fails then, too.
    fn take(&mut self, dump: &Dump<'_>) -> Result<(), PageServerError>;
}

/// A sink of the page server's.
impl<S: PageSink + Send> Intake for S {
    fn take(&mut self, dump: &Dump<'_>) -> Result<(), PageServerError> {
        PageServer::new(dump.pages).serve(self).map(drop)
    }
}

/// A dump that is under way.
#[derive(Debug)]
pub(crate) struct Dump<'a> {
    /// Our end of the socket for pages.
    pages: &'a OwnedFd,
    /// CRIU's PID.
    criu: i32,
    /// The first process of the tree.
    root: i32,
    /// Where CRIU puts its images.
    images: &'a Path,
    /// CRIU has noted all there is, or come to its end.
    all_noted: &'a AtomicBool,
}

/// A tree that stands still, with all of its memory taken or noted.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    /// Its first process.
    root: i32,
    criu: &'a CriuProcess,
}

impl Held<'_> {
    /// Holds it whatever becomes of CRIU. CRIU holds it, and it would go on if CRIU were killed: what is committed would then
    /// not be where it ended. A stop of our own holds it in any case, from a moment at which CRIU still did.
    ///
    /// # Errors
    /// CRIU holds it no more.
    pub(crate) fn keep(&self) -> Result<(), FreezeError> {
        process_tree::stop(self.root);
        self.criu.wait(Duration::ZERO).map_or(Ok(()), |ended| Err(FreezeError::Released(ended)))
    }
}

/// How a tree goes on when everything is taken.
pub(crate) enum Fate<T> {
    /// It runs on.
    Runs(T),
    /// It ends: its checkpoint is committed.
    Ends(T),
}

/// What the standstill has brought.
pub(crate) struct Frozen<T> {
    pub(crate) taken: T,
    /// Whether the tree was ended.
    pub(crate) ended: bool,
    /// How long it stood still.
    pub(crate) duration: Duration,
}

/// A tree of processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    /// Its first process.
    pub(crate) root: i32,
    /// Whose it is.
    pub(crate) owner: Owner<'a>,
}

/// A standstill that is to be.
pub(crate) struct Freeze<'a> {
    pub(crate) tree: Tree<'a>,
    pub(crate) order: &'a Order,
    /// What CRIU is told.
    pub(crate) options: &'a DumpOptions,
    /// Told when all of it stands still.
    pub(crate) standstill: &'a Standstill<'a>,
    pub(crate) phases: &'a mut Phases,
}

impl Freeze<'_> {
    /// Dumps the tree. When all its memory is with `intake`, or noted, `commit` gets that; where the tree is to end, it must
    /// have made everything last when it returns.
    ///
    /// # Errors
    /// CRIU's, the intake's and those of `commit`. The tree runs on then.
    pub(crate) fn run<I, C, T, E>(self, engine: Engine, intake: I, mut commit: C) -> Result<Frozen<T>, E>
    where
        I: Intake,
        C: FnMut(I, &mut Phases, &Held<'_>) -> Result<Fate<T>, E>,
        E: From<FreezeError>,
    {
        let Freeze { tree: Tree { root, owner }, order, options, standstill, phases } = self;
        let Engine { mut guard, session, pages, .. } = engine;
        let process = session.process();
        let criu = session.pid().as_raw_nonzero().get();
        if let Err(error) = guard.watch(owner.watch(criu, root)) {
            tracing::warn!(%error, "the guard is gone; the checkpoint goes on without");
        }
        let watchdog = order
            .left()
            .map(|left| Watchdog::watch(session.process(), left + NOTICE))
            .transpose()
            .map_err(FreezeError::helper("start the watchdog"))?;
        let hang_up = pages.try_clone().map_err(FreezeError::helper("share the socket for pages"))?;
        let all_noted = AtomicBool::new(false);
        let (hand_back, handed_back) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            let all_noted = &all_noted;
            let thread = std::thread::Builder::new().name("memory".into()).spawn_scoped(scope, move || {
                let mut intake = intake;
                let dump = Dump { pages: &pages, criu, root, images: &options.common.images_dir, all_noted };
                let taken = intake.take(&dump);
                drop(pages);
                let _ = hand_back.send(intake);
                taken
            });
            let thread = thread.map_err(FreezeError::helper("start a thread for memory"))?;
            let mut since = Instant::now();
            let mut fate = None;
            let mut refusal = None;
            let dumped = session.dump(options, &mut |notification| match notification.event {
                Event::PreDump => {
                    phases.enter(Phase::Freeze);
                    since = Instant::now();
                    Verdict::Proceed
                }
                Event::PostDump => {
                    all_noted.store(true, Ordering::Relaxed);
                    let intake = handed_back.recv().map_err(|_| FreezeError::NoPostDump.into());
                    phases.entered(Phase::Capture, standstill.since().unwrap_or_else(Instant::now));
                    let held = Held { root, criu: &process };
                    match intake.and_then(|intake| commit(intake, phases, &held)) {
                        Ok(Fate::Runs(taken)) => {
                            phases.enter(Phase::Thaw);
                            fate = Some((taken, false));
                            Verdict::Proceed
                        }
                        Ok(Fate::Ends(taken)) => {
                            phases.enter(Phase::End);
                            // At once, and not by CRIU: it is committed, so it must not take another step, whoever is killed now.
                            process_tree::kill(root);
                            fate = Some((taken, true));
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
            let ended = matches!(fate, Some((_, true)));
            if fate.is_none() || dumped.is_err() && !ended {
                owner.release(root);
                // CRIU's children may live on for a while, and have its end of the socket: nothing waits for them.
                let _ = rustix::net::shutdown(&hang_up, rustix::net::Shutdown::Both);
            }
            let taken = thread.join();
            match (dumped, fate, refusal) {
                (_, _, Some(error)) => Err(error),
                // It was killed by us once the commit was made, so what CRIU says about its end means nothing.
                (_, Some((taken, true)), None) => Ok(Frozen { taken, ended, duration }),
                (Ok(_), Some((taken, false)), None) => Ok(Frozen { taken, ended, duration }),
                (Ok(_), None, None) => Err(FreezeError::NoPostDump.into()),
                (Err(error), ..) => {
                    let taken = taken.unwrap_or(Ok(()));
                    Err(failure(error, taken, order, standstill, &options.common.images_dir).into())
                }
            }
        });
        let bitten = watchdog.is_some_and(Watchdog::dismiss);
        guard.dismiss();
        if bitten && result.is_err() { Err(FreezeError::Stuck.into()) } else { result }
    }
}

/// Why CRIU failed: it also does where we stop to listen.
fn failure(
    error: SessionError,
    taken: Result<(), PageServerError>,
    order: &Order,
    standstill: &Standstill<'_>,
    images: &Path,
) -> FreezeError {
    match taken {
        _ if order.check().is_err() => FreezeError::Expired(Expired),
        _ if standstill.was_refused() => FreezeError::OtherFailed,
        Err(PageServerError::Sink { source, .. }) => FreezeError::of_sink(images, source),
        _ => FreezeError::Session(error),
    }
}

//! The part of a checkpoint for which a tree of processes stands still.
//!
//! CRIU dumps it, and its memory comes through our page server. When all is copied, one that runs on goes on; one that is
//! to end is ended once its checkpoint is committed.

use std::os::fd::OwnedFd;
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use torpor_criu::image::pagemap::Generation;
use torpor_criu::options::DumpOptions;
use torpor_criu::page_server::{self, PageServer, PageSink, SocketPair};
use torpor_criu::program::Program;
use torpor_criu::session::{Event, Process as CriuProcess, Session, Spawn, Verdict};

use super::dump::PAGES;
use super::freezer::Freezer;
use super::{ContainerError, release};
use crate::checkpoint::{Expired, Order, criu_number};
use crate::guard::{Guard, Watch};
use crate::phase::{Phase, Phases};
use crate::restore::watchdog::Watchdog;
use crate::{budget, process_tree};

/// How long after its time CRIU may take to notice that, before it is killed.
const NOTICE: Duration = Duration::from_secs(2);

/// The processes that help, and the socket between CRIU and us. Started before memory is taken, which a fork would
/// have to copy the tables of.
pub(crate) struct Engine {
    guard: Guard,
    session: Session,
    /// CRIU's version as one number.
    pub(crate) version: u32,
    pub(crate) generation: Generation,
    pages: OwnedFd,
}

impl Engine {
    pub(crate) fn start(criu: &Program) -> Result<Engine, ContainerError> {
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

/// What is dumped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    /// Its first process.
    pub(crate) root: i32,
    /// The control group that holds all of it, where there is one that can freeze.
    pub(crate) freezer: Option<&'a Freezer>,
    /// It runs on afterwards; else it is ended.
    pub(crate) leave_running: bool,
}

/// The part for which it stands still.
pub(crate) struct Freeze<'a> {
    pub(crate) tree: Tree<'a>,
    pub(crate) order: &'a Order,
    pub(crate) options: &'a DumpOptions,
    pub(crate) frozen: &'a OnceLock<Instant>,
    pub(crate) phases: &'a mut Phases,
}

impl Freeze<'_> {
    /// Dumps into `sink`. When all is there and nothing goes on yet, `commit` gets the sink; where the container is to
    /// end, it must have made everything last when it returns.
    pub(crate) fn run<S: PageSink + Send, T>(
        self,
        engine: Engine,
        sink: S,
        commit: &mut dyn FnMut(S, &Phases) -> Result<T, ContainerError>,
    ) -> Result<(T, Duration), ContainerError> {
        let Freeze { tree, order, options, frozen, phases } = self;
        let Tree { root, freezer, leave_running } = tree;
        let Engine { mut guard, session, pages, .. } = engine;
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
        let hang_up = pages.try_clone().map_err(ContainerError::helper("share the page server's socket"))?;
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
                        .and_then(|sink| take_over(tree, sink, commit, phases, &criu));
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
            if outcome.is_none() || (dumped.is_err() && leave_running) {
                // CRIU lets the container go on by itself; where it was killed, it leaves some of what it did undone. Its children
                // may live on for a while, and have the page server's socket: nothing waits for them.
                release(root, freezer);
                let _ = rustix::net::shutdown(&hang_up, rustix::net::Shutdown::Both);
            }
            let served = served.join();
            match (dumped, outcome, refusal) {
                (_, _, Some(error)) => Err(error),
                // It was ended by us once the commit was made, so what CRIU says about its end means nothing.
                (_, Some(taken), None) if !leave_running => Ok((taken, duration)),
                (Ok(_), Some(taken), None) => Ok((taken, duration)),
                (Err(error), _, None) => match served {
                    Ok(Err(page_server::PageServerError::Sink { source, .. })) if order.check().is_ok() => {
                        Err(ContainerError::of_sink(&options.common.images_dir, source))
                    }
                    _ => Err(error.into()),
                },
                (Ok(_), None, None) => Err(ContainerError::NoPostDump),
            }
        });
        let bitten = watchdog.is_some_and(Watchdog::dismiss);
        guard.dismiss();
        match result {
            Err(_) if bitten => Err(ContainerError::Stuck),
            Err(ContainerError::Session(_)) if order.check().is_err() => Err(Expired.into()),
            result => result,
        }
    }
}

/// Everything is dumped and the tree stands still. One that is to end is ended here, once it is committed.
fn take_over<S, T>(
    tree: Tree<'_>,
    sink: S,
    commit: &mut dyn FnMut(S, &Phases) -> Result<T, ContainerError>,
    phases: &mut Phases,
    criu: &CriuProcess,
) -> Result<T, ContainerError> {
    if tree.leave_running {
        let taken = commit(sink, phases)?;
        phases.enter(Phase::Thaw);
        return Ok(taken);
    }
    phases.enter(Phase::Commit);
    // It stands still because CRIU holds it, and would go on if CRIU were killed. A stop of our own holds it in any
    // case, from a moment at which CRIU still did.
    process_tree::stop(tree.root);
    if let Some(ended) = criu.wait(Duration::ZERO) {
        return Err(ContainerError::Released(ended));
    }
    let taken = commit(sink, phases)?;
    phases.enter(Phase::End);
    process_tree::kill(tree.root);
    Ok(taken)
}

//! Checkpoints from the loop's side: one thread each, which asks the loop once what its order has become.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use jiff::Timestamp;

use super::event_loop::Message;
use super::program::Kept;
use super::start::occasion;
use crate::checkpoint::{self, CheckpointError, Committed, Subject};
use crate::children::Children;
use crate::facts::Facts;
use crate::hooks::{self, Point};
use crate::order::Order;
use crate::streams::input::Input;
use crate::triggers::Kind;
use torpor_store::Manifest;

/// A checkpoint under way.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) order: Arc<Order>,
    pub(super) began: Instant,
}

/// What the thread needs of the program as it is now.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) root: i32,
    pub(super) facts: Facts,
    pub(super) predecessor: Option<Manifest>,
    pub(super) input: Arc<Input>,
}

/// What became of a checkpoint.
pub(super) type Result = std::result::Result<Committed, CheckpointError>;

/// What the status file will say of a checkpoint.
#[derive(Debug)]
pub(super) enum News {
    /// It exists.
    Committed {
        /// The generation it made.
        generation: u64,
        /// When.
        at: Timestamp,
    },
    /// It failed, for this reason.
    Failed(String),
}

/// Starts a checkpoint in a thread of its own; [`Message::CaptureDone`] tells what became of it.
pub(super) fn begin(
    kept: &Arc<Kept>,
    children: &Children,
    snapshot: Snapshot,
    order: Order,
    messages: &Sender<Message>,
) -> std::io::Result<Capture> {
    let order = Arc::new(order);
    let capture = Capture { order: Arc::clone(&order), began: Instant::now() };
    let (kept, children, messages) = (Arc::clone(kept), children.clone(), messages.clone());
    std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
        let _helpers = children.helpers_run();
        let result = with_hooks(&kept, &snapshot, &order, &messages);
        let _ = messages.send(Message::CaptureDone(Box::new(result)));
    })?;
    Ok(capture)
}

fn with_hooks(kept: &Kept, snapshot: &Snapshot, order: &Order, messages: &Sender<Message>) -> Result {
    let kind = word(order.kind());
    let told = |phase, outcome, generation| occasion(kept, snapshot.root, generation, phase, kind, outcome);
    hooks::run(Point::PreCheckpoint, &kept.config.hooks, &told("check", None, None), order.left())?;
    let tell = messages.clone();
    let announce = move |phase| {
        let _ = tell.send(Message::Phase(phase));
    };
    let result =
        checkpoint::checkpoint(&subject(kept, snapshot, &|| decide(order, messages)), order, announce);
    let (ended, outcome, generation) = match &result {
        Ok(committed) => (committed.ended, "committed", Some(committed.manifest.description().generation)),
        Err(_) => (false, "failed", None),
    };
    settle(&result, messages);
    if !ended {
        let told = told("thaw", Some(outcome), generation);
        if let Err(error) = hooks::run(Point::PostCheckpoint, &kept.config.hooks, &told, None) {
            tracing::warn!(%error, "a postCheckpoint hook failed");
        }
    }
    result
}

/// Has the loop bring the status up to date, before any hook looks at it.
fn settle(result: &Result, messages: &Sender<Message>) {
    let news = match result {
        Ok(committed) => News::Committed {
            generation: committed.manifest.description().generation,
            at: committed.manifest.description().created,
        },
        Err(error) => News::Failed(error.to_string()),
    };
    let (written, told) = mpsc::channel();
    if messages.send(Message::News(news, written)).is_ok() {
        let _ = told.recv();
    }
}

/// Asks the loop what the order is for by now. Without an answer it stays what it was.
fn decide(order: &Order, messages: &Sender<Message>) -> Kind {
    let (answer, answered) = mpsc::channel();
    if messages.send(Message::Deciding(answer)).is_err() {
        return order.kind();
    }
    answered.recv().unwrap_or(order.kind())
}

fn subject<'a>(kept: &'a Kept, snapshot: &'a Snapshot, decide: &'a dyn Fn() -> Kind) -> Subject<'a> {
    Subject {
        root: snapshot.root,
        facts: &snapshot.facts,
        repository: &kept.repository,
        epoch: &kept.epoch,
        predecessor: snapshot.predecessor.as_ref(),
        input: &snapshot.input,
        criu: &kept.criu,
        expert_options: &kept.expert_options,
        default_config: kept.default_config(),
        baseline: &kept.baseline,
        selection: &kept.selection,
        mounts: &kept.mounts,
        inotify_incompatible: &kept.config.inotify_incompatible_paths,
        sockets: kept.sockets,
        huge_pages: kept.config.huge_pages,
        memory_budget: match kept.config.memory_budget {
            crate::config::MemoryBudget::Auto => None,
            crate::config::MemoryBudget::Bytes(bytes) => Some(bytes),
        },
        staging: &kept.staging,
        decide,
    }
}

pub(super) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Suspend => "suspend",
        Kind::Running => "running",
        Kind::Template => "template",
    }
}

//! The loop: one thing happens after the other, and each is done with before the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use torpor_store::lineage::Closed;
use torpor_store::prune;
use torpor_store::retention::Retention;

use super::captures::{self, Capture, News, Snapshot, word};
use super::program::{Kept, Running};
use super::signals::{Meaning, meaning};
use super::{WrapperError, ending, epoch};
use crate::checkpoint::{CheckpointError, Committed};
use crate::children::{Children, Ended};
use crate::config::{Fenced, Slots};
use crate::control::{self, Incoming, Outcome, Replier, Request};
use crate::deadline::{Deadline, Fit, Throughput};
use crate::http;
use crate::node_state;
use crate::order::Order;
use crate::phase::Phase;
use crate::process_tree;
use crate::sys::process;
use crate::triggers::{Action, Cause, Event, Kind, RequestId, Triggers};

/// Something that happened.
#[derive(Debug)]
pub(super) enum Message {
    /// A signal came to Torpor.
    Signal(i32),
    /// Somebody asks for something.
    Incoming(Incoming),
    /// The server was asked whether the node shuts down.
    NodeState(node_state::Verdict),
    /// A phase of the checkpoint under way begins.
    Phase(Phase),
    /// A checkpoint is captured; the answer is what it is for.
    Deciding(Sender<Kind>),
    /// What the status is to say of a checkpoint, and whom to tell that it does.
    News(News, Sender<()>),
    /// A checkpoint has come to its end.
    CaptureDone(Box<captures::Result>),
    /// A newer start has taken the name over.
    Fenced,
}

/// What the loop knows.
pub(super) struct EventLoop {
    kept: Arc<Kept>,
    running: Running,
    children: Children,
    messages: Sender<Message>,
    inbox: Receiver<Message>,
    triggers: Triggers,
    capture: Option<Capture>,
    /// Whether the capture under way is a suspend by now, and so may end the program.
    ended_early: Option<Ended>,
    began: Instant,
    deadline: Option<Deadline>,
    last: Option<Throughput>,
    next_period: Option<Instant>,
    requests: HashMap<RequestId, Replier>,
    next_request: u64,
    waiting_for_idle: Vec<Replier>,
    passed_signal: bool,
    last_outcome: Outcome,
    _control: Option<control::Server>,
    _http: Option<http::Endpoint>,
}

impl EventLoop {
    pub(super) fn new(
        kept: Arc<Kept>,
        running: Running,
        children: Children,
        messages: Sender<Message>,
        inbox: Receiver<Message>,
    ) -> Result<EventLoop, WrapperError> {
        let deliver = |messages: &Sender<Message>| {
            let messages = messages.clone();
            move |incoming| {
                let _ = messages.send(Message::Incoming(incoming));
            }
        };
        let control = control::Server::start(
            &kept.config.control_socket,
            kept.config.control_group,
            deliver(&messages),
        );
        let control = match control {
            Ok(server) => Some(server),
            Err(error) => {
                // The program is what matters: without the socket, signals still work.
                tracing::error!(%error, remedy = error.remedy(), "no control socket");
                None
            }
        };
        let http = match &kept.config.http {
            Some(http) => match http::Endpoint::start(http, deliver(&messages)) {
                Ok(server) => Some(server),
                Err(error) => {
                    tracing::error!(%error, "no HTTP endpoint");
                    None
                }
            },
            None => None,
        };
        let now = Instant::now();
        Ok(EventLoop {
            triggers: Triggers::new(kept.config.node_state.is_some()),
            next_period: kept.config.every.map(|every| now + every),
            began: now,
            kept,
            running,
            children,
            messages,
            inbox,
            capture: None,
            ended_early: None,
            deadline: None,
            last: None,
            requests: HashMap::new(),
            next_request: 0,
            waiting_for_idle: Vec::new(),
            passed_signal: false,
            last_outcome: Outcome::failed("no checkpoint was made"),
            _control: control,
            _http: http,
        })
    }

    /// Goes on until the program has ended or is suspended, and returns what Torpor ends with.
    pub(super) fn run(mut self) -> Result<i32, WrapperError> {
        loop {
            // What ended before the loop began sent no message.
            if let Some(code) = self.look_after_children()? {
                return Ok(self.finish(code));
            }
            let message = match self.next_event() {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(message) => {
                    if let Some(code) = self.take(message)? {
                        return Ok(self.finish(code));
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.time_has_come(),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.finish(1)),
            }
        }
    }

    /// When something is to happen by the clock.
    fn next_event(&self) -> Option<Instant> {
        [self.next_period, self.last_moment()].into_iter().flatten().min()
    }

    /// When the program must have its signal, if a suspend for the signal's sake is still under way.
    fn last_moment(&self) -> Option<Instant> {
        let waits = self.capture.is_some() && !self.passed_signal;
        self.deadline.filter(|_| waits).map(|deadline| self.began + deadline.signal())
    }

    fn time_has_come(&mut self) {
        let now = Instant::now();
        if self.last_moment().is_some_and(|moment| moment <= now) {
            // The capture should have been rolled back by now. Whatever holds it up: a frozen program gets its signal
            // as soon as it thaws.
            tracing::error!("the checkpoint takes longer than it was given; the program gets its signal");
            self.act(Action::PassSignal);
        }
        if self.next_period.is_some_and(|due| due <= now) {
            self.next_period = self.kept.config.every.map(|every| now + every);
            self.feed(Event::PeriodDue);
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<i32>, WrapperError> {
        match message {
            Message::Signal(signal) => match meaning(signal, self.kept.config.trigger_signal.number()) {
                Meaning::Trigger => {
                    let config = &self.kept.config;
                    self.deadline =
                        Some(Deadline::new(self.began.elapsed(), config.grace, config.stop_reserve));
                    self.feed(Event::Signal);
                }
                Meaning::PassOn => self.signal_program(signal),
                Meaning::Resized => self.running.streams.resize(),
                Meaning::Child | Meaning::Nothing => {}
            },
            Message::Incoming(incoming) => self.answer(incoming),
            Message::NodeState(verdict) => {
                tracing::info!(suspend = verdict.suspend, reason = verdict.reason, "the node's state");
                self.feed(Event::NodeAnswered { suspend: verdict.suspend });
            }
            Message::Phase(phase) => self.phase_begins(phase),
            Message::Deciding(answer) => {
                self.feed(Event::Committing);
                let kind = self.triggers.kind_under_way().unwrap_or(Kind::Running);
                let _ = answer.send(kind);
            }
            Message::News(news, written) => {
                self.take_news(news);
                let _ = written.send(());
            }
            Message::CaptureDone(result) => return self.capture_done(*result),
            Message::Fenced => {
                self.feed(Event::Fenced);
                if self.kept.config.fenced == Fenced::End {
                    self.passed_signal = true;
                    self.signal_program(libc::SIGTERM);
                }
            }
        }
        Ok(None)
    }

    fn phase_begins(&mut self, phase: Phase) {
        let elapsed = self.capture.as_ref().map_or(Duration::ZERO, |capture| capture.began.elapsed());
        for replier in self.requests.values_mut() {
            replier.phase(phase.name(), elapsed);
        }
        self.running.facts.status.phase = Some(phase.name().to_owned());
        self.write_status();
    }

    /// Takes the program's status, if it has ended, and those of orphans.
    fn look_after_children(&mut self) -> Result<Option<i32>, WrapperError> {
        if self.ended_early.is_some() {
            return Ok(None);
        }
        let Some(ended) = self.children.reap(Some(self.running.root)).map_err(WrapperError::Wait)? else {
            return Ok(None);
        };
        if self.capture.is_some() {
            // A suspend ends it; whether this is one is known when the checkpoint has come to its end.
            self.ended_early = Some(ended);
            return Ok(None);
        }
        Ok(Some(self.program_ended(ended)))
    }

    fn program_ended(&mut self, ended: Ended) -> i32 {
        self.feed(Event::ProgramEnded);
        match self.kept.epoch.close(ending(ended, self.passed_signal)) {
            Ok(Closed::RestoreFailed { generation }) => tracing::error!(
                generation,
                "the program ended within seconds of its restore, which counts as a failed attempt"
            ),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, remedy = %error.remedy(), "the program's end cannot be recorded");
            }
        }
        tracing::info!(%ended, "the program ended");
        ended.exit_code()
    }

    fn capture_done(&mut self, result: captures::Result) -> Result<Option<i32>, WrapperError> {
        let elapsed = self.capture.take().map_or(Duration::ZERO, |capture| capture.began.elapsed());
        match result {
            Ok(committed) => {
                let bytes = committed.manifest.sizes().logical;
                self.last = Some(Throughput { bytes, elapsed });
                self.last_outcome = outcome_of(&self.kept, &committed);
                let ended = committed.ended;
                tracing::info!(
                    generation = committed.manifest.description().generation,
                    bytes,
                    new_bytes = committed.manifest.sizes().new,
                    frozen = format_args!("{:.1} ms", committed.frozen.as_secs_f64() * 1000.0),
                    phases = %committed.phases,
                    "checkpoint committed"
                );
                self.running.predecessor = Some(committed.manifest);
                self.feed(Event::Committed);
                self.prune();
                if ended {
                    return Ok(Some(i32::from(self.kept.config.exit_code)));
                }
            }
            Err(error) => {
                report(&error);
                self.last_outcome = Outcome::Failed { message: chain(&error), remedy: Some(error.remedy()) };
                self.take_news(News::Failed(error.to_string()));
                if error.is_fenced() {
                    let _ = self.messages.send(Message::Fenced);
                }
                self.feed(Event::Failed);
            }
        }
        for replier in self.waiting_for_idle.drain(..) {
            replier.finish(Outcome::Ready);
        }
        match self.ended_early.take() {
            Some(ended) => Ok(Some(self.program_ended(ended))),
            None => Ok(None),
        }
    }

    fn take_news(&mut self, news: News) {
        let status = &mut self.running.facts.status;
        status.phase = None;
        match news {
            News::Committed { generation, at } => {
                status.generation = Some(generation);
                status.last_checkpoint = Some(at);
                status.last_failure = None;
            }
            News::Failed(reason) => status.last_failure = Some(reason),
        }
        self.write_status();
    }

    fn prune(&self) {
        let wanted = self.kept.config.retention;
        let retention = Retention {
            keep_last: usize::try_from(wanted.keep_last).ok(),
            keep_within: wanted.keep_within.and_then(|within| SignedDuration::try_from(within).ok()),
        };
        match prune::prune(&self.kept.repository, self.kept.epoch.name(), &retention) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "generations that need not be kept any more"),
            Err(error) => tracing::warn!(%error, "older generations are kept for now"),
        }
    }

    fn write_status(&self) {
        if let Err(error) = self.running.facts.status.write(&self.kept.config.status_file) {
            tracing::warn!(%error, "the status file is out of date");
        }
    }

    /// Feeds the state machine, and does what it says.
    fn feed(&mut self, event: Event) {
        for action in self.triggers.on(event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::AskNode => self.ask_node(),
            Action::Start { kind, cause } => self.start(kind, cause),
            Action::TurnIntoSuspend { cause } => {
                tracing::info!(?cause, "the checkpoint under way becomes a suspend");
                self.leave(Kind::Suspend);
                if cause == Cause::Signal
                    && let (Some(capture), Some(give_up)) = (&self.capture, self.give_up())
                {
                    capture.order.expect_by(give_up);
                }
            }
            Action::PassSignal => {
                self.passed_signal = true;
                self.signal_program(self.kept.config.trigger_signal.number());
            }
            Action::Answer { id } => {
                if let Some(replier) = self.requests.remove(&id) {
                    replier.finish(self.last_outcome.clone());
                }
            }
            Action::Refuse { id, reason } => {
                if let Some(replier) = self.requests.remove(&id) {
                    replier.finish(Outcome::refused(reason));
                }
            }
        }
    }

    fn ask_node(&self) {
        let Some(config) = self.kept.config.node_state.clone() else { return };
        let messages = self.messages.clone();
        let asked = std::thread::Builder::new().name("node-state".into()).spawn(move || {
            let _ = messages.send(Message::NodeState(node_state::ask(&config)));
        });
        if let Err(error) = asked {
            let reason = format!("a thread to ask in cannot be started ({error})");
            let _ = self.messages.send(Message::NodeState(node_state::Verdict { suspend: true, reason }));
        }
    }

    fn start(&mut self, kind: Kind, cause: Cause) {
        tracing::info!(kind = %word(kind), ?cause, "checkpoint");
        let give_up = if cause == Cause::Signal { self.give_up() } else { None };
        if let (Cause::Signal, Some(deadline)) = (cause, self.deadline) {
            let bytes =
                process_tree::of(self.running.root).into_iter().filter_map(process_tree::resident).sum();
            let fit = deadline.fit(self.began.elapsed(), bytes, self.last);
            if !matches!(fit, Fit::Start { .. }) {
                tracing::error!(%fit, "no suspend is tried");
                self.last_outcome = Outcome::failed(fit.to_string());
                let _ = self.messages.send(Message::CaptureDone(Box::new(Err(CheckpointError::NoTime(fit)))));
                return;
            }
        }
        let snapshot = Snapshot {
            root: self.running.root,
            // In the manifest no checkpoint is under way: what is restored from it starts without one.
            facts: self.running.facts.clone(),
            predecessor: self.running.predecessor.clone(),
            input: self.running.streams.input(),
        };
        self.leave(kind);
        let order = Order::new(kind, give_up);
        match captures::begin(&self.kept, &self.children, snapshot, order, &self.messages) {
            Ok(capture) => self.capture = Some(capture),
            Err(error) => {
                let _ =
                    self.messages.send(Message::CaptureDone(Box::new(Err(CheckpointError::Guard(error)))));
            }
        }
    }

    /// A replica that takes this one's place waits for its slot.
    fn leave(&self, kind: Kind) {
        if kind == Kind::Suspend && self.kept.config.slots == Slots::Claim {
            epoch::leave(&self.kept.epoch, self.kept.config.grace);
        }
    }

    fn give_up(&self) -> Option<Instant> {
        self.deadline.map(|deadline| self.began + deadline.give_up())
    }

    fn signal_program(&self, signal: i32) {
        if let Err(error) = process::kill(self.running.root, signal) {
            tracing::debug!(signal, %error, "the program takes no signal");
        }
    }

    fn answer(&mut self, incoming: Incoming) {
        let Incoming { request, caller, replier } = incoming;
        tracing::info!(?request, caller, "asked");
        let kind = match request {
            Request::Status => {
                let status = Box::new(self.running.facts.status.clone());
                return replier.finish(Outcome::Status { status });
            }
            Request::Wait if self.capture.is_none() => return replier.finish(Outcome::Ready),
            Request::Wait => return self.waiting_for_idle.push(replier),
            Request::Checkpoint { template: true, .. } => Kind::Template,
            Request::Checkpoint { leave_running: true, .. } => Kind::Running,
            Request::Checkpoint { .. } => Kind::Suspend,
        };
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, replier);
        self.feed(Event::Request { id, kind });
    }

    /// The program is gone: takes every status that is left, and passes on its last words.
    fn finish(mut self, code: i32) -> i32 {
        for (_, replier) in self.requests.drain() {
            replier.finish(self.last_outcome.clone());
        }
        self.waiting_for_idle.clear();
        // Whoever it left behind would have ended with PID 1 of a container.
        for pid in process_tree::of(std::process::id() as i32).into_iter().skip(1) {
            let _ = process::kill(pid, libc::SIGKILL);
        }
        let _ = self.children.reap(Some(self.running.root));
        self.running.streams.drain();
        code
    }
}

fn report(error: &CheckpointError) {
    tracing::error!(error = %chain(error), remedy = error.remedy(), "no checkpoint; the program runs on");
    for line in error.diagnosis().map(|diagnosis| &diagnosis.lines).into_iter().flatten() {
        tracing::error!("criu: {line}");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn outcome_of(kept: &Kept, committed: &Committed) -> Outcome {
    Outcome::Done {
        name: kept.epoch.name().to_string(),
        generation: committed.manifest.description().generation,
        suspended: committed.ended,
        phases: committed
            .phases
            .durations()
            .into_iter()
            .map(|(phase, duration)| (phase.name().to_owned(), duration.as_secs_f64() * 1000.0))
            .collect(),
    }
}

//! What the triggers of a checkpoint lead to: one at a time, and a suspend before everything else.
//!
//! A pure state machine. The wrapper feeds it [`Event`]s and does the [`Action`]s it returns, in order.

/// A request of the control socket or HTTP endpoint that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a capture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The program ends with the commit.
    Suspend,
    /// The program runs on.
    Running,
    /// The program runs on; what is captured is restored many times.
    Template,
}

/// Why a capture is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The trigger signal.
    Signal,
    /// Somebody asked.
    Request,
    /// The period was over.
    Period,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The trigger signal came.
    Signal,
    /// The node state question has its answer: whether the node shuts down.
    NodeAnswered {
        /// Whether to suspend.
        suspend: bool,
    },
    /// Somebody asks for a checkpoint.
    Request {
        /// Whom to answer.
        id: RequestId,
        /// Which.
        kind: Kind,
    },
    /// The period is over.
    PeriodDue,
    /// The capture under way began its commit: it can no longer become a suspend.
    Committing,
    /// The capture under way is committed.
    Committed,
    /// The capture under way failed, was rolled back or was not started; the program runs.
    Failed,
    /// The name was taken over by a newer start; nothing can be committed any more.
    Fenced,
    /// The program ended by itself.
    ProgramEnded,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask whether the node shuts down.
    AskNode,
    /// Begin a capture.
    Start {
        /// What for.
        kind: Kind,
        /// Why.
        cause: Cause,
    },
    /// Let the capture under way end the program when it commits. With the signal, its deadline counts from now on.
    TurnIntoSuspend {
        /// Why.
        cause: Cause,
    },
    /// Send the program its signal.
    PassSignal,
    /// Answer a request with what became of the capture that has just ended.
    Answer {
        /// Whom.
        id: RequestId,
    },
    /// Refuse a request.
    Refuse {
        /// Whom.
        id: RequestId,
        /// Why.
        reason: Refusal,
    },
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is being suspended.
    #[error("the program is being suspended")]
    Suspending,
    /// It was told to end.
    #[error("the program was told to end")]
    Ending,
    /// It ended.
    #[error("the program has ended")]
    Ended,
    /// The name belongs to a newer start.
    #[error("a newer start has taken over the name")]
    Fenced,
    /// Too many wait already.
    #[error("too many checkpoints are waited for already")]
    TooMany,
}

/// More requests than this do not wait.
const MOST_WAITING: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Capture {
    kind: Kind,
    /// Whether the trigger signal asked for it, so that its failure passes the signal on.
    by_signal: bool,
    waiters: Vec<RequestId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct UnderWay {
    capture: Capture,
    committing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// A suspend by signal failed and the program has its signal.
    Ending,
    Fenced,
    /// Suspended, or ended by itself.
    Ended,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Triggers {
    asks_node: bool,
    asking: bool,
    life: Life,
    under_way: Option<UnderWay>,
    /// What follows the capture under way: a suspend first.
    waiting: Vec<Capture>,
}

impl Triggers {
    /// Triggers of a program that runs; `asks_node` where the signal alone does not decide.
    #[must_use]
    pub fn new(asks_node: bool) -> Triggers {
        Triggers { asks_node, asking: false, life: Life::Running, under_way: None, waiting: Vec::new() }
    }

    /// What the capture under way is for by now.
    #[must_use]
    pub fn kind_under_way(&self) -> Option<Kind> {
        self.under_way.as_ref().map(|under_way| under_way.capture.kind)
    }

    /// Whether a capture is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Takes in what happened and tells what to do.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Signal => self.signal(),
            Event::NodeAnswered { suspend } => {
                if !std::mem::take(&mut self.asking) {
                    Vec::new()
                } else if suspend {
                    self.suspend_by_signal()
                } else if self.life == Life::Ended {
                    Vec::new()
                } else {
                    vec![Action::PassSignal]
                }
            }
            Event::Request { id, kind } => self.request(id, kind),
            Event::PeriodDue => {
                // A period that ends while something else is under way, or the signal is being looked at, is over.
                if self.life == Life::Running && self.under_way.is_none() && !self.asking {
                    vec![self.start(
                        Capture { kind: Kind::Running, by_signal: false, waiters: Vec::new() },
                        Cause::Period,
                    )]
                } else {
                    Vec::new()
                }
            }
            Event::Committing => {
                if let Some(under_way) = &mut self.under_way {
                    under_way.committing = true;
                }
                Vec::new()
            }
            Event::Committed => self.ended(true),
            Event::Failed => self.ended(false),
            Event::Fenced => self.stop(Life::Fenced, Refusal::Fenced),
            Event::ProgramEnded => self.stop(Life::Ended, Refusal::Ended),
        }
    }

    fn signal(&mut self) -> Vec<Action> {
        match self.life {
            Life::Ended => Vec::new(),
            Life::Ending | Life::Fenced => vec![Action::PassSignal],
            Life::Running if self.asking || self.suspends_by_signal() => Vec::new(),
            Life::Running if self.asks_node => {
                self.asking = true;
                vec![Action::AskNode]
            }
            Life::Running => self.suspend_by_signal(),
        }
    }

    /// Whether the signal already leads to a suspend.
    fn suspends_by_signal(&self) -> bool {
        self.under_way
            .iter()
            .map(|under_way| &under_way.capture)
            .chain(&self.waiting)
            .any(|capture| capture.kind == Kind::Suspend && capture.by_signal)
    }

    fn suspend_by_signal(&mut self) -> Vec<Action> {
        match self.life {
            Life::Running => self.suspend(Cause::Signal, None),
            Life::Ending | Life::Fenced => vec![Action::PassSignal],
            Life::Ended => Vec::new(),
        }
    }

    fn request(&mut self, id: RequestId, kind: Kind) -> Vec<Action> {
        let refuse = |reason| vec![Action::Refuse { id, reason }];
        match self.life {
            Life::Running => {}
            Life::Ending => return refuse(Refusal::Ending),
            Life::Fenced => return refuse(Refusal::Fenced),
            Life::Ended => return refuse(Refusal::Ended),
        }
        if self.waiters() >= MOST_WAITING {
            return refuse(Refusal::TooMany);
        }
        if kind == Kind::Suspend {
            return self.suspend(Cause::Request, Some(id));
        }
        let suspending = |capture: &Capture| capture.kind == Kind::Suspend;
        match &self.under_way {
            None => vec![self.start(Capture { kind, by_signal: false, waiters: vec![id] }, Cause::Request)],
            Some(under_way) if suspending(&under_way.capture) || self.waiting.iter().any(suspending) => {
                refuse(Refusal::Suspending)
            }
            Some(_) => {
                // The capture under way may be older than what the caller has done since: another one follows.
                self.wait(kind, false, Some(id));
                Vec::new()
            }
        }
    }

    fn suspend(&mut self, cause: Cause, id: Option<RequestId>) -> Vec<Action> {
        let by_signal = cause == Cause::Signal;
        match &mut self.under_way {
            None => {
                let waiters = id.into_iter().collect();
                vec![self.start(Capture { kind: Kind::Suspend, by_signal, waiters }, cause)]
            }
            Some(UnderWay { capture, .. }) if capture.kind == Kind::Suspend => {
                // It becomes the signal's, so that its deadline counts and its failure passes the signal on.
                let newly = by_signal && !capture.by_signal;
                capture.by_signal |= by_signal;
                capture.waiters.extend(id);
                if newly { vec![Action::TurnIntoSuspend { cause }] } else { Vec::new() }
            }
            Some(UnderWay { capture, committing: false }) if capture.kind == Kind::Running => {
                capture.kind = Kind::Suspend;
                capture.by_signal = by_signal;
                capture.waiters.extend(id);
                vec![Action::TurnIntoSuspend { cause }]
            }
            Some(_) => {
                self.wait(Kind::Suspend, by_signal, id);
                Vec::new()
            }
        }
    }

    fn start(&mut self, capture: Capture, cause: Cause) -> Action {
        let kind = capture.kind;
        self.under_way = Some(UnderWay { capture, committing: false });
        Action::Start { kind, cause }
    }

    /// Lets a capture follow the one under way, together with one of its kind that follows already.
    fn wait(&mut self, kind: Kind, by_signal: bool, id: Option<RequestId>) {
        match self.waiting.iter_mut().find(|capture| capture.kind == kind) {
            Some(capture) => {
                capture.by_signal |= by_signal;
                capture.waiters.extend(id);
            }
            None => {
                let capture = Capture { kind, by_signal, waiters: id.into_iter().collect() };
                let place = if kind == Kind::Suspend { 0 } else { self.waiting.len() };
                self.waiting.insert(place, capture);
            }
        }
    }

    fn waiters(&self) -> usize {
        let under_way = self.under_way.as_ref().map_or(0, |under_way| under_way.capture.waiters.len());
        under_way + self.waiting.iter().map(|capture| capture.waiters.len()).sum::<usize>()
    }

    fn ended(&mut self, committed: bool) -> Vec<Action> {
        let Some(UnderWay { capture, .. }) = self.under_way.take() else { return Vec::new() };
        let mut actions: Vec<Action> = capture.waiters.iter().map(|&id| Action::Answer { id }).collect();
        if self.life != Life::Running {
            return actions;
        }
        if committed && capture.kind == Kind::Suspend {
            actions.extend(self.stop(Life::Ended, Refusal::Ended));
        } else if capture.kind == Kind::Suspend && capture.by_signal {
            actions.push(Action::PassSignal);
            actions.extend(self.stop(Life::Ending, Refusal::Ending));
        } else if !self.waiting.is_empty() {
            let next = self.waiting.remove(0);
            let cause = if next.by_signal { Cause::Signal } else { Cause::Request };
            actions.push(self.start(next, cause));
        }
        actions
    }

    /// Nothing is started any more. A capture under way ends in its own time; what waits is refused, and a signal that
    /// waited is passed on.
    fn stop(&mut self, life: Life, reason: Refusal) -> Vec<Action> {
        if self.life == Life::Ended {
            return Vec::new();
        }
        self.life = life;
        let mut actions = Vec::new();
        for capture in self.waiting.drain(..) {
            actions.extend(capture.waiters.iter().map(|&id| Action::Refuse { id, reason }));
            if capture.by_signal && life == Life::Fenced {
                actions.push(Action::PassSignal);
            }
        }
        if life == Life::Fenced
            && self.under_way.as_ref().is_some_and(|under_way| under_way.capture.by_signal)
        {
            actions.push(Action::PassSignal);
        }
        actions
    }
}

#[cfg(test)]
mod tests;

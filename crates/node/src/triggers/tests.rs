//! Event by event: what the triggers lead to.

use proptest::prelude::*;

use super::*;

const SUSPEND: Kind = Kind::Suspend;
const RUNNING: Kind = Kind::Running;
const A: RequestId = RequestId(1);
const B: RequestId = RequestId(2);

fn ask(id: RequestId, kind: Kind) -> Event {
    Event::Request { id, kind }
}

fn start(kind: Kind, cause: Cause) -> Action {
    Action::Start { kind, cause }
}

fn turn(cause: Cause) -> Action {
    Action::TurnIntoSuspend { cause }
}

fn answer(id: RequestId) -> Action {
    Action::Answer { id }
}

fn refuse(id: RequestId, reason: Refusal) -> Action {
    Action::Refuse { id, reason }
}

/// Goes through a story: each event, and what it leads to.
fn story(asks_node: bool, steps: &[(Event, &[Action])]) {
    let mut triggers = Triggers::new(asks_node);
    for (index, (event, actions)) in steps.iter().enumerate() {
        assert_eq!(triggers.on(*event), *actions, "step {index}: {event:?}");
    }
}

#[test]
fn the_signal_suspends() {
    story(
        false,
        &[
            (Event::Signal, &[start(SUSPEND, Cause::Signal)]),
            (Event::Signal, &[]),
            (Event::Committing, &[]),
            (Event::Committed, &[]),
            (Event::Signal, &[]),
            (ask(A, RUNNING), &[refuse(A, Refusal::Ended)]),
        ],
    );
}

#[test]
fn a_failed_suspend_passes_the_signal_on_and_later_ones_too() {
    story(
        false,
        &[
            (Event::Signal, &[start(SUSPEND, Cause::Signal)]),
            (Event::Failed, &[Action::PassSignal]),
            (Event::Signal, &[Action::PassSignal]),
            (Event::PeriodDue, &[]),
            (ask(A, SUSPEND), &[refuse(A, Refusal::Ending)]),
            (Event::ProgramEnded, &[]),
        ],
    );
}

#[test]
fn a_node_that_does_not_shut_down_means_the_programs_own_signal() {
    story(
        true,
        &[
            (Event::Signal, &[Action::AskNode]),
            (Event::Signal, &[]),
            (Event::PeriodDue, &[]),
            (Event::NodeAnswered { suspend: false }, &[Action::PassSignal]),
            (Event::Signal, &[Action::AskNode]),
            (Event::NodeAnswered { suspend: true }, &[start(SUSPEND, Cause::Signal)]),
            (Event::Committed, &[]),
        ],
    );
}

#[test]
fn a_suspend_turns_a_periodic_capture_into_one() {
    story(
        false,
        &[
            (Event::PeriodDue, &[start(RUNNING, Cause::Period)]),
            (Event::PeriodDue, &[]),
            (Event::Signal, &[turn(Cause::Signal)]),
            (Event::Signal, &[]),
            (Event::Committing, &[]),
            (Event::Committed, &[]),
        ],
    );
}

#[test]
fn a_suspend_that_comes_with_the_commit_follows_it() {
    story(
        false,
        &[
            (Event::PeriodDue, &[start(RUNNING, Cause::Period)]),
            (Event::Committing, &[]),
            (Event::Signal, &[]),
            (ask(A, SUSPEND), &[]),
            (Event::Committed, &[start(SUSPEND, Cause::Signal)]),
            (Event::Committed, &[answer(A)]),
        ],
    );
}

#[test]
fn a_turned_capture_that_fails_passes_the_signal_on() {
    story(
        false,
        &[
            (ask(A, RUNNING), &[start(RUNNING, Cause::Request)]),
            (Event::Signal, &[turn(Cause::Signal)]),
            (Event::Failed, &[answer(A), Action::PassSignal]),
        ],
    );
}

#[test]
fn a_requested_suspend_that_fails_leaves_the_program_running() {
    story(
        false,
        &[
            (ask(A, SUSPEND), &[start(SUSPEND, Cause::Request)]),
            (ask(B, SUSPEND), &[]),
            (Event::Failed, &[answer(A), answer(B)]),
            (Event::PeriodDue, &[start(RUNNING, Cause::Period)]),
        ],
    );
}

#[test]
fn the_signal_takes_over_a_requested_suspend() {
    story(
        false,
        &[
            (ask(A, SUSPEND), &[start(SUSPEND, Cause::Request)]),
            (Event::Signal, &[turn(Cause::Signal)]),
            (Event::Failed, &[answer(A), Action::PassSignal]),
        ],
    );
}

#[test]
fn checkpoints_are_made_one_after_the_other() {
    let template = Kind::Template;
    let c = RequestId(3);
    story(
        false,
        &[
            (Event::PeriodDue, &[start(RUNNING, Cause::Period)]),
            (ask(A, RUNNING), &[]),
            (ask(B, RUNNING), &[]),
            (ask(c, template), &[]),
            (Event::Committed, &[start(RUNNING, Cause::Request)]),
            (Event::Committed, &[answer(A), answer(B), start(template, Cause::Request)]),
            (Event::Signal, &[]),
            (Event::Committed, &[answer(c), start(SUSPEND, Cause::Signal)]),
            (ask(A, RUNNING), &[refuse(A, Refusal::Suspending)]),
        ],
    );
}

#[test]
fn a_program_that_ends_leaves_nobody_waiting() {
    story(
        false,
        &[
            (ask(A, RUNNING), &[start(RUNNING, Cause::Request)]),
            (ask(B, RUNNING), &[]),
            (Event::ProgramEnded, &[refuse(B, Refusal::Ended)]),
            (Event::Failed, &[answer(A)]),
            (Event::Failed, &[]),
        ],
    );
}

#[test]
fn a_name_taken_over_is_checkpointed_no_more() {
    story(
        false,
        &[
            (Event::Signal, &[start(SUSPEND, Cause::Signal)]),
            (Event::Fenced, &[Action::PassSignal]),
            (Event::Failed, &[]),
            (ask(A, RUNNING), &[refuse(A, Refusal::Fenced)]),
            (Event::Signal, &[Action::PassSignal]),
        ],
    );
}

#[test]
fn not_more_wait_than_can() {
    let mut triggers = Triggers::new(false);
    for id in 0..MOST_WAITING as u64 {
        assert!(!matches!(triggers.on(ask(RequestId(id), RUNNING))[..], [Action::Refuse { .. }]), "{id}");
    }
    assert_eq!(triggers.on(ask(A, RUNNING)), [refuse(A, Refusal::TooMany)]);
    assert_eq!(triggers.on(Event::Signal), [turn(Cause::Signal)]);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Signal),
        any::<bool>().prop_map(|suspend| Event::NodeAnswered { suspend }),
        prop_oneof![Just(SUSPEND), Just(RUNNING), Just(Kind::Template)]
            .prop_map(|kind| Event::Request { id: RequestId(0), kind }),
        Just(Event::PeriodDue),
        Just(Event::Committing),
        Just(Event::Committed),
        Just(Event::Failed),
    ]
}

proptest! {
    /// Whatever happens: one capture at a time, each request answered exactly once, and a signal is never lost.
    #[test]
    fn nothing_is_lost(asks_node: bool, events in proptest::collection::vec(any_event(), 0..60), fenced: bool) {
        let mut triggers = Triggers::new(asks_node);
        let mut next = 0;
        let mut open = std::collections::BTreeSet::new();
        let mut under_way = false;
        let mut suspended = false;
        let mut owed = false;
        // A capture that is under way when the program ends still ends in its own time.
        let first = if fenced { Event::Fenced } else { Event::Failed };
        let close = [first, Event::Failed, Event::Failed, Event::ProgramEnded, Event::Failed];
        for event in events.into_iter().chain(close) {
            let event = match event {
                Event::Request { kind, .. } => {
                    next += 1;
                    open.insert(RequestId(next));
                    Event::Request { id: RequestId(next), kind }
                }
                Event::Signal => { owed = !suspended; Event::Signal }
                Event::NodeAnswered { suspend } => Event::NodeAnswered { suspend },
                other => other,
            };
            let was_under_way = under_way;
            if matches!(event, Event::Committed | Event::Failed) {
                under_way = false;
            }
            for action in triggers.on(event) {
                match action {
                    Action::Start { .. } => {
                        prop_assert!(!under_way);
                        under_way = true;
                    }
                    Action::TurnIntoSuspend { .. } => prop_assert!(under_way),
                    Action::Answer { id } => prop_assert!(was_under_way && open.remove(&id)),
                    Action::Refuse { id, .. } => prop_assert!(open.remove(&id)),
                    Action::PassSignal => owed = false,
                    Action::AskNode => {}
                }
            }
            prop_assert_eq!(triggers.is_busy(), under_way);
            if triggers.life == Life::Ended {
                suspended = true;
                owed = false;
            }
        }
        prop_assert!(open.is_empty(), "{:?}", open);
        prop_assert!(!owed);
    }
}

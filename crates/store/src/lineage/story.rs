//! Lives of programs, told step by step: what each start is offered.

use jiff::{SignedDuration, Timestamp};

use super::fixture::{at, manifest, record};
use super::*;
use crate::manifest::GenerationKind::{self, Running, Suspend, Template};

const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// A name with a clock.
struct Story {
    record: Record,
    now: Timestamp,
    wish: Wish,
}

impl Story {
    fn new() -> Story {
        Story { record: record(), now: at(0), wish: Wish::default() }
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Starts again once any lease has run out, and returns the epoch.
    fn start(&mut self) -> u64 {
        self.wait(LEASE.as_secs());
        self.record.begin(&start("a"), self.now).unwrap()
    }

    fn start_fresh(&mut self) -> u64 {
        let epoch = self.start();
        self.record.record_fresh(epoch, "test", self.now).unwrap();
        epoch
    }

    fn restore(&mut self, epoch: u64, number: u64) {
        self.record.record_attempt(epoch, number, self.now).unwrap();
        self.record.record_restored(epoch, number, self.now).unwrap();
    }

    fn checkpoint(&mut self, epoch: u64, kind: GenerationKind) -> u64 {
        let publication = publication(&self.record, kind);
        self.record.publish(epoch, &publication, self.now).unwrap();
        publication.number
    }

    fn offer(&self) -> String {
        let record = Record::parse(&self.record.to_bytes().unwrap()).unwrap();
        assert_eq!(record, self.record);
        offer(&record, &self.wish).to_string()
    }

    #[track_caller]
    fn offers(&self, expected: &str) {
        let offer = self.offer();
        assert!(offer.contains(expected), "offered: {offer}\nexpected: {expected}");
    }
}

fn start(incarnation: &str) -> Start {
    Start {
        id: format!("id-{incarnation}"),
        incarnation: Some(incarnation.to_owned()),
        host: "node-1".to_owned(),
        pod: None,
        pid: 17,
        lease: LEASE,
        known_gone: None,
    }
}

fn publication(record: &Record, kind: GenerationKind) -> Publication {
    Publication {
        number: record.next,
        manifest: manifest(record.next),
        kind,
        sizes: Default::default(),
        program: Program { command: Some("serve".into()), ..Program::default() },
        pinned: false,
        note: None,
        packs: Vec::new(),
    }
}

#[test]
fn the_first_start_is_fresh() {
    let mut story = Story::new();
    story.start();
    story.offers("start fresh: this is the first start");
}

#[test]
fn a_suspended_program_is_resumed_round_after_round() {
    let mut story = Story::new();
    let mut epoch = story.start_fresh();
    for round in 1..=5 {
        story.wait(3600);
        let number = story.checkpoint(epoch, Suspend);
        assert_eq!(number, round);
        // The lease ended with the suspend: nobody has to wait.
        epoch = story.record.begin(&start("another node"), story.now).unwrap();
        story.offers(&format!(
            "restore generation {round} (suspend): the program was suspended in epoch {}",
            epoch - 1
        ));
        story.restore(epoch, number);
    }
}

#[test]
fn a_suspend_that_runs_on_unwatched_is_resumed_once() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    let epoch = story.start();
    story.restore(epoch, 1);
    story.record.record_settled(epoch).unwrap();
    let epoch = story.start();
    story.offers("start fresh: nothing is kept that could be restored");
    assert!(matches!(story.record.record_attempt(epoch, 1, story.now), Err(LineageError::Spent { .. })));
    assert!(story.record.record_settled(epoch - 1).unwrap_err().is_fenced());
}

#[test]
fn what_ran_at_a_checkpoint_is_gone_on_from_though_nobody_told_of_its_start() {
    let mut story = Story::new();
    let epoch = story.start();
    story.checkpoint(epoch, Running);
    let epoch = story.start();
    story.offers("restore generation 1 (running): epoch 1 never told how the program ended");
    story.restore(epoch, 1);
    story.record.record_settled(epoch).unwrap();
    let epoch = story.start();
    story.checkpoint(epoch, Suspend);
    story.start();
    story.offers("restore generation 2 (suspend)");
}

#[test]
fn a_suspend_is_resumed_once() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Suspend);
    let epoch = story.start();
    story.restore(epoch, 2);
    story.wait(60);
    story.record.renew(epoch, LEASE, story.now).unwrap();
    // The node is lost. Neither the suspend nor what is older is gone back to.
    let epoch = story.start();
    story.offers("start fresh: nothing is kept that could be restored");
    let refused = story.record.record_attempt(epoch, 2, story.now).unwrap_err();
    assert!(matches!(refused, LineageError::Spent { number: 2, .. }), "{refused}");
}

#[test]
fn after_a_lost_node_the_policy_decides() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Running);
    story.start();
    story.offers("restore generation 2 (running): epoch 1 never told how the program ended");
    story.wish.after_crash = AfterCrash::Fresh;
    story.offers("start fresh: epoch 1 never told");
    story.wish.after_crash = AfterCrash::Fail;
    story.offers("do not start: epoch 1 never told");
}

#[test]
fn a_running_generation_serves_after_every_crash() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    for _ in 0..5 {
        let epoch = story.start();
        story.offers("restore generation 1");
        story.restore(epoch, 1);
        story.wait(60);
        assert_eq!(story.record.close(epoch, Ending::Signaled(11), story.now).unwrap(), Closed::Crashed);
    }
}

#[test]
fn a_program_that_ended_by_itself_starts_fresh() {
    for code in [0, 3] {
        let mut story = Story::new();
        let epoch = story.start_fresh();
        story.checkpoint(epoch, Running);
        assert_eq!(story.record.close(epoch, Ending::Exited(code), story.now).unwrap(), Closed::Ended);
        story.record.begin(&start("b"), story.now).unwrap();
        story.offers(&format!("start fresh: the program ended by itself in epoch 1, with code {code}"));
    }
}

#[test]
fn what_lies_behind_a_fresh_start_is_not_offered() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.start_fresh();
    story.start();
    story.offers("start fresh: nothing is kept");
}

#[test]
fn a_failed_restore_goes_on_to_the_next_older() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Suspend);
    let epoch = story.start();
    story.record.record_attempt(epoch, 2, story.now).unwrap();
    story.record.record_failed(epoch, 2, "PID 7 is taken", story.now).unwrap();
    story.offers(
        "restore generation 1 (running): the program was suspended in epoch 1; generation 2 was passed over: this \
         start tried it: PID 7 is taken",
    );
    story.restore(epoch, 1);
    // Once the older one has proved itself, the newer is not gone back to.
    story.wait(60);
    story.record.renew(epoch, LEASE, story.now).unwrap();
    story.start();
    story.offers("restore generation 1 (running)");
    story.offers("generation 2 was passed over: the program went on from generation 1");
}

#[test]
fn at_most_two_attempts_are_made() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    for _ in 0..2 {
        // The wrapper is killed each time before it can tell how it went.
        let epoch = story.start();
        story.offers("restore generation 1");
        story.record.record_attempt(epoch, 1, story.now).unwrap();
    }
    let epoch = story.start();
    story.offers("start fresh: no generation that is kept can be restored; generation 1 was passed over: 2 attempts failed");
    story.wish.on_restore_failure = OnRestoreFailure::Fail;
    story.offers("do not start: no generation");
    let refused = story.record.record_attempt(epoch, 1, story.now).unwrap_err();
    assert!(matches!(refused, LineageError::TooManyAttempts { attempts: 2, .. }), "{refused}");
}

#[test]
fn dying_within_seconds_is_a_failed_attempt() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    for (ending, text) in [(Ending::Signaled(11), "signal 11"), (Ending::Exited(1), "code 1")] {
        let epoch = story.start();
        story.offers("restore generation 1 (suspend)");
        story.restore(epoch, 1);
        story.wait(2);
        let closed = story.record.close(epoch, ending, story.now).unwrap();
        assert_eq!(closed, Closed::RestoreFailed { generation: 1 });
        assert!(story.record.generations[0].last_failure().unwrap().contains(text));
    }
    story.start();
    story.offers("start fresh: no generation that is kept can be restored");
}

#[test]
fn finishing_within_seconds_is_an_end_like_any_other() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    let epoch = story.start();
    story.restore(epoch, 1);
    assert_eq!(story.record.close(epoch, Ending::Exited(0), story.now).unwrap(), Closed::Ended);
}

#[test]
fn a_changed_program_starts_fresh_and_skips_no_generation() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Suspend);
    story.record.generations[1].program.command = Some("serve --old".into());
    story.wish.program.command = Some("serve".into());
    story.start();
    story.offers("start fresh: the command changed since generation 2");
    story.wish.allow_changed = true;
    story.offers("restore generation 2");
}

#[test]
fn what_the_check_refuses_is_passed_over() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Suspend);
    story.start();
    story.wish.refused.insert(2, "this CPU has no avx512f".into());
    story.offers("generation 2 was passed over: it cannot be restored here: this CPU has no avx512f");
    story.wish.refused.insert(1, "pack 00ff is damaged".into());
    story.offers("start fresh: no generation");
}

#[test]
fn templates_replace_only_fresh_starts() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Template);
    story.checkpoint(epoch, Running);
    story.wish.templates = true;
    story.start();
    story.offers("restore generation 2 (running)");
    story.wish.after_crash = AfterCrash::Fresh;
    for _ in 0..4 {
        story.offers("restore generation 1 (template): ");
        let epoch = story.start();
        story.restore(epoch, 1);
        story.wait(60);
        story.record.close(epoch, Ending::Exited(0), story.now).unwrap();
    }
    story.wish.templates = false;
    story.offers("start fresh");
}

#[test]
fn an_older_epoch_is_fenced() {
    let mut story = Story::new();
    let old = story.start_fresh();
    let new = story.start_fresh();
    assert_eq!((old, new), (1, 2));
    let next = publication(&story.record, Suspend);
    let now = story.now;
    let record = &mut story.record;
    let before = record.clone();
    for refused in [
        record.publish(old, &next, now),
        record.renew(old, LEASE, now),
        record.release(old, now),
        record.close(old, Ending::Exited(0), now).map(drop),
        record.record_fresh(old, "", now),
        record.record_attempt(old, 1, now),
        record.record_restored(old, 1, now),
        record.record_failed(old, 1, "", now),
        record.withdraw(old, 1, "", LEASE, now),
    ] {
        assert!(refused.as_ref().is_err_and(LineageError::is_fenced), "{refused:?}");
    }
    assert_eq!(*record, before);
}

#[test]
fn two_wrappers_with_one_name() {
    let mut story = Story::new();
    story.record.begin(&start("web-0 on node-1"), story.now).unwrap();
    let held = story.record.begin(&start("web-0 on node-2"), story.now).unwrap_err();
    assert!(held.to_string().starts_with("web/app is held by process 17 on node-1"), "{held}");
    assert!(held.remedy().contains("--name"), "{}", held.remedy());
    // The lease runs out by itself ...
    story.wait(LEASE.as_secs());
    assert_eq!(story.record.begin(&start("web-0 on node-2"), story.now).unwrap(), 2);
    // ... and the same slot, or one whose process is known to be gone, is succeeded at once.
    assert_eq!(story.record.begin(&start("web-0 on node-2"), story.now).unwrap(), 3);
    let knows = Start { known_gone: Some("id-web-0 on node-2".into()), ..start("other") };
    assert_eq!(story.record.begin(&knows, story.now).unwrap(), 4);
}

#[test]
fn a_suspend_taken_back_is_never_resumed() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    story.record.withdraw(epoch, 1, "criu could not end the program", LEASE, story.now).unwrap();
    assert!(story.record.live_holder(story.now).is_some());
    story.start();
    story.offers("generation 1 was passed over: criu could not end the program");
}

#[test]
fn publishing_twice_is_publishing_once() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    let publication = publication(&story.record, Running);
    story.record.publish(epoch, &publication, story.now).unwrap();
    let once = story.record.clone();
    story.record.publish(epoch, &publication, story.now).unwrap();
    assert_eq!(story.record, once);
    let other = Publication { manifest: manifest(99), ..publication };
    assert!(matches!(story.record.publish(epoch, &other, story.now), Err(LineageError::OutOfOrder { .. })));
}

#[test]
fn closing_after_a_suspend_changes_nothing() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Suspend);
    assert_eq!(story.record.close(epoch, Ending::Signaled(9), story.now).unwrap(), Closed::Suspended);
    story.start();
    story.offers("restore generation 1");
}

#[test]
fn removing_the_resumed_suspend_does_not_bring_older_ones_back() {
    let mut story = Story::new();
    let epoch = story.start_fresh();
    story.checkpoint(epoch, Running);
    story.checkpoint(epoch, Suspend);
    let epoch = story.start();
    story.restore(epoch, 2);
    story.record.remove(&[2]).unwrap();
    story.start();
    story.offers("start fresh: nothing is kept");
}

mod any_order {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens in whatever order: a suspend never runs on twice, and the record stays readable.
        #[test]
        fn a_suspend_is_settled_by_one_epoch(steps in proptest::collection::vec((0u8..9, 1u64..4, 0i64..20), 0..60)) {
            let mut story = Story::new();
            for (step, number, seconds) in steps {
                story.wait(seconds);
                let (now, epoch) = (story.now, story.record.epoch);
                let record = &mut story.record;
                let next = publication(record, [Suspend, Running, Template][number as usize % 3]);
                let _ = match step {
                    0 => record.begin(&start("a"), now).map(drop),
                    1 => record.publish(epoch, &next, now),
                    2 => record.record_attempt(epoch, number, now),
                    3 => record.record_restored(epoch, number, now),
                    4 => record.record_failed(epoch, number, "test", now),
                    5 => record.record_fresh(epoch, "test", now),
                    6 => record.renew(epoch, LEASE, now),
                    7 => record.close(epoch, Ending::Signaled(9), now).map(drop),
                    _ => record.close(epoch, Ending::Exited(1), now).map(drop),
                };
                for generation in record.generations.iter().filter(|generation| generation.kind == Suspend) {
                    let mut epochs: Vec<_> = generation
                        .attempts
                        .iter()
                        .filter(|attempt| attempt.outcome == Outcome::Settled)
                        .map(|attempt| attempt.epoch)
                        .collect();
                    epochs.dedup();
                    prop_assert!(epochs.len() <= 1, "{:?}", generation);
                }
                story.offer();
            }
        }
    }
}

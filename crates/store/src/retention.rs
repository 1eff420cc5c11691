//! Which generations of a name are kept: a pure decision over its record.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::lineage::{Generation, Progress, Record, State};
use crate::manifest::GenerationKind;

/// Rules for what is kept. A generation is kept if any rule keeps it; without any rule all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Keep this many of the newest that have not failed.
    pub keep_last: Option<usize>,
    /// Keep what was committed within this time.
    pub keep_within: Option<SignedDuration>,
}

/// Why a generation is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Kept {
    /// There is no rule.
    NoRule,
    /// It is among the newest.
    Last,
    /// It is young enough.
    Within,
    /// It is pinned.
    Pinned,
    /// It is a template: these are only removed by hand.
    Template,
    /// The program waits in it, or goes on from it.
    InUse,
    /// It is the newest that can be restored: no rule removes that one.
    NewestRestorable,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kept::NoRule => "no rule",
            Kept::Last => "among the last",
            Kept::Within => "young enough",
            Kept::Pinned => "pinned",
            Kept::Template => "a template",
            Kept::InUse => "in use",
            Kept::NewestRestorable => "the newest restorable",
        })
    }
}

/// One generation, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'r> {
    /// The generation.
    pub generation: &'r Generation,
    /// Why it is kept. Empty if it is to be removed.
    pub kept: Vec<Kept>,
}

impl Retention {
    /// Judges every generation of a record, by rising number.
    #[must_use]
    pub fn judge<'r>(&self, record: &'r Record, now: Timestamp) -> Vec<Verdict<'r>> {
        let newest_restorable =
            record.generations.iter().rev().find(|generation| is_restorable(record, generation));
        let mut last = self.keep_last.unwrap_or(0);
        let mut verdicts: Vec<_> = record
            .generations
            .iter()
            .rev()
            .map(|generation| {
                let mut kept = Vec::new();
                if self.keep_last.is_none() && self.keep_within.is_none() {
                    kept.push(Kept::NoRule);
                }
                let counts = generation.kind != GenerationKind::Template
                    && !matches!(generation.state, State::Failed { .. });
                if counts && last > 0 {
                    last -= 1;
                    kept.push(Kept::Last);
                }
                if self.keep_within.is_some_and(|within| now.duration_since(generation.created) <= within) {
                    kept.push(Kept::Within);
                }
                if generation.pinned {
                    kept.push(Kept::Pinned);
                }
                if generation.kind == GenerationKind::Template {
                    kept.push(Kept::Template);
                }
                if is_in_use(record, generation, now) {
                    kept.push(Kept::InUse);
                }
                if newest_restorable.is_some_and(|newest| newest.number == generation.number) {
                    kept.push(Kept::NewestRestorable);
                }
                Verdict { generation, kept }
            })
            .collect();
        verdicts.reverse();
        verdicts
    }
}

/// Whether a start may ever restore it again.
fn is_restorable(record: &Record, generation: &Generation) -> bool {
    generation.kind != GenerationKind::Template
        && generation.number >= record.floor
        && match generation.state {
            State::Committed => true,
            State::Resumed { .. } => generation.kind == GenerationKind::Running || !generation.is_settled(),
            State::Failed { .. } => false,
        }
}

/// Whether the program waits in it, or its holder may still be loading it.
fn is_in_use(record: &Record, generation: &Generation, now: Timestamp) -> bool {
    match record.progress {
        Progress::Suspended { generation: waits, .. } => waits == generation.number,
        Progress::Running { from, epoch, .. } => {
            epoch == record.epoch && from == Some(generation.number) && record.live_holder(now).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::fixture::{at, generation, record};
    use crate::lineage::{Attempt, Outcome};

    fn with(kinds: &[GenerationKind]) -> Record {
        let mut record = record();
        record.epoch = 1;
        for (number, &kind) in (1..).zip(kinds) {
            record.generations.push(generation(number, kind));
            record.next = number + 1;
        }
        record
    }

    fn removed(retention: &Retention, record: &Record, now: i64) -> Vec<u64> {
        retention
            .judge(record, at(now))
            .iter()
            .filter(|verdict| verdict.kept.is_empty())
            .map(|verdict| verdict.generation.number)
            .collect()
    }

    const RUNNING: GenerationKind = GenerationKind::Running;

    #[test]
    fn without_rules_everything_stays() {
        assert!(removed(&Retention::default(), &with(&[RUNNING; 5]), 1_000_000).is_empty());
    }

    #[test]
    fn the_last_ones_stay() {
        let retention = Retention { keep_last: Some(2), keep_within: None };
        assert_eq!(removed(&retention, &with(&[RUNNING; 5]), 0), [1, 2, 3]);
    }

    #[test]
    fn the_young_ones_stay_whatever_their_number() {
        let retention = Retention { keep_last: Some(1), keep_within: Some(SignedDuration::from_secs(3)) };
        assert_eq!(removed(&retention, &with(&[RUNNING; 5]), 6), [1, 2]);
    }

    #[test]
    fn the_newest_restorable_stays_under_every_rule() {
        let retention = Retention { keep_last: Some(0), keep_within: None };
        let mut record = with(&[RUNNING; 4]);
        record.generations[3].state = State::Failed { reason: "damaged".into() };
        assert_eq!(removed(&retention, &record, 1_000_000), [1, 2, 4]);
    }

    #[test]
    fn a_failed_one_does_not_take_the_place_of_a_good_one() {
        let retention = Retention { keep_last: Some(2), keep_within: None };
        let mut record = with(&[RUNNING; 4]);
        record.generations[3].state = State::Failed { reason: "damaged".into() };
        assert_eq!(removed(&retention, &record, 1_000_000), [1, 4]);
    }

    #[test]
    fn pins_and_templates_stay() {
        let retention = Retention { keep_last: Some(1), keep_within: None };
        let mut record = with(&[RUNNING, GenerationKind::Template, RUNNING, RUNNING]);
        record.generations[0].pinned = true;
        assert_eq!(removed(&retention, &record, 1_000_000), [3]);
    }

    #[test]
    fn a_spent_suspend_goes_but_an_unsettled_one_stays() {
        let retention = Retention { keep_last: Some(0), keep_within: None };
        let mut record = with(&[GenerationKind::Suspend]);
        let resumed = &mut record.generations[0];
        resumed.state = State::Resumed { epoch: 2 };
        resumed.attempts.push(Attempt { epoch: 2, at: at(2), outcome: Outcome::Restored { at: at(2) } });
        assert!(removed(&retention, &record, 1_000_000).is_empty());
        record.generations[0].attempts[0].outcome = Outcome::Settled;
        assert_eq!(removed(&retention, &record, 1_000_000), [1]);
    }

    proptest::proptest! {
        #[test]
        fn something_restorable_remains_if_there_was_any(
            kinds in proptest::collection::vec(0u8..6, 0..12),
            last in proptest::option::of(0usize..5),
            within in proptest::option::of(0i64..20),
        ) {
            let mut record = record();
            record.epoch = 1;
            for (number, kind) in (1..).zip(kinds) {
                let mut generation = generation(number, match kind % 3 {
                    0 => GenerationKind::Suspend,
                    1 => GenerationKind::Running,
                    _ => GenerationKind::Template,
                });
                if kind >= 3 {
                    generation.state = State::Failed { reason: String::new() };
                }
                record.generations.push(generation);
                record.next = number + 1;
            }
            let retention = Retention { keep_last: last, keep_within: within.map(SignedDuration::from_secs) };
            let newest = record.generations.iter().rev().find(|generation| is_restorable(&record, generation));
            let verdicts = retention.judge(&record, at(12));
            proptest::prop_assert_eq!(verdicts.len(), record.generations.len());
            if let Some(newest) = newest {
                let verdict = verdicts.iter().find(|verdict| verdict.generation.number == newest.number).unwrap();
                proptest::prop_assert!(!verdict.kept.is_empty());
            }
        }
    }
}

//! Which slot of a name a replica takes that is like all others.

use jiff::Timestamp;

use super::{Epoch, Holder, Lineage, LineageError, Progress, Record, Start, now};
use crate::name::Name;
use crate::repository::Repository;

/// What a replica asks for that takes whichever slot of `name` is free.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The name all replicas share, without a slot.
    pub name: &'a Name,
    /// The slot that was this replica's before, if it has one: that of its pod, whose container starts again.
    pub own: Option<&'a str>,
    /// A slot that nobody else takes.
    pub new: &'a str,
    /// Whether slots count as free whose program was lost with its node and has checkpoints.
    pub lost: bool,
    /// Whether slots that are being given up are waited for.
    pub wait: bool,
    /// Whether a holder is known to have ended, although its lease lasts.
    pub is_gone: &'a dyn Fn(&Holder) -> bool,
}

/// What a claim came to.
#[derive(Debug)]
pub enum Claimed {
    /// An epoch of a slot.
    Slot(Box<Epoch>),
    /// Nothing is free, but a slot is being given up: its holder is suspending its program.
    Leaving {
        /// The slot.
        slot: Name,
        /// When its holder will have ended at the latest.
        until: Timestamp,
    },
}

impl std::fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Claim { name, own, new, lost, wait, is_gone: _ } = self;
        write!(f, "Claim({name}, own {own:?}, new {new:?}, lost {lost}, wait {wait})")
    }
}

/// Why a slot is free, the best reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Free {
    /// It was this replica's before.
    Own,
    /// Its program waits, suspended since then.
    Suspended(Timestamp),
    /// Its program was lost after it had run since then.
    Lost(Timestamp),
}

impl Lineage {
    /// Begins an epoch in a slot of a name: in the replica's own, else in one that waits suspended and unheld, the
    /// longest-waiting first, else in one whose program was lost, else in a new one. For replicas that are all alike.
    ///
    /// # Errors
    /// Where no slot can be had, or the store fails.
    pub fn claim(repository: &Repository, claim: &Claim<'_>, start: &Start) -> Result<Claimed, LineageError> {
        let records = Lineage::all(repository)?;
        let plan = Plan::new(&records, claim, now(repository)?);
        for (slot, known_gone) in plan.free {
            let lineage = Lineage::new(repository, slot);
            let start = Start { known_gone, ..start.clone() };
            let claimed = lineage.change(false, |record, now| {
                match free(record, claim, start.known_gone.as_deref(), now) {
                    Some(_) => record.begin(&start, now).map(Some),
                    // Another replica was faster.
                    None => Ok(None),
                }
            });
            match claimed {
                Ok(Some(number)) => {
                    return Ok(Claimed::Slot(Box::new(Epoch { lineage, number, lease: start.lease })));
                }
                Ok(None) | Err(LineageError::Held { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some((slot, until)) = plan.leaving.filter(|_| claim.wait) {
            return Ok(Claimed::Leaving { slot, until });
        }
        let begin = |slot| Lineage::new(repository, claim.name.in_slot(slot)?).begin(start);
        let begun = match claim.own.map(begin) {
            None | Some(Err(LineageError::Held { .. })) => begin(claim.new),
            Some(begun) => begun,
        };
        Ok(Claimed::Slot(Box::new(begun?)))
    }
}

impl Epoch {
    /// Notes that the holder is about to give the slot up: by `until` it has suspended its program or ended.
    ///
    /// # Errors
    /// [`LineageError::Fenced`], or where the store fails.
    pub fn leave(&self, within: jiff::SignedDuration) -> Result<(), LineageError> {
        self.change(|record, epoch, now| {
            record.check_epoch(epoch)?;
            if let Some(holder) = &mut record.holder {
                holder.leaving_until = Some(now + within);
            }
            Ok(())
        })
    }
}

/// What there is to claim.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Free slots, the best first, with the holder that is known to have ended.
    free: Vec<(Name, Option<String>)>,
    /// The slot that is given up first.
    leaving: Option<(Name, Timestamp)>,
}

impl Plan {
    fn new(records: &[Record], claim: &Claim<'_>, now: Timestamp) -> Plan {
        let mut ranked = Vec::new();
        let mut leaving = Vec::new();
        for record in records.iter().filter(|record| record.name.base() == claim.name.base()) {
            let known_gone = record.live_holder(now).filter(|holder| (claim.is_gone)(holder));
            let known_gone = known_gone.map(|holder| holder.id.clone());
            if let Some(why) = free(record, claim, known_gone.as_deref(), now) {
                ranked.push((why, record.name.clone(), known_gone));
            } else if known_gone.is_none()
                && let Some(until) = record.live_holder(now).and_then(|holder| holder.leaving_until)
                && until > now
            {
                leaving.push((until, record.name.clone()));
            }
        }
        ranked.sort();
        Plan {
            free: ranked.into_iter().map(|(_, name, known_gone)| (name, known_gone)).collect(),
            leaving: leaving.into_iter().min().map(|(until, name)| (name, until)),
        }
    }
}

/// Why the record's slot may be taken, if it may.
fn free(record: &Record, claim: &Claim<'_>, known_gone: Option<&str>, now: Timestamp) -> Option<Free> {
    let slot = record.name.slot()?;
    if claim.own == Some(slot) {
        // Whether another holds it is decided when it is taken.
        return Some(Free::Own);
    }
    if record.live_holder(now).is_some_and(|holder| known_gone != Some(&holder.id)) {
        return None;
    }
    match record.progress {
        Progress::Suspended { at, .. } => Some(Free::Suspended(at)),
        Progress::Running { since, .. } if claim.lost => {
            let has_any = record.generations.iter().any(|generation| generation.number >= record.floor);
            has_any.then_some(Free::Lost(since))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{generation, record};
    use super::*;
    use crate::manifest::GenerationKind;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn slot(name: &str, progress: Progress, held_until: i64) -> Record {
        let holder = Holder {
            id: format!("holder of {name}"),
            incarnation: None,
            host: "node".into(),
            pod: None,
            pid: 1,
            since: time(0),
            lease_until: time(held_until),
            leaving_until: None,
        };
        Record {
            name: format!("web/app:{name}").parse().unwrap(),
            epoch: 1,
            next: 2,
            generations: vec![generation(1, GenerationKind::Running)],
            progress,
            holder: Some(holder),
            ..record()
        }
    }

    fn suspended(at: i64) -> Progress {
        Progress::Suspended { epoch: 1, generation: 1, at: time(at) }
    }

    fn running(since: i64) -> Progress {
        Progress::Running { epoch: 1, from: None, since: time(since), reason: String::new() }
    }

    fn plan(records: &[Record], own: Option<&str>, lost: bool, gone: &str) -> (Vec<String>, Option<i64>) {
        let name = "web/app".parse().unwrap();
        let is_gone = |holder: &Holder| holder.id == format!("holder of {gone}");
        let claim = Claim { name: &name, own, new: "new", lost, wait: true, is_gone: &is_gone };
        let Plan { free, leaving } = Plan::new(records, &claim, time(100));
        let slots = free.into_iter().map(|(name, _)| name.slot().unwrap().to_owned()).collect();
        (slots, leaving.map(|(_, until)| until.as_second()))
    }

    #[test]
    fn what_waits_longest_is_claimed_first_and_what_was_lost_last() {
        let other = Record { name: "web/other:x".parse().unwrap(), ..slot("x", suspended(1), 0) };
        let ended = Progress::Ended { epoch: 1, code: 0, at: time(5) };
        let records = [
            slot("late", suspended(50), 60),
            slot("early", suspended(40), 60),
            slot("held", suspended(10), 120),
            slot("lost", running(20), 90),
            slot("runs", running(20), 130),
            slot("ended", ended, 0),
            other,
        ];
        assert_eq!(plan(&records, None, false, ""), (vec!["early".into(), "late".into()], None));
        assert_eq!(plan(&records, None, true, "").0, ["early", "late", "lost"]);
        assert_eq!(plan(&records, None, true, "runs").0, ["early", "late", "lost", "runs"]);
        assert_eq!(plan(&records, Some("ended"), true, "").0[0], "ended", "its own, whatever became of it");
    }

    #[test]
    fn a_lost_program_without_checkpoints_leaves_nothing_to_claim() {
        let mut bare = slot("bare", running(20), 90);
        bare.generations.clear();
        let mut behind = slot("behind", running(20), 90);
        behind.floor = 2;
        assert_eq!(plan(&[bare, behind], None, true, ""), (vec![], None));
    }

    #[test]
    fn a_slot_that_is_given_up_is_waited_for_until_its_holder_has_ended() {
        let leaving = |name, until, lease| {
            let mut record = slot(name, running(0), lease);
            record.holder.as_mut().unwrap().leaving_until = Some(time(until));
            record
        };
        let records = [leaving("a", 120, 150), leaving("b", 110, 150)];
        assert_eq!(plan(&records, None, false, ""), (vec![], Some(110)));
        assert_eq!(plan(&[leaving("a", 90, 150)], None, false, ""), (vec![], None), "it should have ended");
        assert_eq!(plan(&[leaving("a", 120, 95)], None, false, ""), (vec![], None), "it has lost the slot");
        assert_eq!(plan(&[leaving("a", 120, 150)], None, false, "a"), (vec![], None), "it has ended");
    }
}

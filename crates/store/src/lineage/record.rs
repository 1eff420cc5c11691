//! What is kept about a name, and how it is written: JSON with a version, at most [`MAX_BYTES`] long.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::signed::Signed;
use crate::id::ManifestId;
use crate::manifest::{GenerationKind, Sizes};
use crate::name::Name;

/// The version of the record that this release writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Longest record, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Most generations a record holds.
pub const MAX_GENERATIONS: usize = 4096;
/// Most attempts remembered for a generation; the oldest are forgotten first.
pub(super) const MAX_ATTEMPTS: usize = 8;
/// Longest reason or note kept, in bytes.
pub(super) const MAX_TEXT: usize = 2048;

/// Why bytes are no record of a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A newer release wrote it.
    #[error("the record has version {found}; this release reads up to version {VERSION}")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// Too long.
    #[error("the record is {bytes} bytes long; at most {MAX_BYTES} are allowed")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Not the JSON it should be.
    #[error("the record cannot be understood")]
    Syntax {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Its parts contradict each other.
    #[error("the record contradicts itself: {what}")]
    Contradiction {
        /// Which parts.
        what: String,
    },
}

/// Everything kept about a name. It changes only by conditional replacement of the whole record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The name this is the record of.
    pub name: Name,
    /// How often the name was started; 0 before the first start.
    pub epoch: u64,
    /// The number the next generation will have; the first is 1.
    pub next: u64,
    /// Generations below this number lie behind a fresh start or a resumption and are never offered again.
    pub floor: u64,
    /// What became of the program, as far as its holders have told.
    pub progress: Progress,
    /// Who started the newest epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// What is kept, by rising number.
    pub generations: Vec<Generation>,
    /// Fields that a newer release added without raising the version; they are written back as they were.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// What became of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Progress {
    /// It never ran.
    New,
    /// It ran in this epoch, and nothing later is known.
    #[serde(rename_all = "camelCase")]
    Running {
        /// The epoch.
        epoch: u64,
        /// The generation it was restored from; none after a fresh start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
        /// Since when.
        since: Timestamp,
        /// Why it was started so.
        reason: String,
    },
    /// It was suspended; the generation waits to be resumed.
    Suspended {
        /// The epoch it was suspended in.
        epoch: u64,
        /// The generation.
        generation: u64,
        /// When.
        at: Timestamp,
    },
    /// It ended by itself: the next start is fresh.
    Ended {
        /// The epoch it ended in.
        epoch: u64,
        /// Its exit code.
        code: i32,
        /// When.
        at: Timestamp,
    },
    /// It was killed by a signal.
    Crashed {
        /// The epoch it was killed in.
        epoch: u64,
        /// The signal's number, if it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// When.
        at: Timestamp,
    },
}

/// Who started the newest epoch, and until when nobody else may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Made up at random for each start.
    pub id: String,
    /// What stays the same when the same slot starts again, such as the pod's and the container's name; equal
    /// incarnations succeed each other at once, because the older cannot still be running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Host name of the node.
    pub host: String,
    /// The pod, if it runs in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Process id of the wrapper, on its host.
    pub pid: u32,
    /// When the epoch began, by the store's clock.
    pub since: Timestamp,
    /// Until when nobody else may begin an epoch, by the store's clock.
    pub lease_until: Timestamp,
    /// When the holder will have suspended its program or ended, at the latest: it was told to. For replicas that
    /// claim a slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving_until: Option<Timestamp>,
}

/// One checkpoint of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its number, unique in the name and rising.
    pub number: u64,
    /// Its manifest.
    pub manifest: ManifestId,
    /// The epoch that committed it.
    pub epoch: u64,
    /// What it may be used for.
    pub kind: GenerationKind,
    /// When it was committed, by the store's clock.
    pub created: Timestamp,
    /// How much it holds.
    pub sizes: Sizes,
    /// Whether retention leaves it alone.
    #[serde(default)]
    pub pinned: bool,
    /// What became of it.
    pub state: State,
    /// Attempts to restore it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What the program was.
    #[serde(default)]
    pub program: Program,
    /// A person's or the wrapper's remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What others have signed about it, oldest first. Nothing here says whether it is to be believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<Signed>,
}

/// What became of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
#[non_exhaustive]
pub enum State {
    /// It waits.
    Committed,
    /// The program went on from it.
    Resumed {
        /// The newest epoch that did.
        epoch: u64,
    },
    /// It is not restored any more.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One attempt to restore a generation, recorded before CRIU starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// The epoch that made it.
    pub epoch: u64,
    /// When it began.
    pub at: Timestamp,
    /// How it went.
    pub outcome: Outcome,
}

/// How an attempt to restore went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing is known yet; if the epoch is over, it failed.
    Started,
    /// It failed, or the program died within seconds.
    Failed {
        /// Why.
        reason: String,
    },
    /// The program runs, but not long enough to be sure.
    Restored {
        /// Since when.
        at: Timestamp,
    },
    /// The program ran on.
    Settled,
}

/// What a program was, to tell whether it is still the same. Texts are compared, not interpreted: use digests
/// where arguments may be secret. What one side does not know is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// The command with its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The executable file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// The container's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl Record {
    /// The record of a name that never ran.
    #[must_use]
    pub fn new(name: Name) -> Record {
        Record {
            version: VERSION,
            name,
            epoch: 0,
            next: 1,
            floor: 1,
            progress: Progress::New,
            holder: None,
            generations: Vec::new(),
            unknown: serde_json::Map::new(),
        }
    }

    /// The generation of that number.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.number == number)
    }

    /// The holder, if its lease has not run out.
    #[must_use]
    pub fn live_holder(&self, now: Timestamp) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| now < holder.lease_until)
    }

    /// The generation that a suspended program waits in.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        match self.progress {
            Progress::Suspended { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// Whether nothing is left but the count of its epochs, because the name was removed.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.generations.is_empty() && self.progress == Progress::New && self.holder.is_none()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Where the bytes are no record, one of a newer version, or one that contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Record, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if bytes.len() > MAX_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        let syntax = |source| RecordError::Syntax { source };
        let Versioned { version } = serde_json::from_slice(bytes).map_err(syntax)?;
        if version > VERSION {
            return Err(RecordError::Newer { found: version });
        }
        let record: Record = serde_json::from_slice(bytes).map_err(syntax)?;
        record.check()?;
        Ok(record)
    }

    /// Writes the record.
    ///
    /// # Errors
    /// Where it has become too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let bytes = serde_json::to_vec(self).map_err(|source| RecordError::Syntax { source })?;
        if bytes.len() > MAX_BYTES {
            return Err(RecordError::TooLong { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    fn check(&self) -> Result<(), RecordError> {
        let contradiction = |what: String| Err(RecordError::Contradiction { what });
        if self.generations.len() > MAX_GENERATIONS {
            return contradiction(format!("{} generations", self.generations.len()));
        }
        if let Some(pair) = self.generations.windows(2).find(|pair| pair[0].number >= pair[1].number) {
            return contradiction(format!("generation {} precedes {}", pair[0].number, pair[1].number));
        }
        for generation in &self.generations {
            if generation.number >= self.next || generation.number == 0 {
                return contradiction(format!(
                    "generation {} exists, but the next is {}",
                    generation.number, self.next
                ));
            }
            if generation.epoch > self.epoch {
                return contradiction(format!(
                    "generation {} is of epoch {}, but the newest epoch is {}",
                    generation.number, generation.epoch, self.epoch
                ));
            }
        }
        if self.floor > self.next {
            return contradiction(format!("floor {} is above the next number {}", self.floor, self.next));
        }
        Ok(())
    }
}

impl Generation {
    /// Attempts since the last that went well, as seen from `epoch`: those that failed, and those of an earlier
    /// epoch that never told how they went on.
    #[must_use]
    pub fn failed_attempts(&self, epoch: u64) -> usize {
        self.attempts
            .iter()
            .rev()
            .take_while(|attempt| attempt.outcome != Outcome::Settled)
            .filter(|attempt| matches!(attempt.outcome, Outcome::Failed { .. }) || attempt.epoch < epoch)
            .count()
    }

    /// Whether a program went on from it for long enough to be sure.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.outcome == Outcome::Settled)
    }

    /// Why the newest failed attempt failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.attempts.iter().rev().find_map(|attempt| match &attempt.outcome {
            Outcome::Failed { reason } => Some(reason.as_str()),
            Outcome::Started => Some("it never told how it went"),
            Outcome::Restored { .. } => Some("the program was lost within seconds"),
            Outcome::Settled => None,
        })
    }
}

impl Program {
    /// What differs from `other`, in words; nothing if all that both know is equal.
    #[must_use]
    pub fn difference(&self, other: &Program) -> Option<&'static str> {
        let differs = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        if differs(&self.command, &other.command) {
            Some("command")
        } else if differs(&self.executable, &other.executable) {
            Some("executable")
        } else if differs(&self.image, &other.image) {
            Some("image")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{generation, record};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_writes() {
        let mut record = record();
        record.generations.push(generation(1, GenerationKind::Suspend));
        record.next = 2;
        record.epoch = 1;
        assert_eq!(Record::parse(&record.to_bytes().unwrap()).unwrap(), record);
    }

    #[test]
    fn keeps_what_a_newer_release_added() {
        let text = r#"{"version":1,"name":"web","epoch":0,"next":1,"floor":1,"progress":{"state":"new"},
            "generations":[],"colour":"green"}"#;
        let record = Record::parse(text.as_bytes()).unwrap();
        assert!(String::from_utf8(record.to_bytes().unwrap()).unwrap().contains(r#""colour":"green""#));
    }

    #[test]
    fn a_newer_version_is_named_whatever_its_fields() {
        let error = Record::parse(br#"{"version":7,"changed":"entirely"}"#).unwrap_err();
        assert_eq!(error.to_string(), "the record has version 7; this release reads up to version 1");
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let mut early = record();
        early.generations.push(generation(1, GenerationKind::Suspend));
        let mut twice = record();
        twice.next = 3;
        twice.epoch = 1;
        twice
            .generations
            .extend([generation(1, GenerationKind::Suspend), generation(1, GenerationKind::Running)]);
        let mut floor = record();
        floor.floor = 9;
        for record in [early, twice, floor] {
            let error = Record::parse(&record.to_bytes().unwrap()).unwrap_err();
            assert!(matches!(error, RecordError::Contradiction { .. }), "{error}");
        }
    }

    #[test]
    fn unknown_parts_of_a_program_are_not_compared() {
        let known = Program { command: Some("a".into()), image: Some("i".into()), executable: None };
        assert_eq!(known.difference(&Program::default()), None);
        assert_eq!(
            known.difference(&Program { command: Some("b".into()), ..known.clone() }),
            Some("command")
        );
        assert_eq!(known.difference(&Program { image: Some("j".into()), ..known.clone() }), Some("image"));
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = Record::parse(&bytes);
            let mut record = record();
            record.generations.push(generation(1, GenerationKind::Running));
            record.next = 2;
            record.epoch = 1;
            let mut whole = record.to_bytes().unwrap();
            whole.truncate(cut.min(whole.len()));
            whole.extend(&bytes);
            let _ = Record::parse(&whole);
        }
    }
}

//! Records to try decisions on.

use jiff::Timestamp;

use super::record::{Generation, Program, Record, State};
use crate::id::ManifestId;
use crate::manifest::{GenerationKind, Sizes};

/// A moment, in seconds from the beginning of the test's time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The record of a name that never ran.
pub(crate) fn record() -> Record {
    Record::new("web/app".parse().unwrap())
}

/// A generation of epoch 1, committed at its number's second.
pub(crate) fn generation(number: u64, kind: GenerationKind) -> Generation {
    Generation {
        number,
        manifest: manifest(number),
        epoch: 1,
        kind,
        created: at(number as i64),
        sizes: Sizes { logical: 100, new: 10, stored: 5, ..Sizes::default() },
        pinned: false,
        state: State::Committed,
        attempts: Vec::new(),
        program: Program::default(),
        note: None,
        signed: Vec::new(),
    }
}

/// A manifest's id made from a number.
pub(crate) fn manifest(number: u64) -> ManifestId {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    ManifestId::from_bytes(bytes)
}

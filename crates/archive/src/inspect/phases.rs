//! What Torpor measured, for checkpoints in its stores.

use serde::Serialize;
use serde_json::Value;

use super::images::Images;
use crate::engine;
use crate::source::MANIFEST;

/// A phase of making the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Its name, as in logs.
    pub name: String,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// The phases in the order in which they were passed.
pub(super) fn phases(images: &Images<'_>) -> Vec<Phase> {
    let document = engine::document(images.checkpoint(), MANIFEST).unwrap_or_else(|error| {
        images.note(MANIFEST, &error);
        None
    });
    of_document(document.as_ref())
}

fn of_document(document: Option<&Value>) -> Vec<Phase> {
    let phases = document.and_then(|document| document.get("phases")).and_then(Value::as_array);
    let phase = |phase: &Value| {
        Some(Phase {
            name: phase.get("name")?.as_str()?.to_owned(),
            duration_us: phase.get("micros")?.as_u64()?,
        })
    };
    phases.into_iter().flatten().filter_map(phase).collect()
}

//! The commit: what the manifest says, and the act by which a checkpoint begins to exist.

use std::sync::mpsc;

use torpor_store::lineage::Publication;
use torpor_store::manifest::{Description, GenerationKind};
use torpor_store::{Draft, DraftError, FinishedDraft, Manifest};

use super::{CheckpointError, Subject};
use crate::facts::Facts;
use crate::order::{Expired, Order};
use crate::phase::Phases;

/// Finishes a draft, but gives up waiting when the order's time is over. What a storage that hangs still writes then is
/// referred to by nothing, and collected later.
pub(crate) fn finish_in_time<E: From<Expired> + From<DraftError>>(
    draft: Draft,
    description: Description,
    order: &Order,
) -> Result<FinishedDraft, E> {
    let Some(left) = order.left() else { return Ok(draft.finish(description)?) };
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(draft.finish(description));
    });
    Ok(finished.recv_timeout(left).map_err(|_| Expired)??)
}

/// What the manifest says.
pub(super) fn describe(
    subject: &Subject<'_>,
    kind: GenerationKind,
    facts: &Facts,
    number: u64,
    phases: &Phases,
) -> Result<Description, CheckpointError> {
    Ok(Description {
        name: subject.epoch.name().to_string(),
        epoch: subject.epoch.number(),
        generation: number,
        kind,
        parent: subject.predecessor.map(|manifest| manifest.description().generation),
        created: jiff::Timestamp::now(),
        phases: phases.recorded(),
        facts: facts.to_bytes()?,
    })
}

/// The act by which the checkpoint begins to exist.
pub(super) fn publish(subject: &Subject<'_>, finished: FinishedDraft) -> Result<Manifest, CheckpointError> {
    subject.epoch.publish(&Publication::new(&finished, subject.facts.program.clone()))?;
    Ok(finished.manifest)
}

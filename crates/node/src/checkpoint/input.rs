//! What a checkpoint takes of standard input.

use torpor_store::Draft;

use super::CheckpointError;
use crate::facts::Facts;
use crate::streams::input::{Held, Input};
use crate::streams::{UNREAD, UnreadInput};

/// Takes over what the program has not read of its standard input. Without it the checkpoint is still worth having.
pub(super) fn take<'i>(
    input: &'i Input,
    draft: &mut Draft,
    facts: &mut Facts,
) -> Result<Option<Held<'i>>, CheckpointError> {
    facts.unread_input = None;
    let held = match input.hold() {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "what is unread in the pipe of standard input cannot be kept");
            return Ok(None);
        }
    };
    if !held.unread.is_empty() {
        tracing::info!(bytes = held.unread.len(), "kept what the program has not read of its input");
        draft.image(UNREAD, &mut held.unread.as_slice())?;
        facts.unread_input = Some(UnreadInput::here(held.unread.len()));
    }
    Ok(Some(held))
}

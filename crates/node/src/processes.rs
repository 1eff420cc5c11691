//! Plain processes, with no container around them: a tree of whoever started it, checkpointed and restored.
//!
//! They share the machine's files, so nothing of these is captured; what they have open for writing is recorded in a
//! store's manifest, and compared before a restore.

pub mod checkpoint;
pub mod generation;
pub mod restore;
pub mod sandbox;
mod streams;

pub use checkpoint::{Job, is_of_others};
pub use restore::{Processes, restore};

//! The flags of commands that take something away from a store.

use super::{output, store};

/// Flags of every command that plans first and then removes.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Only tell what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) store: store::Args,
    #[command(flatten)]
    pub(crate) output: output::Args,
}

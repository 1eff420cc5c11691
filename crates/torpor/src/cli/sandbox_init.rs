//! `torpor sandbox-init`, which only Torpor itself calls: what `torpor_node::processes::sandbox::init` describes.

use super::Exit;

/// Be the first process of a sandbox (Torpor itself starts this).
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {}

pub(crate) fn run() -> anyhow::Result<Exit> {
    Ok(Exit::Program(torpor_node::processes::sandbox::init::stand()?))
}

//! `torpor guard`, which only Torpor itself calls: what `torpor_node::guard` describes.

use super::Exit;

/// Watch over a freeze (Torpor itself starts this).
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {}

pub(crate) fn run() -> anyhow::Result<Exit> {
    if let torpor_node::guard::Outcome::Released { rolled_back, woken } =
        torpor_node::guard::stand(std::io::stdin())?
    {
        tracing::error!(rolled_back, woken, "torpor is gone; the guard let the program go");
    }
    Ok(Exit::Success)
}

//! `torpor completions`: what a shell needs to complete Torpor's commands.

use clap::CommandFactory;

use super::{Exit, Torpor, output};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to complete in.
    shell: clap_complete::Shell,
}

/// Prints the script to standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Torpor::command(), "torpor", &mut script);
    output::put(&script)?;
    Ok(Exit::Success)
}

//! `torpor man`: the manual pages, made from the command line itself.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::{Exit, Torpor, output};

/// Write the manual pages
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write one page for each command into this directory, instead of the main page to standard output.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// Writes the pages.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let command = Torpor::command();
    match &args.directory {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            clap_mangen::generate_to(command, directory)
                .with_context(|| format!("cannot write manual pages to {}", directory.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            output::put(&page)?;
        }
    }
    Ok(Exit::Success)
}

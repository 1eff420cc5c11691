//! `torpor diff`: what differs between two checkpoints.

use std::path::PathBuf;

use torpor_archive::diff::{Aspects, Diff, State};

use super::{Exit, output, place, report};

mod lines;

/// Show what differs between two checkpoints
///
/// They may be of one program at two moments, or of two copies of it. Processes are matched by their ids, else by program,
/// arguments and parent. Memory is compared page by page, unless --no-memory is given. Ends with 0 where nothing differs, with 1
/// where something does, with 2 or more where they cannot be compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first: an archive, a directory of images, `-` for standard input, or NAME or NAME@NUMBER in the store.
    before: String,
    /// The second.
    after: String,
    /// Do not compare memory.
    #[arg(long)]
    no_memory: bool,
    /// Show values of environment variables.
    #[arg(long)]
    show_secrets: bool,
    /// Show processes that do not differ, too.
    #[arg(long)]
    all: bool,
    /// Write a page to look at in a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    output: output::TreeArgs,
    #[command(flatten)]
    place: place::Args,
}

/// Compares them.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let aspects = Aspects { memory: !args.no_memory, secrets: args.show_secrets, ..Aspects::ALL };
    let mut diff = match compare(args, aspects) {
        Ok(diff) => diff,
        Err(error) => {
            // 1 says that they differ, which nobody knows.
            return Ok(match super::failure::report(&error) {
                Exit::Failure => Exit::Damaged,
                exit => exit,
            });
        }
    };
    if !args.all {
        diff.processes.retain(|process| process.state != State::Same);
    }
    match &args.html {
        Some(path) => report::diff::write(path, &diff, &lines::of(&diff))?,
        None => args.output.print(&diff, lines::text, lines::trees)?,
    }
    Ok(match (diff.problems.is_empty(), diff.equal) {
        (false, _) => Exit::Damaged,
        (true, true) => Exit::Success,
        (true, false) => Exit::Failure,
    })
}

fn compare(args: &Args, aspects: Aspects) -> anyhow::Result<Diff> {
    let before = args.place.checkpoint(&args.before)?;
    let after = args.place.checkpoint(&args.after)?;
    Ok(Diff::between(&before, &after, aspects)?)
}

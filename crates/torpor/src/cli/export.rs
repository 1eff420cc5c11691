//! `torpor export`: a checkpoint of a store as the archive or directory it was.

use std::path::{Path, PathBuf};

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::blueprint::{self, chain};
use torpor_archive::packing::Packing;
use torpor_archive::source::Compression;

use super::convert::{Compress, written};
use super::failure::Failure;
use super::{Exit, place};

/// Write an archive or a directory of images that was imported as it was, bit for bit
///
/// An archive is compressed as it was, with the same bytes inside. A directory has those of its parents below it, each as `parent`. Other checkpoints of a store are laid out for an engine with `torpor convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: NAME, or NAME@NUMBER.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: String,
    /// The archive to write, where `-` is standard output; or the directory, which must not be there yet or be empty.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Compress it in another way.
    #[arg(long, value_name = "WORD")]
    compress: Option<Compress>,
    #[command(flatten)]
    place: place::Args,
}

/// Writes it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let checkpoint =
        args.place.checkpoint(&format!("store:{}", args.checkpoint.trim_start_matches("store:")))?;
    if chain::is_one(&checkpoint) {
        directory(args, &checkpoint)?;
        return Ok(Exit::Success);
    }
    let was = blueprint::compression(&checkpoint)?;
    let packing = match (args.compress, was) {
        (Some(compress), _) => compress.into(),
        (None, Some(Compression::Gzip)) => Packing::Gzip,
        (None, Some(Compression::Zstd)) => Packing::Zstd,
        (None, None) => Packing::None,
        (None, Some(other)) => {
            eprintln!("note: it was compressed by {other}, which is not written; it is left uncompressed");
            Packing::None
        }
    };
    written(&args.out, |output| {
        let mut packed = packing.begin(output)?;
        blueprint::rebuild(&checkpoint, &mut packed)?;
        packed.finish()?;
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// Writes it beside its place, and puts it there once it is whole.
fn directory(args: &Args, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let out = &args.out;
    if args.compress.is_some() || out == Path::new("-") {
        let message = format!("{} was a directory, not an archive", args.checkpoint);
        return Err(Failure::new(Exit::Usage, message, "name a directory with --out").into());
    }
    if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} is not empty", out.display());
        return Err(Failure::new(
            Exit::Place,
            message,
            "name a directory that is not there yet, or is empty",
        )
        .into());
    }
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot write {}", out.display());
    let partial =
        tempfile::Builder::new().prefix(".torpor-export-").tempdir_in(beside).with_context(failed)?;
    chain::rebuild(checkpoint, partial.path())?;
    std::fs::rename(partial.path(), out).with_context(failed)?;
    // It is at its place now.
    let _ = partial.keep();
    Ok(())
}

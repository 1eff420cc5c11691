//! `torpor export`: a checkpoint of a store as the archive it was.

use std::path::PathBuf;

use torpor_archive::blueprint;
use torpor_archive::packing::Packing;
use torpor_archive::source::Compression;

use super::convert::{Compress, written};
use super::{Exit, place};

/// Write an archive that was imported as it was, bit for bit
///
/// It is compressed as it was, with the same bytes inside. Other checkpoints of a store are laid out for an engine with `torpor convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: NAME, or NAME@NUMBER.
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: String,
    /// The archive to write; `-` is standard output.
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

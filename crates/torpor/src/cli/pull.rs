//! `torpor pull`: an image from a registry.

use std::path::Path;

use super::depot::Place;
use super::{Exit, depot, push};

/// Pull an image from a registry into a layout directory or an archive
///
/// What is there already is not fetched again. A download goes on where a connection broke. What is printed is the image's digest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image's name: `HOST/REPOSITORY[:TAG][@DIGEST]`.
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it goes: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or a path: an archive where it ends in .tar.
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    depot: depot::Args,
}

/// Pulls.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let to = Place::parse(&args.image, Path::is_file)?;
    push::moved(&args.depot, &Place::Registry(args.name.parse()?), &to)
}

//! `torpor push`: an image to a registry.

use std::path::Path;

use torpor_archive::oci;

use super::depot::Place;
use super::failure::Failure;
use super::{Exit, depot};

/// Push an image to a registry
///
/// What the registry has already is not sent; what is in another repository there is taken over. An upload goes on where a connection broke.
/// What is printed is the image's digest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, a path, or `docker://NAME`.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Its name in the registry: `HOST/REPOSITORY[:TAG]`.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    depot: depot::Args,
}

/// Pushes.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let from = Place::parse(&args.image, Path::is_file)?;
    moved(&args.depot, &from, &Place::Registry(args.name.parse()?))
}

/// Moves an image, and prints its digest.
pub(super) fn moved(depot: &depot::Args, from: &Place, to: &Place) -> anyhow::Result<Exit> {
    if from == to {
        let remedy = "name two places";
        return Err(Failure::new(Exit::Usage, "the image would be written where it is read", remedy).into());
    }
    let origin = depot.origin(from)?;
    let mut depot = depot.depot(to)?;
    let image = oci::copy(&*origin, &mut *depot)?;
    depot.finish()?;
    println!("{}", image.digest);
    Ok(Exit::Success)
}

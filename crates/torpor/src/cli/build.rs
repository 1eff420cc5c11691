//! `torpor build`: an image of a checkpoint.

use std::path::Path;

use torpor_archive::layout::{Description, Plan};
use torpor_archive::oci::{self, CHECKPOINT, Recipe};

use super::convert::{Container, Engine};
use super::{Exit, depot, place};

/// Make an image of a checkpoint
///
/// With --base, the checkpoint is one more layer on the image of the application, below /.torpor/checkpoint: torpor-runtime starts it from
/// there, and any other runtime starts it afresh. With --for, it is an image with the checkpoint alone, which that engine restores.
/// The same checkpoint gives the same image, bit for bit. What is printed is the image's digest.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("form").args(["base", "for"]).required(true)))]
pub(crate) struct Args {
    /// The checkpoint: an archive, a directory of images, an image, or a name in a store.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The application's image: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or a path.
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// The engine that will restore it.
    #[arg(long, value_name = "ENGINE")]
    r#for: Option<Engine>,
    #[command(flatten)]
    output: depot::Output,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    depot: depot::Args,
    #[command(flatten)]
    place: place::Args,
}

/// Makes the image.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let checkpoint = args.place.checkpoint(&args.source)?;
    let base = args.base.as_deref().map(|text| depot::Place::parse(text, Path::is_file)).transpose()?;
    let base = base.map(|place| args.depot.origin(&place)).transpose()?;
    let (plan, mut annotations) = match args.r#for {
        Some(engine) => {
            let plan = args.container.plan(&checkpoint, engine.into())?;
            let engine = torpor_archive::layout::Target::from(engine).engine();
            let annotations = oci::annotations(plan.description(), engine);
            (plan, annotations)
        }
        None => {
            let description = Description::read(&checkpoint)?;
            (Plan::as_it_is(&checkpoint, description), std::collections::BTreeMap::new())
        }
    };
    if base.is_some() {
        annotations.insert(CHECKPOINT.to_owned(), plan.description().name.clone());
    }
    let place = args.output.place()?;
    let mut depot = args.depot.depot(&place)?;
    let recipe = Recipe {
        checkpoint: &checkpoint,
        plan: &plan,
        base: base.as_deref(),
        packing: args.output.packing(&checkpoint)?,
        annotations,
    };
    let image = oci::build(&recipe, &mut *depot)?;
    depot.finish()?;
    println!("{}", image.digest);
    Ok(Exit::Success)
}

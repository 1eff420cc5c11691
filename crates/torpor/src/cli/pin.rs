//! `torpor pin`: keep a generation whatever the rules say.

use torpor_store::lineage::Lineage;
use torpor_store::name::Reference;

use super::failure::Failure;
use super::{Exit, store};

/// Keep a generation whatever the rules of retention say
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME@NUMBER.
    generation: Reference,
    /// Let the rules decide again.
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    store: store::Args,
}

/// Pins it, or lets it go.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let Reference { name, generation } = &args.generation;
    let Some(number) = *generation else {
        let remedy = format!("write `torpor pin {name}@NUMBER`; `torpor ls {name}` lists the numbers");
        return Err(Failure::new(Exit::Usage, format!("{name} names no generation"), remedy).into());
    };
    Lineage::new(&args.store.open()?, name.clone()).pin(number, !args.off)?;
    Ok(Exit::Success)
}

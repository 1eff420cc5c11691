//! `torpor rm`: give up a generation, or a name with all of its.

use serde::Serialize;
use torpor_store::lineage::{Lineage, LineageError, Record};
use torpor_store::name::Reference;

use super::failure::Failure;
use super::{Exit, change, output};

/// Remove a generation, or a name with all its generations
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME, or NAME@NUMBER for one generation.
    name: Reference,
    /// Remove even what is pinned, or waits to be resumed.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: change::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Removed {
    name: String,
    dry_run: bool,
    removed: Vec<u64>,
}

/// Removes it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let repository = args.change.store.open()?;
    let name = &args.name.name;
    let lineage = Lineage::new(&repository, name.clone());
    let record = lineage
        .record()?
        .filter(|record| !record.is_forgotten())
        .ok_or_else(|| LineageError::NoSuchName { name: name.clone() })?;
    let numbers: Vec<u64> = match args.name.generation {
        Some(number) if record.generation(number).is_some() => vec![number],
        Some(number) => return Err(LineageError::NoSuchGeneration { name: name.clone(), number }.into()),
        None => record.generations.iter().map(|generation| generation.number).collect(),
    };
    if !args.force {
        refuse_precious(&record, &numbers)?;
    }
    if !args.change.dry_run {
        match args.name.generation {
            Some(number) => lineage.remove(&[number])?,
            None => lineage.forget()?,
        }
    }
    let removed = Removed { name: name.to_string(), dry_run: args.change.dry_run, removed: numbers };
    args.change.output.print(&removed, |removed| {
        let verb = if removed.dry_run { "would remove" } else { "removed" };
        let count = output::count(removed.removed.len(), "generation");
        let numbers = removed.removed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let which = if numbers.is_empty() { String::new() } else { format!(" ({numbers})") };
        let data = "; `torpor gc` frees its data";
        format!("{verb} {count}{which} of {}{}\n", removed.name, if removed.dry_run { "" } else { data })
    })?;
    Ok(Exit::Success)
}

/// Refuses to remove what somebody marked as precious, or the only place where a program is.
fn refuse_precious(record: &Record, numbers: &[u64]) -> Result<(), Failure> {
    let waits = record.waiting();
    for generation in record.generations.iter().filter(|generation| numbers.contains(&generation.number)) {
        let reference = format!("{}@{}", record.name, generation.number);
        if generation.pinned {
            let remedy = format!("`torpor pin --off {reference}` unpins it; --force removes it all the same");
            return Err(Failure::new(Exit::Failure, format!("{reference} is pinned"), remedy));
        }
        if waits == Some(generation.number) {
            let message = format!("the program waits in {reference} to be resumed");
            return Err(Failure::new(Exit::Failure, message, "--force gives it up"));
        }
    }
    Ok(())
}

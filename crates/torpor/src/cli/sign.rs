//! `torpor sign`: permit pods of other namespaces to go on from a checkpoint.

use std::path::PathBuf;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use torpor_node::config::duration;
use torpor_node::permit::{Permit, SecretKey};
use torpor_store::lineage::Lineage;
use torpor_store::name::Reference;

use super::failure::Failure;
use super::{Exit, store};

/// Permit pods of other namespaces to go on from a checkpoint, by a signature
///
/// Without one, `torpor-runtime` gives a pod checkpoints of its own namespace only. The permit is kept in the store with the
/// checkpoint, and holds on nodes whose /etc/torpor/runtime.yaml names the key's public half under `trustedKeys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME@NUMBER, or NAME for its newest checkpoint.
    checkpoint: Reference,
    /// A namespace whose pods may go on from it; may be given several times.
    #[arg(long = "namespace", value_name = "NAMESPACE", required = true)]
    namespaces: Vec<String>,
    /// The secret key, which `torpor key pair` makes.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long the permit holds, such as `12h`; without it, for as long as the checkpoint is kept.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    valid_for: Option<std::time::Duration>,
    #[command(flatten)]
    store: store::Args,
}

/// Signs.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let key = SecretKey::read(&args.key)?;
    let Reference { name, generation } = &args.checkpoint;
    let lineage = Lineage::new(&args.store.open()?, name.clone());
    let none = || {
        let remedy = format!("`torpor show {name}` tells what there is");
        Failure::new(Exit::Failure, format!("there is no checkpoint {}", args.checkpoint), remedy)
    };
    let record = lineage.record()?.ok_or_else(none)?;
    let found = match generation {
        Some(number) => record.generation(*number),
        None => record.generations.last(),
    };
    let found = found.ok_or_else(none)?;
    let expires = match args.valid_for {
        Some(time) => {
            let time = SignedDuration::try_from(time).context("--valid-for is too long")?;
            Some(Timestamp::now().checked_add(time).context("--valid-for is too long")?)
        }
        None => None,
    };
    let permit = Permit::new(name.clone(), found.number, found.manifest, args.namespaces.clone(), expires);
    lineage.keep_signed(found.number, &permit.sign(&key))?;
    let until = expires.map(|expires| format!(" until {expires}")).unwrap_or_default();
    println!("{name}@{} may be restored in {}{until}", found.number, args.namespaces.join(", "));
    Ok(Exit::Success)
}

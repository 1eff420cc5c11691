//! `torpor key`: which passphrases and key files open an encrypted store, and pairs of keys to sign with.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use torpor_node::permit::SecretKey;
use torpor_store::id::SlotId;

use super::failure::Failure;
use super::{Exit, output, store};

/// List, add and remove the passphrases and key files that open an encrypted store; make keys to sign with
///
/// The store's own key never changes: adding a passphrase and removing the old one writes no data again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the slots
    Ls {
        #[command(flatten)]
        store: store::Args,
        #[command(flatten)]
        output: output::Args,
    },
    /// Add a slot for another passphrase or key file
    Add {
        /// The passphrase to add is the first line of this file.
        #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
        new_passphrase_file: Option<PathBuf>,
        /// The key file to add.
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        #[command(flatten)]
        store: store::Args,
    },
    /// Make a pair of keys for `torpor sign`: the secret one in FILE, the public one in FILE.pub
    Pair {
        /// The file, which must not be there yet.
        file: PathBuf,
    },
    /// Remove a slot; the last one stays
    Rm {
        /// The slot, as `torpor key ls` names it.
        slot: SlotId,
        #[command(flatten)]
        store: store::Args,
    },
}

#[derive(Serialize)]
struct Slots {
    slots: Vec<Slot>,
}

#[derive(Serialize)]
struct Slot {
    id: SlotId,
    kind: String,
}

/// Lists, adds or removes.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.action {
        Action::Ls { store, output } => {
            let slots = store.open()?.key_slots()?;
            let slots = slots.into_iter().map(|(id, kind)| Slot { id, kind: kind.to_string() }).collect();
            output.print(&Slots { slots }, |slots| {
                if slots.slots.is_empty() {
                    return "the store is not encrypted\n".to_owned();
                }
                let mut table = output::table(&["SLOT", "OPENED BY"]);
                for slot in &slots.slots {
                    table.add_row([slot.id.to_string(), slot.kind.clone()]);
                }
                output::lines(&table)
            })?;
        }
        Action::Add { new_passphrase_file: None, new_key_file: None, .. } => {
            let remedy = "give --new-passphrase-file or --new-key-file";
            return Err(Failure::new(Exit::Usage, "nothing to add is given", remedy).into());
        }
        Action::Add { new_passphrase_file, new_key_file, store } => {
            let new = store::credentials(new_passphrase_file.as_deref(), new_key_file.as_deref())?;
            let slot = store.open()?.add_key(&new)?;
            println!("{slot}");
        }
        Action::Pair { file } => {
            let public = SecretKey::generate()?.write(file)?;
            println!("{}", public.display());
        }
        Action::Rm { slot, store } => store.open()?.remove_key(*slot)?,
    }
    Ok(Exit::Success)
}

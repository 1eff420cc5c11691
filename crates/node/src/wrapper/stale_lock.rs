//! The locks that others have left in the network: a container killed in the midst of a checkpoint cannot take its own
//! away, and the network of a pod outlives it.

use std::cell::OnceCell;
use std::collections::HashSet;

use torpor_criu::image::{self, process::Inventory};
use torpor_store::Repository;
use torpor_store::lineage::Lineage;

use super::program::Kept;
use crate::network_lock;

/// Takes them away. Called once the program runs: a lock of its own has its connections kept until then.
pub(super) fn remove(kept: &Kept) {
    let by_iptables = kept.expert_options.iter().any(|option| option.to_string() == "network-lock=iptables");
    let waiting = OnceCell::new();
    let is_kept = |run: &str| waiting.get_or_init(|| runs_that_wait(&kept.repository)).contains(run);
    match network_lock::remove_stale(by_iptables, is_kept) {
        Ok(0) => {}
        Ok(locks) => tracing::warn!(
            locks,
            "a CRIU that was killed had left a lock on connections in this network, which is taken away"
        ),
        Err(error) => {
            tracing::error!(%error, "a lock of CRIU's on this network's connections cannot be taken away");
        }
    }
}

/// The identities of the runs of CRIU whose programs wait in the store, suspended with their connections.
fn runs_that_wait(repository: &Repository) -> HashSet<String> {
    let Ok(records) = Lineage::each(repository) else { return HashSet::new() };
    let waiting = records.flatten().filter_map(|record| {
        let manifest = record.generation(record.waiting()?)?.manifest;
        let manifest = repository.manifest(manifest).ok()?;
        let inventory = repository.read_image(&manifest, "inventory.img").ok()?;
        image::read_one::<Inventory>(&inventory).ok()?.dump_criu_run_id
    });
    waiting.collect()
}

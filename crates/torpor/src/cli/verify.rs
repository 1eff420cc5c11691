//! `torpor verify`: whether everything in a store is what was written.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use torpor_store::lineage::Lineage;
use torpor_store::verify::{Depth, Report, repair, verify};
use torpor_store::{ManifestId, Repository};

use super::{Exit, failure, output, store};

/// Check that everything in a store is whole
///
/// Ends with 0 if it is, and with 4 if something is damaged or missing; each damage is told with the generations it hurts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read every byte, not only the structure.
    #[arg(long)]
    read_data: bool,
    /// Rebuild the index from the packs first.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    store: store::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    whole: bool,
    repaired: bool,
    manifests: u64,
    packs: u64,
    blocks: u64,
    bytes: u64,
    unindexed_packs: u64,
    damage: Vec<ShownDamage>,
}

#[derive(Serialize)]
struct ShownDamage {
    object: String,
    reason: String,
    /// The generations that cannot be restored because of it.
    hurts: Vec<String>,
}

/// Verifies, after a repair if one is asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut repository = args.store.open()?;
    if args.repair {
        repair(&repository)?;
        repository = args.store.open()?;
    }
    let depth = if args.read_data { Depth::Data } else { Depth::Structure };
    let report = verify(&repository, depth)?;
    let (names, damage) = check_names(&repository)?;
    let shown = shown(report, args.repair, &names, damage);
    args.output.print(&shown, text)?;
    Ok(if shown.whole { Exit::Success } else { Exit::Damaged })
}

/// Which generation each manifest is; and the records that cannot be read, or name manifests that are not there.
fn check_names(repository: &Repository) -> anyhow::Result<(HashMap<ManifestId, String>, Vec<ShownDamage>)> {
    let mut names = HashMap::new();
    let mut damage = Vec::new();
    // Records first: a generation that is removed while this runs still has its manifest.
    let records: Vec<_> = Lineage::each(repository)?.collect();
    let there: HashSet<_> = repository.manifests()?.into_iter().map(|manifest| manifest.id).collect();
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let reason = failure::sentence(&error.into());
                damage.push(ShownDamage { object: "a name".to_owned(), reason, hurts: Vec::new() });
                continue;
            }
        };
        for generation in &record.generations {
            let reference = format!("{}@{}", record.name, generation.number);
            if !there.contains(&generation.manifest) {
                damage.push(ShownDamage {
                    object: format!("manifest {}", generation.manifest),
                    reason: "it is missing".to_owned(),
                    hurts: vec![reference.clone()],
                });
            }
            names.insert(generation.manifest, reference);
        }
    }
    Ok((names, damage))
}

fn shown(
    report: Report,
    repaired: bool,
    names: &HashMap<ManifestId, String>,
    mut damage: Vec<ShownDamage>,
) -> Verified {
    damage.extend(report.damage.into_iter().map(|damage| {
        let mut hurts: Vec<String> = damage
            .hurts
            .iter()
            .map(|id| {
                names.get(id).cloned().unwrap_or_else(|| format!("manifest {id}, which no name refers to"))
            })
            .collect();
        hurts.sort();
        ShownDamage { object: damage.object, reason: damage.reason, hurts }
    }));
    Verified {
        whole: damage.is_empty(),
        repaired,
        manifests: report.manifests,
        packs: report.packs,
        blocks: report.blocks,
        bytes: report.bytes,
        unindexed_packs: report.unindexed_packs,
        damage,
    }
}

fn text(verified: &Verified) -> String {
    let mut lines = Vec::new();
    if verified.repaired {
        lines.push("rebuilt the index from the packs".to_owned());
    }
    lines.push(format!(
        "looked at {}, {} and {}; read {}",
        output::count(verified.manifests as usize, "manifest"),
        output::count(verified.packs as usize, "pack"),
        output::count(verified.blocks as usize, "block"),
        output::bytes(verified.bytes)
    ));
    for damage in &verified.damage {
        lines.push(format!("damaged: {}: {}", damage.object, damage.reason));
        lines.extend(damage.hurts.iter().map(|generation| format!("  hurts {generation}")));
    }
    if verified.unindexed_packs > 0 {
        let packs = output::count(verified.unindexed_packs as usize, "pack");
        lines.push(format!("{packs} not in the index: `torpor verify --repair` adds what they hold"));
    }
    lines.push(if verified.whole { "the store is whole" } else { "the store is damaged" }.to_owned());
    lines.join("\n")
}

//! `torpor gc`: free the data that no generation needs.

use jiff::SignedDuration;
use serde::Serialize;
use torpor_store::gc::{GcPlan, GcSettings, Survey, execute};

use super::{Exit, change, output, prune};

/// Free the data that no generation needs any more
///
/// What nothing refers to is marked by one collection and deleted by a later one, once the longest session is over:
/// run it regularly. With `--longest-session 0s` it is deleted at once; make sure that nothing is checkpointed or
/// restored meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// No checkpoint or restore takes longer than this.
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = prune::duration)]
    longest_session: SignedDuration,
    /// Rewrite packs of which less than this share is needed, in percent.
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u8).range(0..=100))]
    sparse_below: u8,
    #[command(flatten)]
    change: change::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Collected {
    dry_run: bool,
    deleted_bytes: u64,
    /// One plan, or two where what the first marked was deleted at once.
    plans: Vec<GcPlan>,
}

/// Plans, then collects.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let settings =
        GcSettings { longest_session: args.longest_session.unsigned_abs(), sparse_below: args.sparse_below };
    let mut plans = Vec::new();
    loop {
        // Opened anew each time: a plan is only as good as the index it knows.
        let repository = args.change.store.open()?;
        let plan = GcPlan::new(&Survey::take(&repository)?, &settings)?;
        if !args.change.dry_run {
            execute(&repository, &plan)?;
        }
        let again = !args.change.dry_run && settings.longest_session.is_zero() && plan.marks();
        plans.push(plan);
        // Marking and deleting are two rounds; what a round marks, the next deletes.
        if !again || plans.len() == 2 {
            break;
        }
    }
    let deleted_bytes = plans.iter().map(GcPlan::deleted_bytes).sum();
    args.change.output.print(&Collected { dry_run: args.change.dry_run, deleted_bytes, plans }, text)?;
    Ok(Exit::Success)
}

fn text(collected: &Collected) -> String {
    let verb = |done: &'static str, would: &'static str| if collected.dry_run { would } else { done };
    let mut lines = Vec::new();
    for plan in &collected.plans {
        let mut add = |verb: &str, count: usize, noun: &str, rest: String| {
            if count > 0 {
                lines.push(format!("{verb} {}{rest}", output::count(count, noun)));
            }
        };
        let spared = verb("spared", "would spare");
        add(spared, plan.spare_packs.len(), "pack", " that is needed after all".into());
        add(spared, plan.spare_manifests.len(), "manifest", " that is needed after all".into());
        let copied: u64 = plan.rewrite.iter().map(|sparse| sparse.used).sum();
        let rewrite = format!(", copying {}", output::bytes(copied));
        add(verb("rewrote", "would rewrite"), plan.rewrite.len(), "sparse pack", rewrite);
        let marked = verb("marked", "would mark");
        add(marked, plan.mark_manifests.len(), "manifest", String::new());
        let bytes = |bytes: u64| format!(" ({})", output::bytes(bytes));
        let size = plan.mark_packs.iter().map(|pack| pack.size).sum();
        add(marked, plan.mark_packs.len(), "pack", bytes(size));
        let deleted = verb("deleted", "would delete");
        add(deleted, plan.delete_manifests.len(), "manifest", String::new());
        add(deleted, plan.delete_packs.len(), "pack", bytes(plan.deleted_bytes()));
        add(deleted, plan.leftovers.len(), "temporary file", String::new());
    }
    if let Some(last) = collected.plans.last() {
        if last.waiting > 0 {
            lines.push(format!(
                "{} marked already and deleted by a collection after the longest session",
                output::count(last.waiting, "object")
            ));
        }
        lines.push(format!("{} of packs stay", output::bytes(last.kept_bytes)));
    }
    lines.join("\n")
}

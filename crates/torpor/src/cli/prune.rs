//! `torpor prune`: apply retention to the generations of names.

use jiff::SignedDuration;
use serde::Serialize;
use torpor_store::Name;
use torpor_store::lineage::{Lineage, LineageError};
use torpor_store::prune::{PrunePlan, PrunedName, prune};
use torpor_store::retention::Retention;

use super::{Exit, change, output};

/// Remove generations that the rules of retention do not keep
///
/// A generation is kept if any rule keeps it. The newest that can be restored, the one a program waits in, pinned ones
/// and templates are always kept. The data is freed by `torpor gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this name, its slots, and the names below it.
    name: Option<Name>,
    /// Keep this many of the newest of each name.
    #[arg(long, value_name = "N", env = "TORPOR_KEEP_LAST")]
    keep_last: Option<usize>,
    /// Keep what is younger than this, such as 36h or 7d.
    #[arg(long, value_name = "DURATION", env = "TORPOR_KEEP_WITHIN", value_parser = duration)]
    keep_within: Option<SignedDuration>,
    #[command(flatten)]
    change: change::Args,
}

/// How many generations are kept if no rule is given.
const KEEP_LAST: usize = 3;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    dry_run: bool,
    #[serde(flatten)]
    plan: PrunePlan,
}

/// Plans, then removes.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let repository = args.change.store.open()?;
    let mut records = Lineage::all(&repository)?;
    records.retain(|record| !record.is_forgotten());
    if let Some(pattern) = &args.name {
        records.retain(|record| record.name.is_within(pattern));
        if records.is_empty() {
            return Err(LineageError::NoSuchName { name: pattern.clone() }.into());
        }
    }
    let retention = args.retention();
    let mut plan = PrunePlan::new(&records, &retention, Lineage::now(&repository)?);
    if !args.change.dry_run {
        for name in plan.names.iter_mut().filter(|name| !name.remove.is_empty()) {
            name.remove = prune(&repository, &name.name, &retention)?;
        }
    }
    args.change.output.print(&Pruned { dry_run: args.change.dry_run, plan }, text)?;
    Ok(Exit::Success)
}

impl Args {
    fn retention(&self) -> Retention {
        let no_rule = self.keep_last.is_none() && self.keep_within.is_none();
        Retention {
            keep_last: if no_rule { Some(KEEP_LAST) } else { self.keep_last },
            keep_within: self.keep_within,
        }
    }
}

fn text(pruned: &Pruned) -> String {
    let mut table = output::table(&["GENERATION", "", "BECAUSE"]);
    for PrunedName { name, keep, remove } in &pruned.plan.names {
        let kept = keep.iter().map(|kept| {
            let because = kept.because.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            (kept.number, "keep", because)
        });
        let removed = remove.iter().map(|&number| (number, "remove", "no rule keeps it".to_owned()));
        let mut rows: Vec<_> = kept.chain(removed).collect();
        rows.sort();
        for (number, verb, because) in rows {
            table.add_row([format!("{name}@{number}"), verb.to_owned(), because]);
        }
    }
    let rows = if table.row_count() == 0 { String::new() } else { output::lines(&table) };
    let verb = if pruned.dry_run { "would remove" } else { "removed" };
    format!("{rows}{verb} {}\n", output::count(pruned.plan.removals(), "generation"))
}

/// A length of time, such as `90s`, `36h` or `7d`; a day has 24 hours.
pub(super) fn duration(text: &str) -> Result<SignedDuration, String> {
    let refused = || format!("{text:?} is no length of time; write 90s, 15m, 36h or 7d");
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let duration = match days {
        Some(days) => SignedDuration::from_hours(i64::from(days) * 24),
        None => text.parse().map_err(|_| refused())?,
    };
    if duration.is_negative() { Err(refused()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_people_write() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("36h", 129_600), ("7d", 604_800)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "5", "-3h", "soon", "d", "-1d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

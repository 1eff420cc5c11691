//! Applying retention to the generations of names: first a plan, then its execution.
//!
//! Pruning takes generations out of their records. Their manifests and data stay until the next collection
//! ([`crate::gc`]), so whoever restores one of them just now is not disturbed.

use jiff::Timestamp;
use serde::Serialize;

use crate::lineage::{Lineage, LineageError, Record};
use crate::name::Name;
use crate::repository::Repository;
use crate::retention::{Kept, Retention};

/// What pruning would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunePlan {
    /// Name by name.
    pub names: Vec<PrunedName>,
}

/// What pruning would do to one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunedName {
    /// The name.
    pub name: Name,
    /// Generations that stay, by rising number.
    pub keep: Vec<KeptGeneration>,
    /// Generations that go, by rising number.
    pub remove: Vec<u64>,
}

/// A generation that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptGeneration {
    /// Its number.
    pub number: u64,
    /// Why it stays.
    pub because: Vec<Kept>,
}

impl PrunePlan {
    /// What `retention` means for these records.
    #[must_use]
    pub fn new(records: &[Record], retention: &Retention, now: Timestamp) -> PrunePlan {
        let names = records
            .iter()
            .map(|record| {
                let (kept, removed): (Vec<_>, Vec<_>) =
                    retention.judge(record, now).into_iter().partition(|verdict| !verdict.kept.is_empty());
                PrunedName {
                    name: record.name.clone(),
                    keep: kept
                        .into_iter()
                        .map(|verdict| KeptGeneration {
                            number: verdict.generation.number,
                            because: verdict.kept,
                        })
                        .collect(),
                    remove: removed.into_iter().map(|verdict| verdict.generation.number).collect(),
                }
            })
            .collect();
        PrunePlan { names }
    }

    /// How many generations go.
    #[must_use]
    pub fn removals(&self) -> usize {
        self.names.iter().map(|name| name.remove.len()).sum()
    }
}

/// Judges one name again and takes what goes out of its record, in one step: what was committed, resumed or pinned
/// since a plan was shown is respected. Returns the numbers that went.
///
/// # Errors
/// Where the record cannot be read or replaced.
pub fn prune(repository: &Repository, name: &Name, retention: &Retention) -> Result<Vec<u64>, LineageError> {
    Lineage::new(repository, name.clone()).remove_where(|record, now| {
        retention
            .judge(record, now)
            .into_iter()
            .filter(|verdict| verdict.kept.is_empty())
            .map(|verdict| verdict.generation.number)
            .collect()
    })
}

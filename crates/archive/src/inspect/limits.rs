//! Resource limits.

use serde::Serialize;
use torpor_criu::image::process::Rlimits;

/// Resources by their numbers, as in getrlimit(2).
const RESOURCES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// The resource, as `nofile`.
    pub resource: String,
    /// The limit in force; none where there is no limit.
    pub soft: Option<u64>,
    /// How far the process may raise it; none where there is no limit.
    pub hard: Option<u64>,
}

pub(super) fn limits(rlimits: &Rlimits) -> Vec<Limit> {
    let finite = |limit: u64| (limit != u64::MAX).then_some(limit);
    let limits = rlimits.rlimits.iter().enumerate().map(|(number, limit)| Limit {
        resource: RESOURCES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned()),
        soft: finite(limit.cur),
        hard: finite(limit.max),
    });
    limits.collect()
}

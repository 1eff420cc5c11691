//! Figures, what was promised of them, and where they are kept.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::workspace;

/// One figure that was promised.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    /// What it is.
    pub(super) title: String,
    /// The ratio measured.
    pub(super) ratio: f64,
    /// At most this was promised; none where the figure is only stated.
    pub(super) limit: Option<f64>,
}

impl Figure {
    fn met(&self) -> bool {
        self.limit.is_none_or(|limit| self.ratio <= limit)
    }
}

/// The middle of `values`; the mean of the two in the middle of an even number.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept<'a, T> {
    version: u32,
    bench: &'a str,
    kernel: String,
    processors: usize,
    measurements: &'a [T],
    figures: &'a [Figure],
}

/// Prints the figures, keeps everything in `bench/NAME.json` of the build directory, and with `check` fails where a promise
/// is not met.
pub(super) fn conclude<T: Serialize>(
    bench: &str,
    measurements: &[T],
    figures: &[Figure],
    check: bool,
) -> Result<()> {
    if !figures.is_empty() {
        println!("\n  {:<58} {:>7} {:>9}", "figure", "ratio", "at most");
    }
    for figure in figures {
        let limit = figure.limit.map_or("stated".to_owned(), |limit| format!("{limit:.2}"));
        let verdict = if figure.met() { "" } else { "  MISSED" };
        println!("  {:<58} {:>7.2} {limit:>9}{verdict}", figure.title, figure.ratio);
    }
    let path = workspace::target().join("bench").join(format!("{bench}.json"));
    let kept = Kept {
        version: 1,
        bench,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        measurements,
        figures,
    };
    fs::create_dir_all(workspace::target().join("bench"))?;
    fs::write(&path, serde_json::to_string_pretty(&kept)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("\n  kept in {}", path.display());
    let missed = figures.iter().filter(|figure| !figure.met()).count();
    if check && figures.is_empty() {
        bail!("nothing was measured that a promise is about");
    }
    if check && missed > 0 {
        bail!("{missed} of {} promises not met", figures.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_the_sorted() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_without_a_limit_is_always_met() {
        let figure = |ratio, limit| Figure { title: String::new(), ratio, limit };
        assert!(figure(9.0, None).met() && figure(0.25, Some(0.25)).met());
        assert!(!figure(0.26, Some(0.25)).met());
        assert!(!figure(f64::NAN, Some(0.25)).met());
    }
}

//! How long a program stands still: the longest gap in a heartbeat inside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::figures::{self, Figure, median};
use super::memory::{self, Memory};
use super::subject::{self, Subject, Under, Watched};
use super::{Shared, Tools};
use crate::chore;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// The program's memory in MiB, each size for itself.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024])]
    sizes: Vec<u32>,
    /// A directory on tmpfs.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// Also with socket buffers as small as the kernel's default. For each such run, net.core.wmem_max of the machine is
    /// lowered and put back, and Torpor goes without CAP_NET_ADMIN.
    #[arg(long)]
    default_buffers: bool,
}

/// One way to take a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Way {
    CriuToDisk,
    CriuToTmpfs,
    /// With a budget that holds everything.
    Torpor,
    /// With a budget of 64 MiB.
    TorporSmall,
    /// With a budget that holds everything, and the kernel's default socket buffers.
    TorporDefaultBuffers,
}

impl Way {
    const ALL: [Way; 5] =
        [Way::CriuToDisk, Way::CriuToTmpfs, Way::Torpor, Way::TorporSmall, Way::TorporDefaultBuffers];

    fn title(self) -> &'static str {
        match self {
            Way::CriuToDisk => "criu dump -R, to disk",
            Way::CriuToTmpfs => "criu dump -R, to tmpfs",
            Way::Torpor => "torpor, budget for all of it",
            Way::TorporSmall => "torpor, budget 64 MiB",
            Way::TorporDefaultBuffers => "torpor, default buffers",
        }
    }

    fn is_torpor(self) -> bool {
        matches!(self, Way::Torpor | Way::TorporSmall | Way::TorporDefaultBuffers)
    }
}

/// Bytes in a MiB.
const MIB: f64 = (1 << 20) as f64;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    mib: u32,
    way: Way,
    run: u32,
    frozen_ms: f64,
    total_ms: f64,
    bytes: u64,
    /// What Torpor was allowed to add to memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<u64>,
    /// The most it added at one moment, in a run that is not timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<Added>,
}

/// Memory added, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Added {
    all: u64,
    processes: u64,
    sockets: u64,
    pipes: u64,
}

impl From<Memory> for Added {
    fn from(memory: Memory) -> Added {
        let Memory { processes, sockets, pipes } = memory;
        Added { all: memory.all(), processes, sockets, pipes }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let tools = Tools::prepare(&args.shared)?;
    let ways: Vec<_> = Way::ALL
        .into_iter()
        .filter(|way| !(args.shared.baselines && way.is_torpor()))
        .filter(|way| args.default_buffers || *way != Way::TorporDefaultBuffers)
        .collect();
    let mut measured = Vec::new();
    for mib in &args.sizes {
        chore::step(&format!("{mib} MiB, {} runs of each, taking turns", args.shared.runs));
        // Looking at memory takes processor time from what is timed, so it has runs of its own.
        let turns = (1..=args.shared.runs).flat_map(|run| {
            let timed = ways.iter().map(move |way| (run, *way, false));
            timed.chain(ways.iter().filter(|way| way.is_torpor()).map(move |way| (run, *way, true)))
        });
        for (run, way, looks) in turns {
            let measurement = measure(&tools, *mib, way, run, looks, &args.tmpfs)?;
            let told = measurement.added.map_or_else(
                || format!("frozen {:>8.1} ms", measurement.frozen_ms),
                |added| {
                    let mib = |bytes: u64| bytes as f64 / MIB;
                    let parts = [added.all, added.processes, added.sockets, added.pipes].map(mib);
                    format!(
                        "added {:.1} M ({:.1} processes, {:.1} sockets, {:.1} pipes)",
                        parts[0], parts[1], parts[2], parts[3]
                    )
                },
            );
            eprintln!("    {run}  {:<30} {told}", way.title());
            measured.push(measurement);
        }
    }
    table(&measured, &args.sizes, &ways);
    let figures = figures(&measured);
    figures::conclude("freeze", &measured, &figures, args.shared.check)
}

fn measure(tools: &Tools, mib: u32, way: Way, run: u32, looks: bool, tmpfs: &Path) -> Result<Measurement> {
    let place = match way {
        Way::CriuToTmpfs => tmpfs.join(format!("torpor-bench-{}", std::process::id())),
        _ => tools.directory.join("checkpoint"),
    };
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let budget = way.is_torpor().then(|| if way == Way::TorporSmall { 64 } else { u64::from(mib) + 256 });
    let mut added = None;
    let watched = if let Some(budget) = budget {
        let options = ["--memory-budget".to_owned(), format!("{budget}MiB")];
        let small_buffers = way == Way::TorporDefaultBuffers;
        let _lowered = small_buffers.then(SendBufferLimit::lower).transpose()?;
        let under =
            Under::Torpor { store: &place, name: "bench/heartbeat", options: &options, small_buffers };
        let mut subject = Subject::start(tools, mib, under)?;
        let memory = looks.then(memory::Watch::begin);
        let watched = subject.watch(|| subject::torpor_checkpoint(tools, "bench/heartbeat"));
        added = memory.map(memory::Watch::finish).transpose()?.map(Added::from);
        watched?
    } else {
        let mut subject = Subject::start(tools, mib, Under::Nothing)?;
        let pid = subject.pid();
        subject.watch(|| subject::criu_dump(tools, pid, &place))?
    };
    let bytes = subject::bytes_below(&place)?;
    fs::remove_dir_all(&place)?;
    let () = watched.result;
    let budget = budget.map(|mib| mib << 20);
    let Watched { frozen_ms, total_ms, .. } = watched;
    Ok(Measurement { mib, way, run, frozen_ms, total_ms, bytes, budget, added })
}

/// The machine's limit on send buffers, lowered to the kernel's default until dropped.
#[derive(Debug)]
struct SendBufferLimit {
    before: String,
}

impl SendBufferLimit {
    const PATH: &str = "/proc/sys/net/core/wmem_max";

    fn lower() -> Result<SendBufferLimit> {
        let before = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, "212992").with_context(|| format!("cannot set {}", Self::PATH))?;
        Ok(SendBufferLimit { before })
    }
}

impl Drop for SendBufferLimit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::PATH, &self.before) {
            eprintln!("cannot set {} back to {}: {error}", Self::PATH, self.before.trim());
        }
    }
}

/// The median of the timed runs.
fn of(measured: &[Measurement], mib: u32, way: Way, value: impl Fn(&Measurement) -> f64) -> f64 {
    let timed = measured.iter().filter(|one| one.mib == mib && one.way == way && one.added.is_none());
    median(&timed.map(value).collect::<Vec<_>>())
}

/// The most that was added in runs in which memory was looked at, and the budget, in bytes.
fn most_added(measured: &[Measurement], mib: u32, way: Way) -> Option<(u64, u64)> {
    let of_way = measured.iter().filter(|one| one.mib == mib && one.way == way);
    of_way.filter_map(|one| Some((one.added?.all, one.budget?))).max()
}

fn table(measured: &[Measurement], sizes: &[u32], ways: &[Way]) {
    println!(
        "\n  {:>6}  {:<30} {:>11} {:>11} {:>10} {:>18}",
        "memory", "way", "frozen", "total", "stored", "added / budget"
    );
    for mib in sizes {
        for way in ways {
            let added = most_added(measured, *mib, *way).map_or(String::new(), |(added, budget)| {
                format!("{:>8.1} / {:>4.0} M", added as f64 / MIB, budget as f64 / MIB)
            });
            println!(
                "  {mib:>4} M  {:<30} {:>8.1} ms {:>8.1} ms {:>8.1} M {added:>18}",
                way.title(),
                of(measured, *mib, *way, |one| one.frozen_ms),
                of(measured, *mib, *way, |one| one.total_ms),
                of(measured, *mib, *way, |one| one.bytes as f64) / MIB,
            );
        }
    }
}

/// The promises, which are about 1 GiB; other sizes are only stated.
fn figures(measured: &[Measurement]) -> Vec<Figure> {
    let mut sizes: Vec<_> = measured.iter().filter(|one| one.way == Way::Torpor).map(|one| one.mib).collect();
    sizes.dedup();
    sizes
        .into_iter()
        .flat_map(|mib| {
            let frozen = |way| of(measured, mib, way, |one| one.frozen_ms);
            let figure = |title: &str, ratio, limit| Figure {
                title: format!("{mib} MiB: {title}"),
                ratio,
                limit: (mib == 1024).then_some(limit),
            };
            let default_buffers = frozen(Way::TorporDefaultBuffers) / frozen(Way::CriuToDisk);
            let stated = (!default_buffers.is_nan()).then(|| Figure {
                title: format!("{mib} MiB: frozen, torpor with default buffers / criu to disk"),
                ratio: default_buffers,
                limit: None,
            });
            let promised = [
                figure("frozen, torpor / criu to disk", frozen(Way::Torpor) / frozen(Way::CriuToDisk), 0.25),
                figure("frozen, torpor / criu to tmpfs", frozen(Way::Torpor) / frozen(Way::CriuToTmpfs), 1.0),
                figure(
                    "frozen, torpor with 64 MiB / criu to disk",
                    frozen(Way::TorporSmall) / frozen(Way::CriuToDisk),
                    0.6,
                ),
            ];
            promised.into_iter().chain(memory_figures(measured, mib)).chain(stated)
        })
        .collect()
}

/// What was added to memory, against the budget: the most of all runs, because a limit that holds in the middle of them
/// does not hold.
fn memory_figures(measured: &[Measurement], mib: u32) -> impl Iterator<Item = Figure> {
    Way::ALL.into_iter().filter_map(move |way| {
        let (added, budget) = most_added(measured, mib, way)?;
        let ratio = added as f64 / budget as f64;
        let title = format!("{mib} MiB: memory added / budget, {}", way.title());
        Some(Figure { title, ratio, limit: Some(1.0) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_bind_at_one_gibibyte() {
        let run = |mib, way: Way, frozen_ms, added| Measurement {
            mib,
            way,
            run: 1,
            frozen_ms,
            total_ms: frozen_ms,
            bytes: 0,
            budget: way.is_torpor().then_some(64),
            added,
        };
        let measurement = |mib, way, frozen_ms| run(mib, way, frozen_ms, None);
        let looked_at =
            |mib, way| run(mib, way, 9000.0, Some(Added { all: 60, processes: 60, sockets: 0, pipes: 0 }));
        let measured: Vec<_> = [64, 1024]
            .into_iter()
            .flat_map(|mib| {
                [
                    measurement(mib, Way::CriuToDisk, 1000.0),
                    measurement(mib, Way::CriuToTmpfs, 500.0),
                    measurement(mib, Way::Torpor, 200.0),
                    measurement(mib, Way::TorporSmall, 700.0),
                    looked_at(mib, Way::Torpor),
                    looked_at(mib, Way::TorporSmall),
                ]
            })
            .collect();
        let figures = figures(&measured);
        assert_eq!(figures.len(), 10);
        assert_eq!(figures[0].limit, None);
        assert_eq!((figures[3].ratio, figures[3].limit), (60.0 / 64.0, Some(1.0)));
        assert_eq!((figures[5].ratio, figures[5].limit), (0.2, Some(0.25)));
        assert_eq!((figures[7].ratio, figures[7].limit), (0.7, Some(0.6)));
    }
}

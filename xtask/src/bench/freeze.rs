//! How long a program stands still: the longest gap in a heartbeat inside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::figures::{self, Figure, median};
use super::subject::{self, Subject, Under};
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

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    mib: u32,
    way: Way,
    run: u32,
    frozen_ms: f64,
    total_ms: f64,
    bytes: u64,
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
        for run in 1..=args.shared.runs {
            for way in &ways {
                let measurement = measure(&tools, *mib, *way, run, &args.tmpfs)?;
                eprintln!("    {run}  {:<30} frozen {:>8.1} ms", way.title(), measurement.frozen_ms);
                measured.push(measurement);
            }
        }
    }
    table(&measured, &args.sizes, &ways);
    let figures = figures(&measured);
    figures::conclude("freeze", &measured, &figures, args.shared.check)
}

fn measure(tools: &Tools, mib: u32, way: Way, run: u32, tmpfs: &Path) -> Result<Measurement> {
    let place = match way {
        Way::CriuToTmpfs => tmpfs.join(format!("torpor-bench-{}", std::process::id())),
        _ => tools.directory.join("checkpoint"),
    };
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let watched = if way.is_torpor() {
        let budget = if way == Way::TorporSmall { 64 } else { u64::from(mib) + 256 };
        let options = ["--memory-budget".to_owned(), format!("{budget}MiB")];
        let small_buffers = way == Way::TorporDefaultBuffers;
        let _lowered = small_buffers.then(SendBufferLimit::lower).transpose()?;
        let under =
            Under::Torpor { store: &place, name: "bench/heartbeat", options: &options, small_buffers };
        let mut subject = Subject::start(tools, mib, under)?;
        subject.watch(|| subject::torpor_checkpoint(tools, "bench/heartbeat"))?
    } else {
        let mut subject = Subject::start(tools, mib, Under::Nothing)?;
        let pid = subject.pid();
        subject.watch(|| subject::criu_dump(tools, pid, &place))?
    };
    let bytes = subject::bytes_below(&place)?;
    fs::remove_dir_all(&place)?;
    let () = watched.result;
    Ok(Measurement { mib, way, run, frozen_ms: watched.frozen_ms, total_ms: watched.total_ms, bytes })
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

fn of(measured: &[Measurement], mib: u32, way: Way, value: impl Fn(&Measurement) -> f64) -> f64 {
    let values: Vec<_> = measured.iter().filter(|one| one.mib == mib && one.way == way).map(value).collect();
    median(&values)
}

fn table(measured: &[Measurement], sizes: &[u32], ways: &[Way]) {
    println!("\n  {:>6}  {:<30} {:>11} {:>11} {:>10}", "memory", "way", "frozen", "total", "stored");
    for mib in sizes {
        for way in ways {
            println!(
                "  {mib:>4} M  {:<30} {:>8.1} ms {:>8.1} ms {:>8.1} M",
                way.title(),
                of(measured, *mib, *way, |one| one.frozen_ms),
                of(measured, *mib, *way, |one| one.total_ms),
                of(measured, *mib, *way, |one| one.bytes as f64) / f64::from(1 << 20),
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
            promised.into_iter().chain(stated)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_bind_at_one_gibibyte() {
        let measurement =
            |mib, way, frozen_ms| Measurement { mib, way, run: 1, frozen_ms, total_ms: frozen_ms, bytes: 0 };
        let measured: Vec<_> = [64, 1024]
            .into_iter()
            .flat_map(|mib| {
                [
                    measurement(mib, Way::CriuToDisk, 1000.0),
                    measurement(mib, Way::CriuToTmpfs, 500.0),
                    measurement(mib, Way::Torpor, 200.0),
                    measurement(mib, Way::TorporSmall, 700.0),
                ]
            })
            .collect();
        let figures = figures(&measured);
        assert_eq!(figures.len(), 6);
        assert_eq!(figures[0].limit, None);
        assert_eq!((figures[3].ratio, figures[3].limit), (0.2, Some(0.25)));
        assert_eq!((figures[5].ratio, figures[5].limit), (0.7, Some(0.6)));
    }
}

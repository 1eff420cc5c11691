//! How long a container stands still, and how long its checkpoint takes, against what its engine does.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::figures::{self, Figure, median};
use super::{Shared, Tools};
use crate::{chore, lab};

/// At most this part of the time that a container stands still under containerd's own checkpoint is promised.
const LIMIT: f64 = 0.1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// The container's memory, in MiB; promises are about 1024.
    #[arg(long, default_value_t = 1024)]
    mib: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Engine {
    Containerd,
    Podman,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Containerd => "containerd",
            Engine::Podman => "podman",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Way {
    /// The engine's own checkpoint, an archive.
    Engine,
    /// Torpor's, a directory.
    Directory,
    /// Torpor's, in a store.
    Store,
}

impl Way {
    const ALL: [Way; 3] = [Way::Engine, Way::Directory, Way::Store];

    /// As the script calls it.
    fn word(self) -> &'static str {
        match self {
            Way::Engine => "engine",
            Way::Directory => "directory",
            Way::Store => "store",
        }
    }

    fn title(self, engine: Engine) -> String {
        match self {
            Way::Engine => format!("{} itself", engine.name()),
            Way::Directory => format!("torpor, {}'s container, directory", engine.name()),
            Way::Store => format!("torpor, {}'s container, store", engine.name()),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    engine: Engine,
    way: Way,
    mib: u32,
    frozen_ms: f64,
    total_ms: f64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let tools = Tools::prepare(&args.shared)?;
    let root = lab::ensure(&lab::Args::default())?;
    let mut measured = Vec::new();
    for engine in [Engine::Containerd, Engine::Podman] {
        chore::step(&format!(
            "{} MiB under {}, {} runs of each, taking turns",
            args.mib,
            engine.name(),
            args.shared.runs
        ));
        let said = measure(&tools, &root, engine, args)?;
        for line in said.lines() {
            let measurement =
                read(line, engine, args.mib).with_context(|| format!("not understood: {line}"))?;
            eprintln!("    {:<42} frozen {:>8.1} ms", measurement.way.title(engine), measurement.frozen_ms);
            measured.push(measurement);
        }
    }
    table(&measured);
    figures::conclude("container", &measured, &figures(&measured), args.shared.check)
}

/// Has the script measure on a lab host, and returns what it prints.
fn measure(tools: &Tools, root: &Path, engine: Engine, args: &Args) -> Result<String> {
    let share = tools.directory.join("container");
    if share.exists() {
        fs::remove_dir_all(&share)?;
    }
    let (bin, made, volume) = (share.join("bin"), share.join("made"), share.join("volume"));
    for directory in [&bin, &made, &volume] {
        fs::create_dir_all(directory)?;
    }
    lab::copy_scripts(&bin)?;
    fs::copy(&tools.torpor, bin.join("torpor"))?;
    fs::copy(bin.join("heartbeat.py"), volume.join("heartbeat.py"))?;
    let said = share.join("said");
    let script = |name: &str| bin.join(name).display().to_string();
    let mut host = Command::new(bin.join("host"));
    host.arg(root).arg(&share).arg("env");
    host.args(["STORAGE_DRIVER=overlay", "TORPOR_CRIU=/usr/sbin/criu"]);
    host.arg(format!("LAB_COMMAND=python3 /volume/heartbeat.py {}", args.mib));
    host.arg(format!("VOLUME={}", volume.display()));
    host.arg(format!(
        "LAB_THEN={} {} {} {} {} > {}",
        script("freeze"),
        engine.name(),
        args.shared.runs,
        script("torpor"),
        made.display(),
        said.display()
    ));
    host.arg(script("checkpoint")).arg(engine.name()).arg(&made).arg("0");
    chore::capture(&mut host)?;
    let said = fs::read_to_string(&said)?;
    fs::remove_dir_all(&share)?;
    Ok(said)
}

fn read(line: &str, engine: Engine, mib: u32) -> Result<Measurement> {
    let [word, frozen, total] = line.split(' ').collect::<Vec<_>>()[..] else {
        bail!("three words are expected")
    };
    let way = Way::ALL.into_iter().find(|way| way.word() == word).context("no such way")?;
    let milliseconds = |microseconds: &str| Ok::<_, anyhow::Error>(microseconds.parse::<f64>()? / 1000.0);
    Ok(Measurement { engine, way, mib, frozen_ms: milliseconds(frozen)?, total_ms: milliseconds(total)? })
}

fn of(measured: &[Measurement], engine: Engine, way: Way, value: impl Fn(&Measurement) -> f64) -> f64 {
    let values: Vec<_> =
        measured.iter().filter(|one| one.engine == engine && one.way == way).map(value).collect();
    median(&values)
}

fn table(measured: &[Measurement]) {
    println!("\n  {:<42} {:>11} {:>11}", "way", "frozen", "total");
    for engine in [Engine::Containerd, Engine::Podman] {
        for way in Way::ALL {
            println!(
                "  {:<42} {:>8.1} ms {:>8.1} ms",
                way.title(engine),
                of(measured, engine, way, |one| one.frozen_ms),
                of(measured, engine, way, |one| one.total_ms),
            );
        }
    }
}

/// The promise is about the freeze against containerd, at 1 GiB; the rest is only stated.
fn figures(measured: &[Measurement]) -> Vec<Figure> {
    let promised = measured.iter().all(|one| one.mib == 1024);
    let mut figures = Vec::new();
    for engine in [Engine::Containerd, Engine::Podman] {
        for way in [Way::Directory, Way::Store] {
            let ratio = |value: fn(&Measurement) -> f64| {
                of(measured, engine, way, value) / of(measured, engine, Way::Engine, value)
            };
            figures.push(Figure {
                title: format!("frozen, {} / {}", way.title(engine), engine.name()),
                ratio: ratio(|one| one.frozen_ms),
                limit: (promised && engine == Engine::Containerd).then_some(LIMIT),
            });
            figures.push(Figure {
                title: format!("total, {} / {}", way.title(engine), engine.name()),
                ratio: ratio(|one| one.total_ms),
                limit: None,
            });
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_understood_and_the_freeze_is_promised() {
        let lines = "engine 7000000 9000000\ndirectory 400000 900000\nstore 300000 2000000";
        let measured: Vec<_> =
            lines.lines().map(|line| read(line, Engine::Containerd, 1024).unwrap()).collect();
        assert_eq!(measured[0].frozen_ms, 7000.0);
        let figures = figures(&measured);
        assert_eq!(figures[0].limit, Some(LIMIT));
        assert!((figures[0].ratio - 0.0571).abs() < 0.001 && figures[1].limit.is_none());
        assert!(
            read("other 1 2", Engine::Podman, 1).is_err() && read("engine 1", Engine::Podman, 1).is_err()
        );
    }
}

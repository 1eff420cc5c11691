//! Benchmarks that check what SPECIFICATION.md promises.
//!
//! Every figure is a ratio of runs that take turns in one session: the machine's own speed, and what else it does, falls
//! out. Medians, because a shared machine has outliers.

mod container;
mod figures;
mod freeze;
mod image;
mod inspect;
mod memory;
mod runtime;
mod store;
mod subject;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::runtime_directory::RuntimeDirectory;
use crate::{chore, criu, lab, needs, workspace};

#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How long a container stands still, against what containerd and Podman do themselves.
    Container(container::Args),
    /// How long a program stands still, against `criu dump` to disk and to tmpfs.
    Freeze(freeze::Args),
    /// How long it takes to bring an archive into a registry, against buildah.
    Image(image::Args),
    /// How long it takes to look into an archive, against checkpointctl.
    Inspect(inspect::Args),
    /// What `torpor-runtime` adds to the creation of a container.
    Runtime(runtime::Args),
    /// How much ten generations take, against ten compressed tars.
    Store(store::Args),
}

/// Flags of every benchmark.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Shared {
    /// Fail where a promise is not met.
    #[arg(long)]
    check: bool,
    /// How often each is run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only what Torpor is compared with.
    #[arg(long, conflicts_with = "check")]
    baselines: bool,
    /// Where checkpoints on disk go [default: `bench` in the build directory].
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// What a benchmark needs that compares commands on lab hosts: their root, with Torpor built for release in this machine's build directory.
fn on_lab_hosts() -> Result<PathBuf> {
    needs::install(needs::BENCH)?;
    let root = lab::ensure(&lab::Args::default())?;
    chore::step("building for release");
    chore::run(chore::cargo().args(["build", "--release", "--quiet", "-p", "torpor"]))?;
    Ok(root)
}

/// The programs a benchmark runs, built or found.
#[derive(Debug)]
struct Tools {
    criu: PathBuf,
    torpor: PathBuf,
    heartbeat: PathBuf,
    /// Scratch space on disk; results go beside.
    directory: PathBuf,
    runtime: RuntimeDirectory,
}

impl Tools {
    fn prepare(shared: &Shared) -> Result<Tools> {
        needs::install(needs::BENCH)?;
        chore::step("finding a CRIU that works here");
        let criu = criu::ensure(&criu::Args::default())?;
        chore::step("building for release");
        let mut heartbeat = chore::cargo();
        chore::run(heartbeat.args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "xtask",
            "--example",
            "heartbeat",
        ]))?;
        if !shared.baselines {
            chore::run(chore::cargo().args(["build", "--release", "--quiet", "-p", "torpor"]))?;
        }
        let release = workspace::target().join("release");
        let directory = shared.directory.clone().unwrap_or_else(|| workspace::target().join("bench"));
        std::fs::create_dir_all(&directory)?;
        Ok(Tools {
            criu,
            torpor: release.join("torpor"),
            heartbeat: release.join("examples/heartbeat"),
            directory,
            runtime: RuntimeDirectory::new()?,
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Container(args) => container::run(args),
        What::Freeze(args) => freeze::run(args),
        What::Image(args) => image::run(args),
        What::Inspect(args) => inspect::run(args),
        What::Runtime(args) => runtime::run(args),
        What::Store(args) => store::run(args),
    }
}

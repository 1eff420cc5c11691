//! How long it takes to bring an archive of Podman's into a registry as an image, against buildah's add, commit and push.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::figures::{self, Figure};
use crate::{chore, lab, workspace};

/// At most this part of buildah's time is promised.
const LIMIT: f64 = 0.2;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fail where the promise is not met.
    #[arg(long)]
    check: bool,
    /// How often each is run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The worker's memory, in MiB; the promise is about 1024.
    #[arg(long, default_value_t = 1024)]
    size: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    mib: u32,
    torpor_ms: Vec<f64>,
    buildah_ms: Vec<f64>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let root = super::on_lab_hosts()?;
    let directory = workspace::target().join("bench/image").join(args.size.to_string());
    fs::create_dir_all(&directory)?;
    let archive = directory.join("made/podman.tar");
    if !archive.exists() {
        chore::step(&format!("making an archive of {} MiB", args.size));
        lab::podman(&root, &directory, args.size, "none")?;
    }
    let program = directory.join("torpor");
    fs::copy(workspace::target().join("release/torpor"), &program)?;
    chore::step("bringing it into a registry, in turns");
    let said = lab::on_host(&root, &directory, |host, scripts| {
        host.arg(scripts.join("carry")).arg(&program).arg(&archive).arg(args.runs.to_string());
    })?;
    let times = |who: &str| -> Result<Vec<f64>> {
        let lines = said.lines().filter_map(|line| line.strip_prefix(who));
        lines.map(|number| number.trim().parse().with_context(|| format!("{who}: {number}"))).collect()
    };
    let measured =
        Measurement { mib: args.size, torpor_ms: times("torpor ")?, buildah_ms: times("buildah ")? };
    let (torpor, buildah) = (figures::median(&measured.torpor_ms), figures::median(&measured.buildah_ms));
    println!("\n  {} MiB to a registry: torpor {torpor:.0} ms, buildah {buildah:.0} ms", args.size);
    let figure = Figure {
        title: format!("archive to registry at {} MiB: time / buildah's", args.size),
        ratio: torpor / buildah,
        limit: (args.size == 1024).then_some(LIMIT),
    };
    figures::conclude("image", &[measured], &[figure], args.check)
}

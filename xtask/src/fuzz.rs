//! Fuzzing, with any toolchain: the targets in `fuzz/` are built with the coverage that libFuzzer needs, without cargo-fuzz.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::chore::{self, cargo};
use crate::workspace;

/// What makes the compiler count which code an input reaches, and which comparisons it fails.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// The targets are for the machine they run on; naming it keeps the flags from build scripts and macros.
const MACHINE: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
    /// Only this target; may be given several times.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let fuzz = workspace::root().join("fuzz");
    let all = targets(&fuzz)?;
    if let Some(unknown) = args.target.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target {unknown}; there are {}", all.join(", "));
    }
    let chosen = if args.target.is_empty() { &all } else { &args.target };

    chore::step("building the fuzz targets");
    let build = workspace::target().join("fuzz");
    let mut command = cargo();
    command.current_dir(&fuzz).args(["build", "--release", "--target", MACHINE]);
    for name in chosen {
        command.args(["--bin", name]);
    }
    chore::run(command.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &build))?;

    for name in chosen {
        chore::step(&format!("fuzzing {name} for {} s", args.seconds));
        let corpus = fuzz.join("corpus").join(name);
        let artifacts = fuzz.join("artifacts").join(name);
        for directory in [&corpus, &artifacts] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let binary = build.join(MACHINE).join("release").join(name);
        chore::run(
            Command::new(binary)
                .arg(format!("-max_total_time={}", args.seconds))
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1", "-verbosity=0"])
                .arg(corpus)
                .args(Some(fuzz.join("seeds").join(name)).filter(|seeds| seeds.is_dir())),
        )?;
    }
    Ok(())
}

/// The names of all targets, in order.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let read = || {
        std::fs::read_dir(&directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()
    };
    let mut names: Vec<String> = read()
        .with_context(|| format!("cannot read {}", directory.display()))?
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let fuzz = workspace::root().join("fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for name in targets(&fuzz).unwrap() {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
            assert!(fuzz.join("seeds").join(&name).is_dir(), "{name}");
        }
    }
}

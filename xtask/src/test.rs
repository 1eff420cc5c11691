//! Everything that must hold before a change lands, in the order in which failures are cheapest.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::chore::{self, cargo};
use crate::{criu, lab, needs};

/// What proptest makes its inputs from. Unset, it takes new ones for each run.
const SEED: &str = "PROPTEST_RNG_SEED";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not install anything: fail or skip where something is missing.
    #[arg(long)]
    no_install: bool,
    /// Only install what the tests need and find a CRIU; prints the environment that tests expect.
    #[arg(long)]
    prepare: bool,
    /// Only the tests: no formatting, lints or documentation.
    #[arg(long)]
    only_tests: bool,
    /// Also test with real runc, crun, Podman, containerd and Docker, on lab hosts (`cargo xtask lab`).
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    engines: Option<Engines>,
    /// Passed on to the test runner (names of tests, and its options).
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// When tests with real engines run.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Engines {
    /// They run, or the whole fails.
    Always,
    /// They run where a lab host can run a container, and are left out aloud where not.
    IfPossible,
}

impl Engines {
    /// What tests are told of lab hosts, where they run.
    fn lab(self) -> Result<Vec<(&'static str, PathBuf)>> {
        let works = lab::ensure(&lab::Args::default()).and_then(|root| lab::works(&root).map(|()| root));
        let root = match (self, works) {
            (_, Ok(root)) => root,
            (Self::Always, Err(error)) => return Err(error),
            (Self::IfPossible, Err(error)) => {
                eprintln!("    no containers can run here, so no test with a real engine does: {error:#}");
                return Ok(Vec::new());
            }
        };
        let docker = lab::docker_works(&root);
        let mut told = vec![("TORPOR_LAB", root)];
        match (self, docker) {
            (_, Ok(())) => {}
            (Self::Always, Err(error)) => return Err(error),
            (Self::IfPossible, Err(error)) => {
                eprintln!("    Docker does not start here, so no test with it does: {error:#}");
                told.push(("TORPOR_LAB_WITHOUT", "docker".into()));
            }
        }
        Ok(told)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.no_install {
        needs::install(needs::TESTS)?;
    }
    chore::step("finding a CRIU that works here");
    let criu = criu::ensure(&criu::Args::default())?;
    let lab = args.engines.map(Engines::lab).transpose()?.unwrap_or_default();
    if args.prepare {
        println!("export TORPOR_CRIU={}", criu.display());
        for (variable, value) in &lab {
            println!("export {variable}={}", value.display());
        }
        return Ok(());
    }
    components(args)?;

    if !args.only_tests {
        chore::step("formatting");
        chore::run(cargo().args(["fmt", "--all", "--check"]))?;
        chore::step("lints");
        chore::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    }

    chore::step("tests");
    let nextest = chore::installed("cargo-nextest");
    let mut tests = cargo();
    if std::env::var_os(SEED).is_none() {
        // The same inputs on every machine: a change is judged by what it does, not by its luck.
        tests.env(SEED, "20261121");
    }
    if nextest {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "slow"]);
        tests.args(&args.filter);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast", "--"]).args(&args.filter);
    }
    tests.envs(lab);
    chore::run(tests.env("TORPOR_CRIU", &criu))?;
    if args.only_tests {
        return Ok(());
    }
    if nextest {
        // nextest does not run the examples in the documentation.
        chore::run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    }

    chore::step("documentation");
    chore::run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;

    chore::step("dependencies");
    if chore::installed("cargo-deny") {
        // Advisories come from a repository that a machine without the open network cannot read.
        chore::run(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("    cargo-deny is not installed: skipped (`cargo install --locked cargo-deny` brings it)");
    }
    Ok(())
}

/// Adds the toolchain's formatter and linter where rustup's minimal profile left them out.
fn components(args: &Args) -> Result<()> {
    let absent = |name: &str| {
        !chore::output(cargo().args([name, "--version"])).is_ok_and(|output| output.status.success())
    };
    if args.only_tests || args.no_install || !(absent("fmt") || absent("clippy")) {
        return Ok(());
    }
    chore::step("adding rustfmt and clippy");
    chore::run(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))
}

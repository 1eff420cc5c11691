//! Lab hosts: a root with real container engines of Debian's, and commands run in it.
//!
//! The scripts are in `xtask/lab`. Tests run them too, so that both see the same hosts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{chore, needs, workspace};

/// Where a root may be that was made for all trees of a machine.
const SHARED: &str = "/var/lib/torpor-lab/root";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Where it is, or is to be [default: what `TORPOR_LAB` says, a root for the whole machine, `lab/root` in the build directory].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    println!("{}", ensure(args)?.display());
    Ok(())
}

/// Finds the root, or makes it, which takes some minutes and 2 GB.
pub(crate) fn ensure(args: &Args) -> Result<PathBuf> {
    if !chore::is_root() {
        bail!("lab hosts need root: run this with sudo");
    }
    let given = args.root.clone().or_else(|| std::env::var_os("TORPOR_LAB").map(PathBuf::from));
    let shared = || Path::new(SHARED).join(".complete").exists().then(|| PathBuf::from(SHARED));
    let root = given.or_else(shared).unwrap_or_else(|| workspace::target().join("lab/root"));
    needs::install(needs::LAB)?;
    chore::step("making a root for lab hosts, where it is not there");
    chore::run_plain(Command::new(scripts().join("root")).arg(&root))?;
    Ok(root)
}

/// Whether a container runs on a lab host of this root, and CRIU works there; says what does not.
pub(crate) fn works(root: &Path) -> Result<()> {
    chore::step("trying a container on a lab host");
    let share = workspace::target().join("lab/works");
    on_host(root, &share, |host, lab| {
        host.arg(lab.join("works"));
    })?;
    Ok(())
}

/// Whether Docker's daemon starts on a lab host of this root; says what does not.
pub(crate) fn docker_works(root: &Path) -> Result<()> {
    chore::step("trying Docker on a lab host");
    let share = workspace::target().join("lab/works");
    on_host(root, &share, |host, lab| {
        host.arg(lab.join("docker"));
    })?;
    Ok(())
}

/// The directory of the scripts.
fn scripts() -> PathBuf {
    workspace::root().join("xtask/lab")
}

/// Copies the scripts to a directory that a host sees.
pub(crate) fn copy_scripts(directory: &Path) -> Result<()> {
    for script in std::fs::read_dir(scripts())? {
        let script = script?;
        std::fs::copy(script.path(), directory.join(script.file_name()))?;
    }
    Ok(())
}

/// Runs what `command` adds on a lab host that shares `directory`, and returns what it prints. The scripts are where `command` is told.
pub(crate) fn on_host(
    root: &Path,
    directory: &Path,
    command: impl FnOnce(&mut Command, &Path),
) -> Result<String> {
    let lab = directory.join("lab");
    std::fs::create_dir_all(&lab)?;
    copy_scripts(&lab)?;
    let mut host = Command::new(lab.join("host"));
    host.arg(root).arg(directory);
    command(&mut host, &lab);
    chore::capture(&mut host)
}

/// Runs the worker with `mib` MiB of memory under Podman on a lab host, and leaves an archive of each compression named
/// (`none`, `gzip`, `zstd`) in `directory/made`.
pub(crate) fn podman(root: &Path, directory: &Path, mib: u32, compressions: &str) -> Result<()> {
    let made = directory.join("made");
    std::fs::create_dir_all(&made)?;
    on_host(root, directory, |host, lab| {
        host.arg("env").arg(format!("LAB_ONLY={compressions}"));
        host.arg(lab.join("checkpoint")).arg("podman").arg(&made).arg(mib.to_string());
    })?;
    Ok(())
}

//! A CRIU that works on this machine: the system's where it passes, else a private one.
//!
//! The private one is Debian's newer package and the libraries it loads, unpacked under a prefix of our own and
//! run by its own loader, so that the machine's C library stays what it is. `docs/private-criu.md` tells the rest.

mod bundle;
mod pins;
mod system;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt, Offer};
use crate::{chore, workspace};
use pins::Departed;

const SUITE: &str = "sid";
const PINS: &str = "xtask/criu-packages.lock";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Bring the private CRIU even where the system's works.
    #[arg(long)]
    private: bool,
    /// Fail where the mirror no longer has a pinned version, instead of taking the newest.
    #[arg(long)]
    locked: bool,
    /// Pin what the mirror offers now: take it, try it, and write xtask/criu-packages.lock anew.
    #[arg(long, conflicts_with = "locked")]
    update: bool,
    /// The mirror of Debian's packages [default: the one in this machine's apt sources].
    #[arg(long, value_name = "URL", env = "TORPOR_DEBIAN_MIRROR")]
    mirror: Option<String>,
    /// Where the private CRIU goes [default: `criu` in the build directory].
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    println!("{}", ensure(args)?.display());
    Ok(())
}

/// Returns the path of an executable CRIU that passes its own check here, bringing one if need be.
pub(crate) fn ensure(args: &Args) -> Result<PathBuf> {
    if !args.private && !args.update {
        match system::find() {
            system::Found::Works { path, version } => {
                eprintln!("    the system's CRIU {version} works: {}", path.display());
                return Ok(path);
            }
            system::Found::Unfit { path, why } => {
                eprintln!("    the system's CRIU, {}, will not do: {why}", path.display());
            }
            system::Found::None => eprintln!("    this machine has no CRIU of its own"),
        }
    }
    if !cfg!(target_arch = "x86_64") {
        bail!("the private CRIU is pinned for amd64 only: install CRIU 4.2 or newer yourself");
    }
    let prefix = args.prefix.clone().unwrap_or_else(|| workspace::target().join("criu"));
    let pins_file = workspace::root().join(PINS);
    let text = std::fs::read_to_string(&pins_file)
        .with_context(|| format!("cannot read {}", pins_file.display()))?;
    let pinned = pins::parse(&text).with_context(|| format!("in {}", pins_file.display()))?;
    let executable = bundle::executable(&prefix);
    if !args.update && bundle::holds(&prefix, &pinned) && system::check(&executable).is_ok() {
        eprintln!("    the private CRIU is there: {}", prefix.display());
        return Ok(executable);
    }
    let fetched = fetch(args, &pinned)?;
    bundle::unpack(&fetched.files, &fetched.offers, &prefix)?;
    let version = system::check(&executable).map_err(|why| {
        anyhow::anyhow!("the CRIU just brought, {}, will not do: {why}", executable.display())
    })?;
    eprintln!("    brought CRIU {version}: {}", prefix.display());
    if args.update {
        std::fs::write(&pins_file, pins::write(&text, &fetched.offers))?;
        eprintln!("    pinned in {PINS}");
    }
    Ok(executable)
}

struct Fetched {
    offers: Vec<Offer>,
    files: Vec<PathBuf>,
}

fn fetch(args: &Args, pinned: &[Offer]) -> Result<Fetched> {
    chore::step("bringing a private CRIU from Debian's packages");
    let mirror = match &args.mirror {
        Some(mirror) => mirror.clone(),
        None => apt::machine_mirror()?,
    };
    let apt = Apt::open(&workspace::target().join("xtask/apt"), &mirror, SUITE)?;
    let kept: Vec<_> = pinned.iter().map(|pin| apt.file_of(pin)).collect();
    if !args.update && pinned.iter().zip(&kept).all(|(pin, file)| verify(file, pin).is_ok()) {
        return Ok(Fetched { offers: pinned.to_vec(), files: kept });
    }
    apt.update()?;
    let names: Vec<_> = pinned.iter().map(|pin| pin.package.as_str()).collect();
    let offered = apt.offers(&names)?;
    let chosen = match pins::choose(pinned, &offered, args.update) {
        Ok(chosen) => chosen,
        Err(departed) => {
            let said = describe(&departed);
            if args.locked {
                bail!("the mirror no longer has what is pinned in {PINS}:\n{said}");
            }
            eprintln!(
                "\n    WARNING: the mirror no longer has what is pinned in {PINS}:\n{said}\n    \
                 Taking the newest instead, as signed by Debian but not by digest of ours. If it works, pin it\n    \
                 with `cargo xtask criu --update`; --locked refuses instead.\n"
            );
            pins::choose(pinned, &offered, true)
                .map_err(|gone| anyhow::anyhow!("packages are gone altogether:\n{}", describe(&gone)))?
        }
    };
    let mut files = Vec::new();
    for offer in &chosen {
        let kept = apt.file_of(offer);
        let file = if verify(&kept, offer).is_ok() { kept } else { apt.download(offer)? };
        verify(&file, offer)?;
        files.push(file);
    }
    eprintln!("    {} packages, each with its digest as expected", files.len());
    Ok(Fetched { offers: chosen, files })
}

fn describe(departed: &[Departed]) -> String {
    departed.iter().map(|one| format!("      {one}")).collect::<Vec<_>>().join("\n")
}

fn verify(file: &Path, expected: &Offer) -> Result<()> {
    if !file.is_file() {
        bail!("{} is not there", file.display());
    }
    let sum = chore::capture(std::process::Command::new("sha256sum").arg("--").arg(file))?;
    let found = sum.split_whitespace().next().unwrap_or_default().trim_start_matches('\\');
    if found != expected.sha256 {
        bail!(
            "{} has another digest than {} {} should: found {found}, expected {}",
            file.display(),
            expected.package,
            expected.version,
            expected.sha256
        );
    }
    Ok(())
}

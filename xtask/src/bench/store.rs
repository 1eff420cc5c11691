//! How much ten generations take when one page in a hundred changes between them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::figures::{self, Figure};
use super::subject::{self, Subject, Under};
use super::{Shared, Tools};
use crate::chore;
use crate::pages::{self, PAGE};

const SEED: u64 = 20_260;
/// Pages compressed together: the block of the store's format is 16 to 64 of them.
const BLOCK: usize = 16;
const LEVEL: &str = "-3";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    shared: Shared,
    /// The program's memory in MiB.
    #[arg(long, default_value_t = 256)]
    mib: u32,
    /// How many generations.
    #[arg(long, default_value_t = 10)]
    generations: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measurement {
    what: &'static str,
    bytes: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let tools = Tools::prepare(&args.shared)?;
    chore::step(&format!("{} generations of {} MiB, 1 % changed between them", args.generations, args.mib));
    let unique = unique_pages(&tools, args.mib, args.generations)?;
    let tars = tars(&tools, args.mib, args.generations)?;
    let mut measured = vec![
        Measurement { what: "unique pages, compressed in blocks", bytes: unique },
        Measurement { what: "one zstd tar a generation", bytes: tars },
    ];
    let mut figures = Vec::new();
    if !args.shared.baselines {
        let torpor = torpor(&tools, args.mib, args.generations)?;
        measured.push(Measurement { what: "torpor, all files of the store", bytes: torpor });
        let ratio = |of: u64| torpor as f64 / of as f64;
        figures.push(Figure {
            title: "store / unique pages compressed".into(),
            ratio: ratio(unique),
            limit: Some(1.2),
        });
        figures.push(Figure { title: "store / zstd tars".into(), ratio: ratio(tars), limit: None });
    }
    println!();
    for Measurement { what, bytes } in &measured {
        println!("  {what:<40} {:>9.1} MiB", *bytes as f64 / f64::from(1 << 20));
    }
    figures::conclude("store", &measured, &figures, args.shared.check)
}

/// What every distinct page takes once, compressed in blocks: the least a store of this kind could take.
fn unique_pages(tools: &Tools, mib: u32, generations: u32) -> Result<u64> {
    let count = (u64::from(mib) << 20) / PAGE as u64;
    let versions = (0..count).map(|number| (number, 0)).chain(
        (1..u64::from(generations))
            .flat_map(|turn| pages::changed(count, SEED, turn).map(move |number| (number, turn))),
    );
    // Each block is its own file: zstd compresses many in one call, each for itself.
    let directory = tools.directory.join("blocks");
    fresh(&directory)?;
    let mut block = Vec::with_capacity(BLOCK * PAGE);
    let mut bytes = 0;
    let mut files = 0;
    let mut flush = |block: &mut Vec<u8>, last: bool| -> Result<()> {
        if !block.is_empty() {
            fs::write(directory.join(format!("{files:06}")), &block)?;
            files += 1;
            block.clear();
        }
        if files == 2048 || (last && files > 0) {
            bytes += compress_each(&directory)?;
            fresh(&directory)?;
            files = 0;
        }
        Ok(())
    };
    for (number, turn) in versions {
        let start = block.len();
        block.resize(start + PAGE, 0);
        pages::fill(&mut block[start..], SEED, number, turn);
        if block.len() == BLOCK * PAGE {
            flush(&mut block, false)?;
        }
    }
    flush(&mut block, true)?;
    fs::remove_dir_all(&directory)?;
    Ok(bytes)
}

fn compress_each(directory: &Path) -> Result<u64> {
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", LEVEL, "--no-check", "--rm", "-r"]).arg(directory);
    chore::capture(&mut zstd)?;
    subject::bytes_below(directory)
}

fn fresh(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

fn tars(tools: &Tools, mib: u32, generations: u32) -> Result<u64> {
    let mut subject = Subject::start(tools, mib, Under::Nothing)?;
    let images = tools.directory.join("checkpoint");
    let mut bytes = 0;
    for generation in 1..=generations {
        if generation > 1 {
            subject.turn(generation - 1)?;
        }
        subject::criu_dump(tools, subject.pid(), &images)?;
        bytes += tar_size(&images)?;
    }
    fs::remove_dir_all(&images)?;
    Ok(bytes)
}

fn tar_size(images: &Path) -> Result<u64> {
    let mut tar =
        Command::new("tar").arg("-C").arg(images).args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn()?;
    let input = tar.stdout.take().context("tar has no output")?;
    let packed = images.with_extension("tar.zst");
    let zstd = Command::new("zstd").args(["-q", "-f", LEVEL, "-o"]).arg(&packed).stdin(input).status()?;
    if !tar.wait()?.success() || !zstd.success() {
        bail!("cannot pack {}", images.display());
    }
    let bytes = fs::metadata(&packed)?.len();
    fs::remove_file(&packed)?;
    Ok(bytes)
}

fn torpor(tools: &Tools, mib: u32, generations: u32) -> Result<u64> {
    const NAME: &str = "bench/generations";
    let store = tools.directory.join("checkpoint");
    if store.exists() {
        fs::remove_dir_all(&store)?;
    }
    let options = ["--keep-last".to_owned(), generations.to_string()];
    let mut subject = Subject::start(
        tools,
        mib,
        Under::Torpor { store: &store, name: NAME, options: &options, small_buffers: false },
    )?;
    for generation in 1..=generations {
        if generation > 1 {
            subject.turn(generation - 1)?;
        }
        subject::torpor_checkpoint(tools, NAME)?;
    }
    drop(subject);
    let bytes = subject::bytes_below(&store)?;
    fs::remove_dir_all(&store)?;
    Ok(bytes)
}

//! What generations cost: bytes of the whole store against the unique pages compressed as blocks, and the speed of
//! writing and reading.
//!
//!     cargo run --release -p torpor-store --example generations -- DIRECTORY [MIB] [GENERATIONS] [PASSPHRASE]
//!
//! Half of the pages are random, half compress 8:1; between generations one page in a hundred, scattered, is new.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torpor_store::{
    Backend, Credentials, Description, DraftSettings, GenerationKind, LocalBackend, Manifest, MemoryId,
    Repository,
};

const PAGE: usize = 4096;
const BASE: u64 = 0x7000_0000_0000;
const BLOCK: usize = 64 * PAGE;

/// A page that no other seed has: random, or an eighth of it random and the rest a repetition of that.
fn fill(page: &mut [u8], seed: u64) {
    let random = if seed.is_multiple_of(2) { PAGE } else { PAGE / 8 };
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page[..random]);
    for start in (random..PAGE).step_by(random) {
        page.copy_within(..random, start);
    }
}

fn megabytes_a_second(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// Processor time of all threads: what counts where others use the machine too.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn compressed(pages: &[u8]) -> usize {
    pages
        .chunks(BLOCK)
        .map(|block| zstd::bulk::compress(block, 1).map_or(block.len(), |small| small.len().min(block.len())))
        .sum()
}

fn describe(generation: u64) -> Description {
    Description {
        name: "bench/generations".to_owned(),
        epoch: 1,
        generation,
        kind: GenerationKind::Running,
        parent: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        phases: Vec::new(),
        facts: Vec::new(),
    }
}

fn total(backend: &dyn Backend) -> Result<u64, Box<dyn Error>> {
    Ok(backend.list("")?.iter().map(|entry| entry.stat.size).sum())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(directory) = arguments.first() else {
        return Err("usage: generations DIRECTORY [MIB] [GENERATIONS] [PASSPHRASE]".into());
    };
    let size = arguments.get(1).map_or(Ok(64), |text| text.parse::<usize>())? << 20;
    let generations = arguments.get(2).map_or(Ok(10), |text| text.parse::<u64>())?;
    let credentials = arguments.get(3).map_or(Credentials::None, |text| Credentials::passphrase(text));
    let path = Path::new(directory).join("generations");
    let backend = Arc::new(LocalBackend::new(&path));
    let repository = Repository::create(backend.clone(), &credentials)?;

    let mut memory = vec![0; size];
    for (seed, page) in memory.chunks_mut(PAGE).enumerate() {
        fill(page, seed as u64);
    }
    let pages = size / PAGE;
    let mut unique = compressed(&memory);
    let mut predecessor: Option<Manifest> = None;
    for generation in 0..generations {
        if generation > 0 {
            let mut changed = Vec::new();
            for number in 0..pages / 100 {
                let seed = generation * 1_000_000_007 + number as u64 * 3;
                // A stride that is prime to the number of pages scatters them.
                let at = (number * 7919 + generation as usize * 104_729) % pages * PAGE;
                fill(&mut memory[at..at + PAGE], seed);
                changed.push(at);
            }
            changed.sort_unstable();
            let bytes: Vec<u8> = changed.iter().flat_map(|at| &memory[*at..at + PAGE]).copied().collect();
            unique += compressed(&bytes);
        }
        let settings = DraftSettings { predecessor: predecessor.as_ref(), ..DraftSettings::default() };
        let begin = Instant::now();
        let mut draft = repository.draft(settings)?;
        let (start, processor) = (Instant::now(), processor_seconds());
        for (at, bytes) in memory.chunks(1 << 20).enumerate() {
            draft.pages(MemoryId::process(1), BASE + (at << 20) as u64, 4, bytes)?;
        }
        let taken = start.elapsed();
        let finished = draft.finish(describe(generation))?;
        let committed = start.elapsed();
        let sizes = finished.manifest.sizes();
        println!(
            "generation {generation}: prepared in {:.3} s, taken in {:.3} s ({:.0} MB/s), committed in {:.3} s ({:.0} MB/s) with {:.3} s of processor time, {} bytes stored",
            (start - begin).as_secs_f64(),
            taken.as_secs_f64(),
            megabytes_a_second(size, taken),
            committed.as_secs_f64(),
            megabytes_a_second(size, committed),
            processor_seconds() - processor,
            sizes.stored,
        );
        predecessor = Some(finished.manifest);
    }

    let all = total(&*backend)?;
    println!(
        "{all} bytes in all, {:.4} times the unique pages compressed as blocks ({unique})",
        all as f64 / unique as f64
    );
    if let Some(manifest) = predecessor {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(Path::new(directory).join("pages"))?;
        let (start, processor) = (Instant::now(), processor_seconds());
        repository.memory(&manifest, MemoryId::process(1))?.lay_out(&file, 0)?;
        let time = start.elapsed();
        println!(
            "laid out in {:.3} s ({:.0} MB/s) with {:.3} s of processor time",
            time.as_secs_f64(),
            megabytes_a_second(size, time),
            processor_seconds() - processor,
        );
        if std::fs::read(Path::new(directory).join("pages"))? != memory {
            return Err("what was laid out is not what was written".into());
        }
    }
    Ok(())
}

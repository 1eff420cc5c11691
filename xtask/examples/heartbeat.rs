//! A program to freeze: fills memory, then beats every millisecond and writes down each gap longer than that should be.
//!
//! `heartbeat MIB SEED LOG` appends to LOG `ready`, then `gap MICROSECONDS` for each gap from 5 ms, and `turned N` each
//! time it found the file `LOG.turn`, changed one page in a hundred, and removed the file.

#[path = "../src/pages.rs"]
mod pages;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use pages::PAGE;

const WORTH_TELLING: Duration = Duration::from_millis(5);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mib, seed, log] = &arguments[..] else {
        return Err("usage: heartbeat MIB SEED LOG".into());
    };
    let (mib, seed): (usize, u64) = (mib.parse()?, seed.parse()?);
    let turn_file = PathBuf::from(format!("{log}.turn"));
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;

    let mut memory = vec![0_u8; mib << 20];
    for (number, page) in memory.chunks_mut(PAGE).enumerate() {
        pages::fill(page, seed, number as u64, 0);
    }
    writeln!(log, "ready")?;

    let mut turns = 0;
    let mut last = Instant::now();
    for beat in 1_u64.. {
        thread::sleep(Duration::from_millis(1));
        let now = Instant::now();
        let gap = now - last;
        if gap >= WORTH_TELLING {
            writeln!(log, "gap {}", gap.as_micros())?;
        }
        last = now;
        if beat.is_multiple_of(64) && turn_file.exists() {
            turns += 1;
            turn(&mut memory, seed, turns, &mut log)?;
            fs::remove_file(&turn_file)?;
            last = Instant::now();
        }
    }
    Ok(())
}

fn turn(memory: &mut [u8], seed: u64, turns: u64, log: &mut File) -> std::io::Result<()> {
    let pages = (memory.len() / PAGE) as u64;
    for number in pages::changed(pages, seed, turns) {
        let start = number as usize * PAGE;
        pages::fill(&mut memory[start..start + PAGE], seed, number, turns);
    }
    writeln!(log, "turned {turns}")
}

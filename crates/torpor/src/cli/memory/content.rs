//! Contents of memory: rows in hexadecimal, text, bytes as they are, core files.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;

use torpor_archive::memory::{AddressSpace, AddressSpaces, Content, DumpError, Filter, Gap};

use super::super::failure::Failure;
use super::super::output::{bytes, count};
use super::{Args, Exit, create, unless_closed};

/// Shows contents, or writes them to a file.
pub(super) fn run(args: &Args, filter: &Filter) -> anyhow::Result<Exit> {
    if args.mode.raw && args.out.is_some() {
        return raw_file(args, filter);
    }
    let mut sink = args.sink()?;
    let failed = args.each(|source, spaces| {
        if args.sources.len() > 1 {
            writeln!(sink, "{source}:")?;
        }
        unless_closed(show(args, filter, spaces, &mut sink))
    })?;
    unless_closed(sink.flush().map_err(Into::into))?;
    failed.map_or(Ok(Exit::Success), Err)
}

fn show(
    args: &Args,
    filter: &Filter,
    spaces: &AddressSpaces<'_>,
    sink: &mut dyn Write,
) -> anyhow::Result<()> {
    let range = args.range.clone().unwrap_or(0..u64::MAX);
    let mut sink = sink;
    if args.mode.raw {
        let space = spaces.open(args.pid.unwrap_or_default())?;
        return raw(&space, range, filter, sink);
    }
    if let (Some(pid), false) = (args.pid, args.mode.strings) {
        let space = spaces.open(pid)?;
        // As checkpointctl does: rows are left out for people, not in files.
        space.hexdump(range, filter, args.out.is_none(), &mut sink)?;
        return Ok(());
    }
    let chosen = spaces.processes().iter().filter(|process| match args.pid {
        Some(pid) => process.pid == pid,
        None => !process.ended,
    });
    if let Some(pid) = args.pid {
        spaces.process(pid)?;
    }
    for process in chosen {
        let space = spaces.open(process.pid)?;
        space.strings(range.clone(), filter, args.mode.min, |address, text| {
            let kind = space.mapping_at(address).map_or("", |place| space.mappings()[place].kind.name());
            writeln!(sink, "{}  {address:016x}  {kind:<11}  {text}", process.pid).map_err(DumpError::from)
        })?;
    }
    Ok(())
}

/// Writes a range as it was, with zeros for what is not there.
fn raw(
    space: &AddressSpace<'_>,
    range: Range<u64>,
    filter: &Filter,
    sink: &mut dyn Write,
) -> anyhow::Result<()> {
    let zeros = [0; 4096];
    let mut at = range.start;
    let fill = |sink: &mut dyn Write, from: u64, to: u64| -> Result<(), DumpError> {
        let mut left = to - from;
        while left > 0 {
            let some = left.min(zeros.len() as u64);
            sink.write_all(&zeros[..some as usize])?;
            left -= some;
        }
        Ok(())
    };
    space.each_piece(range.clone(), filter, |address, piece| {
        fill(sink, at, address)?;
        sink.write_all(piece)?;
        at = address + piece.len() as u64;
        Ok::<_, DumpError>(())
    })?;
    fill(sink, at, range.end)?;
    tell_missing(space, range)
}

/// The same into a file, with holes for what is not there.
fn raw_file(args: &Args, filter: &Filter) -> anyhow::Result<Exit> {
    let (Some(path), Some(pid), Some(range)) = (&args.out, args.pid, &args.range) else {
        return Ok(Exit::Usage);
    };
    one_source(args, "--raw --out")?;
    args.each(|_, spaces| {
        let space = spaces.open(pid)?;
        let mut file = create(path, args.force)?;
        space.each_piece(range.clone(), filter, |address, piece| {
            file.seek(SeekFrom::Start(address - range.start))?;
            Ok::<_, DumpError>(file.write_all(piece)?)
        })?;
        file.set_len(range.end - range.start)?;
        tell_missing(&space, range.clone())
    })?;
    Ok(Exit::Success)
}

/// Says how much of a range is not in the checkpoint, though the program would see something else than zeros.
fn tell_missing(space: &AddressSpace<'_>, range: Range<u64>) -> anyhow::Result<()> {
    let (mut missing, mut next) = (0, range.start);
    for extent in space.extents(range.start, range.end) {
        let extent = extent?;
        missing += extent.start - next;
        next = extent.end;
        if !matches!(extent.content, Content::Stored { .. } | Content::Absent(Gap::Zero)) {
            missing += extent.end - extent.start;
        }
    }
    missing += range.end - next;
    if missing > 0 {
        eprintln!("note: {} are not in the checkpoint: zeros stand for them", bytes(missing));
    }
    Ok(())
}

/// Writes a core file.
pub(super) fn core(args: &Args, pid: u32) -> anyhow::Result<Exit> {
    let Some(path) = &args.out else { return Ok(Exit::Usage) };
    one_source(args, "--core")?;
    args.each(|_, spaces| {
        spaces.open(pid)?;
        let mut file = create(path, args.force)?;
        let written = spaces.write_core(pid, &mut file).inspect_err(|_| {
            // Half a core file is of no use, and still holds memory.
            let _ = std::fs::remove_file(path);
        })?;
        eprintln!(
            "{}: {} of memory, {}; it holds all secrets of the process",
            path.display(),
            bytes(written.memory),
            count(written.threads, "thread")
        );
        Ok(())
    })?;
    Ok(Exit::Success)
}

fn one_source(args: &Args, flag: &str) -> anyhow::Result<()> {
    if args.sources.len() == 1 {
        return Ok(());
    }
    let message = format!("{flag} writes one file, and there are {} sources", args.sources.len());
    Err(Failure::new(Exit::Usage, message, "name one source").into())
}

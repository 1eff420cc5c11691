//! `checkpointctl memparse`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use torpor_archive::Checkpoint;
use torpor_archive::memory::{AddressSpace, AddressSpaces, Content, Filter, Owner, Pattern, Search};

use super::collection::no_process;
use super::{open, print, table, values};
use crate::cli::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::plain;

/// Bytes in a row of a dump.
const ROW: usize = 16;
/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Most matches that are shown.
const MAX_MATCHES: usize = 1_000_000;

/// Analyze container checkpoint memory
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The archives.
    #[arg(required = true)]
    archives: Vec<PathBuf>,
    /// Specify the PID of a process to analyze; with a search, all processes where it is not given.
    #[arg(long, short)]
    pid: Option<u32>,
    /// Specify the output file to be written to.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Search for a string pattern in memory pages.
    #[arg(long, short, value_name = "TEXT")]
    search: Option<String>,
    /// Search for a regex pattern in memory pages.
    #[arg(long, short = 'r', value_name = "REGEX", conflicts_with = "search")]
    search_regex: Option<String>,
    /// Print the specified number of bytes surrounding each match.
    #[arg(long, short, default_value_t = 0, value_name = "BYTES")]
    context: usize,
}

impl Args {
    fn pid(&self) -> Option<u32> {
        self.pid.filter(|pid| *pid != 0)
    }

    fn pattern(&self) -> anyhow::Result<Option<(String, Pattern)>> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(if let Some(text) = given(&self.search) {
            let pattern = Pattern::text(&text)?;
            Some((text, pattern))
        } else if let Some(text) = given(&self.search_regex) {
            // There, the end of a line is a character like any other.
            let pattern = Pattern::regex(&format!("(?s:{text})"))?;
            Some((text, pattern))
        } else {
            None
        })
    }
}

/// Shows tables, a dump, or matches.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some((text, pattern)) = args.pattern()? {
        let search = Search {
            patterns: vec![pattern],
            pid: args.pid(),
            filter: Filter::default(),
            context: args.context,
            limit: MAX_MATCHES,
        };
        return args.archives.iter().try_for_each(|path| {
            let checkpoint = open(path)?;
            let spaces = living(&checkpoint, args.pid())?;
            matches(args, &search, &text, &spaces, &path.display().to_string())
        });
    }
    for path in &args.archives {
        let checkpoint = open(path)?;
        let spaces = living(&checkpoint, args.pid())?;
        let path = path.display().to_string();
        match args.pid() {
            Some(pid) => dump(args, &spaces, pid, &path)?,
            None => sizes(&spaces, &path)?,
        }
    }
    Ok(())
}

/// The processes; the one that is asked for must have memory.
fn living(checkpoint: &Checkpoint, pid: Option<u32>) -> anyhow::Result<AddressSpaces<'_>> {
    let spaces = AddressSpaces::new(checkpoint)?;
    if let Some(pid) = pid {
        let Some(process) = spaces.processes().iter().find(|process| process.pid == pid) else {
            return Err(no_process(pid).into());
        };
        if process.ended {
            let message = format!("process {pid} has no memory: it had ended before the checkpoint");
            return Err(
                Failure::new(Exit::Failure, message, "`inspect --ps-tree` shows all processes").into()
            );
        }
    }
    Ok(spaces)
}

/// A table of how much memory each process has.
fn sizes(spaces: &AddressSpaces<'_>, path: &str) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for process in spaces.processes().iter().filter(|process| !process.ended) {
        let space = spaces.open(process.pid)?;
        let mut own = 0;
        if let Some(pages) = space.pages(Owner::Process(process.pid)) {
            for run in pages.runs() {
                own += run?.length();
            }
        }
        let shared = space.mappings().iter().filter(|mapping| mapping.shared).map(|mapping| mapping.length());
        rows.push(vec![
            process.pid.to_string(),
            process.name.clone(),
            values::size(own),
            values::size(shared.sum()),
        ]);
    }
    let headings = ["PID", "Process name", "Memory size", "Shared memory size"];
    print(&format!("\nDisplaying processes memory sizes from {path}\n\n{}", table::table(&headings, &rows)))
}

/// All of a process's own pages, in hexadecimal.
fn dump(args: &Args, spaces: &AddressSpaces<'_>, pid: u32, path: &str) -> anyhow::Result<()> {
    let space = spaces.open(pid)?;
    let Some(output) = &args.output else {
        print(&format!(
            "\nDisplaying memory pages content for process ID {pid} from checkpoint: {path}\n\n"
        ))?;
        let written = write_dump(&space, true, &mut BufWriter::new(io::stdout().lock()));
        return match written {
            Err(error) if is_broken_pipe(&error) => Ok(()),
            written => written,
        };
    };
    print(&format!(
        "\nWriting memory pages content for process ID {pid} from checkpoint: {path} to file: {}...\n",
        output.display()
    ))?;
    let mut file = BufWriter::new(private_file(output)?);
    write_dump(&space, false, &mut file)?;
    Ok(file.flush()?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A file that only its owner may read: memory holds secrets.
fn private_file(path: &std::path::Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.map_err(|error| anyhow::Error::new(error).context(format!("cannot write {}", path.display())))
}

fn write_dump(space: &AddressSpace<'_>, compact: bool, output: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        output,
        "Address           Hexadecimal                                       ASCII            "
    )?;
    writeln!(output, "{}", "-".repeat(85))?;
    let mut rows = Rows { compact, last: None, repeats: false };
    let mut expected = None;
    let mut piece = vec![0; PIECE as usize];
    for extent in space.extents(0, u64::MAX) {
        let extent = extent?;
        let Content::Stored { owner: owner @ Owner::Process(_), layer, offset } = extent.content else {
            continue;
        };
        if expected != Some(extent.start) {
            rows.last = None;
        }
        expected = Some(extent.end);
        let mut at = extent.start;
        while at < extent.end {
            let some = &mut piece[..(extent.end - at).min(PIECE) as usize];
            space.read_stored(owner, layer, offset + (at - extent.start), some)?;
            rows.write(at, some, output)?;
            at += some.len() as u64;
        }
    }
    Ok(output.flush()?)
}

/// Rows of a dump.
struct Rows {
    /// Whether rows that are equal to the one before become one `*`.
    compact: bool,
    last: Option<[u8; ROW]>,
    repeats: bool,
}

impl Rows {
    fn write(&mut self, mut address: u64, bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
        let mut line = Vec::with_capacity(128);
        for row in bytes.chunks(ROW) {
            let this: Option<[u8; ROW]> = row.try_into().ok();
            if self.compact && this.is_some() && self.last == this {
                if !self.repeats {
                    output.write_all(b"*\n")?;
                }
                self.repeats = true;
            } else {
                self.repeats = false;
                line.clear();
                write!(line, "{address:016x}  ")?;
                for byte in row {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    line.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)], b' ']);
                }
                line.extend_from_slice(b" |");
                line.extend(row.iter().map(|byte| if (32..127).contains(byte) { *byte } else { b'.' }));
                line.extend_from_slice(b"|\n");
                output.write_all(&line)?;
            }
            self.last = this;
            address += row.len() as u64;
        }
        Ok(())
    }
}

/// A table of matches.
fn matches(
    args: &Args,
    search: &Search,
    text: &str,
    spaces: &AddressSpaces<'_>,
    path: &str,
) -> anyhow::Result<()> {
    let found = search.run(spaces)?;
    for problem in &found.problems {
        eprintln!("Warning: {problem}");
    }
    if args.archives.len() > 1 {
        print(&format!("\nDisplaying matches in {path}\n\n"))?;
    }
    let text = plain(text);
    if found.matches.is_empty() {
        return print(&match args.pid() {
            Some(pid) => format!("No matches for pattern \"{text}\" in the memory of PID {pid}\n"),
            None => format!("No matches for pattern \"{text}\" in the memory of any process\n"),
        });
    }
    let mut headings = vec!["Address", "Match", "Instance"];
    if args.pid().is_none() {
        headings.push("PID");
    }
    let rows: Vec<_> = found
        .matches
        .iter()
        .enumerate()
        .map(|(index, found)| {
            let bytes = [&found.before[..], &found.bytes, &found.after].concat();
            let shown =
                bytes.iter().map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '?' });
            let mut row = vec![format!("{:016x}", found.address), shown.collect(), (index + 1).to_string()];
            if args.pid().is_none() {
                row.push(found.pid.map_or_else(String::new, |pid| pid.to_string()));
            }
            row
        })
        .collect();
    print(&table::table(&headings, &rows))?;
    let all: u64 = found.counts.iter().sum();
    if all > found.matches.len() as u64 {
        eprintln!("Warning: {all} matches, of which {} are shown", found.matches.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: &[u8], compact: bool) -> String {
        let mut output = Vec::new();
        Rows { compact, last: None, repeats: false }.write(0x1000, bytes, &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn equal_rows_become_a_star() {
        let bytes = [[b'A'; 16], [b'A'; 16], [b'A'; 16], [0xff; 16]].concat();
        assert_eq!(
            rows(&bytes, true),
            "0000000000001000  41 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41  |AAAAAAAAAAAAAAAA|\n*\n\
             0000000000001030  ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff  |................|\n"
        );
        assert_eq!(rows(&bytes, false).lines().count(), 4);
    }

    #[test]
    fn rows_that_only_look_equal_do_not() {
        assert_eq!(rows(&[[0; 16], [0xff; 16]].concat(), true).lines().count(), 2);
    }
}

//! `torpor memory`: what was in the memory of the programs.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use torpor_archive::memory::{AddressSpaces, Filter, MappingKind, Protection};

use super::failure::Failure;
use super::{Exit, output, place};

mod content;
mod range;
mod search;
mod usage;

/// Look into the memory of programs: how much there is, what is in it, where something is
///
/// Without a flag, a table of all processes is shown. With --pid, the memory of that process is shown in hexadecimal.
/// Nothing is unpacked, and nothing is written but the file that --out names.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Archives of container engines, directories of images, `-` for standard input, or NAME or NAME@NUMBER in the store.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Only this process.
    #[arg(long, short, value_name = "PID")]
    pid: Option<u32>,
    /// Only these addresses: START-END or START+LENGTH, in hexadecimal; LENGTH may be a number with K, M or G.
    #[arg(long, value_name = "RANGE", value_parser = range::parse, requires = "pid")]
    range: Option<Range<u64>>,
    /// Write to this file, which nobody else may read, instead of to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file that --out names, if it is there.
    #[arg(long, requires = "out")]
    force: bool,
    /// Show what is in memory. It may hold passwords, keys and what people wrote.
    #[arg(long)]
    show_secrets: bool,
    #[command(flatten)]
    output: output::TreeArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    search: search::Args,
    #[command(flatten)]
    place: place::Args,
}

/// Which mappings count.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    /// Only mappings of these kinds: heap, stack, anonymous, file, shared-file, shared, kernel, other.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = range::kind)]
    kind: Vec<MappingKind>,
    /// Only mappings with which a program may do this: letters of `rwx`.
    #[arg(long, value_name = "LETTERS", value_parser = range::protection)]
    protection: Option<Protection>,
}

/// What is done.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Actions")]
struct ModeArgs {
    /// Show the mappings of each process, too.
    #[arg(long)]
    maps: bool,
    /// Show text: every row of printable characters.
    #[arg(long, conflicts_with = "maps")]
    strings: bool,
    /// The fewest characters that are text.
    #[arg(long, value_name = "COUNT", default_value_t = 6, requires = "strings")]
    min: usize,
    /// Write the bytes of --range as they are, with zeros for those that are not in the checkpoint.
    #[arg(long, conflicts_with_all = ["maps", "strings"], requires = "range")]
    raw: bool,
    /// Write this process as an ELF core file, which gdb opens, to the file that --out names.
    #[arg(long, value_name = "PID", conflicts_with_all = ["maps", "strings", "raw", "pid"], requires = "out")]
    core: Option<u32>,
}

/// Looks.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let filter =
        Filter { kinds: args.filter.kind.clone(), protection: args.filter.protection.unwrap_or_default() };
    if !args.search.is_empty() {
        let patterns = args.search.patterns()?;
        return search::run(args, filter, patterns);
    }
    if let Some(pid) = args.mode.core {
        return content::core(args, pid);
    }
    if args.mode.strings || args.mode.raw || (args.pid.is_some() && !args.mode.maps) {
        return content::run(args, &filter);
    }
    usage::run(args, &filter)
}

impl Args {
    /// Opens each source in turn. One that fails does not keep the others from being shown; the first failure is returned.
    fn each(
        &self,
        mut take: impl FnMut(&str, &AddressSpaces<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        let mut failed = None;
        for source in &self.sources {
            let looked = self
                .place
                .checkpoint(source)
                .and_then(|checkpoint| take(source, &AddressSpaces::new(&checkpoint)?))
                .with_context(|| format!("cannot look into {source}"));
            match looked {
                Err(error) if self.sources.len() == 1 => return Err(error),
                Err(error) if failed.is_some() => {
                    super::failure::report(&error);
                }
                Err(error) => failed = Some(error),
                Ok(()) => {}
            }
        }
        Ok(failed)
    }

    /// Where contents go: the file of --out, or standard output if they may be shown there.
    fn sink(&self) -> anyhow::Result<Box<dyn Write>> {
        if let Some(path) = &self.out {
            return Ok(Box::new(BufWriter::new(create(path, self.force)?)));
        }
        if !self.show_secrets {
            return Err(Failure::new(
                Exit::Usage,
                "memory may hold secrets, and is shown only when asked for",
                "add --show-secrets, or write it to a file with --out",
            )
            .into());
        }
        if self.mode.raw && io::stdout().is_terminal() {
            return Err(Failure::new(
                Exit::Usage,
                "bytes as they are would garble the terminal",
                "write them to a file with --out",
            )
            .into());
        }
        Ok(Box::new(BufWriter::new(io::stdout().lock())))
    }
}

/// Makes a file that nobody else may read.
fn create(path: &Path, force: bool) -> anyhow::Result<File> {
    let mut options = File::options();
    options.write(true).mode(0o600);
    if force {
        // What is there is removed, not written over: it may be a link, or open to others.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(place_failure(path, &error));
            }
            _ => {}
        }
    }
    match options.create_new(true).open(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::new(
            Exit::Place,
            format!("{} is there already", path.display()),
            "name another file, or add --force to replace it",
        )
        .into()),
        Err(error) => Err(place_failure(path, &error)),
    }
}

fn place_failure(path: &Path, error: &io::Error) -> anyhow::Error {
    let message = format!("cannot write {}: {error}", path.display());
    Failure::new(Exit::Place, message, "name a file in a directory that you may write to").into()
}

/// Passes over that nobody reads any more.
fn unless_closed(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_closed(&error) => Ok(()),
        result => result,
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_never_written_over_unasked() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("memory");
        create(&path, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create(&path, false).unwrap_err().to_string().contains("is there already"));
        std::fs::write(&path, "old").unwrap();
        create(&path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}

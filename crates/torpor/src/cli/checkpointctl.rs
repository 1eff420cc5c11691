//! The binary called `checkpointctl`: checkpointctl's command line, tables, trees, JSON and exit codes.
//!
//! As checkpoint-restore/checkpointctl 1.5 has them (`cmd/*.go`, `internal/*.go`). `docs/checkpointctl.md` tells what is
//! different, and why.

mod arguments;
mod build;
mod collection;
mod diff;
mod document;
mod files;
mod identity;
mod list;
mod memparse;
mod plugin;
mod table;
mod tree;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use torpor_archive::Checkpoint;
use torpor_archive::source::{self, Place};

use super::{Exit, failure, output};
use collection::Wanted;

/// Read and manipulate checkpoint archives as created by Podman, CRI-O and containerd.
#[derive(Debug, Parser)]
#[command(
    name = "checkpointctl",
    version = concat!("version ", env!("CARGO_PKG_VERSION")),
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 110
)]
struct Checkpointctl {
    /// Version for checkpointctl.
    #[arg(long, short, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show an overview of container checkpoints
    Show {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    Inspect(Inspect),
    Memparse(memparse::Args),
    /// List checkpoints stored in the default and additional directories
    List {
        /// The directories, if not the kubelet's.
        directories: Vec<PathBuf>,
    },
    Build(build::Args),
    /// Manage checkpointctl plugins
    Plugin {
        #[command(subcommand)]
        command: Option<PluginCommand>,
    },
    Diff(diff::Args),
    /// Generate the autocompletion script for the specified shell
    Completion {
        /// The shell to complete in.
        shell: clap_complete::Shell,
    },
    /// Anything else is a plugin.
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// List available plugins
    List,
}

/// Display low-level information about a container checkpoint
#[derive(Debug, clap::Args)]
struct Inspect {
    /// The archives.
    #[arg(required = true)]
    archives: Vec<PathBuf>,
    /// Display checkpoint statistics.
    #[arg(long)]
    stats: bool,
    /// Display an overview of mounts used in the container checkpoint.
    #[arg(long)]
    mounts: bool,
    /// Display the process tree of a specific PID.
    #[arg(long, short)]
    pid: Option<u32>,
    /// Display an overview of processes in the container checkpoint.
    #[arg(long)]
    ps_tree: bool,
    /// Display an overview of processes with full command line arguments.
    #[arg(long)]
    ps_tree_cmd: bool,
    /// Display an overview of processes with their environment variables.
    #[arg(long)]
    ps_tree_env: bool,
    /// Display the open file descriptors for processes.
    #[arg(long)]
    files: bool,
    /// Display the open sockets for processes.
    #[arg(long)]
    sockets: bool,
    /// Show metadata about the container.
    #[arg(long)]
    metadata: bool,
    /// Show all information about container checkpoints.
    #[arg(long)]
    all: bool,
    /// The output format.
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Tree,
    /// For programs.
    Json,
}

/// Whether this process was started as `checkpointctl`.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    let name = arguments.first().and_then(|first| Path::new(first).file_name());
    name.is_some_and(|name| name == "checkpointctl")
}

/// Understands what was typed and does it. Every failure is a line `Error: …` and exit code 1, as there.
pub(super) fn main(given: Vec<OsString>) -> ExitCode {
    let commands: Vec<String> =
        Checkpointctl::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let typed = match Checkpointctl::try_parse_from(arguments::normalized(given, &commands)) {
        Ok(typed) => typed,
        Err(refusal) if refusal.use_stderr() => {
            let text = refusal.to_string();
            eprintln!("Error: {}", text.trim_start_matches("error: ").trim_end());
            return Exit::Failure.into();
        }
        Err(asked) => {
            // Printing fails only where nobody reads any more.
            let _ = asked.print();
            return Exit::Success.into();
        }
    };
    match typed.run() {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            eprintln!("Error: {}", failure::sentence(&error));
            if let Some(remedy) = failure::remedy(&error) {
                eprintln!("Help: {remedy}");
            }
            Exit::Failure.into()
        }
    }
}

impl Checkpointctl {
    fn run(self) -> anyhow::Result<()> {
        match self.command {
            None => Ok(Self::command().print_help()?),
            Some(Command::Show { archives }) => show(&archives),
            Some(Command::Inspect(args)) => inspect(&args),
            Some(Command::Memparse(args)) => memparse::run(&args),
            Some(Command::List { directories }) => list::run(directories),
            Some(Command::Build(args)) => build::run(&args),
            Some(Command::Plugin { command: Some(PluginCommand::List) }) => plugin::list(),
            Some(Command::Plugin { command: None }) => {
                let mut command = Self::command();
                let plugin = command.find_subcommand_mut("plugin").map(clap::Command::render_help);
                print(&plugin.map(|help| help.to_string()).unwrap_or_default())
            }
            Some(Command::Diff(args)) => diff::run(&args),
            Some(Command::Completion { shell }) => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "checkpointctl", &mut script);
                output::put(&script)
            }
            Some(Command::External(words)) => plugin::call(&words),
        }
    }
}

/// Opens an archive.
fn open(path: &Path) -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::new(source::open(&Place::Path(path.to_owned()))?)?)
}

/// Writes text to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    output::put(text.as_bytes())
}

fn show(archives: &[PathBuf]) -> anyhow::Result<()> {
    let mut headings = vec!["Container", "Image", "ID", "Runtime", "Created", "Engine", "CHKPT Size"];
    let (mut rows, mut diff) = (Vec::new(), false);
    for path in archives {
        let document = collection::collect(&open(path)?, Wanted::default())?;
        let sizes = document.checkpoint_size;
        diff |= archives.len() > 1 || sizes.root_fs_diff != 0;
        rows.push(vec![
            document.container_name,
            document.image,
            document.id.chars().take(12).collect(),
            document.runtime,
            document.created,
            document.engine,
            values::size(sizes.total),
            values::size(sizes.root_fs_diff),
        ]);
    }
    if diff {
        headings.push("Root Fs Diff Size");
    } else {
        rows.iter_mut().for_each(|row| row.truncate(headings.len()));
    }
    let preamble = match archives {
        [path] => format!("\nDisplaying container checkpoint data from {}\n\n", path.display()),
        _ => String::new(),
    };
    print(&(preamble + &table::table(&headings, &rows)))
}

impl Inspect {
    fn wanted(&self) -> Wanted {
        let all = self.all;
        Wanted {
            statistics: self.stats || all,
            metadata: self.metadata || all,
            processes: self.ps_tree
                || self.ps_tree_cmd
                || self.ps_tree_env
                || self.files
                || self.sockets
                || self.pid.is_some()
                || all,
            command_lines: self.ps_tree_cmd || all,
            environment: self.ps_tree_env || all,
            files: self.files || all,
            sockets: self.sockets || all,
            mounts: self.mounts || all,
            // Zero stands for all, as there.
            pid: self.pid.filter(|pid| *pid != 0),
        }
    }
}

fn inspect(args: &Inspect) -> anyhow::Result<()> {
    let wanted = args.wanted();
    let mut documents = Vec::with_capacity(args.archives.len());
    for path in &args.archives {
        documents.push((path, collection::collect(&open(path)?, wanted)?));
    }
    match args.format {
        Format::Tree => documents.iter().try_for_each(|(path, document)| {
            let path = path.display();
            print(&format!(
                "\nDisplaying container checkpoint tree view from {path}\n\n{}\n",
                tree::tree(document).lines()
            ))
        }),
        Format::Json => {
            let documents: Vec<_> = documents.into_iter().map(|(_, document)| document).collect();
            print(&(serde_json::to_string_pretty(&documents)? + "\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_can_be_typed() {
        Checkpointctl::command().debug_assert();
    }

    #[test]
    fn the_version_is_told_by_either_flag() {
        for flag in ["-v", "--version"] {
            let asked = Checkpointctl::try_parse_from(["checkpointctl", flag]).unwrap_err();
            assert!(asked.to_string().starts_with("checkpointctl version "), "{asked}");
        }
        let typed = Checkpointctl::try_parse_from(["checkpointctl", "plugin-name", "-v"]).unwrap();
        assert!(matches!(typed.command, Some(Command::External(words)) if words[1] == "-v"));
    }

    #[test]
    fn the_name_of_the_binary_decides() {
        for (name, called) in [("checkpointctl", true), ("/a/checkpointctl", true), ("torpor", false)] {
            assert_eq!(is_called(&[name.into()]), called, "{name}");
        }
    }

    #[test]
    fn what_needs_the_process_tree_brings_it() {
        let wanted = |words: &[&str]| {
            let words = [&["checkpointctl", "inspect", "a.tar"], words].concat();
            match Checkpointctl::try_parse_from(words).unwrap().command {
                Some(Command::Inspect(args)) => args.wanted(),
                other => panic!("{other:?}"),
            }
        };
        for flag in
            ["--ps-tree", "--ps-tree-cmd", "--ps-tree-env", "--files", "--sockets", "--pid=3", "--all"]
        {
            assert!(wanted(&[flag]).processes, "{flag}");
        }
        for flag in ["--stats", "--mounts", "--metadata"] {
            assert!(!wanted(&[flag]).processes, "{flag}");
        }
        assert_eq!(wanted(&["-p", "3"]).pid, Some(3));
        assert_eq!(wanted(&["-p0"]).pid, None);
    }
}

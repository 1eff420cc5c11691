//! `torpor inspect`: what was running in a checkpoint.

use std::path::PathBuf;

use serde::Serialize;
use torpor_archive::inspect::{Parts, Report};

use super::failure::{self, Failure};
use super::{Exit, output, place, report};

pub(super) mod rows;
mod table;
mod tree;

/// Show what was running in a checkpoint
///
/// Without a part, the summary and the processes with their command lines are shown. Only what is asked for is read,
/// nothing is unpacked, and nothing is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Archives of container engines, directories of images, `-` for standard input, or names in a store.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    #[command(flatten)]
    parts: PartArgs,
    /// Only this process.
    #[arg(long, short, value_name = "PID")]
    pid: Option<u32>,
    /// Show the values of environment variables.
    #[arg(long)]
    show_secrets: bool,
    /// Write a page to look at in a browser, with everything in it.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    output: output::TreeArgs,
    #[command(flatten)]
    place: place::Args,
}

/// What is shown.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Parts")]
struct PartArgs {
    /// All parts.
    #[arg(long)]
    all: bool,
    /// The checkpoint at a glance.
    #[arg(long)]
    summary: bool,
    /// What CRIU measured.
    #[arg(long)]
    stats: bool,
    /// Processes.
    #[arg(long)]
    ps: bool,
    /// Processes with their command lines.
    #[arg(long)]
    cmd: bool,
    /// Environments.
    #[arg(long)]
    env: bool,
    /// Open files.
    #[arg(long)]
    files: bool,
    /// Open sockets.
    #[arg(long)]
    sockets: bool,
    /// Mounts.
    #[arg(long)]
    mounts: bool,
    /// Namespaces.
    #[arg(long)]
    namespaces: bool,
    /// Control groups.
    #[arg(long)]
    cgroups: bool,
    /// Users, capabilities and system call filters.
    #[arg(long)]
    credentials: bool,
    /// Resource limits.
    #[arg(long)]
    limits: bool,
    /// Signals and timers.
    #[arg(long)]
    signals: bool,
    /// Mappings, by kind and one by one.
    #[arg(long)]
    memory_map: bool,
    /// Files that the container added, changed or removed.
    #[arg(long)]
    writable_layer: bool,
    /// The end of what the container, the engine and CRIU wrote.
    #[arg(long)]
    logs: bool,
}

impl PartArgs {
    /// What is read. Nothing typed means a useful little.
    fn parts(self, secrets: bool) -> Parts {
        let typed = Parts {
            summary: self.summary,
            statistics: self.stats,
            processes: self.ps,
            arguments: self.cmd,
            environment: self.env,
            files: self.files,
            sockets: self.sockets,
            credentials: self.credentials,
            limits: self.limits,
            signals: self.signals,
            memory: self.memory_map,
            mounts: self.mounts,
            namespaces: self.namespaces,
            cgroups: self.cgroups,
            writable_layer: self.writable_layer,
            logs: self.logs,
            secrets: false,
        };
        let parts = if self.all {
            Parts::ALL
        } else if typed == Parts::default() {
            Parts { summary: true, processes: true, arguments: true, ..typed }
        } else {
            typed
        };
        Parts { secrets, ..parts }
    }
}

/// What is written for programs.
#[derive(Serialize)]
struct Shown {
    checkpoints: Vec<Report>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Refused>,
}

/// A source that told nothing.
#[derive(Serialize)]
struct Refused {
    source: String,
    message: String,
}

/// Looks into every source. One that fails does not stop the others.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let parts = match args.html {
        Some(_) => Parts { secrets: args.show_secrets, ..Parts::ALL },
        None => args.parts.parts(args.show_secrets),
    };
    let mut shown = Shown { checkpoints: Vec::new(), failures: Vec::new() };
    let mut exit = Exit::Success;
    for source in &args.sources {
        match look(args, source, parts) {
            Ok(report) => {
                for problem in &report.problems {
                    eprintln!("warning: {}: {}: {}", report.source, problem.entry, problem.message);
                    exit = if exit == Exit::Success { Exit::Damaged } else { exit };
                }
                shown.checkpoints.push(report);
            }
            Err(error) => {
                let code = failure::report(&error);
                exit = if exit == Exit::Success { code } else { exit };
                shown.failures.push(Refused { source: source.clone(), message: failure::sentence(&error) });
            }
        }
    }
    match &args.html {
        Some(path) => report::inspect::write(path, &shown.checkpoints)?,
        None => args.output.print(
            &shown,
            |shown| table::text(&shown.checkpoints, parts),
            |shown| shown.checkpoints.iter().map(|report| tree::node(report, parts)).collect(),
        )?,
    }
    Ok(exit)
}

fn look(args: &Args, source: &str, parts: Parts) -> anyhow::Result<Report> {
    let checkpoint = args.place.checkpoint(source)?;
    let report = Report::read(&checkpoint, parts, args.pid);
    if let (Some(pid), Some([])) = (args.pid, report.processes.as_deref()) {
        let message = format!("{source} has no process {pid}");
        let remedy = "list the processes with `torpor inspect --ps SOURCE`";
        return Err(Failure::new(Exit::NotFound, message, remedy).into());
    }
    Ok(report)
}

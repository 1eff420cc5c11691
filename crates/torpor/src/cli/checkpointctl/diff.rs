//! `checkpointctl diff`: what changed between two checkpoints of a container.

mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::collection::{self, Wanted};
use super::document::{Document, OpenFile, Process, Socket, Variable};
use super::identity::Identity;
use super::{Format, open, print};

/// Show changes between two container checkpoints
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The first archive.
    #[arg(value_name = "CHECKPOINT_A")]
    before: PathBuf,
    /// The second archive.
    #[arg(value_name = "CHECKPOINT_B")]
    after: PathBuf,
    /// The output format.
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
    /// Include full command lines in process tree diff.
    #[arg(long)]
    ps_tree_cmd: bool,
    /// Include environment variables in process tree diff.
    #[arg(long)]
    ps_tree_env: bool,
    /// Include file descriptors in the diff.
    #[arg(long)]
    files: bool,
    /// Include sockets in the diff.
    #[arg(long)]
    sockets: bool,
    /// Show entries that are identical between the two checkpoints.
    #[arg(long)]
    show_unchanged: bool,
}

/// Compares them.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let wanted = Wanted {
        processes: true,
        command_lines: args.ps_tree_cmd,
        environment: args.ps_tree_env,
        files: args.files,
        sockets: args.sockets,
        ..Wanted::default()
    };
    let (before, after) = (read(&args.before, wanted)?, read(&args.after, wanted)?);
    if before.0.id != after.0.id {
        let name = |document: &Document| format!("{} ({})", document.container_name, document.id);
        eprintln!(
            "Warning: these are different containers, or one was restored: {} and {}",
            name(&before.0),
            name(&after.0)
        );
    }
    let difference = Difference::between(&before, &after, args.files, args.sockets);
    match args.format {
        Format::Json => print(&(serde_json::to_string_pretty(&difference)? + "\n")),
        Format::Tree => print(&report::report(
            &difference,
            after.0.process_tree.as_ref(),
            args.ps_tree_cmd,
            args.show_unchanged,
        )),
    }
}

/// A checkpoint, and when it was made.
fn read(path: &Path, wanted: Wanted) -> anyhow::Result<(Document, String)> {
    let checkpoint = open(path)?;
    let document = collection::collect(&checkpoint, wanted)?;
    let made = Identity::read(&checkpoint)?.made;
    let made =
        made.map_or_else(|| document.created.clone(), |made| made.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    Ok((document, made))
}

/// What is different, as checkpointctl's JSON has it (`cmd/diff.go`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Difference {
    container_id: String,
    container_name: String,
    image: String,
    checkpoint_a: Checkpointed,
    checkpoint_b: Checkpointed,
    process_changes: Changes<ProcessLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_changes: Option<Changes<FileLine>>,
    memory_changes: MemoryChange,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_changes: Option<Changes<SocketLine>>,
    summary: String,
}

/// When a checkpoint was made, and its size in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Checkpointed {
    created: String,
    total_size: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct MemoryChange {
    size_change_bytes: i64,
    size_change_mb: f64,
}

/// Entries by what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Changes<T> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added: Vec<T>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<T>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modified: Vec<T>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unchanged: Vec<T>,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { added: Vec::new(), removed: Vec::new(), modified: Vec::new(), unchanged: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct ProcessLine {
    pid: u32,
    command: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
    #[serde(skip)]
    environment: Vec<Variable>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct FileLine {
    path: String,
    r#type: String,
    pid: u32,
    fd: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct SocketLine {
    pid: u32,
    protocol: String,
    r#type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    #[serde(skip_serializing_if = "is_zero")]
    src_port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    dest: String,
    #[serde(skip_serializing_if = "is_zero")]
    dst_port: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Difference {
    fn between(before: &(Document, String), after: &(Document, String), files: bool, sockets: bool) -> Self {
        let ((a, made_a), (b, made_b)) = (before, after);
        let pages = |document: &Document| document.checkpoint_size.memory_pages as i64;
        let change = pages(b).saturating_sub(pages(a));
        let mut difference = Self {
            container_id: a.id.clone(),
            container_name: a.container_name.clone(),
            image: a.image.clone(),
            checkpoint_a: Checkpointed { created: made_a.clone(), total_size: a.checkpoint_size.total },
            checkpoint_b: Checkpointed { created: made_b.clone(), total_size: b.checkpoint_size.total },
            process_changes: changes(processes(a), processes(b)),
            file_changes: files.then(|| changes(open_files(a), open_files(b))),
            memory_changes: MemoryChange {
                size_change_bytes: change,
                size_change_mb: change as f64 / f64::from(1 << 20),
            },
            socket_changes: sockets.then(|| changes(open_sockets(a), open_sockets(b))),
            summary: String::new(),
        };
        difference.summary = difference.summed_up();
        difference
    }

    fn summed_up(&self) -> String {
        let mut text = format!("Checkpoint comparison for container {}", self.container_name);
        let processes = &self.process_changes;
        let (added, removed) = (processes.added.len(), processes.removed.len());
        let modified = processes.modified.len();
        if added + removed + modified > 0 {
            text += &format!("\nProcesses: +{added} -{removed} ~{modified}");
        }
        let mut line = |name: &str, added: usize, removed: usize| {
            if added + removed > 0 {
                text += &format!("\n{name}: +{added} -{removed}");
            }
        };
        if let Some(files) = &self.file_changes {
            line("Files", files.added.len(), files.removed.len());
        }
        if let Some(sockets) = &self.socket_changes {
            line("Sockets", sockets.added.len(), sockets.removed.len());
        }
        text
    }
}

/// Compares entries by their keys, in the order of the keys.
fn changes<K: Ord, T: PartialEq>(mut before: BTreeMap<K, T>, after: BTreeMap<K, T>) -> Changes<T> {
    let mut changes = Changes::default();
    for (key, new) in after {
        match before.remove(&key) {
            None => changes.added.push(new),
            Some(old) if old == new => changes.unchanged.push(new),
            Some(_) => changes.modified.push(new),
        }
    }
    changes.removed.extend(before.into_values());
    changes
}

fn processes(document: &Document) -> BTreeMap<u32, ProcessLine> {
    let mut lines = BTreeMap::new();
    let mut open: Vec<&Process> = document.process_tree.iter().collect();
    while let Some(process) = open.pop() {
        let line = ProcessLine {
            pid: process.pid,
            command: process.command.clone(),
            cmdline: process.cmdline.clone(),
            environment: process.environment_variables.clone(),
        };
        lines.insert(process.pid, line);
        open.extend(&process.children);
    }
    lines
}

/// The number in `REG 12`, so that descriptors sort by it; what has none comes last.
fn number(fd: &str) -> u32 {
    fd.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}

fn open_files(document: &Document) -> BTreeMap<(u32, u32, String, String), FileLine> {
    let line = |pid: u32, file: &OpenFile| {
        let line =
            FileLine { path: file.path.clone(), r#type: file.r#type.clone(), pid, fd: file.fd.clone() };
        ((pid, number(&file.fd), file.fd.clone(), file.path.clone()), line)
    };
    let of_all = document.file_descriptors.iter();
    of_all.flat_map(|files| files.open_files.iter().map(move |file| line(files.pid, file))).collect()
}

/// Every end counts in what makes a socket the same: two that listen on one port at different addresses are two. The last
/// part tells sockets apart that are alike in all of it.
type SocketKey = (u32, String, String, String, (String, u32), (String, u32), String, usize);

fn open_sockets(document: &Document) -> BTreeMap<SocketKey, SocketLine> {
    let mut lines = BTreeMap::new();
    for (pid, Socket { protocol, data }) in document
        .sockets
        .iter()
        .flat_map(|sockets| sockets.open_sockets.iter().map(move |socket| (sockets.pid, socket)))
    {
        let line = SocketLine {
            pid,
            protocol: protocol.clone(),
            r#type: data.r#type.clone(),
            address: data.address.clone(),
            state: data.state.clone(),
            source: data.src.clone(),
            src_port: data.src_port,
            dest: data.dst.clone(),
            dst_port: data.dst_port,
        };
        let mut key = (
            pid,
            protocol.clone(),
            line.r#type.clone(),
            line.address.clone(),
            (line.source.clone(), line.src_port),
            (line.dest.clone(), line.dst_port),
            line.state.clone(),
            0,
        );
        while lines.contains_key(&key) {
            key.7 += 1;
        }
        lines.insert(key, line);
    }
    lines
}

#[cfg(test)]
mod tests;

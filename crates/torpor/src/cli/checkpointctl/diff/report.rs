//! The difference for people, in checkpointctl's boxes (`cmd/diff.go`).

use std::fmt::Write;

use super::super::document::Process;
use super::super::tree::label;
use super::{Changes, Difference, FileLine, ProcessLine, SocketLine};
use crate::cli::output::plain;
use crate::cli::tree::Node;

/// Draws it. `after` is the second checkpoint's process tree.
pub(super) fn report(
    difference: &Difference,
    after: Option<&Process>,
    command_lines: bool,
    unchanged: bool,
) -> String {
    let mut text = header(difference);
    let memory = difference.memory_changes;
    let change = match memory.size_change_bytes {
        1.. => format!("↑ Increased by {:.2} MB", memory.size_change_mb),
        0 => "= No change".to_owned(),
        _ => format!("↓ Decreased by {:.2} MB", -memory.size_change_mb),
    };
    boxed(&mut text, "Memory Changes", 62, [change]);
    let processes = &difference.process_changes;
    let lines = match after.filter(|_| unchanged) {
        Some(tree) => annotated(processes, tree),
        None => process_lines(processes, command_lines),
    };
    boxed(&mut text, "Process Tree", 62, lines);
    if let Some(files) = &difference.file_changes {
        boxed(&mut text, "File Descriptor Changes", 62, file_lines(files, unchanged));
    }
    if let Some(sockets) = &difference.socket_changes {
        boxed(&mut text, "Socket Changes", 71, socket_lines(sockets, unchanged));
    }
    text + "Summary:\n" + &plain_lines(&difference.summary) + "\n"
}

fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

fn header(difference: &Difference) -> String {
    let edge = "═".repeat(64);
    let mut text = format!("╔{edge}╗\n║ {:<62} ║\n╠{edge}╣\n", "Checkpoint Diff");
    for (name, value) in [
        ("Container:", &difference.container_name),
        ("Image:", &difference.image),
        ("ID:", &difference.container_id),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "║ {name:<10} {:<51} ║", shortened(value, 51));
    }
    let _ = writeln!(text, "╚{edge}╝\n");
    for (name, checkpoint) in [("A", &difference.checkpoint_a), ("B", &difference.checkpoint_b)] {
        let (made, size) = (plain(&checkpoint.created), checkpoint.total_size);
        let _ = writeln!(text, "Checkpoint {name}:\n  Created: {made}\n  Size:    {size} bytes\n");
    }
    text
}

fn boxed(text: &mut String, title: &str, width: usize, lines: impl IntoIterator<Item = String>) {
    let _ = writeln!(text, "┌─ {title} {}┐", "─".repeat(width.saturating_sub(title.chars().count() + 3)));
    for line in lines {
        let _ = writeln!(text, "│ {line}");
    }
    let _ = writeln!(text, "└{}┘", "─".repeat(width));
}

/// Text of at most this many characters, the last three of which are dots where something is left out.
fn shortened(text: &str, most: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= most {
        return text.into_owned();
    }
    text.chars().take(most - 3).chain("...".chars()).collect()
}

fn process_lines(changes: &Changes<ProcessLine>, command_lines: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut group = |title: &str, mark: char, processes: &[ProcessLine]| {
        if processes.is_empty() {
            return;
        }
        lines.push(title.to_owned());
        for process in processes {
            lines.push(format!("  {mark} PID {:<5} {}", process.pid, plain(&process.command)));
            if mark == '+' && command_lines && !process.cmdline.is_empty() {
                lines.push(format!("            {}", shortened(&process.cmdline, 55)));
            }
        }
    };
    group("Added:", '+', &changes.added);
    group("Removed:", '-', &changes.removed);
    group("Modified:", '~', &changes.modified);
    if lines.is_empty() {
        lines.push("= No change".to_owned());
    }
    lines
}

/// The second process tree with a mark at each process, and the processes that are gone.
fn annotated(changes: &Changes<ProcessLine>, tree: &Process) -> Vec<String> {
    fn node(changes: &Changes<ProcessLine>, process: &Process) -> Node {
        let is_in =
            |processes: &[ProcessLine]| processes.binary_search_by_key(&process.pid, |line| line.pid).is_ok();
        let mark = if is_in(&changes.added) {
            '+'
        } else if is_in(&changes.modified) {
            '~'
        } else {
            '='
        };
        Node::new(format!("[{mark} PID {}]  {}", process.pid, label(process)))
            .with(process.children.iter().map(|child| node(changes, child)))
    }
    let tree = Node::new("Process tree").with([node(changes, tree)]);
    let mut lines: Vec<_> = tree.lines().lines().map(str::to_owned).collect();
    if !changes.removed.is_empty() {
        lines.push("Removed:".to_owned());
        let removed = changes.removed.iter();
        lines
            .extend(removed.map(|process| format!("  - PID {:<5} {}", process.pid, plain(&process.command))));
    }
    lines
}

fn file_lines(changes: &Changes<FileLine>, unchanged: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut group = |title: &str, mark: char, files: &[FileLine]| {
        if !files.is_empty() {
            lines.push(title.to_owned());
        }
        for file in files {
            let path = shortened(&file.path, 38);
            lines.push(format!("  {mark} PID {:<5} {:<8} {path}", file.pid, file.r#type));
        }
    };
    group("Added:", '+', &changes.added);
    group("Removed:", '-', &changes.removed);
    if unchanged {
        group("Unchanged:", '=', &changes.unchanged);
    }
    lines
}

fn socket_lines(changes: &Changes<SocketLine>, unchanged: bool) -> Vec<String> {
    let groups = [
        ('+', &changes.added[..]),
        ('-', &changes.removed[..]),
        ('=', if unchanged { &changes.unchanged[..] } else { &[] }),
    ];
    let mut lines = Vec::new();
    for (mark, sockets) in groups {
        for socket in sockets {
            if lines.is_empty() {
                lines.push(format!("    {:<5} {:<5} {:<12} {:<21} PEER", "PID", "PROTO", "STATE", "LOCAL"));
            }
            let (state, local, peer) = columns(socket);
            lines.push(format!(
                " {mark}  {:<5} {:<5} {state:<12} {local:<21} {peer}",
                socket.pid, socket.protocol
            ));
        }
    }
    lines
}

/// State, local and remote end.
fn columns(socket: &SocketLine) -> (String, String, String) {
    let absent = || "-".to_owned();
    match socket.r#type.as_str() {
        "TCP" | "UDP" => (
            if socket.state.is_empty() { absent() } else { socket.state.clone() },
            format!("{}:{}", socket.source, socket.src_port),
            if socket.dst_port > 0 { format!("{}:{}", socket.dest, socket.dst_port) } else { absent() },
        ),
        _ => {
            let local =
                if socket.address.is_empty() { "@".to_owned() } else { plain(&socket.address).into_owned() };
            (absent(), local, absent())
        }
    }
}

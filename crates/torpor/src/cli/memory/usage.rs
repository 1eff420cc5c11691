//! Tables of how much memory there is.

use std::fmt::Write;

use serde::Serialize;
use torpor_archive::memory::{AddressSpaces, Filter, MappingUsage, Usage};

use super::super::output::{bytes, lines, plain, table};
use super::super::tree::Node;
use super::{Args, Exit};

#[derive(Serialize)]
struct Shown {
    sources: Vec<ShownSource>,
}

#[derive(Serialize)]
struct ShownSource {
    source: String,
    processes: Vec<ShownProcess>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProcess {
    pid: u32,
    name: String,
    /// It had ended, and was not yet waited for: it has no memory.
    ended: bool,
    /// Bytes of a page.
    page_size: u64,
    #[serde(flatten)]
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    mappings: Option<Vec<MappingUsage>>,
}

/// Shows them.
pub(super) fn run(args: &Args, filter: &Filter) -> anyhow::Result<Exit> {
    let mut shown = Shown { sources: Vec::new() };
    let failed = args.each(|source, spaces| {
        let processes = processes(args, filter, spaces)?;
        shown.sources.push(ShownSource { source: source.to_owned(), processes });
        Ok(())
    })?;
    args.output.print(&shown, text, |shown| shown.sources.iter().map(tree).collect())?;
    failed.map_or(Ok(Exit::Success), Err)
}

fn processes(args: &Args, filter: &Filter, spaces: &AddressSpaces<'_>) -> anyhow::Result<Vec<ShownProcess>> {
    let mut shown = Vec::new();
    if let Some(pid) = args.pid {
        spaces.process(pid)?;
    }
    for process in spaces.processes().iter().filter(|process| args.pid.is_none_or(|pid| pid == process.pid)) {
        let (mut page_size, mut usage, mut mappings) = (0, Usage::default(), Vec::new());
        if !process.ended {
            let space = spaces.open(process.pid)?;
            page_size = space.page_size();
            (usage, mappings) = space.usage(filter, |file| spaces.path(file))?;
        }
        let mappings = args.mode.maps.then_some(mappings);
        let (pid, name, ended) = (process.pid, process.name.clone(), process.ended);
        shown.push(ShownProcess { pid, name, ended, page_size, usage, mappings });
    }
    Ok(shown)
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    for source in &shown.sources {
        if shown.sources.len() > 1 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}:", plain(&source.source));
        }
        text += &process_table(&source.processes);
        for process in &source.processes {
            if let Some(mappings) = &process.mappings {
                let _ =
                    write!(text, "\n{} {}:\n{}", process.pid, plain(&process.name), mapping_table(mappings));
            }
        }
        if shown.sources.len() > 1 {
            text.push('\n');
        }
    }
    text
}

/// A column, and what stands in it.
type Column = (&'static str, fn(&Usage) -> u64);

/// Columns that say something in at least one row are shown.
fn process_table(processes: &[ShownProcess]) -> String {
    let any = |of: fn(&Usage) -> u64| processes.iter().any(|process| of(&process.usage) > 0);
    let optional: [Column; 3] = [
        (">IN PARENTS", |usage| usage.in_parents),
        (">LEFT BEHIND", |usage| usage.lazy),
        (">LOST", |usage| usage.lost),
    ];
    let optional: Vec<_> = optional.into_iter().filter(|(_, of)| any(*of)).collect();
    let mut columns = vec!["PID", "NAME", ">MAPPED", ">MEMORY"];
    columns.extend(optional.iter().map(|(column, _)| *column));
    columns.extend([">SHARED", ">ZERO", ">IN FILES"]);
    let mut made = table(&columns);
    for process in processes {
        let usage = &process.usage;
        let mut row = vec![process.pid.to_string(), plain(&process.name).into_owned()];
        if process.ended {
            row.push("ended".to_owned());
        } else {
            row.extend([usage.mapped, usage.stored].map(bytes));
            row.extend(optional.iter().map(|(_, of)| bytes(of(usage))));
            row.extend([usage.shared, usage.zero, usage.in_files].map(bytes));
        }
        made.add_row(row);
    }
    lines(&made)
}

fn mapping_table(mappings: &[MappingUsage]) -> String {
    let mut made =
        table(&["START", "END", "PROT", "KIND", ">SIZE", ">MEMORY", ">SHARED", ">ZERO", ">IN FILES", "FILE"]);
    for mapping in mappings {
        let usage = &mapping.usage;
        let memory = usage.stored + usage.in_parents;
        let mut row = vec![
            format!("{:012x}", mapping.start),
            format!("{:012x}", mapping.end),
            format!("{}{}", mapping.protection, if mapping.is_shared { 's' } else { 'p' }),
            mapping.kind.to_string(),
        ];
        row.extend([usage.mapped, memory, usage.shared, usage.zero, usage.in_files].map(bytes));
        row.push(mapping.file.as_deref().map(plain).unwrap_or_default().into_owned());
        made.add_row(row);
    }
    lines(&made)
}

fn tree(source: &ShownSource) -> Node {
    let process = |process: &ShownProcess| {
        let title = format!("{} {}", process.pid, process.name);
        if process.ended {
            return Node::new(format!("{title} (ended)"));
        }
        let mappings = process.mappings.iter().flatten().map(|mapping| {
            let sharing = if mapping.is_shared { 's' } else { 'p' };
            let file = mapping.file.as_deref().unwrap_or_default();
            let MappingUsage { start, end, protection, kind, usage, .. } = mapping;
            Node::new(format!("{start:012x}-{end:012x} {protection}{sharing} {kind} {} {file}", parts(usage)))
        });
        Node::new(format!("{title}: {}", parts(&process.usage))).with(mappings)
    };
    Node::new(&source.source).with(source.processes.iter().map(process))
}

/// What there is of each, leaving out what there is none of.
fn parts(usage: &Usage) -> String {
    let parts = [
        ("mapped", usage.mapped),
        ("memory", usage.stored),
        ("in parents", usage.in_parents),
        ("shared", usage.shared),
        ("zero", usage.zero),
        ("in files", usage.in_files),
        ("left behind", usage.lazy),
        ("lost", usage.lost),
    ];
    let there = parts.into_iter().filter(|(_, of)| *of > 0);
    there.map(|(name, of)| format!("{} {name}", bytes(of))).collect::<Vec<_>>().join(", ")
}

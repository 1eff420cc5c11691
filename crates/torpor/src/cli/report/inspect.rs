//! What was running, as a page.

use std::path::Path;

use maud::{Markup, html};
use serde::Serialize;
use torpor_archive::inspect::{MemoryMap, Phase, Process, Report, Statistics};

use super::page::visible;
use super::timeline::{Span, timeline};
use super::{Page, facts, memory_map, processes, table};
use crate::cli::inspect::rows;

/// What the page holds for programs: the same as `--output json`.
#[derive(Serialize)]
struct Data<'a> {
    checkpoints: &'a [Report],
}

/// Writes a page about these checkpoints.
pub(crate) fn write(path: &Path, reports: &[Report]) -> anyhow::Result<()> {
    let title = match reports {
        [report] => format!("Checkpoint {}", report.source),
        _ => "Checkpoints".to_owned(),
    };
    let lead = match reports {
        [report] => report.summary.as_ref().and_then(|summary| summary.root.as_ref()).map(|root| {
            let command = report.processes.iter().flatten().next().map(rows::command);
            command.unwrap_or_else(|| root.name.clone())
        }),
        _ => None,
    };
    let secrets = reports.iter().any(|report| report.secrets);
    let mut page = Page::new(title, lead.unwrap_or_default(), secrets, &Data { checkpoints: reports })?;
    for (index, report) in reports.iter().enumerate() {
        let place = match reports.len() {
            1 => Place { id: String::new(), title: String::new() },
            _ => Place { id: format!("-{index}"), title: format!("{}: ", report.source) },
        };
        sections(&mut page, &place, report);
    }
    page.write(path)
}

/// What tells the sections of one checkpoint from another's.
struct Place {
    id: String,
    title: String,
}

impl Place {
    fn add(&self, page: &mut Page, id: &str, title: &str, body: Markup) {
        page.section(format!("{id}{}", self.id), format!("{}{title}", self.title), body);
    }
}

fn sections(page: &mut Page, place: &Place, report: &Report) {
    if let Some(summary) = &report.summary {
        let body = html! {
            @if !report.problems.is_empty() {
                ul .problems {
                    @for problem in &report.problems { li { (problem.entry) ": " (problem.message) } }
                }
            }
            (facts(&rows::summary(report, summary)))
        };
        place.add(page, "summary", "Summary", body);
    }
    let mut spans = report.statistics.as_ref().map(spans).unwrap_or_default();
    spans.extend(of_phases(&report.phases));
    if !spans.is_empty() {
        let counts = report.statistics.as_ref().map(rows::counts).unwrap_or_default();
        let body = html! { (timeline(&spans)) (facts(&counts)) };
        place.add(page, "timeline", "Timeline", body);
    }
    if let Some(list) = &report.processes {
        of_processes(page, place, list);
    }
    if let Some(mounts) = report.mounts.as_ref().filter(|mounts| !mounts.is_empty()) {
        let rows: Vec<_> = mounts
            .iter()
            .map(|mount| {
                vec![
                    mount.mountpoint.clone(),
                    mount.file_system.clone(),
                    mount.source.clone(),
                    rows::external(mount),
                    rows::mount_options(mount),
                    mount.root.clone(),
                ]
            })
            .collect();
        let columns = ["Mountpoint", "Type", "Source", "External", "Options", "Root"];
        place.add(page, "mounts", "Mounts", table("In the order of their paths", &columns, &rows));
    }
    if let Some(namespaces) = &report.namespaces {
        let rows: Vec<_> = namespaces
            .iter()
            .map(|namespace| {
                vec![
                    namespace.kind.to_owned(),
                    namespace.id.to_string(),
                    rows::pids(&namespace.processes),
                    rows::namespace(namespace),
                ]
            })
            .collect();
        let body = table("By kind", &["Kind", ">Number", "Processes", "Details"], &rows);
        place.add(page, "namespaces", "Namespaces", body);
    }
    if let Some(cgroups) = report.cgroups.as_ref().filter(|cgroups| !cgroups.sets.is_empty()) {
        let groups = cgroups.sets.iter().flat_map(|set| set.groups.iter().map(move |group| (set, group)));
        let rows: Vec<_> = groups
            .map(|(set, group)| vec![rows::members(set), group.controllers.clone(), group.path.clone()])
            .collect();
        let body = table("Groups of each set of processes", &["Processes", "Controllers", "Path"], &rows);
        place.add(page, "cgroups", "Control groups", body);
    }
    if let Some(changes) = &report.writable_layer {
        let rows: Vec<_> =
            changes.paths.iter().map(|(path, change)| Vec::from(rows::change(path, change))).collect();
        let body = table("Paths that differ from the image", &rows::CHANGE_COLUMNS, &rows);
        place.add(page, "writable-layer", "Writable layer", body);
    }
    if let Some(logs) = report.logs.as_ref().filter(|logs| !logs.is_empty()) {
        let body = html! {
            @for log in logs {
                details .more {
                    summary { (rows::log_title(log)) }
                    pre tabindex="0" { @for line in &log.lines { span .item { (visible(line)) "\n" } } }
                }
            }
        };
        place.add(page, "logs", "Logs", body);
    }
}

/// CRIU says how long each took, and not when: freezing comes first, and memory is the rest's first part.
fn spans(statistics: &Statistics) -> Vec<Span> {
    let span = |name: &str, start_us: u32, length_us: u32, class| Span {
        name: name.to_owned(),
        start_us: start_us.into(),
        length_us: length_us.into(),
        class,
    };
    let frozen = statistics.freezing_us;
    vec![
        span("freezing", 0, statistics.freezing_us, "bar"),
        span("frozen", frozen, statistics.frozen_us, "still"),
        span("  finding pages", frozen, statistics.memory_dump_us, "part"),
        span(
            "  writing pages",
            frozen.saturating_add(statistics.memory_dump_us),
            statistics.memory_write_us,
            "part",
        ),
    ]
}

/// Torpor's phases, each after the one before.
fn of_phases(phases: &[Phase]) -> Vec<Span> {
    let mut start_us = 0u64;
    let span = |phase: &Phase| {
        let (name, length_us) = (phase.name.clone(), phase.duration_us);
        let span = Span { name, start_us, length_us, class: "bar" };
        start_us = start_us.saturating_add(length_us);
        span
    };
    phases.iter().map(span).collect()
}

fn of_processes(page: &mut Page, place: &Place, list: &[Process]) {
    place.add(page, "processes", "Processes", processes::tree(list));
    let memories: Vec<_> =
        list.iter().filter_map(|process| Some((process, process.memory.as_ref()?))).collect();
    let mut mappings = 0;
    let fits = |(_, memory): &&(&Process, &MemoryMap)| {
        mappings += memory.mappings.len();
        mappings <= memory_map::MOST
    };
    let drawn = memories.iter().take_while(fits).count();
    let maps = html! {
        (memory_map::legend())
        @for (process, memory) in &memories[..drawn] { (memory_map::map(process, memory)) }
        @if drawn < memories.len() {
            p .hint { "There are more mappings than a page can show. The data in it has those of all processes." }
        }
    };
    if !memories.is_empty() {
        place.add(page, "memory", "Memory", maps);
    }
    let sockets: Vec<_> = list.iter().flat_map(rows::sockets).map(Vec::from).collect();
    if !sockets.is_empty() {
        let body = table("Open sockets of all processes", &rows::SOCKET_COLUMNS, &sockets);
        place.add(page, "sockets", "Sockets", body);
    }
    let files: Vec<_> = list.iter().flat_map(rows::files).map(Vec::from).collect();
    if !files.is_empty() {
        let body = table("Open files of all processes", &rows::FILE_COLUMNS, &files);
        place.add(page, "files", "Files", body);
    }
    let variables: Vec<_> = list
        .iter()
        .flat_map(|process| {
            let pid = process.pid.to_string();
            process
                .environment
                .iter()
                .flatten()
                .map(move |variable| vec![pid.clone(), rows::variable(variable)])
        })
        .collect();
    if !variables.is_empty() {
        let hidden =
            list.iter().flat_map(|process| process.environment.iter().flatten()).any(|it| it.value.is_none());
        let caption = if hidden { "Values are hidden: --show-secrets shows them" } else { "With values" };
        place.add(page, "environment", "Environment", table(caption, &[">PID", "Variable"], &variables));
    }
    let credentials = html! {
        @for process in list {
            @if let Some(credentials) = &process.credentials {
                h3 { (process.pid) " " (process.name) }
                (facts(&rows::credentials(credentials)))
            }
        }
    };
    if list.iter().any(|process| process.credentials.is_some()) {
        place.add(page, "credentials", "Credentials", credentials);
    }
}

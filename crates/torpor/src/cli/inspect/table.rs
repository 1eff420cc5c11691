//! Reports as tables.

use std::fmt::Write;

use comfy_table::Table;
use torpor_archive::inspect::{MemoryMap, Parts, Process, Report};

use super::rows::{self, Fact};
use crate::cli::output;

/// All reports, one after the other.
pub(super) fn text(reports: &[Report], parts: Parts) -> String {
    let mut sections = Vec::new();
    for report in reports {
        let mut text = Text::default();
        if reports.len() > 1 {
            text.line(&format!("### {}", report.source));
        }
        one(&mut text, report, parts);
        sections.push(text.0);
    }
    sections.join("\n")
}

/// Sections with a blank line between them.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{}", output::plain(line));
    }

    fn title(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(title);
    }

    fn facts(&mut self, facts: &[Fact]) {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
        for (name, value) in facts {
            self.line(&format!("  {:width$}{value}", format!("{name}:")));
        }
    }

    fn table(&mut self, table: &Table) {
        for line in output::lines(table).lines() {
            let _ = writeln!(self.0, "  {line}");
        }
    }
}

/// A row of text from a checkpoint.
fn row<const N: usize>(table: &mut Table, cells: [String; N]) {
    table.add_row(cells.iter().map(|cell| output::plain(cell).into_owned()));
}

fn one(text: &mut Text, report: &Report, parts: Parts) {
    if report.secrets {
        text.line("This report holds secrets: values of environment variables.");
    }
    if let Some(summary) = &report.summary {
        text.title("Summary");
        text.facts(&rows::summary(report, summary));
    }
    if let Some(statistics) = &report.statistics {
        text.title("CRIU's statistics");
        text.facts(&rows::statistics(statistics));
    } else if parts.statistics {
        text.title("CRIU's statistics: not in the checkpoint");
    }
    if !report.phases.is_empty() {
        text.title("Phases");
        let mut table = output::table(&["PHASE", ">TOOK"]);
        for phase in &report.phases {
            row(&mut table, [phase.name.clone(), rows::duration_us(phase.duration_us)]);
        }
        text.table(&table);
    }
    if let Some(processes) = &report.processes {
        of_processes(text, processes, parts);
    }
    if let Some(mounts) = &report.mounts {
        text.title(if mounts.is_empty() { "Mounts: not in the checkpoint" } else { "Mounts" });
        let mut table = output::table(&["MOUNTPOINT", "TYPE", "SOURCE", "EXTERNAL", "OPTIONS", "ROOT"]);
        for mount in mounts {
            row(
                &mut table,
                [
                    mount.mountpoint.clone(),
                    mount.file_system.clone(),
                    mount.source.clone(),
                    rows::external(mount),
                    rows::mount_options(mount),
                    mount.root.clone(),
                ],
            );
        }
        if !mounts.is_empty() {
            text.table(&table);
        }
    }
    if let Some(namespaces) = &report.namespaces {
        text.title("Namespaces");
        let mut table = output::table(&["KIND", ">ID", "PROCESSES", "DETAILS"]);
        for namespace in namespaces {
            row(
                &mut table,
                [
                    namespace.kind.to_owned(),
                    namespace.id.to_string(),
                    rows::pids(&namespace.processes),
                    rows::namespace(namespace),
                ],
            );
        }
        text.table(&table);
    }
    if let Some(cgroups) = &report.cgroups {
        text.title(if cgroups.sets.is_empty() {
            "Control groups: not in the checkpoint"
        } else {
            "Control groups"
        });
        let mut table = output::table(&["PROCESSES", "CONTROLLERS", "PATH"]);
        for set in &cgroups.sets {
            for group in &set.groups {
                row(&mut table, [rows::members(set), group.controllers.clone(), group.path.clone()]);
            }
        }
        if !cgroups.sets.is_empty() {
            text.table(&table);
        }
    }
    of_container(text, report, parts);
}

fn of_container(text: &mut Text, report: &Report, parts: Parts) {
    match &report.writable_layer {
        Some(changes) => {
            text.title("Writable layer");
            let mut table = output::table(&rows::CHANGE_COLUMNS);
            changes.paths.iter().for_each(|(path, change)| row(&mut table, rows::change(path, change)));
            text.table(&table);
        }
        None if parts.writable_layer => text.title("Writable layer: not in the checkpoint"),
        None => {}
    }
    for log in report.logs.iter().flatten() {
        text.title(&rows::log_title(log));
        log.lines.iter().for_each(|line| text.line(&format!("  {line}")));
    }
    if report.logs.as_ref().is_some_and(Vec::is_empty) {
        text.title("Logs: not in the checkpoint");
    }
}

fn of_processes(text: &mut Text, processes: &[Process], parts: Parts) {
    text.title("Processes");
    let mut table = output::table(&[">PID", ">PARENT", ">GROUP", ">SESSION", ">THREADS", "STATE", "COMMAND"]);
    for process in processes {
        row(
            &mut table,
            [
                process.pid.to_string(),
                process.parent.map_or_else(|| "-".to_owned(), |parent| parent.to_string()),
                process.group.to_string(),
                process.session.to_string(),
                process.threads.len().to_string(),
                rows::state(process),
                rows::command(process),
            ],
        );
    }
    text.table(&table);
    if parts.environment {
        environment(text, processes, parts);
    }
    if parts.files {
        files(text, processes);
    }
    if parts.sockets {
        sockets(text, processes);
    }
    for process in processes {
        if let Some(credentials) = &process.credentials {
            text.title(&format!("Credentials of {} ({})", process.pid, process.name));
            text.facts(&rows::credentials(credentials));
            for thread in &process.threads {
                if let Some(credentials) = &thread.credentials {
                    text.line(&format!("  thread {}:", thread.id));
                    text.facts(&rows::credentials(credentials));
                }
            }
        }
    }
    for process in processes {
        if let Some(limits) = &process.limits {
            text.title(&format!("Limits of {} ({})", process.pid, process.name));
            let mut table = output::table(&["RESOURCE", ">SOFT", ">HARD"]);
            for limit in limits {
                row(&mut table, rows::limit(limit));
            }
            text.table(&table);
        }
    }
    for process in processes {
        if let Some(signals) = &process.signals {
            text.title(&format!("Signals of {} ({})", process.pid, process.name));
            let mut facts: Vec<Fact> = [
                ("caught", &signals.caught),
                ("ignored", &signals.ignored),
                ("blocked", &signals.blocked),
                ("pending", &signals.pending),
            ]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| (what, names.join(" ")))
            .collect();
            facts.extend(signals.timers.iter().map(|timer| ("timer", rows::timer(timer))));
            if facts.is_empty() {
                facts.push(("all", "as by default".to_owned()));
            }
            text.facts(&facts);
        }
    }
    for process in processes {
        if let Some(map) = &process.memory {
            text.title(&format!("Memory of {} ({})", process.pid, process.name));
            memory(text, map);
        }
    }
}

fn environment(text: &mut Text, processes: &[Process], parts: Parts) {
    text.title("Environment");
    if !parts.secrets {
        text.line("  Values are hidden; --show-secrets shows them.");
    }
    let mut table = output::table(&[">PID", "VARIABLE"]);
    for process in processes {
        for variable in process.environment.iter().flatten() {
            row(&mut table, [process.pid.to_string(), rows::variable(variable)]);
        }
    }
    text.table(&table);
}

fn files(text: &mut Text, processes: &[Process]) {
    text.title("Open files");
    let mut table = output::table(&rows::FILE_COLUMNS);
    processes.iter().flat_map(rows::files).for_each(|cells| row(&mut table, cells));
    text.table(&table);
}

fn sockets(text: &mut Text, processes: &[Process]) {
    text.title("Sockets");
    let mut table = output::table(&rows::SOCKET_COLUMNS);
    processes.iter().flat_map(rows::sockets).for_each(|cells| row(&mut table, cells));
    text.table(&table);
}

fn memory(text: &mut Text, map: &MemoryMap) {
    let mut table =
        output::table(&["KIND", ">MAPPINGS", ">MAPPED", ">STORED", ">IN PARENTS", "NOT STORED, PAGES"]);
    for total in &map.kinds {
        row(
            &mut table,
            [
                total.kind.to_string(),
                total.mappings.to_string(),
                rows::pages(map, total.pages.mapped),
                rows::pages(map, total.pages.present),
                rows::pages(map, total.pages.in_parents),
                rows::absent(&total.pages),
            ],
        );
    }
    text.table(&table);
    text.line("");
    let mut table = output::table(&["RANGE", "PROT", "KIND", ">MAPPED", ">STORED", ">IN PARENTS", "NAME"]);
    for mapping in &map.mappings {
        row(
            &mut table,
            [
                rows::range(mapping),
                mapping.protection.clone(),
                mapping.kind.to_string(),
                rows::pages(map, mapping.pages.mapped),
                rows::pages(map, mapping.pages.present),
                rows::pages(map, mapping.pages.in_parents),
                mapping.name.clone().unwrap_or_default(),
            ],
        );
    }
    text.table(&table);
}

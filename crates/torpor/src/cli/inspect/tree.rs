//! Reports as trees.

use torpor_archive::inspect::{MemoryMap, Parts, Process, Report, Signals};

use super::rows::{self, Fact};
use crate::cli::tree::Node;

/// Deepest process that is shown below its parent: a checkpoint may claim a chain of any length.
const MAX_DEPTH: usize = 256;

/// A report as a tree.
pub(super) fn node(report: &Report, parts: Parts) -> Node {
    let mut top = Node::new(&report.source);
    if report.secrets {
        top.push(Node::new("This report holds secrets: values of environment variables."));
    }
    if let Some(summary) = &report.summary {
        top.push_group(facts("Summary", &rows::summary(report, summary)));
    }
    if let Some(statistics) = &report.statistics {
        top.push_group(facts("CRIU's statistics", &rows::statistics(statistics)));
    }
    let phases = report
        .phases
        .iter()
        .map(|phase| Node::new(format!("{}: {}", phase.name, rows::duration_us(phase.duration_us))));
    top.push_group(Node::new("Phases").with(phases));
    if let Some(list) = &report.processes {
        top.push_group(Node::new("Processes").with(processes(list, parts)));
    }
    if let Some(mounts) = &report.mounts {
        let mounts = mounts.iter().map(|mount| {
            let external = mount.external.as_ref().map(|_| format!("external: {}", rows::external(mount)));
            let details = [
                Some(format!("type: {}", mount.file_system)),
                Some(format!("source: {}", mount.source)),
                Some(format!("root: {}", mount.root)),
                Some(format!("options: {}", rows::mount_options(mount))),
                external,
            ];
            Node::new(&mount.mountpoint).with(details.into_iter().flatten().map(Node::new))
        });
        top.push_group(Node::new("Mounts").with(mounts));
    }
    if let Some(namespaces) = &report.namespaces {
        let namespaces = namespaces.iter().map(|namespace| {
            let members = format!("processes: {}", rows::pids(&namespace.processes));
            let details = rows::namespace(namespace);
            Node::new(format!("{} [{}]", namespace.kind, namespace.id))
                .with([members, details].into_iter().filter(|text| !text.is_empty()).map(Node::new))
        });
        top.push_group(Node::new("Namespaces").with(namespaces));
    }
    if let Some(cgroups) = &report.cgroups {
        let sets = cgroups.sets.iter().map(|set| {
            Node::new(rows::members(set)).with(set.groups.iter().map(|group| {
                let controllers = if group.controllers.is_empty() { "unified" } else { &group.controllers };
                Node::new(format!("{controllers}: {}", group.path))
            }))
        });
        top.push_group(Node::new("Control groups").with(sets));
    }
    if let Some(changes) = &report.writable_layer {
        let changes = changes.paths.iter().map(|(path, change)| {
            let [kind, size, _, path] = rows::change(path, change);
            Node::new(format!("[{kind}]  {path} ({size})"))
        });
        top.push_group(Node::new("Writable layer").with(changes));
    }
    for log in report.logs.iter().flatten() {
        top.push_group(Node::new(rows::log_title(log)).with(log.lines.iter().map(Node::new)));
    }
    top
}

fn facts(title: &str, facts: &[Fact]) -> Node {
    Node::new(title).with(facts.iter().map(|(name, value)| Node::new(format!("{name}: {value}"))))
}

/// Processes below their parents.
fn processes(list: &[Process], parts: Parts) -> Vec<Node> {
    let standings = rows::standings(list, MAX_DEPTH);
    // Children come behind their parents, so each is complete once all behind it are placed.
    let mut below: Vec<Vec<Node>> = list.iter().map(|_| Vec::new()).collect();
    let mut roots = Vec::new();
    for (place, process) in list.iter().enumerate().rev() {
        let mut children = std::mem::take(&mut below[place]);
        children.reverse();
        let node = self::process(process, parts).with(children);
        match standings[place].parent {
            Some(parent) => below[parent].push(node),
            None => roots.push(node),
        }
    }
    roots.reverse();
    roots
}

fn process(process: &Process, parts: Parts) -> Node {
    let state = if process.state == "alive" { String::new() } else { format!(" ({})", rows::state(process)) };
    let mut node = Node::new(format!("[{}]{state} {}", process.pid, rows::command(process)));
    if process.threads.len() > 1 {
        let threads = process
            .threads
            .iter()
            .skip(1)
            .map(|thread| Node::new(format!("{{{}}} {}", thread.id, thread.name)));
        node.push_group(Node::new("Threads").with(threads));
    }
    if let Some(variables) = &process.environment {
        let hidden = if parts.secrets { "" } else { " (values are hidden; --show-secrets shows them)" };
        let variables = variables.iter().map(|variable| Node::new(rows::variable(variable)));
        node.push_group(Node::new(format!("Environment{hidden}")).with(variables));
    }
    if parts.files {
        node.push_group(open_files(process));
    }
    node.push_group(sockets(process));
    if let Some(credentials) = &process.credentials {
        node.push_group(facts("Credentials", &rows::credentials(credentials)));
    }
    let limits = process.limits.iter().flatten().map(|limit| {
        let [resource, soft, hard] = rows::limit(limit);
        Node::new(format!("{resource}: {soft}, at most {hard}"))
    });
    node.push_group(Node::new("Limits").with(limits));
    if let Some(found) = &process.signals {
        node.push_group(signals(found));
    }
    if let Some(map) = &process.memory {
        node.push_group(memory(map));
    }
    node
}

fn open_files(process: &Process) -> Node {
    let places = [
        ("exe", &process.executable),
        ("cwd", &process.working_directory),
        ("root", &process.root_directory),
    ];
    let places =
        places.iter().filter_map(|(name, path)| Some(Node::new(format!("[{name}]  {}", path.as_ref()?))));
    let files = process
        .files
        .iter()
        .flatten()
        .map(|file| Node::new(format!("[{} {}]  {}", file.kind, file.fd, rows::target(file))));
    Node::new("Open files").with(places.chain(files))
}

fn sockets(process: &Process) -> Node {
    let sockets = process.sockets.iter().flatten().map(|socket| {
        Node::new(format!(
            "[{} {} ({})]  {} -> {} (received {}, sent {})",
            rows::protocol(socket),
            socket.fd,
            socket.state,
            rows::local(socket),
            rows::remote(socket),
            socket.receive_queue,
            socket.send_queue
        ))
    });
    Node::new("Open sockets").with(sockets)
}

fn signals(signals: &Signals) -> Node {
    let mut group = Node::new("Signals");
    for (what, names) in [
        ("caught", &signals.caught),
        ("ignored", &signals.ignored),
        ("blocked", &signals.blocked),
        ("pending", &signals.pending),
    ] {
        if !names.is_empty() {
            group.push(Node::new(format!("{what}: {}", names.join(" "))));
        }
    }
    for timer in &signals.timers {
        group.push(Node::new(format!("timer {}", rows::timer(timer))));
    }
    group
}

fn memory(map: &MemoryMap) -> Node {
    let mappings = map.mappings.iter().map(|mapping| {
        Node::new(format!(
            "{} {} {} {}, {} stored  {}",
            rows::range(mapping),
            mapping.protection,
            mapping.kind,
            rows::pages(map, mapping.pages.mapped),
            rows::pages(map, mapping.pages.stored()),
            mapping.name.as_deref().unwrap_or_default()
        ))
    });
    Node::new("Memory").with(mappings)
}

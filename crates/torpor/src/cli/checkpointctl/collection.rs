//! A checkpoint as checkpointctl's document: only what is asked for is read.

use std::collections::HashMap;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::inspect::{self, Parts, Report};
use torpor_archive::source::EntryKind;

use super::document::{Document, Metadata, Process, Sizes, Statistics, Variable};
use super::files::Tables;
use super::identity::Identity;
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// How deep a process tree may be.
const MAX_DEPTH: usize = 256;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) statistics: bool,
    pub(super) metadata: bool,
    pub(super) processes: bool,
    pub(super) command_lines: bool,
    pub(super) environment: bool,
    pub(super) files: bool,
    pub(super) sockets: bool,
    pub(super) mounts: bool,
    /// Only this process, and those below it.
    pub(super) pid: Option<u32>,
}

/// Collects what is wanted.
pub(super) fn collect(checkpoint: &Checkpoint, wanted: Wanted) -> anyhow::Result<Document> {
    let identity = Identity::read(checkpoint)?;
    let mut document = Document {
        container_name: identity.name.clone(),
        image: identity.image.clone(),
        id: identity.id.clone(),
        runtime: identity.runtime.clone(),
        created: identity.created.clone(),
        checkpointed: identity.checkpointed.clone(),
        engine: identity.engine.clone(),
        ip: identity.ip.clone(),
        mac: identity.mac.clone(),
        networks: identity.networks.clone(),
        checkpoint_size: sizes(checkpoint),
        ..Document::default()
    };
    let parts = Parts {
        statistics: wanted.statistics,
        processes: wanted.processes,
        arguments: wanted.command_lines,
        environment: wanted.environment,
        secrets: wanted.environment,
        ..Parts::default()
    };
    let report = Report::read(checkpoint, parts, None);
    for problem in &report.problems {
        eprintln!("Warning: {}: {}", problem.entry, problem.message);
    }
    if wanted.statistics {
        let name = checkpoint.source().name();
        let measured = report.statistics.with_context(|| format!("{name} has no statistics of the dump"))?;
        document.statistics = Some(Statistics {
            freezing_time: measured.freezing_us.into(),
            frozen_time: measured.frozen_us.into(),
            memdump_time: measured.memory_dump_us.into(),
            memwrite_time: measured.memory_write_us.into(),
            pages_scanned: measured.pages_scanned,
            pages_written: measured.pages_written,
        });
    }
    if wanted.metadata {
        document.metadata = Some(Metadata {
            pod_name: identity.pod.clone(),
            kubernetes_namespace: identity.namespace.clone(),
            annotations: identity.annotations.clone(),
        });
    }
    let processes = report.processes.unwrap_or_default();
    if wanted.processes {
        document.process_tree = Some(process_tree(&processes, wanted.pid)?);
    }
    if wanted.files || wanted.sockets {
        let tables = Tables::read(checkpoint)?;
        for process in processes.iter().filter(|process| lives(process)) {
            let table = tables.of(process.pid)?;
            if wanted.files {
                document.file_descriptors.push(tables.files(process.pid, &table)?);
            }
            if wanted.sockets {
                document.sockets.extend(tables.sockets(process.pid, &table));
            }
        }
    }
    if wanted.mounts {
        document.mounts = identity.mounts;
    }
    Ok(document)
}

/// Whether a process has memory and files.
fn lives(process: &inspect::Process) -> bool {
    matches!(process.state.as_str(), "alive" | "stopped")
}

/// Sizes of what is in the archive.
pub(super) fn sizes(checkpoint: &Checkpoint) -> Sizes {
    let mut sizes = Sizes::default();
    for entry in checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File) {
        if let Some(image) = entry.name.strip_prefix("checkpoint/") {
            sizes.total += entry.size;
            if image.starts_with("pages-") {
                sizes.memory_pages += entry.size;
            } else if image.starts_with("amdgpu-pages-") {
                sizes.amd_gpu_memory_pages += entry.size;
            }
        } else if entry.name == "rootfs-diff.tar" {
            sizes.root_fs_diff = entry.size;
        }
    }
    sizes
}

/// The tree of all processes, or of one and those below it.
fn process_tree(processes: &[inspect::Process], pid: Option<u32>) -> anyhow::Result<Process> {
    let mut children: HashMap<u32, Vec<&inspect::Process>> = HashMap::new();
    for process in processes {
        if let Some(parent) = process.parent {
            children.entry(parent).or_default().push(process);
        }
    }
    children.values_mut().for_each(|children| children.sort_by_key(|child| child.pid));
    let root = match pid {
        None => processes.first(),
        Some(pid) => processes.iter().find(|process| process.pid == pid),
    };
    let Some(root) = root else {
        return Err(match pid {
            Some(pid) => no_process(pid),
            None => Failure::new(Exit::Failure, "the checkpoint has no processes", "use another copy"),
        }
        .into());
    };
    branch(root, &children, 0)
}

/// That there is no such process.
pub(super) fn no_process(pid: u32) -> Failure {
    Failure::new(Exit::Failure, format!("no process has the PID {pid}"), "`inspect --ps-tree` shows all PIDs")
}

fn branch(
    process: &inspect::Process,
    children: &HashMap<u32, Vec<&inspect::Process>>,
    depth: usize,
) -> anyhow::Result<Process> {
    anyhow::ensure!(depth < MAX_DEPTH, "the process tree is deeper than {MAX_DEPTH}");
    let mut cmdline = process.arguments.as_ref().map(|words| words.join(" ")).unwrap_or_default();
    if !cmdline.is_empty() {
        // The zero byte behind the last argument is a blank in checkpointctl's output.
        cmdline.push(' ');
    }
    let variables = process.environment.iter().flatten().map(|variable| match &variable.name {
        Some(name) => {
            Variable { name: name.clone(), value: Some(variable.value.clone().unwrap_or_default()) }
        }
        None => Variable { name: variable.value.clone().unwrap_or_default(), value: None },
    });
    let below = children.get(&process.pid).into_iter().flatten();
    Ok(Process {
        pid: process.pid,
        command: process.name.clone(),
        cmdline,
        task_state: match process.state.as_str() {
            "alive" => "Alive",
            "dead" => "Dead",
            "stopped" => "Stopped",
            "zombie" => "Zombie",
            _ => "Unknown",
        },
        environment_variables: variables.filter(|variable| !variable.name.is_empty()).collect(),
        children: below.map(|child| branch(child, children, depth + 1)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: Option<u32>, state: &str) -> inspect::Process {
        inspect::Process {
            pid,
            parent,
            state: state.to_owned(),
            name: format!("p{pid}"),
            arguments: Some(vec!["a".to_owned(), "b c".to_owned()]),
            ..inspect::Process::default()
        }
    }

    #[test]
    fn children_hang_below_their_parents_also_below_dead_ones() {
        let all = [
            process(1, None, "alive"),
            process(9, Some(1), "dead"),
            process(4, Some(1), "stopped"),
            process(10, Some(9), "alive"),
        ];
        let tree = process_tree(&all, None).unwrap();
        assert_eq!(tree.cmdline, "a b c ");
        let states: Vec<_> = tree.children.iter().map(|child| (child.pid, child.task_state)).collect();
        assert_eq!(states, [(4, "Stopped"), (9, "Dead")]);
        assert_eq!(tree.children[1].children[0].pid, 10);
        assert_eq!(process_tree(&all, Some(9)).unwrap().children.len(), 1);
        assert!(process_tree(&all, Some(5)).is_err());
    }

    #[test]
    fn a_chain_without_end_is_refused() {
        let all: Vec<_> = (1..3000).map(|pid| process(pid, (pid > 1).then(|| pid - 1), "alive")).collect();
        assert!(process_tree(&all, None).is_err());
    }
}

//! Rows about containerd, CRI-O, Docker and Podman.

use std::path::{Path, PathBuf};

use super::{Containerd, Crio, INSTALL, NodeFindings, SWITCHES, row};
use crate::doctor::Row;

pub(super) fn rows(findings: &NodeFindings) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(containerd) = &findings.containerd {
        rows.push(containerds_handler(containerd, findings));
        rows.push(containerds_switch(containerd));
    }
    if let Some(crio) = &findings.crio {
        let row = row("crio.handler", "CRI-O's handler");
        rows.push(handler(row, crio.problem.as_deref(), crio.handler.as_ref(), findings));
        rows.extend(crios_switches(crio));
    }
    if let Some(docker) = &findings.docker {
        let row = row("docker.runtime", "Docker's runtime");
        rows.push(handler(row, docker.problem.as_deref(), docker.runtime.as_ref(), findings));
    }
    if let Some(podman) = &findings.podman {
        rows.push(handler(row("podman.runtime", "Podman's runtime"), None, podman.as_ref(), findings));
    }
    if rows.is_empty() {
        rows.push(row("engines", "engines").skip("neither containerd, CRI-O, Docker nor Podman is here"));
    }
    rows
}

/// Whether an engine's handler is our program.
fn handler(row: Row, problem: Option<&str>, program: Option<&PathBuf>, findings: &NodeFindings) -> Row {
    let here = |path: &Path| *path == findings.handler && findings.handler_there;
    match (problem, program) {
        (Some(problem), _) => {
            row.fail(problem, "mend the file, for the engine will not start with it; then run `torpor doctor --node`")
        }
        (None, None) => row.fail("it has no handler torpor", INSTALL),
        (None, Some(path)) if here(path) => row.ok(path.display().to_string()),
        (None, Some(path)) if *path != findings.handler => row.warn(
            format!("{}, and not {}", path.display(), findings.handler.display()),
            "name the place where Torpor is with --prefix, or remove the handler and run `torpor install-node`",
        ),
        (None, Some(path)) => row.fail(format!("{}, which is not there", path.display()), INSTALL),
    }
}

fn containerds_handler(containerd: &Containerd, findings: &NodeFindings) -> Row {
    let row = row("containerd.handler", "containerd's handler");
    if containerd.problem.is_none() && containerd.handler.is_none() && containerd.not_imported {
        return row.fail("the file of the handler is there, and not imported", INSTALL);
    }
    handler(row, containerd.problem.as_deref(), containerd.handler.as_ref(), findings)
}

fn containerds_switch(containerd: &Containerd) -> Row {
    let row = row("containerd.checkpointing", "checkpoints by its CRI");
    match (containerd.enable_criu, containerd.major) {
        (Some(false), _) => row.warn("enable_criu is false", format!("{SWITCHES} containerd")),
        (_, Some(..2)) => row.skip("containerd 1 makes none; `torpor checkpoint` does"),
        (Some(true), _) => row.ok("enable_criu is true"),
        (None, _) => row.ok("not switched off"),
    }
}

fn crios_switches(crio: &Crio) -> [Row; 2] {
    let level = row("crio.checkpointing", "checkpoints by its CRI");
    let remedy = format!("{SWITCHES} CRI-O");
    let level = match (crio.level.as_deref(), crio.support) {
        (Some("none"), _) => level.warn("container_level_enabled is none", remedy),
        (_, Some(false)) => level.warn("enable_criu_support is false", remedy),
        (Some(word), _) => level.ok(format!("container_level_enabled is {word}")),
        (None, _) => level.ok("not switched off"),
    };
    let infra = row("crio.infra", "pods' infrastructure");
    let infra = match crio.drop_infra {
        Some(false) => infra.ok("drop_infra_ctr is false"),
        _ => infra.warn(
            "drop_infra_ctr is true: a pod's network may have no process that a checkpoint could know it by",
            format!("{SWITCHES} CRI-O"),
        ),
    };
    [level, infra]
}

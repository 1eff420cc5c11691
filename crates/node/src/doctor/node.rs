//! Rows about a node: what `torpor install-node` puts there, and the engines' and the kubelet's own switches.

mod engines;
mod finding;
mod kubelet;

use super::{Row, Topic};

pub use finding::{Containerd, Crio, Docker, Kubelet, NodeFindings};

/// What sets a node up.
const INSTALL: &str = "`torpor install-node` sets it up";
/// What sets its switches.
const SWITCHES: &str = "`torpor install-node --enable-checkpointing` sets it; then restart";

pub(super) fn rows(findings: &NodeFindings) -> Vec<Row> {
    let mut rows = own(findings);
    rows.extend(engines::rows(findings));
    rows.extend(kubelet::rows(findings.kubelet.as_ref()));
    rows
}

fn row(id: &str, title: &str) -> Row {
    Row::new(format!("node.{id}"), Topic::Node, title)
}

/// What is Torpor's own on the node.
fn own(findings: &NodeFindings) -> Vec<Row> {
    let program = row("binaries", "binaries");
    let path = findings.handler.display();
    let program = match (findings.handler_there, findings.installed) {
        (true, true) => program.ok(path.to_string()),
        (true, false) => program.ok(format!("{path}, which `torpor install-node` did not put there")),
        (false, _) => program.fail(format!("there is no {path}"), INSTALL),
    };
    let criu = row("criu", "private CRIU");
    let criu = match &findings.criu {
        Some(Ok(version)) => criu.ok(version.clone()),
        Some(Err(said)) => criu.fail(
            said.clone(),
            "`torpor install-node --private-criu DIR` puts one there that works; see docs/private-criu.md",
        ),
        None => criu.skip("none below the prefix: the machine's own is used"),
    };
    let runtime = row("runtime", "real runtime");
    let runtime = match &findings.runtime {
        Ok(path) => runtime.ok(path.display().to_string()),
        Err(said) => runtime
            .fail(said.clone(), "install runc or crun, or name it as `runtime` in /etc/torpor/runtime.yaml"),
    };
    let settings = row("settings", "runtime.yaml");
    let settings = match &findings.settings {
        Ok(said) => settings.ok(said.clone()),
        Err((said, remedy)) => settings.fail(said.clone(), *remedy),
    };
    let class = row("runtimeClass", "RuntimeClass").skip(
        "the cluster's, and not looked at: `torpor install-node --runtime-class | kubectl apply -f -` makes it",
    );
    vec![program, criu, runtime, settings, class]
}

#[cfg(test)]
mod tests;

//! Rows about the kubelet.

use super::{Kubelet, SWITCHES, row};
use crate::doctor::Row;

pub(super) fn rows(kubelet: Option<&Kubelet>) -> Vec<Row> {
    let gate = row("kubelet.checkpointing", "ContainerCheckpoint");
    let shutdown = row("kubelet.shutdown", "graceful node shutdown");
    let Some(kubelet) = kubelet else { return vec![gate.skip("no kubelet is here")] };
    if let Some(problem) = &kubelet.problem {
        return vec![
            gate.warn(problem.clone(), "mend the kubelet's configuration, or set its switches by hand"),
        ];
    }
    let version =
        kubelet.version.map(|(major, minor)| format!(" (Kubernetes {major}.{minor})")).unwrap_or_default();
    let gate = match kubelet.checkpoints {
        Some(true) => gate.ok(format!("open{version}")),
        Some(false) => gate.warn(
            format!("closed{version}: the kubelet's own endpoint makes no checkpoints"),
            format!("{SWITCHES} the kubelet"),
        ),
        None => gate.skip("open from Kubernetes 1.30 on; which version this is cannot be told"),
    };
    let shutdown = match kubelet.waits {
        true => shutdown.ok("the kubelet waits for pods"),
        false => shutdown.warn(
            "off (shutdownGracePeriod): pods are killed without the time for a suspend when the node goes down",
            format!("{SWITCHES} the kubelet"),
        ),
    };
    vec![gate, shutdown]
}

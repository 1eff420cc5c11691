//! `torpor check TARGET`: whether something that runs can be checkpointed, and what that would take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use torpor_archive::check::{Answer, Finding};
use torpor_node::accelerator::Plugins;
use torpor_node::config::{QuantityError, duration};
use torpor_node::container::{Container, ContainerError, Ground, Roots, Status};
use torpor_node::criu_bundle;
use torpor_node::outlook::{self, Estimate, Seen, Wanted};
use torpor_node::processes::is_of_others;

use super::verdict;
use crate::cli::target::Target;
use crate::cli::{Exit, dump, failure, output};

/// How long the kubelet's defaults let a container stand still: a liveness probe every 10 s that fails at the third
/// time, each after 1 s (Kubernetes, `pkg/apis/core/v1/defaults.go`).
const PROBE: Duration = Duration::from_secs(21);
/// Kubernetes' default of `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);
/// Where the kubelet notes the grace period of a container's pod (Kubernetes, `pkg/kubelet/kuberuntime/labels.go`).
const NOTED_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Where CRI-O keeps what the kubelet notes, a document in a text.
const NOTES_BY_CRI_O: &str = "io.kubernetes.cri-o.Annotations";

/// Flags for what runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What runs")]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    dump: dump::Args,
    /// How long it may stand still. Of a container of a pod, what Kubernetes' probes allow by default: 21s.
    #[arg(long, value_name = "DURATION", value_parser = length)]
    standstill: Option<Duration>,
    /// How long it has to end in. Of a container of a pod, what its pod says, or 30s.
    #[arg(long, value_name = "DURATION", value_parser = length)]
    grace: Option<Duration>,
    /// A directory of a runtime's states that is not among the usual ones.
    #[arg(long, value_name = "DIR")]
    runtime_root: Vec<PathBuf>,
}

fn length(text: &str) -> Result<Duration, QuantityError> {
    duration(text)
}

/// Something that runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckedTarget {
    pub(super) target: String,
    /// The container's ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Its name in its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// Whether it can be checkpointed.
    checkpointable: Answer,
    processes: usize,
    /// Bytes that may have to be copied.
    memory: u64,
    /// About how long it would stand still, in milliseconds.
    standstill_milliseconds: u128,
    /// About how long a checkpoint that ends it would take, in milliseconds.
    total_milliseconds: u128,
    pub(super) findings: Vec<Finding>,
}

impl CheckedTarget {
    fn new(target: String, seen: &Seen, wanted: &Wanted) -> Self {
        let findings: Vec<Finding> = outlook::findings(seen, wanted).into_iter().map(finding).collect();
        let estimate = Estimate::of(seen);
        Self {
            target,
            id: None,
            container: None,
            checkpointable: verdict(&findings),
            processes: seen.tasks.len(),
            memory: seen.memory,
            standstill_milliseconds: estimate.frozen.as_millis(),
            total_milliseconds: estimate.total.as_millis(),
            findings,
        }
    }

    /// The same with more findings.
    fn with(mut self, more: impl IntoIterator<Item = Finding>) -> CheckedTarget {
        self.findings.extend(more);
        self.checkpointable = verdict(&self.findings);
        self
    }

    pub(super) fn exit(&self) -> Exit {
        if self.checkpointable == Answer::No { Exit::Failure } else { Exit::Success }
    }

    /// The line above its findings.
    pub(super) fn heading(&self) -> String {
        let mut text = self.target.clone();
        if let Some(container) = &self.container {
            text += &format!(" ({})", output::plain(container));
        } else if let Some(id) = self.id.as_ref().filter(|id| !self.target.ends_with(id.as_str())) {
            text += &format!(" ({id})");
        }
        let plural = if self.processes == 1 { "process" } else { "processes" };
        format!("{text}: {} {plural}, {} of memory", self.processes, output::bytes(self.memory))
    }
}

fn finding(found: outlook::Finding) -> Finding {
    let outlook::Finding { topic, question, answer, reason, remedy } = found;
    let finding = match answer {
        outlook::Answer::Yes => Finding::yes(topic, question, reason),
        outlook::Answer::No => Finding { answer: Answer::No, ..Finding::yes(topic, question, reason) },
        outlook::Answer::Unknown => Finding::unknown(topic, question, reason),
    };
    Finding { remedy: remedy.map(str::to_owned), ..finding }
}

/// What a checkpoint would be refused for by something else than what is seen of processes.
fn unless_refused(
    (topic, question): (&'static str, &'static str),
    asked: Result<String, impl Into<anyhow::Error>>,
) -> Finding {
    match asked {
        Ok(reason) => Finding::yes(topic, question, reason),
        Err(error) => {
            let error = error.into();
            let refused = Finding::yes(topic, question, failure::sentence(&error));
            Finding { answer: Answer::No, remedy: failure::remedy(&error), ..refused }
        }
    }
}

/// Whether there is a CRIU to make it.
fn criu(named: Option<&Path>) -> Finding {
    let version = criu_bundle::find(named).and_then(|found| criu_bundle::version(&found.program));
    unless_refused(("criu", "is there a CRIU to make it?"), version.map(|version| version.to_string()))
}

/// Whether what a container changed in its files can be told.
fn changes(container: &Container) -> Finding {
    let told = Ground::of(container).map(|ground| match ground {
        Ground::Upper => "they are in the upper directory of its overlay",
        Ground::Image => "its root is compared with its image",
        Ground::ReadOnly => "its root cannot be written to",
        Ground::Own => "its root was made from no image, and stays where it is",
    });
    let question = "can what it changed in its files be taken along?";
    unless_refused(("changes", question), told.map(str::to_owned))
}

impl Args {
    /// Looks at a target: a process, or each container that is meant.
    pub(super) fn look(
        &self,
        text: &str,
        target: &Target,
        named: Option<&Path>,
    ) -> anyhow::Result<Vec<CheckedTarget>> {
        let plugins = self.dump.criu_plugins.as_deref().map(Plugins::trusted).transpose();
        let plugins = plugins.map_err(ContainerError::from)?;
        let wishes = self.dump.wishes(true);
        let mut wanted = Wanted {
            tcp: wishes.tcp,
            external_unix: wishes.external_unix,
            shell_job: wishes.shell_job,
            standstill: self.standstill,
            grace: self.grace,
        };
        let roots = Roots::with(self.runtime_root.clone());
        let criu = criu(named);
        let query = match target.resolve(&roots) {
            Target::Process(pid) => {
                let seen = Seen::of_process(pid)?.with_plugins(plugins.as_ref());
                let own = is_of_others(pid).map(|()| "it is not".to_owned());
                let own = unless_refused(("own", "is this torpor none of its processes?"), own);
                let one = CheckedTarget::new(text.to_owned(), &seen, &wanted);
                return Ok(vec![one.with([own, criu])]);
            }
            Target::Containers(query) => query,
        };
        let containers = roots.find_all(&query)?;
        let mut checked = Vec::with_capacity(containers.len());
        for container in &containers {
            let place = container.pod();
            if place.is_some() {
                wanted.standstill = self.standstill.or(Some(PROBE));
                wanted.grace = self.grace.or_else(|| noted_grace(container)).or(Some(GRACE));
            }
            let seen = Seen::of_container(container)?.with_plugins(plugins.as_ref());
            let one = CheckedTarget::new(text.to_owned(), &seen, &wanted);
            let name = place.map(|place| place.container);
            // Of one that does not run, no more is told than that.
            let one = match container.status() {
                Status::Running => one.with([changes(container), criu.clone()]),
                _ => one,
            };
            checked.push(CheckedTarget { id: Some(container.id.clone()), container: name, ..one });
        }
        Ok(checked)
    }
}

/// The grace period that the kubelet noted, in seconds.
fn noted_grace(container: &Container) -> Option<Duration> {
    let annotations = &container.description.annotations;
    let text = annotations.get(NOTED_GRACE).cloned().or_else(|| {
        let notes: serde_json::Value = serde_json::from_str(annotations.get(NOTES_BY_CRI_O)?).ok()?;
        notes.get(NOTED_GRACE)?.as_str().map(str::to_owned)
    })?;
    text.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_grace_period_is_what_the_kubelet_noted() {
        let noted = |annotations: serde_json::Value| {
            let config = serde_json::json!({ "annotations": annotations }).to_string();
            let status = br#"{"pid": 1, "rootfs": "r", "bundle": "/b"}"#;
            let place = (Path::new("/run/crun"), "one");
            noted_grace(&Container::from_crun(status, config.as_bytes(), place, |_| None).unwrap())
        };
        assert_eq!(noted(serde_json::json!({ NOTED_GRACE: "45" })), Some(Duration::from_secs(45)));
        let notes = serde_json::json!({ NOTED_GRACE: "5" }).to_string();
        assert_eq!(noted(serde_json::json!({ NOTES_BY_CRI_O: notes })), Some(Duration::from_secs(5)));
        assert_eq!(noted(serde_json::json!({ NOTES_BY_CRI_O: "[" })), None);
    }
}

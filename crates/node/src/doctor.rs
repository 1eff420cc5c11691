//! What this machine can do for Torpor, and what to do where it cannot: the rows of `torpor doctor`.
//!
//! [`Findings::examine`] looks, [`Report::of`] judges; only the first touches the machine.

mod confinement;
mod criu;
mod features;
mod findings;
mod node;
mod operations;
mod space;
mod system;

use serde::Serialize;

pub use findings::{CriuFinding, CriuTrial, Directory, FeatureTrial, Findings, StoreFinding};
pub use node::{Containerd, Crio, Docker, Kubelet, NodeFindings};

/// How a row came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It could not be looked at, or does not matter here.
    Skip,
    /// Something works less well, or not for every program.
    Warn,
    /// Something that every checkpoint or restore needs is missing.
    Fail,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Skip => "skip",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        })
    }
}

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Topic {
    /// Kernel, processor, control groups.
    Machine,
    /// CRIU itself.
    Criu,
    /// What CRIU finds the kernel able to do.
    Feature,
    /// What this process may do.
    Privilege,
    /// What confines this process.
    Confinement,
    /// Where checkpoints go.
    Space,
    /// What makes a machine a node: its engines, and the kubelet.
    Node,
}

impl Topic {
    /// The heading above the topic's rows.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Topic::Machine => "machine",
            Topic::Criu => "CRIU",
            Topic::Feature => "features CRIU finds",
            Topic::Privilege => "privileges, each tried alone",
            Topic::Confinement => "confinement",
            Topic::Space => "space and store",
            Topic::Node => "node: engines and kubelet",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Stable, for scripts: `kernel.version`, `feature.timens`.
    pub id: String,
    /// What it is about.
    pub topic: Topic,
    /// For people.
    pub title: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    fn new(id: impl Into<String>, topic: Topic, title: impl Into<String>) -> Row {
        Row {
            id: id.into(),
            topic,
            title: title.into(),
            status: Status::Ok,
            found: String::new(),
            remedy: None,
        }
    }

    fn ok(mut self, found: impl Into<String>) -> Row {
        self.found = found.into();
        self
    }

    fn skip(self, found: impl Into<String>) -> Row {
        Row { status: Status::Skip, ..self.ok(found) }
    }

    fn warn(self, found: impl Into<String>, remedy: impl Into<String>) -> Row {
        Row { status: Status::Warn, remedy: Some(remedy.into()), ..self.ok(found) }
    }

    fn fail(self, found: impl Into<String>, remedy: impl Into<String>) -> Row {
        Row { status: Status::Fail, remedy: Some(remedy.into()), ..self.ok(found) }
    }
}

/// Every row, and the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing that every checkpoint and restore needs is missing.
    pub fit: bool,
    /// The rows, topic by topic.
    pub rows: Vec<Row>,
}

impl Report {
    /// Judges what was found.
    #[must_use]
    pub fn of(findings: &Findings) -> Report {
        let mut rows = system::rows(findings);
        rows.extend(criu::rows(&findings.criu));
        rows.extend(features::rows(&findings.criu));
        rows.extend(operations::rows(&findings.privileges));
        rows.extend(confinement::rows(findings));
        rows.extend(space::rows(findings));
        Report::from_rows(rows)
    }

    /// The same, with rows about what makes the machine a node.
    #[must_use]
    pub fn of_node(findings: &Findings, node: &NodeFindings) -> Report {
        let mut rows = Report::of(findings).rows;
        rows.extend(node::rows(node));
        Report::from_rows(rows)
    }

    fn from_rows(rows: Vec<Row>) -> Report {
        Report { fit: rows.iter().all(|row| row.status != Status::Fail), rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_fit_unless_a_row_fails() {
        let mut findings = findings::tests::perfect();
        let report = Report::of(&findings);
        let wrong: Vec<_> = report.rows.iter().filter(|row| row.status > Status::Skip).collect();
        assert!(report.fit && wrong.is_empty(), "{wrong:#?}");
        findings.criu = CriuFinding::Missing { message: "no CRIU".into(), remedy: "install it".into() };
        assert!(!Report::of(&findings).fit);
    }

    #[test]
    fn every_row_that_is_not_well_has_a_remedy_and_ids_are_unique() {
        let mut findings = findings::tests::perfect();
        for trial in &mut findings.privileges.trials {
            trial.outcome = crate::privileges::Outcome::Refused { errno: 1 };
        }
        findings.privileges.seccomp = crate::privileges::Seccomp::Filter;
        findings.privileges.send_buffer = 212_992;
        let report = Report::of(&findings);
        assert!(!report.fit);
        for row in &report.rows {
            assert_eq!(row.status > Status::Skip, row.remedy.is_some(), "{row:#?}");
        }
        let mut ids: Vec<_> = report.rows.iter().map(|row| &row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), report.rows.len());
    }

    #[test]
    fn statuses_are_words_of_one_width_in_a_column() {
        assert_eq!(format!("{:4}|", Status::Ok), "ok  |");
    }
}

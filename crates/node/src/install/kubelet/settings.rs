//! What a kubelet's configuration says and is to say (`KubeletConfiguration`, `kubelet.config.k8s.io/v1beta1`).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Version;

/// The gate's name.
const GATE: &str = "ContainerCheckpoint";
/// From this version on it is open.
const OPEN: Version = (1, 30);
const TOTAL: &str = "shutdownGracePeriod";
const CRITICAL: &str = "shutdownGracePeriodCriticalPods";
const BY_PRIORITY: &str = "shutdownGracePeriodByPodPriority";
/// What pods get where nothing is said: the usual grace period and as much again, of which the last part is for those that the node
/// itself needs.
const PERIODS: [(&str, &str); 2] = [(TOTAL, "60s"), (CRITICAL, "15s")];
const GATES: &str = "featureGates";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Existing {
    /// Whether the gate is open, where it says so.
    pub(crate) gate: Option<bool>,
    /// How long a shutdown waits for pods, where it says so.
    pub(crate) period: Option<String>,
    /// Whether it waits by priorities of pods instead.
    pub(crate) by_priority: bool,
}

/// What it is to say besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Missing {
    gate: bool,
    periods: bool,
}

impl Existing {
    /// Reads a configuration.
    pub(crate) fn of(text: &str) -> Result<Existing, String> {
        let document = parse(text)?;
        let by_priority =
            document.get(BY_PRIORITY).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        Ok(Existing {
            gate: document.get(GATES).and_then(|gates| gates.get(GATE)).and_then(Value::as_bool),
            period: document.get(TOTAL).and_then(Value::as_str).map(str::to_owned),
            by_priority,
        })
    }

    /// With what a later one says.
    pub(crate) fn then(self, later: Existing) -> Existing {
        Existing {
            gate: later.gate.or(self.gate),
            period: later.period.or(self.period),
            by_priority: later.by_priority || self.by_priority,
        }
    }

    /// Whether the kubelet waits for pods when the node goes down.
    pub(crate) fn waits(&self) -> bool {
        self.by_priority
            || self.period.as_ref().is_some_and(|period| period.contains(|c| ('1'..='9').contains(&c)))
    }

    /// Whether the gate is open in a kubelet of this version; none where that cannot be told.
    pub(crate) fn checkpoints(&self, version: Option<Version>) -> Option<bool> {
        self.gate.or(version.map(|version| version >= OPEN))
    }

    /// What it lacks. A gate is only named where it has to be: one that a kubelet does not know keeps it from starting.
    pub(crate) fn missing(&self, version: Option<Version>) -> Missing {
        Missing { gate: self.checkpoints(version) == Some(false), periods: !self.waits() }
    }
}

impl Missing {
    /// A file of our own that says it.
    pub(crate) fn file(self) -> String {
        let mut text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n".to_owned();
        if self.gate {
            let _ = writeln!(text, "{GATES}:\n  {GATE}: true");
        }
        for (key, value) in PERIODS.iter().filter(|_| self.periods) {
            let _ = writeln!(text, "{key}: {value}");
        }
        text
    }

    /// Puts it into a configuration, which keeps its comments and order. The result means what was wanted and nothing else, or it is
    /// refused.
    pub(crate) fn put_into(self, before: &str) -> Result<String, String> {
        if before.trim().is_empty() {
            return Ok(self.file());
        }
        let mut wanted = parse(before)?;
        let mut lines: Vec<String> = before.lines().map(str::to_owned).collect();
        if self.periods {
            for (key, value) in PERIODS {
                wanted.insert(key.to_owned(), json!(value));
                put_line(&mut lines, 0..usize::MAX, "", key, value);
            }
        }
        if self.gate {
            let gates = wanted.entry(GATES).or_insert_with(|| json!({}));
            if gates.is_null() {
                *gates = json!({});
            }
            gates
                .as_object_mut()
                .ok_or("its `featureGates` are no table")?
                .insert(GATE.to_owned(), json!(true));
            open_gate(&mut lines);
        }
        let after = lines.join("\n") + "\n";
        match parse(&after) {
            Ok(meant) if meant == wanted => Ok(after),
            _ => Err("it is not written line by line, as kubeadm writes it".to_owned()),
        }
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_saphyr::from_str(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err("it is no table".to_owned()),
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Has one of some lines say that a key has a value: the one that has the key, or a new one at their end.
fn put_line(lines: &mut Vec<String>, among: std::ops::Range<usize>, indent: &str, key: &str, value: &str) {
    let line = format!("{indent}{key}: {value}");
    let end = among.end.min(lines.len());
    let has = |line: &String| {
        line.strip_prefix(indent)
            .and_then(|line| line.strip_prefix(key))
            .is_some_and(|rest| rest.starts_with(':'))
    };
    match lines[among.start..end].iter().position(has) {
        Some(at) => lines[among.start + at] = line,
        None => lines.insert(end, line),
    }
}

/// Opens the gate in the lines of a configuration.
fn open_gate(lines: &mut Vec<String>) {
    let head = |line: &String| line.strip_prefix(GATES).is_some_and(|rest| rest.starts_with(':'));
    let Some(at) = lines.iter().position(head) else {
        lines.push(format!("{GATES}:\n  {GATE}: true"));
        return;
    };
    let rest = lines[at][GATES.len() + 1..].trim();
    if ["{}", "null", "~"].contains(&rest) {
        lines[at] = format!("{GATES}:");
    }
    let inside = |line: &&String| line.starts_with(' ') || line.starts_with('#') || line.trim().is_empty();
    let mut end = at + 1 + lines[at + 1..].iter().take_while(inside).count();
    // Blank lines and comments behind it belong to what follows.
    while end > at + 1 && !lines[end - 1].starts_with(' ') {
        end -= 1;
    }
    let first = lines[at + 1..end].iter().find(|line| line.starts_with(' '));
    let indent = first.map_or("  ", |line| &line[..line.len() - line.trim_start().len()]).to_owned();
    put_line(lines, at + 1..end, &indent, GATE, "true");
}

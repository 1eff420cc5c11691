//! What containerd notes beside the images since 2.1: `status`, its own record, and `status.dump`, what the CRI says of the container
//! (containerd, `internal/cri/store/container/status.go`; Kubernetes, `cri-api`, `ContainerStatus`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{EngineError, document, text};
use crate::Checkpoint;

/// How a container had fared until its checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `created`, `running`, `exited` or `unknown`; the number where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The PID of its first process, on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// When it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// How it had ended; 0 for one that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why it is in this state, in a word, and in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same, in more words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How often it had been started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// Where its log was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How the container had fared, where its engine noted that.
///
/// # Errors
/// Where `status` or `status.dump` is there and cannot be read.
pub fn status(checkpoint: &Checkpoint) -> Result<Option<Status>, EngineError> {
    let own = document(checkpoint, "status")?;
    let told = document(checkpoint, "status.dump")?;
    Ok((own.is_some() || told.is_some()).then(|| of_documents(own.as_ref(), told.as_ref())))
}

fn of_documents(own: Option<&Value>, told: Option<&Value>) -> Status {
    let number = |document: Option<&Value>, key: &str| document?.get(key)?.as_i64();
    // Nanoseconds since 1970, and 0 for never.
    let time = |key: &str, other: &str| {
        let nanoseconds = number(told, key).or_else(|| number(own, other)).filter(|time| *time > 0)?;
        Timestamp::from_nanosecond(nanoseconds.into()).ok()
    };
    let word = |key: &str, other: &str| text(told, key).or_else(|| text(own, other));
    let metadata = told.and_then(|told| told.get("metadata"));
    let labels = told.and_then(|told| told.get("labels")).and_then(Value::as_object);
    Status {
        // What is 0 is left out of the CRI's document, and 0 is created.
        state: told.map(|_| state(number(told, "state").unwrap_or(0))),
        pid: number(own, "Pid").and_then(|pid| u64::try_from(pid).ok()).filter(|pid| *pid > 0),
        started: time("started_at", "StartedAt"),
        finished: time("finished_at", "FinishedAt"),
        exit_code: number(told, "exit_code").or_else(|| number(own, "ExitCode")),
        reason: word("reason", "Reason"),
        message: word("message", "Message"),
        attempt: metadata.map(|metadata| metadata.get("attempt").and_then(Value::as_u64).unwrap_or(0)),
        log: text(told, "log_path"),
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

/// A state's name (`ContainerState` of the CRI).
fn state(number: i64) -> String {
    match number {
        0 => "created".to_owned(),
        1 => "running".to_owned(),
        2 => "exited".to_owned(),
        3 => "unknown".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_containerd_notes() {
        // As containerd 2.1.9 writes them, shortened.
        let own = json!({
            "Version": "v1", "Pid": 473, "CreatedAt": 1_795_267_685_482_155_563_i64,
            "StartedAt": 1_795_267_685_589_090_358_i64, "FinishedAt": 0, "ExitCode": 0, "Reason": "", "Message": "",
        });
        let told = json!({
            "id": "0cee", "metadata": {"name": "worker", "attempt": 2}, "state": 1,
            "created_at": 1_795_267_685_482_155_563_i64, "started_at": 1_795_267_685_589_090_358_i64,
            "labels": {"io.kubernetes.container.name": "worker"}, "log_path": "/var/log/pods/shop_pod-a/worker.log",
        });
        let status = of_documents(Some(&own), Some(&told));
        assert_eq!(
            (status.state.as_deref(), status.pid, status.attempt),
            (Some("running"), Some(473), Some(2))
        );
        assert_eq!(status.started.unwrap().to_string(), "2026-11-21T13:28:05.589090358Z");
        assert_eq!((status.finished, status.reason, status.exit_code), (None, None, Some(0)));
        assert_eq!(status.log.as_deref(), Some("/var/log/pods/shop_pod-a/worker.log"));
        assert_eq!(status.labels["io.kubernetes.container.name"], "worker");

        let alone = of_documents(Some(&own), None);
        assert_eq!((alone.state, alone.attempt, alone.pid), (None, None, Some(473)));
    }

    #[test]
    fn documents_of_any_shape_are_taken() {
        let odd =
            json!({"Pid": -1, "state": "x", "metadata": 7, "labels": [1], "started_at": -5, "log_path": {}});
        let status = of_documents(Some(&odd), Some(&odd));
        assert_eq!((status.pid, status.started, status.log, status.labels.len()), (None, None, None, 0));
        assert_eq!(of_documents(None, Some(&json!([]))).state.as_deref(), Some("created"));
    }
}

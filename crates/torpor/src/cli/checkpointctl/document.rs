//! What checkpointctl's JSON looks like (checkpoint-restore/checkpointctl, `internal/json.go`): names, order and what is
//! left out where it is zero or empty.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// One checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Document {
    pub(super) container_name: String,
    pub(super) image: String,
    pub(super) id: String,
    pub(super) runtime: String,
    pub(super) created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) checkpointed: String,
    pub(super) engine: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) ip: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) mac: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) networks: Vec<Network>,
    pub(super) checkpoint_size: Sizes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statistics: Option<Statistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process_tree: Option<Process>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) file_descriptors: Vec<Files>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) sockets: Vec<Sockets>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) mounts: Vec<Mount>,
}

/// A network of Podman's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) interfaces: BTreeMap<String, Interface>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Interface {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) ip: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) mac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) gateway: String,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sizes {
    #[serde(rename = "total_size", skip_serializing_if = "is_zero")]
    pub(super) total: u64,
    #[serde(rename = "memory_pages_size", skip_serializing_if = "is_zero")]
    pub(super) memory_pages: u64,
    #[serde(rename = "amd_gpu_memory_pages_size", skip_serializing_if = "is_zero")]
    pub(super) amd_gpu_memory_pages: u64,
    #[serde(rename = "root_fs_diff_size", skip_serializing_if = "is_zero")]
    pub(super) root_fs_diff: u64,
}

/// What CRIU measured, in microseconds and pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Statistics {
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) freezing_time: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) frozen_time: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) memdump_time: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) memwrite_time: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) pages_scanned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) pages_written: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) pod_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) kubernetes_namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A process and its children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) command: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) cmdline: String,
    /// `Alive`, `Dead`, `Stopped`, `Zombie` or `Unknown`.
    pub(super) task_state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "first_of_each_name")]
    pub(super) environment_variables: Vec<Variable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) children: Vec<Process>,
}

/// An entry of an environment; without a value where it has no `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// The open files of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Files {
    pub(super) pid: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) open_files: Vec<OpenFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct OpenFile {
    /// CRIU's name of the type; empty for the working and the root directory.
    pub(super) r#type: String,
    /// Type and number, or `cwd` or `root`.
    pub(super) fd: String,
    pub(super) path: String,
}

/// The sockets of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sockets {
    pub(super) pid: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) open_sockets: Vec<Socket>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Socket {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) protocol: String,
    pub(super) data: SocketData,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct SocketData {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) r#type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) src: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) src_port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) dst: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) dst_port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) send_buf: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) recv_buf: String,
    /// Stream, datagram and so on: not in the JSON, in the tree of Unix sockets.
    #[serde(skip)]
    pub(super) shape: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Mount {
    pub(super) destination: String,
    pub(super) r#type: String,
    pub(super) source: String,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An environment as an object. Of several entries with one name the first counts, as for getenv(3).
fn first_of_each_name<S: Serializer>(variables: &[Variable], serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = BTreeMap::new();
    for variable in variables {
        object.entry(&variable.name).or_insert(variable.value.as_deref().unwrap_or_default());
    }
    serializer.collect_map(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_left_out_except_on_top() {
        let json = serde_json::to_string(&Document::default()).unwrap();
        assert_eq!(
            json,
            r#"{"container_name":"","image":"","id":"","runtime":"","created":"","engine":"","checkpoint_size":{}}"#
        );
    }

    #[test]
    fn an_environment_is_an_object() {
        let variable = |name: &str, value: Option<&str>| Variable {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        let process = Process {
            pid: 1,
            task_state: "Alive",
            environment_variables: vec![
                variable("B", Some("1")),
                variable("A", Some("")),
                variable("B", Some("2")),
                variable("odd", None),
            ],
            ..Process::default()
        };
        let json = serde_json::to_value(process).unwrap();
        assert_eq!(json["environment_variables"], serde_json::json!({"A": "", "B": "1", "odd": ""}));
    }
}

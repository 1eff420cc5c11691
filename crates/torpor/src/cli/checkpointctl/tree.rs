//! checkpointctl's tree of a checkpoint (checkpoint-restore/checkpointctl, `internal/tree.go`).

use serde::Deserialize;
use serde_json::Value;

use super::document::{Document, Metadata, Network, Process, Socket, Statistics};
use super::values;
use crate::cli::tree::Node;

/// Annotations that hold JSON.
const NESTED: [&str; 4] = [
    "io.kubernetes.cri-o.Labels",
    "io.kubernetes.cri-o.Annotations",
    "io.kubernetes.cri-o.Metadata",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// The annotation that holds CRI-O's list of volumes.
const VOLUMES: &str = "io.kubernetes.cri-o.Volumes";
/// How deep JSON in an annotation is drawn.
const MAX_DEPTH: usize = 64;

/// A checkpoint as a tree.
pub(super) fn tree(document: &Document) -> Node {
    let name =
        if document.container_name.is_empty() { "Container" } else { document.container_name.as_str() };
    let mut root = Node::new(name);
    for (key, value) in [
        ("Image", &document.image),
        ("ID", &document.id),
        ("Runtime", &document.runtime),
        ("Created", &document.created),
    ] {
        root.push(Node::new(format!("{key}: {value}")));
    }
    push_present(&mut root, "Checkpointed", &document.checkpointed);
    root.push(Node::new(format!("Engine: {}", document.engine)));
    if document.networks.is_empty() {
        push_present(&mut root, "IP", &document.ip);
        push_present(&mut root, "MAC", &document.mac);
    } else {
        root.push(Node::new("Network Interfaces").with(document.networks.iter().flat_map(networks)));
    }
    let sizes = &document.checkpoint_size;
    let mut size = Node::new(format!("Checkpoint size: {}", values::size(sizes.total)));
    push_size(&mut size, "Memory pages size", sizes.memory_pages);
    push_size(&mut size, "AMD GPU memory pages size", sizes.amd_gpu_memory_pages);
    root.push(size);
    push_size(&mut root, "Root FS diff size", sizes.root_fs_diff);
    if let Some(statistics) = &document.statistics {
        root.push(statistics_node(statistics));
    }
    if let Some(metadata) = &document.metadata {
        root.push(metadata_node(metadata));
    }
    if let Some(process) = &document.process_tree {
        root.push(Node::new("Process tree").with([process_node(document, process)]));
    }
    if !document.mounts.is_empty() {
        root.push(Node::new("Overview of mounts").with(document.mounts.iter().map(|mount| {
            Node::new(format!("Destination: {}", mount.destination)).with([
                Node::new(format!("Type: {}", mount.r#type)),
                Node::new(format!("Source: {}", mount.source)),
            ])
        })));
    }
    root
}

fn push_present(node: &mut Node, key: &str, value: &str) {
    if !value.is_empty() {
        node.push(Node::new(format!("{key}: {value}")));
    }
}

fn push_size(node: &mut Node, key: &str, bytes: u64) {
    if bytes != 0 {
        node.push(Node::new(format!("{key}: {}", values::size(bytes))));
    }
}

fn networks(network: &Network) -> impl Iterator<Item = Node> {
    network.interfaces.iter().map(|(name, interface)| {
        let mut node = Node::new(format!("{} ({name})", network.name));
        push_present(&mut node, "IP", &interface.ip);
        push_present(&mut node, "MAC", &interface.mac);
        push_present(&mut node, "Gateway", &interface.gateway);
        node
    })
}

fn statistics_node(statistics: &Statistics) -> Node {
    let times = [
        ("Freezing", statistics.freezing_time),
        ("Frozen", statistics.frozen_time),
        ("Memdump", statistics.memdump_time),
        ("Memwrite", statistics.memwrite_time),
    ];
    Node::new("CRIU dump statistics")
        .with(times.map(|(name, time)| Node::new(format!("{name} time: {}", values::duration(time)))))
        .with([
            Node::new(format!("Pages scanned: {}", statistics.pages_scanned)),
            Node::new(format!("Pages written: {}", statistics.pages_written)),
        ])
}

fn metadata_node(metadata: &Metadata) -> Node {
    let mut node = Node::new("Metadata");
    push_present(&mut node, "Pod name", &metadata.pod_name);
    push_present(&mut node, "Kubernetes namespace", &metadata.kubernetes_namespace);
    let annotations = metadata.annotations.iter().map(|(key, value)| annotation(key, value));
    node.push_group(Node::new("Annotations").with(annotations));
    node
}

/// A volume as CRI-O notes it, in the field names of the CRI.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Volume {
    container_path: String,
    host_path: String,
    readonly: bool,
    selinux_relabel: bool,
    recursive_read_only: bool,
    propagation: i64,
}

/// An annotation. JSON that cannot be read is shown as it stands.
fn annotation(key: &str, value: &str) -> Node {
    if NESTED.contains(&key)
        && let Ok(nested @ Value::Object(_)) = serde_json::from_str(value)
    {
        return Node::new(key).with(members(&nested, 0));
    }
    if key == VOLUMES
        && let Ok(volumes) = serde_json::from_str::<Vec<Volume>>(value)
    {
        return Node::new(key).with(volumes.iter().map(|volume| {
            Node::new(&volume.container_path).with([
                Node::new(format!("host path: {}", volume.host_path)),
                Node::new(format!("read-only: {}", volume.readonly)),
                Node::new(format!("selinux relabel: {}", volume.selinux_relabel)),
                Node::new(format!("recursive read-only: {}", volume.recursive_read_only)),
                Node::new(format!("propagation: {}", volume.propagation)),
            ])
        }));
    }
    Node::new(format!("{key}: {value}"))
}

/// The members of an object or an array.
fn members(value: &Value, depth: usize) -> Vec<Node> {
    let member = |key: String, value: &Value| match value {
        Value::Object(_) if depth < MAX_DEPTH => Node::new(format!("{key}:")).with(members(value, depth + 1)),
        Value::Array(_) if depth < MAX_DEPTH => Node::new(format!("{key}: ")).with(members(value, depth + 1)),
        Value::String(text) => Node::new(format!("{key}: {text}")),
        Value::Null => Node::new(format!("{key}: <nil>")),
        other => Node::new(format!("{key}: {other}")),
    };
    match value {
        Value::Object(object) => object.iter().map(|(key, value)| member(key.clone(), value)).collect(),
        Value::Array(array) => {
            array.iter().enumerate().map(|(index, value)| member(format!("[{index}]"), value)).collect()
        }
        _ => Vec::new(),
    }
}

/// What stands for a process: its command line where there is one.
pub(super) fn label(process: &Process) -> &str {
    if process.cmdline.is_empty() { &process.command } else { &process.cmdline }
}

fn process_node(document: &Document, process: &Process) -> Node {
    let state = match process.task_state {
        "Alive" => String::new(),
        state => format!(" ({state})"),
    };
    let mut node = Node::new(format!("[{}{state}]  {}", process.pid, label(process)));
    let variables = process.environment_variables.iter().map(|variable| match &variable.value {
        Some(value) => Node::new(format!("{}={value}", variable.name)),
        None => Node::new(&variable.name),
    });
    node.push_group(Node::new("Environment variables").with(variables));
    for files in document.file_descriptors.iter().filter(|files| files.pid == process.pid) {
        let open = files.open_files.iter().map(|file| Node::new(format!("[{}]  {}", file.fd, file.path)));
        node.push_group(Node::new("Open files").with(open));
    }
    for sockets in document.sockets.iter().filter(|sockets| sockets.pid == process.pid) {
        node.push_group(Node::new("Open sockets").with(sockets.open_sockets.iter().map(socket_node)));
    }
    for child in &process.children {
        node.push(process_node(document, child));
    }
    node
}

fn socket_node(socket: &Socket) -> Node {
    let data = &socket.data;
    let buffers = format!("↑ {} ↓ {}", data.send_buf, data.recv_buf);
    let (protocol, text) = match data.r#type.as_str() {
        "UNIX" => {
            let address = if data.address.is_empty() { "@" } else { data.address.as_str() };
            (format!("UNIX ({})", data.shape), address.to_owned())
        }
        "" => (socket.protocol.clone(), buffers),
        protocol => {
            let state = if protocol == "TCP" && !data.state.is_empty() {
                format!(" ({})", data.state)
            } else {
                String::new()
            };
            let ends = format!("{}:{} -> {}:{}", data.src, data.src_port, data.dst, data.dst_port);
            (format!("{protocol}{state}"), format!("{ends} ({buffers})"))
        }
    };
    Node::new(format!("[{protocol}]  {text}"))
}

#[cfg(test)]
mod tests {
    use super::super::document::{Interface, Mount, Sizes, SocketData};
    use super::*;

    #[test]
    fn a_small_checkpoint() {
        let document = Document {
            container_name: "worker".to_owned(),
            image: "localhost/worker:1".to_owned(),
            engine: "Podman".to_owned(),
            networks: vec![Network {
                name: "podman".to_owned(),
                interfaces: [(
                    "eth0".to_owned(),
                    Interface { ip: "10.88.0.9/16".to_owned(), ..Interface::default() },
                )]
                .into(),
            }],
            checkpoint_size: Sizes { total: 2048, memory_pages: 1024, ..Sizes::default() },
            process_tree: Some(Process {
                pid: 1,
                command: "sh".to_owned(),
                task_state: "Alive",
                children: vec![Process {
                    pid: 6,
                    command: "sleep".to_owned(),
                    task_state: "Zombie",
                    ..Process::default()
                }],
                ..Process::default()
            }),
            mounts: vec![Mount {
                destination: "/proc".to_owned(),
                r#type: "proc".to_owned(),
                source: "proc".to_owned(),
            }],
            ..Document::default()
        };
        assert_eq!(
            tree(&document).lines(),
            "\
worker
├── Image: localhost/worker:1
├── ID: 
├── Runtime: 
├── Created: 
├── Engine: Podman
├── Network Interfaces
│   └── podman (eth0)
│       └── IP: 10.88.0.9/16
├── Checkpoint size: 2.0 KiB
│   └── Memory pages size: 1.0 KiB
├── Process tree
│   └── [1]  sh
│       └── [6 (Zombie)]  sleep
└── Overview of mounts
    └── Destination: /proc
        ├── Type: proc
        └── Source: proc
"
        );
    }

    #[test]
    fn annotations_that_hold_json_are_opened() {
        let lines = |key, value| annotation(key, value).lines();
        assert_eq!(
            lines("io.kubernetes.cri-o.Metadata", r#"{"name":"a","deep":{"n":[1,null]}}"#),
            "io.kubernetes.cri-o.Metadata\n├── deep:\n│   └── n: \n│       ├── [0]: 1\n│       └── [1]: <nil>\n└── name: a\n"
        );
        assert_eq!(lines("io.kubernetes.cri-o.Metadata", "broken"), "io.kubernetes.cri-o.Metadata: broken\n");
        assert!(lines(VOLUMES, r#"[{"container_path":"/a","readonly":true}]"#).contains("read-only: true"));
    }

    #[test]
    fn sockets_of_each_kind() {
        let socket =
            |protocol: &str, data| socket_node(&Socket { protocol: protocol.to_owned(), data }).lines();
        let data = |kind: &str| SocketData {
            r#type: kind.to_owned(),
            state: "LISTEN".to_owned(),
            src: "::".to_owned(),
            src_port: 80,
            dst: "::".to_owned(),
            send_buf: "16.0 KB".to_owned(),
            recv_buf: "0 B".to_owned(),
            shape: "STREAM",
            ..SocketData::default()
        };
        assert_eq!(socket("TCP", data("TCP")), "[TCP (LISTEN)]  :::80 -> :::0 (↑ 16.0 KB ↓ 0 B)\n");
        assert_eq!(socket("UDP", data("UDP")), "[UDP]  :::80 -> :::0 (↑ 16.0 KB ↓ 0 B)\n");
        assert_eq!(socket("", data("UNIX")), "[UNIX (STREAM)]  @\n");
        assert_eq!(socket("RAW", data("")), "[RAW]  ↑ 16.0 KB ↓ 0 B\n");
    }
}

//! The configurations of a pod and a container that are restored: as files have them, as crictl does, or made from what a checkpoint
//! tells.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ability::Restorer;
use crate::container::adoption::outline::Mount;
use crate::container::bound::{self, Bound};

/// More than this is no configuration, in bytes.
const LARGEST: u64 = 1 << 20;
/// What runtimes mount into every container by themselves.
const MADE: [&str; 4] = ["/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/run/.containerenv"];
/// What a runtime mounts by itself as well, where a kubelet does not.
const HOSTS: &str = "/etc/hosts";
/// What CRI-O wants no mount for, whatever its kind (CRI-O, `server/container_restore.go`).
const UNASKED: [&str; 5] = ["/etc/passwd", "/etc/group", "/run/secrets", "/dev/mqueue", "/sys/fs/cgroup"];

/// What a checkpoint tells of its container.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// The namespace and the name of the pod that it was in.
    pub pod: Option<(String, String)>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it was made: the OCI configuration.
    pub spec: Value,
}

/// A file that cannot be taken for a configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a configuration.
///
/// # Errors
/// It is no JSON, or has more than 1 MiB.
pub fn read(path: &Path) -> Result<Value, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    serde_json::from_slice(&bytes).map_err(|source| FileError::Json { path: path.to_owned(), source })
}

/// A pod for a container that was in one, or in none.
pub(super) fn pod(origin: &Origin, uid: &str) -> Value {
    let (namespace, name) = match &origin.pod {
        Some((namespace, name)) => (namespace.as_str(), name.as_str()),
        None => ("default", origin.name.as_str()),
    };
    let host_name = origin.spec["hostname"].as_str().filter(|name| !name.is_empty()).unwrap_or(name);
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": uid},
        "hostname": host_name,
        "log_directory": format!("/var/log/pods/{namespace}_{name}_{uid}"),
        "labels": {
            "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": uid,
        },
        "linux": {"security_context": {"namespace_options": shared(&origin.spec)}},
    })
}

/// Which namespaces are not the container's own: those of the pod, or of the machine.
fn shared(spec: &Value) -> Value {
    let own = spec["linux"]["namespaces"].as_array();
    let has = |kind: &str| own.into_iter().flatten().any(|namespace| namespace["type"] == kind);
    let mode = |kind: &str, own: &'static str| if has(kind) { own } else { "NODE" };
    json!({"network": mode("network", "POD"), "pid": mode("pid", "CONTAINER"), "ipc": mode("ipc", "POD")})
}

/// The container as its checkpoint tells it, in a pod.
pub(super) fn container(origin: &Origin, pod: &Value, is_there: impl Fn(&Path) -> bool) -> Value {
    let spec = &origin.spec;
    let process = &spec["process"];
    let linux = &spec["linux"];
    let mut labels = origin.labels.clone();
    let metadata = &pod["metadata"];
    for (key, value) in [
        ("io.kubernetes.container.name", origin.name.as_str()),
        ("io.kubernetes.pod.name", metadata["name"].as_str().unwrap_or_default()),
        ("io.kubernetes.pod.namespace", metadata["namespace"].as_str().unwrap_or_default()),
        ("io.kubernetes.pod.uid", metadata["uid"].as_str().unwrap_or_default()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let envs = process["env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let envs = envs.filter_map(|variable| variable.split_once('='));
    let bounding = process["capabilities"]["bounding"].as_array().into_iter().flatten();
    let bounding = bounding.filter_map(Value::as_str);
    let seccomp = if linux["seccomp"].is_object() { "RuntimeDefault" } else { "Unconfined" };
    let integer = |value: &Value| value.is_number().then(|| json!({"value": value}));
    let resource = |path: &str| linux["resources"].pointer(path).filter(|value| value.is_number());
    json!({
        "metadata": {"name": origin.name},
        "command": process["args"],
        "working_dir": process["cwd"],
        "envs": envs.map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>(),
        "mounts": given(spec, is_there).iter().map(mount).collect::<Vec<_>>(),
        "labels": labels,
        "log_path": format!("{}_0.log", origin.name),
        "tty": process["terminal"].as_bool().unwrap_or(false),
        "linux": {
            "resources": {
                "cpu_period": resource("/cpu/period"), "cpu_quota": resource("/cpu/quota"),
                "cpu_shares": resource("/cpu/shares"), "memory_limit_in_bytes": resource("/memory/limit"),
                "oom_score_adj": process["oomScoreAdj"],
            },
            "security_context": {
                // What it had, and nothing else.
                "capabilities": {
                    "drop_capabilities": ["ALL"],
                    "add_capabilities": bounding.map(|name| name.trim_start_matches("CAP_")).collect::<Vec<_>>(),
                },
                "namespace_options": shared(spec),
                "run_as_user": integer(&process["user"]["uid"]),
                "run_as_group": integer(&process["user"]["gid"]),
                "supplemental_groups": process["user"]["additionalGids"],
                "readonly_rootfs": spec["root"]["readonly"],
                "no_new_privs": process["noNewPrivileges"],
                "masked_paths": linux["maskedPaths"],
                "readonly_paths": linux["readonlyPaths"],
                "seccomp": {"profile_type": seccomp},
            },
        },
    })
}

/// Mounts from outside that the container is given again, from where they came.
fn given(spec: &Value, is_there: impl Fn(&Path) -> bool) -> Vec<Bound<'_>> {
    let mut all = bound::all(spec);
    // Files that a runtime made for the old pod are not those of the new one.
    let of_old_pod = |mount: &Bound<'_>| mount.from.contains("/sandboxes/");
    all.retain(|mount| {
        !MADE.contains(&mount.at)
            && (mount.at != HOSTS || (!of_old_pod(mount) && is_there(Path::new(mount.from))))
    });
    all
}

fn mount(mount: &Bound<'_>) -> Value {
    let has = |option: &str| mount.options.contains(&option);
    let propagation = match () {
        () if has("rshared") => "PROPAGATION_BIDIRECTIONAL",
        () if has("rslave") => "PROPAGATION_HOST_TO_CONTAINER",
        () => "PROPAGATION_PRIVATE",
    };
    json!({"container_path": mount.at, "host_path": mount.from, "readonly": has("ro"), "propagation": propagation})
}

/// Mounts from outside that the container had, and that this configuration has nothing for.
pub(super) fn missing(spec: &Value, container: &Value, restorer: Restorer) -> Vec<Mount> {
    let mounts = member(container, "mounts").and_then(Value::as_array);
    let given: Vec<&str> = mounts
        .into_iter()
        .flatten()
        .filter_map(|mount| member(mount, "container_path").and_then(Value::as_str))
        .collect();
    let own = |at: &str| match restorer {
        Restorer::Containerd { .. } => at == HOSTS,
        Restorer::CriO => UNASKED.contains(&at),
    };
    let all = bound::all(spec).into_iter();
    all.filter(|mount| !MADE.contains(&mount.at) && !own(mount.at) && !given.contains(&mount.at))
        .map(|mount| Mount { at: mount.at.into(), from: mount.from.to_owned() })
        .collect()
}

/// Mounts of a configuration whose source is not on this machine.
pub(super) fn sourceless(container: &Value, is_there: impl Fn(&Path) -> bool) -> Vec<Mount> {
    let mounts = member(container, "mounts").and_then(Value::as_array).into_iter().flatten();
    mounts
        .filter_map(|mount| {
            let text = |key| member(mount, key).and_then(Value::as_str).unwrap_or_default();
            let (at, from) = (text("container_path"), text("host_path"));
            let is_missing = !from.is_empty() && !is_there(Path::new(from));
            is_missing.then(|| Mount { at: at.into(), from: from.to_owned() })
        })
        .collect()
}

/// A member by its name, in either way to write it.
pub(super) fn member<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    document.as_object()?.iter().find(|(key, _)| plain(key) == plain(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cri::message::{self, encode};

    fn origin() -> Origin {
        let spec = json!({
            "hostname": "web-0",
            "process": {
                "args": ["/bin/web"], "cwd": "/srv", "env": ["PATH=/bin", "EMPTY="], "user": {"uid": 7, "gid": 8},
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]}, "noNewPrivileges": true, "oomScoreAdj": 985,
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/u/etc-hosts", "options": ["rbind"]},
                {"destination": "/etc/resolv.conf", "type": "bind", "source": "/var/lib/x/sandboxes/s/resolv.conf", "options": ["rbind"]},
                {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rslave", "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
                "maskedPaths": ["/proc/keys"], "resources": {"memory": {"limit": 4096}, "cpu": {"shares": 2}},
            },
        });
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        Origin { name: "web".into(), pod: Some(("shop".into(), "web-0".into())), labels, spec }
    }

    #[test]
    fn a_container_is_configured_as_it_was() {
        let origin = origin();
        let pod = pod(&origin, "u2");
        assert_eq!(pod["log_directory"], "/var/log/pods/shop_web-0_u2");
        let container = container(&origin, &pod, |_| true);
        assert_eq!(
            container["linux"]["security_context"]["namespace_options"],
            json!({"network": "POD", "pid": "CONTAINER", "ipc": "NODE"})
        );
        assert_eq!(
            container["linux"]["security_context"]["capabilities"]["add_capabilities"],
            json!(["CHOWN", "KILL"])
        );
        assert_eq!(container["linux"]["resources"]["memory_limit_in_bytes"], 4096);
        assert_eq!(container["labels"]["io.kubernetes.pod.uid"], "u2");
        let mounts = container["mounts"].as_array().unwrap();
        let places: Vec<&str> =
            mounts.iter().map(|mount| mount["container_path"].as_str().unwrap()).collect();
        assert_eq!(places, ["/etc/hosts", "/data"]);
        assert_eq!(mounts[1]["readonly"], true);
        assert_eq!(mounts[1]["propagation"], "PROPAGATION_HOST_TO_CONTAINER");
        encode(message::POD, &pod).unwrap();
        encode(message::CONTAINER, &container).unwrap();
        // One without anything in it is one of the machine's own, in a pod of its name.
        let plain = Origin { name: "one".into(), pod: None, labels: BTreeMap::new(), spec: json!({}) };
        let pod = super::pod(&plain, "u");
        assert_eq!(pod["metadata"]["namespace"], "default");
        encode(message::CONTAINER, &super::container(&plain, &pod, |_| true)).unwrap();
    }

    #[test]
    fn a_kubelets_container_of_cri_o_is_given_what_cri_o_asks_for() {
        // CRI-O 1.37's own document.
        let spec = include_str!("../../../../archive/tests/it/cri_o/spec.dump");
        let spec = serde_json::from_str(spec).unwrap();
        let pod = Some(("default".to_owned(), "c3".to_owned()));
        let origin = Origin { name: "app".into(), pod, labels: BTreeMap::new(), spec };
        let made = container(&origin, &super::pod(&origin, "u2"), |_| true);
        assert_eq!(missing(&origin.spec, &made, Restorer::CriO), []);
        let mounts: Vec<_> =
            made["mounts"].as_array().unwrap().iter().map(|mount| &mount["container_path"]).collect();
        let kubelets =
            ["/etc/hosts", "/dev/termination-log", "/var/run/secrets/kubernetes.io/serviceaccount"];
        assert_eq!(mounts, kubelets);
        assert_eq!(made["mounts"][2]["readonly"], true);
        let none = missing(&origin.spec, &json!({}), Restorer::CriO);
        assert_eq!(none.iter().map(|mount| mount.at.to_str().unwrap()).collect::<Vec<_>>(), kubelets);
        let namespaces = &made["linux"]["security_context"]["namespace_options"];
        assert_eq!(namespaces, &json!({"network": "POD", "pid": "CONTAINER", "ipc": "POD"}));
        encode(message::CONTAINER, &made).unwrap();
    }

    #[test]
    fn mounts_that_nothing_is_given_for_are_told() {
        let origin = origin();
        let places = |mounts: Vec<Mount>| -> Vec<String> {
            mounts.into_iter().map(|mount| mount.at.display().to_string()).collect()
        };
        let containerd = Restorer::Containerd { pulls_always: true };
        let missing = |container: Value, restorer| places(missing(&origin.spec, &container, restorer));
        assert_eq!(missing(json!({}), containerd), ["/data"]);
        assert_eq!(missing(json!({}), Restorer::CriO), ["/etc/hosts", "/data"]);
        let given = json!({"mounts": [{"containerPath": "/data", "hostPath": "/other"}]});
        assert!(missing(given.clone(), containerd).is_empty());
        assert_eq!(places(sourceless(&given, |path| path != Path::new("/other"))), ["/data"]);
        // The kubelet that had /etc/hosts is not on this machine.
        let made = container(&origin, &pod(&origin, "u"), |path| path == Path::new("/srv/data"));
        assert_eq!(places(sourceless(&made, |path| path == Path::new("/srv/data"))), Vec::<String>::new());
    }
}

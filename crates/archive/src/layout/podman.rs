//! What Podman reads: `libpod/container_config.go` has the fields of `config.dump`.

use serde_json::{Value, json};

use super::images::{Images, Network, is_made};
use super::{Description, LayoutError, Obstacle, Request, Target};
use crate::Checkpoint;
use crate::engine::{Engine, document, volumes};
use crate::source::{EntryKind, Limits, each_nested};

/// Bytes of `/dev/shm`, as Podman has it.
const SHARED_MEMORY: u64 = 65_536_000;

/// `config.dump`, `spec.dump` and `network.status`.
pub(super) fn documents(
    description: &Description,
    images: &Images,
    request: &Request,
    obstacles: &mut Vec<Obstacle>,
) -> Vec<(&'static str, Vec<u8>)> {
    for (kind, shared) in [("pid", "PID"), ("cgroup", "control group")] {
        if matches!(description.namespace(kind), Some(Some(_))) {
            obstacles.push(Obstacle::SharedNamespace { kind: shared });
        }
    }
    let spec = spec(description, images.network, request, obstacles);
    let config = config(description, images.network, &spec, obstacles);
    let text = |value: &Value| value.to_string().into_bytes();
    vec![("config.dump", text(&config)), ("spec.dump", text(&spec)), ("network.status", b"null".to_vec())]
}

fn config(description: &Description, network: Network, spec: &Value, obstacles: &mut Vec<Obstacle>) -> Value {
    let image = description.image.as_deref().unwrap_or_else(|| {
        obstacles.push(Obstacle::NoImage);
        ""
    });
    let id = description.image_id.as_deref().unwrap_or_else(|| {
        if !image.is_empty() {
            obstacles.push(Obstacle::NoImageId { image: image.to_owned() });
        }
        ""
    });
    // containerd's name of a runtime is one that Podman does not know; it takes its own default anyway.
    let runtime = description.runtime.as_deref().filter(|name| !name.contains('.')).unwrap_or("runc");
    let mode = match network {
        Network::Host => "host",
        Network::External => "bridge",
        Network::Empty => "none",
    };
    json!({
        "spec": spec,
        "id": description.id,
        "name": description.name,
        "lockID": 0,
        "RawImageName": image,
        "idMappingsOptions": {"HostUIDMapping": true, "HostGIDMapping": true},
        "rootfsImageID": id,
        "rootfsImageName": image,
        "shmSize": SHARED_MEMORY,
        "shmSizeSystemd": 0,
        "staticDir": "",
        "secretsPath": "",
        "storageOpts": null,
        "privileged": false,
        "createNetNS": network == Network::External,
        "networkMode": mode,
        "command": spec["process"]["args"],
        "labels": description.labels,
        "stopSignal": 15,
        "stopTimeout": 10,
        "createdTime": Description::time(description.created),
        "cgroupsMode": "enabled",
        "cgroupParent": "",
        "logPath": "",
        "logDriver": "k8s-file",
        "runtime": runtime,
    })
}

/// The container's specification without what was of its engine or its machine.
fn spec(
    description: &Description,
    network: Network,
    request: &Request,
    obstacles: &mut Vec<Obstacle>,
) -> Value {
    let Some(mut spec) = description.spec.clone().filter(Value::is_object) else {
        obstacles.push(Obstacle::NoSpec);
        return json!({});
    };
    let mapped = |key: &str| spec["linux"][key].as_array().is_some_and(|maps| !maps.is_empty());
    if mapped("uidMappings") || mapped("gidMappings") {
        obstacles.push(Obstacle::UserNamespace);
    }
    let bind = |mount: &Value| {
        let options = mount["options"].as_array().map_or(&[][..], Vec::as_slice);
        mount["type"] == "bind" || options.iter().any(|option| *option == "bind" || *option == "rbind")
    };
    let mounts = spec["mounts"].as_array().map_or(&[][..], Vec::as_slice);
    let mut kept: Vec<Value> = Vec::new();
    for mount in mounts {
        let destination = mount["destination"].as_str().unwrap_or_default();
        let given = request.mounts.iter().find(|given| given.destination == destination);
        if let Some(source) = given.and_then(|given| given.source.as_deref()) {
            let mut mount = mount.clone();
            mount["source"] = json!(source);
            kept.push(mount);
        } else if !bind(mount) && !is_made(Target::Podman, network, destination) {
            kept.push(mount.clone());
        }
    }
    spec["mounts"] = json!(kept);
    let namespaces = spec["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let namespaces = namespaces.iter().map(|namespace| json!({"type": namespace["type"]}));
    spec["linux"]["namespaces"] = namespaces.collect();
    spec["annotations"] = json!({"io.container.manager": "libpod"});
    if let Some(object) = spec.as_object_mut() {
        // Hooks are programs of the machine it comes from.
        object.remove("hooks");
    }
    for (object, keys) in [("linux", &["cgroupsPath", "mountLabel"][..]), ("process", &["selinuxLabel"])] {
        if let Some(object) = spec[object].as_object_mut() {
            object.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
    spec
}

/// Names what Podman has in a checkpoint and no other engine has a place for: the content of volumes and of `/dev/shm`.
pub(super) fn left_behind(
    checkpoint: &Checkpoint,
    description: &Description,
    target: Target,
    request: &Request,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), LayoutError> {
    if target == Target::Podman || description.engine != Engine::Podman {
        return Ok(());
    }
    let config = document(checkpoint, "config.dump")?;
    let named = config.as_ref().and_then(|config| config["namedVolumes"].as_array());
    for volume in volumes(checkpoint) {
        let destination = named
            .into_iter()
            .flatten()
            .find(|named| named["volumeName"] == volume.name.as_str())
            .and_then(|named| named["dest"].as_str())
            .unwrap_or(&volume.name)
            .to_owned();
        let wanted = request.without_mounts.contains(&destination)
            || request.mounts.iter().any(|given| given.destination == destination);
        let Some(entry) = checkpoint.entry(&volume.entry).filter(|_| !wanted) else { continue };
        let mut has_content = false;
        if entry.kind == EntryKind::File && entry.size > 0 {
            each_nested(checkpoint.source(), entry, &Limits::default(), |inner| {
                has_content |= inner.name != ".";
            })?;
        }
        if has_content {
            obstacles.push(Obstacle::Content { destination });
        }
    }
    Ok(())
}

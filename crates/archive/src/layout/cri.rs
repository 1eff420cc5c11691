//! What containerd and CRI-O read when a container is created from a checkpoint (checkpointctl `lib/metadata.go`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Description, Note, Obstacle, Request, Target};

/// What the kubelet writes on a container (kubernetes, `pkg/kubelet/kuberuntime/labels.go`). Who restores puts the new container's hash
/// in place of the old one's, where there is an old one; without it the kubelet finds that the container is not the one it asked for, and
/// starts it anew. These stand for what a checkpoint does not tell.
const OF_THE_KUBELET: [(&str, &str); 5] = [
    ("io.kubernetes.container.hash", "0"),
    ("io.kubernetes.container.restartCount", "0"),
    ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
    ("io.kubernetes.container.terminationMessagePolicy", "File"),
    ("io.kubernetes.pod.terminationGracePeriod", "30"),
];
/// Where CRI-O keeps the annotations that it was given for a container.
const GIVEN: &str = "io.kubernetes.cri-o.Annotations";

/// The documents beside the images.
pub(super) fn documents(
    description: &Description,
    target: Target,
    request: &Request,
    obstacles: &mut Vec<Obstacle>,
    notes: &mut Vec<Note>,
) -> Vec<(&'static str, Vec<u8>)> {
    let Some(spec) = description.spec.as_ref().filter(|spec| spec.is_object()) else {
        obstacles.push(Obstacle::NoSpec);
        return Vec::new();
    };
    let mapped = |key: &str| spec["linux"][key].as_array().is_some_and(|maps| !maps.is_empty());
    if mapped("uidMappings") || mapped("gidMappings") {
        obstacles.push(Obstacle::UserNamespace);
    }
    let image = description.image.as_deref().unwrap_or_default();
    let reference = description.image_reference.as_deref();
    match (image, reference) {
        ("", None) => obstacles.push(Obstacle::NoImage),
        (_, _) if request.has_image => {}
        (image, _) if image.starts_with("localhost/") => {
            obstacles.push(Obstacle::LocalImage { image: image.to_owned() });
        }
        (image, None) if target == Target::Containerd => {
            notes.push(Note::ImageByName { image: image.to_owned() });
        }
        _ => {}
    }
    let text = |value: &Value| value.to_string().into_bytes();
    let mut documents = vec![
        ("config.dump", text(&config(description, target))),
        ("spec.dump", text(&noted(description, target, spec))),
    ];
    if target == Target::Containerd {
        documents.push(("status.dump", text(&container_status(description))));
        documents.push(("status", text(&status(description))));
    }
    documents
}

fn config(description: &Description, target: Target) -> Value {
    let image = description.image.as_deref().unwrap_or_default();
    let reference = description.image_reference.as_deref();
    // CRI-O takes nothing but an ID here, and looks for the image by its name where there is none.
    let id = description.image_id.as_deref().filter(|id| is_image_id(id)).unwrap_or_default();
    let (reference, runtime, name) = match target {
        Target::CriO => (id, "runc", description.name.clone()),
        _ => {
            let (pod, namespace, uid) = pod(description);
            let name = format!("{}_{pod}_{namespace}_{uid}_0", description.name);
            (reference.unwrap_or(image), "io.containerd.runc.v2", name)
        }
    };
    json!({
        "id": description.id,
        "name": name,
        "rootfsImage": image,
        "rootfsImageRef": reference,
        "rootfsImageName": image,
        "runtime": runtime,
        "createdTime": Description::time(description.created),
        "checkpointedTime": Description::time(description.checkpointed),
        "restoredTime": Description::time(None),
        "restored": false,
    })
}

/// Whether it is what Podman and CRI-O call images by (containers/storage: 64 hexadecimal digits).
fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The pod's name, its namespace and UID. A container that was in none gets one of its name.
fn pod(description: &Description) -> (&str, &str, &str) {
    let pod = description.pod.as_ref();
    fn text<'a>(text: Option<&'a String>, other: &'a str) -> &'a str {
        text.map_or(other, String::as_str)
    }
    (
        text(pod.and_then(|pod| pod.name.as_ref()), &description.name),
        text(pod.and_then(|pod| pod.namespace.as_ref()), "default"),
        text(pod.and_then(|pod| pod.uid.as_ref()), &description.id),
    )
}

/// The annotations that a container was given by its kubelet, as far as that is known.
fn given(description: &Description) -> BTreeMap<String, String> {
    let spec = description.spec.as_ref();
    let kept = spec.and_then(|spec| spec["annotations"][GIVEN].as_str());
    let mut given: BTreeMap<String, String> =
        kept.and_then(|kept| serde_json::from_str(kept).ok()).unwrap_or_default();
    for (key, usual) in OF_THE_KUBELET {
        given.entry(key.to_owned()).or_insert_with(|| usual.to_owned());
    }
    given
}

/// The specification with the annotations that the engine knows its containers by.
fn noted(description: &Description, target: Target, spec: &Value) -> Value {
    let (pod, namespace, uid) = pod(description);
    let image = description.image.as_deref().unwrap_or_default();
    let mut spec = spec.clone();
    if let Some(object) = spec.as_object_mut() {
        // Hooks are programs of the machine it comes from.
        object.remove("hooks");
    }
    spec["annotations"] = match target {
        Target::CriO => json!({
            "io.container.manager": "cri-o",
            "io.kubernetes.container.name": description.name,
            "io.kubernetes.pod.name": pod,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": uid,
            GIVEN: json!(given(description)).to_string(),
            "io.kubernetes.cri-o.ContainerType": "container",
            "io.kubernetes.cri-o.ImageName": image,
            "io.kubernetes.cri-o.ImageRef": description.image_id.as_deref().unwrap_or_default(),
            "io.kubernetes.cri-o.Labels": json!(description.labels).to_string(),
            "io.kubernetes.cri-o.Metadata": json!({"name": description.name}).to_string(),
            "io.kubernetes.cri-o.SandboxID": description.pod.as_ref().and_then(|pod| pod.sandbox.as_deref()).unwrap_or_default(),
        }),
        _ => json!({
            "io.kubernetes.cri.container-name": description.name,
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.image-name": image,
            "io.kubernetes.cri.sandbox-id": description.pod.as_ref().and_then(|pod| pod.sandbox.as_deref()).unwrap_or_default(),
            "io.kubernetes.cri.sandbox-name": pod,
            "io.kubernetes.cri.sandbox-namespace": namespace,
            "io.kubernetes.cri.sandbox-uid": uid,
        }),
    };
    spec
}

/// Nanoseconds since 1970.
fn nanoseconds(description: &Description) -> i64 {
    let moment = description.created.or(description.checkpointed);
    moment.and_then(|moment| i64::try_from(moment.as_nanosecond()).ok()).unwrap_or(0)
}

/// `ContainerStatus` of the CRI, running.
fn container_status(description: &Description) -> Value {
    const RUNNING: u32 = 1;
    let image = description.image.as_deref().unwrap_or_default();
    json!({
        "id": description.id,
        "metadata": {"name": description.name},
        "state": RUNNING,
        "created_at": nanoseconds(description),
        "started_at": nanoseconds(description),
        "image": {"image": image},
        "image_ref": description.image_reference.as_deref().unwrap_or(image),
        "labels": description.labels,
        "annotations": given(description),
    })
}

/// containerd's own record of a container's state.
fn status(description: &Description) -> Value {
    json!({
        "Version": "v1",
        "Pid": 0,
        "CreatedAt": nanoseconds(description),
        "StartedAt": nanoseconds(description),
        "FinishedAt": 0,
        "ExitCode": 0,
        "Reason": "",
        "Message": "",
        "Resources": {"linux": {}},
        "Restore": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_digits_alone() {
        assert!(is_image_id(&"0af9".repeat(16)));
        let digest = format!("sha256:{}", "0af9".repeat(16));
        for other in ["", "busybox:1", "0af9", digest.as_str()] {
            assert!(!is_image_id(other), "{other}");
        }
    }
}

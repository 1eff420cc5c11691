//! What containerd and CRI-O read when a container is created from a checkpoint (checkpointctl `lib/metadata.go`).

use serde_json::{Value, json};

use super::{Description, Note, Obstacle, Request, Target};

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
    let id = description.image_id.as_deref();
    let (reference, runtime, name) = match target {
        // CRI-O looks for the image by its ID.
        Target::CriO => (id.or(reference).unwrap_or(image), "runc", description.name.clone()),
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
            "io.kubernetes.cri-o.Annotations": "{}",
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
        "annotations": {},
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

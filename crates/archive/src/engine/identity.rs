//! Which container a checkpoint is of.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Engine, EngineError, annotation, document, text};
use crate::Checkpoint;

/// A container, as far as its engine told about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Who made the checkpoint.
    pub engine: Engine,
    /// The container's name; with Kubernetes the one in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The pod it was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The image it was started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// What ran it, such as `runc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Its command line, as the engine gave it.
    pub command: Vec<String>,
    /// Its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When the checkpoint was made; where the engine does not say, by the time of its images in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpointed: Option<Timestamp>,
    /// When it was restored before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<Timestamp>,
    /// What the engine and its users noted about it.
    pub annotations: BTreeMap<String, String>,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The id of its sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An image, by its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its name with the tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the user asked for, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// Its id or digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Which container this checkpoint is of.
///
/// # Errors
/// Where `config.dump` or `spec.dump` is there and cannot be read.
pub fn container(checkpoint: &Checkpoint) -> Result<Container, EngineError> {
    let spec = document(checkpoint, "spec.dump")?;
    let config = document(checkpoint, "config.dump")?;
    let engine = Engine::of(checkpoint)?;
    if engine == Engine::Torpor {
        return Ok(stored(document(checkpoint, crate::source::MANIFEST)?.as_ref()));
    }
    let mut container = of_documents(engine, spec.as_ref(), config.as_ref());
    if container.checkpointed.is_none() {
        container.checkpointed = time_of_images(checkpoint);
    }
    Ok(container)
}

fn of_documents(engine: Engine, spec: Option<&Value>, config: Option<&Value>) -> Container {
    let note = |key: &str| annotation(spec, key).filter(|text| !text.is_empty()).map(str::to_owned);
    let name_in_pod = match engine {
        Engine::CriO => note("io.kubernetes.container.name").or_else(|| name_by_crio(spec)),
        Engine::Containerd => note("io.kubernetes.cri.container-name"),
        _ => None,
    };
    // Under a kubelet CRI-O was asked for the image by its ID.
    let known = ["rootfsImageName", "rootfsImageRef"].map(|key| text(config, key));
    let requested = text(config, "rootfsImage").filter(|image| !known.contains(&Some(image.clone())));
    let image = Image {
        name: text(config, "rootfsImageName")
            .or_else(|| note("io.kubernetes.cri.image-name"))
            .or_else(|| note("io.kubernetes.cri-o.ImageName")),
        requested,
        id: text(config, "rootfsImageRef")
            .or_else(|| text(config, "rootfsImageID"))
            .or_else(|| note("io.kubernetes.cri-o.ImageRef")),
    };
    let process = spec.and_then(|spec| spec.get("process"));
    let time = |key: &str| text(config, key).and_then(|text| moment(&text));
    Container {
        engine,
        name: name_in_pod.or_else(|| text(config, "name")),
        id: text(config, "id"),
        pod: pod(engine, spec, config),
        image: (image.name.is_some() || image.id.is_some()).then_some(image),
        runtime: text(config, "runtime"),
        command: strings(process.and_then(|process| process.get("args"))),
        host_name: text(spec, "hostname"),
        created: time("createdTime"),
        checkpointed: time("checkpointedTime"),
        restored: time("restoredTime"),
        annotations: annotations(spec),
    }
}

fn pod(engine: Engine, spec: Option<&Value>, config: Option<&Value>) -> Option<Pod> {
    let note = |key: &str| annotation(spec, key).filter(|text| !text.is_empty()).map(str::to_owned);
    let pod = match engine {
        Engine::CriO => Pod {
            name: note("io.kubernetes.pod.name"),
            namespace: note("io.kubernetes.pod.namespace"),
            uid: note("io.kubernetes.pod.uid"),
            sandbox: note("io.kubernetes.cri-o.SandboxID"),
        },
        Engine::Containerd => Pod {
            name: note("io.kubernetes.cri.sandbox-name"),
            namespace: note("io.kubernetes.cri.sandbox-namespace"),
            uid: note("io.kubernetes.cri.sandbox-uid"),
            sandbox: note("io.kubernetes.cri.sandbox-id"),
        },
        Engine::Podman => Pod { name: None, namespace: None, uid: None, sandbox: text(config, "pod") },
        _ => return None,
    };
    let known = [&pod.name, &pod.namespace, &pod.uid, &pod.sandbox].into_iter().any(Option::is_some);
    known.then_some(pod)
}

/// A generation of Torpor's, from what its store knows.
fn stored(manifest: Option<&Value>) -> Container {
    let facts = manifest.and_then(|manifest| manifest.get("facts"));
    let program = facts.and_then(|facts| facts.get("program"));
    let machine = facts.and_then(|facts| facts.get("machine"));
    let mut container = of_documents(Engine::Torpor, None, None);
    container.name = text(manifest, "name");
    container.image =
        text(program, "image").map(|name| Image { name: Some(name), requested: None, id: None });
    container.command = strings(facts.and_then(|facts| facts.get("command")));
    container.host_name = text(machine, "hostName");
    container.checkpointed = text(manifest, "created").and_then(|text| moment(&text));
    match facts.filter(|facts| facts["kind"] == "container") {
        Some(facts) => kept(container, facts),
        None => container,
    }
}

/// A container of an engine's, which Torpor keeps.
fn kept(mut container: Container, facts: &Value) -> Container {
    let facts_of = Some(facts);
    let place = facts.get("pod");
    let own = facts["names"].as_array().and_then(|names| names.first()).and_then(Value::as_str);
    container.name = text(place, "container").or_else(|| own.map(str::to_owned)).or(container.name);
    container.id = text(facts_of, "id");
    container.runtime = text(facts_of, "runtime");
    let image = Image { name: text(facts_of, "image"), requested: None, id: text(facts_of, "imageId") };
    container.image = (image.name.is_some() || image.id.is_some()).then_some(image);
    container.pod = place.map(|place| Pod {
        name: text(Some(place), "pod"),
        namespace: text(Some(place), "namespace"),
        uid: None,
        sandbox: None,
    });
    container.host_name = text(facts.get("config"), "hostname").or(container.host_name);
    container.annotations = annotations(facts.get("config"));
    container
}

fn annotations(spec: Option<&Value>) -> BTreeMap<String, String> {
    let all = spec.and_then(|spec| spec.get("annotations")).and_then(Value::as_object);
    all.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The name in what CRI-O keeps of the request for the container (`io.kubernetes.cri-o.Metadata`, a document in a text).
fn name_by_crio(spec: Option<&Value>) -> Option<String> {
    let metadata: Value = serde_json::from_str(annotation(spec, "io.kubernetes.cri-o.Metadata")?).ok()?;
    text(Some(&metadata), "name")
}

/// A moment in RFC 3339; none, too, for the year 1, which Go writes for none.
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|moment: &Timestamp| moment.as_second() > 0)
}

/// When the newest image in an archive was written. Files that lie around say nothing: copying changes their time.
fn time_of_images(checkpoint: &Checkpoint) -> Option<Timestamp> {
    let images = checkpoint.images(checkpoint.layers().first()?);
    let newest = images.filter(|(_, entry)| entry.offset.is_some()).map(|(_, entry)| entry.modified).max()?;
    Timestamp::from_second(newest).ok().filter(|moment| moment.as_second() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_of_containerd() {
        let spec = json!({
            "hostname": "web-0",
            "process": { "args": ["nginx", "-g", "daemon off;"] },
            "annotations": {
                "io.kubernetes.cri.container-name": "nginx",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.sandbox-uid": "7",
            },
        });
        let config = json!({
            "id": "abc", "name": "nginx_web-0_shop_7_0",
            "rootfsImage": "docker.io/library/nginx:1", "rootfsImageName": "docker.io/library/nginx:1",
            "rootfsImageRef": "sha256:1", "runtime": "io.containerd.runc.v2",
            "createdTime": "2026-03-04T05:06:07.8Z", "restoredTime": "0001-01-01T00:00:00Z",
        });
        let container = of_documents(Engine::Containerd, Some(&spec), Some(&config));
        assert_eq!(container.name.as_deref(), Some("nginx"));
        assert_eq!(container.pod.unwrap().namespace.as_deref(), Some("shop"));
        let image = container.image.unwrap();
        assert_eq!((image.requested, image.id.as_deref()), (None, Some("sha256:1")));
        assert_eq!(container.created.unwrap().to_string(), "2026-03-04T05:06:07.8Z");
        assert_eq!(container.restored, None);
    }

    #[test]
    fn documents_of_any_shape_are_taken() {
        let odd = json!({ "annotations": [1], "process": { "args": "x" }, "hostname": 5, "id": {} });
        let container = of_documents(Engine::CriO, Some(&odd), Some(&odd));
        assert_eq!((container.id, container.pod, container.command.len()), (None, None, 0));
    }
}

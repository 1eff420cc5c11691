//! What tells that an image is a checkpoint.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::layout::Description;

/// The annotation of an image with a checkpoint that Torpor restores: the container's name.
pub const CHECKPOINT: &str = "torpor.dev/checkpoint";

/// What each engine looks for: CRI-O for `io.kubernetes.cri-o.annotations.checkpoint.name`, Podman for
/// `io.podman.annotations.checkpoint.runtime.name`, containerd for `org.criu.checkpoint.container.name`. The rest is what they and
/// checkpointctl (`lib/annotations.go`) write.
#[must_use]
pub fn annotations(description: &Description, engine: Engine) -> BTreeMap<String, String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let image = text(&description.image);
    let id = text(&description.image_id);
    let pod = description.pod.as_ref();
    let of_pod = |part: Option<&String>| part.cloned().unwrap_or_default();
    // Podman restores only what its own runtime has checkpointed, by the runtime's name.
    let runtime = text(&description.runtime);
    let runtime = if runtime.is_empty() || runtime.contains('.') { "runc".to_owned() } else { runtime };
    let (criu, podman, crio) = (
        "org.criu.checkpoint",
        "io.podman.annotations.checkpoint",
        "io.kubernetes.cri-o.annotations.checkpoint",
    );
    let name = &description.name;
    let pairs = [
        (criu, "engine.name", engine.to_string()),
        (criu, "container.name", name.clone()),
        (criu, "pod.name", of_pod(pod.and_then(|pod| pod.name.as_ref()))),
        (criu, "pod.namespace", of_pod(pod.and_then(|pod| pod.namespace.as_ref()))),
        (criu, "pod.uid", of_pod(pod.and_then(|pod| pod.uid.as_ref()))),
        (criu, "rootfsImageUserRequested", image.clone()),
        (criu, "rootfsImageName", image.clone()),
        (criu, "rootfsImageID", id.clone()),
        (criu, "runtime.name", runtime.clone()),
        (podman, "name", name.clone()),
        (podman, "rawImageName", image.clone()),
        (podman, "rootfsImageName", image.clone()),
        (podman, "rootfsImageID", id.clone()),
        (podman, "runtime.name", runtime),
        (crio, "name", name.clone()),
        (crio, "rawImageName", image.clone()),
        (crio, "rootfsImageName", image),
        (crio, "rootfsImageID", id),
    ];
    let present = pairs.into_iter().filter(|(_, _, value)| !value.is_empty());
    present.map(|(family, key, value)| (format!("{family}.{key}"), value)).collect()
}

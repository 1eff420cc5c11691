//! What an engine writes about a container's place in a pod: annotations of its configuration.
//!
//! containerd: `internal/cri/annotations/annotations.go`. CRI-O: `internal/annotations/annotations.go`, and the kubelet's labels of the
//! container (`pkg/kubelet/types/labels.go`), which `internal/factory/container/container.go` adds last. Both add annotations of the pod
//! first, CRI-O all that it does not know. So an engine's own are its own, but a pod may have written what another engine would: what
//! counts is who wrote the configuration, and where two seem to have, nothing.

use std::collections::BTreeMap;

/// An engine that makes pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Containerd,
    CriO,
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// `sandbox`, or `container`.
    Kind,
    /// The pod's namespace.
    Namespace,
    /// The pod's name.
    Pod,
    /// What tells the pod from others of its name.
    Uid,
    /// The container's name in the pod.
    Container,
    /// The ID of the pod's sandbox.
    Sandbox,
}

impl Fact {
    fn key(self, writer: Writer) -> &'static str {
        match (writer, self) {
            (Writer::Containerd, Fact::Kind) => "io.kubernetes.cri.container-type",
            (Writer::Containerd, Fact::Namespace) => "io.kubernetes.cri.sandbox-namespace",
            (Writer::Containerd, Fact::Pod) => "io.kubernetes.cri.sandbox-name",
            (Writer::Containerd, Fact::Uid) => "io.kubernetes.cri.sandbox-uid",
            (Writer::Containerd, Fact::Container) => "io.kubernetes.cri.container-name",
            (Writer::Containerd, Fact::Sandbox) => "io.kubernetes.cri.sandbox-id",
            (Writer::CriO, Fact::Kind) => "io.kubernetes.cri-o.ContainerType",
            (Writer::CriO, Fact::Namespace) => "io.kubernetes.pod.namespace",
            (Writer::CriO, Fact::Pod) => "io.kubernetes.pod.name",
            (Writer::CriO, Fact::Uid) => "io.kubernetes.pod.uid",
            (Writer::CriO, Fact::Container) => "io.kubernetes.container.name",
            (Writer::CriO, Fact::Sandbox) => "io.kubernetes.cri-o.SandboxID",
        }
    }
}

/// Two engines seem to have written a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("annotations of both containerd and CRI-O tell of its pod")]
pub struct TwoEngines;

/// The annotations of a container in a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodAnnotations<'a> {
    writer: Writer,
    all: &'a BTreeMap<String, String>,
}

impl<'a> PodAnnotations<'a> {
    /// Those of a configuration; none where no engine that makes pods wrote it.
    ///
    /// # Errors
    /// It cannot be told which one did.
    pub(crate) fn of(all: &'a BTreeMap<String, String>) -> Result<Option<PodAnnotations<'a>>, TwoEngines> {
        let by = |writer| all.contains_key(Fact::Kind.key(writer));
        match (by(Writer::Containerd), by(Writer::CriO)) {
            (true, true) => Err(TwoEngines),
            (true, false) => Ok(Some(PodAnnotations { writer: Writer::Containerd, all })),
            (false, true) => Ok(Some(PodAnnotations { writer: Writer::CriO, all })),
            (false, false) => Ok(None),
        }
    }

    /// One of them.
    pub(crate) fn get(&self, fact: Fact) -> Option<&'a str> {
        self.all.get(fact.key(self.writer)).map(String::as_str)
    }

    /// Whether it is the pod's sandbox itself.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.get(Fact::Kind) == Some("sandbox")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_tells_by_its_own_keys_alone() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let crio =
            [("io.kubernetes.cri-o.ContainerType", "container"), ("io.kubernetes.pod.namespace", "shop")];
        // What a pod wrote to be taken for one of another namespace.
        let spoofed = ("io.kubernetes.cri.sandbox-namespace", "victim");
        let all = map(&[crio[0], crio[1], spoofed]);
        let found = PodAnnotations::of(&all).unwrap().unwrap();
        assert_eq!(found.get(Fact::Namespace), Some("shop"));
        let all = map(&[crio[0], crio[1], spoofed, ("io.kubernetes.cri.container-type", "container")]);
        assert_eq!(PodAnnotations::of(&all).map(drop), Err(TwoEngines));
        let containerd = [
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.pod.namespace", "victim"),
        ];
        let all = map(&containerd);
        let found = PodAnnotations::of(&all).unwrap().unwrap();
        assert_eq!((found.get(Fact::Namespace), found.is_sandbox()), (Some("shop"), true));
        assert!(PodAnnotations::of(&map(&[spoofed])).unwrap().is_none());
    }
}

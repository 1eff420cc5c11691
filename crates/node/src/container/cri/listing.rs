//! The calls that tell which pods and containers there are.
//!
//! kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto`.

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{Cri, CriError, PATIENCE};

/// Who a pod is: a runtime has one of a kind. `PodSandboxMetadata`, without what it counts.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
pub(super) struct PodIdentity {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

/// `ListPodSandboxRequest`, for all of them.
#[derive(Clone, PartialEq, Message)]
struct AskPods {}

/// `ListPodSandboxResponse`.
#[derive(Clone, PartialEq, Message)]
struct Pods {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Pod>,
}

/// `PodSandbox`.
#[derive(Clone, PartialEq, Message)]
struct Pod {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodIdentity>,
}

/// `ListContainersRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskContainers {
    #[prost(message, optional, tag = "1")]
    filter: Option<Filter>,
}

/// `ContainerFilter`.
#[derive(Clone, PartialEq, Message)]
struct Filter {
    #[prost(string, tag = "3")]
    pod_sandbox_id: String,
}

/// `ListContainersResponse`.
#[derive(Clone, PartialEq, Message)]
struct Containers {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Listed>,
}

/// `Container`.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Named>,
}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// `ContainerStatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskContainer {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// `ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

/// `ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    /// In nanoseconds since 1970; 0 where it was not.
    #[prost(int64, tag = "5")]
    started_at: i64,
}

impl Cri {
    /// The IDs of the sandboxes of a pod.
    pub(super) fn pods(&self, identity: &PodIdentity) -> Result<Vec<String>, CriError> {
        let told: Pods = self.call("ListPodSandbox", &AskPods {}, Some(PATIENCE))?;
        let is_it = |pod: &Pod| pod.metadata.as_ref() == Some(identity);
        Ok(told.items.into_iter().filter(is_it).map(|pod| pod.id).collect())
    }

    /// The IDs of the containers in a sandbox, of this name where one is given.
    pub(super) fn containers(&self, pod: &str, name: Option<&str>) -> Result<Vec<String>, CriError> {
        let request = AskContainers { filter: Some(Filter { pod_sandbox_id: pod.to_owned() }) };
        let told: Containers = self.call("ListContainers", &request, Some(PATIENCE))?;
        let is_it = |container: &Listed| {
            name.is_none_or(|name| container.metadata.as_ref().is_some_and(|named| named.name == name))
        };
        Ok(told.containers.into_iter().filter(is_it).map(|container| container.id).collect())
    }

    /// Whether a container was ever started, which a restore is over with.
    pub(super) fn was_started(&self, container: &str) -> Result<bool, CriError> {
        let request = AskContainer { container_id: container.to_owned() };
        let told: Told = self.call("ContainerStatus", &request, Some(PATIENCE))?;
        Ok(told.status.is_some_and(|status| status.started_at > 0))
    }
}

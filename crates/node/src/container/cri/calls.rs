//! The calls by which a container of a pod is made, looked at and removed, and an image is pulled.
//!
//! kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto`. What runtimes tell of themselves beyond it: containerd
//! `internal/cri/server/status.go` and `internal/cri/types/sandbox_info.go`, CRI-O `server/inspect.go`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Empty as NoBody, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::Value;
use tokio::net::UnixStream;

use super::ability::{self, Restorer, Unable};
use super::{Cri, CriError, Empty, LARGEST, PATIENCE};
use crate::container::state::Engine;

const IMAGES: &str = "runtime.v1.ImageService";
const TASKS: &str = "containerd.services.tasks.v1.Tasks";
/// How long it may take to make something: a restore copies all that is in a checkpoint.
const WORK: Duration = Duration::from_secs(600);

/// `RunPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
struct RunPod {
    #[prost(bytes = "vec", tag = "1")]
    config: Vec<u8>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
}

/// `CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    sandbox_config: Vec<u8>,
}

/// Requests that name a pod or a container, and answers that do.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

/// `ContainerStatusRequest`, `PodSandboxStatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

/// `StatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskRuntime {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

/// `ContainerStatusResponse`, `PodSandboxStatusResponse` and `StatusResponse`, of which the last says the same in its first field as the
/// others, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(btree_map = "string, string", tag = "2")]
    info: BTreeMap<String, String>,
}

/// `PodSandboxStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct ToldPod {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
    #[prost(btree_map = "string, string", tag = "2")]
    info: BTreeMap<String, String>,
}

/// `PodSandboxStatus`.
#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    /// 0 is ready.
    #[prost(int32, tag = "3")]
    state: i32,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// `ImageStatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskImage {
    #[prost(message, optional, tag = "1")]
    image: Option<Id>,
}

/// `ImageStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct ToldImage {
    #[prost(message, optional, tag = "1")]
    image: Option<Id>,
}

/// `PullImageRequest`.
#[derive(Clone, PartialEq, Message)]
struct Pull {
    #[prost(message, optional, tag = "1")]
    image: Option<Id>,
    #[prost(message, optional, tag = "2")]
    auth: Option<Login>,
    #[prost(bytes = "vec", tag = "3")]
    sandbox_config: Vec<u8>,
}

/// What lets somebody in at a registry: `AuthConfig` of the container runtime interface.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Login {
    /// A name.
    #[prost(string, tag = "1")]
    pub username: String,
    /// Its password.
    #[prost(string, tag = "2")]
    pub password: String,
    /// The registry.
    #[prost(string, tag = "4")]
    pub server_address: String,
    /// A token that others are had for, in place of name and password.
    #[prost(string, tag = "5")]
    pub identity_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, ..)", self.server_address)
    }
}

/// What is known of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KnownPod {
    /// Whether containers can be made in it.
    pub(super) is_ready: bool,
    /// Its configuration: as it was given, where the runtime tells that, or else who it is.
    pub(super) config: Value,
}

impl Cri {
    /// The runtime's name and version, and whether it restores a container that it is told to create from a checkpoint.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn restorer(&self) -> Result<(String, String, Result<Restorer, Unable>), CriError> {
        let (name, version) = self.version()?;
        let configuration = match name.as_str() {
            "cri-o" => self.get("/config")?,
            _ => {
                let told: Told = self.call("Status", &AskRuntime { verbose: true }, Some(PATIENCE))?;
                told.info.get("config").cloned().unwrap_or_default()
            }
        };
        let decided = ability::decide(&name, &version, &configuration);
        Ok((name, version, decided))
    }

    /// Whether the runtime has an image.
    ///
    /// # Errors
    /// It does not answer.
    pub fn has_image(&self, name: &str) -> Result<bool, CriError> {
        let request = AskImage { image: Some(Id { id: name.to_owned() }) };
        let told: ToldImage = self.ask(IMAGES, &[], "ImageStatus", &request, Some(PATIENCE))?;
        Ok(told.image.is_some_and(|image| !image.id.is_empty()))
    }

    /// Has the runtime pull an image, for a pod of this configuration.
    pub(super) fn pull(
        &self,
        image: &str,
        login: Option<Login>,
        sandbox_config: Vec<u8>,
    ) -> Result<(), CriError> {
        let request = Pull { image: Some(Id { id: image.to_owned() }), auth: login, sandbox_config };
        self.ask::<Id>(IMAGES, &[], "PullImage", &request, Some(WORK)).map(drop)
    }

    /// Makes a sandbox. Returns its ID.
    pub(super) fn run_pod(&self, config: Vec<u8>, handler: &str) -> Result<String, CriError> {
        let request = RunPod { config, runtime_handler: handler.to_owned() };
        Ok(self.call::<Id>("RunPodSandbox", &request, Some(WORK))?.id)
    }

    /// What is known of a sandbox.
    pub(super) fn pod(&self, id: &str) -> Result<KnownPod, CriError> {
        let request = AskStatus { id: id.to_owned(), verbose: true };
        let told: ToldPod = self.call("PodSandboxStatus", &request, Some(PATIENCE))?;
        let status = told.status.unwrap_or_default();
        let info: Value =
            told.info.get("info").and_then(|info| serde_json::from_str(info).ok()).unwrap_or_default();
        let config = match &info["config"] {
            config @ Value::Object(_) => config.clone(),
            _ => {
                let PodMetadata { name, uid, namespace } = status.metadata.unwrap_or_default();
                // CRI-O tells what it made of it (`internal/annotations`).
                let annotation = |key: &str| info["runtimeSpec"]["annotations"][key].clone();
                serde_json::json!({
                    "metadata": {"name": name, "uid": uid, "namespace": namespace},
                    "log_directory": annotation("io.kubernetes.cri-o.LogPath").as_str().and_then(|path| Some(path.rsplit_once('/')?.0)),
                    "linux": {"cgroup_parent": annotation("io.kubernetes.cri-o.CgroupParent")},
                })
            }
        };
        Ok(KnownPod { is_ready: status.state == 0, config })
    }

    /// Stops a sandbox and removes it with all in it.
    pub(super) fn end_pod(&self, id: &str) -> Result<(), CriError> {
        let id = Id { id: id.to_owned() };
        self.call::<Empty>("StopPodSandbox", &id, Some(WORK))?;
        self.call::<Empty>("RemovePodSandbox", &id, Some(WORK)).map(drop)
    }

    /// Makes a container in a sandbox. Returns its ID.
    pub(super) fn create(
        &self,
        pod: &str,
        config: Vec<u8>,
        sandbox_config: Vec<u8>,
    ) -> Result<String, CriError> {
        let request = Create { pod_sandbox_id: pod.to_owned(), config, sandbox_config };
        Ok(self.call::<Id>("CreateContainer", &request, Some(WORK))?.id)
    }

    /// Starts a container.
    pub(super) fn start(&self, id: &str) -> Result<(), CriError> {
        self.call::<Empty>("StartContainer", &Id { id: id.to_owned() }, Some(WORK)).map(drop)
    }

    /// Removes a container, which ends with it.
    pub(super) fn remove(&self, id: &str) -> Result<(), CriError> {
        self.call::<Empty>("RemoveContainer", &Id { id: id.to_owned() }, Some(WORK)).map(drop)
    }

    /// Lets a container go on that the runtime has paused for a checkpoint and left so: it knows that by itself no more when a call
    /// was given up. The container runtime interface has no such call, but runtimes have, at the same socket (containerd
    /// `api/services/tasks/v1/tasks.proto`, CRI-O `server/inspect.go`).
    pub(in crate::container) fn resume(&self, engine: &Engine, id: &str) -> Result<(), CriError> {
        match engine {
            Engine::Containerd { namespace } => {
                let headers = [("containerd-namespace", namespace.as_str())];
                let request = Id { id: id.to_owned() };
                self.ask::<Empty>(TASKS, &headers, "Resume", &request, Some(PATIENCE)).map(drop)
            }
            Engine::CriO => self.get(&format!("/unpause/{id}")).map(drop),
            _ => Ok(()),
        }
    }

    /// The PID of a container's first process, where the runtime tells it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn pid(&self, container: &str) -> Result<Option<i64>, CriError> {
        let request = AskStatus { id: container.to_owned(), verbose: true };
        let told: Told = self.call("ContainerStatus", &request, Some(PATIENCE))?;
        let info: Option<Value> = told.info.get("info").and_then(|info| serde_json::from_str(info).ok());
        Ok(info.and_then(|info| info["pid"].as_i64()))
    }

    /// A document that CRI-O tells by plain HTTP at the same socket.
    pub(super) fn get(&self, path: &str) -> Result<String, CriError> {
        let connect = |source| CriError::Connect { socket: self.socket.clone(), source };
        let broken = |source| CriError::Broken { socket: self.socket.clone(), source };
        let foreign = |said: String| CriError::Foreign { socket: self.socket.clone(), said };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(connect)?;
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let connection = tokio::spawn(connection);
            let request = Request::get(path).header(hyper::header::HOST, "localhost");
            let request = request.body(NoBody::<Bytes>::new()).map_err(|error| foreign(error.to_string()))?;
            let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            connection.abort();
            if !head.status.is_success() {
                return Err(foreign(head.status.to_string()));
            }
            let bytes = body.map_err(|error| foreign(error.to_string()))?.to_bytes();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        runtime
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
            .map_err(|_| CriError::Expired)?
    }
}

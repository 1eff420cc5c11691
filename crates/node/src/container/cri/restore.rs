//! A container that a runtime restores: it is told to create one whose image is a checkpoint's archive.
//!
//! containerd `internal/cri/server/container_create.go` and CRI-O `server/container_create.go` take an image that is a path of a file for such
//! an archive. What is made here is taken away again where a later step fails.

mod attempt;
mod error;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde_json::{Value, json};

use super::ability::Restorer;
use super::configuration::{self, Origin, member};
use super::listing::PodIdentity;
use super::{Cri, Login, message};
use attempt::{Attempt, Place};

pub use attempt::clean_up;
pub use error::CriRestoreError;

/// Who restores, where a runtime does.
///
/// # Errors
/// It does not, or does not answer.
pub fn restorer(cri: &Cri) -> Result<Restorer, CriRestoreError> {
    let (name, version, decided) = cri.restorer().map_err(CriRestoreError::Cri)?;
    decided.map_err(|unable| CriRestoreError::Unable { runtime: name, version, unable })
}

/// Where a container is restored, and as what.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The sandbox that it is to be in; without, one is made.
    pub pod: Option<String>,
    /// The sandbox's configuration, where it is not the checkpoint's pod.
    pub pod_config: Option<Value>,
    /// The container's configuration, where it is not what the checkpoint tells.
    pub container_config: Option<Value>,
    /// The container's name, where it is to be another.
    pub name: Option<String>,
    /// The runtime's handler for a sandbox that is made; the default one where it is empty.
    pub handler: String,
}

/// A container that has been restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its ID.
    pub container: String,
    /// The ID of the sandbox that it is in.
    pub pod: String,
}

/// What is decided before anything is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Preparation {
    /// A sandbox that is there.
    pod: Option<String>,
    handler: String,
    identity: PodIdentity,
    pod_config: Vec<u8>,
    logs: Option<String>,
    container: Value,
}

impl Wanted {
    /// Decides what to tell the runtime. Nothing is made.
    ///
    /// # Errors
    /// The sandbox cannot be used, a configuration is not one, or a mount has nothing to come from.
    pub fn prepare(
        &self,
        cri: &Cri,
        restorer: Restorer,
        origin: &Origin,
    ) -> Result<Preparation, CriRestoreError> {
        let is_there = |path: &Path| path.exists();
        let mut origin = origin.clone();
        if let Some(name) = &self.name {
            origin.name.clone_from(name);
        }
        let pod_config = match (&self.pod, &self.pod_config) {
            (Some(id), given) => {
                let known = cri.pod(id).map_err(CriRestoreError::because("find the sandbox"))?;
                if !known.is_ready {
                    return Err(CriRestoreError::PodEnded { id: id.clone() });
                }
                given.clone().unwrap_or(known.config)
            }
            (None, Some(given)) => given.clone(),
            (None, None) => configuration::pod(&origin, &uid()),
        };
        let container = match &self.container_config {
            Some(given) => named(given, &origin.name),
            None => configuration::container(&origin, &pod_config, is_there),
        };
        let missing = configuration::missing(&origin.spec, &container, restorer);
        if !missing.is_empty() {
            return Err(CriRestoreError::Mounts { missing });
        }
        let missing = configuration::sourceless(&container, is_there);
        if !missing.is_empty() {
            return Err(CriRestoreError::Sources { missing });
        }
        let of_container = |source| CriRestoreError::Configuration { of: "container", source };
        message::encode(message::CONTAINER, &container).map_err(of_container)?;
        let of_pod = |source| CriRestoreError::Configuration { of: "pod", source };
        Ok(Preparation {
            pod: self.pod.clone(),
            handler: self.handler.clone(),
            logs: member(&pod_config, "log_directory").and_then(Value::as_str).map(str::to_owned),
            identity: identity(&pod_config),
            pod_config: message::encode(message::POD, &pod_config).map_err(of_pod)?,
            container,
        })
    }
}

impl Preparation {
    /// Has the runtime pull the image that the container was started from, which it would do without a login, if at all.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn pull(&self, cri: &Cri, image: &str, login: Option<Login>) -> Result<(), CriRestoreError> {
        let pulled = cri.pull(image, login, self.pod_config.clone());
        pulled.map_err(CriRestoreError::because("pull the container's image"))
    }

    /// Has the runtime restore the archive, and lets the container run. What there may be of it until then is recorded below `records`, where
    /// [`clean_up`] finds it.
    ///
    /// # Errors
    /// The runtime refuses; nothing of the container or of a sandbox that was made for it stays then.
    pub fn restore(&self, cri: &Cri, archive: &Path, records: &Path) -> Result<Restored, CriRestoreError> {
        let mut container = self.container.clone();
        container["image"] = json!({"image": archive.display().to_string()});
        let of_container = |source| CriRestoreError::Configuration { of: "container", source };
        let container = message::encode(message::CONTAINER, &container).map_err(of_container)?;
        let _recorded = self.attempt().record(cri, records)?;
        let mut made = Made { cri, pod: None, container: None };
        let pod = match &self.pod {
            Some(pod) => pod.clone(),
            None => {
                if let Some(logs) = self.logs.as_deref().filter(|logs| logs.starts_with('/')) {
                    let built = DirBuilder::new().recursive(true).mode(0o755).create(logs);
                    built.map_err(|source| CriRestoreError::Logs { path: logs.into(), source })?;
                }
                let pod = cri
                    .run_pod(self.pod_config.clone(), &self.handler)
                    .map_err(CriRestoreError::because("make the pod's sandbox"))?;
                made.pod = Some(pod.clone());
                pod
            }
        };
        let id = cri
            .create(&pod, container, self.pod_config.clone())
            .map_err(CriRestoreError::because("create the container"))?;
        made.container = Some(id.clone());
        cri.start(&id).map_err(CriRestoreError::because("restore the container"))?;
        made.keep();
        Ok(Restored { container: id, pod })
    }

    fn attempt(&self) -> Attempt {
        let pod = match &self.pod {
            Some(id) => Place::Given(id.clone()),
            None => Place::Made(self.identity.clone()),
        };
        let metadata = member(&self.container, "metadata");
        Attempt { pod, container: text(metadata, "name") }
    }
}

/// Who a pod of this configuration is.
fn identity(config: &Value) -> PodIdentity {
    let metadata = member(config, "metadata");
    let said = |name: &str| text(metadata, name);
    PodIdentity { name: said("name"), uid: said("uid"), namespace: said("namespace") }
}

/// A text of a document; empty where there is none.
fn text(document: Option<&Value>, name: &str) -> String {
    let found = document.and_then(|document| member(document, name)).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// What goes again unless all went well.
struct Made<'a> {
    cri: &'a Cri,
    pod: Option<String>,
    container: Option<String>,
}

impl Made<'_> {
    fn keep(mut self) {
        (self.pod, self.container) = (None, None);
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.container
            && let Err(error) = self.cri.remove(id)
        {
            tracing::warn!(%error, container = id, "a container that could not be restored stays");
        }
        if let Some(id) = &self.pod
            && let Err(error) = self.cri.end_pod(id)
        {
            tracing::warn!(%error, sandbox = id, "the sandbox of a container that could not be restored stays");
        }
    }
}

/// The configuration with a name, where it has none.
fn named(config: &Value, name: &str) -> Value {
    let mut config = config.clone();
    let has = member(&config, "metadata").and_then(|metadata| member(metadata, "name")).is_some();
    if !has && config.is_object() {
        config["metadata"] = json!({"name": name});
    }
    config
}

/// A UID that no other pod has.
fn uid() -> String {
    format!("torpor-{:x}", jiff::Timestamp::now().as_nanosecond())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{Answer, runtime, status};
    use super::*;
    use crate::container::cri::CriError;

    fn origin() -> Origin {
        Origin { name: "web".into(), pod: None, labels: BTreeMap::new(), spec: json!({}) }
    }

    /// An answer with one text in its first field, which is how runtimes tell IDs.
    fn id(text: &str) -> Vec<u8> {
        [&[10, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    fn method(path: &str) -> &str {
        path.rsplit('/').next().unwrap()
    }

    /// Restores an archive into a pod that is made, by a runtime that answers so.
    fn restored(answer: Answer) -> (Result<Restored, CriRestoreError>, tempfile::TempDir) {
        let (directory, cri) = runtime(answer);
        let pod_config = json!({"metadata": {"name": "p"}, "log_directory": directory.path().join("logs")});
        let wanted = Wanted { pod_config: Some(pod_config), handler: "runc".into(), ..Wanted::default() };
        let preparation = wanted.prepare(&cri, Restorer::CriO, &origin()).unwrap();
        let restored = preparation.restore(&cri, Path::new("/c/web.tar"), directory.path());
        assert_eq!(
            std::fs::read_dir(directory.path())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("cri-") })
                .count(),
            0
        );
        (restored, directory)
    }

    #[test]
    fn a_container_is_created_from_an_archive_in_a_sandbox_and_started() {
        let (restored, directory) = restored(|path, request| {
            let says = |text: &str| request.windows(text.len()).any(|window| window == text.as_bytes());
            let answer = match method(path) {
                "RunPodSandbox" => {
                    assert!(says("logs") && says("runc"));
                    id("pod")
                }
                "CreateContainer" => {
                    assert!(says("pod") && says("/c/web.tar") && says("web_0.log"));
                    id("one")
                }
                "StartContainer" => {
                    assert_eq!(request, id("one"));
                    Vec::new()
                }
                "ListPodSandbox" => Vec::new(),
                other => panic!("{other} is called"),
            };
            (Some(answer), status("0", ""))
        });
        assert_eq!(restored.unwrap(), Restored { container: "one".into(), pod: "pod".into() });
        assert!(directory.path().join("logs").is_dir());
    }

    #[test]
    fn an_image_is_pulled_by_whoever_may_and_for_the_pod() {
        let (_directory, cri) = runtime(|path, request| {
            assert_eq!(path, "/runtime.v1.ImageService/PullImage");
            let says = |text: &str| request.windows(text.len()).any(|window| window == text.as_bytes());
            match says("registry.example/web:1") && says("me") && says("hunter2") && says("shop") {
                true => (Some(id("sha256:1")), status("0", "")),
                false => (None, status("2", "failed to pull and unpack image: 401 Unauthorized")),
            }
        });
        let pod_config = json!({"metadata": {"name": "p", "namespace": "shop"}});
        let wanted = Wanted { pod_config: Some(pod_config), ..Wanted::default() };
        let preparation = wanted.prepare(&cri, Restorer::CriO, &origin()).unwrap();
        let login = Login { username: "me".to_owned(), password: "hunter2".to_owned(), ..Login::default() };
        preparation.pull(&cri, "registry.example/web:1", Some(login)).unwrap();
        let error = preparation.pull(&cri, "registry.example/web:1", None).unwrap_err();
        assert!(error.remedy().contains("--authfile"), "{error}");
    }

    #[test]
    fn nothing_stays_of_a_container_that_cannot_be_restored() {
        use std::sync::Mutex;
        static CALLS: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let (restored, _directory) = restored(|path, _| {
            CALLS.lock().unwrap().push(method(path).to_owned());
            match method(path) {
                "RunPodSandbox" => (Some(id("pod")), status("0", "")),
                "CreateContainer" => (Some(id("one")), status("0", "")),
                "StartContainer" => (None, status("2", "criu failed: path= /run/restore.log")),
                _ => (Some(Vec::new()), status("0", "")),
            }
        });
        let error = restored.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the runtime does not restore the container: criu failed: path= /run/restore.log"
        );
        let ended = ["StartContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"];
        assert_eq!(CALLS.lock().unwrap()[3..], ended);
    }

    #[test]
    fn a_sandbox_is_used_with_the_configuration_that_the_runtime_tells() {
        let (_directory, cri) = runtime(|path, _| {
            assert_eq!(method(path), "PodSandboxStatus");
            let info =
                br#"{"config": {"metadata": {"name": "p", "uid": "u"}, "log_directory": "/l", "linux": {}}}"#;
            let pair = [id("info"), [&[18, u8::try_from(info.len()).unwrap()], &info[..]].concat()].concat();
            let told = [vec![10, 0, 18, u8::try_from(pair.len()).unwrap()], pair].concat();
            (Some(told), status("0", ""))
        });
        let wanted = Wanted { pod: Some("pod".into()), name: Some("other".into()), ..Wanted::default() };
        let containerd = Restorer::Containerd { pulls_always: true };
        let preparation = wanted.prepare(&cri, containerd, &origin()).unwrap();
        assert_eq!((preparation.pod.as_deref(), preparation.logs.as_deref()), (Some("pod"), Some("/l")));
        assert_eq!(preparation.container["metadata"]["name"], "other");
        assert_eq!(preparation.container["labels"]["io.kubernetes.pod.uid"], "u");
    }

    #[test]
    fn runtimes_that_do_not_restore_are_told_before_anything_is_made() {
        let (_directory, cri) = runtime(|path, _| match method(path) {
            // The runtime's name and its version.
            "Version" => {
                let version =
                    [vec![18, 10], b"containerd".to_vec(), vec![26, 6], b"v2.4.1".to_vec()].concat();
                (Some(version), status("0", ""))
            }
            _ => (Some(Vec::new()), status("0", "")),
        });
        let error = restorer(&cri).unwrap_err();
        assert_eq!(error.to_string(), "containerd v2.4.1 restores no containers from checkpoints any more");
        assert!(error.remedy().contains("torpor install-node"));
    }

    #[test]
    fn what_cri_o_says_of_its_level_decides() {
        use std::io::{Read, Write};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("crio.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let crio = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 17];
            stream.read_exact(&mut request).unwrap();
            let body = "[crio.checkpoint_restore]\ncontainer_level_enabled = \"checkpoint_only\"\n";
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            request
        });
        let cri = Cri::find(Some(&socket), None).unwrap();
        assert!(cri.get("/config").unwrap().contains("checkpoint_only"));
        assert_eq!(&crio.join().unwrap(), b"GET /config HTTP/");
        assert!(matches!(
            cri.get("/config"),
            Err(CriError::Connect { .. } | CriError::Broken { .. } | CriError::Expired)
        ));
    }
}

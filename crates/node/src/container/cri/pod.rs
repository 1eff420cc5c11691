//! `CheckpointPod`: all containers of a pod, by the runtime, at one moment.
//!
//! kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto` of Kubernetes 1.37. Unlike `CheckpointContainer` it has no field for a limit of
//! time; the call's own deadline must be set. The directory belongs to the caller, is there and empty; the runtime writes nowhere else,
//! and resumes all containers before it answers.

use std::path::Path;
use std::time::Duration;

use prost::Message;

use super::{Cri, CriError, Empty};

/// How long it may take where nobody said so.
const DEADLINE: Duration = Duration::from_secs(600);

/// `CheckpointPodRequest`. Its options are the runtime's own, and none are sent.
#[derive(Clone, PartialEq, Message)]
struct CheckpointPod {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(string, tag = "2")]
    output_path: String,
    #[prost(string, repeated, tag = "3")]
    container_ids: Vec<String>,
}

impl Cri {
    /// Has the runtime make a checkpoint of containers of a pod in an empty directory. They run on.
    ///
    /// # Errors
    /// It does not, or has no such call: the containers run on then, too.
    pub fn checkpoint_pod(
        &self,
        sandbox: &str,
        containers: &[&str],
        directory: &Path,
        timeout: Option<Duration>,
    ) -> Result<(), CriError> {
        let request = CheckpointPod {
            pod_sandbox_id: sandbox.to_owned(),
            output_path: directory.display().to_string(),
            container_ids: containers.iter().map(|id| (*id).to_owned()).collect(),
        };
        self.call::<Empty>("CheckpointPod", &request, Some(timeout.unwrap_or(DEADLINE))).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{runtime, status};
    use super::*;
    use crate::container::refusal::Refusal;

    #[test]
    fn a_pod_is_asked_for_by_its_sandbox_its_containers_and_a_directory() {
        let (_directory, cri) = runtime(|method, request| {
            let request = CheckpointPod::decode(request).unwrap();
            let expected = CheckpointPod {
                pod_sandbox_id: "pod".into(),
                output_path: "/c/web".into(),
                container_ids: vec!["one".into(), "two".into()],
            };
            assert_eq!((method, request), ("/runtime.v1.RuntimeService/CheckpointPod", expected));
            (Some(Vec::new()), status("0", ""))
        });
        cri.checkpoint_pod("pod", &["one", "two"], Path::new("/c/web"), None).unwrap();
        let (_directory, cri) = runtime(|_, _| (None, status("12", "unknown method CheckpointPod")));
        let refused = cri.checkpoint_pod("pod", &["one"], Path::new("/c"), None).unwrap_err();
        assert!(
            matches!(&refused, CriError::Refused { refusal: Refusal::UnsupportedPod, .. }),
            "{refused:?}"
        );
    }
}

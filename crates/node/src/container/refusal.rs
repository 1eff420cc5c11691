//! What an engine means that makes no checkpoint. Its interfaces tell causes apart in their texts alone.
//!
//! The texts: containerd, `internal/cri/server/container_checkpoint_linux.go`; CRI-O, `server/container_checkpoint.go`;
//! kubelet, `pkg/kubelet/server/server.go`; gRPC, `codes/codes.go`.

use std::path::PathBuf;

/// Why there is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The runtime has no such call.
    Unsupported,
    /// The runtime makes no checkpoints of whole pods.
    UnsupportedPod,
    /// It is switched off.
    Disabled,
    /// The runtime finds no CRIU.
    NoCriu,
    /// The container does not run.
    NotRunning,
    /// The runtime does not know the container.
    NoContainer,
    /// Its time was over.
    Expired,
    /// The caller may not.
    Denied,
    /// CRIU failed; its log may be here.
    Criu(Option<PathBuf>),
    /// Something else.
    Other,
}

impl Refusal {
    /// Reads it out of what was said.
    #[must_use]
    pub fn understand(said: &str) -> Refusal {
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        // A failure of CRIU may come with any code, so its own words go first.
        if says(&["criu failed"]) {
            return Refusal::Criu(log(said));
        }
        if says(&[
            "criu binary not found",
            "CRIU binary not found",
            "checkpoint/restore support not available",
        ]) {
            Refusal::NoCriu
        } else if says(&["criu support is disabled", "checkpoint support is disabled", "not enabled"]) {
            Refusal::Disabled
        } else if says(&["unknown method CheckpointPod"]) {
            Refusal::UnsupportedPod
        } else if says(&["code = Unimplemented", "unknown method CheckpointContainer", "unknown service"]) {
            Refusal::Unsupported
        } else if says(&["code = DeadlineExceeded", "context deadline exceeded", "code = Canceled"]) {
            Refusal::Expired
        } else if says(&["only CONTAINER_RUNNING containers", "is not running", "not in running state"]) {
            Refusal::NotRunning
        } else if says(&["code = NotFound", "could not find container"]) {
            Refusal::NoContainer
        } else if says(&["code = PermissionDenied", "code = Unauthenticated"]) {
            Refusal::Denied
        } else {
            Refusal::Other
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Refusal::Unsupported => {
                "containerd makes checkpoints from 2.0 on, CRI-O from 1.25 on; use --route direct on the node"
            }
            Refusal::UnsupportedPod => {
                "runtimes make checkpoints of whole pods from Kubernetes 1.37 on; name one container, or use --route direct on the node"
            }
            Refusal::Disabled => {
                "set `enable_criu = true` (containerd) or `container_level_enabled = \"checkpoint_only\"` (CRI-O), or use --route direct"
            }
            Refusal::NoCriu => {
                "put CRIU into the runtime's PATH and start the runtime anew, or use --route direct"
            }
            Refusal::NotRunning => "start it first",
            Refusal::NoContainer => "see `crictl ps` for the containers that there are",
            Refusal::Expired => {
                "give it more time with --timeout, or use --route direct, which stops the container for less time"
            }
            Refusal::Denied => "run this as root on the node",
            Refusal::Criu(_) => {
                "see CRIU's log on the node; with --route direct Torpor tells the cause, and takes --tcp and other options"
            }
            Refusal::Other => "see the runtime's log on the node",
        }
    }
}

/// The log that is named at the end of such a text as `criu failed: type NOTIFY errno 0 path= /…/criu-dump.log`.
fn log(said: &str) -> Option<PathBuf> {
    let (_, path) = said.split_once("path= ").or_else(|| said.split_once("log file: "))?;
    let path = path.split([':', '"', '\'', ')', '\n', ' ']).next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_is_understood() {
        for (said, refusal) in [
            (
                "rpc error: code = Unimplemented desc = unknown method CheckpointContainer",
                Refusal::Unsupported,
            ),
            (
                "code = Unimplemented desc = unknown method CheckpointPod for service runtime.v1.RuntimeService",
                Refusal::UnsupportedPod,
            ),
            ("rpc error: code = DeadlineExceeded desc = context deadline exceeded", Refusal::Expired),
            (
                "rpc error: code = Unknown desc = failed to checkpoint: criu binary not found in shim path or system PATH",
                Refusal::NoCriu,
            ),
            ("criu support is disabled by configuration", Refusal::Disabled),
            (
                "container is not running: only CONTAINER_RUNNING containers can be checkpointed",
                Refusal::NotRunning,
            ),
            ("rpc error: code = NotFound desc = no such container", Refusal::NoContainer),
            ("checkpoint/restore support not available", Refusal::NoCriu),
            (
                "checkpointing container \"a\" failed: runc did not terminate successfully: exit status 1: criu failed: \
                 type NOTIFY errno 0 path= /run/c/criu-dump.log: unknown",
                Refusal::Criu(Some("/run/c/criu-dump.log".into())),
            ),
            ("criu failed: type DUMP errno 0", Refusal::Criu(None)),
            ("something else", Refusal::Other),
            ("", Refusal::Other),
        ] {
            assert_eq!(Refusal::understand(said), refusal, "{said}");
        }
    }
}

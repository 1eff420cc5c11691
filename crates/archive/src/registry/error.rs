//! Why a registry cannot be used.

use std::io;
use std::path::PathBuf;

use crate::oci::Digest;

/// Why a registry cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It is no name of an image.
    #[error("{text:?} is no name of an image in a registry")]
    Reference {
        /// What was given.
        text: String,
    },
    /// It does not answer.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// What the connection said.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It wants other credentials, or some.
    #[error("{host} does not let us {what} ({status})")]
    Denied {
        /// The host.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// The answer's status.
        status: u16,
    },
    /// It has no such image or blob.
    #[error("{host} has no {what}")]
    NotFound {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// It answers in a way that it should not.
    #[error("{host} answers {status} when asked to {what}{}", said(message))]
    Status {
        /// The host.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// The answer's status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// Its answer lacks something, or makes no sense.
    #[error("{host} answers without {what}")]
    Answer {
        /// The host.
        host: String,
        /// What is missing.
        what: &'static str,
    },
    /// What it wants to see is none that we know.
    #[error("{host} wants credentials of a kind that is not known: {header}")]
    Challenge {
        /// The host.
        host: String,
        /// What it asks for.
        header: String,
    },
    /// A blob that was uploaded is not the one it should be.
    #[error("what was uploaded to {host} should be {expected}, and is {found}")]
    Digest {
        /// The host.
        host: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file with credentials makes no sense.
    #[error("{} is no file with credentials", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A program that keeps credentials fails.
    #[error("{program} gives no credentials for {host}: {message}")]
    Helper {
        /// The program.
        program: String,
        /// The host.
        host: String,
        /// What it says, or what the system said.
        message: String,
    },
    /// A file has no certificate in it.
    #[error("{} holds no certificate", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl RegistryError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "write HOST/REPOSITORY:TAG",
            Self::Unreachable { .. } => {
                "check the name and the network; for a certificate of your own give --ca, for a registry without TLS --plain-http"
            }
            Self::Denied { .. } => {
                "log in with `podman login` or `docker login`, or name a file with --authfile"
            }
            Self::NotFound { .. } => "check the name of the image",
            Self::Status { .. } | Self::Answer { .. } => "ask whoever runs the registry",
            Self::Challenge { .. } => "use a registry with token or basic authentication",
            Self::Digest { .. } => "try again: it was damaged on its way",
            Self::File { .. } => "check the path, and that you may read it",
            Self::Credentials { .. } => "log in anew, or name another file with --authfile",
            Self::Helper { .. } => "log in anew, or name a file with the credentials with --authfile",
            Self::Certificate { .. } => "give a file with certificates in PEM",
        }
    }
}

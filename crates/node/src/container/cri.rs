//! The container runtime interface, as much of it as a checkpoint and a restore need: gRPC over the runtime's Unix socket.
//!
//! Messages and their numbers: kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto`. How a call looks on the wire: grpc/grpc,
//! `doc/PROTOCOL-HTTP2.md`.

mod ability;
mod calls;
pub mod configuration;
mod listing;
mod message;
mod pod;
pub mod restore;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;

use super::refusal::Refusal;
use super::state::Engine;

pub use ability::{Restorer, Unable};
pub use calls::Login;
pub use message::MessageError;

/// Where runtimes listen.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
const CRIO: &str = "/run/crio/crio.sock";
/// More than this is no answer to what is asked here, in bytes.
const LARGEST: usize = 16 << 20;
/// How long a runtime may take to connect and to begin to speak.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the end of its time a runtime may take to say so.
const NOTICE: Duration = Duration::from_secs(5);

/// `CheckpointContainerRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckpointContainer {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    location: String,
    /// In seconds.
    #[prost(int64, tag = "3")]
    timeout: i64,
}

/// `VersionRequest`.
#[derive(Clone, PartialEq, Message)]
struct AskVersion {
    #[prost(string, tag = "1")]
    version: String,
}

/// `VersionResponse`.
#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(string, tag = "3")]
    runtime_version: String,
}

/// An answer without anything in it.
#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// Why the runtime makes no checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriError {
    /// Nobody listens.
    #[error("no container runtime listens at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// None of the usual sockets is there.
    #[error("no container runtime listens here: neither {CONTAINERD} nor {CRIO} is there")]
    NoSocket,
    /// The connection broke.
    #[error("the connection to {} broke", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// It speaks something else.
    #[error("{} does not answer as a container runtime does: {said}", socket.display())]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// What it answered.
        said: String,
    },
    /// The runtime refuses.
    #[error("the runtime makes no checkpoint: {said}")]
    Refused {
        /// What it said.
        said: String,
        /// What that means.
        refusal: Refusal,
    },
    /// Its time is over.
    #[error("the runtime made no checkpoint in the time it had")]
    Expired,
}

impl CriError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            CriError::Connect { .. } | CriError::NoSocket => {
                "see that it runs, and name its socket with --cri-socket; run this as root on the node"
            }
            CriError::Broken { .. } => "see the runtime's log on the node",
            CriError::Foreign { .. } => "name the socket of containerd or CRI-O with --cri-socket",
            CriError::Refused { refusal, .. } => refusal.remedy(),
            CriError::Expired => Refusal::Expired.remedy(),
        }
    }
}

/// A container runtime that listens.
#[derive(Debug, Clone)]
pub struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// The runtime at this socket, or else the one that an engine has, or whichever there is.
    ///
    /// # Errors
    /// There is none.
    pub fn find(named: Option<&Path>, engine: Option<&Engine>) -> Result<Cri, CriError> {
        let usual: &[&str] = match engine {
            Some(Engine::Containerd { .. }) => &[CONTAINERD],
            Some(Engine::CriO) => &[CRIO],
            _ => &[CONTAINERD, CRIO],
        };
        let socket = match named {
            Some(socket) => Some(socket.to_owned()),
            None => usual.iter().map(PathBuf::from).find(|socket| socket.exists()),
        };
        socket.map(|socket| Cri { socket }).ok_or(CriError::NoSocket)
    }

    /// The runtime's name and version.
    ///
    /// # Errors
    /// It does not answer.
    pub fn version(&self) -> Result<(String, String), CriError> {
        let answer: Version =
            self.call("Version", &AskVersion { version: "v1".to_owned() }, Some(PATIENCE))?;
        Ok((answer.runtime_name, answer.runtime_version))
    }

    /// Has it make a checkpoint of a container as an archive in a file. The container runs on.
    ///
    /// # Errors
    /// It does not: the container runs on then, too.
    pub fn checkpoint(
        &self,
        container: &str,
        archive: &Path,
        timeout: Option<Duration>,
    ) -> Result<(), CriError> {
        let request = CheckpointContainer {
            container_id: container.to_owned(),
            location: archive.display().to_string(),
            timeout: timeout.map_or(0, |timeout| {
                i64::try_from(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)).unwrap_or(i64::MAX)
            }),
        };
        self.call::<Empty>("CheckpointContainer", &request, timeout).map(drop)
    }

    /// Where the runtime listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<A, CriError> {
        self.ask("runtime.v1.RuntimeService", &[], method, request, timeout)
    }

    /// Calls a method of a service, with headers that the service asks for.
    pub(super) fn ask<A: Message + Default>(
        &self,
        service: &str,
        headers: &[(&'static str, &str)],
        method: &str,
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<A, CriError> {
        let method = format!("http://localhost/{service}/{method}");
        let connect = |source| CriError::Connect { socket: self.socket.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(connect)?;
        let call = self.exchange(&method, headers, request.encode_to_vec(), timeout);
        let since = Instant::now();
        let bytes = match timeout {
            None => runtime.block_on(call)?,
            Some(timeout) => runtime
                .block_on(async { tokio::time::timeout(timeout.saturating_add(NOTICE), call).await })
                .map_err(|_| CriError::Expired)?
                .map_err(|error| match error {
                    // containerd lets go of the call at its end, without a word.
                    CriError::Broken { .. } if since.elapsed() >= timeout => CriError::Expired,
                    error => error,
                })?,
        };
        A::decode(&*bytes).map_err(|error| self.foreign(error.to_string()))
    }

    /// One request and its answer, each a message behind five bytes.
    async fn exchange(
        &self,
        method: &str,
        headers: &[(&'static str, &str)],
        message: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, CriError> {
        let connect = |source| CriError::Connect { socket: self.socket.clone(), source };
        let broken = |source| CriError::Broken { socket: self.socket.clone(), source };
        let stream = tokio::time::timeout(PATIENCE, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| connect(io::ErrorKind::TimedOut.into()))?
            .map_err(connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(method)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(timeout) = timeout {
            // At most eight digits.
            request =
                request.header("grpc-timeout", format!("{}m", timeout.as_millis().clamp(1, 99_999_999)));
        }
        let request = request
            .body(Full::new(Bytes::from(framed(&message))))
            .map_err(|error| self.foreign(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let collected =
            Limited::new(body, LARGEST).collect().await.map_err(|error| self.foreign(error.to_string()))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let bytes = collected.to_bytes();
        connection.abort();
        if !head.status.is_success() {
            return Err(self.foreign(head.status.to_string()));
        }
        // Where there is nothing but an error, it is in the head.
        let status = [&trailers, &head.headers].into_iter().find_map(Status::read);
        match status {
            Some(Status { code: 0, .. }) => {
                unframed(&bytes).map(<[u8]>::to_vec).ok_or_else(|| self.foreign("half an answer".to_owned()))
            }
            Some(Status { code: 4, .. }) => Err(CriError::Expired),
            Some(status) => {
                let said = format!("code = {} desc = {}", status.name(), status.said);
                let refusal = Refusal::understand(&said);
                Err(CriError::Refused { said: status.said, refusal })
            }
            None => Err(self.foreign("no status".to_owned())),
        }
    }

    fn foreign(&self, said: String) -> CriError {
        CriError::Foreign { socket: self.socket.clone(), said }
    }
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    code: u32,
    said: String,
}

impl Status {
    fn read(headers: &HeaderMap) -> Option<Status> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = text("grpc-status")?.parse().ok()?;
        Some(Status { code, said: text("grpc-message").map(unescaped).unwrap_or_default() })
    }

    /// The code's name, as Go programs write it.
    fn name(&self) -> String {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        NAMES.get(self.code as usize).map_or_else(|| self.code.to_string(), |name| (*name).to_owned())
    }
}

/// A message behind a byte that says that it is not compressed, and its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], message].concat()
}

fn unframed(bytes: &[u8]) -> Option<&[u8]> {
    let (head, message) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    (head[0] == 0 && message.len() == length as usize).then_some(message)
}

/// Without the %-escapes that a text has in a header.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;

    use http_body_util::{Empty as NoBody, combinators::BoxBody};
    use hyper::service::service_fn;
    use hyper::{HeaderMap, Response};
    use proptest::prelude::*;
    use tokio::net::UnixListener;

    use super::*;

    /// The message and the headers of an answer, by the method and the message of a call.
    pub(in crate::container) type Answer = fn(&str, &[u8]) -> (Option<Vec<u8>>, HeaderMap);

    /// A runtime that answers each call.
    pub(in crate::container) fn runtime(answer: Answer) -> (tempfile::TempDir, Cri) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("runtime.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                        let method = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (message, status) = answer(&method, unframed(&body).unwrap());
                        let mut response = Response::builder().header(CONTENT_TYPE, "application/grpc");
                        let body: BoxBody<Bytes, Infallible> = match message {
                            Some(message) => {
                                let trailers = async move { Some(Ok(status)) };
                                Full::new(Bytes::from(framed(&message))).with_trailers(trailers).boxed()
                            }
                            None => {
                                response.headers_mut().unwrap().extend(status);
                                NoBody::new().boxed()
                            }
                        };
                        Ok::<_, Infallible>(response.body(body).unwrap())
                    });
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            });
        });
        (directory, Cri { socket })
    }

    pub(in crate::container) fn status(code: &'static str, message: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", code.parse().unwrap());
        headers.insert("grpc-message", message.parse().unwrap());
        headers
    }

    #[test]
    fn a_checkpoint_is_asked_for_by_container_and_file() {
        let (_directory, cri) = runtime(|method, request| match method {
            "/runtime.v1.RuntimeService/Version" => {
                let version = Version { runtime_name: "containerd".into(), runtime_version: "2.1.9".into() };
                (Some(version.encode_to_vec()), status("0", ""))
            }
            _ => {
                let request = CheckpointContainer::decode(request).unwrap();
                let expected = CheckpointContainer {
                    container_id: "one".into(),
                    location: "/c/one.tar".into(),
                    timeout: 2,
                };
                assert_eq!((method, request), ("/runtime.v1.RuntimeService/CheckpointContainer", expected));
                (Some(Vec::new()), status("0", ""))
            }
        });
        assert_eq!(cri.version().unwrap(), ("containerd".to_owned(), "2.1.9".to_owned()));
        cri.checkpoint("one", Path::new("/c/one.tar"), Some(Duration::from_millis(1500))).unwrap();
    }

    #[test]
    fn a_container_that_was_left_paused_is_resumed_by_who_paused_it() {
        let (_directory, cri) = runtime(|path, request| {
            assert_eq!(path, "/containerd.services.tasks.v1.Tasks/Resume");
            assert_eq!(request, b"\x0a\x03one");
            (Some(Vec::new()), status("0", ""))
        });
        cri.resume(&Engine::Containerd { namespace: "k8s.io".into() }, "one").unwrap();
        cri.resume(&Engine::Podman, "one").unwrap();
    }

    #[test]
    fn a_refusal_is_told_in_the_runtimes_words() {
        let (_directory, cri) = runtime(|_, _| (None, status("12", "unknown method CheckpointContainer")));
        let error = cri.checkpoint("one", Path::new("/c"), None).unwrap_err();
        assert!(matches!(&error, CriError::Refused { refusal: Refusal::Unsupported, .. }), "{error:?}");
        let (_directory, cri) =
            runtime(|_, _| (Some(Vec::new()), status("2", "criu failed: 100%25, path= /l")));
        let error = cri.checkpoint("one", Path::new("/c"), None).unwrap_err();
        assert_eq!(error.to_string(), "the runtime makes no checkpoint: criu failed: 100%, path= /l");
        let (_directory, cri) = runtime(|_, _| (None, status("4", "too late")));
        assert!(matches!(cri.checkpoint("one", Path::new("/c"), None), Err(CriError::Expired)));
        let (_directory, cri) = runtime(|_, _| (None, HeaderMap::new()));
        assert!(matches!(cri.checkpoint("one", Path::new("/c"), None), Err(CriError::Foreign { .. })));
    }

    #[test]
    fn whoever_is_not_there_or_no_runtime_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("none.sock");
        let cri = Cri::find(Some(&socket), None).unwrap();
        assert!(matches!(cri.version(), Err(CriError::Connect { .. })));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let other = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).unwrap();
            stream.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
        });
        assert!(matches!(cri.version(), Err(CriError::Broken { .. })));
        other.join().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in ".*") {
            let message = framed(&bytes);
            prop_assert_eq!(unframed(&message), Some(&bytes[..]));
            let _ = unframed(&bytes);
            let _ = unescaped(&text);
        }
    }
}

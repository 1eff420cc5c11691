//! The kubelet's checkpoints: `POST /checkpoint/NAMESPACE/POD/CONTAINER` (Kubernetes, `pkg/kubelet/server/server.go`).
//!
//! It says what went wrong in plain text, and one status stands for many causes; what each answer means is a pure
//! decision, [`understand`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::refusal::Refusal;
use super::state::PodPlace;

/// Where a kubelet listens.
pub const URL: &str = "https://127.0.0.1:10250";
/// A kubelet gives its runtime never less than this.
const LEAST: Duration = Duration::from_secs(120);
/// How much longer than its runtime a kubelet may take.
const NOTICE: Duration = Duration::from_secs(10);
/// More than this is no answer, in bytes.
const LARGEST: u64 = 1 << 20;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    None,
    /// The bearer of the token in this file.
    Token(PathBuf),
    /// The holder of a certificate and its key, in PEM files.
    Certificate {
        /// The certificate, and those between it and the authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// How the kubelet shows that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// By a certificate of the authority in this PEM file.
    Authority(PathBuf),
    /// By one of those that the public trusts.
    Public,
    /// Not at all: many kubelets sign for themselves.
    Blind,
}

/// A kubelet.
#[derive(Debug, Clone)]
pub struct Kubelet {
    /// Its address, such as [`URL`].
    pub url: String,
    /// Who asks.
    pub credentials: Credentials,
    /// How it is believed.
    pub trust: Trust,
}

/// Why a kubelet makes no checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeletError {
    /// A token, certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key is none.
    #[error("{} holds no {what} in PEM", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// It cannot be reached.
    #[error("the kubelet at {url} cannot be reached")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It did not answer in time.
    #[error("the kubelet at {url} has not answered in {}", .after.as_secs())]
    Expired {
        /// Its address.
        url: String,
        /// How long it had.
        after: Duration,
    },
    /// It does not know who asks.
    #[error("the kubelet does not know who asks: {said}")]
    Unauthorized {
        /// What it said.
        said: String,
    },
    /// Who asks may not.
    #[error("the kubelet does not allow it: {said}")]
    Forbidden {
        /// What it said.
        said: String,
    },
    /// It has no such pod.
    #[error("the kubelet has no pod {namespace}/{pod}")]
    NoPod {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
    /// The pod has no such container.
    #[error("the pod {namespace}/{pod} has no container {container}")]
    NoContainer {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The container does not run.
    #[error("the container {container} of the pod {namespace}/{pod} does not run")]
    NotRunning {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// It makes none at all.
    #[error("this kubelet makes no checkpoints: its feature ContainerCheckpoint is off")]
    Off,
    /// Its runtime refuses.
    #[error("the kubelet makes no checkpoint: {said}")]
    Refused {
        /// What it said.
        said: String,
        /// What that means.
        refusal: Refusal,
    },
    /// It answers something else.
    #[error("the kubelet answers {status}: {said}")]
    Unexpected {
        /// The status.
        status: u16,
        /// What it said.
        said: String,
    },
}

impl KubeletError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            KubeletError::File { .. } => "see that it is there and may be read",
            KubeletError::NoPem { .. } => "name a PEM file, which has lines of dashes and BEGIN",
            KubeletError::Unreachable { .. } => {
                "see the address (--kubelet), and the authority that signed the kubelet's certificate (--kubelet-ca)"
            }
            KubeletError::Expired { .. } => {
                "give it more time with --timeout; what it still makes appears in its directory of checkpoints"
            }
            KubeletError::Unauthorized { .. } => {
                "name a token (--kubelet-token-file) or a certificate that the kubelet's authority signed (--kubelet-certificate)"
            }
            KubeletError::Forbidden { .. } => {
                "allow it by a ClusterRole with the verb create on nodes/checkpoint; nodes/proxy is not enough"
            }
            KubeletError::NoPod { .. } | KubeletError::NoContainer { .. } => {
                "see that it is on this node, and how its containers are called"
            }
            KubeletError::NotRunning { .. } => {
                "wait until it runs; `kubectl describe pod` says why it does not"
            }
            KubeletError::Off => {
                "start the kubelet with --feature-gates=ContainerCheckpoint=true (it is on from Kubernetes 1.30), or use --route direct"
            }
            KubeletError::Refused { refusal, .. } => refusal.remedy(),
            KubeletError::Unexpected { .. } => "see whether it is a kubelet's address, and its log",
        }
    }
}

impl Kubelet {
    /// Has it make a checkpoint of a container, which runs on. Returns the archives, by their paths on its node.
    ///
    /// # Errors
    /// It does not: the container runs on then, too.
    pub fn checkpoint(
        &self,
        place: &PodPlace,
        timeout: Option<Duration>,
    ) -> Result<Vec<PathBuf>, KubeletError> {
        let after = timeout.unwrap_or(LEAST).max(LEAST).saturating_add(NOTICE);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .tls_config(self.tls()?)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(after))
            .build()
            .into();
        let mut request = agent.post(address(&self.url, place, timeout));
        if let Credentials::Token(path) = &self.credentials {
            let token = String::from_utf8_lossy(&read(path)?).trim().to_owned();
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let failed = |error| match error {
            ureq::Error::Timeout(_) => KubeletError::Expired { url: self.url.clone(), after },
            error => KubeletError::Unreachable { url: self.url.clone(), source: Box::new(error) },
        };
        let mut answer = request.send_empty().map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(failed)?;
        understand(status, &String::from_utf8_lossy(&body), place)
    }

    fn tls(&self) -> Result<TlsConfig, KubeletError> {
        let client = match &self.credentials {
            Credentials::Certificate { certificate, key } => {
                let bytes = read(key)?;
                let private = PrivateKey::from_pem(&bytes)
                    .map_err(|_| KubeletError::NoPem { path: key.clone(), what: "private key" })?;
                Some(ClientCert::new_with_certs(&certificates(certificate)?, private))
            }
            Credentials::None | Credentials::Token(_) => None,
        };
        let roots = match &self.trust {
            Trust::Authority(path) => RootCerts::new_with_certs(&certificates(path)?),
            Trust::Public | Trust::Blind => RootCerts::WebPki,
        };
        Ok(TlsConfig::builder()
            .client_cert(client)
            .root_certs(roots)
            .disable_verification(self.trust == Trust::Blind)
            .build())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KubeletError> {
    std::fs::read(path).map_err(|source| KubeletError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, KubeletError> {
    let bytes = read(path)?;
    let found: Vec<Certificate<'static>> = ureq::tls::parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(KubeletError::NoPem { path: path.to_owned(), what: "certificate" }),
        false => Ok(found),
    }
}

/// Names of Kubernetes need no escapes in an address.
fn address(url: &str, place: &PodPlace, timeout: Option<Duration>) -> String {
    let PodPlace { namespace, pod, container } = place;
    let mut address = format!("{}/checkpoint/{namespace}/{pod}/{container}", url.trim_end_matches('/'));
    if let Some(timeout) = timeout {
        // Whole seconds; none would be its own default.
        address.push_str(&format!("?timeout={}", timeout.as_millis().div_ceil(1000).max(1)));
    }
    address
}

/// What an answer means.
///
/// # Errors
/// There is no checkpoint.
pub fn understand(status: u16, body: &str, place: &PodPlace) -> Result<Vec<PathBuf>, KubeletError> {
    #[derive(Deserialize)]
    struct Made {
        items: Vec<PathBuf>,
    }
    const LONGEST: usize = 1000;
    let said: String = body.trim().chars().take(LONGEST).collect();
    let PodPlace { namespace, pod, container } = place.clone();
    match status {
        200 => match serde_json::from_str::<Made>(body) {
            Ok(Made { items }) if !items.is_empty() => Ok(items),
            _ => Err(KubeletError::Unexpected { status, said }),
        },
        401 => Err(KubeletError::Unauthorized { said }),
        403 => Err(KubeletError::Forbidden { said }),
        404 if said.starts_with("pod does not exist") => Err(KubeletError::NoPod { namespace, pod }),
        404 if said.starts_with("container") => Err(KubeletError::NoContainer { namespace, pod, container }),
        404 if said.contains("page not found") => Err(KubeletError::Off),
        500 if said.contains(&format!("(container {container} not found)")) => {
            Err(KubeletError::NotRunning { namespace, pod, container })
        }
        500 => Err(KubeletError::Refused { refusal: Refusal::understand(&said), said }),
        _ => Err(KubeletError::Unexpected { status, said }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    fn place() -> PodPlace {
        PodPlace { namespace: "shop".into(), pod: "web-0".into(), container: "web".into() }
    }

    #[test]
    fn each_answer_has_a_meaning() {
        let says = |status, body: &str| match understand(status, body, &place()) {
            Ok(paths) => format!("{}", paths[0].display()),
            Err(error) => error.to_string(),
        };
        for (status, body, meaning) in [
            (
                200,
                r#"{"items":["/var/lib/kubelet/checkpoints/a.tar"]}"#,
                "/var/lib/kubelet/checkpoints/a.tar",
            ),
            (200, "{}", "the kubelet answers 200: {}"),
            (200, r#"{"items":[]}"#, r#"the kubelet answers 200: {"items":[]}"#),
            (401, "Unauthorized", "the kubelet does not know who asks: Unauthorized"),
            (
                403,
                "Forbidden (user=joe, verb=create, resource=nodes, subresource=checkpoint)",
                "the kubelet does not allow it: Forbidden (user=joe, verb=create, resource=nodes, subresource=checkpoint)",
            ),
            (404, "pod does not exist", "the kubelet has no pod shop/web-0"),
            (404, "container web does not exist", "the pod shop/web-0 has no container web"),
            (
                500,
                "checkpointing of shop/web-0/web failed (container web not found)",
                "the container web of the pod shop/web-0 does not run",
            ),
            (
                404,
                "404 page not found\n",
                "this kubelet makes no checkpoints: its feature ContainerCheckpoint is off",
            ),
            (
                404,
                "cannot parse value of timeout parameter",
                "the kubelet answers 404: cannot parse value of timeout parameter",
            ),
            (405, "", "the kubelet answers 405: "),
            (
                500,
                "checkpointing of shop/web-0/web failed (rpc error: code = Unimplemented desc = no)",
                "the kubelet makes no checkpoint: checkpointing of shop/web-0/web failed (rpc error: code = Unimplemented desc = no)",
            ),
        ] {
            assert_eq!(says(status, body), meaning);
        }
        let error = understand(500, "criu binary not found in PATH", &place()).unwrap_err();
        assert!(matches!(&error, KubeletError::Refused { refusal: Refusal::NoCriu, .. }));
        assert!(error.remedy().contains("CRIU"));
    }

    #[test]
    fn an_address_has_whole_seconds() {
        let second = |millis| Some(Duration::from_millis(millis));
        assert_eq!(address("https://n:10250/", &place(), None), "https://n:10250/checkpoint/shop/web-0/web");
        assert!(address(URL, &place(), second(1)).ends_with("?timeout=1"));
        assert!(address(URL, &place(), second(90_001)).ends_with("?timeout=91"));
    }

    #[test]
    fn a_token_goes_along() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kubelet = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> =
                lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let body = r#"{"items":["/c/one.tar"]}"#;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            let _ = stream.read(&mut [0]);
            head
        });
        let asked = Kubelet { url, credentials: Credentials::Token(token), trust: Trust::Public };
        let made = asked.checkpoint(&place(), Some(Duration::from_secs(5))).unwrap();
        assert_eq!(made, [PathBuf::from("/c/one.tar")]);
        drop(asked);
        let head = kubelet.join().unwrap();
        assert_eq!(head[0], "POST /checkpoint/shop/web-0/web?timeout=5 HTTP/1.1");
        assert!(
            head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer secret")),
            "{head:?}"
        );
    }

    #[test]
    fn files_that_hold_nothing_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let kubelet = |credentials, trust| Kubelet { url: URL.to_owned(), credentials, trust };
        let asked = kubelet(Credentials::None, Trust::Authority(empty.clone()));
        assert!(matches!(
            asked.checkpoint(&place(), None),
            Err(KubeletError::NoPem { what: "certificate", .. })
        ));
        let missing = Credentials::Certificate { certificate: "/none".into(), key: "/none".into() };
        assert!(matches!(
            kubelet(missing, Trust::Public).checkpoint(&place(), None),
            Err(KubeletError::File { .. })
        ));
    }
}

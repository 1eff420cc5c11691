//! Requests to a registry, with what it wants to see.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

use super::challenge::Challenge;
use super::credentials::{Credential, Credentials};
use super::{Deleted, Reference, RegistryError};
use crate::oci::{Digest, MAX_DOCUMENT, media};

/// How often a request is made that fails for a reason that may pass.
pub(super) const ATTEMPTS: u32 = 5;
/// How long the first pause between two attempts is; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that a registry may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long nothing may come or go.
const SILENCE: Duration = Duration::from_secs(120);
/// Where systems keep the certificates that they trust.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where Podman and Docker have certificates for single registries.
const OF_REGISTRIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Bytes that are uploaded at once, and kept until the registry has them. A few such chunks are made meanwhile.
const CHUNK: usize = 16 << 20;

/// How a registry is spoken to.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Names and passwords.
    pub credentials: Credentials,
    /// Certificates to trust besides the system's.
    pub authority: Option<PathBuf>,
    /// No TLS.
    pub plain: bool,
    /// Bytes that are uploaded at once, and kept in memory until the registry has them; none for 16 MiB.
    pub chunk: Option<usize>,
}

/// A registry, and an image there.
pub struct Client {
    agent: Agent,
    reference: Reference,
    base: String,
    /// Bytes that are uploaded at once.
    pub(super) chunk: usize,
    credential: Option<Credential>,
    /// What was accepted last, and the repositories that it is for besides the image's own.
    authorization: Mutex<Option<String>>,
    others: Mutex<Vec<String>>,
    /// Whether something is to be deleted, which takes a token that says so.
    deletes: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("reference", &self.reference).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Client {
    pub(super) fn new(reference: Reference, access: &Access) -> Result<Self, RegistryError> {
        let certificates = certificates(reference.host(), access.authority.as_deref())?;
        let roots = if certificates.is_empty() {
            RootCerts::WebPki
        } else {
            RootCerts::new_with_certs(&certificates)
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            // A blob that is compressed already must come as it is.
            .accept_encoding("identity")
            .user_agent(concat!("torpor/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let plain = access.plain || (reference.is_local() && access.authority.is_none());
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", reference.server(), reference.repository());
        let credential = access.credentials.find(&reference)?;
        let (authorization, others) = (Mutex::new(None), Mutex::new(Vec::new()));
        let chunk = access.chunk.unwrap_or(CHUNK);
        let deletes = AtomicBool::new(false);
        Ok(Self { agent, reference, base, chunk, credential, authorization, others, deletes })
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(super) fn host(&self) -> String {
        self.reference.host().to_owned()
    }

    /// An address of the image's repository.
    pub(super) fn address(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }

    /// The address that an answer refers to.
    pub(super) fn location(&self, answer: &Response<Body>) -> Result<String, RegistryError> {
        let missing = || RegistryError::Answer { host: self.host(), what: "a place for the upload" };
        let location =
            answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let (scheme, _) = self.base.split_once("://").ok_or_else(missing)?;
        Ok(match location {
            _ if location.starts_with("//") => format!("{scheme}:{location}"),
            _ if location.starts_with('/') => format!("{scheme}://{}{location}", self.reference.server()),
            _ => location.to_owned(),
        })
    }

    /// Makes a request. It is made again where the connection breaks, or the registry is busy; and once with credentials, where it
    /// wants some. Statuses of success and 404 are returned.
    pub(super) fn ask(
        &self,
        method: &Method,
        address: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        what: &'static str,
    ) -> Result<Response<Body>, RegistryError> {
        let mut attempt = 1;
        loop {
            let answer = self.ask_once(method, address, headers, body);
            let pause = match &answer {
                Ok(answer) if matches!(answer.status().as_u16(), 429 | 500 | 502..=504) => {
                    Some(wanted_pause(answer))
                }
                Err(RegistryError::Unreachable { source, .. }) if may_pass(source) => Some(None),
                _ => None,
            };
            match pause {
                Some(pause) if attempt < ATTEMPTS => {
                    std::thread::sleep(pause.unwrap_or(PAUSE * 2u32.pow(attempt - 1)).min(LONGEST_PAUSE));
                    attempt += 1;
                }
                _ => return self.judged(answer?, what),
            }
        }
    }

    /// Makes a request a single time.
    pub(super) fn ask_once(
        &self,
        method: &Method,
        address: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response<Body>, RegistryError> {
        let answer = self.request(method, address, headers, body)?;
        if answer.status() != 401 || !self.is_own(address) {
            return Ok(answer);
        }
        let header =
            answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let challenge = Challenge::parse(header)
            .ok_or_else(|| RegistryError::Challenge { host: self.host(), header: header.to_owned() })?;
        let authorization = self.answered(&challenge)?;
        let Some(authorization) = authorization else { return Ok(answer) };
        *locked(&self.authorization) = Some(authorization);
        self.request(method, address, headers, body)
    }

    /// Credentials are for the registry itself, not for where it may send us.
    fn is_own(&self, address: &str) -> bool {
        let origin = |address: &str| address.splitn(4, '/').take(3).map(str::to_owned).collect::<Vec<_>>();
        origin(address) == origin(&self.base)
    }

    fn request(
        &self,
        method: &Method,
        address: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response<Body>, RegistryError> {
        let unreachable = |source| RegistryError::Unreachable { host: self.host(), source: Box::new(source) };
        let mut request = Request::builder().method(method).uri(address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = locked(&self.authorization).as_ref().filter(|_| self.is_own(address)) {
            request = request.header(AUTHORIZATION, value.as_str());
        }
        match body {
            Some(mut bytes) => {
                let length = bytes.len().to_string();
                let body = SendBody::from_reader(&mut bytes);
                let request = request.header("content-length", length).body(body);
                self.agent.run(request.map_err(|error| unreachable(error.into()))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| unreachable(error.into()))?),
        }
        .map_err(unreachable)
    }

    /// What lets us in; none where we have nothing to show.
    fn answered(&self, challenge: &Challenge) -> Result<Option<String>, RegistryError> {
        let basic =
            |name: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let (realm, service) = match (challenge, &self.credential) {
            (Challenge::Basic, Some(Credential::Password { name, password })) => {
                return Ok(Some(basic(name, password)));
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { realm, service }, _) => (realm, service.as_deref().unwrap_or_default()),
        };
        let unreachable =
            |source| RegistryError::Unreachable { host: realm.clone(), source: Box::new(source) };
        let delete = if self.deletes.load(Ordering::Relaxed) { ",delete" } else { "" };
        let own = format!("repository:{}:pull,push{delete}", self.reference.repository());
        let others = locked(&self.others);
        let others = others.iter().map(|repository| format!("repository:{repository}:pull"));
        let scopes: Vec<_> = [own].into_iter().chain(others).collect();
        let mut answer = match &self.credential {
            Some(Credential::IdentityToken(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "torpor"),
                    ("scope", &scopes.join(" ")),
                    ("refresh_token", token),
                ];
                self.agent.post(realm).send_form(form).map_err(unreachable)?
            }
            credential => {
                let mut request = self.agent.get(realm).query("service", service);
                for scope in &scopes {
                    request = request.query("scope", scope);
                }
                if let Some(Credential::Password { name, password }) = credential {
                    request = request.header("authorization", basic(name, password));
                }
                request.call().map_err(unreachable)?
            }
        };
        if !answer.status().is_success() {
            let (host, status) = (self.host(), answer.status().as_u16());
            return Err(RegistryError::Denied { host, what: "log in", status });
        }
        let missing = || RegistryError::Answer { host: realm.clone(), what: "a token" };
        let text = answer.body_mut().with_config().limit(1 << 20).read_to_string().map_err(unreachable)?;
        let token: Token = serde_json::from_str(&text).map_err(|_| missing())?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        if token.is_empty() { Err(missing()) } else { Ok(Some(format!("Bearer {token}"))) }
    }

    /// An answer that is one of success, or 404; else what it means.
    fn judged(
        &self,
        mut answer: Response<Body>,
        what: &'static str,
    ) -> Result<Response<Body>, RegistryError> {
        let (host, status) = (self.host(), answer.status().as_u16());
        match status {
            200..=299 | 404 => Ok(answer),
            401 | 403 => Err(RegistryError::Denied { host, what, status }),
            _ => {
                let text =
                    answer.body_mut().with_config().limit(1 << 16).read_to_string().unwrap_or_default();
                let message =
                    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
                Err(RegistryError::Status { host, what, status, message })
            }
        }
    }

    fn found(
        &self,
        answer: Response<Body>,
        what: impl FnOnce() -> String,
    ) -> Result<Response<Body>, RegistryError> {
        match answer.status().as_u16() {
            404 => Err(RegistryError::NotFound { host: self.host(), what: what() }),
            _ => Ok(answer),
        }
    }

    /// The document that the image's name stands for, with its type.
    pub(super) fn manifest(&self) -> Result<(String, Vec<u8>), RegistryError> {
        let address = self.address(&format!("manifests/{}", self.reference.tag_or_digest()));
        let kinds = [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST].join(", ");
        let answer = self.ask(&Method::GET, &address, &[("accept", &kinds)], None, "read the image")?;
        let mut answer = self.found(answer, || format!("image {}", self.reference))?;
        let kind =
            answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = answer.body_mut().with_config().limit(MAX_DOCUMENT).read_to_vec();
        let bytes = bytes
            .map_err(|source| RegistryError::Unreachable { host: self.host(), source: Box::new(source) })?;
        Ok((kind, bytes))
    }

    /// A blob from byte `offset` on.
    pub(super) fn blob(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read>, RegistryError> {
        let address = self.address(&format!("blobs/{digest}"));
        let range = format!("bytes={offset}-");
        let headers = [("range", range.as_str())];
        let headers = if offset == 0 { &headers[..0] } else { &headers };
        let answer = self.ask(&Method::GET, &address, headers, None, "read a blob")?;
        let answer = self.found(answer, || format!("blob {digest}"))?;
        let partial = answer.status() == 206;
        let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        if offset > 0 && !partial {
            // It does not know ranges: what we have is passed over.
            let skipped = std::io::copy(&mut body.by_ref().take(offset), &mut std::io::sink());
            skipped.map_err(|source| RegistryError::Unreachable {
                host: self.host(),
                source: Box::new(source.into()),
            })?;
        }
        Ok(Box::new(body))
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let address = self.address(&format!("blobs/{digest}"));
        let answer = self.ask(&Method::HEAD, &address, &[], None, "look for a blob")?;
        Ok(answer.status() != 404)
    }

    /// Takes a blob of another repository over. Whether that went.
    pub(super) fn mount(&self, digest: &Digest, repository: &str) -> Result<bool, RegistryError> {
        let known = locked(&self.others).iter().any(|other| other == repository);
        if !known {
            locked(&self.others).push(repository.to_owned());
            // The next token is one for that repository, too.
            *locked(&self.authorization) = None;
        }
        let address = self.address(&format!("blobs/uploads/?mount={digest}&from={repository}"));
        let answer = self.ask(&Method::POST, &address, &[], Some(&[]), "take a blob over")?;
        if answer.status() != 201 {
            // It has begun an upload instead, which nobody will end.
            if let Ok(location) = self.location(&answer) {
                let _ = self.ask_once(&Method::DELETE, &location, &[], None);
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// Deletes an image by its digest, asking a single time: an answer that is lost must not make the next one look as if somebody else
    /// had done it.
    pub(super) fn delete_manifest(&self, digest: &Digest) -> Result<Deleted, RegistryError> {
        self.deletes.store(true, Ordering::Relaxed);
        let address = self.address(&format!("manifests/{digest}"));
        let answer = self.ask_once(&Method::DELETE, &address, &[], None)?;
        match answer.status().as_u16() {
            405 => Ok(Deleted::Never),
            404 => Ok(Deleted::NotThere),
            _ => self.judged(answer, "delete the image").map(|_| Deleted::Now),
        }
    }

    pub(super) fn put_manifest(&self, kind: &str, bytes: &[u8], name: &str) -> Result<(), RegistryError> {
        let address = self.address(&format!("manifests/{name}"));
        let answer =
            self.ask(&Method::PUT, &address, &[("content-type", kind)], Some(bytes), "name the image")?;
        self.found(answer, || format!("repository {}", self.reference.repository()))?;
        Ok(())
    }
}

/// Nobody panics while holding one of these, and what is in them stays right anyway.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a registry asks to wait.
fn wanted_pause(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether a failure may pass by itself.
pub(super) fn may_pass(error: &ureq::Error) -> bool {
    match error {
        // A certificate that is not trusted stays so.
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// What is trusted: the system's certificates, those for this registry, and those that are given. None means what is built in.
fn certificates(host: &str, given: Option<&Path>) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let mut own = Vec::new();
    if let Some(path) = given {
        let bytes =
            std::fs::read(path).map_err(|source| RegistryError::File { path: path.to_owned(), source })?;
        own = of_pem(&bytes);
        if own.is_empty() {
            return Err(RegistryError::Certificate { path: path.to_owned() });
        }
    }
    for directory in OF_REGISTRIES {
        let Ok(files) = std::fs::read_dir(Path::new(directory).join(host)) else { continue };
        let authorities = files.flatten().map(|file| file.path());
        let authorities =
            authorities.filter(|path| path.extension().is_some_and(|extension| extension == "crt"));
        own.extend(authorities.filter_map(|path| std::fs::read(path).ok()).flat_map(|bytes| of_pem(&bytes)));
    }
    let system = TRUSTED.iter().find_map(|path| std::fs::read(path).ok());
    let mut all = system.map(|bytes| of_pem(&bytes)).unwrap_or_default();
    all.extend(own);
    Ok(all)
}

fn of_pem(bytes: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(bytes).filter_map(Result::ok);
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    items.filter_map(certificate).collect()
}

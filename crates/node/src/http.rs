//! The HTTP endpoint: a checkpoint or the status, for callers with the token. It is served only where one is configured.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | 200 while Torpor runs; needs no token |
//! | `GET /v1/status` | 200 and the status |
//! | `POST /v1/checkpoint` | 200 once the checkpoint exists, 409 where it is refused, 500 where it failed |
//!
//! Bodies are JSON, the same as the control socket's ([`crate::control`]), and so is what is done with a request.

mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::config::HttpConfig;
use crate::control::{Incoming, Outcome, Replier, Reply, Request, VERSION};

pub use token::{Token, TokenError};

/// How long a caller may take to send a request's head, the next one on the same connection included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections served at a time.
const MOST_CONNECTIONS: usize = 64;
/// More than this is no request.
const LARGEST_BODY: usize = 64 << 10;

type Deliver = Arc<dyn Fn(Incoming) + Send + Sync>;

/// The endpoint. Dropping it ends it, and the connections with it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// Held so that the thread sees it go.
    _ending: oneshot::Sender<()>,
}

impl Endpoint {
    /// Listens as `config` says, and gives each request that has the token to `deliver`, which must not block.
    ///
    /// # Errors
    /// Where the token cannot be read or is none, or the address cannot be listened at.
    pub fn start(
        config: &HttpConfig,
        deliver: impl Fn(Incoming) + Send + Sync + 'static,
    ) -> Result<Endpoint, HttpError> {
        let token = Token::read(&config.token_file)?;
        let wrong = |source| HttpError::Listen { address: config.listen, source };
        let listener = std::net::TcpListener::bind(config.listen).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        // Made here, so that what goes wrong is told to the caller.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(wrong)?
        };
        let (ending, ended) = oneshot::channel();
        let router = router(Shared { token: Arc::new(token), deliver: Arc::new(deliver) });
        thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, router) => {}
                        _ = ended => {}
                    }
                });
            })
            .map_err(wrong)?;
        Ok(Endpoint { address, _ending: ending })
    }

    /// Where it listens; with port 0 configured, on which port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves connections by hand rather than by axum's own loop, which has no time limit for a request's head and no limit
/// for connections.
async fn serve(listener: TcpListener, router: Router) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a caller of the HTTP endpoint");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if connections.fetch_add(1, Ordering::AcqRel) >= MOST_CONNECTIONS {
            connections.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let router = router.clone();
        let connections = Arc::clone(&connections);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, router).await {
                tracing::debug!(%error, "a caller of the HTTP endpoint went away");
            }
            connections.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn connection(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_BODY)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

#[derive(Clone)]
struct Shared {
    token: Arc<Token>,
    deliver: Deliver,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/v1/status", get(status))
        .route("/v1/checkpoint", post(checkpoint))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(shared)
}

async fn status(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if !is_admitted(&shared, &headers) {
        return unauthorised();
    }
    answer(shared.ask(Request::Status).await)
}

async fn checkpoint(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_admitted(&shared, &headers) {
        return unauthorised();
    }
    match understand(&body) {
        Ok(request) => answer(shared.ask(request).await),
        Err(error) => {
            reply(StatusCode::BAD_REQUEST, &Outcome::refused(format!("this is no request: {error}")))
        }
    }
}

/// The request in a body: `{"leaveRunning": bool, "template": bool}`, both optional, as is the body.
fn understand(body: &[u8]) -> Result<Request, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Body {
        #[serde(default)]
        leave_running: bool,
        #[serde(default)]
        template: bool,
    }
    if body.trim_ascii().is_empty() {
        return Ok(Request::Checkpoint { leave_running: false, template: false });
    }
    let Body { leave_running, template } = serde_json::from_slice(body)?;
    Ok(Request::Checkpoint { leave_running, template })
}

impl Shared {
    /// Hands the request over and waits for its outcome.
    async fn ask(&self, request: Request) -> Outcome {
        let (send, outcome) = oneshot::channel();
        let mut send = Some(send);
        let replier = Replier::new(move |reply| {
            if let Reply::Outcome(outcome) = reply
                && let Some(send) = send.take()
            {
                // A caller that went away does not stop what it asked for.
                let _ = send.send(outcome);
            }
        });
        (self.deliver)(Incoming { request, caller: "http".into(), replier });
        outcome.await.unwrap_or_else(|_| Outcome::failed("torpor ended before it had an answer"))
    }
}

/// Whether the request carries the token as `Authorization: Bearer TOKEN`.
fn is_admitted(shared: &Shared, headers: &HeaderMap) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()))
        .is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"Bearer ") && shared.token.is(given))
}

fn unauthorised() -> Response {
    let mut response = reply(StatusCode::UNAUTHORIZED, &Outcome::refused("the token is missing or wrong"));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

fn answer(outcome: Outcome) -> Response {
    let status = match outcome {
        Outcome::Done { .. } | Outcome::Status { .. } | Outcome::Ready => StatusCode::OK,
        Outcome::Refused { .. } => StatusCode::CONFLICT,
        Outcome::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    reply(status, &outcome)
}

fn reply(status: StatusCode, outcome: &Outcome) -> Response {
    let mut body = json!(outcome);
    body["version"] = json!(VERSION);
    (status, axum::Json(body)).into_response()
}

/// Why there is no HTTP endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The address cannot be listened at.
    #[error("cannot listen at {address} for the HTTP endpoint")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl HttpError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            HttpError::Token(_) => {
                "put a token of at least 16 characters into the file, such as `openssl rand -hex 32` prints"
            }
            HttpError::Listen { .. } => "choose another --http-listen, or leave the endpoint out",
        }
    }
}

#[cfg(test)]
mod tests;

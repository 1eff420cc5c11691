//! The endpoint, asked from outside.

use std::io::{Read, Write};
use std::net::TcpStream as Stream;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

const TOKEN: &str = "a-token-of-more-than-sixteen";

struct Asked {
    endpoint: Endpoint,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// An endpoint whose requests all end as `outcome` says.
fn endpoint(outcome: Outcome) -> Asked {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, TOKEN).unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&requests);
    let config = HttpConfig { listen: "127.0.0.1:0".parse().unwrap(), token_file };
    let endpoint = Endpoint::start(&config, move |mut incoming: Incoming| {
        record.lock().unwrap().push(incoming.request);
        incoming.replier.phase("check", Duration::ZERO);
        incoming.replier.finish(outcome.clone());
    });
    Asked { endpoint: endpoint.unwrap(), requests }
}

impl Asked {
    /// Sends a request and returns status and body.
    fn send(&self, line: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let mut stream = Stream::connect(self.endpoint.address()).unwrap();
        let authorisation = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let length = body.len();
        write!(
            stream,
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorisation}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

#[test]
fn a_checkpoint_answers_once_it_exists() {
    let asked = endpoint(Outcome::Done {
        name: "web/app".into(),
        generation: 4,
        suspended: false,
        phases: vec![("check".into(), 1.0)],
    });
    let (status, body) = asked.send("POST /v1/checkpoint", Some(TOKEN), "{\"leaveRunning\":true}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["result"], &body["generation"], &body["version"]),
        (200, &json!("done"), &json!(4), &json!(1))
    );
    asked.send("POST /v1/checkpoint", Some(TOKEN), "");
    let requests = asked.requests.lock().unwrap().clone();
    let checkpoint = |leave_running| Request::Checkpoint { leave_running, template: false };
    assert_eq!(requests, [checkpoint(true), checkpoint(false)]);
}

#[test]
fn outcomes_have_their_status() {
    for (outcome, expected) in
        [(Outcome::refused("busy"), 409), (Outcome::failed("disk is full"), 500), (Outcome::Ready, 200)]
    {
        let asked = endpoint(outcome.clone());
        assert_eq!(asked.send("POST /v1/checkpoint", Some(TOKEN), "").0, expected, "{outcome:?}");
        assert_eq!(asked.send("GET /v1/status", Some(TOKEN), "").0, expected, "{outcome:?}");
    }
}

#[test]
fn nothing_is_done_without_the_token() {
    let asked = endpoint(Outcome::Ready);
    for token in [None, Some(""), Some("wrong"), Some("a-token-of-more-than-sixteem")] {
        for line in ["POST /v1/checkpoint", "GET /v1/status"] {
            let (status, body) = asked.send(line, token, "");
            assert_eq!(status, 401, "{line} {token:?}");
            assert!(body.contains("\"refused\""), "{body}");
        }
    }
    assert!(asked.requests.lock().unwrap().is_empty());
    assert_eq!(asked.send("GET /healthz", None, ""), (200, "ok\n".into()));
}

#[test]
fn what_is_no_request_is_refused() {
    let asked = endpoint(Outcome::Ready);
    for (line, body, expected) in [
        ("POST /v1/checkpoint", "{", 400),
        ("POST /v1/checkpoint", "{\"leaverunning\":true}", 400),
        ("POST /v1/checkpoint", &"x".repeat(70_000), 413),
        ("GET /v1/checkpoint", "", 405),
        ("GET /v2/status", "", 404),
    ] {
        assert_eq!(asked.send(line, Some(TOKEN), body).0, expected, "{line}");
    }
    assert!(asked.requests.lock().unwrap().is_empty());
}

#[test]
fn it_ends_when_it_is_dropped() {
    let asked = endpoint(Outcome::Ready);
    let address = asked.endpoint.address();
    let mut open = Stream::connect(address).unwrap();
    drop(asked.endpoint);
    // The connection ends with the thread.
    assert!(matches!(open.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, TOKEN).unwrap();
    let config = HttpConfig { listen: taken.local_addr().unwrap(), token_file };
    let error = Endpoint::start(&config, |_| {}).unwrap_err();
    assert!(error.to_string().contains(&config.listen.to_string()), "{error}");
}

proptest! {
    #[test]
    fn any_body_is_a_request_or_refused(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = understand(&body);
    }
}

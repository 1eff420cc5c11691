//! Servers of every kind, and what they lead to.

use std::net::TcpListener;

use super::*;
use crate::loopback::Loopback;

const SUSPEND: NodeStateUnreachable = NodeStateUnreachable::Suspend;
const PASS: NodeStateUnreachable = NodeStateUnreachable::Pass;

fn asked(url: &str, unreachable: NodeStateUnreachable, timeout: Duration) -> Verdict {
    ask(&NodeStateConfig { url: url.into(), node: "node-1".into(), timeout, unreachable })
}

fn server(answer: impl Fn(&str) -> Option<(u16, &'static str)> + Send + 'static) -> Loopback {
    Loopback::start(move |seen| answer(&seen.path).map(|(status, body)| (status, body.to_owned())))
}

fn paths(server: &Loopback) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.path).collect()
}

const PATIENT: Duration = Duration::from_secs(10);

#[test]
fn criks_server_is_asked_where_it_answers() {
    let criks = server(|path| match path {
        "/v1/nodes/node-1" => Some((200, "{\"name\":\"node-1\",\"state\":\"shutting-down\"}\n")),
        _ => Some((200, "{\"name\":\"nodes/node-1\",\"state\":\"unknown\"}\n")),
    });
    let verdict = asked(&criks.url, PASS, PATIENT);
    assert_eq!(verdict, Verdict { suspend: true, reason: "the node is shutting down".into() });
    assert_eq!(paths(&criks), ["/v1/nodes/node-1"]);
}

#[test]
fn the_other_paths_are_tried_in_turn() {
    let theirs = server(|path| match path {
        "/node-state/node-1" => Some((200, "{\"state\":\"unknown\"}")),
        "/nodes/node-1" => Some((200, "{\"name\":\"nodes/node-1\",\"state\":\"shutting-down\"}")),
        _ => Some((404, "not here")),
    });
    let verdict = asked(&theirs.url, SUSPEND, PATIENT);
    assert!(!verdict.suspend, "{verdict}");
    assert!(verdict.reason.contains("\"unknown\""), "{verdict}");
    assert_eq!(paths(&theirs), ["/v1/nodes/node-1", "/nodes/node-1", "/node-state/node-1"]);
}

#[test]
fn odd_answers_are_decided_by_the_key() {
    for body in [
        "",
        "shutting-down",
        "[]",
        "{\"name\":\"node-1\"}",
        "{\"state\":7}",
        "{\"name\":\"x\",\"state\":\"shutting-down\"}",
    ] {
        let odd = server(move |_| Some((200, body)));
        assert!(asked(&odd.url, SUSPEND, PATIENT).suspend, "{body}");
        assert!(!asked(&odd.url, PASS, PATIENT).suspend, "{body}");
    }
    let failing = server(|_| Some((500, "{\"name\":\"node-1\",\"state\":\"shutting-down\"}")));
    let verdict = asked(&failing.url, PASS, PATIENT);
    assert!(
        !verdict.suspend && verdict.reason.ends_with("status 500; nodeStateUnreachable is pass"),
        "{verdict}"
    );
}

#[test]
fn a_slow_server_is_decided_by_the_key() {
    let slow = server(|_| None);
    let short = Duration::from_millis(50);
    assert!(asked(&slow.url, SUSPEND, short).suspend);
    assert!(!asked(&slow.url, PASS, short).suspend);
}

#[test]
fn an_unreachable_server_is_decided_by_the_key() {
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let verdict = asked(&nobody, SUSPEND, PATIENT);
    assert!(verdict.suspend && verdict.reason.starts_with("cannot ask http://127.0.0.1:"), "{verdict}");
    assert!(!asked(&nobody, PASS, PATIENT).suspend);
}

#[test]
fn without_the_nodes_name_nobody_is_asked() {
    let verdict = ask(&NodeStateConfig {
        url: "http://127.0.0.1:1".into(),
        node: String::new(),
        timeout: PATIENT,
        unreachable: PASS,
    });
    assert!(!verdict.suspend && verdict.reason.contains("KUBERNETES_NODE_NAME"), "{verdict}");
}

#[test]
fn urls_in_order() {
    for (server, node, expected) in [
        (
            "http://s:9376",
            "n",
            &["http://s:9376/v1/nodes/n", "http://s:9376/nodes/n", "http://s:9376/node-state/n"][..],
        ),
        ("http://s/x/nodes/", "n", &["http://s/x/nodes/n"]),
        ("http://s/node-state", "a/b c", &["http://s/node-state/a%2Fb%20c"]),
    ] {
        assert_eq!(urls(server, node), expected);
    }
}

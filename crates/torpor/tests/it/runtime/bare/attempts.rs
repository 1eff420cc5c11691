//! Which checkpoints a container may have, and what becomes of those that come to nothing.

use super::{COUNTER, FRESH, bundle, count, counts_beyond, runtime};
use crate::runtime::node::{Cluster, Node};

/// What the runtime has said.
fn said(node: &Node<'_>) -> String {
    std::fs::read_to_string(node.path("/run/said")).unwrap_or_default()
}

fn create(node: &Node<'_>, id: &str) -> bool {
    let script = format!("torpor-runtime --log /run/said create --bundle /run/b/{id} {id} > /dev/null 2>&1");
    node.output(&["bash", "-c", &script]).status.success()
}

#[test]
fn a_container_that_dies_at_once_is_a_failed_attempt() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let program = "i=0; while :; do i=$((i+1)); echo $i > /volume/count; [ ! -e /volume/end ] || exit $(cat /volume/end); sleep 0.05; done";
    bundle(&node, "first", program, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    counts_beyond(&node, "first", 3);
    node.keep("first", "dies", &["--leave-running"]);
    let store = cluster.path("store");
    let attempts = || {
        let shown = node.torpor(&["show", "dies", "--store", store.to_str().unwrap(), "--output", "json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let attempts = shown["record"]["generations"][0]["attempts"].as_array().cloned().unwrap_or_default();
        attempts.iter().map(|attempt| attempt["outcome"].to_string()).collect::<Vec<_>>()
    };
    let failed = || attempts().iter().filter(|attempt| attempt.contains("within seconds")).count();
    // One that ends well, and one that somebody ends, are none.
    for (id, code, ended) in
        [("well", "0", false), ("stopped", "", true), ("one", "3", false), ("two", "3", false)]
    {
        bundle(&node, id, FRESH, r#"{"torpor.dev/restore": "dies"}"#);
        std::fs::write(node.path(&format!("/run/b/{id}/volume/end")), code).unwrap();
        if ended {
            std::fs::remove_file(node.path(&format!("/run/b/{id}/volume/end"))).unwrap();
        }
        let before = failed();
        runtime(&node, "runc", &format!("create --bundle /run/b/{id} {id}"));
        runtime(&node, "runc", &format!("start {id}"));
        if ended {
            runtime(&node, "runc", &format!("kill {id} KILL"));
        }
        let looks_on = || node.output(&["pgrep", "-f", "torpor-looks-on"]).status.success();
        node.wait_until("nobody looks on", || !looks_on());
        assert_eq!(failed() - before, usize::from(code == "3"), "{id}: {:?}", attempts());
        runtime(&node, "runc", &format!("delete --force {id}"));
    }
    // It is not tried a third time, nor is what it held forgotten unless that is wanted.
    for (id, wanted) in [("three", "dies@1"), ("four", "dies")] {
        bundle(&node, id, FRESH, &format!(r#"{{"torpor.dev/restore": "{wanted}"}}"#));
        assert!(!create(&node, id));
        let said = said(&node);
        let last = said.lines().last().unwrap();
        assert!(last.contains(&format!("{wanted} is not what can be gone on from")), "{said}");
    }
    let fresh = r#"{"torpor.dev/restore": "dies", "torpor.dev/on-restore-failure": "fresh"}"#;
    bundle(&node, "five", FRESH, fresh);
    assert!(create(&node, "five"), "{}", said(&node));
    runtime(&node, "runc", "delete --force five");
    runtime(&node, "runc", "delete --force first");
}

#[test]
fn a_pod_of_another_namespace_needs_a_permit() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let pod = |namespace: &str, more: &str| {
        format!(
            r#"{{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-namespace": "{namespace}",
                "io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-uid": "u-{namespace}",
                "io.kubernetes.cri.container-name": "app"{more}}}"#
        )
    };
    bundle(&node, "first", COUNTER, &pod("shop", ""));
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    node.keep("first", "shop/web", &["--leave-running"]);
    let (key, store) = (cluster.path("key"), cluster.path("store"));
    let (key, store) = (key.to_str().unwrap(), store.to_str().unwrap());
    let public = node.torpor(&["key", "pair", key]);
    let other = cluster.path("other");
    node.torpor(&["key", "pair", other.to_str().unwrap()]);
    let settings = std::fs::read_to_string(cluster.path("runtime.yaml")).unwrap();
    std::fs::write(cluster.path("runtime.yaml"), format!("{settings}trustedKeys: [{public}]\n")).unwrap();
    let sign = |key: &str, flags: &[&str]| {
        node.torpor(&[&["sign", "shop/web", "--store", store, "--key", key], flags].concat());
    };
    bundle(&node, "test", FRESH, &pod("test", r#", "torpor.dev/restore": "shop/web""#));
    let refused = |why: &str| {
        assert!(!create(&node, "test"));
        assert!(said(&node).lines().last().unwrap().contains(why), "{why}: {}", said(&node));
    };
    refused("is a checkpoint of namespace \\\"shop\\\", and this pod is in namespace \\\"test\\\"");
    sign(other.to_str().unwrap(), &["--namespace", "test"]);
    refused("signed by none of the keys");
    sign(key, &["--namespace", "stage"]);
    refused("for namespaces stage only");
    sign(key, &["--namespace", "test", "--valid-for", "1ms"]);
    refused("expired");
    sign(key, &["--namespace", "stage", "--namespace", "test", "--valid-for", "1h"]);
    assert!(create(&node, "test"), "{}", said(&node));
    runtime(&node, "runc", "start test");
    counts_beyond(&node, "test", reached);
    assert_ne!(count(&node, "test"), "fresh");
    for id in ["test", "first"] {
        runtime(&node, "runc", &format!("delete --force {id}"));
    }
}

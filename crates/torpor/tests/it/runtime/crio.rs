//! A real CRI-O, where there is one: `torpor restore --into cri`, of what Torpor keeps and of what CRI-O makes.

use serde_json::json;

use super::COUNTER;
use super::node::{Cluster, Node};

/// How far a container is.
fn count(node: &Node<'_>, container: &str) -> Option<u64> {
    String::from_utf8(node.call(&["exec", container, "cat", "/data/count"]).stdout).ok()?.trim().parse().ok()
}

#[track_caller]
fn goes_on(node: &Node<'_>, container: &str, reached: u64) {
    node.wait_until("it counts on", || count(node, container).is_some_and(|count| count > reached + 3));
    assert_eq!(node.pod(&["exec", container, "cat", "/etc/me"]), "me");
    assert!(!node.call(&["exec", container, "cat", "/etc/motd"]).status.success());
    node.pod(&["stop", container]);
    assert!(node.pod(&["status", container]).starts_with("exited 7"));
}

#[test]
fn cri_o_restores_from_a_store_and_from_its_own_archive() {
    let Some(cluster) = Cluster::new() else { return };
    let Some(node) = cluster.node_with_crio() else { return };
    let pod = node.pod(&["run", "shop", "web", "u0", ""]);
    let container = node.start(&pod, "app", &[], &format!("echo me > /etc/me; rm /etc/motd; {COUNTER}"));
    node.wait_until("it counts", || count(&node, &container).is_some_and(|count| count > 10));
    let reached = count(&node, &container).unwrap();
    node.keep(&container, "shop/web/app", &["--leave-running"]);
    let (target, archive) = (format!("container:{container}"), "/var/tmp/own.tar");
    node.torpor(&["checkpoint", &target, "--route", "cri", "--leave-running", "--export", archive]);
    node.pod(&["end", &pod]);

    let pod_config = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "log_directory": "/var/log/pods/shop_web_u1",
        "linux": {"cgroup_parent": format!("/{}", node.group()), "security_context": {"namespace_options": {"pid": "CONTAINER"}}},
    });
    std::fs::write(node.path("/var/tmp/pod.json"), pod_config.to_string()).unwrap();
    let store = cluster.path("store").display().to_string();
    let room = ["--into", "cri", "--room", "/var/tmp/room"];
    let from_store = ["restore", "shop/web/app", "--store", &store, "--pod-config", "/var/tmp/pod.json"];
    let container = node.torpor(&[&from_store[..], &room].concat());
    goes_on(&node, &container, reached);
    let log = std::fs::read_to_string(node.path(&format!("/var/log/pods/shop_web_u1/{container}.log")));
    assert!(log.unwrap().ends_with(" bye\n"));

    let other = node.pod(&["run", "shop", "other", "u2", ""]);
    let from_archive = ["restore", archive, "--pod", &other, "--id", "again"];
    let container = node.torpor(&[&from_archive[..], &room].concat());
    goes_on(&node, &container, reached);
}

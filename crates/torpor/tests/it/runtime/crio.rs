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

/// A registry on port 5001, which CRI-O speaks to without TLS here, that lets in me alone. It has the worker's image.
const CLOSED: &str = r#"
cd /var/tmp
# The password is hunter2.
printf 'me:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n' > users
printf '{"auths": {"localhost:5001": {"auth": "%s"}}}' "$(printf me:hunter2 | base64)" > auth.json
printf '{}' > empty.json
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /var/tmp/closed}}\nhttp: {addr: "127.0.0.1:5001"}\nauth: {htpasswd: {realm: lab, path: users}}\n' > closed.yml
setsid docker-registry serve closed.yml > closed.log 2>&1 < /dev/null &
for _ in $(seq 100); do curl -s http://127.0.0.1:5001/v2/ > /dev/null && break; sleep 0.1; done
skopeo copy -q --dest-tls-verify=false --dest-creds me:hunter2 oci-archive:/var/lib/images/worker.tar docker://localhost:5001/worker:1
"#;

#[test]
fn cri_o_restores_from_a_store_and_from_its_own_archive_and_pulls_with_a_password() {
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
    // An image that it lacks is pulled by whoever may.
    node.run(&["bash", "-ec", CLOSED]);
    let flags = ["restore", archive, "--pod", &other, "--id", "third", "--image", "localhost:5001/worker:1"];
    let pulling = [&flags[..], &room].concat();
    let torpor = cluster.path("torpor").display().to_string();
    let refused =
        node.output(&[&[torpor.as_str()], &pulling[..], &["--authfile", "/var/tmp/empty.json"]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("or name a file with --authfile"), "{said}");
    let container = node.torpor(&[&pulling[..], &["--authfile", "/var/tmp/auth.json"]].concat());
    goes_on(&node, &container, reached);
}

//! `torpor restore --into cri`: containerd 2.1 restores a container that it is told to create from a checkpoint.

use serde_json::json;

use super::node::{Cluster, Node};
use super::{COUNTER, count};

/// The image as a runtime can pull it, which containerd 2.1 does even where it has the image.
const IMAGE: &str = "localhost:5000/worker:1";

/// Where `torpor restore --into cri` puts what it lays out.
const ROOM: [&str; 4] = ["--into", "cri", "--room", "/var/tmp/room"];

/// Kills the command once the runtime knows `$1` containers, sandboxes among them.
const KILL: &str = r#"
most=$1; shift; "$@" > /dev/null 2>&1 & p=$!
while kill -0 $p 2> /dev/null && [ "$(ctr -n k8s.io containers ls -q | wc -l)" -lt $most ]; do :; done
kill -KILL $p; wait $p; echo $?
"#;

/// Writes a document that the node sees. Returns its path.
fn file(node: &Node<'_>, path: &str, document: &serde_json::Value) -> String {
    std::fs::write(node.path(path), document.to_string()).unwrap();
    path.to_owned()
}

/// The container counts on from where it was. Returns how far it is, and with what its log begins.
#[track_caller]
fn goes_on(node: &Node<'_>, container: &str, log: &str, reached: u64, begun: u64) -> (u64, u64) {
    node.wait_until("it counts on", || count(node, log).is_some_and(|count| count > reached + 3));
    let said: Vec<u64> = node.log(log).iter().map(|line| line.parse().unwrap()).collect();
    assert!(said[0] >= begun && said.is_sorted(), "it was at {reached}, and says {said:?}");
    assert_eq!(node.pod(&["exec", container, "cat", "/etc/me"]), "me");
    assert!(!node.call(&["exec", container, "cat", "/etc/motd"]).status.success());
    (count(node, log).unwrap(), said[0])
}

#[test]
fn containerd_restores_from_a_store_its_own_archive_and_a_registry_in_a_pod_made_or_given() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    node.run(&[cluster.path("lab/worker-registry").to_str().unwrap()]);
    let pod = node.pod(&["run", "shop", "web", "u0", ""]);
    let container = node.start(&pod, "app", &[], &format!("echo me > /etc/me; rm /etc/motd; {COUNTER}"));
    let log = "/var/log/pods/shop_web_u0/app_0.log";
    node.wait_until("it counts", || count(&node, log).is_some_and(|count| count > 3));
    let reached = count(&node, log).unwrap();
    node.keep(&container, "shop/web/app", &["--leave-running"]);
    node.pod(&["end", &pod]);

    // In a pod that is made, of which the file says what the checkpoint cannot know.
    let logs = "/var/log/pods/shop_web_u1";
    let pod_config = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "logDirectory": logs,
        "linux": {"cgroupParent": format!("/{}", node.group()), "securityContext": {"namespaceOptions": {"pid": "CONTAINER"}}},
    });
    let pod_config = file(&node, "/var/tmp/pod.json", &pod_config);
    let store = cluster.path("store").display().to_string();
    let from_store = [&["restore", "shop/web/app", "--store", &store][..], &ROOM].concat();
    let in_made = ["--pod-config", &pod_config, "--pid-file", "/var/tmp/pid"];
    let container = node.torpor(&[&from_store[..], &in_made, &["--image", IMAGE]].concat());
    let (reached, begun) = goes_on(&node, &container, &format!("{logs}/app_0.log"), reached, reached);
    let pid = std::fs::read_to_string(node.path("/var/tmp/pid")).unwrap();
    assert!(node.path(&format!("/proc/{pid}")).exists(), "{pid}");

    // What containerd makes of it goes on in a pod that is there.
    let archive = "/var/tmp/web.tar";
    let target = format!("container:{container}");
    node.torpor(&["checkpoint", &target, "--route", "cri", "--leave-running", "--export", archive]);
    let other = node.pod(&["run", "shop", "other", "u2", ""]);
    let flags = ["restore", archive, "--image", IMAGE, "--pod", &other, "--id", "again"];
    let from_archive = [&flags[..], &ROOM].concat();
    let again = node.torpor(&from_archive);
    // containerd keeps the log in its archive.
    goes_on(&node, &again, "/var/log/pods/shop_other_u2/again_0.log", reached, begun);
    let image = "docker://localhost:5000/shop/web:kept";
    node.torpor(&["build", archive, "--for", "containerd", "--image", IMAGE, "--out", image]);
    let from_registry = [&["restore", image, "--pod", &other, "--id", "third"][..], &ROOM].concat();
    let third = node.torpor(&from_registry);
    goes_on(&node, &third, "/var/log/pods/shop_other_u2/third_0.log", reached, begun);
    node.pod(&["stop", &again]);
    assert!(node.pod(&["status", &again]).starts_with("exited 7"));

    // Killed once there is a sandbox, and once there is a container in it, or in one that is given.
    let known = || node.run(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"]).lines().count();
    let torpor = cluster.path("torpor").display().to_string();
    for (round, more) in [1, 2, 1].into_iter().enumerate() {
        let uid = format!("u{}", 3 + round);
        let pod_config = json!({"metadata": {"name": "killed", "namespace": "shop", "uid": uid},
            "log_directory": "/var/log/pods/killed", "linux": {"cgroup_parent": format!("/{}", node.group())}});
        let pod_config = file(&node, "/var/tmp/pod.json", &pod_config);
        let place = if round < 2 { ["--pod-config", &pod_config] } else { ["--pod", &other] };
        let before = known();
        let most = (before + more).to_string();
        let restore = [&["restore", archive, "--image", IMAGE, "--id", "killed"][..], &place, &ROOM].concat();
        let words = [&["bash", "-c", KILL, "bash", &most, &torpor][..], &restore].concat();
        assert_eq!(node.run(&words), "137", "{place:?}: the kill comes too late");
        let next = node.output(&[&torpor, "restore", "/var/tmp/none", "--into", "cri"]);
        let said = String::from_utf8_lossy(&next.stderr);
        if said.contains("cut off once it was done") {
            // containerd did not notice.
            assert!(known() > before, "{place:?}: {said}");
        } else {
            assert!(said.contains("is removed"), "{place:?}: {said}");
            assert_eq!(known(), before, "{place:?}: {said}");
        }
    }
    let last = [&["restore", archive, "--image", IMAGE, "--pod", &other, "--id", "last"][..], &ROOM].concat();
    node.torpor(&last);
    let left = node.run(&["sh", "-c", "find /var/tmp/room -mindepth 1; rm /var/tmp/pod.json"]);
    assert_eq!(left, "");
}

#[test]
fn nothing_stays_in_containerd_of_what_it_cannot_restore() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    let pod = node.pod(&["run", "shop", "web", "u0", ""]);
    let container = node.start(&pod, "app", &["--mount", "/var/tmp:/data"], COUNTER);
    let log = "/var/log/pods/shop_web_u0/app_0.log";
    node.wait_until("it counts", || count(&node, log).is_some_and(|count| count > 3));
    node.keep(&container, "shop/web/app", &["--leave-running"]);
    node.pod(&["end", &pod]);
    let store = cluster.path("store").display().to_string();
    let restore = [&["restore", "shop/web/app@1", "--store", &store][..], &ROOM].concat();
    let none = file(&node, "/var/tmp/container.json", &json!({"metadata": {"name": "app"}}));
    let odd = file(&node, "/var/tmp/odd.json", &json!({"metadata": {"nmae": "app"}}));
    let pod_config = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "log_directory": "/var/log/pods/u1", "linux": {"cgroup_parent": format!("/{}", node.group())}});
    let pod_config = file(&node, "/var/tmp/pod.json", &pod_config);
    let torpor = cluster.path("torpor").display().to_string();
    for (flags, said) in [
        (&["--image", "localhost:5000/none:1", "--pod-config", &pod_config][..], "name another with --image"),
        (&[], "the image localhost/worker:1 cannot be pulled"),
        (
            &["--image", IMAGE, "--container-config", &none],
            "mounts that it is not given: /data (from /var/tmp)",
        ),
        (&["--image", IMAGE, "--pod-config", &odd], "has no field metadata.nmae"),
        (&["--image", IMAGE, "--pod", "none"], "the runtime does not find the sandbox"),
        (
            &["--image", IMAGE, "--cri-socket", "/run/none.sock"],
            "no container runtime listens at /run/none.sock",
        ),
    ] {
        let output = node.output(&[&[torpor.as_str()], &restore[..], flags].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{flags:?}: {error}");
        assert_eq!(node.run(&["ctr", "-n", "k8s.io", "containers", "ls", "-q"]), "", "{flags:?}");
        assert_eq!(node.run(&["sh", "-c", "find /var/tmp/room -mindepth 1 2> /dev/null || true"]), "");
    }
}

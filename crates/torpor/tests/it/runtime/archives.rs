//! An engine's archive restored by runc alone, from a bundle: from a store that it was imported into, as it is, and for a look.

use std::cell::Cell;

use super::node::Cluster;

const COUNTER: &str = "trap 'exit 7' TERM; echo mine > /etc/me; rm /etc/motd; \
    i=0; while :; do i=$((i+1)); echo $i > /data/count; sleep 0.05; done";
/// Makes a bundle of Podman's container `web` of its archive: with the image as its root, and what that had mounted.
const BUNDLE: &str = r#"
    mkdir -p /run/b/web && cd /run/b/web && tar xf "$1" spec.dump
    mkdir rootfs && podman image save --format oci-dir -o /run/image localhost/worker:1 > /dev/null
    for layer in $(jq -r .layers[].digest "/run/image/blobs/sha256/$(jq -r .manifests[0].digest /run/image/index.json | cut -d: -f2)"); do
        tar xf "/run/image/blobs/sha256/${layer#sha256:}" -C rootfs
    done
    jq --arg group "/$LAB_NAME/web" '.root.path = "rootfs" | .linux.cgroupsPath = $group | del(.hooks)' spec.dump > config.json
"#;

#[test]
fn an_archive_of_podmans_goes_on_under_runc_from_a_bundle() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.install_podman();
    let group = format!("--cgroup-parent=/{}", node.group());
    let flags = ["run", "--detach", "--name=web", "--network=none", "--volume=data:/data", &group];
    node.run(
        &[&["podman"], &flags[..], &["--entrypoint=/bin/sh", "localhost/worker:1", "-c", COUNTER]].concat(),
    );
    let volume = node.path("/var/lib/containers/storage/volumes/data/_data/count");
    let counts_beyond = |number: u64| {
        let reached = Cell::new(0);
        node.wait_until("it counts on", || {
            let text = std::fs::read_to_string(&volume).unwrap_or_default();
            text.trim().parse().inspect(|count| reached.set(*count)).is_ok_and(|count| count > number)
        });
        reached.get()
    };
    counts_beyond(3);
    let archive = cluster.path("web.tar").display().to_string();
    node.run(&["podman", "container", "checkpoint", "--export", &archive, "web"]);
    let end = counts_beyond(3);
    node.run(&["bash", "-ec", BUNDLE, "bash", &archive]);
    let store = cluster.path("store").display().to_string();
    node.torpor(&["import", &archive, "--store", &store, "--name", "shop/web"]);

    let torpor = cluster.path("torpor").display().to_string();
    // What is restored goes on with the output that it is given.
    let restore = |rest: &str| {
        let words = format!(
            "exec {torpor} restore {rest} --bundle /run/b/web --room /run/room > /run/told 2> /run/said"
        );
        let ended = node.output(&["bash", "-c", &words]).status;
        assert!(ended.success(), "{}", node.run(&["cat", "/run/said"]));
    };
    let mine = |id: &str| {
        assert_eq!(node.run(&["runc", "exec", id, "cat", "/etc/me"]), "mine");
        assert!(!node.output(&["runc", "exec", id, "cat", "/etc/motd"]).status.success());
    };
    let stored = format!("shop/web --store {store}");
    for source in [archive.as_str(), &stored] {
        restore(&format!("{source} --sandbox"));
        assert!(node.run(&["cat", "/run/told"]).contains("stands still"));
        let root = node.run(&["bash", "-c", "cat /proc/$(runc state web-sandbox | jq .pid)/root/etc/me"]);
        assert_eq!(root, "mine");
        node.run(&["runc", "delete", "--force", "web-sandbox"]);
        assert!(!node.path("/run/b/web/rootfs/etc/me").exists(), "nothing stays of a look");
    }
    restore(&format!("{stored} --detach"));
    counts_beyond(end);
    mine("web");
    node.run(&["runc", "delete", "--force", "web"]);
    restore(&format!("{archive} --id again --detach"));
    std::fs::write(&volume, "").unwrap();
    counts_beyond(end);
    mine("again");
    node.run(&["runc", "delete", "--force", "again"]);
    assert_eq!(node.run(&["ls", "/run/room"]), "");
}

//! Containers whose storage makes copies instead of overlays.

use crate::runtime::node::Cluster;

#[test]
fn what_a_container_changed_in_a_copy_of_its_image_comes_along() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let torpor = cluster.path("torpor-runtime");
    let podman = |rest: &str| {
        let script = format!("STORAGE_DRIVER=vfs podman --cgroup-manager=cgroupfs --runtime \"$0\" {rest}");
        node.run(&["bash", "-c", &script, torpor.to_str().unwrap()])
    };
    podman("load -q -i /var/lib/images/worker.tar");
    let start = |name: &str, flags: &str, program: &str| {
        podman(&format!(
            "run -d --name {name} {flags} --cgroup-parent \"/$LAB_NAME\" --network none --entrypoint /bin/sh localhost/worker:1 \
             -c '{program}'"
        ))
    };
    start(
        "first",
        "",
        "echo mine > /etc/me; rm /etc/motd; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done",
    );
    let said = |name: &str| podman(&format!("logs {name}"));
    node.wait_until("it counts", || said("first").lines().count() > 3);
    node.keep("first", "copied", &[]);
    let reached: u64 = said("first").lines().last().unwrap().parse().unwrap();
    start("second", "--annotation torpor.dev/restore=copied", "echo fresh; sleep 1000");
    let goes_on = || {
        said("second")
            .lines()
            .last()
            .and_then(|line| line.parse().ok())
            .is_some_and(|count: u64| count > reached)
    };
    node.wait_until("it goes on", goes_on);
    assert_eq!(podman("exec second cat /etc/me"), "mine");
    assert_eq!(podman("exec second sh -c 'ls /etc/motd 2> /dev/null || echo gone'"), "gone");
    podman("rm -f -t 0 second");
}

/// Starts containerd with the images that it needs, and runs a container of its own snapshotter `native`.
const NATIVE: &str = r#"
setsid containerd > /dev/null 2>&1 < /dev/null &
for _ in $(seq 200); do ctr version > /dev/null 2>&1 && break; sleep 0.1; done
ctr images import --no-unpack /var/lib/images/worker.tar > /dev/null
"#;

#[test]
fn containerd_is_asked_what_a_copy_was_made_from() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.run(&["bash", "-ec", NATIVE]);
    let torpor = cluster.path("torpor-runtime");
    let start = |id: &str, flags: &str, program: &str| {
        let script = format!(
            "ctr run -d --null-io --snapshotter native --cgroup \"/$LAB_NAME/{id}\" {flags} localhost/worker:1 {id} sh -c '{program}'"
        );
        node.run(&["bash", "-ec", &script]);
    };
    let shell = |id: &str, words: &str| {
        let script = format!(
            "nsenter --mount --root --target $(ctr task ls | awk '$1 == \"{id}\" {{print $2}}') sh -c '{words}'"
        );
        node.run(&["bash", "-c", &script])
    };
    let count = |id: &str| shell(id, "cat /etc/count").parse::<u64>().ok();
    let counter = "echo mine > /etc/me; rm /etc/motd; i=0; while :; do i=$((i+1)); echo $i > /etc/new; mv /etc/new /etc/count; sleep 0.05; done";
    start("first", "", counter);
    node.wait_until("it counts", || count("first").is_some_and(|count| count > 3));
    let reached = count("first").unwrap();
    node.keep("first", "native", &[]);
    let flags = format!("--runc-binary {} --annotation torpor.dev/restore=native", torpor.display());
    start("second", &flags, "sleep 1000");
    node.wait_until("it goes on", || count("second").is_some_and(|count| count > reached));
    assert_eq!(shell("second", "cat /etc/me; ls /etc/motd 2> /dev/null || echo gone"), "mine\ngone");
    assert!(!node.run(&["ctr", "snapshots", "--snapshotter", "native", "ls"]).contains("torpor-view"));
    node.run(&["ctr", "task", "kill", "--signal", "KILL", "second"]);
}

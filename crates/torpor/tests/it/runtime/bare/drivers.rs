//! Containers whose storage makes copies instead of overlays.

use crate::runtime::node::{Cluster, Node};

/// Makes loop devices known on a host, where the machine has such, and files that are file systems. Says for which drivers.
const LOOPS: &str = r#"
at=$1; kinds=$2
if [ -e /sys/block/loop0 ] && mknod /dev/loop-control c 10 237; then
    for number in $(seq 0 63); do mknod "/dev/loop$number" b 7 "$number"; done
    truncate -s 256M /var/tmp/scratch; mkfs.ext4 -q /var/tmp/scratch
    truncate -s 256M /var/tmp/volume; mkfs.btrfs -q /var/tmp/volume; mkdir -p "$at"
    kinds="$kinds $3"; mount -o loop /var/tmp/volume "$at" && kinds="$kinds btrfs"
fi
echo $kinds
"#;

/// The drivers of an engine that can be tried here; that of subvolumes has them at `at`.
fn drivers(node: &Node<'_>, at: &str, always: &str, with_loops: &str) -> Vec<String> {
    let told = node.run(&["bash", "-ec", LOOPS, "bash", at, always, with_loops]);
    told.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_a_container_changed_in_a_copy_of_its_image_comes_along() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let torpor = cluster.path("torpor-runtime");
    for driver in drivers(&node, "/var/lib/containers", "vfs", "") {
        let podman = |rest: &str| {
            let script =
                format!("STORAGE_DRIVER={driver} podman --cgroup-manager=cgroupfs --runtime \"$0\" {rest}");
            node.run(&["bash", "-c", &script, torpor.to_str().unwrap()])
        };
        // One storage knows one driver.
        podman("system reset --force");
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
        node.keep("first", &driver, &[]);
        let reached: u64 = said("first").lines().last().unwrap().parse().unwrap();
        let flags = format!("--annotation torpor.dev/restore={driver}");
        start("second", &flags, "echo fresh; sleep 1000");
        let goes_on = || {
            let count = said("second").lines().last().and_then(|line| line.parse().ok());
            count.is_some_and(|count: u64| count > reached)
        };
        node.wait_until("it goes on", goes_on);
        assert_eq!(podman("exec second cat /etc/me"), "mine", "{driver}");
        assert_eq!(podman("exec second sh -c 'ls /etc/motd 2> /dev/null || echo gone'"), "gone", "{driver}");
        podman("rm -f -t 0 first second");
    }
}

/// Starts containerd with an image.
const CONTAINERD: &str = r#"
cat > /etc/containerd/config.toml <<C
version = 3
[plugins.'io.containerd.snapshotter.v1.blockfile']
  scratch_file = '/var/tmp/scratch'
  fs_type = 'ext4'
C
setsid containerd > /var/log/containerd.log 2>&1 < /dev/null &
for _ in $(seq 200); do ctr version > /dev/null 2>&1 && break; sleep 0.1; done
ctr images import --no-unpack /var/lib/images/worker.tar > /dev/null
"#;

#[test]
fn containerds_image_is_compared_whatever_the_snapshotter() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let torpor = cluster.path("torpor-runtime");
    let start = |snapshotter: &str, id: &str, flags: &str, program: &str| {
        let script = format!(
            "ctr run -d --null-io --snapshotter {snapshotter} --cgroup \"/$LAB_NAME/{id}\" {flags} localhost/worker:1 {id} sh -c '{program}'"
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
    let subvolumes = "/var/lib/containerd/io.containerd.snapshotter.v1.btrfs";
    let kinds = drivers(&node, subvolumes, "native", "blockfile");
    node.run(&["bash", "-ec", CONTAINERD]);
    for kind in kinds.iter().map(String::as_str) {
        let (first, second) = (format!("first-{kind}"), format!("second-{kind}"));
        start(kind, &first, "", counter);
        node.wait_until("it counts", || count(&first).is_some_and(|count| count > 3));
        let reached = count(&first).unwrap();
        let checked = node.torpor(&["check", &format!("container:{first}")]);
        assert!(checked.contains("its root is compared with its image"), "{kind}: {checked}");
        // As if a checkpoint had been cut off.
        let image = node.run(&["ctr", "snapshots", "--snapshotter", kind, "info", &first]);
        let image: serde_json::Value = serde_json::from_str(&image).unwrap();
        let view = format!("torpor-view-{first}");
        let parent = image["Parent"].as_str().unwrap();
        node.run(&["ctr", "snapshots", "--snapshotter", kind, "view", &view, parent]);
        node.keep(&first, kind, &[]);
        let store = cluster.path("store");
        let files = node.torpor(&["inspect", kind, "--writable-layer", "--store", store.to_str().unwrap()]);
        assert!(files.contains("/etc/me") && !files.contains("worker.py"), "{kind}: {files}");
        let flags = format!("--runc-binary {} --annotation torpor.dev/restore={kind}", torpor.display());
        start(kind, &second, &flags, "sleep 1000");
        node.wait_until("it goes on", || count(&second).is_some_and(|count| count > reached));
        let mine = shell(&second, "cat /etc/me; ls /etc/motd 2> /dev/null || echo gone");
        assert_eq!(mine, "mine\ngone", "{kind}");
        assert!(!node.run(&["ctr", "snapshots", "--snapshotter", kind, "ls"]).contains("torpor-view"));
        assert_eq!(node.run(&["ctr", "leases", "ls", "-q"]), "", "{kind}");
        node.run(&["ctr", "task", "kill", "--signal", "KILL", &second]);
    }
}

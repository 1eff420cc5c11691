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

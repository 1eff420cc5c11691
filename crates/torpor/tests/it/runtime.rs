//! `torpor-runtime` under real engines, on lab hosts: what it hands on is as without it, and what it restores goes on.

mod node;

use node::Cluster;

/// Counts, says how far it is, and ends in its own way when it is asked to.
const COUNTER: &str = "trap 'echo bye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; echo $i > /data/count; sleep 0.05; done";

/// What people see of a pod's container under a handler, from its creation to its end.
fn life_under(handler: &str) -> Option<Vec<String>> {
    let cluster = Cluster::new()?;
    let node = cluster.node();
    let pod = node.pod(&["run", "shop", "web", "u1", handler, "torpor.dev/restore=none"]);
    let mut seen = Vec::new();
    let container = node.create(&pod, "app", &[], COUNTER);
    seen.push(node.pod(&["status", &container]));
    node.pod(&["start", &container]);
    let log = "/var/log/pods/shop_web_u1/app_0.log";
    node.wait_until("it counts", || node.log(log).len() > 3);
    seen.push(node.pod(&["status", &container]));
    seen.push(node.pod(&["exec", &container, "echo", "hello"]));
    let failed = node.call(&["exec", &container, "sh", "-c", "echo oh >&2; exit 3"]);
    seen.push(format!("{:?} {}", failed.status.code(), String::from_utf8_lossy(&failed.stderr)));
    node.pod(&["stop", &container]);
    seen.push(node.pod(&["status", &container]));
    let lines = node.log(log);
    seen.push(lines[..3].join(" ") + " " + lines.last().unwrap());
    node.pod(&["remove", &container]);
    let broken = node.call(&["create", &pod, "broken", "localhost/worker:1", "--", "/no/such/program"]);
    let broken = String::from_utf8(broken.stdout).unwrap();
    let refused = node.call(&["start", broken.trim()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let reason = said.split("OCI runtime").nth(1).unwrap_or(&said).lines().next();
    seen.push(reason.unwrap_or_default().to_owned());
    node.pod(&["end", &pod]);
    Some(seen)
}

#[test]
fn a_pods_container_that_is_not_restored_lives_as_under_the_real_runtime() {
    let Some(under_torpor) = life_under("torpor") else { return };
    assert_eq!(Some(&under_torpor), life_under("").as_ref());
    assert_eq!(under_torpor[1].split(' ').next(), Some("running"));
    assert!(under_torpor[4].starts_with("exited 7"), "{under_torpor:?}");
}

/// A bundle with the smallest of programs, in `/run/b`, and its life under a runtime of its own.
const BARE: &str = r#"
mkdir -p /run/b/rootfs/{bin,proc,dev} && cd /run/b && cp /usr/bin/busybox rootfs/bin/sh
runc spec && jq --arg group "/$LAB_NAME/bare" '.process.terminal = false | .process.args = ["/bin/sh", "-c", "echo said; exit 5"]
    | .linux.cgroupsPath = $group | .mounts = [.mounts[] | select(.destination | IN("/proc", "/dev"))]
    | .linux.maskedPaths = [] | .linux.readonlyPaths = []' config.json > config.new && mv config.new config.json
export TORPOR_RUNTIME=$1
"$2" --log /run/b/log --log-format json create --pid-file /run/b/pid one > /run/b/out
"$2" state one | jq -r .status
"$2" start one
while kill -0 "$(cat pid)" 2> /dev/null; do sleep 0.05; done
"$2" state one | jq -r .status
cat out
"$2" delete one
"$2" state one 2> /dev/null || echo "no longer: $?"
"$2" run two; echo "ends with $?"
ls "/run/$1" | wc -l
"#;

#[test]
fn without_an_engine_it_is_the_runtime_that_was_named() {
    let Some(cluster) = Cluster::new() else { return };
    for runtime in ["runc", "crun"] {
        let node = cluster.host();
        // crun does not work where both versions of control groups are mounted.
        node.output(&["umount", "/sys/fs/cgroup/unified"]);
        let torpor = cluster.path("torpor-runtime");
        let said = node.run(&["bash", "-c", BARE, "bash", runtime, torpor.to_str().unwrap()]);
        let expected = ["created", "stopped", "said", "no longer: 1", "said", "ends with 5", "0"].join("\n");
        assert_eq!(said, expected, "{runtime}");
    }
}

#[test]
fn podman_takes_it_as_its_runtime() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let script = r#"podman load -q -i /var/lib/images/worker.tar > /dev/null
        podman --cgroup-manager=cgroupfs --runtime "$1" run --rm --cgroup-parent "/$LAB_NAME" --network none \
            --entrypoint /bin/sh localhost/worker:1 -c 'echo said; exit 5'; echo "ends with $?""#;
    let torpor = cluster.path("torpor-runtime");
    let said = node.run(&["bash", "-c", script, "bash", torpor.to_str().unwrap()]);
    assert_eq!(said, "said\nends with 5");
}

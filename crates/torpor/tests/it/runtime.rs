//! `torpor-runtime` under real engines, on lab hosts: what it hands on is as without it, and what it restores goes on.

mod archives;
mod bare;
mod by_image;
mod crio;
mod docker;
mod images;
mod migration;
mod node;
mod pods_own;

use node::{Cluster, Node};

/// Counts, says how far it is, and ends in its own way when it is asked to.
const COUNTER: &str = "trap 'echo bye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; echo $i > /data/count; sleep 0.05; done";

/// A container's own name in the store, by its pod.
const OWN_NAME: &str = "torpor.dev/restore={namespace}/{pod}/{container}";
/// What a container says that was not restored.
const FRESH: &str = "echo fresh; sleep 1000";

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

/// The last number that a container has said.
fn count(node: &Node<'_>, log: &str) -> Option<u64> {
    node.log(log).iter().rev().find_map(|line| line.parse().ok())
}

#[test]
fn a_pods_containers_go_on_in_a_pod_of_another_node_round_after_round() {
    let Some(cluster) = Cluster::new() else { return };
    let mut reached = [0; 2];
    for round in 0..=3 {
        let node = cluster.node();
        let uid = format!("u{round}");
        let pod = node.pod(&["run", "shop", "web", &uid, "torpor", OWN_NAME]);
        let program = |name: &str| match round {
            0 => format!("echo {name} > /etc/me; rm /etc/motd; {COUNTER}"),
            _ => FRESH.to_owned(),
        };
        let containers = ["app", "sidecar"].map(|name| {
            let container = node.create(&pod, name, &[], &program(name));
            assert!(node.pod(&["status", &container]).starts_with("created"));
            node.pod(&["start", &container]);
            (name, container)
        });
        for ((name, container), reached) in containers.iter().zip(&mut reached) {
            let log = format!("/var/log/pods/shop_web_{uid}/{name}_0.log");
            node.wait_until("it counts on", || count(&node, &log).is_some_and(|count| count > *reached + 3));
            let lines = node.log(&log);
            assert!(!lines.contains(&"fresh".to_owned()), "{lines:?}");
            let first: u64 = lines[0].parse().unwrap();
            assert!(first >= *reached, "{name} says {first}, and was at {reached} when it was kept");
            // Files: what it wrote and removed, and what it writes now.
            assert_eq!(node.pod(&["exec", container, "cat", "/etc/me"]), *name);
            assert!(!node.call(&["exec", container, "cat", "/etc/motd"]).status.success());
            // Between truncation and writing the file is empty.
            let written = || node.pod(&["exec", container, "cat", "/data/count"]).parse::<u64>().ok();
            node.wait_until("its file counts on", || written().is_some_and(|count| count > *reached));
            *reached = count(&node, &log).unwrap();
            node.keep(container, &format!("shop/web/{name}"), &["--leave-running"]);
            node.wait_until("it runs on", || count(&node, &log).is_some_and(|count| count > *reached));
        }
        for (name, container) in &containers {
            node.pod(&["stop", container]);
            assert!(node.pod(&["status", container]).starts_with("exited 7"), "{name}");
            let log = format!("/var/log/pods/shop_web_{uid}/{name}_0.log");
            assert_eq!(node.log(&log).last().map(String::as_str), Some("bye"));
            node.pod(&["remove", container]);
        }
        node.pod(&["end", &pod]);
        for directory in ["/run/torpor/runtime", "/var/tmp/torpor-runtime/room"] {
            let left = node.output(&["find", directory, "-mindepth", "2"]).stdout;
            assert_eq!(String::from_utf8_lossy(&left), "", "round {round}");
        }
    }
}

#[test]
fn a_container_that_starts_again_does_not_go_back_unless_it_is_asked_to() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    let pod = |uid: &str, annotations: &[&str]| {
        node.pod(&[&["run", "shop", "web", uid, "torpor", OWN_NAME], annotations].concat())
    };
    let log = |uid: &str, attempt: u32| node.log(&format!("/var/log/pods/shop_web_{uid}/app_{attempt}.log"));
    let first = pod("u0", &[]);
    let container = node.start(&first, "app", &[], COUNTER);
    node.wait_until("it counts", || log("u0", 0).len() > 3);
    node.keep(&container, "shop/web/app", &["--leave-running"]);
    node.pod(&["end", &first]);
    for (uid, annotations, again) in
        [("u1", &[][..], "fresh"), ("u2", &["torpor.dev/restore-again.app=true"], "goes on")]
    {
        let pod = pod(uid, annotations);
        for attempt in 0..2 {
            let flags = ["--attempt", &attempt.to_string()];
            let container = node.start(&pod, "app", &flags, FRESH);
            node.wait_until("it says something", || {
                log(uid, attempt).len() > 1 || log(uid, attempt) == ["fresh"]
            });
            let fresh = log(uid, attempt) == ["fresh"];
            assert_eq!(fresh, attempt == 1 && again == "fresh", "{uid} {attempt}");
            node.pod(&["stop", &container, "0"]);
            node.pod(&["remove", &container]);
        }
        node.pod(&["end", &pod]);
    }
}

#[test]
fn what_cannot_be_restored_says_why_where_it_is_read_and_begins_if_it_may() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    let mine = "torpor.dev/restore=shop/web/app";
    let first = node.pod(&["run", "shop", "web", "u0", "torpor"]);
    let mount = ["--mount", "/var/tmp:/data"];
    let container = node.start(&first, "app", &mount, COUNTER);
    node.wait_until("it counts", || node.log("/var/log/pods/shop_web_u0/app_0.log").len() > 3);
    node.keep(&container, "shop/web/app", &["--leave-running"]);
    node.pod(&["end", &first]);
    let fresh = "torpor.dev/on-restore-failure=fresh";
    for (namespace, annotations, reason) in [
        (
            "other",
            &[mine, fresh][..],
            Some("is a checkpoint of namespace \"shop\", and this pod is in namespace \"other\""),
        ),
        ("shop", &["torpor.dev/restore=shop/web/app@7"], Some("is not what can be gone on from")),
        ("shop", &["torpor.dev/restore=file:///store/web"], Some("names a place")),
        // What does not fit here may fit elsewhere, however often that is tried.
        ("shop", &[mine], Some("lacks mounts that the container had: /data")),
        ("shop", &[mine], Some("lacks mounts that the container had: /data")),
        ("shop", &[mine], Some("lacks mounts that the container had: /data")),
        ("shop", &[mine, fresh], None),
    ] {
        let pod = node.pod(&[&["run", namespace, "web", "u1", "torpor"], annotations].concat());
        let container = node.create(&pod, "app", &[], FRESH);
        let started = node.call(&["start", &container]);
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        match reason {
            Some(reason) => {
                assert!(!started.status.success() && said.contains(reason), "{annotations:?}: {said}")
            }
            None => {
                assert!(started.status.success(), "{annotations:?}: {said}");
                let log = format!("/var/log/pods/{namespace}_web_u1/app_0.log");
                node.wait_until("it begins", || node.log(&log) == ["fresh"]);
            }
        }
        node.pod(&["end", &pod]);
    }
    let pod = node.pod(&["run", "shop", "web", "u2", "torpor", mine]);
    node.start(&pod, "app", &mount, FRESH);
    let log = "/var/log/pods/shop_web_u2/app_0.log";
    node.wait_until("it goes on", || count(&node, log).is_some());
    node.pod(&["end", &pod]);
    for directory in ["/run/torpor/runtime", "/var/tmp/torpor-runtime/room"] {
        assert_eq!(
            node.run(&["bash", "-c", &format!("find {directory} -mindepth 2 2> /dev/null || true")]),
            ""
        );
    }
}

#[test]
fn containerd_1_keeps_its_own_handler_beside_ours() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    if !node.path("/opt/containerd-1/containerd").exists() {
        eprintln!("SKIPPED: the lab's root has no containerd 1");
        return;
    }
    let instead = "for new in /opt/containerd-1/*; do mount --bind $new /usr/bin/${new##*/}; done";
    node.run(&["bash", "-ec", instead]);
    // As Debian's package has it: no handler is named.
    let config = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\n  sandbox_image = 'localhost/pause:1'\n  \
                  restrict_oom_score_adj = true\n[plugins.'io.containerd.grpc.v1.cri'.cni]\n  bin_dir = '/usr/lib/cni'\n";
    std::fs::write(node.path("/etc/containerd/config.toml"), config).unwrap();
    node.torpor(&["install-node", "--prefix", "/var/tmp/torpor"]);
    let [script, settings] = ["lab/containerd", "runtime.yaml"].map(|name| cluster.path(name));
    node.run(&[script.to_str().unwrap(), "-", settings.to_str().unwrap()]);
    for handler in ["", "torpor"] {
        let pod = node.pod(&["run", "shop", "web", "u0", handler, OWN_NAME]);
        let container = node.start(&pod, "app", &[], COUNTER);
        node.wait_until("it counts", || count(&node, "/var/log/pods/shop_web_u0/app_0.log") > Some(2));
        if handler == "torpor" {
            node.keep(&container, "shop/web/app", &[]);
        }
        node.pod(&["end", &pod]);
    }
    let pod = node.pod(&["run", "shop", "web", "u1", "torpor", OWN_NAME]);
    node.start(&pod, "app", &[], FRESH);
    node.wait_until("it goes on", || count(&node, "/var/log/pods/shop_web_u1/app_0.log") > Some(2));
    node.pod(&["end", &pod]);
}

#[test]
fn a_node_is_set_up_and_put_back_as_it_was() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let config = node.path("/etc/containerd/config.toml");
    let before = "version = 3\n[plugins.'io.containerd.cri.v1.runtime']\n  restrict_oom_score_adj = true\n\
                  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";
    std::fs::write(&config, before).unwrap();
    let prefix = ["--prefix", "/var/tmp/torpor"];
    let install = [&["install-node", "--enable-checkpointing"][..], &prefix].concat();
    assert!(node.torpor(&[&install[..], &["--dry-run"]].concat()).contains("the handler of containerd"));
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    let doctor = || {
        let torpor = cluster.path("torpor").display().to_string();
        let words = [&[torpor.as_str(), "doctor", "--node", "--output", "json"][..], &prefix].concat();
        let report: serde_json::Value = serde_json::from_slice(&node.output(&words).stdout).unwrap();
        let rows = report["rows"].as_array().unwrap().clone();
        move |id: &str| {
            rows.iter().find(|row| row["id"] == format!("node.{id}")).map(|row| row["status"].clone())
        }
    };
    let row = doctor();
    for id in ["binaries", "containerd.handler"] {
        assert_eq!(row(id).unwrap(), "fail", "{id}");
    }
    node.torpor(&install);
    let row = doctor();
    for id in ["binaries", "runtime", "settings", "containerd.handler", "containerd.checkpointing"] {
        assert_eq!(row(id).unwrap(), "ok", "{id}");
    }
    // What containerd makes of it: the handler, and what was there.
    let dump = node.run(&["containerd", "config", "dump"]);
    for part in ["/var/tmp/torpor/bin/torpor-runtime", "restrict_oom_score_adj = true", "'torpor.dev/*'"] {
        assert!(dump.contains(part), "{part} is missing in {dump}");
    }
    let of_handler = dump.split("runtimes.torpor.options]").nth(1).unwrap();
    assert!(of_handler.split('[').next().unwrap().contains("SystemdCgroup = true"), "{of_handler}");
    assert!(node.run(&["/var/tmp/torpor/bin/torpor-runtime", "--version"]).contains("runc version"));
    assert!(node.torpor(&install).starts_with("everything is there already"));
    node.torpor(&[&["uninstall-node"], &prefix[..]].concat());
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    assert!(!node.path("/etc/containerd/conf.d").exists());
    assert!(!node.path("/var/tmp/torpor").exists());

    // What an engine itself would not take is not put in its place.
    let broken =
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\n  default_runtime_name = 7\n";
    std::fs::write(&config, broken).unwrap();
    let torpor = cluster.path("torpor").display().to_string();
    let refused = node.output(&[&[torpor.as_str()], &install[..]].concat());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("containerd would not take its new configuration"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), broken);
    assert!(!node.path("/etc/containerd/conf.d").exists() && !node.path("/var/tmp/torpor").exists());
}

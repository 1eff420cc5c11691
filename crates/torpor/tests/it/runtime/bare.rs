//! Without an engine, and with Podman.

mod attempts;
mod drivers;
mod kills;
mod surroundings;

use super::node::{Cluster, Node};

/// Makes the bundle `/run/b/NAME` for a runtime: an overlay of busybox, and a program that counts in `/volume/count` and ends in its own
/// way. Annotations are those in `$3`, as JSON.
const BUNDLE: &str = r#"
b=/run/b/$1; mkdir -p $b/{lower/{bin,proc,dev,sys,tmp,etc},upper,work,rootfs,volume} && cd $b
cp /usr/bin/busybox lower/bin/ && for a in sh sleep echo rm cat kill; do ln -sf busybox lower/bin/$a; done; echo image > lower/etc/motd
mount -t overlay -o lowerdir=$b/lower,upperdir=$b/upper,workdir=$b/work overlay rootfs
runc spec && jq --arg group "/$LAB_NAME/$1" --arg program "$2" --argjson annotations "$3" --arg volume "$b/volume" '
    .process.terminal = false | .process.args = ["/bin/sh", "-c", $program] | .process.env = ["PATH=/bin"] | .root.readonly = false
    | .linux.cgroupsPath = $group | .annotations = $annotations
    | .mounts += [{destination: "/volume", type: "bind", source: $volume, options: ["rbind", "rw"]}]' config.json > new && mv new config.json
"#;
const COUNTER: &str = "trap 'exit 7' TERM; echo mine > /etc/me; rm -f /etc/motd; i=0; while :; do i=$((i+1)); echo $i > /volume/count; sleep 0.05; done";
const FRESH: &str = "echo fresh > /volume/count; sleep 1000";

fn bundle(node: &Node<'_>, name: &str, program: &str, annotations: &str) {
    node.run(&["bash", "-ec", BUNDLE, "bash", name, program, annotations]);
}

fn count(node: &Node<'_>, name: &str) -> String {
    let text = std::fs::read_to_string(node.path(&format!("/run/b/{name}/volume/count")));
    text.unwrap_or_default().trim().to_owned()
}

fn counts_beyond(node: &Node<'_>, name: &str, number: u64) -> u64 {
    let so_far = || count(node, name).parse::<u64>().ok();
    node.wait_until("it counts on", || so_far().is_some_and(|count| count > number));
    so_far().unwrap()
}

/// Calls the runtime under test, with its output nowhere: what it starts goes on with it.
#[track_caller]
fn runtime(node: &Node<'_>, real: &str, words: &str) {
    let script = format!("exec torpor-runtime --log /run/said {words} > /dev/null 2>&1");
    let output = node.output(&["env", &format!("TORPOR_RUNTIME={real}"), "bash", "-c", &script]);
    let said = std::fs::read_to_string(node.path("/run/said")).unwrap_or_default();
    assert!(output.status.success(), "{words}: {said}");
}

fn status(node: &Node<'_>, real: &str, name: &str) -> String {
    node.run(&["bash", "-c", &format!("{real} state {name} | jq -r .status")])
}

#[test]
fn a_restored_container_waits_for_its_start_and_goes_on_round_after_round() {
    let Some(cluster) = Cluster::new() else { return };
    for real in ["runc", "crun"] {
        let node = cluster.host();
        // crun does not work where both versions of control groups are mounted.
        node.output(&["umount", "/sys/fs/cgroup/unified"]);
        let name = format!("bare/{real}");
        bundle(&node, "first", COUNTER, "{}");
        runtime(&node, real, "run -d --bundle /run/b/first first");
        let mut reached = counts_beyond(&node, "first", 3);
        node.keep("first", &name, &[]);
        for round in 1..=3 {
            let id = format!("round{round}");
            bundle(&node, &id, FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
            runtime(&node, real, &format!("create --bundle /run/b/{id} --pid-file /run/pid {id}"));
            assert_eq!(status(&node, real, &id), "created", "{real}");
            assert_eq!(count(&node, &id), "", "{real}: it waits");
            runtime(&node, real, &format!("kill {id} CONT"));
            assert_eq!(status(&node, real, &id), "created", "{real}");
            runtime(&node, real, &format!("start {id}"));
            assert_eq!(status(&node, real, &id), "running", "{real}");
            let now = counts_beyond(&node, &id, reached);
            assert_eq!(node.run(&[real, "exec", &id, "cat", "/etc/me"]), "mine");
            assert!(!node.output(&[real, "exec", &id, "cat", "/etc/motd"]).status.success());
            reached = now;
            node.keep(&id, &name, &[]);
        }
        // Signals before the start end it, and nothing of it stays.
        bundle(&node, "last", FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
        runtime(&node, real, "create --bundle /run/b/last last");
        runtime(&node, real, "kill last TERM");
        node.wait_until("it has ended", || status(&node, real, "last") == "stopped");
        runtime(&node, real, "delete last");
        assert_eq!(node.run(&["find", "/run/torpor/runtime", "-mindepth", "2"]), "");
        assert_eq!(node.run(&["find", "/var/tmp/torpor-runtime/room", "-mindepth", "1"]), "");
    }
}

#[test]
fn processes_that_were_stopped_stay_stopped() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let program = "sh -c 'i=0; while :; do i=$((i+1)); echo $i > /volume/other; sleep 0.05; done' & other=$!; \
        while [ ! -s /volume/other ]; do sleep 0.05; done; kill -STOP $other; \
        trap 'kill -CONT $other' USR1; i=0; while :; do i=$((i+1)); echo $i > /volume/count; sleep 0.05; done";
    bundle(&node, "first", program, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    counts_beyond(&node, "first", 3);
    node.keep("first", "stopped", &[]);
    bundle(&node, "second", FRESH, r#"{"torpor.dev/restore": "stopped"}"#);
    runtime(&node, "runc", "create --bundle /run/b/second second");
    runtime(&node, "runc", "start second");
    counts_beyond(&node, "second", 5);
    let other = || std::fs::read_to_string(node.path("/run/b/second/volume/other")).unwrap_or_default();
    assert_eq!(other(), "", "it stays stopped");
    runtime(&node, "runc", "kill second USR1");
    node.wait_until("it goes on", || !other().is_empty());
    runtime(&node, "runc", "delete --force second");
}

#[test]
fn a_container_goes_on_from_the_checkpoint_in_its_image_once() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    bundle(&node, "first", COUNTER, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    let carry = "d=/run/carried/.torpor/checkpoint; mkdir -p $d && $0 checkpoint container:first --images $d/checkpoint > /dev/null \
        && tar -C /run/b/first/upper --exclude=etc/motd -cf $d/rootfs-diff.tar . && echo '[\"/etc/motd\"]' > $d/deleted.files";
    node.run(&["bash", "-ec", carry, cluster.path("torpor").to_str().unwrap()]);
    for (id, again, goes_on) in
        [("second", "false", true), ("second", "false", false), ("second", "true", true)]
    {
        bundle(&node, id, FRESH, &format!(r#"{{"torpor.dev/restore-again": "{again}"}}"#));
        node.run(&["cp", "-a", "/run/carried/.torpor", "/run/b/second/rootfs/"]);
        runtime(&node, "runc", "run -d --bundle /run/b/second second");
        if goes_on {
            counts_beyond(&node, id, reached);
            assert_eq!(node.run(&["runc", "exec", id, "cat", "/etc/me"]), "mine");
            assert!(!node.output(&["runc", "exec", id, "cat", "/etc/motd"]).status.success());
        } else {
            node.wait_until("it begins", || count(&node, id) == "fresh");
        }
        runtime(&node, "runc", "delete --force second");
        node.run(&["bash", "-c", "umount /run/b/second/rootfs && rm -r /run/b/second"]);
    }
}

#[test]
fn a_container_that_is_run_is_waited_for() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let program = "i=0; while :; do i=$((i+1)); echo $i > /volume/count; [ ! -e /volume/end ] || exit 9; sleep 0.05; done";
    bundle(&node, "first", program, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    node.keep("first", "waited", &[]);
    bundle(&node, "second", FRESH, r#"{"torpor.dev/restore": "waited"}"#);
    std::fs::write(node.path("/run/b/second/volume/end"), "").unwrap();
    let run = "torpor-runtime run --bundle /run/b/second second > /dev/null 2>&1; echo $?";
    assert_eq!(node.run(&["bash", "-c", run]), "9");
    assert!(count(&node, "second").parse::<u64>().unwrap() > reached);
    assert_eq!(node.run(&["runc", "list", "-q"]), "");
}

#[test]
fn what_a_killed_restore_leaves_is_taken_away_by_the_next() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    bundle(&node, "first", COUNTER, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    for moment in ["0.01", "0.05", "0.10", "0.15", "0.25", "0.40"] {
        // One that fails twice is not tried again, so each has its own.
        let (id, name) = (format!("at{moment}"), format!("killed/at{moment}"));
        node.keep("first", &name, &["--leave-running"]);
        bundle(
            &node,
            &id,
            FRESH,
            &format!(r#"{{"torpor.dev/restore": "{name}", "torpor.dev/restore-again": "true"}}"#),
        );
        let create = format!("create --bundle /run/b/{id} {id}");
        let kill = format!(
            "torpor-runtime {create} > /dev/null 2>&1 & p=$!; sleep {moment}; kill -KILL $p; wait $p 2> /dev/null || true"
        );
        node.run(&["bash", "-c", &kill]);
        let at_work = || node.output(&["pgrep", "-f", "runc.* restore |^criu"]).status.success();
        node.wait_until("whoever worked for it has ended", || !at_work());
        let there = node.output(&["runc", "state", &id]);
        if !(there.status.success() && status(&node, "runc", &id) == "created") {
            runtime(&node, "runc", &create);
        }
        runtime(&node, "runc", &format!("start {id}"));
        counts_beyond(&node, &id, reached);
        runtime(&node, "runc", &format!("delete --force {id}"));
        assert_eq!(node.run(&["find", "/run/torpor/runtime", "-mindepth", "2"]), "", "{moment}");
        assert_eq!(node.run(&["find", "/var/tmp/torpor-runtime/room", "-mindepth", "1"]), "", "{moment}");
    }
}

#[test]
fn podmans_container_goes_on_in_another_round_after_round() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let podman = r#"podman --cgroup-manager=cgroupfs --runtime "$0" "#;
    let script = |rest: &str| format!("{podman} {rest}");
    let torpor = cluster.path("torpor-runtime");
    let run = |rest: &str| node.run(&["bash", "-c", &script(rest), torpor.to_str().unwrap()]);
    node.run(&["podman", "load", "-q", "-i", "/var/lib/images/worker.tar"]);
    let start = |name: &str, flags: &str, program: &str| {
        run(&format!(
            "run -d --name {name} {flags} --cgroup-parent \"/$LAB_NAME\" --network none --entrypoint /bin/sh localhost/worker:1 \
             -c \"{program}\""
        ))
    };
    start(
        "round0",
        "",
        r"trap 'echo bye; exit 7' TERM; echo mine > /etc/me; rm /etc/motd; i=0; while :; do i=\$((i+1)); echo \$i; sleep 0.05; done",
    );
    let said =
        |name: &str| -> Vec<String> { run(&format!("logs {name}")).lines().map(str::to_owned).collect() };
    let mut reached = 0;
    for round in 0..=3 {
        let name = format!("round{round}");
        if round > 0 {
            start(&name, "--annotation torpor.dev/restore=podmans", "echo fresh; sleep 1000");
        }
        let count = || said(&name).last().and_then(|line| line.parse::<u64>().ok());
        node.wait_until("it counts on", || count().is_some_and(|count| count > reached + 3));
        assert!(!said(&name).contains(&"fresh".to_owned()));
        assert_eq!(run(&format!("exec {name} cat /etc/me")), "mine");
        assert_eq!(run(&format!("exec {name} sh -c '[ ! -e /etc/motd ]; echo $?'")), "0");
        reached = count().unwrap();
        node.keep(&name, "podmans", &["--leave-running"]);
        node.wait_until("it runs on", || count().is_some_and(|count| count > reached));
        run(&format!("stop -t 10 {name}"));
        assert_eq!(said(&name).last().map(String::as_str), Some("bye"));
        assert_eq!(run(&format!("inspect --format '{{{{.State.ExitCode}}}}' {name}")), "7");
        run(&format!("rm {name}"));
    }
}

#[test]
fn a_container_with_a_network_of_its_own_goes_on_in_the_one_that_it_joins() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    bundle(&node, "first", COUNTER, "{}");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    node.keep("first", "networked", &[]);
    bundle(&node, "second", FRESH, r#"{"torpor.dev/restore": "networked"}"#);
    let join = r#"ip netns add web; cd /run/b/second; mv config.json own
        jq '(.linux.namespaces[] | select(.type == "network")).path = "/run/netns/web"' own > config.json"#;
    node.run(&["bash", "-ec", join]);
    runtime(&node, "runc", "run -d --bundle /run/b/second second");
    counts_beyond(&node, "second", reached);
    let networks = "stat -Lc %i /run/netns/web /proc/$(runc state second | jq .pid)/ns/net | uniq | wc -l";
    assert_eq!(node.run(&["bash", "-c", networks]), "1");
    runtime(&node, "runc", "delete --force second");
}

#[test]
fn podman_makes_a_container_of_a_checkpoint_or_an_archive() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.install_podman();
    let group = format!("--cgroup-parent=/{}", node.group());
    let flags = [&group, "--network=none", "--volume=data:/data"];
    // With a second thread, under Podman's own seccomp profile, which holds for both.
    let program = "\
import itertools, os, signal, threading, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
threading.Thread(target=time.sleep, args=[1e6], daemon=True).start()
print('mine', file=open('/etc/me', 'w'))
for number in itertools.count(1):
    print(number, file=open('/data/count', 'w'))
    time.sleep(0.05)";
    let start = ["podman", "run", "--detach", "--name=first"];
    node.run(
        &[&start[..], &flags, &["--entrypoint=/bin/python3", "localhost/worker:1", "-c", program]].concat(),
    );
    let volume = node.path("/var/lib/containers/storage/volumes/data/_data/count");
    let counted = || std::fs::read_to_string(&volume).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let counts_beyond =
        |number: u64| node.wait_until("it counts on", || counted().is_some_and(|count| count > number));
    let mine = |name: &str| assert_eq!(node.run(&["podman", "exec", name, "cat", "/etc/me"]), "mine");
    counts_beyond(3);
    let archive = cluster.path("podman.tar").display().to_string();
    node.torpor(&[
        "checkpoint",
        "container:first",
        "--leave-running",
        "--layout",
        "podman",
        "--export",
        &archive,
    ]);
    node.keep("first", "podmans", &[]);
    node.run(&["podman", "wait", "first"]);

    let reached = counted().unwrap_or(3);
    let store = cluster.path("store").display().to_string();
    let restore =
        ["restore", "podmans", "--store", &store, "--into", "podman", "--id", "second", "--detach", "--"];
    node.torpor(&[&restore[..], &flags].concat());
    counts_beyond(reached);
    mine("second");
    node.run(&["podman", "stop", "--time=20", "second"]);
    assert_eq!(node.run(&["podman", "wait", "second"]), "7");
    // What was in the volume before shows whether another goes on.
    std::fs::write(&volume, "").unwrap();
    node.torpor(&[
        "restore",
        &archive,
        "--into",
        "podman",
        "--id",
        "third",
        "--detach",
        "--",
        "--file-locks",
    ]);
    counts_beyond(3);
    mine("third");
    node.run(&["podman", "rm", "--force", "--time=0", "--all"]);
}

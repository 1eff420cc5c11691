//! SIGKILL to those who make a checkpoint by the runtime's own command.

use std::time::{Duration, Instant};

use super::PROMISE;
use super::host::Host;

/// Counts without making a process: runtimes freeze by the control group, and one of version 1 may never be frozen while processes are made
/// in it.
const COUNTER: &str = "busybox mkfifo /tmp/never; exec 9<>/tmp/never; i=0; \
    while :; do i=$((i+1)); echo $i > /volume/count; read -t 0.05 x <&9; done";
/// Waits for the runtime's command to be there, and `$2` longer, then kills those whose command lines match `$1`.
const KILL: &str = r#"
for _ in $(seq 1000); do pgrep -f "^[^ ]*(runc|crun) .*checkpoint " > /dev/null && break; sleep 0.005; done
sleep $2; pkill -KILL -f "$1"; true
"#;

#[test]
fn a_kill_during_a_checkpoint_by_the_runtime_leaves_the_container_running() {
    let Some(host) = Host::new() else { return };
    let (runtime, criu, torpor) =
        ("^[^ ]*(runc|crun) .*checkpoint ", "^[^ ]*criu[: ].*(swrk|--rpc)", "^/run/torpor/torpor checkpoint");
    for id in ["runc", "crun"] {
        host.bundle(id, COUNTER);
        host.start(id, id);
        host.counts_beyond(id, 1);
        let target = format!("container:{id}");
        let words =
            ["checkpoint", &target, "--images", "/run/images", "--route", "runtime", "--leave-running"];
        let mounts = host.run(&["cat", "/proc/self/mountinfo"]);
        let all = format!("{runtime}|{criu}|{torpor}");
        for (victim, after) in [
            (runtime, "0"),
            (runtime, "0.05"),
            (criu, "0.05"),
            (torpor, "0.05"),
            (&all, "0.02"),
            (&all, "0.1"),
        ] {
            let mut checkpoint =
                host.command(&[&["/run/torpor/torpor"], &words[..]].concat()).spawn().unwrap();
            host.run(&["bash", "-c", KILL, "bash", victim, after]);
            let killed = Instant::now();
            // One that it was counting may be seen only now.
            host.counts_beyond(id, host.count(id) + 1);
            let still = killed.elapsed();
            assert!(still < PROMISE, "{id}, {victim} after {after}: it stood still for {still:?}");
            checkpoint.wait().unwrap();
            let at_work = format!("{runtime}|{criu}");
            while host.output(&["pgrep", "-f", &at_work]).status.success() {
                assert!(
                    killed.elapsed() < PROMISE * 2,
                    "{id}, {victim} after {after}: they are still at work"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(host.run(&["cat", "/proc/self/mountinfo"]), mounts, "{id}, {victim} after {after}");
            host.run(&["rm", "-rf", "/run/images"]);
        }
        let said = host.command(&[&["/run/torpor/torpor"], &words[..]].concat()).output().unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains("what it left is removed") || !said.contains("cut off"), "{said}");
        let left = host.names("/run");
        assert!(left.contains(&"images".to_owned()), "{left:?}");
        assert!(!left.iter().any(|name| name.contains("partial")), "{left:?}");
        host.run(&["rm", "-rf", "/run/images"]);
        host.run(&[id, "delete", "--force", id]);
    }
}

/// What a restore that was killed could have left: control groups and mounts.
fn left(host: &Host, id: &str) -> (String, String) {
    let groups = "find /sys/fs/cgroup/ -type d '(' -name \"$1\" -o -name 'torpor-restore-*' ')' | sort";
    (host.run(&["bash", "-c", groups, "bash", id]), host.run(&["cat", "/proc/self/mountinfo"]))
}

#[test]
fn a_kill_during_a_restore_from_a_bundle_leaves_a_container_or_nothing() {
    let Some(host) = Host::new() else { return };
    let all = "^[^ ]*(runc|crun) .*restore |^[^ ]*criu[: ].*(swrk|--rpc)|^criu: |^/run/torpor/torpor restore";
    let kill = KILL.replace("checkpoint", "restore");
    for id in ["runc", "crun"] {
        host.bundle(id, COUNTER);
        host.start(id, id);
        host.counts_beyond(id, 1);
        host.torpor(&["checkpoint", &format!("container:{id}"), "--images", "/run/images"]);
        let bundle = format!("/run/b/{id}");
        let words = ["restore", "/run/images", "--bundle", &bundle, "--id", id, "--detach", "--runtime", id];
        let before = left(&host, id);
        let reached = host.count(id);
        for (victim, after) in
            [(all, "0"), (all, "0.02"), (all, "0.05"), (all, "0.1"), ("^/run/torpor/torpor restore", "0.02")]
        {
            let mut command = host.command(&[&["/run/torpor/torpor"], &words[..]].concat());
            let mut restoring = command
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            host.run(&["bash", "-c", &kill, "bash", victim, after]);
            restoring.wait().unwrap();
            let mut next = host.command(&[&["/run/torpor/torpor"], &words[..]].concat());
            let said = host.path("/run/said");
            let errors = std::fs::File::create(&said).unwrap();
            let again = next.stdout(std::process::Stdio::null()).stderr(errors).status().unwrap();
            let said = std::fs::read_to_string(said).unwrap();
            // One that was whole before the kill is in the way of the next, which leaves it alone.
            assert!(again.success() || said.contains("already"), "{id}, {after}: {said}");
            host.counts_beyond(id, reached + 1);
            host.run(&[id, "delete", "--force", id]);
            std::fs::write(host.path(&format!("{bundle}/volume/count")), reached.to_string()).unwrap();
            assert_eq!(left(&host, id), before, "{id} after {after}: {said}");
            assert!(
                host.path(&format!("{bundle}/rootfs/bin/busybox")).exists(),
                "{id} after {after}: {said}"
            );
        }
        host.run(&["rm", "-rf", "/run/images"]);
    }
}

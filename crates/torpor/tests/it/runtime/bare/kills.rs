//! SIGKILL to those who restore a container: to `torpor-runtime`, to the real runtime, to CRIU, and to all of them.

use super::{COUNTER, FRESH, bundle, counts_beyond, runtime, status};
use crate::runtime::node::{Cluster, Node};

/// Kills those whose command lines match `$2`, `$3` after the real runtime's restore has begun, and prints how the create ended.
const KILL: &str = r#"
torpor-runtime --log /run/said create --bundle /run/b/$1 $1 > /dev/null 2>&1 & p=$!
until pgrep -f " restore .* $1\$" > /dev/null || ! kill -0 $p 2> /dev/null; do :; done
sleep $3; pkill -KILL -f "$2"; wait $p 2> /dev/null; echo $?
"#;

/// What is there of a container that is not there.
fn left(node: &Node<'_>, id: &str, mounts: &str) -> Vec<String> {
    let script = format!(
        "find /sys/fs/cgroup/ -path /sys/fs/cgroup/unified -prune -o -type d '(' -name {id} -o -name 'torpor-restore-*' ')' -print; ls -d /run/runc/{id} /run/crun/{id}; \
         find /run/torpor/runtime -mindepth 2 -maxdepth 2; find /var/tmp/torpor-runtime/room -mindepth 1 -maxdepth 1; \
         pgrep -af '^[^ ]*criu.* swrk|^criu: |^[^ ]*(runc|crun) .*restore '; true"
    );
    let said = node.run(&["bash", "-c", &format!("{{ {script}; }} 2> /dev/null")]);
    let mut left: Vec<String> = said.lines().map(str::to_owned).collect();
    if node.run(&["cat", "/proc/self/mountinfo"]) != mounts {
        left.push("a mount".to_owned());
    }
    left
}

/// Kills the real runtime of a restore once that has started a process, and where `$2` says so all others.
const KILL_EARLY: &str = r#"
torpor-runtime --log /run/said create --bundle /run/b/$1 $1 > /dev/null 2>&1 & p=$!
until [ -n "$child" ] || ! kill -0 $p; do
    read real rest < /proc/$p/task/$p/children; [ -z "$real" ] || read child rest < /proc/$real/task/$real/children
done 2> /dev/null
[ "$2" = all ] && kill -KILL $p $real || kill -KILL $real; wait $p 2> /dev/null; echo $?
"#;

#[test]
fn a_crun_that_is_killed_takes_nobody_with_it() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.output(&["umount", "/sys/fs/cgroup/unified"]);
    bundle(&node, "first", COUNTER, "{}");
    runtime(&node, "crun", "run -d --bundle /run/b/first first");
    counts_beyond(&node, "first", 3);
    for (round, victim) in ["all", "crun", "all", "crun"].into_iter().enumerate() {
        let (id, name) = (format!("next-{round}"), format!("killed/early/{round}"));
        node.keep("first", &name, &["--leave-running"]);
        bundle(&node, &id, FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
        let mounts = node.run(&["cat", "/proc/self/mountinfo"]);
        let words = ["env", "TORPOR_RUNTIME=crun", "bash", "-c", KILL_EARLY, "bash", &id, victim];
        let code = node.run(&words);
        assert_ne!(code, "0", "{victim}: the kill comes too late");
        if victim == "all" {
            runtime(&node, "crun", "delete --force nobody");
        }
        assert_eq!(left(&node, &id, &mounts), Vec::<String>::new(), "{victim}");
    }
    assert_eq!(status(&node, "crun", "first"), "running");
    runtime(&node, "crun", "create --bundle /run/b/next-3 next-3");
    runtime(&node, "crun", "start next-3");
    let shown = "cat /proc/$(crun list | awk '/^next/ { print $2 }')/{cgroup,mountinfo}";
    let shown = node.run(&["bash", "-c", shown]);
    assert!(!shown.contains("torpor-restore-"), "{shown}");
    for id in ["first", "next-3"] {
        runtime(&node, "crun", &format!("delete --force {id}"));
    }
}

#[test]
fn a_restore_whose_runtime_or_criu_is_killed_leaves_nothing() {
    let Some(cluster) = Cluster::new() else { return };
    for real in ["runc", "crun"] {
        let node = cluster.host();
        node.output(&["umount", "/sys/fs/cgroup/unified"]);
        bundle(&node, "first", COUNTER, "{}");
        runtime(&node, real, "run -d --bundle /run/b/first first");
        let reached = counts_beyond(&node, "first", 3);
        let mut killed = 0;
        for (number, (victim, after)) in [
            (real, "0"),
            (real, "0.03"),
            ("criu", "0.01"),
            ("criu", "0.03"),
            ("both", "0.03"),
            ("all", "0"),
            ("all", "0.03"),
            ("all", "0.06"),
        ]
        .into_iter()
        .enumerate()
        {
            let (id, name) = (format!("{real}-{number}"), format!("killed/{real}/{number}"));
            node.keep("first", &name, &["--leave-running"]);
            bundle(&node, &id, FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
            let mounts = node.run(&["cat", "/proc/self/mountinfo"]);
            let (criu, runtimes) = ("^[^ ]*criu.* swrk|^criu: ", format!("^[^ ]*{real} .*restore .* {id}$"));
            let pattern = match victim {
                "criu" => criu.to_owned(),
                "both" => format!("{criu}|{runtimes}"),
                "all" => format!("{criu}|{runtimes}|^torpor-runtime .*create "),
                _ => runtimes,
            };
            let variable = format!("TORPOR_RUNTIME={real}");
            let code = node.run(&["env", &variable, "bash", "-c", KILL, "bash", &id, &pattern, after]);
            let said = || std::fs::read_to_string(node.path("/run/said")).unwrap();
            if code != "0" {
                killed += 1;
                let before = said();
                if victim == "all" {
                    // Nobody is left to clean up, so the next command does, and says so.
                    runtime(&node, real, "delete --force nobody");
                    if !said()[before.len()..].contains("was cut off") {
                        // Everything was done, and only the runtime's own end was cut off.
                        assert_eq!(status(&node, real, &id), "created", "{after}: {}", said());
                        runtime(&node, real, &format!("delete --force {id}"));
                        continue;
                    }
                }
                assert_eq!(
                    left(&node, &id, &mounts),
                    Vec::<String>::new(),
                    "{victim} after {after}: {before}"
                );
                runtime(&node, real, &format!("create --bundle /run/b/{id} {id}"));
            }
            assert_eq!(status(&node, real, &id), "created");
            runtime(&node, real, &format!("start {id}"));
            counts_beyond(&node, &id, reached);
            runtime(&node, real, &format!("delete --force {id}"));
        }
        assert!(killed > 3, "the kills come too late: {killed}");
        runtime(&node, real, "delete --force first");
    }
}

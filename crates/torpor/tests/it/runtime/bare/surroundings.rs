//! What a restored container has around it: a terminal, hooks, a profile of system calls.

use super::{COUNTER, FRESH, bundle, count, counts_beyond, runtime};
use crate::runtime::node::{Cluster, Node};

/// Changes the configuration of a bundle by a program of jq.
fn change(node: &Node<'_>, id: &str, program: &str) {
    let script = format!("cd /run/b/{id} && jq '{program}' config.json > new && mv new config.json");
    node.run(&["bash", "-ec", &script]);
}

/// What `torpor-runtime create` says last, where it fails.
fn refusal(node: &Node<'_>, id: &str) -> String {
    let script =
        format!("torpor-runtime --log /run/refused create --bundle /run/b/{id} {id} > /dev/null 2>&1");
    assert!(!node.output(&["bash", "-c", &script]).status.success(), "{id}");
    let said = std::fs::read_to_string(node.path("/run/refused")).unwrap();
    said.lines().last().unwrap_or_default().to_owned()
}

/// Waits at the socket `$1` for a terminal, writes what comes from it to the file `$2`, and answers one question.
const TERMINAL: &str = r#"
import array, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)
f = open(sys.argv[2], "wb", 0)
if os.fork(): sys.exit()
os.setsid()
c, _ = s.accept()
_, extra, *_ = c.recvmsg(4096, socket.CMSG_SPACE(4))
fd = array.array("i", extra[0][2])[0]
while True:
    try: said = os.read(fd, 4096)
    except OSError: break
    f.write(said)
    if b"ask" in said: os.write(fd, b"answer\n")
"#;

#[test]
fn a_container_at_a_terminal_goes_on_at_another() {
    let Some(cluster) = Cluster::new() else { return };
    for real in ["runc", "crun"] {
        let node = cluster.host();
        node.output(&["umount", "/sys/fs/cgroup/unified"]);
        let name = format!("terminal/{real}");
        let program = "i=0; while :; do i=$((i+1)); echo $i > /volume/count; echo line $i; sleep 0.05; \
            [ ! -e /volume/ask ] || { rm /volume/ask; echo ask; read a; echo said $a; }; done";
        let start = |id: &str, words: &str| {
            change(&node, id, ".process.terminal = true");
            let socket = format!("/run/{id}.socket");
            let listen =
                format!("python3 -c '{TERMINAL}' {socket} /run/{id}.out > /dev/null 2>&1 < /dev/null");
            node.run(&["bash", "-c", &listen]);
            runtime(&node, real, &format!("{words} --console-socket {socket} --bundle /run/b/{id} {id}"));
        };
        let said =
            |id: &str| std::fs::read_to_string(node.path(&format!("/run/{id}.out"))).unwrap_or_default();
        bundle(&node, "first", program, "{}");
        start("first", "run -d");
        let reached = counts_beyond(&node, "first", 3);
        node.keep("first", &name, &[]);
        if real == "runc" {
            // crun mounts it nowhere.
            bundle(&node, "plain", FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
            assert!(refusal(&node, "plain").contains("/dev/console"));
        }
        bundle(&node, "second", FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
        start("second", "create");
        assert!(!said("second").contains("line"), "it waits: {}", said("second"));
        runtime(&node, real, "start second");
        counts_beyond(&node, "second", reached);
        std::fs::write(node.path("/run/b/second/volume/ask"), "").unwrap();
        node.wait_until("it has read what was typed", || said("second").contains("said answer"));
        assert!(!said("second").contains("fresh"));
        runtime(&node, real, "delete --force second");
    }
}

#[test]
fn hooks_run_as_for_a_fresh_container() {
    let Some(cluster) = Cluster::new() else { return };
    for real in ["runc", "crun"] {
        let node = cluster.host();
        node.output(&["umount", "/sys/fs/cgroup/unified"]);
        let name = format!("hooks/{real}");
        std::fs::write(
            node.path("/run/hook"),
            "#!/bin/sh\necho \"$1 $(jq -r .id) $(cat /run/b/second/volume/count 2> /dev/null)\" >> /run/hooks\n",
        )
        .unwrap();
        node.run(&["chmod", "+x", "/run/hook"]);
        bundle(&node, "first", COUNTER, "{}");
        runtime(&node, real, "run -d --bundle /run/b/first first");
        let reached = counts_beyond(&node, "first", 3);
        node.keep("first", &name, &[]);
        bundle(&node, "second", FRESH, &format!(r#"{{"torpor.dev/restore": "{name}"}}"#));
        let hooks = |kinds: &str| {
            format!(
                ".hooks = ([{kinds}] | map({{(.): [{{path: \"/run/hook\", args: [\"hook\", .]}}]}}) | add)"
            )
        };
        change(&node, "second", &hooks(r#""startContainer""#));
        assert!(refusal(&node, "second").contains("startContainer hooks"));
        change(&node, "second", &hooks(r#""prestart", "createRuntime", "poststart", "poststop""#));
        let said = || std::fs::read_to_string(node.path("/run/hooks")).unwrap_or_default();
        runtime(&node, real, "create --bundle /run/b/second second");
        assert_eq!(said(), "prestart second \ncreateRuntime second \n", "{real}: before anything runs");
        runtime(&node, real, "start second");
        counts_beyond(&node, "second", reached);
        node.wait_until("it was started", || said().contains("poststart second"));
        runtime(&node, real, "delete --force second");
        assert!(said().lines().last().unwrap().starts_with("poststop second"), "{}", said());
    }
}

/// The profile that engines have by default, as they give it to a runtime for a container without capabilities.
const PROFILE: &str = r#"jq '{defaultAction, defaultErrnoRet, architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    syscalls: [.syscalls[] | select((.includes.caps // []) == [] and (.includes.arches // ["amd64"] | index("amd64"))
        and (.excludes.arches // [] | index("amd64") | not)) | {names, action, args: (.args // []), errnoRet} | del(..|nulls)]}' \
    /usr/share/containers/seccomp.json > /run/profile"#;

#[test]
fn filters_that_a_runtime_made_are_held_against_the_profile() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.run(&["bash", "-ec", PROFILE]);
    let with = |id: &str, change: &str| {
        let script = format!(
            "cd /run/b/{id} && jq --slurpfile profile /run/profile '.linux.seccomp = ($profile[0] | {change})' config.json > new \
             && mv new config.json"
        );
        node.run(&["bash", "-ec", &script]);
    };
    bundle(&node, "first", COUNTER, "{}");
    with("first", ".");
    runtime(&node, "runc", "run -d --bundle /run/b/first first");
    let reached = counts_beyond(&node, "first", 3);
    node.keep("first", "filtered", &[]);
    bundle(&node, "second", FRESH, r#"{"torpor.dev/restore": "filtered"}"#);
    with("second", r#"(.syscalls[].names) |= map(select(. != "mkdirat"))"#);
    let said = refusal(&node, "second");
    assert!(said.contains("the seccomp filters of thread 1 let mkdirat through"), "{said}");
    with("second", ".");
    runtime(&node, "runc", "create --bundle /run/b/second second");
    runtime(&node, "runc", "start second");
    counts_beyond(&node, "second", reached);
    assert_ne!(count(&node, "second"), "fresh");
    runtime(&node, "runc", "delete --force second");
}

//! Images with the application's layers and a checkpoint: they go on under `torpor-runtime`, and start afresh under any other.

use super::node::{Cluster, Node};
use super::{COUNTER, FRESH, count};

/// The application's own image, on every node.
const BASE: &str = "/var/lib/images/worker.tar";
/// What images with a checkpoint are called on nodes.
const WARM: &str = "localhost/warm:1";

/// Makes an image of a checkpoint in the cluster's store, in an archive that all nodes see. Returns its path.
#[track_caller]
fn build(node: &Node<'_>, cluster: &Cluster, name: &str) -> String {
    let (store, image) = (cluster.path("store"), cluster.path("warm.tar").display().to_string());
    node.torpor(&[
        "build",
        name,
        "--store",
        store.to_str().unwrap(),
        "--base",
        BASE,
        "--out",
        &image,
        "--tag",
        WARM,
    ]);
    image
}

#[test]
fn a_pods_container_goes_on_from_its_image_and_starts_afresh_under_runc() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.node();
    let pod = node.pod(&["run", "shop", "web", "u0", "torpor"]);
    let program = format!("echo me > /etc/me; rm /etc/motd; {COUNTER}");
    let container = node.start(&pod, "app", &[], &program);
    let log = "/var/log/pods/shop_web_u0/app_0.log";
    node.wait_until("it counts", || count(&node, log).is_some_and(|count| count > 3));
    node.keep(&container, "shop/web/app", &[]);
    let reached = count(&node, log).unwrap();
    let image = build(&node, &cluster, "shop/web/app");
    drop(node);

    let node = cluster.node();
    node.run(&["ctr", "-n", "k8s.io", "images", "import", &image]);
    for (handler, goes_on) in [("torpor", true), ("", false)] {
        let pod = node.pod(&["run", "shop", "other", &format!("u{handler}"), handler]);
        let container = node.pod(&["create", &pod, "app", WARM, "--", "/bin/sh", "-c", FRESH]);
        node.pod(&["start", &container]);
        let log = format!("/var/log/pods/shop_other_u{handler}/app_0.log");
        if goes_on {
            node.wait_until("it counts on", || count(&node, &log).is_some_and(|count| count > reached + 3));
            assert!(!node.log(&log).contains(&"fresh".to_owned()));
            assert_eq!(node.pod(&["exec", &container, "cat", "/etc/me"]), "me");
            assert!(!node.call(&["exec", &container, "cat", "/etc/motd"]).status.success());
        } else {
            node.wait_until("it begins", || node.log(&log) == ["fresh"]);
            assert_eq!(node.pod(&["exec", &container, "cat", "/etc/motd"]), "original");
        }
        node.pod(&["end", &pod]);
    }
}

#[test]
fn podmans_container_goes_on_from_its_image_and_starts_afresh_under_runc() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    let podman = |runtime: &str, rest: &str| {
        let words = format!("podman --cgroup-manager=cgroupfs --runtime {runtime} {rest}");
        node.run(&["env", "STORAGE_DRIVER=overlay", "bash", "-c", &words])
    };
    let run = |runtime: &str, name: &str, image: &str, program: &str| {
        let flags =
            format!("--name {name} --cgroup-parent \"/$LAB_NAME\" --network none --entrypoint /bin/sh");
        podman(runtime, &format!("run -d {flags} {image} -c '{program}'"))
    };
    let said = |name: &str| -> Vec<String> {
        podman("runc", &format!("logs {name}")).lines().map(str::to_owned).collect()
    };
    podman("runc", &format!("load -q -i {BASE}"));
    run("runc", "first", "localhost/worker:1", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
    node.wait_until("it counts", || said("first").len() > 3);
    node.keep("first", "podmans", &[]);
    let reached: u64 = said("first").last().unwrap().parse().unwrap();
    podman("runc", "rm -f -t 0 first");
    let image = build(&node, &cluster, "podmans");
    podman("runc", &format!("load -q -i {image}"));
    let torpor = cluster.path("torpor-runtime");
    run(torpor.to_str().unwrap(), "second", WARM, FRESH);
    node.wait_until("it counts on", || {
        said("second").last().and_then(|line| line.parse().ok()).is_some_and(|count: u64| count > reached + 3)
    });
    assert!(!said("second").contains(&"fresh".to_owned()));
    run("runc", "third", WARM, FRESH);
    node.wait_until("it begins", || said("third") == ["fresh"]);
    podman("runc", "rm -f -t 0 -a");
}

/// An image of a server that has something to do before it answers: `/run/server.tar`, and what it is made of.
const SERVER: &str = r#"
cd /run && cat > server.py <<'P'
import hashlib, http.server, os, sys
if "BROKEN" in os.environ: sys.exit("cannot begin")
print("beginning", flush=True)
word = os.urandom(16)
for _ in range(1000000): word = hashlib.sha256(word).digest()
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(word.hex().encode())
    def log_message(self, *_): pass
server = http.server.HTTPServer(("", 8080), Server)
print("word", word.hex(), flush=True)
server.serve_forever()
P
c=$(buildah from -q oci-archive:/var/lib/images/worker.tar)
buildah copy -q "$c" server.py /server.py > /dev/null
buildah config --entrypoint '["/bin/python3", "-u", "/server.py"]' --cmd '' "$c"
buildah commit -q "$c" oci-archive:/run/server.tar:localhost/server:1 > /dev/null
"#;
const ASK: &str =
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/').read().decode())";

/// Nothing is there any more of what was made.
#[track_caller]
fn nothing_is_left(node: &Node<'_>) {
    assert_eq!(node.run(&["find", "/run/room", "-mindepth", "1"]), "");
    assert_eq!(node.run(&["bash", "-c", "grep -c /run/room /proc/self/mounts || true"]), "0");
    assert!(!node.output(&["pgrep", "-f", "server.py"]).status.success());
    assert_eq!(node.run(&["bash", "-c", "find /sys/fs/cgroup -name 'torpor-warm*' -type d"]), "");
}

#[test]
fn a_warm_image_starts_ready_and_afresh_under_runc() {
    let Some(cluster) = Cluster::new() else { return };
    let node = cluster.host();
    node.run(&["env", "STORAGE_DRIVER=overlay", "bash", "-ec", SERVER]);
    let image = cluster.path("warm.tar").display().to_string();
    let torpor = cluster.path("torpor").display().to_string();
    let warm = |until: &str, flags: &[&str]| {
        let words = [
            "warm",
            "/run/server.tar",
            "--room",
            "/run/room",
            "--until",
            until,
            "--to",
            &image,
            "--tag",
            WARM,
        ];
        node.output(&[&[torpor.as_str()], &words[..], flags].concat())
    };
    // What does not become ready says why, and nothing of it stays.
    for (until, flags, reason) in [
        (
            "log:^never$",
            &["--timeout", "2s"][..],
            "not ready within 2 seconds: it was still to be that a line matches ^never$",
        ),
        (
            "port:8080",
            &["--env", "BROKEN=1"],
            "the program ended before something listens on port 8080; it said last:\ncannot begin",
        ),
        ("port:8080", &["--runtime", "/bin/false"], "/bin/false cannot start the program"),
    ] {
        let failed = warm(until, flags);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success() && said.contains(reason) && said.contains("help: "), "{said}");
        assert!(!std::path::Path::new(&image).exists());
        nothing_is_left(&node);
    }
    let kill = |signal: &str| {
        let script = format!(
            "rm -f /run/said; {torpor} warm /run/server.tar --room /run/room --until log:^never$ --to {image} > /run/said 2>&1 & p=$!; \
             while ! grep -qs ^beginning /run/said; do sleep 0.05; done; kill -{signal} $p; wait $p || true"
        );
        node.run(&["bash", "-c", &script]);
    };
    kill("TERM");
    nothing_is_left(&node);
    kill("KILL");
    let made = warm("http://127.0.0.1:8080/", &[]);
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    assert!(said.contains("an earlier torpor was cut off"), "{said}");
    nothing_is_left(&node);
    let word = said.lines().find_map(|line| line.strip_prefix("word ")).unwrap().to_owned();
    drop(node);

    let node = cluster.node();
    node.run(&["ctr", "-n", "k8s.io", "images", "import", &image]);
    for (handler, is_ready) in [("torpor", true), ("", false)] {
        let pod = node.pod(&["run", "shop", "web", &format!("u{handler}"), handler]);
        let container = node.pod(&["create", &pod, "app", WARM, "--seccomp", "default"]);
        node.pod(&["start", &container]);
        let ask = || node.call(&["exec", &container, "/bin/python3", "-c", ASK]);
        if !is_ready {
            assert!(!ask().status.success(), "it has only begun");
        }
        node.wait_until("it answers", || ask().status.success());
        assert_eq!(String::from_utf8_lossy(&ask().stdout).trim() == word, is_ready);
        let log = node.log(&format!("/var/log/pods/shop_web_u{handler}/app_0.log"));
        assert_eq!(log.first().map(String::as_str) == Some("beginning"), !is_ready, "{log:?}");
        node.pod(&["end", &pod]);
    }
    let podman = format!(
        r#"podman="podman --cgroup-manager=cgroupfs --runtime {torpor}-runtime"
        $podman load -q -i {image} > /dev/null
        ip netns add web && ip -n web link set lo up
        $podman run -d --name warm --cgroup-parent "/$LAB_NAME" --network ns:/run/netns/web {WARM} > /dev/null
        $podman exec warm /bin/python3 -c "$0"; $podman logs warm; $podman rm -f -t 0 warm > /dev/null"#
    );
    assert_eq!(node.run(&["env", "STORAGE_DRIVER=overlay", "bash", "-ec", &podman, ASK]), word);
    let without = r#"touch /run/resolv.conf
        podman --cgroup-manager=cgroupfs --runtime "$1-runtime" run -d --name none --cgroup-parent "/$LAB_NAME" \
            --network none -v /run/resolv.conf:/etc/resolv.conf "$0" 2>&1 || true"#;
    let said = node.run(&["env", "STORAGE_DRIVER=overlay", "bash", "-ec", without, WARM, &torpor]);
    assert!(said.contains("is to have an empty one of its own"), "{said}");
}

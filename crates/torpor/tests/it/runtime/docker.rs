//! Containers of Docker, whose daemon has the runtime `torpor` that `torpor install-node` gives it.

use std::process::Output;

use super::node::{Cluster, Node};

/// Counts in memory, in its log and in its volume, and ends in its own way.
const COUNTER: &str = "trap 'echo bye; exit 7' TERM; echo mine > /etc/me; rm /etc/motd; \
    i=0; while :; do i=$((i+1)); echo $i; echo $i > /data/count; sleep 0.05; done";
const FRESH: &str = "echo fresh; sleep 1000";
const IMAGE: &str = "localhost/worker:1";

/// A node on which Docker runs, and knows the runtime.
struct Dockerd<'a>(Node<'a>);

impl<'a> Dockerd<'a> {
    fn start(cluster: &'a Cluster) -> Dockerd<'a> {
        Dockerd::configured(cluster, r#"{"log-level": "warn"}"#)
    }

    fn configured(cluster: &'a Cluster, configuration: &str) -> Dockerd<'a> {
        let node = cluster.host();
        node.install_docker(configuration);
        Dockerd(node)
    }

    fn call(&self, words: &[&str]) -> Output {
        self.0.output(&[&["docker"], words].concat())
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        self.0.run(&[&["docker"], words].concat())
    }

    /// Starts a container with a shell's program, given flags of `docker run`.
    #[track_caller]
    fn start_container(&self, name: &str, flags: &[&str], program: &str) {
        let words = ["run", "--detach", "--name", name, "--network", "none", "--volume", "data:/data"];
        let program = ["--entrypoint", "/bin/sh", IMAGE, "-c", program];
        self.run(&[&words[..], flags, &program].concat());
    }

    fn log(&self, name: &str) -> Vec<String> {
        let output = self.call(&["logs", name]);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn inspect(&self, name: &str, what: &str) -> String {
        self.run(&["inspect", "--format", what, name])
    }

    /// Waits until a container has counted beyond a number, by what is in its volume, and tells how far it is.
    #[track_caller]
    fn counts_beyond(&self, number: u64) -> u64 {
        let file = self.0.path("/var/lib/docker/volumes/data/_data/count");
        let so_far = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let reached = std::cell::Cell::new(0);
        self.0.wait_until("it counts on", || {
            // Between truncation and writing the file is empty.
            so_far().inspect(|count| reached.set(*count)).is_some_and(|count| count > number)
        });
        reached.get()
    }
}

#[test]
fn a_container_goes_on_in_one_of_another_node_round_after_round() {
    let Some(cluster) = Cluster::with_docker() else { return };
    let mut reached = 0;
    for round in 0..=3 {
        let docker = Dockerd::start(&cluster);
        let runtime = ["--runtime", "torpor", "--annotation", "torpor.dev/restore=shop/web"];
        docker.start_container("web", &runtime, if round == 0 { COUNTER } else { FRESH });
        let now = docker.counts_beyond(reached + 3);
        let lines = docker.log("web");
        assert!(!lines.contains(&"fresh".to_owned()), "{lines:?}");
        let first: u64 = lines[0].parse().unwrap();
        assert!(first >= reached, "it says {first}, and was at {reached} when it was kept");
        // Files: what it wrote and removed.
        assert_eq!(docker.run(&["exec", "web", "cat", "/etc/me"]), "mine");
        assert!(!docker.call(&["exec", "web", "cat", "/etc/motd"]).status.success());
        assert_eq!(docker.inspect("web", "{{.State.Status}}"), "running");
        // Every other time it ends with its checkpoint.
        let flags = &["--leave-running"][..(round + 1) % 2];
        reached = docker.counts_beyond(now);
        docker.0.keep("web", "shop/web", flags);
        if flags.is_empty() {
            docker
                .0
                .wait_until("Docker sees its end", || docker.inspect("web", "{{.State.Status}}") == "exited");
        } else {
            docker.counts_beyond(reached + 3);
            docker.run(&["stop", "--time", "20", "web"]);
            assert_eq!(docker.log("web").last().map(String::as_str), Some("bye"));
            assert_eq!(docker.inspect("web", "{{.State.ExitCode}}"), "7");
        }
        // It does not go back in time where it starts again.
        if round == 2 {
            docker.run(&["start", "web"]);
            docker.0.wait_until("it begins", || docker.log("web").last().is_some_and(|line| line == "fresh"));
        }
        docker.run(&["rm", "--force", "web"]);
        for directory in ["/run/torpor/runtime", "/var/tmp/torpor-runtime/room"] {
            let left = docker.0.output(&["find", directory, "-mindepth", "2"]).stdout;
            assert_eq!(String::from_utf8_lossy(&left), "", "round {round}");
        }
    }
}

#[test]
fn docker_makes_a_container_of_a_checkpoint_where_it_is_given_all_that_it_takes() {
    let Some(cluster) = Cluster::with_docker() else { return };
    let docker = Dockerd::start(&cluster);
    docker.start_container("first", &[], COUNTER);
    let reached = docker.counts_beyond(3);
    assert!(docker.0.torpor(&["check", "container:first"]).starts_with("container:first ("));
    let archive = cluster.path("web.tar").display().to_string();
    let export = ["checkpoint", "container:first", "--layout", "podman", "--export", &archive];
    docker.0.torpor(&[&export[..], &["--leave-running"]].concat());
    let told = docker.0.torpor(&["inspect", "--all", &archive]);
    assert!(told.contains(IMAGE) && told.contains("/bin/sh"), "{told}");
    docker.0.keep("first", "shop/web", &[]);

    let store = cluster.path("store").display().to_string();
    let restore = ["restore", "shop/web", "--into", "docker", "--detach", "--id", "second", "--store"];
    let refused = |words: &[&str]| {
        let torpor = cluster.path("torpor").display().to_string();
        let output = docker.0.output(&[&[torpor.as_str()], words].concat());
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    };
    docker.0.run(&["cp", "-r", &store, "/run/elsewhere"]);
    for (words, said) in [
        (&[&restore[..], &["/run/elsewhere"]].concat(), "does not look for checkpoints in /run/elsewhere"),
        (
            &[&restore[..], &[&store]].concat(),
            "give them at the end, from where they are to come: `-- --volume data:/data`",
        ),
        (
            &[&restore[..], &[&store, "--image", "no:1", "--", "-v", "data:/data"]].concat(),
            "Docker has no image no:1",
        ),
        (
            &[&restore[..], &[&store, "--", "-v", "data:/data", "--cap-drop", "ALL"]].concat(),
            "asks for more than this container is granted",
        ),
    ] {
        let refused = refused(words);
        assert!(refused.contains(said), "{words:?}: {refused}");
    }
    assert_eq!(
        docker.run(&["ps", "--all", "--format", "{{.Names}}"]),
        "first",
        "nothing stays of one that failed"
    );
    let flags = [&store, "--pid-file", "/run/pid", "--", "--network", "none", "--volume", "data:/data"];
    let id = docker.0.torpor(&[&restore[..], &flags].concat());
    docker.counts_beyond(reached + 3);
    assert_eq!(docker.run(&["exec", "second", "cat", "/etc/me"]), "mine");
    assert_eq!(
        docker.inspect("second", "{{.Id}} {{.State.Pid}}"),
        id + " " + &docker.0.run(&["cat", "/run/pid"])
    );

    // One that is waited for: its output and exit code come here.
    docker.0.keep("second", "shop/web", &[]);
    let last = docker.log("second").last().unwrap().parse::<u64>().unwrap();
    let words = format!(
        "{} restore shop/web --store {store} --into docker --id third -- --volume data:/data > /run/said; echo $?",
        cluster.path("torpor").display()
    );
    let stop = "(for _ in $(seq 300); do docker logs third | grep -q . && exec docker stop third; sleep 0.1; done) > /dev/null 2>&1 &";
    assert_eq!(docker.0.run(&["bash", "-c", &format!("{stop} {words}")]), "7");
    let said = docker.0.run(&["cat", "/run/said"]);
    let first: u64 = said.lines().next().unwrap().parse().unwrap();
    assert!(first >= last && said.ends_with("bye"), "{last}, then {said}");
}

#[test]
fn what_a_container_changed_in_a_copy_of_its_image_comes_along() {
    let Some(cluster) = Cluster::with_docker() else { return };
    let configuration =
        r#"{"log-level": "warn", "storage-driver": "vfs", "features": {"containerd-snapshotter": false}}"#;
    let docker = Dockerd::configured(&cluster, configuration);
    docker.start_container("copy", &[], COUNTER);
    let reached = docker.counts_beyond(3);
    let checked = docker.0.torpor(&["check", "container:copy"]);
    assert!(checked.contains("its root is compared with its image"), "{checked}");
    docker.0.keep("copy", "shop/copy", &[]);
    let store = cluster.path("store");
    let files =
        docker.0.torpor(&["inspect", "shop/copy", "--writable-layer", "--store", store.to_str().unwrap()]);
    assert!(files.contains("/etc/me") && !files.contains("worker.py"), "{files}");
    docker.start_container(
        "again",
        &["--runtime", "torpor", "--annotation", "torpor.dev/restore=shop/copy"],
        FRESH,
    );
    docker.counts_beyond(reached + 3);
    assert_eq!(docker.run(&["exec", "again", "cat", "/etc/me"]), "mine");
    assert!(!docker.call(&["exec", "again", "cat", "/etc/motd"]).status.success());
    docker.run(&["stop", "again"]);
    assert_eq!(docker.inspect("again", "{{.State.ExitCode}}"), "7");
}

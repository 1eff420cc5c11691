//! Containers of Docker and Podman that move to the same engine on another node.

use std::cell::Cell;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::node::{Cluster, Node};

/// Counts in memory, in its log and in its volume, and ends in its own way.
const COUNTER: &str = "trap 'echo bye; exit 7' TERM; echo mine > /etc/me; rm /etc/motd; \
    i=0; while :; do i=$((i+1)); echo $i; echo $i > /data/count; sleep 0.05; done";
const IMAGE: &str = "localhost/worker:1";

/// A node with an engine.
struct Engine<'a> {
    node: Node<'a>,
    program: &'static str,
}

impl<'a> Engine<'a> {
    /// Two on a network of their own.
    fn two(cluster: &'a Cluster, program: &'static str) -> [Engine<'a>; 2] {
        let engines = [(); 2].map(|()| Engine { node: cluster.host(), program });
        engines[0].node.connect(&engines[1].node);
        for Engine { node, .. } in &engines {
            match program {
                "docker" => node.install_docker(r#"{"log-level": "warn"}"#),
                _ => node.install_podman(),
            }
        }
        engines
    }

    /// Flags that every container here has.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--network=none".to_owned(), "--volume=data:/data".to_owned()];
        if self.program == "podman" {
            flags.push(format!("--cgroup-parent=/{}", self.node.group()));
        }
        flags
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        self.node.run(&[&[self.program], words].concat())
    }

    fn start(&self, name: &str, program: &str) {
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let words = ["run", "--detach", "--name", name];
        self.run(&[&words[..], &flags, &["--entrypoint=/bin/sh", IMAGE, "-c", program]].concat());
    }

    /// Removes it, where it is there.
    fn remove(&self, name: &str) {
        let at_once = if self.program == "podman" { &["--time=0"][..] } else { &[] };
        let _ = self.node.output(&[&[self.program, "rm", "--force"], at_once, &[name]].concat());
    }

    fn inspect(&self, name: &str, what: &str) -> String {
        self.run(&["inspect", "--format", what, name])
    }

    fn runs(&self, name: &str) -> bool {
        let words = [self.program, "inspect", "--format", "{{.State.Status}}", name];
        String::from_utf8(self.node.output(&words).stdout).unwrap().trim() == "running"
    }

    fn count(&self) -> Option<u64> {
        let place = match self.program {
            "docker" => "/var/lib/docker/volumes",
            _ => "/var/lib/containers/storage/volumes",
        };
        let text = std::fs::read_to_string(self.node.path(&format!("{place}/data/_data/count"))).ok()?;
        text.trim().parse().ok()
    }

    /// Waits until it has counted beyond a number, and tells how far it is.
    #[track_caller]
    fn counts_beyond(&self, number: u64) -> u64 {
        let reached = Cell::new(0);
        self.node.wait_until("it counts on", || {
            // Between truncation and writing the file is empty.
            self.count().inspect(|count| reached.set(*count)).is_some_and(|count| count > number)
        });
        reached.get()
    }

    /// A `torpor receive` here, and its ticket.
    fn receive(&self, cluster: &Cluster, words: &[&str]) -> (Child, String) {
        let torpor = cluster.path("torpor");
        let receive = [torpor.to_str().unwrap(), "receive", "--listen", "10.77.0.2:7411"];
        let files = ["--ticket-file", "/run/ticket", "--pid-file", "/run/pid"];
        let said = std::fs::File::create(self.node.path("/run/said")).unwrap();
        let mut command = self.node.command(&[&receive[..], &files, words].concat());
        let process = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let ticket = self.node.path("/run/ticket");
        self.node.wait_until("it waits", || ticket.exists());
        let text = std::fs::read_to_string(&ticket).unwrap();
        std::fs::remove_file(&ticket).unwrap();
        (process, text.trim().to_owned())
    }

    /// The same with all that the container takes.
    fn receive_all(&self, cluster: &Cluster) -> (Child, String) {
        let flags = self.flags();
        let flags = ["--"].into_iter().chain(flags.iter().map(String::as_str));
        self.receive(cluster, &flags.collect::<Vec<_>>())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.node.path("/run/said")).unwrap_or_default()
    }

    /// Nothing is left of receptions.
    fn is_tidy(&self) {
        for directory in ["/var/tmp/torpor-runtime/receptions", "/var/tmp/torpor-runtime/room"] {
            let left = self.node.output(&["find", directory, "-mindepth", "1"]).stdout;
            assert_eq!(String::from_utf8_lossy(&left), "");
        }
    }
}

fn migrate<'a>(torpor: &'a str, ticket: &'a str) -> [&'a str; 7] {
    [torpor, "migrate", "container:web", "--to", "10.77.0.2:7411", "--ticket", ticket]
}

/// A container moves, once all it takes is there; and it is the engine's as any other.
fn a_container_moves(cluster: &Cluster, program: &'static str) {
    let [here, there] = Engine::two(cluster, program);
    here.start("web", COUNTER);
    here.counts_beyond(3);
    let torpor = cluster.path("torpor").display().to_string();
    let refused = |ticket: &str| {
        let output = here.node.output(&migrate(&torpor, ticket));
        assert!(!output.status.success());
        here.counts_beyond(here.count().unwrap_or(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let (mut receiver, ticket) = there.receive(cluster, &[]);
    let said = refused(&ticket);
    assert!(said.contains("give them at the end") && said.contains("--volume data:/data"), "{said}");
    assert!(!receiver.wait().unwrap().success(), "{}", there.said());
    here.run(&["update", "--restart=always", "web"]);
    let (mut receiver, ticket) = there.receive_all(cluster);
    let said = refused(&ticket);
    assert!(said.contains("its restart policy is always") && said.contains("--restart=no"), "{said}");
    here.run(&["update", "--restart=no", "web"]);

    let said = here.node.run(&migrate(&torpor, &ticket));
    assert!(said.contains("runs on 10.77.0.2:7411"), "{said}");
    assert!(receiver.wait().unwrap().success(), "{}", there.said());
    here.node.wait_until("the engine sees its end", || !here.runs("web"));
    let end = here.count().unwrap();
    let count = there.counts_beyond(end);
    assert!(count <= end + 200, "it went on from {end}, and is at {count}");
    assert_eq!(here.count(), Some(end));
    assert_eq!(there.run(&["exec", "web", "cat", "/etc/me"]), "mine");
    let pid = there.node.run(&["cat", "/run/pid"]);
    assert_eq!(there.inspect("web", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    there.is_tidy();
    there.run(&["stop", "--time", "20", "web"]);
    assert_eq!(there.inspect("web", "{{.State.ExitCode}}"), "7");
    assert!(there.run(&["logs", "web"]).ends_with("bye"));
    // Started again it begins, as any other.
    there.run(&["start", "web"]);
    there.node.wait_until("it begins", || there.count().is_some_and(|count| count < end));
    here.remove("web");
    there.remove("web");
}

#[test]
fn a_container_moves_from_podman_to_podman() {
    let Some(cluster) = Cluster::new() else { return };
    a_container_moves(&cluster, "podman");
}

#[test]
fn a_container_moves_from_docker_to_docker() {
    let Some(cluster) = Cluster::with_docker() else { return };
    a_container_moves(&cluster, "docker");
}

#[test]
fn a_target_that_is_killed_leaves_a_container_of_podmans_in_one_place() {
    let Some(cluster) = Cluster::new() else { return };
    let [here, there] = Engine::two(&cluster, "podman");
    here.start("web", COUNTER);
    here.counts_beyond(3);
    let torpor = cluster.path("torpor").display().to_string();
    for round in 0..4 {
        let (mut receiver, ticket) = there.receive_all(&cluster);
        let mut migrating = here.node.command(&migrate(&torpor, &ticket));
        let mut migrating = migrating.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At another moment each time: copied ahead, captured, made there by Podman.
        std::thread::sleep(Duration::from_millis(150 + 250 * round));
        let _ = there.node.output(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
        let moved = migrating.wait().unwrap().success();
        let _ = receiver.wait();
        if moved || !here.runs("web") {
            // It had moved, or stands still there, and is not here.
            here.remove("web");
            there.remove("web");
            here.start("web", COUNTER);
            here.counts_beyond(0);
            continue;
        }
        here.counts_beyond(here.count().unwrap_or(0));
        assert!(!there.runs("web"), "round {round}: it runs in both places");
    }
    // What they left is no obstacle, and goes.
    let (mut receiver, ticket) = there.receive_all(&cluster);
    here.node.run(&migrate(&torpor, &ticket));
    assert!(receiver.wait().unwrap().success(), "{}", there.said());
    there.counts_beyond(here.count().unwrap_or(0));
    there.is_tidy();
    here.remove("web");
    there.remove("web");
}

#[test]
fn a_container_moves_from_podman_to_podman_by_a_registry() {
    let Some(cluster) = Cluster::new() else { return };
    let [here, there] = Engine::two(&cluster, "podman");
    here.node.start_registry(5000);
    here.start("web", COUNTER);
    here.counts_beyond(3);
    let place = ["--plain-http", "docker://10.77.0.1:5000/shop/web"];
    let said = here.node.torpor(&["migrate", "container:web", place[0], "--to", place[1]]);
    assert!(said.contains("torpor receive --from"), "{said}");
    here.node.wait_until("the engine sees its end", || !here.runs("web"));
    let end = here.count().unwrap();
    let flags = there.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let receive = [&["receive", place[0], "--from", place[1], "--"], &flags[..]].concat();
    let said = there.node.torpor(&receive);
    assert!(said.contains("runs here"), "{said}");
    there.counts_beyond(end);
    assert_eq!(there.run(&["exec", "web", "cat", "/etc/me"]), "mine");
    there.is_tidy();
    there.run(&["stop", "--time=20", "web"]);
    assert_eq!(there.run(&["wait", "web"]), "7");
    here.remove("web");
    there.remove("web");
}

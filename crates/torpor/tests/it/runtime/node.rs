//! A node: a lab host with containerd on it, whose handler `torpor` is the `torpor-runtime` under test.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab_host::{self, LabHost, SCRIPTS};

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);
/// The image whose files programs run in.
const IMAGE: &str = "localhost/worker:1";
/// What Podman on a lab host has to be told.
const PODMANS: &str = "[engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\n";

/// What nodes share: the program, its configuration, and a store.
#[derive(Debug)]
pub(super) struct Cluster {
    root: PathBuf,
    place: TempDir,
}

impl Cluster {
    /// A new one; none, with the reason said, where there is no root for its nodes.
    pub(super) fn new() -> Option<Cluster> {
        lab_host::root().map(Cluster::of)
    }

    /// The same, where Docker works on its nodes.
    pub(super) fn with_docker() -> Option<Cluster> {
        lab_host::root_with("docker").map(Cluster::of)
    }

    fn of(root: PathBuf) -> Cluster {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        symlink("torpor", at("torpor-runtime")).unwrap();
        // Not a link: hosts see this directory alone.
        if std::fs::hard_link(env!("CARGO_BIN_EXE_torpor"), at("torpor")).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_torpor"), at("torpor")).unwrap();
        }
        std::fs::create_dir(at("lab")).unwrap();
        for script in std::fs::read_dir(SCRIPTS).unwrap() {
            let script = script.unwrap();
            std::fs::copy(script.path(), at("lab").join(script.file_name())).unwrap();
        }
        let store = at("store");
        let settings =
            format!("stores:\n  - url: file://{}\nstate: /var/tmp/torpor-runtime\n", store.display());
        std::fs::write(at("runtime.yaml"), settings).unwrap();
        Cluster { root, place }
    }

    /// A path that all nodes share.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A node on which containerd runs.
    pub(super) fn node(&self) -> Node<'_> {
        let node = self.host();
        let runtime = self.path("torpor-runtime");
        let settings = self.path("runtime.yaml");
        let script = self.path("lab/containerd");
        node.run(&[script.to_str().unwrap(), runtime.to_str().unwrap(), settings.to_str().unwrap()]);
        node
    }

    /// A node on which CRI-O runs instead; none, with the reason said, where there is none.
    pub(super) fn node_with_crio(&self) -> Option<Node<'_>> {
        let programs = lab_host::crio(&self.root)?;
        for name in ["crio", "pinns"] {
            let place = self.path(name);
            if !place.exists() {
                std::fs::copy(programs.join(name), place).unwrap();
            }
        }
        let node = Node { socket: "/run/crio/crio.sock", ..self.host() };
        node.run(&[self.path("lab/crio").to_str().unwrap(), self.place.path().to_str().unwrap()]);
        Some(node)
    }

    /// A node without.
    pub(super) fn host(&self) -> Node<'_> {
        let host = LabHost::start(&self.root, self.place.path());
        Node { cluster: self, host, socket: "/run/containerd/containerd.sock" }
    }
}

/// The host. It ends when it is dropped, with all that runs on it.
#[derive(Debug)]
pub(super) struct Node<'a> {
    cluster: &'a Cluster,
    host: LabHost,
    /// Where its runtime listens.
    socket: &'static str,
}

impl Node<'_> {
    /// Connects it with another: they have 10.77.0.1 and 10.77.0.2.
    pub(super) fn connect(&self, other: &Node<'_>) {
        self.host.connect(&other.host);
    }

    /// Starts a registry on it, which deletes images.
    pub(super) fn start_registry(&self, port: u16) {
        self.host.start_registry(port, true);
    }

    /// Has Docker run here with a configuration, and know the runtime.
    pub(super) fn install_docker(&self, configuration: &str) {
        std::fs::write(self.path("/etc/docker/daemon.json"), configuration).unwrap();
        self.torpor(&["install-node", "--prefix", "/var/tmp/torpor"]);
        let words = [self.cluster.path("lab/docker"), self.cluster.path("runtime.yaml")];
        self.run(&words.each_ref().map(|word| word.to_str().unwrap()));
    }

    /// Has Podman know the runtime.
    pub(super) fn install_podman(&self) {
        let conf = self.path("/etc/containers/containers.conf.d");
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::write(conf.join("10-lab.conf"), PODMANS).unwrap();
        self.torpor(&["install-node", "--prefix", "/var/tmp/torpor"]);
        self.run(&["podman", "load", "-q", "-i", "/var/lib/images/worker.tar"]);
    }

    /// What a command on the host comes to.
    pub(super) fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// A command on the host.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let configuration = self.cluster.path("runtime.yaml");
        let settings = [
            format!("TORPOR_RUNTIME_CONFIG={}", configuration.display()),
            format!("CRI_SOCKET={}", self.socket),
            format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin:{}", self.cluster.place.path().display()),
        ];
        self.host.command(&settings, words)
    }

    /// Runs it, and returns what it printed.
    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}{}", self.runtimes_log());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// `torpor …` on the host.
    #[track_caller]
    pub(super) fn torpor(&self, words: &[&str]) -> String {
        let torpor = self.cluster.path("torpor");
        self.run(&[&[torpor.to_str().unwrap()], words].concat())
    }

    /// Keeps a checkpoint of a container in the store of the cluster.
    #[track_caller]
    pub(super) fn keep(&self, container: &str, name: &str, flags: &[&str]) {
        let (target, store) = (format!("container:{container}"), self.cluster.path("store"));
        let words = ["checkpoint", &target, "--store", store.to_str().unwrap(), "--name", name];
        self.torpor(&[&words[..], flags].concat());
    }

    /// A call of the CRI: see `xtask/lab/pod.py`.
    pub(super) fn call(&self, words: &[&str]) -> Output {
        let script = self.cluster.path("lab/pod.py");
        self.output(&[&["python3", script.to_str().unwrap()], words].concat())
    }

    /// The same, which must succeed. Returns what it printed.
    #[track_caller]
    pub(super) fn pod(&self, words: &[&str]) -> String {
        let script = self.cluster.path("lab/pod.py");
        self.run(&[&["python3", script.to_str().unwrap()], words].concat())
    }

    /// Makes and starts a container with a shell's program, given flags of `pod.py create`.
    #[track_caller]
    pub(super) fn start(&self, pod: &str, name: &str, flags: &[&str], program: &str) -> String {
        let container = self.create(pod, name, flags, program);
        self.pod(&["start", &container]);
        container
    }

    /// Makes a container with a shell's program, given flags of `pod.py create`.
    #[track_caller]
    pub(super) fn create(&self, pod: &str, name: &str, flags: &[&str], program: &str) -> String {
        let words = [&["create", pod, name, IMAGE][..], flags, &["--", "/bin/sh", "-c", program]].concat();
        self.pod(&words)
    }

    /// The messages of a log that containerd wrote, without times.
    pub(super) fn log(&self, path: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(path)).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect()
    }

    /// Waits until something is so.
    #[track_caller]
    pub(super) fn wait_until(&self, what: &str, so: impl Fn() -> bool) {
        let until = Instant::now() + LIMIT;
        while !so() {
            assert!(Instant::now() < until, "not yet: {what}{}", self.runtimes_log());
            std::thread::sleep(PACE);
        }
    }

    /// What its control groups are called.
    pub(super) fn group(&self) -> &str {
        self.host.group()
    }

    /// A path of the host, seen from here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.host.path(path)
    }

    fn runtimes_log(&self) -> String {
        let logs = ["/var/log/containerd.log", "/var/log/crio.log"].map(|log| self.path(log));
        let log: String = logs.iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("level=error")).collect();
        format!("\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
    }
}

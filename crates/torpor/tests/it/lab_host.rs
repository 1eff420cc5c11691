//! A lab host that stays for as long as a test: a machine of its own with real container engines, in namespaces over a root
//! of Debian's packages.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the root.
const VARIABLE: &str = "TORPOR_LAB";
/// Names engines that do not work on this machine, as `cargo xtask test` finds.
const WITHOUT: &str = "TORPOR_LAB_WITHOUT";
/// Names the directory of CRI-O's programs.
const CRIO: &str = "TORPOR_CRIO";
/// Scripts that run on a lab host, and the one that starts it.
pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/lab");
/// Enters the host's control groups, which only those outside can name, and runs its arguments with the three standard
/// descriptors alone: what the test has open must not become a part of what is dumped.
const ENTERING: &str = r#"
    group=$1; shift
    for procs in "/sys/fs/cgroup/$group/init/cgroup.procs" /sys/fs/cgroup/*/"$group"/cgroup.procs; do
        [ ! -e "$procs" ] || echo $$ > "$procs"
    done
    for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -gt 2 ] && eval "exec $fd>&-"; done
    exec "$@""#;
/// How long the host may take to start.
const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);

/// The root that lab hosts have; none, with the reason said, where there is none or nobody may use it.
pub(crate) fn root() -> Option<PathBuf> {
    let Some(root) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        eprintln!("SKIPPED: {VARIABLE} names no root for lab hosts (`cargo xtask lab` makes one)");
        return None;
    };
    assert!(rustix::process::geteuid().is_root(), "lab hosts are made as root");
    Some(root)
}

/// The same, where an engine is not said to be missing on them.
pub(crate) fn root_with(engine: &str) -> Option<PathBuf> {
    let without = std::env::var(WITHOUT).unwrap_or_default();
    if without.split(' ').any(|missing| missing == engine) {
        eprintln!("SKIPPED: {WITHOUT} says that {engine} does not work here");
        return None;
    }
    root()
}

/// Where programs of CRI-O are, which Debian has no package of: the root, or the directory that `TORPOR_CRIO` names. None, with the reason said,
/// where there are none.
pub(crate) fn crio(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os(CRIO).map(PathBuf::from);
    let usual = ["usr/bin", "usr/local/bin"].map(|directory| root.join(directory));
    let found = named.into_iter().chain(usual).find(|directory| directory.join("crio").exists());
    if found.is_none() {
        eprintln!(
            "SKIPPED: there is no crio on lab hosts, and {CRIO} names no directory with crio and pinns"
        );
    }
    found
}

/// The host. It ends when it is dropped, with all that runs on it.
#[derive(Debug)]
pub(crate) struct LabHost {
    script: Child,
    init: u32,
    group: String,
}

impl LabHost {
    /// Starts one that sees the directory `share` at the same path.
    pub(crate) fn start(root: &Path, share: &Path) -> LabHost {
        let mut host = Command::new(Path::new(SCRIPTS).join("host"));
        host.arg(root).arg(share).args(["sleep", "infinity"]).stdin(Stdio::null());
        let mut script = host.spawn().unwrap();
        let until = Instant::now() + LIMIT;
        loop {
            // The script, `unshare`, and the first process of the host, whose child begins once all is there.
            let init = only_child(script.id()).and_then(only_child);
            if let Some((init, group)) = init.and_then(|init| Some((init, group(only_child(init)?)?))) {
                return LabHost { script, init, group };
            }
            assert!(
                script.try_wait().unwrap().is_none() && Instant::now() < until,
                "the host does not start"
            );
            std::thread::sleep(PACE);
        }
    }

    /// Connects it with another: they have 10.77.0.1 and 10.77.0.2 on a network of their own.
    pub(crate) fn connect(&self, other: &LabHost) {
        let [here, there] = [self, other].map(|host| host.init.to_string());
        let words = [
            "link", "add", "name", "eth0", "netns", &here, "type", "veth", "peer", "name", "eth0", "netns",
            &there,
        ];
        assert!(Command::new("ip").args(words).status().unwrap().success());
        for (host, address) in [(self, "10.77.0.1/24"), (other, "10.77.0.2/24")] {
            for words in
                [["ip", "address", "add", address, "dev", "eth0"], ["ip", "link", "set", "eth0", "up", ""]]
            {
                let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
                assert!(host.command(&[], &words).status().unwrap().success());
            }
        }
    }

    /// Starts a registry without TLS, which deletes images if it `deletes`, and waits until it answers.
    pub(crate) fn start_registry(&self, port: u16, deletes: bool) {
        let script = format!(
            "mkdir -p /var/tmp/{port} && cd /var/tmp/{port} && printf '%s' '{{version: 0.1, log: {{level: error}}, \
             storage: {{filesystem: {{rootdirectory: /var/tmp/{port}}}, delete: {{enabled: {deletes}}}}}, http: {{addr: \":{port}\"}}}}' \
             > config.yml && (setsid docker-registry serve config.yml > log 2>&1 < /dev/null &) && \
             for _ in $(seq 100); do (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null && exit; sleep 0.1; done; cat log >&2; exit 1"
        );
        assert!(self.command(&[], &["bash", "-c", &script]).status().unwrap().success());
    }

    /// What its control groups are called.
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    /// A path of the host, seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A command on the host, with settings as NAME=VALUE.
    pub(crate) fn command(&self, settings: &[String], words: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", ENTERING, "bash", &self.group, "nsenter", "--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--", "env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TORPOR_CRIU=/usr/sbin/criu", "HOME=/root"])
            .arg(format!("LAB_NAME={}", self.group))
            .args(settings)
            .args(words)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for LabHost {
    fn drop(&mut self) {
        // Its end ends all; the script that started it then cleans up.
        if let Some(pid) = i32::try_from(self.init).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.script.wait();
    }
}

fn only_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// What the host's control groups are called: its last program has that in its environment.
fn group(pid: u32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"LAB_NAME="))?;
    let is_sleep = std::fs::read(format!("/proc/{pid}/comm")).ok()?.starts_with(b"sleep");
    is_sleep.then(|| String::from_utf8_lossy(name).into_owned())
}

//! A machine of its own with real container runtimes, in namespaces over a Debian root.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/container_engines/host.sh");
const TORPOR: &str = env!("CARGO_BIN_EXE_torpor");
/// Names the Debian root with runc, crun and CRIU in it.
const VARIABLE: &str = "TORPOR_LAB";
/// Runs its arguments with the three standard descriptors alone.
const CLOSING: &str =
    r#"for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -gt 2 ] && eval "exec $fd>&-"; done; exec "$@""#;
/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The machine. It ends when it is dropped, with all that runs and is mounted on it.
pub(super) struct Host {
    unshare: Child,
    init: u32,
    /// What its control groups are called.
    group: String,
}

impl Host {
    /// A new one; none, with the reason printed, where there is no root for it.
    pub(super) fn new() -> Option<Host> {
        let Some(root) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            eprintln!(
                "SKIPPED: {VARIABLE} names no root with container runtimes (`cargo xtask lab` makes one)"
            );
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: containers need root");
            return None;
        }
        for program in ["usr/sbin/runc", "usr/bin/crun", "usr/sbin/criu", "usr/bin/busybox"] {
            if !root.join(program).exists() {
                eprintln!("SKIPPED: {} has no {program} ({VARIABLE} names a root)", root.display());
                return None;
            }
        }
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child", "bash", SCRIPT])
            .args([&root, Path::new(TORPOR).parent().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine cannot be made");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Some(Host { unshare, init, group: format!("torpor-test-{}-{number}", std::process::id()) })
    }

    /// A path of the machine, seen from here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A command on the machine.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--mount", "--pid", "--ipc", "--uts", "--net", "--"])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "TORPOR_CRIU=/usr/sbin/criu",
                "TORPOR_RUNTIME_DIR=/run/rt",
            ])
            // What the test has open must not become a part of what is dumped.
            .args(["bash", "-c", CLOSING, "bash"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    pub(super) fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs it, and returns what it printed.
    pub(super) fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `torpor …` on the machine.
    ///
    /// Control groups of version 1 that no runtime makes for a container are everybody's. CRIU walks them, and fails where
    /// another test's go away meanwhile; so then it is tried again.
    pub(super) fn torpor(&self, words: &[&str]) -> String {
        let words = [&["/run/torpor/torpor"], words].concat();
        for _ in 0..4 {
            let output = self.output(&words);
            if !String::from_utf8_lossy(&output.stderr)
                .contains("the control groups of the program cannot be read")
            {
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{words:?}: {error}");
                return String::from_utf8(output.stdout).unwrap();
            }
        }
        self.run(&words)
    }

    /// The same, where what is started goes on with the output it was given: nobody could wait for its end.
    pub(super) fn torpor_quietly(&self, words: &[&str]) {
        let mut command = self.command(&[&["/run/torpor/torpor"], words].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = child.stderr.take().unwrap();
        if !child.wait().unwrap().success() {
            panic!("{words:?}: {}", std::io::read_to_string(said).unwrap());
        }
    }

    /// The same, which must fail. Returns what it said.
    pub(super) fn refused(&self, words: &[&str]) -> String {
        let output = self.output(&[&["/run/torpor/torpor"], words].concat());
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Makes a bundle with a program that counts, at `/run/b/BUNDLE`. Its root is an overlay.
    pub(super) fn bundle(&self, bundle: &str, program: &str) {
        let place = format!("/run/b/{bundle}");
        let script = format!(
            "mkdir -p {place}/{{lower/{{bin,proc,dev,sys,tmp}},upper,work,rootfs,volume}} && cd {place} && \
             cp /usr/bin/busybox lower/bin/ && for a in sh sleep echo rm mkdir ln cat; do ln -s busybox lower/bin/$a; done && \
             echo kept > lower/kept && echo removed > lower/removed && \
             mount -t overlay -o lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work overlay rootfs"
        );
        self.run(&["bash", "-c", &script]);
        let config = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "noNewPrivileges": true,
                "args": ["sh", "-c", program], "env": ["PATH=/bin"],
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
                {"destination": "/volume", "type": "bind", "source": format!("{place}/volume"), "options": ["rbind", "rw"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{bundle}", self.group),
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
                "maskedPaths": ["/proc/acpi", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys"],
            },
        });
        std::fs::write(self.path(&format!("{place}/config.json")), config.to_string()).unwrap();
    }

    /// Makes a bundle with the same image, for what was started from another, with none of what it wrote there. The volume
    /// is the same.
    pub(super) fn bundle_for(&self, bundle: &str, other: &str) {
        self.bundle(bundle, "true");
        self.edit(bundle, |config| config["mounts"][5]["source"] = format!("/run/b/{other}/volume").into());
    }

    /// Makes the bundle that of a container of a pod, whose volume it has.
    pub(super) fn put_into_pod(&self, bundle: &str, pod: &str, container: &str) {
        self.run(&["mkdir", "-p", &format!("/run/b/{pod}/volume")]);
        self.edit(bundle, |config| {
            config["mounts"][5]["source"] = format!("/run/b/{pod}/volume").into();
            config["annotations"] = serde_json::json!({
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.sandbox-name": pod,
                "io.kubernetes.cri.container-name": container,
            });
        });
    }

    /// Changes a bundle's configuration.
    fn edit(&self, bundle: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path(&format!("/run/b/{bundle}/config.json"));
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// Starts the bundle as a container of the same name, with its output nowhere.
    pub(super) fn start(&self, runtime: &str, bundle: &str) {
        self.start_with_output(runtime, bundle, "/dev/null");
    }

    /// The same, with its output in a file of the machine.
    pub(super) fn start_with_output(&self, runtime: &str, bundle: &str, output: &str) {
        let start = format!("exec {runtime} run -d --bundle /run/b/{bundle} {bundle} >{output} 2>&1");
        self.run(&["bash", "-c", &start]);
    }

    /// What the program has counted to; 0 where it has not begun.
    pub(super) fn count(&self, bundle: &str) -> u64 {
        let file = self.path(&format!("/run/b/{bundle}/volume/count"));
        std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until it has counted beyond a number, and returns to what.
    pub(super) fn counts_beyond(&self, bundle: &str, number: u64) -> u64 {
        let until = Instant::now() + LIMIT;
        loop {
            let count = self.count(bundle);
            if count > number {
                return count;
            }
            assert!(
                Instant::now() < until,
                "{bundle} stands still at {count}, and should count beyond {number}"
            );
            std::thread::sleep(PACE);
        }
    }

    /// What lies in a directory of the machine.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // Control groups are the real machine's. They are empty once all processes are gone.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for parent in [hierarchy.path().join(&self.group), own_group(&hierarchy.path()).join(&self.group)]
            {
                remove_groups(&parent);
            }
        }
    }
}

/// The control group that this process is in, where it is not the root: runtimes make others below it.
fn own_group(hierarchy: &Path) -> PathBuf {
    let controller = hierarchy.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names.split(',').any(|name| name == controller).then(|| fields.next())?
    });
    hierarchy.join(path.unwrap_or("/").trim_start_matches('/'))
}

fn remove_groups(parent: &Path) {
    // A group that still has processes in it, about to end, cannot be removed yet.
    for _ in 0..100 {
        remove_below(parent);
        if !parent.exists() {
            return;
        }
        std::thread::sleep(PACE);
    }
}

/// Children go first.
fn remove_below(group: &Path) {
    for child in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&child.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

//! A machine of its own with real container runtimes, in namespaces over a Debian root.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab_host::{self, LabHost};

const TORPOR: &str = env!("CARGO_BIN_EXE_torpor");
/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);

/// The machine. It ends when it is dropped, with all that runs and is mounted on it.
pub(super) struct Host {
    lab: LabHost,
    /// Where it finds Torpor.
    share: Arc<TempDir>,
}

impl Host {
    /// A new one; none, with the reason printed, where there is no root for it.
    pub(super) fn new() -> Option<Host> {
        Host::that_sees(Arc::new(tempfile::tempdir().unwrap()))
    }

    /// Two, on a network of their own and with a directory that both see.
    pub(super) fn two() -> Option<(Host, Host)> {
        let one = Host::new()?;
        let other = Host::that_sees(Arc::clone(&one.share))?;
        one.lab.connect(&other.lab);
        Some((one, other))
    }

    /// Where it and the other one have the same files.
    pub(super) fn shared(&self, name: &str) -> String {
        self.share.path().join(name).to_str().unwrap().to_owned()
    }

    fn that_sees(share: Arc<TempDir>) -> Option<Host> {
        let root = lab_host::root()?;
        // Not a link: the machine sees this directory alone.
        let torpor = share.path().join("torpor");
        if !torpor.exists() && std::fs::hard_link(TORPOR, &torpor).is_err() {
            std::fs::copy(TORPOR, &torpor).unwrap();
        }
        let host = Host { lab: LabHost::start(&root, share.path()), share };
        host.run(&["ln", "-s", host.share.path().to_str().unwrap(), "/run/torpor"]);
        // crun does not work where both versions of control groups are mounted.
        let both = "if [ -e /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi";
        host.run(&["sh", "-c", both]);
        Some(host)
    }

    /// Starts a registry on it; see [`LabHost::start_registry`].
    pub(super) fn start_registry(&self, port: u16, deletes: bool) {
        self.lab.start_registry(port, deletes);
    }

    /// A path of the machine, seen from here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.lab.path(path)
    }

    /// A command on the machine.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        self.lab.command(&["TORPOR_RUNTIME_DIR=/run/rt".to_owned()], words)
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
    pub(super) fn torpor(&self, words: &[&str]) -> String {
        self.run(&[&["/run/torpor/torpor"], words].concat())
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
        let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"];
        let config = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
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
                "cgroupsPath": format!("/{}/{bundle}", self.lab.group()),
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

    /// Takes the volume out of the bundle.
    pub(super) fn without_volume(&self, bundle: &str) {
        self.edit(bundle, |config| {
            config["mounts"].as_array_mut().unwrap().remove(5);
        });
    }

    /// Leaves it to the runtime which control group the bundle's container is in.
    pub(super) fn without_group(&self, bundle: &str) {
        self.edit(bundle, |config| {
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        });
    }

    /// Has the bundle's container in the machine's network.
    pub(super) fn join_network(&self, bundle: &str) {
        self.edit(bundle, |config| config["linux"]["namespaces"][1]["path"] = "/proc/1/ns/net".into());
    }

    /// Waits until something is so.
    pub(super) fn wait_for(&self, mut is: impl FnMut() -> bool) {
        let until = Instant::now() + LIMIT;
        while !is() {
            assert!(Instant::now() < until, "it does not come to pass");
            std::thread::sleep(PACE);
        }
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

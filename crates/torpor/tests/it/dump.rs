//! A program that a real CRIU dumps into a directory, for commands that look into checkpoints. It needs root, Python and
//! `TORPOR_CRIU`; without them the tests say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running Python program, and the dumps that are made of it.
pub(crate) struct Dumped {
    directory: TempDir,
    criu: PathBuf,
    child: Child,
}

impl Dumped {
    /// Starts a program, which has to make the file `ready` in the directory that is its first argument.
    pub(crate) fn start(program: &str) -> Option<Self> {
        let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
            eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        // A session of its own, since CRIU dumps none that began outside of the namespace of the tests; and signals to
        // it and its children must not reach the tests.
        let mut command = Command::new("setsid");
        command
            .args(["python3", "-c", program])
            .arg(directory.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("COLOUR", "blue")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("errors")).unwrap())
            .current_dir("/");
        let dumped = Self { criu: criu.into(), child: command.spawn().unwrap(), directory };
        dumped.wait_for("ready");
        Some(dumped)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until the program has written a file, and reads it.
    pub(crate) fn wait_for(&self, name: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(text) = fs::read_to_string(self.path(name)) {
                return text;
            }
            let errors = fs::read_to_string(self.path("errors"));
            assert!(Instant::now() < deadline, "no {name}: {errors:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Dumps the program, which goes on, into a directory of this name.
    pub(crate) fn dump(&self, name: &str) -> PathBuf {
        self.dump_with(name, &[])
    }

    /// The same, with further options of CRIU's.
    pub(crate) fn dump_with(&self, name: &str, options: &[&str]) -> PathBuf {
        let images = self.path(name);
        fs::create_dir(&images).unwrap();
        let dumped = Command::new(&self.criu)
            .args(["dump", "--leave-running", "--shell-job", "--network-lock", "skip", "-v4"])
            .args(options)
            .args(["--log-file", "dump.log", "--tree", &self.pid().to_string(), "--images-dir"])
            .arg(&images)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(dumped.success(), "{}", last_lines(&images.join("dump.log")));
        images
    }

    /// Waits for the end of the program, so that its PID is free.
    pub(crate) fn reap(&mut self) {
        self.child.wait().unwrap();
    }

    /// Tells the program to go on by making a file.
    pub(crate) fn tell(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }
}

fn last_lines(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

impl Drop for Dumped {
    fn drop(&mut self) {
        // The group is the program and its children.
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

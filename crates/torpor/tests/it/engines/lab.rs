//! A place for what engines make, and the lab hosts they make it on.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::lab_host::{self, SCRIPTS};

/// A directory that lab hosts share with this machine. Its hosts end with the commands that run on them, and with a host all
/// of its processes and mounts.
#[derive(Debug)]
pub(super) struct Lab {
    root: PathBuf,
    place: TempDir,
}

impl Lab {
    /// A lab, or none with the reason said where there is no root for its hosts.
    pub(super) fn new() -> Option<Self> {
        let root = lab_host::root()?;
        let place = tempfile::tempdir().unwrap();
        for directory in ["lab", "made"] {
            std::fs::create_dir(place.path().join(directory)).unwrap();
        }
        for script in std::fs::read_dir(SCRIPTS).unwrap() {
            let script = script.unwrap();
            std::fs::copy(script.path(), place.path().join("lab").join(script.file_name())).unwrap();
        }
        for name in ["torpor", "checkpointctl"] {
            symlink(env!("CARGO_BIN_EXE_torpor"), place.path().join(name)).unwrap();
        }
        Some(Self { root, place })
    }

    /// Has an engine run the worker with 2 MiB of memory, and leave checkpoints of it.
    #[track_caller]
    pub(super) fn checkpoint(&self, engine: &str) {
        let script = self.place.path().join("lab/checkpoint");
        let made = self.place.path().join("made");
        self.run(&[script.to_str().unwrap(), engine, made.to_str().unwrap(), "2"]);
    }

    /// Has an engine run the worker, and runs a script on the same host meanwhile, in which `torpor` is Torpor and `$MADE` the
    /// place for what is made.
    #[track_caller]
    pub(super) fn meanwhile(&self, engine: &str, script: &str) {
        let binary = self.place.path().join("bin/torpor");
        std::fs::create_dir_all(binary.parent().unwrap()).unwrap();
        // The host sees nothing but this place.
        std::fs::copy(env!("CARGO_BIN_EXE_torpor"), &binary).unwrap();
        let path = |directory: &str| self.place.path().join(directory).display().to_string();
        let then = format!(
            "LAB_THEN=export PATH={}:$PATH MADE={} TORPOR_CRIU=/usr/sbin/criu; {script}",
            path("bin"),
            path("made")
        );
        // Containers have overlays, as nearly everywhere.
        self.run(&[
            "env",
            "STORAGE_DRIVER=overlay",
            &then,
            &path("lab/checkpoint"),
            engine,
            &path("made"),
            "2",
        ]);
    }

    /// Runs a command on a lab host.
    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) {
        let mut host = Command::new(self.place.path().join("lab/host"));
        host.arg(&self.root).arg(self.place.path()).args(words).stdin(Stdio::null());
        let output = host.output().unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Where something that was made is.
    pub(super) fn made(&self, name: &str) -> PathBuf {
        self.place.path().join("made").join(name)
    }

    /// What the real checkpointctl said, which is kept beside the archives.
    pub(super) fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.made(name)).unwrap()
    }

    /// The root of its hosts.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Torpor under one of its names.
    pub(super) fn called(&self, name: &str) -> PathBuf {
        Path::join(self.place.path(), name)
    }
}

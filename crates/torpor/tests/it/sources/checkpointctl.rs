//! The binary under the name `checkpointctl`: what it leaves to other programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A link named `checkpointctl`, and a directory that is the whole `PATH`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        symlink(env!("CARGO_BIN_EXE_torpor"), place.path("checkpointctl")).unwrap();
        fs::create_dir(place.path("bin")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program in the `PATH` that notes how it was called.
    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let calls = self.path("calls");
        let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\n{script}\n", calls.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.path("checkpointctl"));
        command.args(arguments).env_clear().env("PATH", self.path("bin")).output().unwrap()
    }
}

/// A directory with an archive's documents, which is enough to be carried.
fn archive(at: &Path) {
    fs::create_dir_all(at.join("checkpoint")).unwrap();
    fs::write(at.join("checkpoint/inventory.img"), [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2]).unwrap();
    fs::write(at.join("config.dump"), r#"{"id": "1", "name": "web", "runtime": "runc"}"#).unwrap();
    fs::write(at.join("spec.dump"), r#"{"annotations": {"io.container.manager": "libpod"}}"#).unwrap();
}

#[test]
fn a_plugin_is_called_by_its_name_and_only_then() {
    let place = Place::new();
    place.program("checkpointctl-greet", "echo hello \"$@\"; exit 7");
    let help = place.run(&["--help"]);
    assert!(help.status.success() && place.calls().is_empty(), "a plugin ran unasked");
    let listed = String::from_utf8(place.run(&["plugin", "list"]).stdout).unwrap();
    assert!(listed.contains("greet") && listed.contains("bin/checkpointctl-greet"), "{listed}");
    assert!(place.calls().is_empty());
    // Its flags are its own, and so is its exit code.
    let output = place.run(&["greet", "-v", "--all=true", "you"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "hello -v --all=true you\n");
    let unknown = place.run(&["no-such"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("unknown command \"no-such\""));
}

#[test]
fn an_image_with_a_plain_name_is_given_to_a_program_that_keeps_images() {
    let place = Place::new();
    archive(&place.path("archive"));
    let archive = place.path("archive");
    let words = ["build", archive.to_str().unwrap(), "localhost/web:1"];
    let refused = place.run(&words);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("neither buildah nor podman nor skopeo"));

    place.program("buildah", "case $1 in pull) echo 4711 ;; esac");
    let output = place.run(&words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Image 'localhost/web:1' created successfully"), "{said}");
    let calls = place.calls();
    let mut lines = calls.lines();
    let pull = lines.next().unwrap();
    assert!(pull.starts_with("buildah pull --quiet oci:") && pull.ends_with(":localhost/web:1"), "{calls}");
    assert_eq!(lines.collect::<Vec<_>>(), ["buildah tag 4711 localhost/web:1"]);

    place.program("buildah", "echo no room >&2; exit 1");
    let failed = place.run(&words);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8(failed.stderr).unwrap().contains("no room"));
}

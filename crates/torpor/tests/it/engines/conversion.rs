//! `torpor convert`: what one engine has checkpointed goes on under another.

use std::path::Path;

use super::lab::Lab;
use super::{NEEDLE, documents, does_what_the_worker_does, is_the_worker, says};

/// Where the registry of a lab host has the worker's image.
const IMAGE: &str = "localhost:5000/worker:1";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Has an engine restore an archive, and returns where the checkpoint is that it then made.
#[track_caller]
fn restore(lab: &Lab, engine: &str, archive: &Path, again: &str) -> String {
    let again = lab.made(again);
    let script = lab.called("lab/restore");
    lab.run(&[text(&script), engine, text(archive), text(&again)]);
    text(&again).to_owned()
}

#[test]
fn what_containerd_made_goes_on_in_podman_and_then_in_containerd_again() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("containerd");
    let (from, to) = (lab.made("containerd.tar"), lab.made("for-podman.tar.zst"));
    says(
        &lab,
        "torpor",
        &["convert", text(&from), "--to", "podman", "--compress", "zstd", "--out", text(&to)],
    );
    let again = restore(&lab, "podman", &to, "podman-again.tar");
    is_the_worker(&documents(&lab, &again), "Podman", "localhost/worker:1");
    let back = lab.made("for-containerd.tar");
    says(&lab, "torpor", &["convert", &again, "--to", "containerd", "--image", IMAGE, "--out", text(&back)]);
    let last = restore(&lab, "containerd", &back, "containerd-again.tar");
    // containerd 2.1 forgets the name of a container that it restores.
    does_what_the_worker_does(&documents(&lab, &last));
    let found = says(&lab, "torpor", &["memory", &last, "--pid", "1", "--search", NEEDLE]);
    assert!(found.contains("matches in"), "{found}");
}

#[test]
fn what_podman_made_goes_on_in_containerd() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    // Podman writes later checkpoints of a container over the earlier ones, and leaves images of tasks that have ended.
    let (from, to) = (lab.made("podman.tar"), lab.made("for-containerd.tar"));
    let words = ["convert", text(&from), "--to", "containerd", "--out", text(&to)];
    let refused = std::process::Command::new(lab.called("torpor")).args(words).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    for reason in ["2 TCP connections are established", "localhost/worker:1 cannot be pulled"] {
        assert!(!refused.status.success() && said.contains(reason), "{said}");
    }
    assert!(!to.exists());
    says(&lab, "torpor", &[&words[..], &["--image", IMAGE, "--close-connections"]].concat());
    let again = restore(&lab, "containerd", &to, "containerd-again.tar");
    does_what_the_worker_does(&documents(&lab, &again));
}

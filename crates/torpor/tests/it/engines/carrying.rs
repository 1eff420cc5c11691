//! `torpor build`, `push` and `pull`: images of checkpoints, which engines restore or start afresh, and registries that keep them.

use std::path::Path;

use super::lab::Lab;
use super::{documents, does_what_the_worker_does, says};

/// Where the registry of a lab host has the worker's image.
const IMAGE: &str = "localhost:5000/worker:1";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn containerd_restores_an_image_of_podmans_checkpoint() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    let (from, layout, again) = (lab.made("podman.tar"), lab.made("layout"), lab.made("again.tar"));
    let words = ["build", text(&from), "--for", "containerd", "--image", IMAGE, "--close-connections"];
    says(&lab, "torpor", &[&words[..], &["--out", text(&layout)]].concat());
    lab.run(&[text(&lab.called("lab/restore")), "containerd", text(&layout), text(&again)]);
    does_what_the_worker_does(&documents(&lab, text(&again)));
}

#[test]
fn podman_restores_an_image_of_containerds_checkpoint() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("containerd");
    let (from, layout, again) = (lab.made("containerd.tar"), lab.made("layout"), lab.made("again.tar"));
    says(
        &lab,
        "torpor",
        &["build", text(&from), "--for", "podman", "--compress", "gzip", "--out", text(&layout)],
    );
    lab.run(&[text(&lab.called("lab/restore")), "podman", text(&layout), text(&again)]);
    does_what_the_worker_does(&documents(&lab, text(&again)));
}

#[test]
fn an_image_on_the_applications_own_starts_afresh_without_torpor() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    let (from, layout) = (lab.made("podman.tar"), lab.made("layout"));
    let base = lab.root().join("var/lib/images/worker.tar");
    let build = ["build", text(&from), "--base", text(&base), "--out", text(&layout)];
    let digest = says(&lab, "torpor", &build);
    assert_eq!(digest, says(&lab, "torpor", &build), "the same checkpoint gives the same image");
    let json =
        says(&lab, "torpor", &["inspect", "--all", "--output", "json", &format!("oci:{}", text(&layout))]);
    assert!(json.contains("/worker.py"), "{json}");
    lab.run(&[text(&lab.called("lab/fresh")), text(&layout)]);
}

#[test]
fn images_go_through_registries_and_back() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    let program = lab.made("program");
    std::fs::copy(env!("CARGO_BIN_EXE_torpor"), &program).unwrap();
    let (from, layout) = (lab.made("podman.tar"), lab.made("layout"));
    lab.run(&[text(&lab.called("lab/registry")), text(&program), text(&from), text(&layout)]);
}

//! The commands that look at checkpoints others made, driven over directories and archives.

mod checkpointctl;
mod targets;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn torpor(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::cargo_bin("torpor").unwrap();
    command.args(arguments).env_remove("TORPOR_STORE").output().unwrap()
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A directory with the inventory of a dump of which the rest was lost.
fn lost(at: &Path) {
    // CRIU's magic, and an inventory of version 2.
    fs::write(at.join("inventory.img"), [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2]).unwrap();
}

#[test]
fn a_checkpoint_with_missing_images_is_not_whole() {
    let place = tempfile::tempdir().unwrap();
    lost(place.path());
    let output = torpor(&["check", "--whole", "--output", "json", place.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    let report = json(&output);
    let checked = &report["checkpoints"][0];
    assert_eq!(checked["whole"], "no");
    let complete = checked["findings"].as_array().unwrap().iter().find(|row| row["topic"] == "complete");
    assert_eq!(complete.unwrap()["faults"][0]["entry"], "pstree.img");
    let output = torpor(&["check", "--whole", place.path().to_str().unwrap()]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("pstree.img: it is missing"));
}

#[test]
fn a_source_that_is_not_there_is_told_as_such() {
    let output = torpor(&["check", "/not/there.tar"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error: cannot read /not/there.tar") && said.contains("help: "), "{said}");
}

#[test]
fn archives_that_cannot_be_read_are_listed_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    let output = torpor(&["ls", path]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("there are no checkpoints in {path}\n"));
    fs::create_dir(place.path().join("images")).unwrap();
    lost(&place.path().join("images"));
    fs::write(place.path().join("checkpoint-web.tar"), "no archive").unwrap();
    fs::write(place.path().join("notes.txt"), "no checkpoint").unwrap();
    let output = torpor(&["ls", "--output", "json", path]);
    assert_eq!(output.status.code(), Some(4));
    let report = json(&output);
    let archives = report["archives"].as_array().unwrap();
    assert_eq!(archives.len(), 2);
    assert!(archives[0]["error"].as_str().unwrap().contains("neither an archive nor a directory"));
    assert_eq!(archives[1]["engine"], "criu");
}

#[test]
fn an_archive_goes_into_a_store_and_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut tape = torpor_archive::tape::Tape::new(Vec::new());
    tape.directory("checkpoint", 0o700, 5).unwrap();
    tape.file("checkpoint/inventory.img", 0o600, 5, 4, &mut &b"what"[..]).unwrap();
    tape.file("config.dump", 0o600, 5, 16, &mut &br#"{"name": "web"} "#[..]).unwrap();
    fs::write(at("a.tar"), tape.end().unwrap()).unwrap();
    for number in 1..=2 {
        let words =
            ["import", &at("a.tar"), "--name", "shop/web", "--store", &at("store"), "--output", "json"];
        let output = torpor(&words);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(json(&output)["generation"], number);
    }
    let output = torpor(&["export", "shop/web@1", "--store", &at("store"), "--out", &at("b.tar")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(at("a.tar")).unwrap(), fs::read(at("b.tar")).unwrap());
    let output = torpor(&["export", "shop/none", "--store", &at("store"), "--out", &at("c.tar")]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!place.path().join("c.tar").exists());
}

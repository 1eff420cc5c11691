//! `torpor doctor`, as scripts and people meet it.

use assert_cmd::Command;
use serde_json::Value;

fn doctor(arguments: &[&str]) -> std::process::Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("torpor").unwrap();
    command.arg("doctor").args(arguments).arg("--store").arg(directory.path().join("store"));
    command.output().unwrap()
}

#[test]
fn scripts_get_rows_with_stable_ids_and_an_exit_code_that_agrees() {
    let output = doctor(&["--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["version"], 1);
    let rows = report["rows"].as_array().unwrap();
    for id in
        ["kernel.version", "criu.version", "privilege.ptrace", "confinement.seccomp", "space.store", "store"]
    {
        assert_eq!(rows.iter().filter(|row| row["id"] == id).count(), 1, "{id}");
    }
    for row in rows {
        let unwell = row["status"] == "warn" || row["status"] == "fail";
        assert_eq!(unwell, row["remedy"].is_string(), "{row}");
    }
    let failed = rows.iter().any(|row| row["status"] == "fail");
    assert_eq!(report["fit"], !failed);
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}

#[test]
fn a_criu_that_is_not_there_is_named_with_a_remedy() {
    let output = doctor(&["--criu", "/nowhere/criu"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  CRIU") && text.contains("/nowhere/criu (named by --criu)"), "{text}");
    assert!(text.contains("-> install CRIU 4.2 or newer"), "{text}");
    assert!(text.contains("Torpor does not work here"), "{text}");
}

/// What `docs/privileges.md` says is enough for root: what Docker grants by default, and CHECKPOINT_RESTORE.
const LEAST: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                     +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap,+checkpoint_restore";

#[test]
fn the_least_privileges_that_are_enough_fail_no_row() {
    let Some(criu) = crate::container::criu() else { return eprintln!("SKIPPED: TORPOR_CRIU names no CRIU") };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give up privileges");
    }
    let store = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", LEAST, env!("CARGO_BIN_EXE_torpor"), "doctor", "--output", "json"]);
    let output = command.arg("--store").arg(store.path()).arg("--criu").arg(criu).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |topic: &str| rows.iter().filter(|row| row["topic"] == topic).collect::<Vec<_>>();
    assert!(of("feature").len() > 20, "CRIU was asked: {rows:#?}");
    for row in [of("criu"), of("feature"), of("privilege")].concat() {
        assert_ne!(row["status"], "fail", "{row:#}");
    }
}

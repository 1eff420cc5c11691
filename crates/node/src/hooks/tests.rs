//! Hooks that do what they should, and others.

use std::process::Command;

use serde_json::json;

use super::*;
use crate::loopback::Loopback;

fn occasion() -> Occasion {
    Occasion {
        name: "web/app".into(),
        epoch: 3,
        instance: "i-1".into(),
        generation: Some(7),
        phase: "check".into(),
        kind: "suspend".into(),
        outcome: None,
        program_pid: 1 << 30,
        status_file: "/run/torpor/web+app.json".into(),
    }
}

fn pre(yaml: serde_json::Value) -> Hooks {
    Hooks { pre_checkpoint: HookConfig::list(&yaml).unwrap(), ..Hooks::default() }
}

fn ran(hooks: &Hooks) -> Result<(), HookError> {
    run(Point::PreCheckpoint, hooks, &occasion(), None)
}

#[test]
fn a_command_is_told_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("env | grep ^TORPOR_ | sort > {}; echo done", out.display());
    ran(&pre(json!({"command": script}))).unwrap();
    let seen = std::fs::read_to_string(out).unwrap();
    for line in [
        "TORPOR_EPOCH=3",
        "TORPOR_GENERATION=7",
        "TORPOR_HOOK=preCheckpoint",
        "TORPOR_INSTANCE=i-1",
        "TORPOR_KIND=suspend",
        "TORPOR_NAME=web/app",
        "TORPOR_PHASE=check",
        "TORPOR_STATUS_FILE=/run/torpor/web+app.json",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is missing in\n{seen}");
    }
}

#[test]
fn a_failure_counts_unless_it_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let after = dir.path().join("after");
    let touch = format!("touch {}", after.display());
    let failing =
        |policy| pre(json!([{"command": "echo no sessions >&2; exit 3", "onFailure": policy}, touch]));

    let error = ran(&failing("fail")).unwrap_err().to_string();
    let expected =
        "the preCheckpoint hook's command \"/bin/sh\" ended with exit code 3, saying \"no sessions\"";
    assert_eq!(error, expected);
    assert!(!after.exists());

    ran(&failing("ignore")).unwrap();
    assert!(after.exists());
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let (mut alive, theirs) = std::io::pipe().unwrap();
    // The child in the background holds the pipe's other end as long as it lives.
    let number = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let hooks = pre(
        json!({"command": format!("sleep 1000 {number}>&{number} & echo waiting; wait"), "timeout": "200ms"}),
    );
    let error = ran(&hooks).unwrap_err();
    assert!(matches!(error, HookError::Timeout { .. }), "{error}");
    drop(theirs);
    // Ends only when nobody holds the other end any more.
    assert_eq!(std::io::copy(&mut alive, &mut std::io::sink()).unwrap(), 0);
}

#[test]
fn what_runs_on_in_the_background_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let hooks =
        pre(json!({"command": format!("sleep 1000 & echo $! > {}", pid.display()), "timeout": "60s"}));
    let begun = std::time::Instant::now();
    ran(&hooks).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30));
    let left = std::fs::read_to_string(pid).unwrap();
    assert!(Command::new("kill").arg(left.trim()).status().unwrap().success());
}

#[test]
fn a_command_that_writes_without_end_is_stopped_in_time() {
    let error = ran(&pre(json!({"command": "yes", "timeout": "100ms"}))).unwrap_err();
    assert!(matches!(error, HookError::Timeout { ref last_line, .. } if last_line == "y"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = ran(&pre(json!({"command": ["/no/such/program"]}))).unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[test]
fn a_request_is_told_what_happens() {
    let server = Loopback::start(|seen| Some((if seen.path == "/bad" { 503 } else { 204 }, String::new())));
    ran(&pre(json!({"http": format!("{}/hook", server.url)}))).unwrap();
    let seen = server.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/hook"));
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(
        (&body["hook"], &body["name"], &body["generation"]),
        (&json!("preCheckpoint"), &json!("web/app"), &json!(7))
    );

    ran(&pre(json!({"http": {"url": format!("{}/x?y", server.url), "method": "GET"}}))).unwrap();
    assert_eq!((server.seen()[1].method.as_str(), server.seen()[1].path.as_str()), ("GET", "/x?y"));

    let error = ran(&pre(json!(format!("{}/bad", server.url)))).unwrap_err();
    assert!(error.to_string().ends_with("/bad was answered with status 503"), "{error}");
}

#[test]
fn a_request_that_takes_too_long_is_given_up() {
    let silent = Loopback::start(|_| None);
    let error = ran(&pre(json!({"http": silent.url, "timeout": "50ms"}))).unwrap_err();
    assert!(matches!(error, HookError::Timeout { .. }), "{error}");
}

#[test]
fn a_signal_reaches_the_program() {
    use std::os::unix::process::ExitStatusExt;
    let mut program = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut occasion = occasion();
    occasion.program_pid = i32::try_from(program.id()).unwrap();
    run(Point::PreCheckpoint, &pre(json!("signal:USR1")), &occasion, None).unwrap();
    assert_eq!(program.wait().unwrap().signal(), Some(libc::SIGUSR1));

    for pid in [0, -1, 1 << 30] {
        occasion.program_pid = pid;
        let result = run(Point::PreCheckpoint, &pre(json!("signal:USR1")), &occasion, None);
        assert!(matches!(result, Err(HookError::Signal { .. })), "{pid}");
    }
}

#[test]
fn no_time_at_all_is_a_failure() {
    let result = run(Point::PreCheckpoint, &pre(json!("true")), &occasion(), Some(Duration::ZERO));
    assert!(matches!(result, Err(HookError::NoTime { .. })), "{result:?}");
    run(Point::PostRestore, &pre(json!("false")), &occasion(), Some(Duration::ZERO)).unwrap();
}

//! `torpor checkpoint` and `torpor wait`, with a wrapper of the test's own at the other end.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assert_cmd::Command;
use torpor_node::control::{Incoming, Outcome, Request, Server};

struct Wrapper {
    runtime_dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
    _server: Server,
}

/// A wrapper for `web/app` that answers everything by `outcome`.
fn wrapper(outcome: Outcome) -> Wrapper {
    let runtime_dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&asked);
    let socket = runtime_dir.path().join("torpor/web+app.sock");
    let server = Server::start(&socket, None, move |mut incoming: Incoming| {
        record.lock().unwrap().push(incoming.request);
        incoming.replier.phase("check", Duration::from_millis(1));
        incoming.replier.finish(outcome.clone());
    });
    Wrapper { runtime_dir, asked, _server: server.unwrap() }
}

fn torpor(runtime_dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("torpor").unwrap();
    command.env_remove("TORPOR_NAME").env("TORPOR_RUNTIME_DIR", runtime_dir).args(arguments);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn done() -> Outcome {
    let phases = vec![("check".into(), 1.0), ("freeze".into(), 0.5)];
    Outcome::Done { name: "web/app".into(), generation: 4, suspended: false, phases }
}

#[test]
fn a_checkpoint_is_asked_for_by_name_or_without() {
    let wrapper = wrapper(done());
    let directory = wrapper.runtime_dir.path();
    for arguments in [
        &["checkpoint", "--name", "web/app", "--leave-running"][..],
        &["checkpoint", "--leave-running"],
        &["checkpoint", "--template", "--timeout", "30s"],
        &["checkpoint"],
    ] {
        let (code, out, _) = torpor(directory, arguments);
        assert_eq!(code, 0);
        assert!(out.starts_with("web/app@4 committed; the program runs on\n"), "{out}");
    }
    let checkpoint = |leave_running, template| Request::Checkpoint { leave_running, template };
    let asked = wrapper.asked.lock().unwrap().clone();
    let expected = [(true, false), (true, false), (true, true), (false, false)];
    assert_eq!(asked, expected.map(|(leave_running, template)| checkpoint(leave_running, template)));
}

#[test]
fn a_current_directory_that_is_gone_is_in_nobodys_way() {
    let wrapper = wrapper(done());
    let gone = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {} && rmdir $PWD && exec {} checkpoint",
        gone.path().display(),
        assert_cmd::cargo::cargo_bin!("torpor").display()
    );
    let mut command = Command::new("sh");
    command.env_remove("TORPOR_NAME").env("TORPOR_RUNTIME_DIR", wrapper.runtime_dir.path());
    let output = command.args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_checkpoint_as_json() {
    let wrapper = wrapper(done());
    let (_, out, _) = torpor(wrapper.runtime_dir.path(), &["checkpoint", "--output", "json"]);
    for line in ["\"version\": 1", "\"name\": \"web/app\"", "\"generation\": 4", "\"phase\": \"freeze\""] {
        assert!(out.contains(line), "{line} is missing in {out}");
    }
}

#[test]
fn a_failure_is_told_with_its_remedy() {
    let wrapper =
        wrapper(Outcome::Failed { message: "the disk is full".into(), remedy: Some("make room".into()) });
    let (code, _, err) = torpor(wrapper.runtime_dir.path(), &["checkpoint"]);
    assert_eq!(code, 1);
    assert!(err.contains("error: there is no checkpoint: the disk is full\nhelp: make room\n"), "{err}");
}

#[test]
fn nobody_to_ask_has_a_code_of_its_own() {
    let empty = tempfile::tempdir().unwrap();
    for arguments in [
        &["checkpoint"][..],
        &["checkpoint", "--name", "web/app"],
        &["wait", "--name", "web/app", "-t", "10ms"],
    ] {
        let (code, _, err) = torpor(empty.path(), arguments);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("\nhelp: "), "{err}");
    }
}

#[test]
fn wait_returns_when_the_wrapper_is_ready() {
    let wrapper = wrapper(Outcome::Ready);
    assert_eq!(torpor(wrapper.runtime_dir.path(), &["wait", "-t", "30s"]).0, 0);
    assert_eq!(*wrapper.asked.lock().unwrap(), [Request::Wait]);
}

//! `torpor check` of what runs: a real process, looked at without touching it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// Is connected, and has a deleted file open.
const PROGRAM: &str = "exec 3<>/dev/tcp/127.0.0.1/$1 4>$2/gone; echo kept >&4; rm $2/gone; echo ready; read";

struct Running(Child);

impl Running {
    /// In a session of its own, with its mounts as here.
    fn start(arguments: &[&str]) -> Running {
        let mut command = Command::new("setsid");
        command.args(["bash", "-c", PROGRAM, "bash"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.arg("check").args(arguments).output().unwrap()
}

fn finding<'a>(target: &'a Value, topic: &str) -> &'a Value {
    target["findings"].as_array().unwrap().iter().find(|finding| finding["topic"] == topic).unwrap()
}

#[test]
fn a_process_is_told_what_stands_in_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let running = Running::start(&[&port, directory.path().to_str().unwrap()]);
    let target = format!("pid:{}", running.0.id());

    let output = check(&[&target, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = &report["targets"][0];
    assert_eq!((&told["checkpointable"], &told["processes"]), (&"no".into(), &1.into()));
    assert!(told["memory"].as_u64().unwrap() > 0 && told["standstillMilliseconds"].as_u64().unwrap() > 0);
    let tcp = finding(told, "tcp");
    assert!(tcp["answer"] == "no" && tcp["reason"].as_str().unwrap().contains(&port), "{tcp}");
    assert!(tcp["remedy"].as_str().unwrap().contains("--tcp close"), "{tcp}");
    let deleted = finding(told, "deleted-files");
    assert_eq!(
        (&deleted["answer"], &deleted["reason"]),
        (&"yes".into(), &"1, 1 KiB in all, go into the checkpoint".into())
    );

    let output = check(&[&target, "--tcp", "close"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("these are closed at the restore"), "{text}");
}

#[test]
fn what_does_not_run_is_told_as_such() {
    for (target, code, told) in [
        ("pid:4194304", 3, "no process 4194304"),
        ("pid:x", 2, "names no process"),
        ("container:no-such-container", 3, "there is no container:no-such-container"),
        ("pod:web", 2, "names no container"),
    ] {
        let output = check(&[target]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(told) && said.contains("help: "), "{said}");
    }
}

#[test]
fn a_stream_that_leads_outside_is_seen_in_whichever_process_it_is() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut command = Command::new("setsid");
    command.args(["bash", "-c", "echo ready; read; :"]).stdin(OwnedFd::from(near)).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // The command has the descriptor, too.
    drop(command);
    let running = Running(child);
    let output = check(&[&format!("pid:{}", running.0.id()), "--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = finding(&report["targets"][0], "unix-sockets");
    assert_eq!(
        (&found["answer"], &found["reason"]),
        (&"no".into(), &"streams to somebody outside: 1".into())
    );
    drop(far);
}

//! Both ends of the control socket together.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

struct Wrapper {
    server: Server,
    path: PathBuf,
    requests: mpsc::Receiver<Incoming>,
    _dir: tempfile::TempDir,
}

fn deliver_to(send: mpsc::Sender<Incoming>) -> impl Fn(Incoming) + Send + Sync {
    let send = Mutex::new(send);
    move |incoming| send.lock().unwrap().send(incoming).unwrap()
}

fn wrapper() -> Wrapper {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("torpor/web+app.sock");
    let (send, requests) = mpsc::channel();
    Wrapper { server: Server::start(&path, None, deliver_to(send)).unwrap(), path, requests, _dir: dir }
}

const RUNNING: Request = Request::Checkpoint { leave_running: true, template: false };

#[test]
fn a_checkpoint_tells_its_phases_and_its_result() {
    let wrapper = wrapper();
    let mut client = Client::connect(&wrapper.path).unwrap();
    let done = Outcome::Done {
        name: "web/app".into(),
        generation: 4,
        suspended: false,
        phases: vec![("check".into(), 0.5)],
    };
    let expected = done.clone();
    let caller = std::thread::spawn(move || {
        let mut phases = Vec::new();
        let outcome = client.ask(&RUNNING, None, |phase| phases.push(phase.phase.clone())).unwrap();
        (phases, outcome)
    });
    let mut incoming = wrapper.requests.recv().unwrap();
    assert_eq!(incoming.request, RUNNING);
    assert!(incoming.caller.starts_with("uid "), "{}", incoming.caller);
    incoming.replier.phase("check", Duration::from_millis(1));
    incoming.replier.phase("freeze", Duration::from_millis(2));
    incoming.replier.finish(done);
    assert_eq!(caller.join().unwrap(), (vec!["check".into(), "freeze".into()], expected));
}

#[test]
fn a_caller_can_tell_its_answer_before_the_server_is_gone() {
    let Wrapper { server, path, requests, _dir } = wrapper();
    let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tells = std::sync::Arc::clone(&told);
    let mut client = Client::connect(&path).unwrap();
    let caller = std::thread::spawn(move || {
        client.ask(&RUNNING, None, |_| {}).unwrap();
        tells.store(true, std::sync::atomic::Ordering::Release);
    });
    requests.recv().unwrap().replier.finish(Outcome::Ready);
    drop(server);
    assert!(told.load(std::sync::atomic::Ordering::Acquire));
    caller.join().unwrap();
}

#[test]
fn a_request_that_is_dropped_has_an_answer() {
    let wrapper = wrapper();
    let mut client = Client::connect(&wrapper.path).unwrap();
    let caller = std::thread::spawn(move || client.ask(&Request::Wait, None, |_| {}).unwrap());
    drop(wrapper.requests.recv().unwrap());
    assert_eq!(caller.join().unwrap(), Outcome::failed("torpor ended before it had an answer"));
}

#[test]
fn a_caller_that_goes_away_does_no_harm() {
    let wrapper = wrapper();
    let mut stream = UnixStream::connect(&wrapper.path).unwrap();
    stream.write_all(b"{\"version\":1,\"request\":\"checkpoint\"}\n").unwrap();
    let mut incoming = wrapper.requests.recv().unwrap();
    drop(stream);
    incoming.replier.phase("check", Duration::ZERO);
    incoming.replier.finish(Outcome::Ready);
}

#[test]
fn what_is_no_request_is_refused_with_words() {
    let wrapper = wrapper();
    for line in ["hello\n", "{\"version\":9,\"request\":\"fly\"}\n", "{\"version\":1,\"request\":\"fly\"}\n"]
    {
        let mut stream = UnixStream::connect(&wrapper.path).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"version\":1,\"result\":\"refused\""), "{line}: {answer}");
    }
}

#[test]
fn no_answer_in_time_is_told() {
    let wrapper = wrapper();
    let mut client = Client::connect(&wrapper.path).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_millis(20);
    let result = client.ask(&Request::Status, Some(deadline), |_| {});
    assert!(matches!(result, Err(ClientError::Timeout { .. })), "{result:?}");
}

#[test]
fn the_socket_is_for_its_user_alone_and_goes_with_the_server() {
    let wrapper = wrapper();
    let mode =
        |wrapper: &Wrapper| std::fs::metadata(&wrapper.path).map(|found| found.permissions().mode() & 0o777);
    assert_eq!(mode(&wrapper).unwrap(), 0o600);
    let directory = wrapper.path.parent().unwrap().to_owned();
    let Wrapper { server, _dir, path, .. } = wrapper;
    drop(server);
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
    assert!(matches!(Client::connect(&path), Err(ClientError::Absent { .. })));
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let start = |path: &std::path::Path| Server::start(path, None, |_| {});
    drop(UnixListener::bind(&path).unwrap());
    let server = start(&path).unwrap();
    assert!(matches!(start(&path), Err(ServerError::Taken { .. })));
    drop(server);
    std::fs::write(&path, "").unwrap();
    assert!(matches!(start(&path), Err(ServerError::NotASocket { .. })));
    assert!(matches!(start(&path.join("b.sock")), Err(ServerError::Make { .. })));
    let long = dir.path().join("x".repeat(100));
    assert!(matches!(start(&long), Err(ServerError::PathTooLong { .. })));
}

#[test]
fn too_many_callers_are_turned_away() {
    let wrapper = wrapper();
    let waiting: Vec<UnixStream> = (0..32).map(|_| UnixStream::connect(&wrapper.path).unwrap()).collect();
    let outcome = Client::connect(&wrapper.path).unwrap().ask(&Request::Status, None, |_| {});
    // The refusal may be there before the request is written, which then fails; either way there is no waiting.
    assert!(matches!(outcome, Ok(Outcome::Refused { .. }) | Err(ClientError::Answer { .. })), "{outcome:?}");
    drop(waiting);
}

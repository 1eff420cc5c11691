//! Sessions with the CRIU that `TORPOR_CRIU` names. They need root, and are passed over, loudly, without.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use torpor_criu::options::{
    AfterDump, CheckOptions, Common, Config, CpuCheck, DumpOptions, FileValidation, PageTarget,
    RestoreOptions,
};
use torpor_criu::page_server::{HeaderSize, PageServer, Served, socket_pair};
use torpor_criu::program::Program;
use torpor_criu::rpc::Features;
use torpor_criu::session::{Event, Notification, Session, SessionError, Spawn, Verdict};

use crate::{Counted, Place};

fn program() -> Option<Program> {
    let Some(path) = std::env::var_os("TORPOR_CRIU") else {
        eprintln!("SKIPPED: TORPOR_CRIU names no criu");
        return None;
    };
    Some(Program::new(path))
}

fn start(program: &Program) -> Session {
    Session::start(program, Spawn::default()).unwrap()
}

fn proceed(_: &Notification) -> Verdict {
    Verdict::Proceed
}

/// A shell and its children, in a session of their own and without descriptors from outside.
struct Tree(std::process::Child);

/// Whoever runs the tests may leave descriptors open for their children, which would make the dump fail.
const CLOSE_OTHERS: &str =
    r#"for f in /proc/$$/fd/*; do n=${f##*/}; ((n > 2)) && eval "exec $n>&-"; done; exec /bin/sh -c "$0""#;

impl Tree {
    fn start(script: &str) -> Self {
        let mut command = Command::new("setsid");
        command.args(["bash", "-c", CLOSE_OTHERS, script]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Waits for the end of a tree that was dumped and had no children. Else its PID were free only once those have
    /// been reaped too, because they belong to its process group.
    fn wait_for_end(&mut self) {
        assert_eq!(self.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    fn wait_for(&self, file: &Path) {
        while !file.exists() {
            assert!(Path::new(&format!("/proc/{}", self.pid())).exists(), "the tree has ended");
            std::thread::yield_now();
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Once it has been waited for, its number may be another's.
        if let Ok(None) = self.0.try_wait() {
            let group = rustix::process::Pid::from_raw(self.pid()).unwrap();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn common(place: &Place) -> Common {
    // The second has no field and goes by the generated file.
    let config = Config { file_validation: Some(FileValidation::Size), ..Config::default() };
    Common { cpu: Some(CpuCheck::NONE), config, ..place.common() }
}

#[test]
fn it_says_its_version_and_features() {
    let Some(program) = program() else { return };
    let mut session = start(&program);
    assert!(session.version().unwrap().numbers() >= (4, 0, 0));
    let features = session.feature_check(Features::ALL).unwrap();
    assert!(features.mem_track.is_some() && features.lazy_pages.is_some());
    session.check(&CheckOptions::default()).unwrap();
}

#[test]
fn cpu_features_of_this_machine_fit_this_machine() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let mut session = start(&program);
    session.cpuinfo_dump(&place.common()).unwrap();
    assert!(place.path("cpuinfo.img").exists());
    session.cpuinfo_check(&place.common()).unwrap();
}

#[test]
fn a_process_that_is_not_there_has_its_number() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let options = DumpOptions::new(i32::MAX - 1, common(&place));
    let error = start(&program).dump(&options, &mut proceed).unwrap_err();
    let SessionError::Failed { errno, last, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*errno, last), (Some(libc::ESRCH), &Some(Event::PreDump)), "{error}\n{}", place.log());
}

#[test]
fn a_tree_runs_on_after_its_memory_was_sent_to_us() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let ready = place.path("ready");
    let tree = Tree::start(&format!("sleep 1000 & touch {}; wait", ready.display()));
    tree.wait_for(&ready);
    let pair = socket_pair(4 << 20).unwrap();
    let session = Session::start(&program, Spawn::default().pass(pair.criu, 9)).unwrap();
    let options = DumpOptions {
        after: AfterDump::Running,
        pages: Some(PageTarget::Socket(9)),
        ..DumpOptions::new(tree.pid(), common(&place))
    };
    let mut sink = Counted::default();
    let (served, dumped) = std::thread::scope(|scope| {
        let server = scope.spawn(|| PageServer::new(&pair.ours).serve(&mut sink));
        let dumped = session.dump(&options, &mut proceed);
        (server.join().unwrap(), dumped)
    });
    let dumped = dumped.unwrap_or_else(|error| panic!("{error}\n{}", place.log()));
    assert_eq!(dumped.last, Some(Event::PostDump));
    let Served { header, pagemaps, pages, .. } = served.unwrap();
    assert!(header == Some(HeaderSize::Long) || header == Some(HeaderSize::Short));
    assert_eq!(pagemaps, 2, "a shell and its child");
    assert_eq!(pages, sink.firsts.len() as u64);
    assert!(pages > 20, "{pages} pages");
    assert!(!place.path("pages-1.img").exists());
    assert!(Path::new(&format!("/proc/{}/exe", tree.pid())).exists());
}

#[test]
fn a_refused_suspend_lets_the_tree_run_on() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let ready = place.path("ready");
    let mut tree = Tree::start(&format!("touch {}; while :; do sleep 1000; done", ready.display()));
    tree.wait_for(&ready);
    let mut refuse = |notification: &Notification| match notification.event {
        Event::PostDump => Verdict::Refuse,
        _ => Verdict::Proceed,
    };
    let error = start(&program).dump(&DumpOptions::new(tree.pid(), common(&place)), &mut refuse).unwrap_err();
    assert_eq!(error.refused(), Some(&Event::PostDump), "{error}\n{}", place.log());
    assert_eq!(tree.0.try_wait().unwrap(), None);
}

#[test]
fn a_suspended_tree_goes_on_as_our_child_and_its_exit_code_is_ours() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let (ready, go) = (place.path("ready"), place.path("go"));
    let script = format!("touch {}; while ! test -e {}; do :; done; exit 42", ready.display(), go.display());
    let mut tree = Tree::start(&script);
    tree.wait_for(&ready);
    let pid = tree.pid();
    start(&program)
        .dump(&DumpOptions::new(pid, common(&place)), &mut proceed)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.log()));
    tree.wait_for_end();

    let mut seen = Vec::new();
    let mut callback = |notification: &Notification| {
        seen.push((notification.event.clone(), notification.pid));
        Verdict::Proceed
    };
    let restored = start(&program)
        .restore(&RestoreOptions::new(common(&place)), &mut callback)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.log()));
    assert_eq!(restored.pid.as_raw_nonzero().get(), pid);
    assert_eq!(seen[0], (Event::PreRestore, None));
    assert!(seen.contains(&(Event::PostRestore, Some(restored.pid))));
    assert_eq!(seen.last().unwrap().0, Event::PostResume);

    std::fs::write(&go, []).unwrap();
    let status = rustix::process::waitpid(Some(restored.pid), rustix::process::WaitOptions::empty());
    assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(42));
}

#[test]
fn a_refused_restore_leaves_nothing() {
    let Some(program) = program() else { return };
    let place = Place::new();
    let ready = place.path("ready");
    let mut tree = Tree::start(&format!("touch {}; while :; do :; done", ready.display()));
    tree.wait_for(&ready);
    let pid = tree.pid();
    start(&program).dump(&DumpOptions::new(pid, common(&place)), &mut proceed).unwrap();
    tree.wait_for_end();
    let mut refuse = |notification: &Notification| match notification.event {
        Event::PostRestore => Verdict::Refuse,
        _ => Verdict::Proceed,
    };
    let error = start(&program).restore(&RestoreOptions::new(common(&place)), &mut refuse).unwrap_err();
    assert_eq!(error.refused(), Some(&Event::PostRestore), "{error}\n{}", place.log());
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "not even a zombie");
}

//! Sessions with the fake CRIU.

use std::time::{Duration, Instant};

use torpor_criu::options::{
    AfterDump, DumpOptions, FileValidation, PageServerOptions, PageTarget, RestoreOptions,
};
use torpor_criu::page_server::{HeaderSize, PageServer, PageServerError, Served, socket_pair};
use torpor_criu::rpc::Features;
use torpor_criu::session::{
    Ended, Event, Notification, PATIENCE, Pid, Session, SessionError, Spawn, Verdict,
};

use crate::{Counted, Place, fake_program, scripted, start};

fn proceed(_: &Notification) -> Verdict {
    Verdict::Proceed
}

fn dump(place: &Place) -> DumpOptions {
    DumpOptions { after: AfterDump::Running, ..DumpOptions::new(4711, place.common()) }
}

#[test]
fn small_questions_share_a_session() {
    let mut session = start("version=4.1.1;lacks=mem_track");
    assert_eq!(session.version().unwrap().to_string(), "4.1.1");
    let features = session.feature_check(Features::ALL).unwrap();
    assert_eq!((features.mem_track(), features.lazy_pages()), (false, true));
    let place = Place::new();
    session.cpuinfo_dump(&place.common()).unwrap();
    session.cpuinfo_check(&place.common()).unwrap();
    assert_eq!(session.close(), Ended::Code(0));
}

#[test]
fn a_dump_tells_what_it_does_and_can_be_refused_at_the_end() {
    let place = Place::new();
    let mut seen = Vec::new();
    let mut callback = |notification: &Notification| {
        seen.push(notification.event.clone());
        if notification.event == Event::PostDump { Verdict::Refuse } else { Verdict::Proceed }
    };
    let error = start("").dump(&dump(&place), &mut callback).unwrap_err();
    assert_eq!(seen, [Event::PreDump, Event::NetworkLock, Event::QueryExtFiles, Event::PostDump]);
    assert_eq!(error.refused(), Some(&Event::PostDump));
    assert_eq!(
        error.to_string(),
        "criu: dump failed because post-dump was refused: RPC client reported script error"
    );
}

#[test]
fn external_resources_can_be_added_when_criu_asks() {
    let place = Place::new();
    let mut callback = |notification: &Notification| match notification.event {
        Event::QueryExtFiles => Verdict::External(vec!["file[1f:2a]".into()]),
        _ => Verdict::Proceed,
    };
    let dumped = start("").dump(&dump(&place), &mut callback).unwrap();
    assert_eq!(dumped.last, Some(Event::NetworkUnlock));
    assert!(place.log().contains("Adding external object: file[1f:2a]"));
}

#[test]
fn a_terminal_comes_with_its_notification() {
    let place = Place::new();
    let mut masters = Vec::new();
    let mut callback = |notification: &Notification| {
        masters.extend(notification.take_descriptor().map(|master| (notification.event.clone(), master)));
        Verdict::Proceed
    };
    let session = start("notify=pre-restore,orphan-pts-master,post-restore;child=:");
    let restored = session.restore(&RestoreOptions::new(place.common()), &mut callback).unwrap();
    rustix::process::waitpid(Some(restored.pid), rustix::process::WaitOptions::empty()).unwrap();
    assert_eq!(masters.len(), 1);
    assert_eq!(masters[0].0, Event::OrphanPtsMaster);
    let null = rustix::fs::stat("/dev/null").unwrap();
    assert_eq!(rustix::fs::fstat(&masters[0].1).unwrap().st_rdev, null.st_rdev);
}

#[test]
fn pre_dumps_lead_to_a_dump_on_one_session() {
    let place = Place::new();
    let mut session = start("");
    for _ in 0..2 {
        session.pre_dump(&dump(&place), &mut proceed).unwrap();
    }
    session.dump(&dump(&place), &mut proceed).unwrap();
    start("").single_pre_dump(&dump(&place), &mut proceed).unwrap();
}

#[test]
fn a_page_server_of_criu_says_where_it_listens() {
    let place = Place::new();
    let options = PageServerOptions { common: place.common(), ..PageServerOptions::default() };
    let mut session = start("");
    assert_eq!(session.page_server(&options).unwrap().port, Some(27));
    let info = session.page_server_child(&options).unwrap();
    assert_eq!(session.wait_pid(Pid::from_raw(info.pid()).unwrap()).unwrap(), 0);
}

#[test]
fn a_failure_carries_what_criu_says() {
    let place = Place::new();
    let session = start("fail=network-lock;errno=3;message=Unable to stop tasks");
    let error = session.dump(&dump(&place), &mut proceed).unwrap_err();
    let SessionError::Failed { errno, message, last, refused, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*errno, Some(libc::ESRCH));
    assert_eq!(message.as_deref(), Some("Unable to stop tasks"));
    assert_eq!((last, refused), (&Some(Event::NetworkLock), &None));
    assert!(place.log().contains("Error (criu/fake.c:1): Unable to stop tasks"));
}

#[test]
fn a_killed_criu_is_told_from_one_that_fails() {
    let place = Place::new();
    let error = start("die=network-lock").dump(&dump(&place), &mut proceed).unwrap_err();
    assert!(error.criu_died());
    assert_eq!(error.to_string(), "criu was killed by signal 9 during dump after network-lock");

    let error = start("exit").version().unwrap_err();
    assert_eq!(error.to_string(), "criu ended with code 3 during version");
}

#[test]
fn killing_criu_from_elsewhere_ends_the_conversation() {
    let session = start("hang=pre-dump");
    let process = session.process();
    let place = Place::new();
    let mut callback = |_: &Notification| {
        process.kill();
        Verdict::Proceed
    };
    let error = session.dump(&dump(&place), &mut callback).unwrap_err();
    assert!(matches!(error, SessionError::Died { ended: Ended::Signal(9), .. }), "{error:?}");
}

#[test]
fn dropping_a_session_leaves_no_criu_behind() {
    let session = start("");
    let process = session.process();
    drop(session);
    assert_eq!(process.wait(Duration::ZERO), Some(Ended::Code(0)));
}

#[test]
fn what_is_no_message_is_refused() {
    let error = start("garbage").version().unwrap_err();
    assert!(matches!(error, SessionError::Message { .. }), "{error:?}");
}

#[test]
fn a_directory_that_is_missing_is_named_before_criu_is_asked() {
    let place = Place::new();
    let mut options = dump(&place);
    options.common.images_dir = place.path("nowhere");
    let error = start("").dump(&options, &mut proceed).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot open directory {} for dump", place.path("nowhere").display())
    );
}

#[test]
fn options_without_a_field_reach_criu_in_a_file() {
    let place = Place::new();
    let mut options = dump(&place);
    options.common.config.file_validation = Some(FileValidation::Size);
    options.common.config.expert = vec!["timeout=30".parse().unwrap()];
    std::fs::write(place.path("own.conf"), "# the operator's\nweak-sysctls").unwrap();
    options.common.config.file = Some(place.path("own.conf"));
    start("echo-config").dump(&options, &mut proceed).unwrap();
    assert!(
        place.log().contains("# the operator's\nweak-sysctls\nfile-validation=filesize\ntimeout=30\n"),
        "{}",
        place.log()
    );
    assert!(options.record().contains(&("timeout".to_owned(), "30".to_owned())));
}

#[test]
fn the_restored_root_is_our_child() {
    let place = Place::new();
    let mut told = Vec::new();
    let mut callback = |notification: &Notification| {
        told.extend(notification.pid);
        Verdict::Proceed
    };
    let session = start("child=exit 42");
    let restored = session.restore(&RestoreOptions::new(place.common()), &mut callback).unwrap();
    assert_eq!(told, [restored.pid]);
    let status = rustix::process::waitpid(Some(restored.pid), rustix::process::WaitOptions::empty());
    assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(42));
}

#[test]
fn a_failed_restore_leaves_no_zombie() {
    let place = Place::new();
    let mut root = None;
    let mut callback = |notification: &Notification| {
        root = root.or(notification.pid);
        if notification.event == Event::PostRestore { Verdict::Refuse } else { Verdict::Proceed }
    };
    let session = start("child=sleep 60");
    session.restore(&RestoreOptions::new(place.common()), &mut callback).unwrap_err();
    // The fake, unlike CRIU, says no PID with its failure, so the zombie is ours to take.
    let status = rustix::process::waitpid(root, rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
    assert_eq!(status.terminating_signal(), Some(9));
}

/// Dumps with a page server of ours on another thread.
fn dump_with_pages(
    script: &str,
    sink: &mut Counted,
) -> (Result<Served, PageServerError>, Result<(), SessionError>) {
    let place = Place::new();
    let pair = socket_pair(1 << 20).unwrap();
    let spawn = scripted(script).pass(pair.criu, 9);
    let session = Session::start(&fake_program(), spawn).unwrap();
    let options = DumpOptions { pages: Some(PageTarget::Socket(9)), ..dump(&place) };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| PageServer::new(&pair.ours).serve(sink));
        let dumped = session.dump(&options, &mut proceed).map(drop);
        (server.join().unwrap(), dumped)
    })
}

#[test]
fn pages_of_both_generations_arrive() {
    for (script, header) in
        [("pages=5;holes", HeaderSize::Long), ("pages=5;holes;version=4.1.1", HeaderSize::Short)]
    {
        let mut sink = Counted { parent: true, ..Counted::default() };
        let (served, dumped) = dump_with_pages(script, &mut sink);
        dumped.unwrap();
        let page = rustix::param::page_size() as u64;
        assert_eq!(
            served.unwrap(),
            Served { header: Some(header), pagemaps: 1, runs: 5, pages: 3, holes: 2 }
        );
        assert_eq!(sink.opened[0].to_string(), "process 4711");
        assert_eq!(sink.firsts, [(0x10000, 0), (0x10000 + 2 * page, 2), (0x10000 + 4 * page, 4)]);
        assert_eq!(sink.holes, [(0x10000 + page, 1), (0x10000 + 3 * page, 1)]);
        assert!(sink.closed);
    }
}

#[test]
fn a_sink_that_cannot_close_fails_the_dump() {
    let mut sink = Counted { fail_close: true, ..Counted::default() };
    let (served, dumped) = dump_with_pages("pages=1", &mut sink);
    assert_eq!(served.unwrap_err().to_string(), "cannot take the pages of the checkpoint");
    assert!(dumped.unwrap_err().to_string().ends_with("the page server failed"));
}

#[test]
fn a_sink_that_cannot_take_pages_fails_the_dump() {
    let mut sink = Counted { fail_pages: true, ..Counted::default() };
    let (served, dumped) = dump_with_pages("pages=2000", &mut sink);
    assert_eq!(served.unwrap_err().to_string(), "cannot take the pages of process 4711");
    assert!(!sink.closed);
    dumped.unwrap_err();
}

#[test]
fn a_criu_that_dies_ends_the_page_stream() {
    let mut sink = Counted::default();
    let (served, dumped) = dump_with_pages("pages=5;die=network-lock", &mut sink);
    assert!(matches!(served, Err(PageServerError::Truncated { .. })));
    assert!(dumped.unwrap_err().criu_died());
}

#[test]
fn criu_gets_the_pid_it_is_given_where_that_is_possible() {
    let wanted =
        1 + std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse::<i32>().unwrap() / 2;
    let pid = Pid::from_raw(wanted);
    let spawn = Spawn { pid, ..scripted("") };
    let mut session = Session::start(&fake_program(), spawn).unwrap();
    session.version().unwrap();
    if rustix::process::geteuid().is_root() && Some(session.pid()) != pid {
        eprintln!("criu's pid cannot be chosen here: {:?}", session.pid());
    }
    let begun = Instant::now();
    drop(session);
    assert!(begun.elapsed() < PATIENCE);
}

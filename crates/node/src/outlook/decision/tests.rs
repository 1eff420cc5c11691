//! What each thing that is seen comes to.

use rustix::process::Pid;

use super::*;
use crate::accelerator::{Accelerators, Vendor};
use crate::files::Stat;
use crate::outlook::Task;
use crate::tcp::{self, Connections};
use crate::unix_sockets::Outside;

const WANTED: Wanted =
    Wanted { tcp: Tcp::Fail, external_unix: false, shell_job: false, standstill: None, grace: None };

fn task(pid: i32) -> Task {
    let namespaces = [("pid", 1), ("net", 2), ("mnt", 3)].into_iter().collect();
    Task { pid, own_pid: pid, session: 7, tracer: 0, namespaces }
}

/// A process with a child, with nothing in the way.
fn seen() -> Seen {
    Seen {
        tasks: vec![task(7), task(8)],
        own_namespaces: [("pid", 1), ("net", 20), ("mnt", 30)].into_iter().collect(),
        unix: Some(Outside::default()),
        memory: 64 << 20,
        budget: 1 << 30,
        ..Seen::default()
    }
}

fn file(kind: OpenKind, path: &str, deleted: Option<u64>) -> OpenFile {
    let own = Stat::follow("/proc/self/exe").unwrap();
    OpenFile {
        pid: Pid::from_raw(7).unwrap(),
        place: Place::Descriptor(5),
        path: path.into(),
        kind,
        writable: true,
        flags: 0,
        position: 0,
        deleted: deleted.is_some(),
        mount_id: Some(1),
        stat: deleted.map(|size| Stat { size, ..own }),
    }
}

fn answer(seen: &Seen, wanted: &Wanted, topic: &str) -> (Answer, String) {
    let finding = findings(seen, wanted).into_iter().find(|finding| finding.topic == topic).unwrap();
    assert!(finding.answer != Answer::No || finding.remedy.is_some(), "{topic} has a remedy");
    (finding.answer, finding.reason)
}

#[test]
fn where_nothing_is_in_the_way_all_answers_are_yes() {
    let wrong: Vec<_> =
        findings(&seen(), &WANTED).into_iter().filter(|finding| finding.answer != Answer::Yes).collect();
    assert_eq!(wrong, []);
}

#[test]
fn what_a_plugin_captures_stands_in_the_way_no_more() {
    let used = Accelerators {
        vendor: Vendor::Nvidia,
        plugin: "one".into(),
        driver: "570".into(),
        devices: vec!["H100".into()],
    };
    let told = answer(&Seen { accelerators: vec![used], ..seen() }, &WANTED, "gpu");
    assert_eq!(told, (Answer::Yes, "its state is captured: NVIDIA's, by cuda_plugin.so".to_owned()));
}

#[test]
fn of_what_does_not_run_only_that_is_told() {
    for (status, wanted) in
        [(Status::Paused, "it is paused, not running"), (Status::Stopped, "it is stopped, not running")]
    {
        let seen = Seen { status: Some(status), ..Seen::default() };
        let found = findings(&seen, &WANTED);
        assert_eq!((found.len(), found[0].answer, found[0].reason.as_str()), (1, Answer::No, wanted));
    }
}

#[test]
fn each_thing_in_the_way_has_its_answer() {
    let device = |path: &str| Obstacle::Device { pid: 7, path: path.into(), number: (195, 0) };
    let with = |change: &dyn Fn(&mut Seen)| {
        let mut seen = seen();
        change(&mut seen);
        seen
    };
    let protocol = |name: &str| [(name.to_owned(), 8)].into_iter().collect();
    for (topic, seen, reason) in [
        ("traced", with(&|seen| seen.tasks[1].tracer = 99), "process 8 is traced by process 99"),
        (
            "io-uring",
            with(&|seen| seen.obstacles = vec![Obstacle::IoUring { pid: 7 }, Obstacle::IoUring { pid: 8 }]),
            "process 7 uses io_uring, whose state no checkpoint can hold, and 1 more",
        ),
        (
            "gpu",
            with(&|seen| seen.obstacles = vec![device("/dev/nvidia0")]),
            "process 7 uses the device /dev/nvidia0 (195:0)",
        ),
        (
            "devices",
            with(&|seen| seen.obstacles = vec![device("/dev/fuse"), device("/dev/dri/card0")]),
            "process 7 uses the device /dev/fuse (195:0)",
        ),
        (
            "descriptors",
            with(&|seen| {
                seen.open = vec![file(OpenKind::Anonymous("userfaultfd".into()), "anon_inode:x", None)]
            }),
            "descriptor 5 of process 7 is userfaultfd",
        ),
        (
            "deleted-files",
            with(&|seen| seen.open = vec![file(OpenKind::File, "/tmp/x", Some(2 << 30))]),
            "/tmp/x was deleted and has 2048 MiB; at most 1024 MiB are copied",
        ),
        (
            "terminal",
            with(&|seen| seen.tasks[1].session = 3),
            "process 8 is in the session of a process that is not its own",
        ),
        (
            "sockets",
            with(&|seen| seen.protocols = protocol("MPTCP")),
            "process 8 has a socket of the kind MPTCP",
        ),
        (
            "sockets",
            with(&|seen| seen.protocols = protocol("AF_VSOCK")),
            "process 8 has a socket of the kind AF_VSOCK",
        ),
        (
            "unix-sockets",
            with(&|seen| seen.unix = Some(Outside { streams: 2, datagrams: 1 })),
            "streams to somebody outside: 2",
        ),
        (
            "unix-sockets",
            with(&|seen| seen.unix = Some(Outside { streams: 0, datagrams: 1 })),
            "datagram sockets that send to somebody outside: 1",
        ),
        (
            "namespaces",
            with(&|seen| seen.tasks[1].namespaces.extend([("pid", 9)])),
            "process 8 has a pid namespace of its own",
        ),
    ] {
        assert_eq!(answer(&seen, &WANTED, topic), (Answer::No, reason.to_owned()), "{topic}");
        let others = findings(&seen, &WANTED).into_iter().filter(|finding| finding.answer == Answer::No);
        assert!(others.count() <= 2, "{topic}");
    }
}

#[test]
fn what_can_be_captured_is_not_in_the_way() {
    let mut seen = seen();
    seen.open = vec![
        file(OpenKind::Anonymous("eventpoll".into()), "anon_inode:[eventpoll]", None),
        file(OpenKind::File, "/tmp/x", Some(3 << 20)),
        file(OpenKind::File, "/tmp/x", Some(3 << 20)),
    ];
    seen.protocols = ["TCPv6", "UDP", "UNIX-STREAM", "NETLINK"].map(|name| (name.to_owned(), 7)).into();
    // A network namespace of its own, below one that is not the machine's.
    seen.tasks[1].namespaces.insert("net", 9);
    assert!(findings(&seen, &WANTED).iter().all(|finding| finding.answer == Answer::Yes));
    assert_eq!(answer(&seen, &WANTED, "deleted-files").1, "1, 3072 KiB in all, go into the checkpoint");
    seen.own_namespaces.insert("net", 2);
    assert_eq!(
        answer(&seen, &WANTED, "namespaces").0,
        Answer::No,
        "in the machine's own it cannot be nested"
    );
}

#[test]
fn what_is_said_about_connections_and_sessions_decides() {
    let socket = tcp::Socket {
        local: "10.0.0.1:80".parse().unwrap(),
        remote: "10.0.0.2:4000".parse().unwrap(),
        state: tcp::State::Connected,
        inode: 5,
    };
    let mut seen = seen();
    seen.connections = Connections { inside: Vec::new(), outside: vec![socket] };
    seen.tasks[0].session = 0;
    seen.unix = None;
    for (tcp, expected) in
        [(Tcp::Fail, Answer::No), (Tcp::Close, Answer::Yes), (Tcp::Established, Answer::Yes)]
    {
        let (found, reason) = answer(&seen, &Wanted { tcp, ..WANTED }, "tcp");
        assert!(found == expected && reason.contains("10.0.0.1:80 to 10.0.0.2:4000"), "{reason}");
    }
    assert_eq!(answer(&seen, &WANTED, "terminal").0, Answer::No);
    assert_eq!(answer(&seen, &Wanted { shell_job: true, ..WANTED }, "terminal").0, Answer::Yes);
    assert_eq!(answer(&seen, &WANTED, "unix-sockets").0, Answer::Unknown);
}

#[test]
fn estimates_are_held_against_what_is_allowed_with_doubt() {
    let seen = Seen { memory: 4 << 30, budget: 2 << 30, ..seen() };
    let estimate = Estimate::of(&seen);
    assert!(estimate.frozen > Duration::from_secs(2) && estimate.total > estimate.frozen);
    assert_eq!(answer(&seen, &WANTED, "memory").0, Answer::Unknown);
    for (factor, expected) in
        [(4.0, Answer::Yes), (1.5, Answer::Unknown), (0.6, Answer::Unknown), (0.4, Answer::No)]
    {
        let (standstill, grace) = (estimate.frozen.mul_f64(factor), estimate.total.mul_f64(factor));
        let wanted = Wanted { standstill: Some(standstill), grace: Some(grace), ..WANTED };
        assert_eq!(answer(&seen, &wanted, "standstill").0, expected, "{factor}");
        assert_eq!(answer(&seen, &wanted, "grace").0, expected, "{factor}");
    }
    assert_eq!(rounded(Duration::from_millis(149)), "0.1 s");
    assert_eq!(rounded(Duration::from_millis(15_900)), "16 s");
}

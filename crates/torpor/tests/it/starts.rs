//! What starts, what triggers, and what comes after: periods, crashes, hooks, the status file, signals, crik's users.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::container::{Container, Pod};

/// Counts, and keeps the count where it can be seen from outside.
const COUNTER: [&str; 3] = ["bash", "-c", "for ((i = 0; ; i++)); do echo $i; sleep 0.02; done"];

fn last(lines: &[String]) -> u64 {
    lines.last().expect("a count").parse().unwrap()
}

fn first(container: &Container) -> u64 {
    container.wait_for("count", || container.lines().first().map(|line| line.parse().unwrap()))
}

#[test]
fn periodic_checkpoints_leave_it_running_and_are_restored_after_a_crash() {
    let Some(pod) = Pod::new(&[]) else { return };
    let options = ["--every", "300ms", "--after-crash", "last"];
    let mut container = pod.start(&options, &COUNTER);
    let mut began = 0;
    for round in 1..=3 {
        let generation = |container: &Container| {
            container.status().and_then(|status| status["generation"].as_u64()).unwrap_or(0)
        };
        let before = generation(&container);
        container.wait_for("two more checkpoints", || (generation(&container) >= before + 2).then_some(()));
        let lines = container.crash();
        let all: Vec<u64> = (began..began + lines.len() as u64).collect();
        assert_eq!(lines, all.iter().map(u64::to_string).collect::<Vec<_>>(), "no count is lost on the way");
        container = pod.start(&options, &COUNTER);
        container.wait_restored(round);
        let now = first(&container);
        assert!(
            now > began && now <= last(&lines) + 1,
            "it went back a little: {began}, {now}, {}",
            last(&lines)
        );
        began = now;
    }
}

#[test]
fn after_a_crash_the_last_checkpoint_is_restored_unless_said_otherwise() {
    let Some(pod) = Pod::new(&[]) else { return };
    let container = pod.start(&[], &COUNTER);
    container.wait_more_lines(5);
    let told = container.torpor(&["checkpoint", "--leave-running"]);
    assert!(told.contains("@1 committed; the program runs on"), "{told}");
    container.wait_more_lines(5);
    container.crash();

    let container = pod.start(&["--after-crash", "fail"], &COUNTER);
    assert_ne!(container.wait(), 0);
    assert!(container.lines().is_empty(), "nothing is started");

    let container = pod.start(&[], &COUNTER);
    container.wait_restored(1);
    assert!(first(&container) >= 5);
    container.crash();

    let container = pod.start(&["--after-crash", "fresh"], &COUNTER);
    assert_eq!(first(&container), 0, "{}", container.story());
    assert_eq!(container.status().unwrap()["restored"], false);
}

#[test]
fn a_checkpoint_that_is_asked_for_suspends() {
    let Some(pod) = Pod::new(&[]) else { return };
    let mut container = pod.start(&[], &COUNTER);
    let mut expected = 0;
    for round in 1..=3 {
        container.wait_more_lines(3);
        let told = container.torpor(&["checkpoint", "--name", "pod/main"]);
        assert!(told.contains(&format!("pod/main@{round} committed; the program is suspended")), "{told}");
        assert_eq!(container.wait(), 143);
        expected += container.lines().len() as u64;
        container = pod.start(&["--exit-code", "143"], &COUNTER);
        container.wait_restored(round);
        assert_eq!(first(&container), expected);
    }
}

#[test]
fn nothing_is_restored_where_that_is_not_wanted() {
    let Some(pod) = Pod::new(&[]) else { return };
    let container = pod.start(&["--exit-code", "7"], &COUNTER);
    container.wait_more_lines(5);
    container.signal(Signal::TERM);
    assert_eq!(container.wait(), 7);
    let container = pod.start(&["--no-restore"], &COUNTER);
    assert_eq!(first(&container), 0);
    assert_eq!(container.status().unwrap()["restored"], false);
}

#[test]
fn another_command_starts_fresh_unless_the_change_is_allowed() {
    let Some(pod) = Pod::new(&[]) else { return };
    let container = pod.start(&[], &COUNTER);
    container.wait_more_lines(5);
    container.suspend();
    let other = ["bash", "-c", "echo other; sleep 1000"];
    let container = pod.start(&["--allow-changed", "command"], &other);
    container.wait_restored(1);
    assert!(first(&container) >= 5);
    container.suspend();
    let container = pod.start(&[], &other);
    container.wait_line(|line| line == "other");
    assert!(container.log().contains("command"), "the reason is logged\n{}", container.log());
}

/// Ends as it is told to, and tells which signals it got.
const ENDING: [&str; 3] = [
    "bash",
    "-c",
    "trap 'echo hup' HUP; trap 'echo usr1' USR1; echo ready
     while :; do [ -e /run/end ] && exit $(< /run/end); [ -e /run/die ] && kill -KILL $$; sleep 0.02; done",
];

#[test]
fn signals_and_exit_codes_pass_through_after_a_restore() {
    for (file, code) in [("/run/end", 5), ("/run/die", 137), ("/run/end", 0)] {
        let Some(pod) = Pod::new(&[]) else { return };
        let container = pod.start(&[], &ENDING);
        container.wait_line(|line| line == "ready");
        container.suspend();
        let container = pod.start(&[], &ENDING);
        container.wait_restored(1);
        for (signal, said) in [(Signal::HUP, "hup"), (Signal::USR1, "usr1")] {
            container.signal(signal);
            container.wait_line(|line| line == said);
        }
        std::fs::write(container.path(file), code.to_string()).unwrap();
        assert_eq!(container.wait(), code, "{}", container.story());
    }
}

#[test]
fn a_program_that_ended_by_itself_starts_fresh() {
    let Some(pod) = Pod::new(&[]) else { return };
    for _ in 0..2 {
        let container = pod.start(&["--after-crash", "last"], &["bash", "-c", "echo began; exit 3"]);
        assert_eq!(container.wait(), 3);
        assert_eq!(container.lines(), ["began"]);
    }
}

#[test]
fn hooks_run_and_the_status_file_tells_the_program_of_its_restores() {
    let Some(pod) = Pod::new(&[]) else { return };
    let program = [
        "bash",
        "-c",
        "trap 'echo restored \"$(grep -o \"restores.*[0-9]\" \"$TORPOR_STATUS_FILE\")\"' USR2; while :; do sleep 0.02; done",
    ];
    let hook =
        |point: &str| format!("echo $TORPOR_HOOK {point} $TORPOR_KIND $TORPOR_OUTCOME >> /volume/hooks");
    let told = |point: &str| format!("{}; cp $TORPOR_STATUS_FILE /volume/told", hook(point));
    let (before, after, restored, ready) = (hook("a"), told("b"), hook("c"), hook("d"));
    let options = [
        "--pre-checkpoint",
        &before,
        "--post-checkpoint",
        &after,
        "--post-restore",
        &restored,
        "--post-restore",
        "signal:USR2",
        "--on-app-ready",
        &ready,
    ];
    let container = pod.start(&options, &program);
    container.wait_for("the program", || container.status());
    container.torpor(&["wait", "-t", "30s"]);
    container.torpor(&["checkpoint", "--leave-running"]);
    let told = std::fs::read_to_string(pod.volume().join("told")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["generation"], &told["phase"]), (&1.into(), &serde_json::Value::Null), "{told:#}");
    let shown: serde_json::Value =
        serde_json::from_str(&pod.torpor(&["show", "pod/main@1", "--output", "json"])).unwrap();
    let phases = shown["manifest"]["phases"].as_array().unwrap();
    let commit = phases.iter().find(|phase| phase["name"] == "commit").unwrap();
    assert!(commit["micros"].as_u64().unwrap() > 500, "syncing a pack takes longer: {phases:?}");
    container.suspend();
    for round in 1..=2 {
        let container = pod.start(&options, &program);
        container.wait_restored(round);
        container.wait_line(|line| line == format!("restored restores\": {round}"));
        container.suspend();
    }
    let hooks = std::fs::read_to_string(pod.volume().join("hooks")).unwrap();
    let points: Vec<&str> = hooks.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let once = ["postRestore", "onAppReady", "preCheckpoint"];
    let expected =
        [&["onAppReady", "preCheckpoint", "postCheckpoint", "preCheckpoint"][..], &once, &once].concat();
    assert_eq!(points, expected, "{hooks}");
}

#[test]
fn a_hook_that_fails_stands_in_the_way_of_a_checkpoint() {
    let Some(pod) = Pod::new(&[]) else { return };
    let options = ["--pre-checkpoint", "echo not now >&2; exit 1", "--grace", "8s"];
    let container =
        pod.start(&options, &["bash", "-c", "trap 'echo term; exit 4' TERM; while :; do sleep 0.02; done"]);
    container.wait_for("the program", || container.status());
    container.signal(Signal::TERM);
    assert_eq!(container.wait(), 4, "it got its signal and ended by itself");
    assert!(container.log().contains("not now"), "{}", container.log());
}

#[test]
fn a_hook_that_fails_after_a_restore_undoes_it() {
    let Some(pod) = Pod::new(&[]) else { return };
    let script = "[ -e /root/state ] && echo stale; echo $$ > /root/state; for ((i = 0; ; i++)); do echo $i; sleep 0.02; done";
    let program = ["bash", "-c", script];
    let container = pod.start(&[], &program);
    container.wait_more_lines(5);
    container.suspend();
    let options = ["--post-restore", "exit 1", "--on-restore-failure", "fail"];
    let container = pod.start(&options, &program);
    assert_ne!(container.wait(), 0);
    assert!(container.log().contains("cannot restore"), "{}", container.log());
    // A fresh start has the files of the image, and the PID that the program had.
    let container =
        pod.start(&["--post-restore", "exit 1", "--on-app-ready", "ls /root > /volume/found"], &program);
    container.wait_for("fresh start", || container.log().contains("starting fresh").then_some(()));
    container.wait_line(|line| line == "0");
    assert!(!container.lines().contains(&"stale".to_owned()), "{}", container.story());
    assert_eq!(container.read("/root/state").unwrap().trim(), "10000");
}

#[test]
fn criks_simple_loop_runs_as_it_is() {
    let Some(pod) = Pod::new(&[]) else { return };
    std::fs::create_dir(pod.volume().join("checkpoint")).unwrap();
    std::fs::create_dir(pod.volume().join("cache")).unwrap();
    std::fs::write(pod.volume().join("cache/page"), "kept").unwrap();
    let config = "imageDir: /volume/checkpoint\nadditionalPaths:\n  - /volume/cache\ninotifyIncompatiblePaths:\n  - /etc/nowhere\n";
    std::fs::write(pod.volume().join("config.yaml"), config).unwrap();
    // crik's example, but for the second that it sleeps.
    let script = r#"for ((i=0;;i++)); do echo "Count is at $i"; sleep 0.05; done"#;
    let start =
        || pod.crik(&["run", "--config-path=/volume/config.yaml", "--", "bash", "-c", script]).start();
    let mut printed = Vec::new();
    let mut container = start();
    for _ in 1..=3 {
        container.wait_more_lines(3);
        printed.extend(container.suspend());
        let _ = std::fs::remove_file(pod.volume().join("cache/page"));
        container = start();
        container.wait_more_lines(3);
        assert!(container.log().contains(" restored "), "{}", container.story());
        let page = container.read("/volume/cache/page");
        assert_eq!(page.ok().as_deref(), Some("kept"), "{}", container.story());
    }
    printed.extend(container.suspend());
    for (number, line) in printed.iter().enumerate() {
        assert_eq!(*line, format!("Count is at {number}"));
    }
    let kept = std::fs::metadata(pod.volume().join("checkpoint")).unwrap();
    assert!(kept.permissions().mode() & 0o777 != 0);
}

#[test]
fn without_an_image_directory_crik_keeps_nothing() {
    let Some(pod) = Pod::new(&[]) else { return };
    std::fs::write(pod.volume().join("config.yaml"), "{}\n").unwrap();
    let words = [
        "run",
        "--config-path=/volume/config.yaml",
        "--",
        "bash",
        "-c",
        "trap 'exit 6' TERM; echo on; while :; do sleep 0.02; done",
    ];
    let container = pod.crik(&words).start();
    container.wait_line(|line| line == "on");
    container.signal(Signal::TERM);
    assert_eq!(container.wait(), 6);
}

#[test]
fn every_generation_that_was_made_verifies() {
    let Some(pod) = Pod::new(&[]) else { return };
    pod.three_rounds(&["--keep-last", "2"], &COUNTER, |container, _| container.wait_more_lines(3));
    let verified = pod.torpor(&["verify", "--read-data"]);
    let listed = pod.torpor(&["ls", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert!(listed.to_string().contains("pod/main"), "{listed:#}\n{verified}");
}

#[test]
fn a_lock_that_a_killed_container_left_in_the_pods_network_is_taken_away() {
    let Some(pod) = Pod::new(&["nft"]) else { return };
    let store = format!("file://{}", pod.volume().join("store").display());
    // The network of a pod outlives its containers; here it is one of its own, without a container around it.
    let script = r#"nft add table inet CRIU-11111111-1111-4111-8111-111111111111; nft add table inet other
        "$@"; echo; nft list tables"#;
    let start = |before: &str| {
        let script = format!("{before}{script}");
        let torpor = [env!("CARGO_BIN_EXE_torpor"), "run", "--store", &store, "--", "echo", "ran"];
        let mut command = std::process::Command::new("unshare");
        command.args(["--net", "--", "bash", "-c", &script, "bash"]).args(torpor);
        let runtime = pod.volume().join("run");
        let output = command.env("TORPOR_RUNTIME_DIR", runtime).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (said, log) = start("");
    assert_eq!(said, "ran\n\ntable inet other\n", "{log}");
    assert_eq!(log.matches("had left a lock").count(), 1, "{log}");

    // While a checkpoint is under way beside it, the lock may be that one's.
    let mark = r#"exec 9< <(exec perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_DGRAM, 0);
        bind($s, pack_sockaddr_un("\0torpor/capture/x")) or die; $| = 1; print "\n"; sleep 100');
        trap "kill $!" EXIT; read <&9; "#;
    let (said, log) = start(mark);
    assert!(said.contains("CRIU-1"), "{said}\n{log}");
}

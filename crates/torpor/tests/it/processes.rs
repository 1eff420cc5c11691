//! Plain processes that know nothing of Torpor: checkpointed by their PID, and restored.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use torpor_criu::image::Limits;
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapReader, PagemapWriter};

use crate::dump::Dumped;
use crate::process::{send, state};

/// Counts in memory, says how far it is in a file, and ends with the code that it is told.
const COUNTER: &str = r"
import os, sys, time
d, n = sys.argv[1], 0
while True:
    n += 1
    with open(d + '/new', 'w') as f: f.write(str(n))
    os.rename(d + '/new', d + '/count')
    if n == 1: open(d + '/ready', 'w').close()
    if os.path.exists(d + '/end'): sys.exit(int(open(d + '/end').read()))
    time.sleep(0.01)
";
const LIMIT: Duration = Duration::from_secs(30);

fn torpor(counter: &Dumped, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command
        .args(words)
        .current_dir(counter.path("."))
        .env("TORPOR_RUNTIME_DIR", counter.path("run"))
        .env("TORPOR_STORE", counter.path("store"))
        .stdin(Stdio::null());
    command
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(counter: &Dumped, words: &[&str]) -> String {
    let output = torpor(counter, words).output().unwrap();
    assert!(!output.status.success(), "{words:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn count(counter: &Dumped) -> u64 {
    fs::read_to_string(counter.path("count")).unwrap().parse().unwrap()
}

fn counts_beyond(counter: &Dumped, number: u64) -> u64 {
    let until = Instant::now() + LIMIT;
    loop {
        match count(counter) {
            count if count > number => return count,
            count => assert!(Instant::now() < until, "it stands still at {count}, not beyond {number}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a process that is not the test's child, and waits until it is gone.
fn end(pid: i32) {
    send(pid, Signal::KILL);
    let until = Instant::now() + LIMIT;
    while state(pid).is_some_and(|state| state != 'Z') {
        assert!(Instant::now() < until, "{pid} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn processes_run_on_after_their_checkpoint_and_come_back_from_it() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    let target = format!("pid:{}", counter.pid());
    let before = counts_beyond(&counter, 3);
    let said = done(
        &torpor(&counter, &["checkpoint", &target, "--images", "images", "--leave-running"])
            .output()
            .unwrap(),
    );
    assert!(said.contains("runs on") && said.contains("frozen"), "{said}");
    let later = counts_beyond(&counter, count(&counter) + 20);

    send(counter.pid() as i32, Signal::KILL);
    counter.reap();
    fs::write(counter.path("count"), "0").unwrap();
    let detached = ["restore", "images", "--detach", "--pid-file", "pid"];
    // Whoever runs on has the output that it was given.
    let status = torpor(&counter, &detached).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let after = counts_beyond(&counter, 0);
    assert!(before <= after && after < later, "from {before} to {later}, and restored at {after}");
    let pid: i32 = fs::read_to_string(counter.path("pid")).unwrap().parse().unwrap();
    assert_eq!(pid, counter.pid() as i32);
    end(pid);
}

#[test]
fn processes_in_a_store_go_on_once_and_end_with_their_own_code() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    let target = format!("pid:{}", counter.pid());
    let said = refused(&counter, &["checkpoint", &target]);
    assert!(said.contains("--name"), "{said}");
    let keep = ["checkpoint", &target, "--name", "jobs/counter"];
    let said = done(&torpor(&counter, &[&keep[..], &["--leave-running"]].concat()).output().unwrap());
    assert!(said.starts_with("jobs/counter@1: process "), "{said}");
    counts_beyond(&counter, count(&counter));
    let said = refused(&counter, &[&keep[..], &["--timeout", "1ms"]].concat());
    assert!(said.contains("in the time it had"), "{said}");
    counts_beyond(&counter, count(&counter));
    let said = done(&torpor(&counter, &keep).output().unwrap());
    assert!(said.starts_with("jobs/counter@2: ") && said.contains("ended"), "{said}");
    counter.reap();
    let stopped = count(&counter);

    let restore = ["restore", "jobs/counter", "--room", "room"];
    let mut running = torpor(&counter, &restore).spawn().unwrap();
    counts_beyond(&counter, stopped);
    end_with(&counter, "7");
    assert_eq!(running.wait().unwrap().code(), Some(7), "its own exit code");
    assert!(fs::read_dir(counter.path("room")).unwrap().next().is_none());

    let said = refused(&counter, &["restore", "jobs/none"]);
    assert!(said.contains("jobs/none"), "{said}");
}

#[test]
fn what_cannot_be_checkpointed_is_refused_with_its_reason() {
    let Some(counter) = Dumped::start(COUNTER) else { return };
    let own = format!("pid:{}", std::process::id());
    for (words, reason) in [
        (vec!["checkpoint", "pid:0", "--images", "i"], "names no process"),
        (vec!["checkpoint", own.as_str(), "--images", "i"], "this torpor runs below it"),
        (vec!["checkpoint", "pid:2147483647", "--images", "i"], "no process"),
        (vec!["checkpoint", own.as_str(), "--images", "i", "--own-mounts"], "--own-mounts"),
    ] {
        let said = refused(&counter, &words);
        assert!(said.contains(reason), "{words:?}: {said}");
    }
    assert!(!counter.path("i").exists());
}

/// Has the program end with an exit code, which it never reads half-written.
fn end_with(counter: &Dumped, code: &str) {
    fs::write(counter.path("end.new"), code).unwrap();
    fs::rename(counter.path("end.new"), counter.path("end")).unwrap();
}

/// Restores in the foreground, and lets the program end once it has counted on.
fn goes_on(counter: &Dumped, words: &[&str]) {
    fs::write(counter.path("count"), "0").unwrap();
    let mut running = torpor(counter, words).spawn().unwrap();
    counts_beyond(counter, 3);
    end_with(counter, "5");
    assert_eq!(running.wait().unwrap().code(), Some(5), "{words:?}");
    fs::remove_file(counter.path("end")).unwrap();
}

/// Makes two dumps on top of each other of one: the first has all memory, and the second says of every other range that it is
/// in the first. Kernels without soft-dirty bits let CRIU make none.
fn split(images: &Path, first: &Path, second: &Path) {
    for directory in [first, second] {
        fs::create_dir(directory).unwrap();
    }
    for entry in fs::read_dir(images).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let bytes = fs::read(images.join(&name)).unwrap();
        let is_memory = name.starts_with("pages-") || name.starts_with("pagemap-");
        if is_memory || name == "inventory.img" {
            fs::write(first.join(&name), &bytes).unwrap();
        }
        let of_process = name.strip_prefix("pagemap-").is_some_and(|rest| !rest.starts_with("shmem"));
        if !of_process {
            if !second.join(&name).exists() {
                fs::write(second.join(&name), &bytes).unwrap();
            }
            continue;
        }
        let reader = PagemapReader::new(&bytes[..], Limits::default()).unwrap();
        let id = reader.pages_id();
        let pages = fs::read(images.join(format!("pages-{id}.img"))).unwrap();
        let mut writer = PagemapWriter::new(Vec::new(), id, Generation::Wide, 4096).unwrap();
        let (mut kept, mut at) = (Vec::new(), 0);
        for (number, range) in reader.map(Result::unwrap).enumerate() {
            let length = if range.is_present() { range.pages as usize * 4096 } else { 0 };
            let in_parent = range.is_present() && number % 2 == 0;
            if !in_parent {
                kept.extend_from_slice(&pages[at..at + length]);
            }
            let flags = if in_parent { PageFlags::PARENT } else { range.flags };
            writer.range(range.vaddr, range.pages, flags).unwrap();
            at += length;
        }
        assert!(kept.len() < pages.len());
        fs::write(second.join(&name), writer.into_inner()).unwrap();
        fs::write(second.join(format!("pages-{id}.img")), kept).unwrap();
    }
}

#[test]
fn dumps_on_top_of_each_other_are_restored_kept_in_a_store_and_come_back() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    counts_beyond(&counter, 3);
    let images = counter.dump("images");
    send(counter.pid() as i32, Signal::KILL);
    counter.reap();
    split(&images, &counter.path("first"), &counter.path("second"));

    let link = counter.path("second/parent");
    symlink("../gone", &link).unwrap();
    let said = refused(&counter, &["restore", "second"]);
    assert!(said.contains("../gone") && said.contains("--prev-images-dir"), "{said}");
    goes_on(&counter, &["restore", "second", "--prev-images-dir", "first"]);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../gone"), "what is others' is left alone");
    fs::remove_file(&link).unwrap();
    symlink("../first", &link).unwrap();
    goes_on(&counter, &["restore", "second"]);

    done(&torpor(&counter, &["import", "second", "--name", "jobs/chain"]).output().unwrap());
    goes_on(&counter, &["restore", "jobs/chain", "--room", "room"]);
    done(&torpor(&counter, &["export", "jobs/chain@1", "--out", "again"]).output().unwrap());
    for name in fs::read_dir(counter.path("second")).unwrap().map(|entry| entry.unwrap().file_name()) {
        if name != "parent" {
            let [was, is] = ["second", "again"].map(|at| fs::read(counter.path(at).join(&name)).unwrap());
            assert!(was == is, "{name:?}");
        }
    }
    let pages = |at: &str| fs::read(counter.path(at).join("pages-1.img")).unwrap();
    assert!(pages("again/parent") == pages("first"));
    goes_on(&counter, &["restore", "again"]);
    let said = refused(&counter, &["export", "jobs/chain@1", "--out", "again"]);
    assert!(said.contains("not empty"), "{said}");
}

#[test]
fn processes_are_carried_in_an_archive() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    counts_beyond(&counter, 3);
    let target = format!("pid:{}", counter.pid());
    let export = ["checkpoint", &target, "--export", "job.tar"];
    done(&torpor(&counter, &[&export[..], &["--leave-running"]].concat()).output().unwrap());
    let said = refused(&counter, &export);
    assert!(said.contains("job.tar already"), "{said}");
    counts_beyond(&counter, count(&counter));
    fs::remove_file(counter.path("job.tar")).unwrap();
    done(&torpor(&counter, &export).output().unwrap());
    counter.reap();
    let told = done(&torpor(&counter, &["inspect", "job.tar"]).output().unwrap());
    assert!(told.contains("python3"), "{told}");
    goes_on(&counter, &["restore", "job.tar", "--room", "room"]);
    assert!(fs::read_dir(counter.path("room")).unwrap().next().is_none());
    let left = fs::read_dir(counter.path(".")).unwrap();
    let hidden = left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}

#[test]
fn devices_that_were_used_must_be_there_whatever_form_the_checkpoint_has() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    counts_beyond(&counter, 3);
    let target = format!("pid:{}", counter.pid());
    done(&torpor(&counter, &["checkpoint", &target, "--images", "checkpoint"]).output().unwrap());
    counter.reap();
    let used = r#"[{"vendor": "nvidia", "plugin": "1", "driver": "570.86", "devices": ["H100"]}]"#;
    fs::write(counter.path("checkpoint/accelerators.json"), used).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "job.tar", "checkpoint"]).current_dir(counter.path("."));
    assert!(tar.status().unwrap().success());
    done(&torpor(&counter, &["import", "checkpoint", "--name", "jobs/gpu"]).output().unwrap());
    for source in ["checkpoint", "job.tar", "jobs/gpu"] {
        let restore = ["restore", source, "--room", "room"];
        let said = refused(&counter, &restore);
        assert!(said.contains("there is no trusted cuda_plugin.so"), "{source}: {said}");
        let said = refused(&counter, &[&restore[..], &["--criu-plugins", "/none"]].concat());
        assert!(said.contains("cannot look at /none"), "{source}: {said}");
    }
    fs::remove_file(counter.path("checkpoint/accelerators.json")).unwrap();
    goes_on(&counter, &["restore", "checkpoint"]);
}

/// Counts while three of its children make children of their own all the time, which leave it grandchildren when they end.
const FORKS: &str = r"
import ctypes, os, sys, time
d, n = sys.argv[1], 0
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
def forks():
    while True:
        child = os.fork()
        if child == 0:
            if os.fork() == 0: time.sleep(0.001)
            os._exit(0)
        os.waitpid(child, 0)
for _ in range(3):
    if os.fork() == 0: forks()
while True:
    n += 1
    with open(d + '/new', 'w') as f: f.write(str(n))
    os.rename(d + '/new', d + '/count')
    if n == 10: open(d + '/ready', 'w').close()
    while os.waitpid(-1, os.WNOHANG)[0]: pass
    time.sleep(0.002)
";

/// Processes of a session that still run.
fn of_session(leader: u32) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let of = |stat: &String| {
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        fields[0] != "Z" && fields[3] == leader.to_string()
    };
    stats.filter(of).collect()
}

#[test]
fn nobody_escapes_a_checkpoint_of_a_program_that_forks_all_the_time() {
    // Orphans come here: their PIDs must be free for the restore, and not everybody's first process reaps.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let Some(mut program) = Dumped::start(FORKS) else { return };
    let group = Pid::from_raw(program.pid() as i32).unwrap();
    let target = format!("pid:{}", program.pid());
    for number in 1..10 {
        let images = format!("images-{number}");
        let words = ["checkpoint", &target, "--images", &images, "--leave-running"];
        done(&torpor(&program, &words).output().unwrap());
        counts_beyond(&program, count(&program));
    }
    done(&torpor(&program, &["checkpoint", &target, "--images", "last"]).output().unwrap());
    assert_eq!(of_session(program.pid()), [""; 0], "all that ran is in the checkpoint");
    program.reap();
    while rustix::process::waitpgid(group, WaitOptions::empty()).is_ok() {}
    fs::write(program.path("count"), "0").unwrap();
    let restore = ["restore", "last", "--detach", "--pid-file", "pid"];
    assert!(
        torpor(&program, &restore).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    );
    counts_beyond(&program, 10);
    assert!(of_session(program.pid()).len() > 3);
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    end(program.pid() as i32);
}

/// Is connected with itself.
const CONNECTED: &str = r"
import socket, sys, time
listener = socket.create_server(('127.0.0.1', 0))
out = socket.create_connection(listener.getsockname())
taken, _ = listener.accept()
open(sys.argv[1] + '/ready', 'w').close()
time.sleep(1000)
";

#[test]
fn a_check_says_what_a_checkpoint_with_the_same_flags_comes_to() {
    let Some(mut program) = Dumped::start(CONNECTED) else { return };
    let target = format!("pid:{}", program.pid());
    for (number, (flags, reason)) in [
        (&[][..], Some("--tcp")),
        (&["--tcp", "close"], None),
        (&["--tcp", "close", "--criu-plugins", "/none"], Some("cannot look at /none")),
        (&["--tcp", "close", "--criu-plugins", "/tmp"], Some("can be changed by others than root")),
        (&["--tcp", "close", "--criu-option", "root=/"], Some("root")),
        (&["--tcp", "established", "--shell-job", "--ext-unix-sockets"], None),
    ]
    .into_iter()
    .enumerate()
    {
        let images = format!("images-{number}");
        let make = ["checkpoint", &target, "--images", &images, "--leave-running"];
        for words in [&["check", &target][..], &make] {
            let output = torpor(&program, &[words, flags].concat()).output().unwrap();
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
            assert_eq!(output.status.success(), reason.is_none(), "{words:?} {flags:?}: {said}");
            assert!(reason.is_none_or(|reason| said.contains(reason)), "{words:?} {flags:?}: {said}");
        }
    }
    send(program.pid() as i32, Signal::KILL);
    program.reap();
}

/// Says how far it has counted, line by line, to whoever reads it.
const SAYS: &str = "
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.01)
";

#[test]
fn a_stream_that_led_outside_leads_to_who_restores_it() {
    let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
        eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let torpor = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
        command.args(words).current_dir(place.path()).env("TORPOR_RUNTIME_DIR", place.path().join("run"));
        command.env("TORPOR_CRIU", &criu).stdin(Stdio::null());
        command
    };
    let mut program = Command::new("setsid");
    program.args(["python3", "-c", SAYS]).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut program = program.spawn().unwrap();
    let said = |child: &mut std::process::Child| BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = said(&mut program);
    assert_eq!(lines.by_ref().nth(3).unwrap().unwrap(), "4");
    let target = format!("pid:{}", program.id());
    done(&torpor(&["checkpoint", &target, "--images", "images"]).output().unwrap());
    program.wait().unwrap();
    let last: u64 = lines.map(Result::unwrap).last().unwrap().parse().unwrap();

    let mut restored = torpor(&["restore", "images"]).stdout(Stdio::piped()).spawn().unwrap();
    let goes_on: Vec<String> = said(&mut restored).take(3).map(Result::unwrap).collect();
    assert_eq!(goes_on, [last + 1, last + 2, last + 3].map(|number| number.to_string()));
    send(program.id() as i32, Signal::KILL);
    assert_eq!(restored.wait().unwrap().code(), Some(137));
}

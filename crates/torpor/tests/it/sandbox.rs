//! Plain processes that are looked at: they reach nothing, change nothing, and stand still.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

use crate::dump::Dumped;
use crate::process::{number_inside, send, state, tree};

/// Counts in a file, and has a child.
const COUNTER: &str = r"
import os, sys, time
d, n = sys.argv[1], 0
if os.fork() == 0:
    while True: time.sleep(1000)
while True:
    n += 1
    with open(d + '/new', 'w') as f: f.write(str(n))
    os.rename(d + '/new', d + '/count')
    if n == 5: open(d + '/ready', 'w').close()
    time.sleep(0.01)
";
/// Counts in a file that it has open, over a connection with itself. Tells what another connection, to the outside, is worth.
const CONNECTED: &str = r"
import os, socket, sys, time
d, n = sys.argv[1], 0
listener = socket.create_server(('127.0.0.1', 0))
out = socket.create_connection(listener.getsockname())
taken, _ = listener.accept()
outside = socket.create_connection(('127.0.0.1', PORT))
kept = open(d + '/kept', 'w+')
while True:
    out.sendall(b'1')
    n += len(taken.recv(1))
    kept.seek(0)
    kept.write(f'{n:08}'); kept.flush()
    with open(d + '/new', 'w') as f: f.write(str(n))
    os.rename(d + '/new', d + '/count')
    if n == 5: open(d + '/ready', 'w').close()
    if os.path.exists(d + '/tell'):
        with open(d + '/told', 'w') as f: f.write(repr(outside.recv(1)))
        os.remove(d + '/tell')
    time.sleep(0.01)
";
const LIMIT: Duration = Duration::from_secs(30);

/// Starts what is connected with the answer's last part.
fn connected() -> Option<(Dumped, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dumped = Dumped::start(&CONNECTED.replace("PORT", &port.to_string()))?;
    let (peer, _) = listener.accept().unwrap();
    Some((dumped, peer))
}

fn torpor(counter: &Dumped, words: &[&str]) -> Output {
    torpor_in(&counter.path(""), words)
}

fn torpor_in(place: &Path, words: &[&str]) -> Output {
    torpor_command(place, words).output().unwrap()
}

fn torpor_command(place: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
    command.args(words).current_dir(place).stdin(Stdio::null());
    command.env("TORPOR_RUNTIME_DIR", place.join("run")).env("TORPOR_STORE", place.join("store"));
    command
}

/// The process group of a program, of which it is the first.
fn group(counter: &Dumped) -> Pid {
    Pid::from_raw(counter.pid() as i32).unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a look tells.
struct Told {
    /// PIDs of the processes, the first one first.
    pids: Vec<i32>,
    /// The PID of the sandbox's first process.
    init: i32,
    /// Where its output can be read.
    output: String,
}

impl Told {
    fn root(&self) -> i32 {
        self.pids[0]
    }

    /// What is in a file, as those in the sandbox see it.
    fn read(&self, path: &Path) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/root{}", self.root(), path.display())).ok()
    }

    fn go_on(&self) {
        assert!(self.pids.iter().all(|pid| send(*pid, Signal::CONT)));
    }

    /// Ends it by its first process, and waits until all of it is gone.
    fn end(&self, signal: Signal) {
        send(self.init, signal);
        let all = self.pids.iter().chain([&self.init]);
        wait_for("its end", || {
            all.clone().all(|pid| state(*pid).is_none_or(|state| state == 'Z')).then_some(())
        });
    }
}

impl Drop for Told {
    /// A test that fails leaves no sandbox.
    fn drop(&mut self) {
        send(self.init, Signal::KILL);
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn look(counter: &Dumped, source: &str, words: &[&str]) -> Told {
    let told = look_in(&counter.path(""), source, words);
    assert_eq!(number_inside(told.root()), Some(counter.pid() as i32));
    told
}

fn look_in(place: &Path, source: &str, words: &[&str]) -> Told {
    let all = [&["restore", source, "--sandbox", "--room", "room", "--pid-file", "pid"][..], words].concat();
    told(place, &done(&torpor_in(place, &all)))
}

/// What a look has said, held against what there is.
fn told(place: &Path, said: &str) -> Told {
    assert!(said.contains("stand still") && said.contains("gdb --pid"), "{said}");
    let pids: Vec<i32> =
        said.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let last = |label| {
        said.lines()
            .find_map(|line| line.strip_prefix(label))
            .unwrap()
            .split_whitespace()
            .next_back()
            .unwrap()
    };
    let (init, output) = (last("end it:").parse().unwrap(), last("its output:").to_owned());
    assert_eq!(fs::read_to_string(place.join("pid")).unwrap(), pids[0].to_string());
    assert_eq!(tree(init)[1..], pids, "{said}");
    assert!(pids.iter().all(|pid| state(*pid) == Some('T')), "{said}");
    Told { pids, init, output }
}

fn inside(told: &Told, script: &str) -> String {
    let pid = told.root().to_string();
    let output = Command::new("nsenter")
        .args(["--target", &pid, "--mount", "--net", "--pid", "sh", "-c", script])
        .output()
        .unwrap();
    [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn processes_in_a_sandbox_stand_still_go_on_when_let_and_change_nothing_outside() {
    // Orphans come here: their PIDs must be free for the restore outside, and not everybody's first process reaps.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    let before = mounts();
    let target = format!("pid:{}", counter.pid());
    done(&torpor(&counter, &["checkpoint", &target, "--name", "jobs/look"]));
    counter.reap();
    while rustix::process::waitpgid(group(&counter), WaitOptions::empty()).is_ok() {}
    let count: u64 = fs::read_to_string(counter.path("count")).unwrap().parse().unwrap();
    // The first look ends by a signal, the next by its first process' being killed.
    for end in [Signal::TERM, Signal::KILL] {
        let told = look(&counter, "jobs/look", &[]);
        assert_eq!(told.pids.len(), 2);
        let said = inside(&told, "ls /sys/class/net; echo 1 > /proc/sys/kernel/panic");
        assert!(said.starts_with("lo\n") && said.contains("Read-only"), "{said}");
        let status = fs::read_to_string(format!("/proc/{}/status", told.root())).unwrap();
        assert!(status.contains("CapBnd:\t00000000800425fb"), "{status}");
        told.go_on();
        wait_for("a higher count", || {
            told.read(&counter.path("count"))?.parse::<u64>().ok().filter(|now| *now > count + 5)
        });
        told.end(end);
        assert_eq!(fs::read_to_string(counter.path("count")).unwrap(), count.to_string());
        assert_eq!(mounts(), before);
        assert!(fs::read_dir(counter.path("room")).unwrap().next().is_none());
        assert!(fs::read_dir(counter.path("run/torpor")).unwrap().next().is_none());
    }
    // Looks do not count: it is resumed once, and not in a sandbox.
    let restore = ["restore", "jobs/look", "--room", "room", "--detach", "--pid-file", "pid"];
    done(&torpor(&counter, &restore));
    wait_for("a higher count", || {
        fs::read_to_string(counter.path("count")).ok()?.parse::<u64>().ok().filter(|now| *now > count)
    });
    rustix::process::kill_process_group(group(&counter), Signal::KILL).unwrap();
}

#[test]
fn connections_inside_a_sandbox_stay_and_those_that_led_out_are_closed() {
    let Some((mut counter, peer)) = connected() else { return };
    // As others make it, and kept in a store.
    let images = counter.dump_with("images", &["--tcp-established"]);
    counter.wait_for("count");
    send(counter.pid() as i32, Signal::KILL);
    counter.reap();
    let count: u64 = fs::read_to_string(counter.path("count")).unwrap().parse().unwrap();
    let kept = fs::read(counter.path("kept")).unwrap();
    // What has grown since is as long as it was, for those in the sandbox.
    fs::write(counter.path("kept"), [&kept[..], b" and more"].concat()).unwrap();
    done(&torpor(&counter, &["import", images.to_str().unwrap(), "--name", "jobs/theirs"]));
    for source in ["images", "jobs/theirs"] {
        let told = look(&counter, source, &["--volumes", "unchanged"]);
        assert_eq!(told.read(&counter.path("kept")).unwrap().len(), 8);
        fs::write(format!("/proc/{}/root{}", told.root(), counter.path("tell").display()), "").unwrap();
        told.go_on();
        wait_for("a higher count", || {
            told.read(&counter.path("count"))?.parse::<u64>().ok().filter(|now| *now > count + 5)
        });
        assert_eq!(
            wait_for("a word", || told.read(&counter.path("told")).filter(|word| !word.is_empty())),
            "b''"
        );
        told.end(Signal::TERM);
        assert_eq!(fs::read_to_string(counter.path("count")).unwrap(), count.to_string());
        assert!(fs::read_to_string(counter.path("kept")).unwrap().ends_with(" and more"));
        assert!(!counter.path("told").exists());
    }
    drop(peer);
}

/// Writes a file, and counts.
const KEEPER: &str =
    "mkdir -p data; echo kept > data/file; n=0; while :; do n=$((n + 1)); echo says $n; sleep 0.01; done";

#[test]
fn a_program_under_torpor_run_has_the_files_that_its_checkpoint_carries() {
    let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
        eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let mut run = Command::new("setsid");
    run.args([
        env!("CARGO_BIN_EXE_torpor"),
        "run",
        "--store",
        "store",
        "--name",
        "jobs/run",
        "--additional-paths",
    ]);
    run.arg(path("data")).args(["--", "bash", "-c", KEEPER]).current_dir(place.path()).stdin(Stdio::null());
    run.env("TORPOR_CRIU", &criu).env("TORPOR_RUNTIME_DIR", path("run"));
    let mut run =
        run.stdout(fs::File::create(path("output")).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("output", || fs::read_to_string(path("output")).ok().filter(|said| said.contains("says 5")));
    send(run.id() as i32, Signal::TERM);
    assert_eq!(run.wait().unwrap().code(), Some(143));
    let said = fs::read_to_string(path("output")).unwrap();
    let last: u64 = said.lines().last().unwrap().split_once(' ').unwrap().1.parse().unwrap();
    fs::write(path("data/file"), "changed").unwrap();

    let told = look_in(place.path(), "jobs/run", &["--criu", criu.to_str().unwrap()]);
    assert_eq!(told.read(&path("data/file")).unwrap(), "kept\n");
    told.go_on();
    wait_for("output", || {
        let printed = fs::read_to_string(&told.output).ok()?;
        (printed.lines().count() > 2)
            .then(|| assert!(printed.starts_with(&format!("says {}\n", last + 1)), "{printed}"))
    });
    told.end(Signal::TERM);
    assert_eq!(fs::read_to_string(path("data/file")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(path("output")).unwrap(), said);
}

/// Mounts a directory, a file and a socket, seen by nobody else, and goes on as what it is told.
const MOUNTED: &str = r#"
    mount --bind data volume
    mount --bind data/file file
    mount --bind socket taken
    exec "$@"
"#;

#[test]
fn volumes_are_seen_as_they_are_or_empty_and_sockets_are_not_there() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    counter.dump("images");
    rustix::process::kill_process_group(group(&counter), Signal::KILL).unwrap();
    counter.reap();
    for directory in ["data", "volume"] {
        fs::create_dir(counter.path(directory)).unwrap();
    }
    fs::write(counter.path("data/file"), "kept").unwrap();
    for mounted in ["file", "taken"] {
        fs::write(counter.path(mounted), "").unwrap();
    }
    let _listener = std::os::unix::net::UnixListener::bind(counter.path("socket")).unwrap();
    for (word, found) in [("unchanged", "file\nkept\n"), ("empty", "kept\n")] {
        let torpor = torpor_command(&counter.path(""), &[]);
        let mut looking = Command::new("unshare");
        looking.args(["--mount", "sh", "-ec", MOUNTED, "sh"]).arg(torpor.get_program());
        looking.args([
            "restore",
            "images",
            "--sandbox",
            "--room",
            "room",
            "--pid-file",
            "pid",
            "--volumes",
            word,
        ]);
        looking
            .envs(torpor.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .current_dir(counter.path(""));
        let said = done(&looking.output().unwrap());
        let taken = counter.path("taken").display().to_string();
        assert!(said.lines().any(|line| line.starts_with("not there:") && line.contains(&taken)), "{said}");
        let told = told(&counter.path(""), &said);
        let script = format!(
            "cd {}; ls volume; cat file; echo; echo > volume/file; echo > file",
            counter.path("").display()
        );
        assert_eq!(inside(&told, &script), found);
        told.end(Signal::KILL);
        assert_eq!(fs::read_to_string(counter.path("data/file")).unwrap(), "kept");
    }
}

/// Prints lines on a terminal, in a session that another leads.
const AT_A_TERMINAL: &str = "
import os, sys, time
n = 0
while True:
    n += 1
    print('line', n, flush=True)
    with open(os.path.dirname(sys.argv[0]) + '/count', 'w') as f: f.write(str(n))
    time.sleep(0.02)
";

#[test]
fn what_was_at_somebody_elses_terminal_gets_one_of_the_sandboxs() {
    let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
        eprintln!("skipped: TORPOR_CRIU does not name a CRIU");
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let (script, counted) = (place.path().join("script"), place.path().join("count"));
    fs::write(&script, AT_A_TERMINAL).unwrap();
    let run =
        format!("sh -c 'python3 {} & echo $! > {}/job; wait'", script.display(), place.path().display());
    let mut shell = Command::new("setsid");
    shell.args(["script", "-qc", &run, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut shell = shell.spawn().unwrap();
    let job =
        wait_for("job", || fs::read_to_string(place.path().join("job")).ok()?.trim().parse::<i32>().ok());
    wait_for("lines", || fs::metadata(&counted).ok());
    let criu = criu.to_str().unwrap();
    let target = format!("pid:{job}");
    done(&torpor_in(
        place.path(),
        &["checkpoint", &target, "--images", "images", "--shell-job", "--criu", criu],
    ));
    let _ = shell.wait();
    let told = look_in(place.path(), "images", &["--shell-job", "--criu", criu]);
    told.go_on();
    wait_for("lines", || {
        Some(fs::read_to_string(&told.output).ok()?.lines().count()).filter(|lines| *lines > 2)
    });
    told.end(Signal::TERM);

    // Outside of a sandbox it gets the terminal that the restore is started on.
    let run = format!("{} restore images --shell-job --criu {criu}", env!("CARGO_BIN_EXE_torpor"));
    let mut restored = Command::new("setsid");
    restored.args(["script", "-qc", &run, "/dev/null"]).current_dir(place.path()).stdin(Stdio::null());
    restored.env("TORPOR_RUNTIME_DIR", place.path().join("run")).stdout(Stdio::piped());
    let mut restored = restored.spawn().unwrap();
    let mut lines = BufReader::new(restored.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("line "), "{line}");
    send(job, Signal::KILL);
    lines.for_each(drop);
    restored.wait().unwrap();
}

#[test]
fn a_torpor_that_is_killed_leaves_no_sandbox() {
    let Some(mut counter) = Dumped::start(COUNTER) else { return };
    let images = counter.dump("images");
    rustix::process::kill_process_group(group(&counter), Signal::KILL).unwrap();
    counter.reap();
    // A CRIU that does nothing, for as long as it takes.
    let criu = counter.path("criu");
    fs::write(&criu, "#!/bin/sh\nsleep 1000\n").unwrap();
    fs::set_permissions(&criu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut words = vec!["restore", images.to_str().unwrap(), "--sandbox", "--room", "room"];
    words.extend(["--criu", criu.to_str().unwrap()]);
    let mut looking = torpor_command(&counter.path(""), &words).spawn().unwrap();
    let below = || tree(looking.id() as i32);
    let all = wait_for("CRIU", || Some(below()).filter(|all| all.len() > 3));
    looking.kill().unwrap();
    looking.wait().unwrap();
    wait_for("its end", || all.iter().all(|pid| state(*pid).is_none_or(|state| state == 'Z')).then_some(()));
    assert!(fs::read_dir(counter.path("run/torpor")).unwrap().next().is_some());
    let told = look(&counter, images.to_str().unwrap(), &[]);
    assert!(fs::read_dir(counter.path("run/torpor")).unwrap().next().is_none());
    told.end(Signal::TERM);
}

#[test]
fn what_cannot_be_in_a_sandbox_is_refused_and_nothing_of_it_stays() {
    let Some((mut counter, peer)) = connected() else { return };
    let images = counter.dump_with("images", &["--tcp-established"]);
    send(counter.pid() as i32, Signal::KILL);
    counter.reap();
    drop(peer);
    let refused = |words: &[&str]| {
        let output =
            torpor(&counter, &[&["restore", "images", "--sandbox", "--room", "room"][..], words].concat());
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--into", "podman"]);
    assert!(said.contains("cannot be used with"), "{said}");
    fs::write(images.join("descriptors.json"), "[]").unwrap();
    let said = refused(&[]);
    assert!(said.contains("holds a container") && said.contains("--bundle"), "{said}");
    fs::remove_file(images.join("descriptors.json")).unwrap();
    // A file that was open is shorter than it was.
    fs::write(counter.path("kept"), "").unwrap();
    let said = refused(&[]);
    assert!(said.contains("kept") && said.contains("help:"), "{said}");
    assert!(fs::read_dir(counter.path("run/torpor")).unwrap().next().is_none());
    let left = fs::read_dir("/proc").unwrap().flatten();
    let comm = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
    let of_us = counter.path("").display().to_string();
    assert_eq!(left.filter_map(comm).filter(|line| line.contains(&of_us)).collect::<Vec<_>>(), [""; 0]);
}

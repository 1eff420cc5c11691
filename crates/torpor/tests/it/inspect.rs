//! `torpor inspect`, on a program that a real CRIU dumped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Something of everything: sockets with and without bytes in their queues, a file that was removed, a pipe, a file in memory,
/// a thread, a child that has ended, one that is stopped.
const PROGRAM: &str = r#"
import mmap, os, signal, socket, sys, threading, time
os.setsid()
os.closerange(3, 4096)
listening = socket.socket(); listening.bind(("127.0.0.1", 0)); listening.listen(7)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.bind(("::1", 0))
one, other = socket.socketpair(); one.send(b"hello queue")
place = sys.argv[1]
kept = open(place + "/kept", "w+"); kept.write("x" * 1000); kept.flush()
gone = open(place + "/gone", "w+"); gone.write("gone"); gone.flush(); os.unlink(place + "/gone")
reading, writing = os.pipe(); os.write(writing, b"in the pipe")
memory = os.memfd_create("scratch"); os.write(memory, b"z" * 10000)
shared = mmap.mmap(-1, 1 << 20); shared.write(b"y" * 8192)
own = bytearray(os.urandom(4 << 20))
signal.signal(signal.SIGUSR1, lambda *_: None); signal.signal(signal.SIGHUP, signal.SIG_IGN)
threading.Thread(target=lambda: time.sleep(1e6), daemon=True).start()
if os.fork() == 0: os._exit(3)
stopped = os.fork()
if stopped == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1e6)
os.waitpid(stopped, os.WUNTRACED)
open(place + "/ready", "w").close()
while True: time.sleep(1000)
"#;

/// A dumped program.
struct Dumped {
    place: tempfile::TempDir,
    pid: u32,
}

impl Dumped {
    /// None where there is no CRIU to dump it with.
    fn new() -> Option<Self> {
        let Some(criu) = std::env::var_os("TORPOR_CRIU") else {
            eprintln!("SKIPPED: TORPOR_CRIU names no criu");
            return None;
        };
        let place = tempfile::tempdir().unwrap();
        let images = place.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let mut program = Command::new("python3");
        program.args(["-c", PROGRAM]).arg(place.path()).arg("two words").current_dir("/").env_clear();
        program.env("TOKEN", "hunter2=x").env("MARKUP", "</script><b>").env("PATH", "/usr/bin:/bin");
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = program.spawn().unwrap();
        while !place.path().join("ready").exists() {
            assert_eq!(program.try_wait().unwrap(), None, "the program has ended");
            std::thread::yield_now();
        }
        let dumped = Command::new(criu)
            .args(["dump", "-v2", "-o", "dump.log", "-t", &program.id().to_string(), "-D"])
            .arg(&images)
            .output()
            .unwrap();
        let log = std::fs::read_to_string(images.join("dump.log")).unwrap_or_default();
        let _ = program.kill();
        program.wait().unwrap();
        assert!(dumped.status.success(), "{log}");
        Some(Self { place, pid: program.id() })
    }

    fn images(&self) -> PathBuf {
        self.place.path().join("images")
    }

    fn inspect(&self, arguments: &[&str]) -> Output {
        inspect(&[&self.images()], arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.inspect(&[&["--output", "json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn inspect(sources: &[&Path], arguments: &[&str]) -> Output {
    let mut command = assert_cmd::Command::cargo_bin("torpor").unwrap();
    command.arg("inspect").args(arguments).args(sources).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The members of a list that have this value.
fn having<'a>(list: &'a Value, key: &str, value: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().filter(|member| member[key] == value).collect()
}

#[test]
fn a_program_is_told_as_it_was() {
    let Some(dumped) = Dumped::new() else { return };
    let document = dumped.json(&["--all"]);
    assert_eq!(document["version"], 1);
    let report = &document["checkpoints"][0];
    assert_eq!((&report["problems"], &report["secrets"]), (&Value::Null, &Value::Bool(false)));
    assert_eq!((&report["summary"]["processes"], &report["summary"]["ended"]), (&3.into(), &1.into()));
    assert!(report["statistics"]["pagesWritten"].as_u64().unwrap() > 1024);
    let processes = &report["processes"];
    let root = &processes[0];
    assert_eq!(root["pid"], dumped.pid);
    let arguments = root["arguments"].as_array().unwrap();
    assert_eq!((&arguments[0], &arguments[4]), (&"python3".into(), &"two words".into()));
    assert_eq!(root["threads"].as_array().unwrap().len(), 2);
    assert!(root["executable"].as_str().unwrap().contains("python3"));

    let files = &root["files"];
    let target = |kind| having(files, "kind", kind)[0]["target"].as_str().unwrap();
    let named = |name: &str| {
        let of_name = |file: &&Value| file["target"].as_str().unwrap().ends_with(name);
        files.as_array().unwrap().iter().find(of_name).unwrap()
    };
    assert_eq!((&named("/kept")["position"], &named("/kept")["removed"]), (&1000.into(), &Value::Null));
    assert_eq!(named("/gone")["removed"], true);
    assert_eq!(having(files, "kind", "pipe")[0]["queued"], 11);
    assert_eq!(target("memory file"), "memfd:scratch");

    let sockets = &root["sockets"];
    let listening = having(sockets, "state", "LISTEN")[0];
    assert_eq!((&listening["protocol"], &listening["backlog"]), (&"tcp".into(), &7.into()));
    assert_eq!(having(sockets, "protocol", "udp")[0]["local"]["address"], "::1");
    let pair = having(sockets, "protocol", "unix");
    assert_eq!((&pair[0]["peer"]["fd"], &pair[1]["receiveQueue"]), (&pair[1]["fd"], &11.into()));

    let signals = &root["signals"];
    assert!(signals["caught"].as_array().unwrap().contains(&"SIGUSR1".into()), "{signals}");
    assert!(signals["ignored"].as_array().unwrap().contains(&"SIGHUP".into()), "{signals}");
    let kinds = &root["memory"]["kinds"];
    assert!(having(kinds, "kind", "anonymous")[0]["present"].as_u64().unwrap() >= 1024, "{kinds}");
    assert_eq!(having(kinds, "kind", "shared")[0]["present"], 2, "{kinds}");

    let ended = having(processes, "state", "dead");
    assert_eq!((ended.len(), &ended[0]["end"], &ended[0]["files"]), (1, &"exited 3".into(), &Value::Null));
    assert_eq!(having(processes, "state", "stopped").len(), 1);
}

#[test]
fn values_of_the_environment_are_shown_only_when_asked_for() {
    let Some(dumped) = Dumped::new() else { return };
    for format in ["table", "tree", "json", "yaml"] {
        let hidden = text(&dumped.inspect(&["--all", "--output", format]).stdout);
        assert!(hidden.contains("TOKEN") && !hidden.contains("hunter2"), "{format}: {hidden}");
        let shown = text(&dumped.inspect(&["--env", "--show-secrets", "--output", format]).stdout);
        assert!(shown.contains("hunter2=x"), "{format}: {shown}");
        let says = if matches!(format, "table" | "tree") { "holds secrets" } else { "secrets" };
        assert!(shown.contains(says), "{format}: {shown}");
    }
}

#[test]
fn processes_are_a_table_or_a_tree() {
    let Some(dumped) = Dumped::new() else { return };
    let table = text(&dumped.inspect(&["--ps"]).stdout);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["PID", "PARENT", "GROUP", "SESSION", "THREADS", "STATE", "COMMAND"]);
    let pid = dumped.pid.to_string();
    assert_eq!(words[2], [&pid, "-", &pid, &pid, "2", "alive", "python3"]);
    assert_eq!(words[3][4..], ["0", "dead,", "exited", "3", "python3"]);
    assert_eq!(words[4][4..], ["1", "stopped", "python3"]);
    let tree = text(&dumped.inspect(&["--ps", "--output", "tree"]).stdout);
    assert!(tree.contains(&format!("    └── [{pid}] python3")), "{tree}");
    assert!(tree.contains("(dead, exited 3) python3") && tree.contains("(stopped) python3"), "{tree}");
}

#[test]
fn a_source_that_fails_does_not_stop_the_others() {
    let Some(dumped) = Dumped::new() else { return };
    let images = dumped.images();
    let output = inspect(&[Path::new("/nowhere/at.tar"), &images], &["--summary", "--output", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["checkpoints"].as_array().unwrap().len(), 1);
    assert_eq!(document["failures"][0]["source"], "/nowhere/at.tar");
    assert_eq!(output.status.code(), Some(3));
    let output = dumped.inspect(&["--ps", "--pid", "1"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("has no process 1"));
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_shown() {
    let Some(dumped) = Dumped::new() else { return };
    std::fs::remove_file(dumped.images().join(format!("mm-{}.img", dumped.pid))).unwrap();
    let output = dumped.inspect(&["--all"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains(&format!("mm-{}.img: it is missing", dumped.pid)));
    assert!(text(&output.stdout).contains("LISTEN"));
}

/// What a browser makes of a page, with no word in its console; none where there is no browser.
fn dom(page: &Path) -> Option<String> {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }) else {
        eprintln!("SKIPPED: there is no chromium");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let shown = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&shown.stderr);
    assert!(!log.contains("CONSOLE"), "{log}");
    Some(text(&shown.stdout))
}

#[test]
fn a_browser_shows_the_page_and_runs_nothing_but_its_script() {
    let Some(dumped) = Dumped::new() else { return };
    let page = dumped.place.path().join("report.html");
    assert!(dumped.inspect(&["--show-secrets", "--html", page.to_str().unwrap()]).status.success());
    let Some(dom) = dom(&page) else { return };
    assert!(dom.contains(&format!("<span class=\"pid\">{}</span>", dumped.pid)), "{dom}");
    assert!(dom.contains("dead, exited 3") && dom.contains("127.0.0.1:") && dom.contains("memfd:scratch"));
    assert!(dom.contains("This report holds secrets") && dom.contains("MARKUP=&lt;/script&gt;&lt;b&gt;"));
    // The script ran: it says which mapping is reached by the keyboard first.
    assert!(dom.contains("<g role=\"img\" tabindex=\"0\""), "{dom}");
    assert_eq!(dom.matches("<script").count(), 2);
}

#[test]
fn a_browser_shows_what_differs() {
    let (Some(before), Some(after)) = (Dumped::new(), Dumped::new()) else { return };
    let page = after.place.path().join("diff.html");
    let mut command = assert_cmd::Command::cargo_bin("torpor").unwrap();
    let output =
        command.arg("diff").args([before.images(), after.images()]).arg("--html").arg(&page).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let Some(dom) = dom(&page) else { return };
    // Their arguments name different directories, so that these are other processes.
    assert!(dom.contains(&format!(">+ {} python3", after.pid)), "{dom}");
    assert!(dom.contains(&format!(">- {} python3", before.pid)), "{dom}");
    assert!(dom.contains("<g role=\"img\" tabindex=\"0\"") && dom.contains("<rect class=\"new\" x="));
    assert!(!dom.contains("hunter2"));
}

//! `torpor memory` and `torpor diff`, over dumps of a program with known patterns in its memory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use crate::dump::Dumped;

/// A parent and a child, which share a mapping; text across the boundary of two pages, and in a thread's sight; changes once `change` is
/// there. What it looks for is never in its own source as one piece.
const PROGRAM: &str = r#"
import mmap, os, signal, sys, threading, time
directory = sys.argv[1]
def write(name, text):
    with open(directory + "/." + name, "w") as file: file.write(text)
    os.rename(directory + "/." + name, directory + "/" + name)
def wait_for(name):
    while not os.path.exists(directory + "/" + name): time.sleep(0.01)
import ctypes
own = mmap.mmap(-1, 16 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 4 * 4096)
own[4096 - 4:4096 + 6] = b"pass" + b"-word!"
own[5 * 4096:6 * 4096] = b"\x11" * 4096
own[7 * 4096:8 * 4096] = b"\x22" * 4096
own[9 * 4096:10 * 4096] = b"\x33" * 4096
shared[100:110] = b"both-" + b"sides"
wide = ("wide" + "-" + "text").encode("utf-16-le")
threading.Thread(target=lambda: time.sleep(10000), daemon=True).start()
log = open(directory + "/log", "w")
if os.fork() == 0:
    while True: time.sleep(1000)
address = ctypes.addressof(ctypes.c_char.from_buffer(own))
write("ready", "%x" % address)
wait_for("change")
own[5 * 4096:6 * 4096] = b"\x44" * 4096
own[12 * 4096:13 * 4096] = b"\x22" * 4096
own[7 * 4096:8 * 4096] = b"\0" * 4096
own[11 * 4096:12 * 4096] = b"\x55" * 4096
log.write("more")
log.flush()
listening = __import__("socket").create_server(("127.0.0.1", 0))
write("changed", "")
while True: time.sleep(1000)
"#;

fn torpor(words: &[&str], sources: &[&Path]) -> Command {
    let mut command = Command::cargo_bin("torpor").unwrap();
    command.args(words).args(sources);
    command
}

fn text(words: &[&str], sources: &[&Path]) -> String {
    let output = torpor(words, sources).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

fn json(words: &[&str], sources: &[&Path]) -> Value {
    serde_json::from_str(&text(&[words, &["--output", "json"]].concat(), sources)).unwrap()
}

#[test]
fn memory_is_measured_searched_shown_and_written_out() {
    let Some(program) = Dumped::start(PROGRAM) else { return };
    let images = program.dump("images");
    let images = images.as_path();
    let (pid, address) = (program.pid(), u64::from_str_radix(&program.wait_for("ready"), 16).unwrap());

    // Both processes, and what they share.
    let table = json(&["memory", "--maps"], &[images]);
    let processes = table["sources"][0]["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 2);
    for process in processes {
        assert_eq!(process["shared"], 4096, "{process:#}");
        assert!(process["stored"].as_u64().unwrap() > 1 << 20);
        let own = process["mappings"].as_array().unwrap().iter().find(|mapping| {
            (mapping["start"].as_u64().unwrap()..mapping["end"].as_u64().unwrap()).contains(&address)
        });
        assert_eq!(own.unwrap()["kind"], "anonymous");
    }
    assert!(text(&["memory"], &[images]).starts_with("PID"));

    // A match across pages, in the parent and in the child's copy.
    let found = json(&["memory", "--search", "pass-word!"], &[images]);
    let source = &found["sources"][0];
    assert_eq!(found["secrets"], false);
    let places: Vec<_> = source["matches"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| found["address"] == address + 4092)
        .collect();
    assert_eq!(places.len(), 2, "{found:#}");
    assert_eq!((&places[0]["pid"], &places[0]["protection"]), (&Value::from(pid), &Value::from("rw-")));
    assert!(places[0].get("match").is_none(), "contents are shown only when asked for");

    // Shared memory is searched once, and reported for both.
    let found = json(&["memory", "--search", "both-sides", "--kind", "shared"], &[images]);
    assert_eq!(found["sources"][0]["patterns"][0]["count"], 1);
    assert_eq!(found["sources"][0]["matches"].as_array().unwrap().len(), 2);
    let found = json(&["memory", "--search", "both-sides", "--kind", "stack"], &[images]);
    assert_eq!(found["sources"][0]["matches"].as_array().unwrap().len(), 0);

    // The same from a pipe, in one pass.
    let archive = program.path("archive.tar");
    let packed = std::process::Command::new("tar")
        .args(["--sort=name", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(images)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let piped = torpor(&["memory", "--search", "pass-word!", "--output", "json", "-"], &[])
        .pipe_stdin(&archive)
        .unwrap()
        .assert()
        .success();
    let piped: Value = serde_json::from_slice(&piped.get_output().stdout).unwrap();
    let found = json(&["memory", "--search", "pass-word!"], &[images]);
    assert_eq!(piped["sources"][0]["matches"], found["sources"][0]["matches"]);

    // Every kind of pattern, and contents where they are asked for.
    for search in [
        ["--search-utf16", "wide-text"],
        ["--search-regex", "pass-[a-z]{4}!"],
        ["--search-hex", "70 61 73 73 2d 77 6f 72 64 21"],
    ] {
        let pid = pid.to_string();
        let words = [&["memory", "--pid", &pid, "--show-secrets", "--context", "8"][..], &search].concat();
        let found = json(&words, &[images]);
        assert!(!found["sources"][0]["matches"].as_array().unwrap().is_empty(), "{search:?}");
        assert_eq!(found["secrets"], true);
    }

    // Rows in hexadecimal.
    let range = format!("{:x}+32", address + 4096 - 16);
    let pid = pid.to_string();
    torpor(&["memory", "--pid", &pid, "--range", &range], &[images]).assert().code(2);
    let rows = text(&["memory", "--pid", &pid, "--range", &range, "--show-secrets"], &[images]);
    let expected = format!(
        "{:016x}  00 00 00 00 00 00 00 00 00 00 00 00 70 61 73 73  |............pass|\n\
         {:016x}  2d 77 6f 72 64 21 00 00 00 00 00 00 00 00 00 00  |-word!..........|\n",
        address + 4080,
        address + 4096
    );
    assert_eq!(rows, expected);

    // A file that nobody else may read, and that is not written over.
    let out = program.path("bytes");
    let range = format!("{:x}+12K", address + 5 * 4096);
    let words = ["memory", "--pid", &pid, "--range", &range, "--raw", "--out", out.to_str().unwrap()];
    torpor(&words, &[images]).assert().success();
    let bytes = std::fs::read(&out).unwrap();
    assert_eq!((bytes[0], bytes[4096], bytes[2 * 4096], bytes.len()), (0x11, 0, 0x22, 3 * 4096));
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    torpor(&words, &[images]).assert().code(7);

    // Strings.
    let strings = text(&["memory", "--pid", &pid, "--strings", "--min", "10", "--show-secrets"], &[images]);
    assert!(strings.lines().any(|line| line.ends_with("both-sides")));

    // What is not there is said so.
    torpor(&["memory", "--pid", "1", "--maps"], &[images]).assert().code(3);
    torpor(&["memory", "--search-regex", "("], &[images]).assert().code(2);
}

#[test]
fn gdb_opens_a_core_file_with_threads_and_memory() {
    let Some(program) = Dumped::start(PROGRAM) else { return };
    let images = program.dump("images");
    let address = u64::from_str_radix(&program.wait_for("ready"), 16).unwrap();
    let core = program.path("core");
    torpor(&["memory", "--core", &program.pid().to_string(), "--out", core.to_str().unwrap()], &[&images])
        .assert()
        .success();
    if std::process::Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("skipped: there is no gdb");
        return;
    }
    let examine = format!("x/s {:#x}", address + 4092);
    let output = std::process::Command::new("gdb")
        .args(["--batch", "--nx", "-ex", "info threads", "-ex", "print $rip", "-ex", "bt", "-ex", &examine])
        .arg(std::fs::canonicalize("/usr/bin/python3").unwrap())
        .arg(&core)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("\"pass-word!\""), "{told}{errors}");
    let threads = told.lines().filter(|line| line.contains(" LWP ") || line.contains("Thread 0x")).count();
    assert!(threads >= 2, "{told}{errors}");
    assert!(!errors.contains("warning: Couldn't find general-purpose registers"), "{errors}");
    // The standard library's functions are found through the files that the core file names.
    assert!(told.contains("#1"), "{told}{errors}");
}

#[test]
fn two_dumps_differ_in_what_the_program_changed() {
    let Some(program) = Dumped::start(PROGRAM) else { return };
    let before = program.dump("before");
    let address = u64::from_str_radix(&program.wait_for("ready"), 16).unwrap();
    program.tell("change");
    program.wait_for("changed");
    let after = program.dump("after");

    torpor(&["diff"], &[&before, &before]).assert().code(0).stdout("nothing differs\n");

    let output = torpor(&["diff", "--output", "json"], &[&before, &after]).assert().code(1);
    let diff: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((&diff["equal"], &diff["secrets"]), (&Value::from(false), &Value::from(false)));
    let processes = diff["processes"].as_array().unwrap();
    let of_parent = processes.iter().find(|process| process["after"]["pid"] == program.pid()).unwrap();
    let own = of_parent["memory"]["mappings"].as_array().unwrap().iter().find(|mapping| {
        (mapping["start"].as_u64().unwrap()..mapping["end"].as_u64().unwrap()).contains(&address)
    });
    let pages = &own.unwrap_or_else(|| panic!("{of_parent:#}"))["pages"];
    for (what, least) in [("changed", 1), ("gone", 1), ("new", 2), ("moved", 1)] {
        assert!(pages[what].as_u64().unwrap() >= least, "{what}: {pages}");
    }
    let log = of_parent["files"]["changed"].as_array().unwrap();
    assert!(log.iter().any(|file| file["after"]["position"] == 4), "{of_parent:#}");
    let sockets = of_parent["sockets"]["new"].as_array().unwrap();
    assert!(sockets.iter().any(|socket| socket["state"] == "LISTEN"), "{of_parent:#}");
    assert!(processes.iter().all(|process| process["state"] == "changed"), "nothing came or went");

    let output = torpor(&["diff", "--no-memory"], &[&before, &after]).assert().code(1).get_output().clone();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("sockets") && !told.contains("memory:"), "{told}");
    torpor(&["diff"], &[&before, &program.path("nowhere")]).assert().code(3);

    let tree =
        torpor(&["diff", "--output", "tree"], &[&before, &after]).assert().code(1).get_output().clone();
    assert!(String::from_utf8(tree.stdout).unwrap().contains("├── "));
}

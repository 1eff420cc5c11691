//! Bad surroundings: each gets a message that names the thing and the remedy, and loses nothing.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::node::{Container, Node, Part, SUSPENDED};

/// Far longer than anything should take.
const LONG: Duration = Duration::from_secs(15);
const EVERY: &[&str] = &["--every", "300ms"];

/// A disk of its own for the store of a node.
struct Disk(PathBuf);

impl Disk {
    fn new(node: &Node, size: &str) -> Disk {
        let disk = Disk(node.disk());
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "disk"]);
        disk
    }

    fn mount(&self, words: &[&str]) {
        let mounted = Command::new("mount").args(words).arg(&self.0).status().unwrap();
        assert!(mounted.success(), "{words:?}");
    }

    /// Takes all of the space that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let file = std::fs::File::create(&filler).unwrap();
        let mut at = 0;
        while file.write_at(&[1; 4096], at).is_ok_and(|length| length > 0) {
            at += 4096;
        }
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Container {
    /// Waits until the program has made further steps.
    #[track_caller]
    fn goes_on(&mut self, node: &Node) {
        let steps = node.steps().len();
        let went = self.until(LONG, |_| node.steps().len() > steps + 2);
        assert!(went, "the program does not go on:\n{}", self.errors());
    }

    /// Suspends the program.
    #[track_caller]
    fn suspends(&mut self, node: &Node) {
        self.goes_on(node);
        assert!(self.signal(Part::Torpor, Signal::TERM));
        assert_eq!(self.ends().code(), Some(SUSPENDED), "{}", self.errors());
    }

    /// Waits until `text` stands in its log behind what stands there by now.
    #[track_caller]
    fn says_anew(&mut self, text: &str) {
        let from = self.errors().len();
        let said = self.until(LONG, |container| container.errors()[from..].contains(text));
        assert!(said, "{text:?} is not among the last of:\n{}", self.errors());
    }

    /// Ends without a program, with this code, and says what and what to do about it.
    #[track_caller]
    fn fails_with(&mut self, code: i32, error: &[&str], help: &str) {
        assert_eq!(self.ends().code(), Some(code), "{}", self.errors());
        let errors = self.errors();
        let (_, rest) = errors.split_once("error: ").unwrap_or_else(|| panic!("no error in\n{errors}"));
        let (first, rest) = rest.split_once('\n').unwrap();
        assert!(error.iter().all(|word| first.contains(word)), "{error:?} not in {first}");
        assert!(rest.starts_with("help: ") && rest.contains(help), "{help:?} not in {rest}");
    }

    /// The line in the log that has all of these words.
    #[track_caller]
    fn line_with(&self, words: &[&str]) -> String {
        let errors = self.errors();
        let found =
            errors.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no line with {words:?} in\n{errors}"))
    }
}

/// The file that was written last in one of the store's directories.
fn newest(node: &Node, directory: &str) -> PathBuf {
    let entries = std::fs::read_dir(node.store().join(directory)).unwrap().flatten();
    entries.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap()).unwrap().path()
}

fn id(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A node with generations of a running program and, after them, one of it suspended.
fn with_generations() -> Option<Node> {
    let node = Node::new()?;
    let mut container = node.run(EVERY);
    container.says("checkpoint committed generation=1");
    container.suspends(&node);
    assert!(node.generations().len() > 1);
    Some(node)
}

/// The number of the newest generation.
fn newest_number(node: &Node) -> u64 {
    node.generations().last().unwrap()["number"].as_u64().unwrap()
}

#[test]
fn a_full_disk() {
    let Some(node) = Node::new() else { return };
    let disk = Disk::new(&node, "3m");
    let mut container = node.run(EVERY);
    container.says("checkpoint committed generation=1");
    let filler = disk.fill();
    container.says("no checkpoint; the program runs on");
    container.goes_on(&node);
    let line = container.line_with(&["ERROR", "no checkpoint; the program runs on"]);
    assert!(
        line.contains("no space left") && line.contains("/volume/disk/store") && line.contains("remedy="),
        "{line}"
    );
    std::fs::remove_file(filler).unwrap();
    container.says_anew("checkpoint committed");
    container.vanish();
    node.verify();
    let newest = node.generations().last().unwrap()["number"].clone();
    let mut container = node.run(&[]);
    container.says(&format!("restored generation={newest}"));
    container.goes_on(&node);
}

#[test]
fn a_disk_that_is_full_when_the_program_is_suspended() {
    let Some(node) = Node::new() else { return };
    let disk = Disk::new(&node, "3m");
    node.run(&[]).suspends(&node);
    let filler = disk.fill();
    // The start has to write to the store before anything else.
    let mut container = node.run(&[]);
    container.fails_with(7, &["no space left", "/volume/disk/store"], "space");
    std::fs::remove_file(filler).unwrap();
    let mut container = node.run(&[]);
    container.says("restored generation=1");
    container.goes_on(&node);
    let filler = disk.fill();
    // A suspend that cannot be committed becomes the program's own signal, which this one ends by.
    assert!(container.signal(Part::Torpor, Signal::TERM));
    assert_eq!(container.ends().code(), Some(128 + 15), "{}", container.errors());
    container.line_with(&["ERROR", "no checkpoint", "no space left", "/volume/disk/store", "remedy="]);
    container.line_with(&["ERROR", "the program's end cannot be recorded", "no space left", "remedy="]);
    std::fs::remove_file(filler).unwrap();
    let mut container = node.run(&[]);
    container.says("restored generation=1");
    container.goes_on(&node);
}

#[test]
fn a_store_that_cannot_be_written() {
    let Some(node) = Node::new() else { return };
    let disk = Disk::new(&node, "3m");
    disk.mount(&["-o", "remount,ro"]);
    let mut container = node.run(&[]);
    container.fails_with(7, &["the file system is read-only", "/volume/disk/store"], "");
    disk.mount(&["-o", "remount,rw"]);
    node.run(&[]).suspends(&node);
    disk.mount(&["-o", "remount,ro"]);
    let mut container = node.run(&[]);
    container.fails_with(7, &["the file system is read-only", "/volume/disk/store"], "");
    disk.mount(&["-o", "remount,rw"]);
    let mut container = node.run(&[]);
    container.says("restored generation=1");
    container.goes_on(&node);
}

#[test]
fn a_store_on_a_path_that_is_a_file() {
    let Some(node) = Node::new() else { return };
    std::fs::write(node.store(), "a file").unwrap();
    node.run(&[]).fails_with(7, &["/volume/disk/store", "is not a directory"], "--store");
    assert_eq!(std::fs::read(node.store()).unwrap(), b"a file");
}

#[test]
fn a_pack_that_is_damaged() {
    let Some(node) = with_generations() else { return };
    let pack = newest(&node, "packs");
    let mut bytes = std::fs::read(&pack).unwrap();
    let length = bytes.len();
    bytes[16..length - 16].fill(0x5a);
    std::fs::write(&pack, bytes).unwrap();
    let output = node.ask("verify --read-data");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&id(&pack)[..8]), "{output:?}");
    falls_back(&node, &id(&pack));
}

#[test]
fn a_manifest_that_is_cut_off() {
    let Some(node) = with_generations() else { return };
    let manifest = newest(&node, "manifests");
    let length = std::fs::metadata(&manifest).unwrap().len();
    std::fs::File::options().write(true).open(&manifest).unwrap().set_len(length / 2).unwrap();
    falls_back(&node, &id(&manifest));
}

#[test]
fn a_manifest_from_a_newer_version() {
    let Some(node) = with_generations() else { return };
    let manifest = newest(&node, "manifests");
    let file = std::fs::File::options().write(true).open(&manifest).unwrap();
    file.write_at(&9u32.to_le_bytes(), 8).unwrap();
    let line = falls_back(&node, &id(&manifest));
    assert!(line.contains("version 9"), "{line}");
}

/// The newest generation is not restored, which is said with the object's name, but the one before it. Returns what was
/// said.
#[track_caller]
fn falls_back(node: &Node, object: &str) -> String {
    let newest = newest_number(node);
    let mut container = node.run(&[]);
    container.goes_on(node);
    let generation = format!("generation={newest}");
    let line = container.line_with(&["ERROR", "cannot restore", &generation, "remedy="]);
    assert!(line.contains(&object[..8]), "{object} is not in {line}");
    container.says(&format!("restored generation={}", newest - 1));
    line
}

#[test]
fn a_restore_that_fails_leaves_no_files() {
    let Some(node) = Node::new() else { return };
    let program = r#"
        open(my $read, '<', '/volume/read') or print "nothing to read\n";
        if (-e '/etc/torpor-trace') { print "traces\n" } else { print "clean\n" }
        open(my $trace, '>', '/etc/torpor-trace'); close $trace;
        $| = 1;
        while (1) { print "on\n"; select(undef, undef, undef, 0.02) }
    "#;
    std::fs::write(node.volume("traces.pl"), program).unwrap();
    std::fs::write(node.volume("read"), "").unwrap();
    let start = |options: &[&str]| {
        let command = Node::torpor(options, &["perl", "/volume/traces.pl"]);
        node.start(&crate::node::words(&command))
    };
    let runs = |container: &mut Container| {
        assert!(
            container.until(LONG, |container| container.output().contains("on\n")),
            "{}",
            container.errors()
        );
    };
    let mut container = start(&[]);
    runs(&mut container);
    assert!(container.signal(Part::Torpor, Signal::TERM));
    assert_eq!(container.ends().code(), Some(SUSPENDED), "{}", container.errors());

    // CRIU comes to know that this is gone when the files of the container are there already.
    std::fs::remove_file(node.volume("read")).unwrap();
    let mut container = start(&[]);
    runs(&mut container);
    container.line_with(&["ERROR", "cannot restore", "generation=1", "/volume/read", "remedy="]);
    assert!(container.output().starts_with("nothing to read\nclean\n"), "{}", container.output());
}

#[test]
fn a_key_that_is_wrong() {
    let Some(node) = Node::new() else { return };
    for (name, byte) in [("right", 1), ("wrong", 2)] {
        std::fs::write(node.volume(name), [byte; 32]).unwrap();
    }
    let right = ["--key-file", "/volume/right"];
    node.run(&right).suspends(&node);
    node.run(&["--key-file", "/volume/wrong"]).fails_with(5, &["key"], "key");
    node.run(&[]).fails_with(5, &["key"], "--key-file");
    let mut container = node.run(&right);
    container.says("restored generation=1");
    container.goes_on(&node);
}

#[test]
fn a_name_that_is_taken() {
    let Some(node) = Node::new() else { return };
    let mut first = node.run(&[]);
    first.goes_on(&node);
    node.run(&[]).fails_with(6, &[crate::node::NAME, "held by"], "--name");
    first.suspends(&node);
}

#[test]
fn a_volume_that_changed() {
    let Some(node) = Node::new() else { return };
    let program = "$| = 1; open(H, '>>', '/volume/held'); while (1) { print \"on\\n\"; select(undef, undef, undef, 0.02) }";
    std::fs::write(node.volume("holder.pl"), program).unwrap();
    let start = |options: &[&str]| {
        let command = Node::torpor(options, &["perl", "/volume/holder.pl"]);
        node.start(&crate::node::words(&command))
    };
    let says_on = |container: &mut Container| {
        assert!(
            container.until(LONG, |container| container.output().contains("on\n")),
            "{}",
            container.errors()
        );
    };
    let mut container = start(&[]);
    says_on(&mut container);
    assert!(container.signal(Part::Torpor, Signal::TERM));
    assert_eq!(container.ends().code(), Some(SUSPENDED), "{}", container.errors());

    std::fs::write(node.volume("held"), "from outside").unwrap();
    let mut container = start(&["--on-restore-failure", "fail"]);
    container.fails_with(1, &["/volume/held"], "--allow-changed volume");
    let mut container = start(&["--allow-changed", "volume"]);
    container.says("restored generation=1");
    says_on(&mut container);
    assert_eq!(std::fs::read(node.volume("held")).unwrap(), b"from outside");
}

#[test]
fn a_program_that_crashes_right_after_its_restore() {
    let Some(node) = with_generations() else { return };
    std::fs::write(node.volume("crash"), "").unwrap();
    let newest = format!("generation={}", newest_number(&node));
    for _ in 0..2 {
        let mut container = node.run(&["--after-crash", "last"]);
        assert_eq!(container.ends().code(), Some(128 + 11), "{}", container.errors());
        container.line_with(&["ERROR", "within seconds of its restore", "counts as a failed attempt"]);
        container.line_with(&["INFO restored", &newest]);
    }
    std::fs::remove_file(node.volume("crash")).unwrap();
    let mut container = node.run(&["--after-crash", "last"]);
    container.goes_on(&node);
    container.line_with(&["passed over", &newest]);
    assert!(!container.errors().contains(&format!("restored {newest}")));
    node.verify();
}

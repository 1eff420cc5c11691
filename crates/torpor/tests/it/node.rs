//! A node: a directory with a volume, in which containers of one workload start one after the other.
//!
//! Every process of a container is seen from outside, by its PID on this machine.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{children, number_inside, send, tree};

/// The name that every container of a node works under.
pub(crate) const NAME: &str = "t/steps";
/// The code that Torpor ends with after a suspend.
pub(crate) const SUSPENDED: i32 = 99;
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(3);
/// Counts, and notes each step on the volume with a value that follows from all steps before it.
const PROGRAM: &str = r#"
$| = 1;
my ($i, $x) = (0, 1);
while (1) {
    $i++;
    $x = ($x * 69069 + 1) & 0xffffffff;
    open(my $steps, '>>', '/volume/steps') or die;
    print $steps "$i $x\n";
    close $steps;
    kill 11, $$ if -e '/volume/crash';
    select(undef, undef, undef, 0.01);
}
"#;
/// Starts the rest of its command line and waits for whatever is there, as the PID 1 of a container with several
/// programs does.
const INIT: &str = r#"
my $first = fork // die;
exec @ARGV or die unless $first;
my $code = 1;
while ((my $ended = wait) != -1) { $code = $? & 127 ? 128 + ($? & 127) : $? >> 8 if $ended == $first }
exit $code;
"#;

/// Where containers start.
#[derive(Debug)]
pub(crate) struct Node {
    directory: TempDir,
    criu: PathBuf,
}

/// Which process of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `torpor run`.
    Torpor,
    /// `torpor guard`.
    Guard,
    /// A CRIU that Torpor talks to.
    Criu,
    /// The root of the program's tree.
    Program,
}

/// A container that was started.
#[derive(Debug)]
pub(crate) struct Container {
    process: Child,
    errors: PathBuf,
}

impl Node {
    /// A node, or none with the reason said where this machine cannot have one.
    pub(crate) fn new() -> Option<Node> {
        let Some(criu) = crate::container::criu() else {
            eprintln!("SKIPPED: TORPOR_CRIU names no CRIU");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: containers are made as root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("volume/disk")).unwrap();
        let node = Node { directory, criu };
        std::fs::write(node.volume("program.pl"), PROGRAM).unwrap();
        std::fs::write(node.volume("init.pl"), INIT).unwrap();
        // The image is made at the first start; a start that makes it is no measure for others.
        node.start(&["true"]).ends();
        Some(node)
    }

    /// A path on the volume, as seen from outside.
    pub(crate) fn volume(&self, path: &str) -> PathBuf {
        self.directory.path().join("volume").join(path)
    }

    /// The disk that the store is on, which is the volume's unless another is mounted there.
    pub(crate) fn disk(&self) -> PathBuf {
        self.volume("disk")
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.disk().join("store")
    }

    /// Starts a container with `command` as its PID 1.
    pub(crate) fn start(&self, command: &[&str]) -> Container {
        let binary = Path::new(env!("CARGO_BIN_EXE_torpor"));
        let criu = if self.criu.is_dir() { &self.criu } else { self.criu.parent().unwrap() };
        let mut shows = OsString::from(binary);
        shows.push(":");
        shows.push(criu);
        let errors = self.directory.path().join(format!("{}.log", unique()));
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/container.sh"))
            .arg(self.directory.path())
            .args(command)
            .env("CONTAINER_SHOWS", shows)
            .env("TORPOR_CRIU", &self.criu)
            .stdin(Stdio::null())
            .stdout(File::create(errors.with_extension("out")).unwrap())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Container { process, errors }
    }

    /// The command line of `torpor run` with these options besides the usual, and a program.
    pub(crate) fn torpor(options: &[&str], program: &[&str]) -> Vec<String> {
        let usual = ["--log", "debug", "run", "--store", "file:///volume/disk/store", "--name", NAME];
        let (exit_code, pid) = (SUSPENDED.to_string(), FIRST_PID.to_string());
        let mut words = vec![env!("CARGO_BIN_EXE_torpor")];
        words.extend(usual);
        words.extend(["--exit-code", exit_code.as_str(), "--pid-base", pid.as_str()]);
        words.extend(options);
        words.push("--");
        words.extend(program);
        words.into_iter().map(str::to_owned).collect()
    }

    /// Starts `torpor run` with the program that counts.
    pub(crate) fn run(&self, options: &[&str]) -> Container {
        self.start(&words(&Node::torpor(options, &["perl", "/volume/program.pl"])))
    }

    /// Starts it in a container whose PID 1 is another.
    pub(crate) fn run_beside(&self, options: &[&str]) -> Container {
        let mut command = vec!["perl", "/volume/init.pl"];
        let torpor = Node::torpor(options, &["perl", "/volume/program.pl"]);
        command.extend(words(&torpor));
        self.start(&command)
    }

    /// The steps that the program has noted, each checked.
    pub(crate) fn steps(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.volume("steps")).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let steps: Vec<(u64, u64)> = whole
            .lines()
            .map(|line| {
                let (i, x) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is no step"));
                (i.parse().unwrap(), x.parse().unwrap())
            })
            .collect();
        let mut right = vec![1u64];
        for &(i, x) in &steps {
            while right.len() <= i as usize {
                right.push((right[right.len() - 1] * 69069 + 1) & 0xffff_ffff);
            }
            assert_eq!(x, right[i as usize], "step {i} was made by a program that is not itself any more");
        }
        steps.into_iter().map(|(i, _)| i).collect()
    }

    /// `torpor` with these words, a space apart, on the store, from outside.
    pub(crate) fn ask(&self, words: &str) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_torpor"))
            .args(words.split(' '))
            .arg("--store")
            .arg(self.store())
            .output()
            .unwrap()
    }

    /// The generations in the name's record that a fresh start has not put behind, oldest first. None where there is no
    /// record yet.
    pub(crate) fn generations(&self) -> Vec<Value> {
        let output = self.ask(&format!("show {NAME} --output json"));
        if !output.status.success() {
            return Vec::new();
        }
        let mut shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        let floor = shown["record"]["floor"].as_u64();
        match shown["record"]["generations"].take() {
            Value::Array(mut generations) => {
                generations.retain(|generation| generation["number"].as_u64() >= floor);
                generations
            }
            _ => Vec::new(),
        }
    }

    /// Every byte in the store is what it should be.
    #[track_caller]
    pub(crate) fn verify(&self) {
        let output = self.ask("verify --read-data");
        // 3 where no start came so far as to make one.
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "the store does not verify:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Container {
    /// What it wrote to its standard error.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.errors).unwrap()).into_owned()
    }

    /// What it wrote to its standard output.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.errors.with_extension("out")).unwrap()).into_owned()
    }

    /// The PID of its PID 1.
    pub(crate) fn init(&self) -> Option<i32> {
        children(self.process.id() as i32).first().copied()
    }

    /// All of its processes.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.init().map(tree).unwrap_or_default()
    }

    /// One of its processes.
    pub(crate) fn find(&self, part: Part) -> Option<i32> {
        self.processes().into_iter().find(|pid| Part::of(*pid) == Some(part))
    }

    /// Waits until it holds. Returns whether it came to hold in time, and before the end of the container.
    pub(crate) fn until(&mut self, time: Duration, mut holds: impl FnMut(&Container) -> bool) -> bool {
        let until = Instant::now() + time;
        loop {
            if holds(self) {
                return true;
            }
            if Instant::now() > until || self.process.try_wait().unwrap().is_some() {
                return holds(self);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until `text` stands in its standard error.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        let said = self.until(Duration::from_secs(15), |container| container.errors().contains(text));
        assert!(said, "{text:?} is not in:\n{}", self.errors());
    }

    /// Signals one of its processes, if it is there.
    pub(crate) fn signal(&self, part: Part, signal: Signal) -> bool {
        self.find(part).is_some_and(|pid| send(pid, signal))
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.ends_within(Duration::from_secs(20))
    }

    /// Waits for its end for so long.
    #[track_caller]
    pub(crate) fn ends_within(&mut self, time: Duration) -> ExitStatus {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end:\n{}", self.errors());
            std::thread::sleep(LOOK);
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// The end of a container whose node goes away.
    pub(crate) fn vanish(&mut self) {
        if let Some(init) = self.init() {
            send(init, Signal::KILL);
        }
        self.ends();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // `unshare --kill-child` takes everything with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Part {
    /// What a process is.
    pub(crate) fn of(pid: i32) -> Option<Part> {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        let program = words.next()?;
        if program.ends_with("init.pl") || line.contains("init.pl") {
            return None;
        }
        if program == env!("CARGO_BIN_EXE_torpor") && words.any(|word| word == "run") {
            return Some(Part::Torpor);
        }
        if line.contains("\0swrk\0") {
            // What a restore makes looks so too, until it is the program.
            return (number_inside(pid)? != FIRST_PID).then_some(Part::Criu);
        }
        if line.contains("\0guard\0") {
            return Some(Part::Guard);
        }
        (number_inside(pid)? == FIRST_PID).then_some(Part::Program)
    }
}

/// The PID that Torpor gives the program.
const FIRST_PID: i32 = 10_000;

/// Words as a command line has them.
pub(crate) fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A number that no other container of this test run has.
fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

//! Containers that last for one start of a program under `torpor run`, and the pod they belong to.
//!
//! `container.sh` makes them: a root layer that is new for every start, a volume that is not, own namespaces. All a
//! test sees comes from outside: output, exit codes, what an address answers, files below the container's root. What is
//! waited for is looked for again and again, up to a limit; everything is killed when it is dropped.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::identity::generations_survive_json;
use crate::process::{children, number_inside, tree};

mod lines;
mod network;
mod terminal;

pub(crate) use lines::Printing;
pub(crate) use network::Network;
pub(crate) use terminal::Terminal;

use lines::Lines;

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(40);
/// How often what is waited for is looked for.
const PACE: Duration = Duration::from_millis(15);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/container.sh");
const TORPOR: &str = env!("CARGO_BIN_EXE_torpor");
/// The name that everything is kept under.
const NAME: &str = "pod/main";
/// The PID that the program gets inside, and that none of Torpor's own has.
const FIRST_PID: i32 = 10_000;

/// What outlives containers: the image, the volume with the store in it, and the network.
pub(crate) struct Pod {
    dir: TempDir,
    criu: PathBuf,
    network: Option<Network>,
}

impl Pod {
    /// A new one; none, with the reason printed, where containers cannot be made or one of `programs` is missing.
    pub(crate) fn new(programs: &[&str]) -> Option<Pod> {
        let skip = |reason: &dyn Display| eprintln!("SKIPPED: {reason}");
        if !rustix::process::geteuid().is_root() {
            skip(&"containers need root");
            return None;
        }
        let Some(criu) = criu() else {
            skip(&"TORPOR_CRIU names no criu (cargo xtask test sets it)");
            return None;
        };
        for program in programs {
            if !["/usr/bin", "/usr/sbin"].iter().any(|directory| Path::new(directory).join(program).exists())
            {
                skip(&format_args!("{program} is not installed (cargo xtask test does it)"));
                return None;
            }
        }
        // An overlay's layers must not be on another overlay, as /tmp may be; the build's directory seldom is.
        let dir = tempfile::Builder::new().prefix("pod").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(dir.path().join("volume")).unwrap();
        Some(Pod { dir, criu, network: None })
    }

    /// The same, with a network between its containers and an outside.
    pub(crate) fn with_network(programs: &[&str]) -> Option<Pod> {
        let mut pod = Pod::new(programs)?;
        pod.network = Some(Network::new());
        Some(pod)
    }

    /// What is at `/volume` in every container.
    pub(crate) fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// Where containers meet the outside.
    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("a pod with a network")
    }

    /// `torpor COMMAND --store …` on the machine, for the pod's store. Returns what it printed.
    pub(crate) fn torpor(&self, arguments: &[&str]) -> String {
        let store = format!("file://{}", self.volume().join("store").display());
        let output = Command::new(TORPOR).args(arguments).args(["--store", &store]).output().unwrap();
        text(&output, arguments)
    }

    /// Starts `program` under `torpor run` with `options` in a new container.
    pub(crate) fn start(&self, options: &[&str], program: &[&str]) -> Container {
        self.run(options, program).start()
    }

    /// Prepares the same.
    pub(crate) fn run(&self, options: &[&str], program: &[&str]) -> Start<'_> {
        let mut command = ["--log", "debug", "run", "--store", "file:///volume/store", "--name", NAME]
            .map(String::from)
            .to_vec();
        command.insert(0, TORPOR.to_owned());
        command.push(format!("--pid-base={FIRST_PID}"));
        command.extend(options.iter().map(|option| (*option).to_owned()));
        command.push("--".to_owned());
        command.extend(program.iter().map(|word| (*word).to_owned()));
        self.command(command)
    }

    /// Prepares the binary under the name `crik`, with crik's own command line.
    pub(crate) fn crik(&self, words: &[&str]) -> Start<'_> {
        let link = self.volume().join("crik");
        if link.symlink_metadata().is_err() {
            symlink(TORPOR, link).unwrap();
        }
        let words = std::iter::once("/volume/crik").chain(words.iter().copied());
        self.command(words.map(str::to_owned).collect())
    }

    /// Prepares a command of the test's own, which comes to start `torpor run`.
    pub(crate) fn other(&self, words: &[&str]) -> Start<'_> {
        self.command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn command(&self, words: Vec<String>) -> Start<'_> {
        Start { pod: self, words, address: None, terminal: None, stdin: None, stdout: None }
    }

    /// Suspends and restores `program` three times, each time in a new container. `check` looks at it before the first
    /// suspend and after every restore, and is told how many restores there were; `output` is everything it has printed.
    pub(crate) fn three_rounds(
        &self,
        options: &[&str],
        program: &[&str],
        mut check: impl FnMut(&Container, u64),
    ) -> Vec<String> {
        let mut printed = Vec::new();
        let mut container = self.start(options, program);
        check(&container, 0);
        for round in 1..=3 {
            printed.extend(container.suspend());
            container = self.start(options, program);
            container.wait_restored(round);
            check(&container, round);
        }
        printed.extend(container.suspend());
        printed
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Whatever programs a test brings: what CRIU wrote of them stays what it is on the way through JSON.
        if !std::thread::panicking() {
            generations_survive_json(&self.volume().join("store"));
        }
    }
}

/// A start that is being prepared.
pub(crate) struct Start<'a> {
    pod: &'a Pod,
    words: Vec<String>,
    address: Option<String>,
    terminal: Option<Terminal>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
}

impl Start<'_> {
    /// The container's address in the pod's network.
    pub(crate) fn address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// All standard streams are a terminal, which is also the controlling one. What comes out of its master is taken for
    /// the program's lines and for the log, for they are mixed there.
    pub(crate) fn terminal(mut self, terminal: &Terminal) -> Self {
        self.terminal = Some(terminal.clone());
        self
    }

    /// Standard input is this instead of nothing.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Standard output is this instead of a pipe whose lines are taken.
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Makes the container and starts.
    pub(crate) fn start(self) -> Container {
        let Start { pod, words, address, terminal, stdin, stdout } = self;
        let mut command = match &terminal {
            Some(_) => {
                let mut setsid = Command::new("setsid");
                setsid.args(["--ctty", SCRIPT]);
                setsid
            }
            None => Command::new(SCRIPT),
        };
        command.arg(pod.dir.path());
        if address.is_some() {
            // An interface comes from outside, after the container was made and before the program starts.
            let wait = "until ip -4 addr show dev eth0 up 2>/dev/null | grep -q inet; do sleep 0.02; done; exec \"$@\"";
            command.args(["bash", "-c", wait, "wait"]);
        }
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        let mut shows = vec![TORPOR.to_owned()];
        if !pod.criu.starts_with("/usr") {
            shows.push(pod.criu.display().to_string());
        }
        command.env("TORPOR_CRIU", &pod.criu).env("CONTAINER_SHOWS", shows.join(":"));
        if let Some(terminal) = &terminal {
            command.stdin(terminal.slave()).stdout(terminal.slave()).stderr(terminal.slave());
        } else {
            command.stdin(stdin.unwrap_or(Stdio::null())).stdout(stdout.unwrap_or(Stdio::piped()));
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        // The ends that the child has are its own from here on, or nothing that reads the other ends would ever stop.
        drop(command);
        let (lines, log) = match terminal {
            Some(terminal) => {
                let both = Lines::of(Some(terminal.output()));
                (both.clone(), both)
            }
            None => (Lines::of(child.stdout.take()), Lines::of(child.stderr.take())),
        };
        let mut container =
            Container { child: RefCell::new(child), init: 0, lines, log, ended: Cell::new(None) };
        container.init = container.wait_for("PID 1 of the container", || container.find_init());
        if let Some(address) = address {
            pod.network().join(container.init, &address);
        }
        container
    }
}

/// A container with a program under `torpor run` in it.
pub(crate) struct Container {
    child: RefCell<Child>,
    init: i32,
    lines: Lines,
    log: Lines,
    ended: Cell<Option<i32>>,
}

impl Container {
    /// The first process below `unshare`, once the container has made it.
    fn find_init(&self) -> Option<i32> {
        let unshare = i32::try_from(self.child.borrow().id()).unwrap();
        children(unshare).first().copied()
    }

    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.get()
    }

    /// What Torpor has logged so far; what the program writes to standard error is among it.
    pub(crate) fn log(&self) -> String {
        self.log.get().join("\n")
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: impl Display, look: impl Fn() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            let ended = self.try_wait();
            if let Some(found) = look() {
                return found;
            }
            if let Some(code) = ended
                && self.lines.are_complete()
                && self.log.are_complete()
            {
                if let Some(found) = look() {
                    return found;
                }
                panic!("no {what}; the container ended with {code}\n{}", self.story());
            }
            assert!(since.elapsed() < LIMIT, "no {what} after {LIMIT:?}\n{}", self.story());
            std::thread::sleep(PACE);
        }
    }

    /// Waits until the program has printed a line that `wanted` takes, and returns the last such.
    #[track_caller]
    pub(crate) fn wait_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for("such line", || self.lines().into_iter().rfind(|line| wanted(line)))
    }

    /// Waits until the program has printed `more` lines than now.
    #[track_caller]
    pub(crate) fn wait_more_lines(&self, more: usize) {
        let wanted = self.lines().len() + more;
        self.wait_for(format_args!("{wanted} lines"), || (self.lines().len() >= wanted).then_some(()));
    }

    /// Waits until the program was restored, for the `round`th time.
    #[track_caller]
    pub(crate) fn wait_restored(&self, round: u64) {
        let status = self.wait_for("status file", || self.status());
        assert_eq!(status["restores"], round, "{status:#}\n{}", self.story());
        self.wait_for("end of the restore", || self.log().contains(" restored ").then_some(()));
    }

    /// The status file.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let file = NAME.replace('/', "+");
        serde_json::from_str(&self.read(&format!("/run/torpor/{file}.json")).ok()?).ok()
    }

    /// Where a path of the container is on the machine.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// The text of a file in it.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<String> {
        std::fs::read_to_string(self.path(path))
    }

    /// A command in the container's namespaces.
    fn inside(&self, words: &[&str]) -> Output {
        let target = self.init.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &target, "--mount", "--pid", "--net", "--uts", "--root", "--"]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command beside the program. Returns what it printed.
    #[track_caller]
    pub(crate) fn exec(&self, words: &[&str]) -> String {
        text(&self.inside(words), words)
    }

    /// Runs `torpor` beside the program, as in a sidecar that shares its runtime directory. Returns what it printed.
    #[track_caller]
    pub(crate) fn torpor(&self, arguments: &[&str]) -> String {
        self.exec(&[&[TORPOR], arguments].concat())
    }

    /// Runs a command beside the program until it succeeds. Returns what it printed.
    #[track_caller]
    pub(crate) fn exec_until(&self, words: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for(format_args!("wanted answer of {words:?}"), || {
            let output = self.inside(words);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success() && wanted(&text)).then_some(text)
        })
    }

    /// What a port of the container answers to `request`.
    #[track_caller]
    pub(crate) fn ask(&self, port: u16, request: &str) -> String {
        let script =
            format!("exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{request}' >&3 && timeout 5 cat <&3");
        self.exec_until(&["bash", "-c", &script], |answer| !answer.is_empty())
    }

    /// The processes of the program, as they are numbered inside.
    pub(crate) fn program_pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.program().into_iter().filter_map(number_inside).collect();
        pids.sort_unstable();
        pids
    }

    /// The processes of the program, as the machine numbers them.
    fn program(&self) -> Vec<i32> {
        let root = children(self.init).into_iter().find(|pid| number_inside(*pid) == Some(FIRST_PID));
        root.map(tree).unwrap_or_default()
    }

    /// What the program has open.
    pub(crate) fn open_files(&self) -> Vec<String> {
        let program = self.program();
        let open = program.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
        let links = open.flatten().flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    /// Sends Torpor a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.init).unwrap(), signal).unwrap();
    }

    /// Suspends the program by SIGTERM; it must end as suspended. Returns what it printed.
    #[track_caller]
    pub(crate) fn suspend(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let code = self.wait();
        assert!(
            code == 143 && !self.has_ended_by_itself(),
            "not suspended: ended with {code}\n{}",
            self.story()
        );
        self.lines()
    }

    /// Whether the program has come to its own end.
    pub(crate) fn has_ended_by_itself(&self) -> bool {
        self.log().lines().any(|line| line.contains("the program ended") && !line.contains("because"))
    }

    fn try_wait(&self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        if self.ended.get().is_none()
            && let Some(status) = self.child.borrow_mut().try_wait().unwrap()
        {
            self.ended.set(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))));
        }
        self.ended.get()
    }

    /// Waits for the end, and until all it printed is here. Returns the exit code.
    #[track_caller]
    pub(crate) fn wait(&self) -> i32 {
        let since = Instant::now();
        loop {
            let complete = self.lines.are_complete() && self.log.are_complete();
            if let Some(code) = self.try_wait().filter(|_| complete) {
                return code;
            }
            assert!(since.elapsed() < LIMIT, "it has not ended after {LIMIT:?}\n{}", self.story());
            std::thread::sleep(PACE);
        }
    }

    /// Kills all of it, as a node that fails does.
    pub(crate) fn crash(self) -> Vec<String> {
        self.signal(Signal::KILL);
        self.wait();
        self.lines()
    }

    /// What happened, for whoever reads that a test failed.
    pub(crate) fn story(&self) -> String {
        let lines = self.lines();
        let last = &lines[lines.len().saturating_sub(8)..];
        format!("last lines:\n  {}\nlog:\n  {}", last.join("\n  "), self.log().replace('\n', "\n  "))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // PID 1 takes everything in the container with it, and its mounts go with the last of them.
        if self.try_wait().is_none() {
            if let Some(init) = Pid::from_raw(self.init) {
                let _ = kill_process(init, Signal::KILL);
            }
            let child = &mut *self.child.borrow_mut();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a command printed; it must have succeeded.
#[track_caller]
fn text(output: &Output, words: &[&str]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The CRIU of the tests: a program of the machine's, or the whole prefix of a private one, which a container must be shown.
pub(crate) fn criu() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("TORPOR_CRIU").filter(|path| !path.is_empty())?);
    let prefix =
        named.parent().and_then(Path::parent).filter(|prefix| prefix.join("usr/sbin/criu").is_file());
    Some(prefix.map_or(named.clone(), Path::to_path_buf))
}

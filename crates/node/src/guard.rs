//! The guard: a process beside Torpor that outlives it.
//!
//! While a program is frozen, its life hangs on Torpor and CRIU. The guard is started before the freeze and told what
//! is at stake. Should Torpor be killed, it lets CRIU roll back by itself (CRIU does so when its client is gone), ends
//! a CRIU that does not, wakes what is still stopped, and takes a network lock away. It is this same program, executed
//! anew, so it shares no memory with the one it guards; it learns of Torpor's end by the end of a pipe.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::container::freezer::Freezer;
use crate::network_lock::Mark;
use crate::sys::process;
use crate::{network_lock, process_tree};

/// The subcommand under which the binary becomes a guard.
pub const SUBCOMMAND: &str = "guard";

/// How long CRIU may take to roll back by itself. Together with the rest it stays below the five seconds after which a
/// program must run again.
const ROLL_BACK: Duration = Duration::from_secs(2);
/// How often a guard looks whether CRIU has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What is at stake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// A dump is under way: this CRIU holds the tree below this process.
    Dump {
        /// CRIU's PID.
        criu: i32,
        /// The root of the tree.
        root: i32,
    },
    /// A dump of a container is under way.
    Container {
        /// CRIU's PID.
        criu: i32,
        /// The container's first process.
        root: i32,
        /// The directory of the control group that freezes it.
        freezer: Option<PathBuf>,
    },
    /// A restore is under way: what this CRIU makes is not yet a program.
    Restore {
        /// CRIU's PID.
        criu: i32,
        /// The PID that the root of the tree gets.
        root: i32,
    },
    /// A runtime makes checkpoints of containers.
    Call {
        /// The containers, with commas between them.
        ids: String,
        /// Where the runtime listens.
        socket: PathBuf,
    },
    /// Nothing.
    Nothing,
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Watch::Dump { criu, root } => write!(f, "dump {criu} {root}"),
            Watch::Container { criu, root, freezer: None } => write!(f, "container {criu} {root}"),
            Watch::Container { criu, root, freezer: Some(freezer) } => {
                write!(f, "container {criu} {root} {}", freezer.display())
            }
            Watch::Restore { criu, root } => write!(f, "restore {criu} {root}"),
            Watch::Call { ids, socket } => write!(f, "call {ids} {}", socket.display()),
            Watch::Nothing => f.write_str("nothing"),
        }
    }
}

/// A line that says nothing a guard understands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is nothing a guard can watch")]
pub struct NotAWatch(pub String);

impl FromStr for Watch {
    type Err = NotAWatch;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let pid = |word: &str| word.parse::<i32>().ok().filter(|pid| *pid > 1);
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let watch = match words.as_slice() {
            ["dump", criu, root] => pid(criu).zip(pid(root)).map(|(criu, root)| Watch::Dump { criu, root }),
            ["container", criu, root, freezer @ ..] => pid(criu).zip(pid(root)).map(|(criu, root)| {
                Watch::Container { criu, root, freezer: freezer.first().map(PathBuf::from) }
            }),
            ["restore", criu, root] => {
                pid(criu).zip(pid(root)).map(|(criu, root)| Watch::Restore { criu, root })
            }
            ["call", ids, socket @ ..] if !socket.is_empty() => {
                Some(Watch::Call { ids: (*ids).to_owned(), socket: socket.join(" ").into() })
            }
            ["nothing"] => Some(Watch::Nothing),
            _ => None,
        };
        watch.ok_or_else(|| NotAWatch(line.to_owned()))
    }
}

/// A guard that runs.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    line: ChildStdin,
    /// The guard holds it too, so that it is set for as long as either of the two may leave a lock.
    _mark: Option<Mark>,
}

impl Guard {
    /// Starts one.
    ///
    /// # Errors
    /// Where this program cannot be executed again.
    pub fn start() -> io::Result<Guard> {
        let mark = Mark::set().inspect_err(|error| tracing::debug!(%error, "no mark in the network")).ok();
        // A guard says nothing on its standard output, so that is where it can hold the mark.
        let shared = mark.as_ref().and_then(|mark| mark.share().ok());
        let mut process = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(shared.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::inherit())
            .spawn()?;
        let line = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Guard { process, line, _mark: mark })
    }

    /// The guard's PID.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Tells it what to watch from now on.
    ///
    /// # Errors
    /// Where the guard is gone. What it guarded goes on unguarded.
    pub fn watch(&mut self, watch: Watch) -> io::Result<()> {
        writeln!(self.line, "{watch}")
    }

    /// Ends it: nothing is at stake any more.
    pub fn dismiss(mut self) {
        // A guard that was killed needs no telling.
        let _ = self.watch(Watch::Nothing);
        drop(self.line);
        let _ = self.process.wait();
    }
}

/// What a guard does, until its `line` ends: from then on Torpor is gone. Returns what it did about that.
///
/// # Errors
/// Where the line cannot be read.
pub fn stand(line: impl Read) -> io::Result<Outcome> {
    let mut watch = Watch::Nothing;
    for said in BufReader::new(line).lines() {
        if let Ok(new) = said?.parse() {
            watch = new;
        }
    }
    Ok(match watch {
        Watch::Nothing => Outcome::NothingToDo,
        Watch::Dump { criu, root } => {
            let rolled_back = end_of(criu);
            let woken = release(root);
            Outcome::Released { rolled_back, woken }
        }
        Watch::Container { criu, root, freezer } => {
            let rolled_back = end_of(criu);
            let woken = crate::container::release(root, freezer.map(Freezer::new).as_ref());
            Outcome::Released { rolled_back, woken }
        }
        Watch::Call { ids, socket } => {
            let woken = crate::container::archive::given_up(&ids, &socket);
            Outcome::Released { rolled_back: true, woken }
        }
        Watch::Restore { criu, root } => {
            let rolled_back = end_of(criu);
            // Half made or whole: nobody is there to pass on its end. The next start restores it again.
            process_tree::kill(root);
            Outcome::Released { rolled_back, woken: 0 }
        }
    })
}

/// What a guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was at stake.
    NothingToDo,
    /// Torpor had been killed while something was.
    Released {
        /// Whether CRIU ended by itself.
        rolled_back: bool,
        /// How many stopped processes were woken.
        woken: usize,
    },
}

/// Waits for CRIU's end, and brings it about where it takes too long. Returns whether it ended by itself.
pub(crate) fn end_of(criu: i32) -> bool {
    let until = Instant::now() + ROLL_BACK;
    while Instant::now() < until {
        if process_tree::state(criu).is_none_or(|state| state == 'Z') {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    let _ = process::kill(criu, libc::SIGKILL);
    false
}

/// Undoes what a CRIU that was killed in the midst of a dump has left. Returns how many processes were woken.
pub fn release(root: i32) -> usize {
    for (what, result) in [
        ("the lock of the network", network_lock::remove()),
        ("sockets under repair", network_lock::end_repair(&process_tree::of(root))),
    ] {
        match result {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "CRIU left {what}, which is taken away"),
            Err(error) => tracing::error!(%error, "{what}, if CRIU left any, cannot be taken away"),
        }
    }
    wake(root)
}

/// Lets every stopped process of the tree go on. Whatever traced one is gone, so what is left is a job-control stop.
pub fn wake(root: i32) -> usize {
    process_tree::of(root)
        .into_iter()
        .filter(|pid| process_tree::is_stopped(*pid) && process::kill(*pid, libc::SIGCONT).is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_in_a_line() {
        let container = |freezer: Option<&str>| Watch::Container {
            criu: 12,
            root: 99,
            freezer: freezer.map(PathBuf::from),
        };
        for watch in [
            Watch::Nothing,
            Watch::Restore { criu: 7, root: 10_000 },
            Watch::Dump { criu: 12, root: 10_000 },
            container(None),
            container(Some("/sys/fs/cgroup/a group")),
            Watch::Call { ids: "1f,2a".into(), socket: "/run/a runtime.sock".into() },
        ] {
            assert_eq!(watch.to_string().parse(), Ok(watch));
        }
        for line in ["", "dump", "dump 1 2", "dump 5 x", "dump -1 5", "kill 5", "call 1f"] {
            assert_eq!(line.parse::<Watch>(), Err(NotAWatch(line.to_owned())));
        }
    }

    #[test]
    fn when_torpor_is_gone_what_is_stopped_goes_on() {
        let mut stopped = Command::new("sleep").arg("1000").spawn().unwrap();
        let root = stopped.id() as i32;
        process::kill(root, libc::SIGSTOP).unwrap();
        while process_tree::state(root) != Some('T') {
            std::thread::yield_now();
        }
        let mut ended = Command::new("true").spawn().unwrap();
        let criu = ended.id() as i32;
        ended.wait().unwrap();
        let line = format!("{}\n", Watch::Dump { criu, root });
        let outcome = stand(line.as_bytes()).unwrap();
        assert_eq!(outcome, Outcome::Released { rolled_back: true, woken: 1 });
        while process_tree::state(root) == Some('T') {
            std::thread::yield_now();
        }
        stopped.kill().unwrap();
        stopped.wait().unwrap();
    }

    #[test]
    fn a_dismissed_guard_touches_nothing() {
        let line = format!("{}\n{}\n", Watch::Dump { criu: 4_000_000, root: 4_000_001 }, Watch::Nothing);
        assert_eq!(stand(line.as_bytes()).unwrap(), Outcome::NothingToDo);
    }
}

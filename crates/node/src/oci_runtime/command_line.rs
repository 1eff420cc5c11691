//! The command line of an OCI runtime, as far as it has to be understood.
//!
//! runc and crun have the same commands, and most flags in common (opencontainers/runc, `main.go` and `create.go`;
//! containers/crun, `src/crun.c` and `src/create.c`). What is not understood here is for the real runtime to judge: it gets
//! all words as they are.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Global flags that take a value as a word of its own.
const GLOBAL_VALUES: &[&str] =
    &["root", "log", "log-format", "log-level", "rootless", "criu", "cgroup-manager"];
/// Flags of `create` and `run` that take a value.
const CREATE_VALUES: &[&str] = &[
    "bundle",
    "b",
    "console-socket",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
    "config",
    "f",
    "apparmor",
    "process-label",
];

/// How the runtime was asked to write its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `time="…" level=… msg="…"`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What stands before the command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Global {
    /// The directory of states, where it is not the usual one.
    pub root: Option<PathBuf>,
    /// The file of the log; standard error where there is none.
    pub log: Option<PathBuf>,
    /// What the log looks like.
    pub log_format: LogFormat,
    /// The words themselves.
    pub words: Vec<OsString>,
}

/// A container that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// The container's ID.
    pub id: String,
    /// The directory of its configuration; the current one where none is named.
    pub bundle: PathBuf,
    /// Where its PID is written.
    pub pid_file: Option<PathBuf>,
    /// Who gets its terminal.
    pub console_socket: Option<PathBuf>,
    /// `run` with `--detach`.
    pub detach: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make a container that waits for its start.
    Create(New),
    /// Make one that runs.
    Run(New),
    /// Start one that waits.
    Start {
        /// Its ID.
        id: String,
    },
    /// Send it a signal.
    Kill {
        /// Its ID.
        id: String,
        /// The signal's name or number, as it was given; `SIGTERM` where none was.
        signal: String,
    },
    /// Remove what there is of it.
    Delete {
        /// Its ID.
        id: String,
    },
    /// All else.
    Other,
}

/// A command line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// What stands before the command.
    pub global: Global,
    /// The command.
    pub command: Command,
}

/// One flag or word of a command line.
struct Flag {
    name: String,
    value: Option<OsString>,
}

/// Reads `--name`, `--name=value`, `-n` and Go's `-name`.
fn flag(word: &OsStr) -> Option<Flag> {
    let bytes = word.as_bytes();
    let body =
        bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|body| !body.is_empty())?;
    let (name, value) = match body.iter().position(|byte| *byte == b'=') {
        Some(at) => (&body[..at], Some(OsString::from_vec(body[at + 1..].to_vec()))),
        None => (body, None),
    };
    Some(Flag { name: String::from_utf8(name.to_vec()).ok()?, value })
}

/// Takes flags off the front of `words`. Those in `values` take the next word where they have no value of their own.
fn flags(words: &mut &[OsString], values: &[&str]) -> Option<Vec<Flag>> {
    let mut found = Vec::new();
    while let Some((first, rest)) = words.split_first() {
        if first == "--" {
            *words = rest;
            break;
        }
        let Some(mut flag) = flag(first) else { break };
        *words = rest;
        if flag.value.is_none() && values.contains(&flag.name.as_str()) {
            let (value, rest) = words.split_first()?;
            flag.value = Some(value.clone());
            *words = rest;
        }
        found.push(flag);
    }
    Some(found)
}

impl CommandLine {
    /// Understands the words after the program's name. What cannot be understood is [`Command::Other`].
    #[must_use]
    pub fn parse(words: &[OsString]) -> CommandLine {
        let mut rest = words;
        let Some(given) = flags(&mut rest, GLOBAL_VALUES) else {
            return CommandLine { global: Global::default(), command: Command::Other };
        };
        let mut global = Global { words: words[..words.len() - rest.len()].to_vec(), ..Global::default() };
        for Flag { name, value } in given {
            match (name.as_str(), value) {
                ("root", Some(value)) => global.root = Some(PathBuf::from(value)),
                // crun takes `file:PATH` too.
                ("log", Some(value)) => {
                    let path = value.as_bytes().strip_prefix(b"file:").unwrap_or(value.as_bytes());
                    global.log = Some(PathBuf::from(OsStr::from_bytes(path)))
                        .filter(|path| !path.as_os_str().is_empty());
                }
                ("log-format", Some(value)) if value == "json" => global.log_format = LogFormat::Json,
                _ => {}
            }
        }
        let command = command(rest).unwrap_or(Command::Other);
        CommandLine { global, command }
    }
}

/// The command and its words; none where they are not understood.
fn command(words: &[OsString]) -> Option<Command> {
    let (name, mut rest) = words.split_first()?;
    match name.to_str()? {
        "create" => new(&mut rest).map(Command::Create),
        "run" => new(&mut rest).map(Command::Run),
        "start" => Some(Command::Start { id: ids(rest, &[])?.next()? }),
        "kill" => {
            let mut words = ids(rest, &[])?;
            let id = words.next()?;
            Some(Command::Kill { id, signal: words.next().unwrap_or_else(|| "SIGTERM".to_owned()) })
        }
        "delete" => Some(Command::Delete { id: ids(rest, &[])?.next()? }),
        _ => None,
    }
}

fn new(rest: &mut &[OsString]) -> Option<New> {
    let mut new = New {
        id: String::new(),
        bundle: PathBuf::from("."),
        pid_file: None,
        console_socket: None,
        detach: false,
        no_pivot: false,
    };
    let mut take = |given: Vec<Flag>| {
        for Flag { name, value } in given {
            match (name.as_str(), value) {
                ("bundle" | "b", Some(value)) => new.bundle = PathBuf::from(value),
                ("pid-file", Some(value)) => new.pid_file = Some(PathBuf::from(value)),
                ("console-socket", Some(value)) => new.console_socket = Some(PathBuf::from(value)),
                ("detach" | "d", _) => new.detach = true,
                ("no-pivot", _) => new.no_pivot = true,
                _ => {}
            }
        }
    };
    take(flags(rest, CREATE_VALUES)?);
    let (id, after) = rest.split_first()?;
    *rest = after;
    // crun takes flags behind the ID too.
    take(flags(rest, CREATE_VALUES)?);
    new.id = identifier(id)?;
    Some(new)
}

/// The words that are no flags, the first of which is a container's ID.
fn ids<'a>(words: &'a [OsString], values: &[&str]) -> Option<impl Iterator<Item = String> + use<'a>> {
    let mut rest = words;
    flags(&mut rest, values)?;
    let mut plain = rest.iter().filter_map(|word| word.to_str().map(str::to_owned));
    let id = identifier(OsStr::new(&plain.next()?))?;
    Some(std::iter::once(id).chain(plain))
}

/// What may be an ID: it becomes the name of a directory.
fn identifier(word: &OsStr) -> Option<String> {
    let text = word.to_str()?;
    let fits = !text.is_empty()
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    fits.then(|| text.to_owned())
}

impl New {
    /// The bundle's path, whatever the current directory is later.
    #[must_use]
    pub fn absolute_bundle(&self) -> PathBuf {
        std::path::absolute(&self.bundle).unwrap_or_else(|_| self.bundle.clone())
    }

    /// The file of its configuration.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.bundle.join(Path::new("config.json"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> CommandLine {
        let words: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
        CommandLine::parse(&words)
    }

    #[test]
    fn containerds_shim_creates_a_container() {
        let line = parse(
            "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup \
             create --bundle /b --pid-file /b/init.pid --console-socket /tmp/pty.sock one",
        );
        assert_eq!(line.global.root.as_deref(), Some(Path::new("/run/containerd/runc/k8s.io")));
        assert_eq!(line.global.log.as_deref(), Some(Path::new("/b/log.json")));
        assert_eq!(line.global.log_format, LogFormat::Json);
        assert_eq!(line.global.words.len(), 7);
        let Command::Create(new) = line.command else { panic!("{line:?}") };
        assert_eq!((new.id.as_str(), new.bundle.as_path()), ("one", Path::new("/b")));
        assert_eq!(new.pid_file.as_deref(), Some(Path::new("/b/init.pid")));
        assert_eq!(new.console_socket.as_deref(), Some(Path::new("/tmp/pty.sock")));
    }

    #[test]
    fn conmon_creates_one_with_crun() {
        let line = parse(
            "--systemd-cgroup --log=file:/x/oci-log --log-format=json --root=/r create -b /b --pid-file=/p one",
        );
        assert_eq!(line.global.log.as_deref(), Some(Path::new("/x/oci-log")));
        assert_eq!(line.global.root.as_deref(), Some(Path::new("/r")));
        assert!(
            matches!(line.command, Command::Create(new) if new.bundle == Path::new("/b") && new.id == "one")
        );
    }

    #[test]
    fn what_containers_are_told() {
        let start = |id: &str| Command::Start { id: id.to_owned() };
        let kill = |id: &str, signal: &str| Command::Kill { id: id.to_owned(), signal: signal.to_owned() };
        let delete = |id: &str| Command::Delete { id: id.to_owned() };
        for (line, expected) in [
            ("start one", start("one")),
            ("--debug --root /r start one", start("one")),
            ("kill one", kill("one", "SIGTERM")),
            ("kill --all one 9", kill("one", "9")),
            ("kill one KILL", kill("one", "KILL")),
            ("delete --force one", delete("one")),
            ("delete -f one", delete("one")),
            ("delete --regex .*", Command::Other),
            ("state one", Command::Other),
            ("exec -t one sh", Command::Other),
            ("features", Command::Other),
            ("--version", Command::Other),
            ("", Command::Other),
            ("create", Command::Other),
            ("create --bundle", Command::Other),
            ("delete ../one", Command::Other),
            ("start ..", Command::Other),
            ("--root", Command::Other),
        ] {
            assert_eq!(parse(line).command, expected, "{line}");
        }
    }

    #[test]
    fn a_run_may_go_on_by_itself() {
        for (line, detached) in
            [("run one", false), ("run -d one", true), ("run --bundle /b --detach one", true)]
        {
            assert!(matches!(parse(line).command, Command::Run(new) if new.detach == detached), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_words_are_too_strange(words in proptest::collection::vec("[-=a-z/.]{0,12}", 0..8)) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let line = CommandLine::parse(&words);
            prop_assert!(line.global.words.len() <= words.len());
        }
    }
}

//! Start a program fresh, so that it can be frozen later: its own session, PIDs above Torpor's, namespaces of its own,
//! and none of Torpor's privileges.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::seccomp::Filter;
use crate::sys::process::{self, CLONE_NEWIPC, CLONE_NEWTIME, Child};

/// How a program is to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Its name or path, looked up in `PATH` where it has no slash.
    pub program: OsString,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
    /// Variables added to Torpor's own.
    pub environment: Vec<(OsString, OsString)>,
    /// What it gets as standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
    /// Which of these is its own terminal, if it has one.
    pub terminal: Option<BorrowedFd<'a>>,
    /// The PID to start at, where privileges allow; the following free one if it is taken.
    pub pid_base: i32,
    /// Namespaces it should have of its own, where privileges allow.
    pub namespaces: Namespaces,
    /// Those without which it must not start.
    pub required: Namespaces,
    /// Capabilities it must not have.
    pub without: Capabilities,
    /// What every system call of the program is held against.
    pub filter: Option<Filter>,
}

/// Namespaces that a program has of its own; all others it shares with Torpor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// System V and POSIX message queues, semaphores and shared memory.
    pub ipc: bool,
    /// The monotonic and boot clocks.
    pub time: bool,
}

/// What could be given to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Launched {
    /// Its PID.
    pub pid: i32,
    /// The namespaces it has of its own.
    pub namespaces: Namespaces,
    /// Whether its PID was chosen, so that it lies above Torpor's own.
    pub pid_chosen: bool,
    /// Whether the PIDs of its children continue from its own.
    pub children_follow: bool,
}

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such program.
    #[error("{}: there is no such program", program.display())]
    NotFound {
        /// What was asked for.
        program: PathBuf,
    },
    /// It may not be executed.
    #[error("{}: may not be executed", program.display())]
    NotExecutable {
        /// What was asked for.
        program: PathBuf,
    },
    /// A name, an argument or a variable has a NUL byte.
    #[error("{what:?} has a NUL byte")]
    Nul {
        /// The string.
        what: OsString,
    },
    /// The system refused a step.
    #[error("{}: cannot start: {step}", program.display())]
    Step {
        /// What was to be started.
        program: PathBuf,
        /// The step that failed.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// The exit code that shells give for this.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            LaunchError::NotFound { .. } => 127,
            _ => 126,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            LaunchError::NotFound { .. } => "give the program's full path, or put its directory into PATH",
            LaunchError::NotExecutable { .. } => "make it executable (chmod +x), or name its interpreter",
            LaunchError::Nul { .. } => "take the NUL byte out",
            LaunchError::Step { step: "seccomp profile" | "capabilities", .. } => {
                "let the seccomp profile allow prctl, capget, capset and execve, which Torpor ends a start with"
            }
            LaunchError::Step { .. } => "`torpor doctor` tells which privileges are missing",
        }
    }
}

/// Most PIDs that are tried from the base on: a handful may be taken by other programs of a shared PID namespace.
const PID_TRIES: i32 = 64;

impl Launch<'_> {
    /// Starts the program.
    ///
    /// # Errors
    /// Where there is no such program, or the system refuses it; nothing runs then.
    pub fn start(&self) -> Result<Launched, LaunchError> {
        let path = find(&self.program)?;
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| LaunchError::Nul { what: text.to_owned() })
        };
        let mut arguments = vec![c_string(&self.program)?];
        for argument in &self.arguments {
            arguments.push(c_string(argument)?);
        }
        let mut child = Child {
            program: c_string(path.as_os_str())?,
            arguments,
            environment: self
                .environment()
                .iter()
                .map(|variable| c_string(variable))
                .collect::<Result<_, _>>()?,
            directory: None,
            streams: self.streams.map(|stream| stream.as_raw_fd()),
            terminal: self.terminal.map(|terminal| terminal.as_raw_fd()),
            drop_capabilities: self.without.bits(),
            filter: self.filter.clone(),
            clone_flags: 0,
            pid: None,
        };
        let step = |step, source| LaunchError::Step { program: path.clone(), step, source };
        let (held, namespaces, pid_chosen) =
            self.clone_as_far_as_allowed(&mut child).map_err(|e| step("clone", e))?;
        let pid = held.pid;
        let children_follow = pid_chosen && continue_pids_after(pid).is_ok();
        held.release().map_err(|(name, source)| {
            let _ = process::ended_child(process::Wait::Reap(pid));
            match (name, source.kind()) {
                ("execute", io::ErrorKind::NotFound) => LaunchError::NotFound { program: path.clone() },
                ("execute", io::ErrorKind::PermissionDenied) => {
                    LaunchError::NotExecutable { program: path.clone() }
                }
                _ => step(name, source),
            }
        })?;
        Ok(Launched { pid, namespaces, pid_chosen, children_follow })
    }

    /// Asks for everything first, and for less where the system refuses: each privilege may be missing alone.
    fn clone_as_far_as_allowed(&self, child: &mut Child) -> io::Result<(process::Held, Namespaces, bool)> {
        let mut last = io::Error::from_raw_os_error(libc::EPERM);
        for namespaces in self.namespaces.most_to_none() {
            if !namespaces.has(self.required) {
                continue;
            }
            child.clone_flags = namespaces.clone_flags();
            for offset in 0..PID_TRIES {
                child.pid = Some(self.pid_base + offset);
                match process::clone_held(child) {
                    Ok(held) => return Ok((held, namespaces, true)),
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(_) => break,
                }
            }
            child.pid = None;
            match process::clone_held(child) {
                Ok(held) => return Ok((held, namespaces, false)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn environment(&self) -> Vec<OsString> {
        let own =
            std::env::vars_os().filter(|(name, _)| !self.environment.iter().any(|(added, _)| added == name));
        own.chain(self.environment.iter().cloned())
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            })
            .collect()
    }
}

impl Namespaces {
    /// No namespaces of its own.
    pub const NONE: Namespaces = Namespaces { ipc: false, time: false };
    /// All that Torpor gives a program.
    pub const ALL: Namespaces = Namespaces { ipc: true, time: true };

    fn has(self, required: Namespaces) -> bool {
        (self.ipc || !required.ipc) && (self.time || !required.time)
    }

    fn clone_flags(self) -> u64 {
        (if self.ipc { CLONE_NEWIPC } else { 0 }) | (if self.time { CLONE_NEWTIME } else { 0 })
    }

    fn most_to_none(self) -> Vec<Namespaces> {
        let mut choices = vec![
            self,
            Namespaces { time: false, ..self },
            Namespaces { ipc: false, ..self },
            Namespaces::NONE,
        ];
        choices.dedup();
        choices
    }
}

/// Lets the system give out PIDs from `pid` on, so that the program's children get PIDs above Torpor's too. Only in a PID
/// namespace of our own: elsewhere, others would get PIDs from the program's range.
///
/// # Errors
/// Where Torpor is not PID 1, or `/proc/sys/kernel/ns_last_pid` may not be written.
pub fn continue_pids_after(pid: i32) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    std::fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string())
}

/// The file that a program's name means: itself if it has a slash, else the first in `PATH`.
///
/// # Errors
/// [`LaunchError::NotFound`].
pub fn find(program: &OsStr) -> Result<PathBuf, LaunchError> {
    if program.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    find_in(&path, program, is_executable)
        .ok_or_else(|| LaunchError::NotFound { program: PathBuf::from(program) })
}

fn find_in(path: &OsStr, program: &OsStr, is_executable: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory })
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn sh(script: &str, streams: [BorrowedFd<'_>; 3]) -> Launched {
        Launch {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("TORPOR_TEST".into(), "yes".into())],
            streams,
            terminal: None,
            pid_base: 21_000,
            namespaces: Namespaces::ALL,
            required: Namespaces::NONE,
            without: Capabilities::NONE,
            filter: None,
        }
        .start()
        .unwrap()
    }

    fn wait(pid: i32) -> process::Ended {
        loop {
            if let Some((_, ended)) = process::ended_child(process::Wait::Reap(pid)).unwrap() {
                return ended;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_leads_its_own_session_and_its_exit_code_comes_through() {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let script =
            r#"test "$TORPOR_TEST" = yes && set -- $(cat /proc/$$/stat) && test "$6" = $$ && exit 7"#;
        let launched = sh(script, [null.as_fd(), null.as_fd(), null.as_fd()]);
        assert_eq!(wait(launched.pid), process::Ended::Code(7));
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let launch = |program: &str| {
            Launch {
                program: program.into(),
                arguments: vec![],
                environment: vec![],
                streams: [null.as_fd(); 3],
                terminal: None,
                pid_base: 21_500,
                namespaces: Namespaces::NONE,
                required: Namespaces::NONE,
                without: Capabilities::NONE,
                filter: None,
            }
            .start()
            .unwrap_err()
        };
        for program in ["/nowhere/to/be/found", "nowhere-to-be-found"] {
            let error = launch(program);
            assert_eq!(error.exit_code(), 127, "{error}");
            assert!(error.to_string().contains(program), "{error}");
        }
        assert_eq!(launch("/etc/passwd").exit_code(), 126);
    }

    #[test]
    fn path_is_searched_in_order() {
        let there = [Path::new("/b/x"), Path::new("./y"), Path::new("/c/x")];
        let find =
            |program: &str| find_in(OsStr::new("/a:/b::/c"), OsStr::new(program), |p| there.contains(&p));
        assert_eq!(find("x"), Some(PathBuf::from("/b/x")));
        assert_eq!(find("y"), Some(PathBuf::from("./y")));
        assert_eq!(find("z"), None);
    }
}

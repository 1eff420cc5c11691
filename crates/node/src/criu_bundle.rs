//! Which CRIU is used: the one asked for, the one that came with Torpor, or the system's.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use torpor_criu::program::Program;

use crate::sys::probe;

/// The variable that names a CRIU: an executable, or the prefix of a private one.
pub const VARIABLE: &str = "TORPOR_CRIU";

/// The oldest CRIU that is used. Older ones do not start on kernels from 6.13 (below 4.1), or cannot dump TCP sockets on
/// kernels from 6.16 (below 4.2).
pub const OLDEST: CriuVersion = CriuVersion { major: 4, minor: 2, patch: 0 };

/// Where a CRIU was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Named on the command line or in the configuration.
    Flag,
    /// Named by [`VARIABLE`].
    Variable,
    /// In `../lib/torpor/criu` beside the program's directory.
    Installed,
    /// In `/opt/torpor/criu`.
    Opt,
    /// Beside the build (`target/criu`).
    Build,
    /// The system's.
    System,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Place::Flag => "named by --criu",
            Place::Variable => "named by TORPOR_CRIU",
            Place::Installed => "came with Torpor",
            Place::Opt => "private",
            Place::Build => "private, of this build",
            Place::System => "the system's",
        })
    }
}

/// A CRIU, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How it is started.
    pub program: Program,
    /// Where it was found.
    pub place: Place,
}

/// Why no CRIU can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindCriuError {
    /// The one asked for is not there.
    #[error("{} ({place}) is neither an executable nor a directory with a CRIU in it", path.display())]
    NotACriu {
        /// What was named.
        path: PathBuf,
        /// Where it was named.
        place: Place,
    },
    /// There is none anywhere.
    #[error("no CRIU found in any of: {}", list(looked_in))]
    None {
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// This program was started with more privileges than its caller has, who must not choose what gets them.
    #[error("{} ({place}) is not used by a program that has file capabilities", path.display())]
    NotTrusted {
        /// What was named.
        path: PathBuf,
        /// Where it was named.
        place: Place,
    },
    /// It cannot be started.
    #[error("cannot start CRIU {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not say which version it is.
    #[error("{} does not tell its version: {said}", path.display())]
    NoVersion {
        /// The program.
        path: PathBuf,
        /// What it printed.
        said: String,
    },
}

impl FindCriuError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            FindCriuError::NotACriu { .. } | FindCriuError::None { .. } => {
                "install CRIU 4.2 or newer, put Torpor's private one in /opt/torpor/criu, or name one with --criu \
                 or TORPOR_CRIU (in the source tree: cargo xtask criu)"
            }
            FindCriuError::NotTrusted { .. } => {
                "put the CRIU in /opt/torpor/criu, or run Torpor as root without file capabilities"
            }
            FindCriuError::Start { .. } | FindCriuError::NoVersion { .. } => {
                "try `criu --version` by hand; a private CRIU must be whole and for this architecture"
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Finds the CRIU to use; `flag` is what the command line or configuration names. Nothing is run.
///
/// # Errors
/// What was named explicitly is no CRIU or may not be used, or there is none.
pub fn find(flag: Option<&Path>) -> Result<Found, FindCriuError> {
    let around = Around {
        flag: flag.map(Path::to_path_buf),
        variable: std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from),
        executable: std::env::current_exe().ok(),
        path: std::env::var_os("PATH"),
        privileged: probe::started_with_more_privileges(),
    };
    choose(&candidates(&around)?, &|path| Kind::of(path))
}

/// The CRIU to use, with plugins from a directory where one is named.
///
/// # Errors
/// As [`find`].
pub fn with_plugins(flag: Option<&Path>, plugins: Option<&Path>) -> Result<Program, FindCriuError> {
    let program = find(flag)?.program;
    Ok(match plugins {
        Some(plugins) => program.with_plugins(plugins),
        None => program,
    })
}

/// What decides where CRIU is looked for.
#[derive(Debug, Default)]
struct Around {
    flag: Option<PathBuf>,
    variable: Option<PathBuf>,
    executable: Option<PathBuf>,
    path: Option<OsString>,
    privileged: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    place: Place,
}

/// The places in the order in which they are tried. One that was named explicitly is the only one.
fn candidates(around: &Around) -> Result<Vec<Candidate>, FindCriuError> {
    let named = [(&around.flag, Place::Flag), (&around.variable, Place::Variable)];
    for (path, place) in named {
        match path {
            Some(path) if around.privileged => {
                return Err(FindCriuError::NotTrusted { path: path.clone(), place });
            }
            Some(path) => return Ok(vec![Candidate { path: path.clone(), place }]),
            None => {}
        }
    }
    let mut candidates = Vec::new();
    let mut add = |path: PathBuf, place| candidates.push(Candidate { path, place });
    let directory = around.executable.as_deref().and_then(Path::parent);
    if let Some(parent) = directory.and_then(Path::parent).filter(|_| !around.privileged) {
        add(parent.join("lib/torpor/criu"), Place::Installed);
    }
    add("/opt/torpor/criu".into(), Place::Opt);
    if !around.privileged {
        // Built programs are in target/PROFILE, those of tests in target/PROFILE/deps.
        for above in directory.into_iter().flat_map(Path::ancestors).skip(1).take(2) {
            add(above.join("criu"), Place::Build);
        }
        for directory in around.path.iter().flat_map(std::env::split_paths) {
            add(directory.join("criu"), Place::System);
        }
    }
    for directory in ["/usr/sbin", "/usr/local/sbin"] {
        add(Path::new(directory).join("criu"), Place::System);
    }
    Ok(candidates)
}

/// What a path is, as far as starting CRIU is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Executable,
    Prefix,
    Neither,
}

impl Kind {
    fn of(path: &Path) -> Kind {
        use std::os::unix::fs::PermissionsExt;
        match path.metadata() {
            Ok(meta) if meta.is_dir() && path.join("usr/sbin/criu").is_file() => Kind::Prefix,
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Kind::Executable,
            _ => Kind::Neither,
        }
    }
}

fn choose(candidates: &[Candidate], kind: &dyn Fn(&Path) -> Kind) -> Result<Found, FindCriuError> {
    for Candidate { path, place } in candidates {
        let program = match kind(path) {
            Kind::Executable => Program::new(path),
            // A system's `criu` in PATH is a file; only our own places hold prefixes.
            Kind::Prefix if *place != Place::System => Program::private(path),
            _ if matches!(place, Place::Flag | Place::Variable) => {
                return Err(FindCriuError::NotACriu { path: path.clone(), place: *place });
            }
            _ => continue,
        };
        return Ok(Found { program, place: *place });
    }
    Err(FindCriuError::None { looked_in: candidates.iter().map(|one| one.path.clone()).collect() })
}

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CriuVersion {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch level.
    pub patch: u32,
}

impl std::fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

impl CriuVersion {
    /// CRIU's way to write a version as one number: 40201 is 4.2.1.
    #[must_use]
    pub fn number(self) -> u32 {
        self.major * 10_000 + self.minor * 100 + self.patch
    }

    /// Reads what `criu --version` prints.
    #[must_use]
    pub fn parse(said: &str) -> Option<CriuVersion> {
        let text = said.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let major = numbers.next()?.ok()?;
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(CriuVersion { major, minor: next(), patch: next() })
    }
}

/// Starts `program` to ask for its version.
///
/// # Errors
/// It does not start, or does not tell.
pub fn version(program: &Program) -> Result<CriuVersion, FindCriuError> {
    let output = output(command(program).arg("--version"))
        .map_err(|source| FindCriuError::Start { path: program.path().to_path_buf(), source })?;
    let said = String::from_utf8_lossy(&output.stdout);
    CriuVersion::parse(&said).ok_or_else(|| FindCriuError::NoVersion {
        path: program.path().to_path_buf(),
        said: format!("{}{}", said.trim(), String::from_utf8_lossy(&output.stderr).trim()),
    })
}

/// A command that starts `program`, with nothing on its standard input.
pub(crate) fn command(program: &Program) -> Command {
    let line = program.command_line();
    let mut command = Command::new(line.first().map_or(OsStr::new("criu"), OsString::as_os_str));
    command.args(line.iter().skip(1)).stdin(Stdio::null());
    command
}

/// How long CRIU may take to answer a question about itself or the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a command says. One that takes too long is killed.
///
/// # Errors
/// Where it cannot be started; [`io::ErrorKind::TimedOut`] where it had to be killed.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    within(command, PATIENCE)
}

fn within(command: &mut Command, patience: Duration) -> io::Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let process = rustix::process::pidfd_open(
        crate::process_tree::pid(pid).map_err(io::Error::other)?,
        rustix::process::PidfdFlags::empty(),
    )?;
    let until = Instant::now() + patience;
    loop {
        let left =
            Timespec::try_from(until.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                // What it has started may hold its output open, so that is not read to the end.
                child.kill()?;
                child.wait()?;
                let said = format!("it gave no answer within {} s", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, said));
            }
            Ok(_) => return child.wait_with_output(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_given_up() {
        let said = within(Command::new("echo").arg("hello"), PATIENCE).unwrap();
        assert_eq!(said.stdout, b"hello\n");
        let error = within(Command::new("sleep").arg("1000"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    fn around() -> Around {
        Around {
            executable: Some("/srv/build/release/torpor".into()),
            path: Some("/usr/bin".into()),
            ..Around::default()
        }
    }

    #[test]
    fn places_are_tried_from_the_nearest_to_the_systems() {
        let order: Vec<_> = candidates(&around()).unwrap().into_iter().map(|one| one.path).collect();
        let expected = [
            "/srv/build/lib/torpor/criu",
            "/opt/torpor/criu",
            "/srv/build/criu",
            "/srv/criu",
            "/usr/bin/criu",
            "/usr/sbin/criu",
            "/usr/local/sbin/criu",
        ];
        assert_eq!(order, expected.map(PathBuf::from));
    }

    #[test]
    fn one_that_is_named_is_taken_or_refused_never_replaced() {
        let named = Around { variable: Some("/x".into()), ..around() };
        let candidates = candidates(&named).unwrap();
        assert_eq!(candidates, [Candidate { path: "/x".into(), place: Place::Variable }]);
        let found = choose(&candidates, &|_| Kind::Executable).unwrap();
        assert_eq!(found.program, Program::new("/x"));
        let refused = choose(&candidates, &|_| Kind::Neither).unwrap_err();
        assert!(refused.to_string().starts_with("/x (named by TORPOR_CRIU)"), "{refused}");
    }

    #[test]
    fn with_file_capabilities_the_caller_does_not_choose() {
        let named = Around { variable: Some("/x".into()), privileged: true, ..around() };
        assert!(matches!(candidates(&named), Err(FindCriuError::NotTrusted { .. })));
        let fixed = candidates(&Around { privileged: true, ..around() }).unwrap();
        assert!(fixed.iter().all(|one| one.path.starts_with("/opt") || one.path.starts_with("/usr")));
    }

    #[test]
    fn a_prefix_of_ours_is_run_by_its_own_loader_and_the_systems_is_a_file() {
        let candidates = candidates(&around()).unwrap();
        let opt =
            |path: &Path| if path == Path::new("/opt/torpor/criu") { Kind::Prefix } else { Kind::Neither };
        let found = choose(&candidates, &opt).unwrap();
        assert_eq!(
            (found.program, found.place),
            (Program::private(Path::new("/opt/torpor/criu")), Place::Opt)
        );
        let odd = |path: &Path| if path == Path::new("/usr/bin/criu") { Kind::Prefix } else { Kind::Neither };
        assert!(matches!(choose(&candidates, &odd), Err(FindCriuError::None { .. })));
    }

    #[test]
    fn versions_are_read_and_ordered() {
        let version = CriuVersion::parse("Version: 4.2.1\nGitID: x\n").unwrap();
        assert_eq!(version, CriuVersion { major: 4, minor: 2, patch: 1 });
        assert_eq!(version.to_string(), "4.2.1");
        assert!(version >= OLDEST);
        assert!(CriuVersion::parse("Version: 3.17.1\n").unwrap() < OLDEST);
        assert!(CriuVersion::parse("Version: 4.10\n").unwrap() > version);
        assert_eq!(CriuVersion::parse("criu: error\n"), None);
    }
}

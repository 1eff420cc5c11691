//! How CRIU is started: with what it needs and nothing else.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;
use rustix::thread::CapabilitySet;

use super::error::StartError;
use super::process::Process;
use crate::program::Program;
use crate::sys::spawn::{Plan, Stage, spawn};

/// Where programs are looked up, by us for CRIU and by CRIU for `iptables-restore`, `tar` and the like.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory that exists wherever CRIU can work, that nobody can write to, and in which no name ends in `.so`: CRIU
/// finds no plugin there.
pub const NO_PLUGINS: &str = "/proc/self/ns";

/// Where CRIU's standard error goes.
#[derive(Debug, Default)]
pub enum Stderr {
    /// Nowhere.
    #[default]
    Null,
    /// To this process' own.
    Inherit,
    /// To a file or a pipe.
    To(OwnedFd),
}

/// Whether CRIU reads `/etc/criu/default.conf` and `$HOME/.criu/default.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultConfig {
    /// It reads neither.
    #[default]
    Ignore,
    /// It reads both, with this home.
    Read {
        /// `$HOME`.
        home: PathBuf,
    },
}

/// How CRIU is started. The default is the strictest: no descriptors, no environment, no capabilities added.
#[derive(Debug)]
pub struct Spawn {
    /// Descriptors to hand over, each with its number within CRIU, from 4 up. 3 is the session's own.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// The PID that CRIU should have, so that it is in the way of no restored one. Where it cannot be chosen (no
    /// privilege, or taken) CRIU gets any; [`Session::pid`](super::Session::pid) tells.
    pub pid: Option<Pid>,
    /// Capabilities that CRIU keeps across its exec. They must be permitted to this process.
    pub capabilities: CapabilitySet,
    /// Added to the clean environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Standard input: the terminal that a tree with `shell_job` finds in the place of its own; nothing when unset.
    pub terminal: Option<OwnedFd>,
    /// Standard error; the log goes there until CRIU has opened its file.
    pub stderr: Stderr,
    /// CRIU's own configuration files.
    pub default_config: DefaultConfig,
    /// Where CRIU may load plugins from; none when unset. Plugins run with CRIU's privileges.
    pub plugins: Option<PathBuf>,
    /// CRIU stays in this process' process group. It must for a tree with `shell_job` to have the terminal after its
    /// restore; else a group of its own keeps the terminal's ^C away from CRIU.
    pub same_process_group: bool,
}

/// The number of the session's socket within CRIU.
const SOCKET: i32 = 3;

impl Default for Spawn {
    fn default() -> Self {
        Self {
            descriptors: Vec::new(),
            pid: None,
            capabilities: CapabilitySet::empty(),
            environment: Vec::new(),
            terminal: None,
            stderr: Stderr::Null,
            default_config: DefaultConfig::Ignore,
            plugins: None,
            same_process_group: false,
        }
    }
}

impl Spawn {
    /// Hands over `descriptor` as `number`.
    #[must_use]
    pub fn pass(mut self, descriptor: impl Into<OwnedFd>, number: i32) -> Self {
        self.descriptors.push((descriptor.into(), number));
        self
    }

    fn environment(&self) -> Vec<OsString> {
        let mut environment: Vec<(&OsStr, &OsStr)> =
            vec![("PATH".as_ref(), SEARCH_PATH.as_ref()), ("LC_ALL".as_ref(), "C".as_ref())];
        let plugins = self.plugins.as_deref().unwrap_or(Path::new(NO_PLUGINS));
        environment.push(("CRIU_LIBS_DIR".as_ref(), plugins.as_os_str()));
        if let DefaultConfig::Read { home } = &self.default_config {
            environment.push(("HOME".as_ref(), home.as_os_str()));
        }
        environment.extend(self.environment.iter().map(|(key, value)| (key.as_os_str(), value.as_os_str())));
        environment
            .into_iter()
            .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat())
            .map(OsString::from_vec)
            .collect()
    }

    fn arguments(&self, program: &Program) -> Vec<OsString> {
        let mut arguments = program.command_line().to_vec();
        if self.default_config == DefaultConfig::Ignore {
            arguments.push("--no-default-config".into());
        }
        arguments.extend(["swrk".into(), SOCKET.to_string().into()]);
        arguments
    }
}

pub(super) fn start(program: &Program, settings: Spawn) -> Result<(Process, OwnedFd), StartError> {
    let step = |step, source| StartError::Step { program: program.path().to_owned(), step, source };
    let text = |text: OsString| {
        let bytes = text.into_vec();
        CString::new(bytes).map_err(|error| StartError::ZeroByte {
            program: program.path().to_owned(),
            what: String::from_utf8_lossy(&error.into_vec()).into_owned(),
        })
    };
    if let Some((_, number)) = settings.descriptors.iter().find(|(_, number)| *number <= SOCKET) {
        let message = format!("descriptor number {number} is taken by the session");
        return Err(step("hand over descriptors", std::io::Error::other(message)));
    }
    let mut arguments = settings.arguments(program);
    arguments[0] = look_up(Path::new(&arguments[0]))?.into_os_string();
    let arguments = arguments.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let plugins = settings.plugins.or_else(|| program.plugins().map(Path::to_owned));
    let settings = Spawn { plugins, ..settings };
    let environment = settings.environment().into_iter().map(text).collect::<Result<Vec<_>, _>>()?;

    let socket = |errno: rustix::io::Errno| step("make its socket", errno.into());
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(socket)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| step("open /dev/null", source))?;
    let stderr = match &settings.stderr {
        Stderr::Null => null.as_fd(),
        Stderr::Inherit => rustix::stdio::stderr(),
        Stderr::To(descriptor) => descriptor.as_fd(),
    };
    let stdin = settings.terminal.as_ref().map_or(null.as_fd(), AsFd::as_fd);
    let mut descriptors = vec![(stdin, 0), (null.as_fd(), 1), (stderr, 2), (theirs.as_fd(), SOCKET)];
    descriptors.extend(settings.descriptors.iter().map(|(descriptor, number)| (descriptor.as_fd(), *number)));

    let mut plan = Plan {
        arguments: &arguments,
        environment: &environment,
        descriptors: &descriptors,
        pid: settings.pid,
        capabilities: settings.capabilities,
        own_group: !settings.same_process_group,
    };
    let mut spawned = spawn(&plan);
    if let (Some(pid), Err((Stage::Clone, error))) = (plan.pid, &spawned) {
        tracing::debug!(pid = pid.as_raw_nonzero().get(), %error, "criu's pid cannot be chosen");
        plan.pid = None;
        spawned = spawn(&plan);
    }
    let (pid, pidfd) = spawned.map_err(|(stage, source)| step(stage.describe(), source))?;
    tracing::debug!(pid = pid.as_raw_nonzero().get(), socket = ours.as_raw_fd(), %program, "criu started");
    Ok((Process::new(pid, pidfd), ours))
}

fn look_up(program: &Path) -> Result<PathBuf, StartError> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    SEARCH_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| StartError::NotFound { program: program.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(spawn: &Spawn, key: &str) -> Option<String> {
        let prefix = format!("{key}=");
        let environment = spawn.environment();
        environment.iter().find_map(|entry| entry.to_str()?.strip_prefix(&prefix).map(str::to_owned))
    }

    #[test]
    fn by_default_criu_reads_no_files_of_its_own_and_loads_no_plugins() {
        let spawn = Spawn::default();
        let arguments = spawn.arguments(&Program::new("/criu"));
        assert_eq!(arguments, ["/criu", "--no-default-config", "swrk", "3"]);
        assert_eq!(entry(&spawn, "HOME"), None);
        assert_eq!(entry(&spawn, "CRIU_CONFIG_FILE"), None);
        let plugins = std::fs::read_dir(entry(&spawn, "CRIU_LIBS_DIR").unwrap()).unwrap();
        assert!(plugins.flatten().all(|entry| entry.path().extension().is_none_or(|end| end != "so")));
    }

    #[test]
    fn default_configuration_needs_a_home() {
        let spawn =
            Spawn { default_config: DefaultConfig::Read { home: "/root".into() }, ..Spawn::default() };
        assert_eq!(entry(&spawn, "HOME").as_deref(), Some("/root"));
        assert_eq!(spawn.arguments(&Program::new("/criu")), ["/criu", "swrk", "3"]);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = start(&Program::new("no-such-criu"), Spawn::default()).unwrap_err();
        assert!(error.to_string().starts_with("criu is not installed: there is no no-such-criu in /usr"));
    }

    #[test]
    fn the_session_keeps_its_own_number() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = start(&Program::new("/criu"), Spawn::default().pass(null, 3)).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /criu: cannot hand over descriptors");
    }
}

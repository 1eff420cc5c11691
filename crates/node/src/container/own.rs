//! A container of our own: an image's program, started to become a template, and gone afterwards with all that was made for it.
//!
//! It is made with the low-level runtime alone, from the image's own layers. An engine would do too, but not every machine that
//! makes images has one, each has another idea of what belongs into a container, and an image would have to be taken to it and
//! back. What a container has that is restored somewhere else is best decided here (`configuration`).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;
use rustix::process::Resource;

use super::difference::Difference;
use super::find::{Query, Roots};
use super::state::{Container, Status};
use super::{ContainerError, FindError};
use crate::readiness::{self, Condition};

mod configuration;
mod network;
mod output;
mod room;
mod user;

pub(crate) use configuration::{MASKED, READ_ONLY};
pub use configuration::{Parts, Program, capabilities, profile};
pub use network::Network;
pub use room::Room;
pub use user::User;

use configuration::{FILES, HOSTNAME, Surroundings};
use output::Output;

/// The container's root, in its room.
const ROOT: &str = "rootfs";
/// What the layers of its image make.
const LOWER: &str = "lower";
/// The directory with what is mounted from outside.
const OUTSIDE: &str = "outside";
/// The largest list of users or groups that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How often it is looked whether a program is ready.
const PACE: Duration = Duration::from_millis(50);

/// Why there is no container, or why it does not become ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// Only root can make one.
    #[error("only root can start a container")]
    NotRoot,
    /// A file or directory cannot be read or written.
    #[error("cannot use {}", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer cannot be unpacked.
    #[error("layer {number} of the image cannot be unpacked")]
    Layer {
        /// Which, counted from 1.
        number: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The root cannot be mounted.
    #[error("no overlay can be mounted at {}", path.display())]
    Overlay {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no network for it.
    #[error("it can have no network")]
    Network(#[source] io::Error),
    /// The image names a user who is not in it.
    #[error("the image has no user {user:?}")]
    User {
        /// Whom.
        user: String,
    },
    /// There is nothing to start.
    #[error("the image says no program")]
    NoProgram,
    /// The runtime cannot start it.
    #[error("{} cannot start the program: {said}", program.display())]
    Runtime {
        /// The runtime.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// The program has ended.
    #[error("the program ended before {condition}{}", after(said))]
    Ended {
        /// What was waited for.
        condition: String,
        /// What it said last.
        said: String,
    },
    /// The time is over.
    #[error("not ready within {} seconds: it was still to be that {condition}{}", waited.as_secs(), after(said))]
    NotReady {
        /// What was waited for.
        condition: String,
        /// How long.
        waited: Duration,
        /// What it said last.
        said: String,
    },
    /// Its state cannot be read.
    #[error(transparent)]
    Find(#[from] FindError),
    /// What layers change cannot be laid out.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

fn after(said: &str) -> String {
    if said.is_empty() { "; it said nothing".to_owned() } else { format!("; it said last:\n{said}") }
}

impl OwnError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            OwnError::NotRoot => "run it as root",
            OwnError::Place { .. } => "check the path and the permissions, or name another place with --room",
            OwnError::Layer { .. } => {
                "use another copy of the image, and see that there is room for it in --room"
            }
            OwnError::Overlay { .. } => "name a directory with --room that is on no overlay itself",
            OwnError::Network(_) => "name a network namespace that there is with --network",
            OwnError::User { .. } => "give the image's user by number, or add it to its /etc/passwd",
            OwnError::NoProgram => "name the program and its arguments after the image and two dashes",
            OwnError::Runtime { .. } => "see what it says of the program, or try another with --runtime",
            OwnError::Ended { .. } => {
                "see why it ends in what it said; one that needs others to start may need --network or --env"
            }
            OwnError::NotReady { .. } => {
                "give it more --timeout, or wait for something else that it does with --until"
            }
            OwnError::Find(error) => error.remedy(),
            OwnError::Container(error) => return error.remedy(),
        }
        .to_owned()
    }

    fn place(path: &Path) -> impl Fn(io::Error) -> OwnError + use<> {
        let path = path.to_owned();
        move |source| OwnError::Place { path: path.clone(), source }
    }
}

/// The files of an image, layer by layer.
#[derive(Debug)]
pub struct Files<'a> {
    room: &'a Room,
    layers: usize,
}

impl<'a> Files<'a> {
    /// No files yet.
    ///
    /// # Errors
    /// There is no place for them.
    pub fn new(room: &'a Room) -> Result<Files<'a>, OwnError> {
        for directory in [LOWER, "upper", "work", ROOT, OUTSIDE] {
            let path = room.path().join(directory);
            fs::create_dir(&path).map_err(OwnError::place(&path))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(OwnError::place(&path))?;
        }
        Ok(Files { room, layers: 0 })
    }

    /// Puts a layer onto those below, given its tar stream.
    ///
    /// # Errors
    /// It is damaged, or cannot be laid out.
    pub fn add(&mut self, layer: &mut dyn Read) -> Result<(), OwnError> {
        self.layers += 1;
        let number = self.layers;
        let failed = |source| OwnError::Layer { number, source };
        let path = self.room.path().join("layer");
        let mut tar = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        io::copy(layer, &mut tar).map_err(failed)?;
        io::Seek::rewind(&mut tar).map_err(failed)?;
        let mut difference = Difference::read(tar, self.room.path()).map_err(failed)?;
        let plan = difference.plan(&self.room.path().join(LOWER))?;
        plan.apply(&mut difference).map_err(ContainerError::from)?;
        Ok(())
    }
}

/// The container. It ends with its room.
#[derive(Debug)]
pub struct Own<'a> {
    room: &'a Room,
    network: &'a Network,
    output: Output,
    container: Container,
    since: Instant,
}

impl<'a> Own<'a> {
    /// Starts an image's program in its files, and listens to it for the sake of `condition`.
    ///
    /// # Errors
    /// [`OwnError`].
    pub fn start(
        files: Files<'a>,
        network: &'a Network,
        program: &Program,
        parts: &Parts<'_>,
        condition: &Condition,
    ) -> Result<Own<'a>, OwnError> {
        let room = files.room;
        if program.command(parts.arguments).is_empty() {
            return Err(OwnError::NoProgram);
        }
        let root = mount(room)?;
        let user = find_user(&root, program)?;
        let outside = outside(room, parts)?;
        let around = Surroundings {
            outside: &outside,
            user: &user,
            network: network.path(),
            group: &format!("/{}", room.id()),
            unified: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            open_files: rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        };
        let config = configuration::configuration(program, parts, &around).to_string();
        let path = room.path().join("config.json");
        fs::write(&path, config).map_err(OwnError::place(&path))?;

        let output = Output::new(match condition {
            Condition::Log(expression) => regex::bytes::Regex::new(expression.as_str()).ok(),
            _ => None,
        });
        run(room, &output)?;
        let container = Roots::with(vec![room.states()]).find(&Query::Container(room.id()))?;
        Ok(Own { room, network, output, container, since: Instant::now() })
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Waits until it is ready, as long as it may take since its start. Returns how long it took.
    ///
    /// # Errors
    /// It ends, or does not become ready.
    pub fn wait(&self, condition: &Condition, limit: Duration) -> Result<Duration, OwnError> {
        loop {
            if self.is_ready(condition, limit) {
                return Ok(self.since.elapsed());
            }
            let (condition, said) = (condition.to_string(), self.output.ending());
            if self.container.status() == Status::Stopped {
                return Err(OwnError::Ended { condition, said });
            }
            let waited = self.since.elapsed();
            if waited >= limit {
                return Err(OwnError::NotReady { condition, waited, said });
            }
            std::thread::sleep(PACE.min(limit.saturating_sub(waited)));
        }
    }

    fn is_ready(&self, condition: &Condition, limit: Duration) -> bool {
        match condition {
            Condition::Port(port) => readiness::listens(self.container.init, *port),
            Condition::Http(address) => {
                let address = address.clone();
                self.network.run(move || readiness::answers(&address)) == Some(true)
            }
            Condition::Log(_) => self.output.found(),
            Condition::Exec(command) => self.succeeds(command, limit),
        }
    }

    /// Whether a shell command succeeds in it.
    fn succeeds(&self, command: &str, limit: Duration) -> bool {
        let mut exec = runtime(self.room);
        exec.args(["exec", &self.room.id(), "/bin/sh", "-c", command]);
        let child = exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else { return false };
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) if self.since.elapsed() < limit => std::thread::sleep(PACE),
                _ => {
                    // The container ends soon, and with it what is in it.
                    let _ = child.kill();
                    let _ = child.wait();
                    return false;
                }
            }
        }
    }
}

fn runtime(room: &Room) -> Command {
    let mut command = Command::new(room.runtime().program());
    command.arg("--root").arg(room.states());
    command
}

/// Has the runtime start the container.
fn run(room: &Room, output: &Output) -> Result<(), OwnError> {
    let program = room.runtime().program();
    let failed = OwnError::place(program);
    let log = room.path().join("runtime.log");
    let (told, tells) = io::pipe().map_err(&failed)?;
    let (complained, complains) = io::pipe().map_err(&failed)?;
    let mut command = runtime(room);
    command.arg("--log").arg(&log).args(["--log-format", "json", "run", "--detach", "--bundle"]);
    command.arg(room.path()).arg(room.id()).stdin(Stdio::null()).stdout(tells).stderr(complains);
    let mut child = command.spawn().map_err(&failed)?;
    // It has the other ends of the pipes, and would keep them open.
    drop(command);
    output.listen(told).map_err(&failed)?;
    output.listen(complained).map_err(&failed)?;
    let status = child.wait().map_err(&failed)?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let errors = messages.filter(|line| line["level"] == "error");
    let said =
        errors.filter_map(|line| line["msg"].as_str().map(str::to_owned)).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { status.to_string() } else { said };
    Err(OwnError::Runtime { program: program.to_owned(), said })
}

/// Mounts the root, whose changes are kept apart from the image.
fn mount(room: &Room) -> Result<PathBuf, OwnError> {
    let at = |name: &str| room.path().join(name);
    let root = at(ROOT);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at(LOWER).display(),
        at("upper").display(),
        at("work").display()
    );
    let options = std::ffi::CString::new(options).map_err(|error| OwnError::place(&root)(error.into()))?;
    rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|errno| OwnError::Overlay { path: root.clone(), source: errno.into() })?;
    Ok(root)
}

/// Makes what is mounted into the container from outside.
fn outside(room: &Room, parts: &Parts<'_>) -> Result<PathBuf, OwnError> {
    let outside = room.path().join(OUTSIDE);
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n");
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for (name, text) in FILES.iter().zip([hosts, format!("{HOSTNAME}\n"), resolver]) {
        let path = outside.join(name);
        fs::write(&path, text).map_err(OwnError::place(&path))?;
    }
    let mounts = (0..parts.mounts.len()).map(|number| number.to_string());
    for name in mounts.chain(["shm".to_owned()]) {
        let path = outside.join(name);
        fs::create_dir(&path).map_err(OwnError::place(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).map_err(OwnError::place(&path))?;
    }
    Ok(outside)
}

/// Whom the program runs as.
fn find_user(root: &Path, program: &Program) -> Result<User, OwnError> {
    let wanted = program.user.as_deref().unwrap_or_default();
    let table = |path: &str| inside(root, path).map_err(OwnError::place(&root.join(path)));
    let user = User::find(wanted, &table("etc/passwd")?, &table("etc/group")?);
    user.ok_or_else(|| OwnError::User { user: wanted.to_owned() })
}

/// A small file in a root, whose links lead nowhere else. One that is not there is empty.
fn inside(root: &Path, path: &str) -> io::Result<String> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Refuses who cannot make containers.
///
/// # Errors
/// [`OwnError::NotRoot`].
pub fn privileged() -> Result<(), OwnError> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(OwnError::NotRoot),
    }
}

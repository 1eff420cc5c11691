//! Everything `torpor run` decides by: what was given by flags, variables and a configuration file, and what it
//! means.
//!
//! [`Given`] is what was typed, from the one table [`SETTINGS`]; [`RunConfig`] is what it means. [`RunConfig::resolve`]
//! leads from one to the other without touching the machine. `docs/configuration.md` tells people.

mod choice;
mod error;
mod explain;
mod file;
mod given;
mod hook;
mod quantity;
mod resolve;
mod setting;
mod surroundings;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use torpor_store::name::Name;

pub use choice::{
    AfterCrash, AllowChanged, Capabilities, CpuBaseline, ExtUnixSockets, Fenced, HugePages, Namespace,
    NodeStateUnreachable, OnHookFailure, OnRestoreFailure, RootFiles, Slots, Tcp, VolumePolicy,
};
pub use error::{ConfigError, ValueError};
pub use file::{CRIK_PATH, TORPOR_PATH};
pub use given::{Dialect, Given, Origin, Place, Warning};
pub use hook::{HookAction, HookConfig, Method};
pub use quantity::{PortMap, QuantityError, Signal, duration, show_duration, show_size, size};
pub use setting::{SETTINGS, Setting, Shape};
pub use surroundings::Surroundings;

/// What `torpor run` does, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// The name checkpoints are kept under.
    pub name: Name,
    /// Whether the name was chosen by a person rather than derived from pod, host or image directory.
    pub name_given: bool,
    /// Which slot of the name a start takes.
    pub slots: Slots,
    /// The program and its arguments. Empty means: only restore, and fail where there is nothing to restore.
    pub program: Vec<OsString>,
    /// Where checkpoints are kept. `None`, only with crik's configuration without `imageDir`: nothing is kept, the
    /// program is run and signals are passed on.
    pub store: Option<StoreConfig>,
    /// Which generations are kept.
    pub retention: Retention,

    /// The signal that suspends.
    pub trigger_signal: Signal,
    /// Checkpoint this often, leaving the program running.
    pub every: Option<Duration>,
    /// The control socket.
    pub control_socket: PathBuf,
    /// A group, by number, that may use the control socket.
    pub control_group: Option<u32>,
    /// The HTTP endpoint.
    pub http: Option<HttpConfig>,
    /// Whom to ask on the trigger signal whether the node shuts down. `None`: every trigger signal suspends.
    pub node_state: Option<NodeStateConfig>,

    /// Time from the trigger signal to the kill from outside.
    pub grace: Duration,
    /// The end of `grace`, kept for the program to end by itself. At most `grace`.
    pub stop_reserve: Duration,
    /// What Torpor ends with after a suspend.
    pub exit_code: u8,

    /// Start from the beginning, whatever is in the store.
    pub no_restore: bool,
    /// What to do when no generation could be restored.
    pub on_restore_failure: OnRestoreFailure,
    /// What to do after a crash.
    pub after_crash: AfterCrash,
    /// What to do when a newer start has taken over the name.
    pub fenced: Fenced,
    /// Differences that are accepted at restore.
    pub allow_changed: Vec<AllowChanged>,
    /// Leave the program stopped after a restore.
    pub leave_stopped: bool,

    /// The lowest PID of the program; `None`: chosen by `pid_max`.
    pub pid_base: Option<u32>,
    /// What the program gets of Torpor's own capabilities.
    pub capabilities: Capabilities,
    /// The seccomp profile of the program.
    pub seccomp_profile: Option<PathBuf>,
    /// Whether the program gets its own IPC namespace.
    pub ipc_namespace: Namespace,
    /// Whether the program gets its own time namespace.
    pub time_namespace: Namespace,
    /// The instruction set libraries are kept within on a fresh start.
    pub cpu_baseline: Option<CpuBaseline>,
    /// The file that tells the program whether it was restored.
    pub status_file: PathBuf,

    /// Files and directories carried besides what changed.
    pub additional_paths: Vec<PathBuf>,
    /// Files and directories not carried.
    pub exclude: Vec<PathBuf>,
    /// Rules for mounts, in the order given.
    pub volumes: Vec<VolumeRule>,
    /// What becomes of changes on the root file system.
    pub root_files: RootFiles,
    /// Paths taken away while the program is captured.
    pub inotify_incompatible_paths: Vec<PathBuf>,
    /// What becomes of established connections.
    pub tcp: Tcp,
    /// Ports that are others after a restore.
    pub tcp_listen_remap: Vec<PortMap>,
    /// What becomes of Unix sockets with a peer outside.
    pub ext_unix_sockets: ExtUnixSockets,
    /// What a capture may add to the container's memory.
    pub memory_budget: MemoryBudget,
    /// Whether memory is gathered into huge pages before a freeze after which the program runs on.
    pub huge_pages: HugePages,

    /// What is run around checkpoints and restores.
    pub hooks: Hooks,

    /// The CRIU to use; `None`: looked for.
    pub criu: Option<PathBuf>,
    /// Further options for CRIU, as `KEY` or `KEY=VALUE`, not yet held against the list of allowed ones.
    pub criu_options: Vec<String>,
    /// Whether CRIU reads its own configuration files, which otherwise decide nothing here.
    pub criu_configuration: bool,
}

/// Where checkpoints are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's URL, `file:///…` for a directory.
    pub url: String,
    /// Whether the directory must be there already, as with crik's `imageDir`: a volume that is not mounted must not
    /// be mistaken for an empty store.
    pub must_exist: bool,
    /// What the store is sealed under.
    pub credentials: Credentials,
}

/// What a store is sealed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// The passphrase in this file.
    PassphraseFile(PathBuf),
    /// The key in this file.
    KeyFile(PathBuf),
}

/// Which generations are kept. One is kept if either rule keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// This many newest ones, at least one.
    pub keep_last: u32,
    /// All that are younger than this.
    pub keep_within: Option<Duration>,
}

/// The HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The file with the token callers must send.
    pub token_file: PathBuf,
}

/// The question whether the node shuts down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStateConfig {
    /// The server, without a path.
    pub url: String,
    /// The node asked about. Empty where nothing says it, which counts as no usable answer.
    pub node: String,
    /// How long an answer may take, all attempts together.
    pub timeout: Duration,
    /// What to do without a usable answer.
    pub unreachable: NodeStateUnreachable,
}

/// What becomes of the files of the mount that holds a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRule {
    /// The path.
    pub path: PathBuf,
    /// What becomes of its files.
    pub policy: VolumePolicy,
}

/// What a capture may add to the container's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBudget {
    /// Half of what the cgroup has free, at least 64 MiB.
    Auto,
    /// This many bytes.
    Bytes(u64),
}

/// What is run around checkpoints and restores, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the program is frozen.
    pub pre_checkpoint: Vec<HookConfig>,
    /// When a checkpoint ended, well or not, and the program runs on.
    pub post_checkpoint: Vec<HookConfig>,
    /// When the program goes on after a restore.
    pub post_restore: Vec<HookConfig>,
    /// Once the program runs, fresh or restored.
    pub on_app_ready: Vec<HookConfig>,
}

/// What was given, read from flags, the environment and the configuration file, and what it means.
///
/// `config_path` is the file asked for; without it [`TORPOR_PATH`] and then [`CRIK_PATH`] are used where they exist.
/// `crik` says that crik's command line was typed, where the default is [`CRIK_PATH`] alone and nothing is kept
/// without `imageDir`.
///
/// # Errors
/// Where a file cannot be read or anything given cannot be understood.
pub fn load(
    flags: Given,
    config_path: Option<PathBuf>,
    crik: bool,
    program: Vec<OsString>,
    surroundings: &Surroundings,
) -> Result<Loaded, ConfigError> {
    let (file, mut warnings, dialect) = file::read(config_path, crik)?;
    let (variables, more) = Given::from_variables(
        std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?))),
    );
    warnings.extend(more);
    let given = flags.or(variables).or(file);
    let config = RunConfig::resolve(&given, dialect, program, surroundings)?;
    Ok(Loaded { config, given, warnings })
}

/// What [`load`] found.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: RunConfig,
    /// What was given, for [`RunConfig::explain`].
    pub given: Given,
    /// What is probably not meant that way; to be logged.
    pub warnings: Vec<Warning>,
}

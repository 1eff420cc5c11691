//! The program: what it is, how it is started, and what stays true of it for as long as this start lasts.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use torpor_criu::image::edit::PortRemap;
use torpor_criu::options::ExpertOption;
use torpor_criu::session::DefaultConfig;
use torpor_store::lineage::{self, Epoch};
use torpor_store::{Manifest, Repository};

use super::{Setup, WrapperError, staging};
use crate::capabilities::Capabilities;
use crate::checkpoint::Sockets;
use crate::config::{self, Namespace, RunConfig};
use crate::cpu_baseline;
use crate::facts::Facts;
use crate::files::Selection;
use crate::files::baseline::Baseline;
use crate::launch::{self, Launch, Namespaces};
use crate::machine::Machine;
use crate::mounts::{MountPlan, MountPolicy, MountRule, Mounts, RootFiles};
use crate::seccomp::{Around, Filter, Profile, SeccompError};
use crate::status;
use crate::streams::Streams;

/// What stays the same while this start lasts.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) config: RunConfig,
    pub(super) repository: Repository,
    pub(super) epoch: Arc<Epoch>,
    pub(super) criu: torpor_criu::program::Program,
    pub(super) expert_options: Vec<ExpertOption>,
    pub(super) machine: Machine,
    pub(super) program: lineage::Program,
    pub(super) mounts: MountPlan,
    pub(super) selection: Selection,
    pub(super) baseline: Baseline,
    pub(super) sockets: Sockets,
    pub(super) staging: PathBuf,
    pub(super) instance: String,
}

/// What changes: the program as it is now.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) root: i32,
    pub(super) streams: Streams,
    pub(super) facts: Facts,
    pub(super) predecessor: Option<Manifest>,
    /// Files that a restore has put back.
    pub(super) files: Vec<PathBuf>,
}

impl Kept {
    pub(super) fn new(
        config: RunConfig,
        setup: &Setup,
        repository: Repository,
        epoch: Epoch,
        machine: Machine,
    ) -> Result<Kept, WrapperError> {
        let staging = staging(&setup.surroundings, epoch.name());
        std::fs::create_dir_all(&staging)
            .map_err(|source| WrapperError::Staging { path: staging.clone(), source })?;
        crate::files::inotify::recover(&crate::checkpoint::inotify_journal(&staging))?;
        let mounts = plan_mounts(&config)?;
        let selection = select(&config, &staging);
        let baseline = Baseline::take(&mounts, &selection)?;
        tracing::debug!(files = baseline.files(), %mounts, "took the state of the files at the start");
        Ok(Kept {
            program: identity(&config.program, &machine),
            sockets: Sockets::new(config.tcp, config.ext_unix_sockets),
            repository,
            epoch: Arc::new(epoch),
            criu: setup.criu.clone(),
            expert_options: setup.expert_options.clone(),
            machine,
            mounts,
            selection,
            baseline,
            staging,
            instance: super::epoch::instance(),
            config,
        })
    }

    pub(super) fn default_config(&self) -> DefaultConfig {
        match self.config.criu_configuration {
            false => DefaultConfig::Ignore,
            true => DefaultConfig::Read {
                home: std::env::var_os("HOME").unwrap_or_else(|| "/root".into()).into(),
            },
        }
    }

    pub(super) fn listen_remap(&self) -> Vec<PortRemap> {
        self.config.tcp_listen_remap.iter().map(|map| PortRemap { old: map.old, new: map.new }).collect()
    }
}

fn plan_mounts(config: &RunConfig) -> Result<MountPlan, WrapperError> {
    let rules: Vec<MountRule> = config
        .volumes
        .iter()
        .map(|rule| MountRule {
            point: rule.path.clone(),
            policy: match rule.policy {
                config::VolumePolicy::Carry => MountPolicy::Carry,
                config::VolumePolicy::Leave => MountPolicy::Leave,
                config::VolumePolicy::Refuse => MountPolicy::Refuse,
            },
        })
        .collect();
    let root = match config.root_files {
        config::RootFiles::Auto => RootFiles::Auto,
        config::RootFiles::Carry => RootFiles::Carry,
        config::RootFiles::Leave => RootFiles::Leave,
    };
    Ok(MountPlan::new(&Mounts::of_process(None)?, root, &rules)?)
}

/// What is taken besides changes, and what never is: everything of Torpor's own.
fn select(config: &RunConfig, staging: &Path) -> Selection {
    let mut exclude = config.exclude.clone();
    exclude.extend([staging.to_owned(), config.control_socket.clone(), config.status_file.clone()]);
    if let Some(directory) = config.store.as_ref().and_then(|store| store.url.strip_prefix("file://")) {
        exclude.push(PathBuf::from(directory));
    }
    Selection { additional: config.additional_paths.clone(), exclude }
}

/// What tells whether a program is the one that was checkpointed.
#[must_use]
pub fn identity(command: &[OsString], machine: &Machine) -> lineage::Program {
    let line: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    lineage::Program {
        command: (!line.is_empty()).then(|| serde_json::json!(line).to_string()),
        executable: command.first().and_then(|program| digest(program)),
        image: machine.container.as_ref().and_then(|container| container.image.clone()),
    }
}

/// BLAKE3 of the program's file.
fn digest(program: &OsStr) -> Option<String> {
    let path = launch::find(program).ok()?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut std::fs::File::open(path).ok()?, &mut hasher).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}

/// How the configuration wants the program started.
pub(super) fn launch<'a>(
    config: &RunConfig,
    streams: &'a Streams,
    environment: Vec<(OsString, OsString)>,
) -> Result<Launch<'a>, WrapperError> {
    let Some((program, arguments)) = config.program.split_first() else {
        return Err(WrapperError::NoProgram { because: torpor_store::lineage::Reason::FirstStart });
    };
    let mut environment = environment;
    environment.push((status::VARIABLE.into(), config.status_file.clone().into()));
    if let Some(baseline) = config.cpu_baseline {
        environment.push(cpu_baseline::variable(baseline));
    }
    let without = match config.capabilities {
        config::Capabilities::Drop => Capabilities::TORPORS_OWN,
        config::Capabilities::Keep => Capabilities::NONE,
    };
    Ok(Launch {
        program: program.clone(),
        arguments: arguments.to_vec(),
        environment,
        streams: streams.for_program(),
        terminal: streams.controlling_terminal(),
        pid_base: config
            .pid_base
            .and_then(|base| i32::try_from(base).ok())
            .unwrap_or_else(|| default_pid_base(&config.name.to_string(), highest_pid())),
        namespaces: Namespaces {
            // Its limits are in files that only root may write, at a restore too.
            ipc: config.ipc_namespace != Namespace::Off && rustix::process::geteuid().is_root(),
            // Its clocks can be set at a restore with CAP_SYS_TIME only.
            time: config.time_namespace != Namespace::Off && Capabilities::effective().has("sys_time"),
        },
        required: Namespaces {
            ipc: config.ipc_namespace == Namespace::On,
            time: config.time_namespace == Namespace::On,
        },
        without,
        filter: config.seccomp_profile.as_deref().map(|path| filter(path, without)).transpose()?,
    })
}

/// What a seccomp profile means for a program that loses the capabilities in `without`.
fn filter(profile: &Path, without: Capabilities) -> Result<Filter, SeccompError> {
    let own = Capabilities::effective();
    if !own.has("sys_admin") {
        return Err(SeccompError::Privilege);
    }
    let names = rustix::system::uname();
    let kernel = names.release().to_string_lossy();
    Profile::read(profile)?.filter(Around { capabilities: own.without(without), kernel: &kernel })
}

/// Above what Torpor and CRIU get in a container of their own, below `pid_max`, and for each name another: containers of
/// a pod may share a PID namespace, and each must find its own PIDs free.
fn default_pid_base(name: &str, most: i32) -> i32 {
    const LOWEST: i32 = 10_000;
    const APART: i32 = 100;
    const BASES: u8 = 150;
    let number = i32::from(blake3::hash(name.as_bytes()).as_bytes()[0] % BASES);
    let lowest = LOWEST.min(most / 3);
    (lowest + number * APART).min(most - most / 8)
}

/// The highest PID there can be here.
fn highest_pid() -> i32 {
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    most.and_then(|text| text.trim().parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_pids_of_its_own_below_the_highest() {
        let (web, redis) = (default_pid_base("pod/web", 32_768), default_pid_base("pod/redis", 32_768));
        assert_ne!(web, redis);
        assert!([web, redis].iter().all(|base| (10_000..25_000).contains(base)), "{web} {redis}");
        assert!((100..400).contains(&default_pid_base("pod/web", 400)));
    }
}

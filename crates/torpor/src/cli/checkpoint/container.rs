//! `torpor checkpoint container:ID`: a container that was started by any engine, into a directory of CRIU's images.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{self, LayoutError};
use torpor_archive::tape::Tape;
use torpor_criu::program::Program;
use torpor_node::config::Surroundings;
use torpor_node::container::archive::Placement;
use torpor_node::container::carry::Carry;
use torpor_node::container::checkpoint::{Done, Job};
use torpor_node::container::cri::restore;
use torpor_node::container::generation::{Destination, Stored};
use torpor_node::container::route::Runtime;
use torpor_node::container::{Container, ContainerError, Engine, Query, Roots, Together};
use torpor_node::phase::Phase;
use torpor_node::{budget, criu_bundle};
use torpor_store::{Credentials, LocalBackend, Repository};

use super::{Took, engine, times};
use crate::cli::Exit;
use crate::cli::dump::{self, Connections};
use crate::cli::failure::{self, Failure};
use crate::cli::{convert, store};

/// Flags for containers and plain processes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Containers and plain processes")]
#[group(skip)]
pub(super) struct Args {
    /// Write CRIU's images to this directory, from which the container's runtime restores; else the checkpoint becomes a
    /// generation of --name in the store, together with what the container changed in its image.
    #[arg(long, value_name = "DIR", requires = "target")]
    pub(super) images: Option<PathBuf>,
    /// Take along what is in the mount at this path of the container, such as a volume. It is put back at the restore.
    #[arg(long, value_name = "PATH", requires = "target", conflicts_with = "images")]
    pub(super) carry_mount: Vec<PathBuf>,
    /// Take along what ends with the pod: /dev/shm and emptyDirs.
    #[arg(long, requires = "target", conflicts_with = "images")]
    pub(super) own_mounts: bool,
    /// Who makes the checkpoint.
    #[arg(long, value_name = "WORD", default_value = "direct", requires = "target")]
    pub(super) route: Route,
    /// The low-level runtime: a path, or a name to look for in PATH. By default runc or crun, whichever started it.
    #[arg(long, value_name = "PROGRAM", requires = "target")]
    runtime: Option<PathBuf>,
    /// A directory of a runtime's states that is not among the usual ones.
    #[arg(long, value_name = "DIR", requires = "target")]
    pub(super) runtime_root: Vec<PathBuf>,
    /// The CRIU to use.
    #[arg(long, value_name = "PROGRAM", requires = "target")]
    pub(super) criu: Option<PathBuf>,
    #[command(flatten)]
    pub(super) dump: dump::Args,
    #[command(flatten)]
    pub(super) store: store::Args,
}

/// Who makes the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Route {
    /// Torpor, which speaks to CRIU itself: the shortest freeze.
    Direct,
    /// The runtime's own command, which takes --images.
    Runtime,
    /// The container's engine, through the CRI: an archive, which --export places.
    Cri,
    /// The kubelet of its node: an archive, which --export places.
    Kubelet,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<i32>,
    pub(super) checkpoint: String,
    pub(super) suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) frozen_milliseconds: Option<f64>,
    pub(super) phases: Vec<Took>,
}

/// What was made of a whole pod.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod: String,
    containers: Vec<Made>,
}

/// Makes the checkpoint.
pub(super) fn run(query: &Query, args: &super::Args) -> anyhow::Result<Exit> {
    let choice = &args.container;
    let roots = Roots::with(choice.runtime_root.clone());
    let by_engine = match choice.route {
        Route::Cri => Some(engine::by_cri(query, args, &roots)?),
        Route::Kubelet => Some(engine::by_kubelet(query, args, &roots)?),
        Route::Direct | Route::Runtime => {
            args.engine.refuse()?;
            None
        }
    };
    if let Some(made) = by_engine {
        args.output.print(&made, told)?;
        return Ok(Exit::Success);
    }
    let containers = roots.find_all(query)?;
    if choice.route == Route::Runtime && choice.images.is_none() {
        let message = "the runtime's own command writes to a directory, not to a store";
        return Err(Failure::new(Exit::Usage, message, "name a directory with --images").into());
    }
    if let Some(flag) = (choice.route == Route::Runtime).then(|| choice.not_for_a_runtime()).flatten() {
        let message = format!("{flag} is nothing that the runtime's own command knows");
        return Err(Failure::new(Exit::Usage, message, "leave it out, or leave --route out").into());
    }
    if choice.route == Route::Runtime && containers.len() > 1 {
        let message = format!("{query} has several containers, which the runtime does not pause together");
        return Err(Failure::new(Exit::Usage, message, "name one of them, or leave --route out").into());
    }
    are_mounted(&choice.mounts(), &containers)?;
    let work = Work {
        args,
        criu: criu_bundle::with_plugins(choice.criu.as_deref(), choice.dump.criu_plugins.as_deref())?,
        place: match (&choice.images, args.engine.layout, &args.engine.export) {
            (Some(images), ..) => Place::Directory(std::path::absolute(images)?),
            (None, Some(engine), Some(export)) => {
                Place::Archive { wanted: std::path::absolute(export)?, engine }
            }
            (None, ..) => Place::Store(Box::new(choice.open()?)),
        },
        surroundings: Surroundings::read()?,
    };
    restore::clean_up(&work.surroundings.runtime_dir.join("torpor"));
    match (query, containers.as_slice()) {
        (Query::Pod { namespace, pod, container: None }, several @ [_, _, ..]) => {
            let made = Pod { pod: format!("{namespace}/{pod}"), containers: work.pod(several)? };
            args.output.print(&made, |made| made.containers.iter().map(told).collect())?;
        }
        _ => {
            for container in &containers {
                args.output.print(&work.one(container, None)?, told)?;
            }
        }
    }
    Ok(Exit::Success)
}

/// Where checkpoints go.
enum Place {
    Directory(PathBuf),
    Store(Box<Repository>),
    Archive { wanted: PathBuf, engine: convert::Engine },
}

/// A container that is one of several.
#[derive(Clone, Copy)]
struct Among<'a> {
    together: &'a Together,
    moment: &'a str,
    /// What each may take of memory, in bytes.
    memory: u64,
    /// Its name among them.
    name: &'a str,
}

/// What is to be done with each container.
struct Work<'a> {
    args: &'a super::Args,
    criu: Program,
    place: Place,
    surroundings: Surroundings,
}

impl Work<'_> {
    /// All containers of a pod, as they are at one moment.
    fn pod(&self, containers: &[Container]) -> anyhow::Result<Vec<Made>> {
        let together = Together::new(containers.len());
        let moment = torpor_node::container::moment();
        let memory = budget::decide(None, budget::Memory::read()) / containers.len() as u64;
        let results: Vec<anyhow::Result<Made>> = std::thread::scope(|scope| {
            let threads: Vec<_> = containers
                .iter()
                .map(|container| {
                    let name = container.pod().map_or_else(|| container.id.clone(), |place| place.container);
                    let (together, moment) = (&together, moment.as_str());
                    scope.spawn(move || {
                        let among = Among { together, moment, memory, name: &name };
                        self.one(container, Some(among)).inspect_err(|_| together.fail())
                    })
                })
                .collect();
            let died = |_| anyhow::anyhow!("the thread of a container's checkpoint died");
            threads.into_iter().map(|thread| thread.join().map_err(died).flatten()).collect()
        });
        // That another failed is no reason, and says nothing.
        let is_cause =
            |error: &anyhow::Error| !matches!(error.downcast_ref(), Some(ContainerError::OtherFailed));
        let (made, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let mut errors: Vec<anyhow::Error> = failed.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| !is_cause(error));
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(made.into_iter().flatten().collect()),
        }
    }

    fn one(&self, container: &Container, among: Option<Among<'_>>) -> anyhow::Result<Made> {
        let (args, choice) = (self.args, &self.args.container);
        let job = Job {
            container,
            criu: &self.criu,
            wishes: choice.dump.wishes(args.leave_running),
            timeout: args.wrapper.timeout,
            memory_budget: among.map(|among| among.memory),
            together: among.map(|among| among.together),
            heir: None,
        };
        let runtime = || Runtime::find(container.flavor, choice.runtime.as_deref());
        let (checkpoint, done) = match &self.place {
            Place::Directory(directory) => {
                let directory = among.map_or(directory.clone(), |among| directory.join(among.name));
                let done = match choice.route {
                    Route::Direct | Route::Cri | Route::Kubelet => job.into_directory(&directory)?,
                    Route::Runtime => job.by_runtime(&runtime()?, &directory)?,
                };
                (directory.display().to_string(), done)
            }
            Place::Store(repository) => {
                let stored = self.store(&job, repository, among)?;
                (reference(&stored), stored.done)
            }
            Place::Archive { wanted, engine } => {
                let (path, done) = self.archive(&job, wanted, *engine, among)?;
                (path.display().to_string(), done)
            }
        };
        if choice.route == Route::Direct && !args.leave_running {
            clean_up(container, runtime());
        }
        Ok(Made {
            container: Some(container.id.clone()),
            process: None,
            checkpoint,
            suspended: !args.leave_running,
            frozen_milliseconds: done.frozen.map(milliseconds),
            phases: done.phases.durations().into_iter().map(took).collect(),
        })
    }

    /// Makes it as an archive in an engine's layout, by way of a store beside it.
    fn archive(
        &self,
        job: &Job<'_>,
        wanted: &Path,
        engine: convert::Engine,
        among: Option<Among<'_>>,
    ) -> anyhow::Result<(PathBuf, Done)> {
        let place = engine::place(job.container);
        let placement = Placement::new(wanted, &place, jiff::Timestamp::now())?;
        let beside = placement.directory();
        let room = tempfile::Builder::new()
            .prefix(".torpor-store-")
            .tempdir_in(beside)
            .with_context(|| format!("cannot write {}", beside.display()))?;
        let repository =
            Repository::create(Arc::new(LocalBackend::new(room.path().to_owned())), &Credentials::None)?;
        let stored = self.store(job, &repository, among)?;
        let write = || -> anyhow::Result<()> {
            let source = torpor_archive::source::Stored::open(repository.clone(), &stored.manifest)?;
            let checkpoint = Checkpoint::new(Box::new(source))?;
            let description = layout::Description::read(&checkpoint)?;
            let request = layout::Request {
                mounts: description.spec.as_ref().map(given_mounts).unwrap_or_default(),
                close_connections: self.args.container.dump.tcp == Connections::Close,
                ..layout::Request::default()
            };
            let plan = layout::Plan::new(&checkpoint, description, engine.into(), &request)?;
            for note in plan.notes() {
                eprintln!("note: {note}");
            }
            // Images hold what was in the container's memory.
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(placement.partial())?;
            let mut tape = Tape::new(std::io::BufWriter::with_capacity(1 << 20, file));
            plan.write(&checkpoint, "", &mut tape)?;
            tape.end()?.into_inner()?;
            Ok(())
        };
        match write() {
            Ok(()) => Ok((placement.finish()?, stored.done)),
            // A container that has ended is nowhere but there.
            Err(error) if !self.args.leave_running => {
                let kept = format!("{} in the store {}", reference(&stored), room.keep().display());
                Err(error
                    .context(format!("there is no archive; the checkpoint is {kept}, for `torpor convert`")))
            }
            // What was refused is given to `torpor convert`, which has flags for it.
            Err(error) => Err(match error.downcast_ref() {
                Some(LayoutError::Refused { .. }) => {
                    let remedy = failure::remedy(&error).unwrap_or_default();
                    let remedy = format!("checkpoint it into a store, and `torpor convert` that: {remedy}");
                    Failure::new(failure::exit(&error), failure::sentence(&error), remedy).into()
                }
                _ => error,
            }),
        }
    }

    /// Makes it as a generation in the store.
    fn store(
        &self,
        job: &Job<'_>,
        repository: &Repository,
        among: Option<Among<'_>>,
    ) -> anyhow::Result<Stored> {
        let container = job.container;
        let name = match (&self.args.wrapper.name, among, container.pod()) {
            (Some(name), None, _) => name.clone(),
            (Some(name), Some(among), _) => format!("{name}/{}", among.name).parse()?,
            (None, _, Some(place)) => {
                format!("{}/{}/{}", place.namespace, place.pod, place.container).parse()?
            }
            (None, _, None) => container.names.first().unwrap_or(&container.id).parse()?,
        };
        let staging = self.surroundings.runtime_dir.join("torpor");
        let signs = store::signs(&self.args.container.store.store);
        let destination = Destination {
            repository,
            name,
            host: self.surroundings.host.clone(),
            signs: signs.as_deref(),
            moment: among.map(|among| among.moment.to_owned()),
            mounts: self.args.container.mounts(),
            staging: &staging,
        };
        Ok(job.into_store(&destination)?)
    }
}

/// Whether all mounts that were named to be taken along are there.
pub(in crate::cli) fn are_mounted(mounts: &Carry, containers: &[Container]) -> Result<(), Failure> {
    let [missing, ..] = mounts.missing(containers)[..] else { return Ok(()) };
    let message = format!("there is no directory from outside mounted at {}", missing.display());
    let remedy = "name the path at which the container itself has a directory mounted; single files that are mounted stay where they are";
    Err(Failure::new(Exit::Usage, message, remedy))
}

/// Mounts from outside that a container was given, but for those that its engine makes anew for each.
fn given_mounts(spec: &serde_json::Value) -> Vec<layout::GivenMount> {
    const ENGINES: [&str; 5] = [
        "/run/containers/",
        "/run/containerd/",
        "/var/lib/containerd/",
        "/var/lib/containers/storage/overlay-containers/",
        "/var/lib/kubelet/",
    ];
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    mounts
        .filter(|mount| mount["type"] == "bind")
        .filter_map(|mount| {
            let (destination, source) = (mount["destination"].as_str()?, mount["source"].as_str()?);
            let given = !ENGINES.iter().any(|engine| source.starts_with(engine));
            given.then(|| layout::GivenMount {
                destination: destination.to_owned(),
                source: Some(source.to_owned()),
            })
        })
        .collect()
}

pub(in crate::cli) fn reference(stored: &Stored) -> String {
    let description = stored.manifest.description();
    format!("{}@{}", description.name, description.generation)
}

impl Args {
    /// What was asked for that runc and crun cannot be told.
    fn not_for_a_runtime(&self) -> Option<&'static str> {
        let asked = [
            ("--tcp close", self.dump.tcp == Connections::Close),
            ("--criu", self.criu.is_some()),
            ("--criu-plugins", self.dump.criu_plugins.is_some()),
            ("--criu-option", self.dump.has_options()),
        ];
        asked.into_iter().find_map(|(flag, is_asked)| is_asked.then_some(flag))
    }

    /// Which mounts are taken along.
    fn mounts(&self) -> Carry {
        Carry { own: self.own_mounts, named: self.carry_mount.clone() }
    }

    /// Opens the store, or makes it.
    pub(super) fn open(&self) -> anyhow::Result<Repository> {
        let backend = store::backend(&self.store.store)?;
        let credentials =
            store::credentials(self.store.passphrase_file.as_deref(), self.store.key_file.as_deref())?;
        Ok(Repository::open_or_create(backend, &credentials)?)
    }
}

/// A runtime's own checkpoint removes what it knows of a container that has ended with it. So do we, where nobody is
/// there who does it: engines notice the end, and clean up by themselves.
pub(in crate::cli) fn clean_up(container: &Container, runtime: Result<Runtime, ContainerError>) {
    if container.engine != Engine::None {
        return;
    }
    if let Err(error) = runtime.and_then(|runtime| runtime.delete(container)) {
        tracing::warn!(id = container.id, %error, "the runtime still knows the container, which has ended");
    }
}

pub(in crate::cli) fn took((phase, duration): (Phase, Duration)) -> Took {
    Took { phase: phase.name().to_owned(), milliseconds: milliseconds(duration) }
}

pub(in crate::cli) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(super) fn told(made: &Made) -> String {
    let what = if made.suspended { "ended" } else { "runs on" };
    let of = match (&made.container, made.process) {
        (Some(id), _) => format!("container {}", short(id)),
        (None, Some(pid)) => format!("process {pid}"),
        (None, None) => "it".to_owned(),
    };
    format!("{}: {of} {what}\n{}", made.checkpoint, times(made.frozen_milliseconds, &made.phases))
}

/// An ID as engines show it to people: those that they draw have 64 digits, of which twelve will do.
fn short(id: &str) -> &str {
    let drawn = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if drawn { &id[..12] } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told() {
        let made = Made {
            container: Some("one".into()),
            process: None,
            checkpoint: "/var/tmp/one".into(),
            suspended: false,
            frozen_milliseconds: Some(12.25),
            phases: vec![took((Phase::Capture, Duration::from_millis(10)))],
        };
        let expected =
            "/var/tmp/one: container one runs on\n  frozen        12.2 ms\n  capture       10.0 ms\n";
        assert_eq!(told(&made), expected);
        assert_eq!(short(&"0123456789abcdef".repeat(4)), "0123456789ab");
    }
}

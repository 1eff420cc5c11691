//! `torpor checkpoint container:ID`: a container that was started by any engine, into a directory of CRIU's images.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use torpor_criu::options::{ExpertOption, Tcp};
use torpor_node::config::Surroundings;
use torpor_node::container::checkpoint::Job;
use torpor_node::container::dump::Wishes;
use torpor_node::container::generation::{Destination, Stored};
use torpor_node::container::route::Runtime;
use torpor_node::container::{Container, ContainerError, Engine, Query, Roots};
use torpor_node::criu_bundle;
use torpor_node::phase::Phase;
use torpor_store::Repository;
use torpor_store::name::Name;

use super::Took;
use crate::cli::Exit;
use crate::cli::failure::Failure;
use crate::cli::store;

/// Flags for containers.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Containers")]
#[group(skip)]
pub(super) struct Args {
    /// Write CRIU's images to this directory, from which the container's runtime restores; else the checkpoint becomes a
    /// generation of --name in the store, together with what the container changed in its image.
    #[arg(long, value_name = "DIR", requires = "target")]
    images: Option<PathBuf>,
    /// What happens to TCP connections.
    #[arg(long, value_name = "WORD", default_value = "fail", requires = "target")]
    tcp: Connections,
    /// Unix sockets may have peers outside of the container.
    #[arg(long, requires = "target")]
    ext_unix_sockets: bool,
    /// The container may be at a terminal, or in a session, of somebody outside.
    #[arg(long, requires = "target")]
    shell_job: bool,
    /// Who makes the checkpoint.
    #[arg(long, value_name = "WORD", default_value = "direct", requires = "target")]
    route: Route,
    /// The low-level runtime: a path, or a name to look for in PATH. By default runc or crun, whichever started it.
    #[arg(long, value_name = "PROGRAM", requires = "target")]
    runtime: Option<PathBuf>,
    /// A directory of a runtime's states that is not among the usual ones.
    #[arg(long, value_name = "DIR", requires = "target")]
    runtime_root: Vec<PathBuf>,
    /// The CRIU to use.
    #[arg(long, value_name = "PROGRAM", requires = "target")]
    criu: Option<PathBuf>,
    /// An option of CRIU's own, as KEY or KEY=VALUE.
    #[arg(long, value_name = "OPTION", requires = "target")]
    criu_option: Vec<ExpertOption>,
    #[command(flatten)]
    store: store::Args,
}

/// What happens to TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Connections {
    /// A container that has some is refused.
    Fail,
    /// They are closed at the restore.
    Close,
    /// They are kept; the restore must have the same address.
    Established,
}

/// Who makes the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Route {
    /// Torpor, which speaks to CRIU itself: the shortest freeze.
    Direct,
    /// The runtime's own command, which takes --images.
    Runtime,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    container: String,
    checkpoint: String,
    suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_milliseconds: Option<f64>,
    phases: Vec<Took>,
}

/// Makes the checkpoint.
pub(super) fn run(query: &Query, args: &super::Args) -> anyhow::Result<Exit> {
    let choice = &args.container;
    let container = Roots::with(choice.runtime_root.clone()).find(query)?;
    if choice.route == Route::Runtime && choice.images.is_none() {
        let message = "the runtime's own command writes to a directory, not to a store";
        return Err(Failure::new(Exit::Usage, message, "name a directory with --images").into());
    }
    let criu = criu_bundle::find(choice.criu.as_deref())?.program;
    let job = Job {
        container: &container,
        criu: &criu,
        wishes: choice.wishes(args.leave_running),
        timeout: args.wrapper.timeout,
        memory_budget: None,
    };
    let runtime = || Runtime::find(container.flavor, choice.runtime.as_deref());
    let (place, done) = match &choice.images {
        Some(images) => {
            let images = std::path::absolute(images)?;
            let done = match choice.route {
                Route::Direct => job.into_directory(&images)?,
                Route::Runtime => job.by_runtime(&runtime()?, &images)?,
            };
            (images.display().to_string(), done)
        }
        None => {
            let stored = store(&job, choice, args.wrapper.name.clone())?;
            let description = stored.manifest.description();
            (format!("{}@{}", description.name, description.generation), stored.done)
        }
    };
    if choice.route == Route::Direct && !args.leave_running {
        clean_up(&container, runtime());
    }
    let made = Made {
        container: container.id,
        checkpoint: place,
        suspended: !args.leave_running,
        frozen_milliseconds: done.frozen.map(milliseconds),
        phases: done.phases.durations().into_iter().map(took).collect(),
    };
    args.output.print(&made, told)?;
    Ok(Exit::Success)
}

/// Makes it as a generation in the store.
fn store(job: &Job<'_>, choice: &Args, name: Option<Name>) -> anyhow::Result<Stored> {
    let name = match (name, job.container.pod()) {
        (Some(name), _) => name,
        (None, Some(place)) => format!("{}/{}/{}", place.namespace, place.pod, place.container).parse()?,
        (None, None) => job.container.names.first().unwrap_or(&job.container.id).parse()?,
    };
    let backend = store::backend(&choice.store.store)?;
    let credentials =
        store::credentials(choice.store.passphrase_file.as_deref(), choice.store.key_file.as_deref())?;
    let repository = Repository::open_or_create(backend, &credentials)?;
    let surroundings = Surroundings::read()?;
    let staging = surroundings.runtime_dir.join("torpor");
    let signs = store::signs(&choice.store.store);
    let into = Destination {
        repository: &repository,
        name,
        host: surroundings.host,
        signs: signs.as_deref(),
        staging: &staging,
    };
    Ok(job.into_store(&into)?)
}

impl Args {
    fn wishes(&self, leave_running: bool) -> Wishes {
        Wishes {
            leave_running,
            tcp: match self.tcp {
                Connections::Fail => Tcp::Fail,
                Connections::Close => Tcp::Close,
                Connections::Established => Tcp::Established,
            },
            external_unix: self.ext_unix_sockets,
            file_locks: true,
            shell_job: self.shell_job,
            connected: false,
            seize_timeout: None,
            expert_options: self.criu_option.clone(),
        }
    }
}

/// A runtime's own checkpoint removes what it knows of a container that has ended with it. So do we, where nobody is
/// there who does it: engines notice the end, and clean up by themselves.
fn clean_up(container: &Container, runtime: Result<Runtime, ContainerError>) {
    if container.engine != Engine::None {
        return;
    }
    if let Err(error) = runtime.and_then(|runtime| runtime.delete(container)) {
        tracing::warn!(id = container.id, %error, "the runtime still knows the container, which has ended");
    }
}

fn took((phase, duration): (Phase, Duration)) -> Took {
    Took { phase: phase.name().to_owned(), milliseconds: milliseconds(duration) }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn told(made: &Made) -> String {
    let what = if made.suspended { "ended" } else { "runs on" };
    let mut text = format!("{}: container {} {what}\n", made.checkpoint, made.container);
    if let Some(frozen) = made.frozen_milliseconds {
        text.push_str(&format!("  frozen   {frozen:>9.1} ms\n"));
    }
    for Took { phase, milliseconds } in &made.phases {
        text.push_str(&format!("  {phase:<8} {milliseconds:>9.1} ms\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_told() {
        let made = Made {
            container: "one".into(),
            checkpoint: "/var/tmp/one".into(),
            suspended: false,
            frozen_milliseconds: Some(12.25),
            phases: vec![took((Phase::Capture, Duration::from_millis(10)))],
        };
        let expected =
            "/var/tmp/one: container one runs on\n  frozen        12.2 ms\n  capture       10.0 ms\n";
        assert_eq!(told(&made), expected);
    }
}

//! `torpor migrate`: a container goes on elsewhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use torpor_archive::registry::Reference;
use torpor_criu::program::Program;
use torpor_node::config::{Surroundings, duration};
use torpor_node::container::carry::Carry;
use torpor_node::container::checkpoint::{Done, Job};
use torpor_node::container::generation::Destination;
use torpor_node::container::route::Runtime;
use torpor_node::container::{Container, Query, Roots};
use torpor_node::criu_bundle;
use torpor_node::migration::Ticket;
use torpor_node::migration::source::{Move, ends_for_good};
use torpor_store::Repository;
use torpor_store::name::Name;

use super::carriage::Outward;
use super::checkpoint::{Took, are_mounted, clean_up, milliseconds, reference, times, took};
use super::failure::Failure;
use super::{Exit, depot, dump, output, store};

/// Move a container to another machine, or into a store or registry that another takes it from
///
/// To HOST:PORT it goes straight, where `torpor receive` waits, over a connection on which both sides know each other by a ticket. What does
/// not fit there is told before anything is frozen. It ends here only once all of it is there and ready to go on; whatever fails before
/// that lets it run on here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container: container:ID-OR-NAME, or pod:NAMESPACE/POD/CONTAINER.
    #[arg(value_name = "TARGET")]
    target: Query,
    /// Where to: HOST:PORT; a store that both machines share, as a path or file:///PATH; or `docker://HOST/REPOSITORY[:TAG]`, from where
    /// `torpor receive --from` takes it.
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// The ticket that `torpor receive` printed.
    #[arg(
        long,
        value_name = "TICKET",
        env = "TORPOR_TICKET",
        hide_env_values = true,
        conflicts_with = "ticket_file"
    )]
    ticket: Option<String>,
    /// A file with the ticket.
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
    /// In a store, the name that it becomes a generation of; by default its own.
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// How many times its memory is copied ahead while it runs, so that it stands still for less.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    ahead: u32,
    /// How long it may take from its freeze on. After that it runs on here.
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Take along what is in the mount at this path of the container, such as a volume.
    #[arg(long, value_name = "PATH")]
    carry_mount: Vec<PathBuf>,
    /// Take along what ends with the pod: /dev/shm and emptyDirs.
    #[arg(long)]
    own_mounts: bool,
    /// It may go to a machine with an older kernel: it uses nothing that this one lacks.
    #[arg(long)]
    older_kernel: bool,
    #[command(flatten)]
    dump: dump::Args,
    /// The low-level runtime that knows it, to take note of its end. By default runc or crun, whichever started it.
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<PathBuf>,
    /// A directory of a runtime's states that is not among the usual ones.
    #[arg(long, value_name = "DIR")]
    runtime_root: Vec<PathBuf>,
    /// The CRIU to use.
    #[arg(long, value_name = "PROGRAM")]
    criu: Option<PathBuf>,
    /// Read the passphrase of an encrypted store from this file's first line.
    #[arg(long, value_name = "FILE", env = "TORPOR_PASSPHRASE_FILE", conflicts_with = "key_file")]
    passphrase_file: Option<PathBuf>,
    /// Open an encrypted store with this key file.
    #[arg(long, value_name = "FILE", env = "TORPOR_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Where what goes to a registry is made ready: on a disk, with room for its memory.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/torpor")]
    room: PathBuf,
    #[command(flatten)]
    depot: depot::Args,
    #[command(flatten)]
    output: output::Args,
}

/// Where to.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a str),
    Store(&'a str),
    Registry(Reference),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    container: String,
    to: String,
    /// The generation, in a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    /// Its first process there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// How long it stood still, until it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_milliseconds: Option<f64>,
    phases: Vec<Took>,
}

/// Moves it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let place = place(&args.to)?;
    let container = Roots::with(args.runtime_root.clone()).find(&args.target)?;
    are_mounted(&args.mounts(), std::slice::from_ref(&container))?;
    let surroundings = Surroundings::read()?;
    let moved = match place {
        Place::Host(address) => args.straight(&container, address, surroundings)?,
        Place::Store(url) => args.by_store(&container, url, surroundings)?,
        Place::Registry(reference) => args.by_registry(&container, reference, surroundings)?,
    };
    clean_up(&container, Runtime::find(container.flavor, args.runtime.as_deref()));
    args.output.print(&moved, told)?;
    Ok(Exit::Success)
}

/// A store is a path or a URL; all else but an image is a host.
fn place(to: &str) -> anyhow::Result<Place<'_>> {
    let refused = |message: String, remedy: &str| Err(Failure::new(Exit::Usage, message, remedy).into());
    if to.starts_with("docker://") {
        return Ok(Place::Registry(to.parse()?));
    }
    if to.starts_with("oci:") || to.starts_with("oci-archive:") {
        let remedy = "name a registry, or a store; `torpor build` makes images of what is in a store";
        return refused(format!("{to} is no place to move to"), remedy);
    }
    if to.contains("://") || to.starts_with(['/', '.']) {
        return Ok(Place::Store(to));
    }
    match to.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Place::Host(to)),
        _ => refused(
            format!("{to} is neither HOST:PORT nor a store"),
            "write the port, or the store as a path",
        ),
    }
}

impl Args {
    fn straight(
        &self,
        container: &Container,
        address: &str,
        surroundings: Surroundings,
    ) -> anyhow::Result<Moved> {
        let ticket = self.ticket()?;
        let criu = self.criu_without_plugins()?;
        let staging = surroundings.runtime_dir.join("torpor");
        let moved = self.leaving(container, &criu, surroundings.host, &staging).to(address, &ticket)?;
        Ok(Moved { pid: Some(moved.pid), ..made(container, moved.peer, moved.done) })
    }

    fn by_registry(
        &self,
        container: &Container,
        reference: Reference,
        surroundings: Surroundings,
    ) -> anyhow::Result<Moved> {
        let mut carrier = Outward::new(reference, &self.depot)?;
        let criu = self.criu_without_plugins()?;
        let staging = surroundings.runtime_dir.join("torpor");
        let room = std::path::absolute(&self.room)?;
        let left = self.leaving(container, &criu, surroundings.host, &staging).by(&mut carrier, &room)?;
        Ok(made(container, left.place, left.done))
    }

    fn leaving<'a>(
        &'a self,
        container: &'a Container,
        criu: &'a Program,
        host: String,
        staging: &'a Path,
    ) -> Move<'a> {
        Move {
            container,
            criu,
            wishes: self.dump.wishes(false),
            timeout: self.timeout,
            ahead: self.ahead,
            mounts: self.mounts(),
            older_kernel: self.older_kernel,
            host,
            staging,
        }
    }

    fn by_store(
        &self,
        container: &Container,
        url: &str,
        surroundings: Surroundings,
    ) -> anyhow::Result<Moved> {
        ends_for_good(container)?;
        let criu = criu_bundle::with_plugins(self.criu.as_deref(), self.dump.criu_plugins.as_deref())?;
        let credentials = store::credentials(self.passphrase_file.as_deref(), self.key_file.as_deref())?;
        let repository = Repository::open_or_create(store::backend(url)?, &credentials)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => container.names.first().unwrap_or(&container.id).parse()?,
        };
        let signs = store::signs(url);
        let staging = surroundings.runtime_dir.join("torpor");
        let destination = Destination {
            repository: &repository,
            name,
            host: surroundings.host,
            signs: signs.as_deref(),
            moment: None,
            mounts: self.mounts(),
            staging: &staging,
        };
        let job = |leave_running| Job {
            container,
            criu: &criu,
            wishes: self.dump.wishes(leave_running),
            timeout: self.timeout,
            memory_budget: None,
            together: None,
            heir: None,
        };
        for _ in 0..self.ahead {
            job(true).into_store(&destination)?;
        }
        let stored = job(false).into_store(&destination)?;
        let checkpoint = Some(reference(&stored));
        Ok(Moved { checkpoint, ..made(container, url.to_owned(), stored.done) })
    }

    /// The CRIU of a move whose target restores at once, by a runtime's own command.
    fn criu_without_plugins(&self) -> anyhow::Result<Program> {
        if self.dump.criu_plugins.is_some() {
            let message = "--criu-plugins is no use here: who takes the container from a host or registry restores it by its runtime's \
                           own command, which loads no plugins";
            let remedy =
                "move it into a store, and restore it by torpor-runtime with CRIU's plugins in runtime.yaml";
            return Err(Failure::new(Exit::Usage, message, remedy).into());
        }
        Ok(criu_bundle::find(self.criu.as_deref())?.program)
    }

    fn ticket(&self) -> anyhow::Result<Ticket> {
        let text = match (&self.ticket, &self.ticket_file) {
            (Some(ticket), _) => ticket.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the ticket in {}", file.display()))?,
            (None, None) => {
                let message = "a machine takes a container from one alone who has its ticket";
                let remedy = "give what `torpor receive` printed there with --ticket or --ticket-file";
                return Err(Failure::new(Exit::Usage, message, remedy).into());
            }
        };
        text.parse().map_err(|error: torpor_node::migration::ticket::NotATicket| {
            let remedy = "copy all of what `torpor receive` printed behind --ticket";
            Failure::new(Exit::Usage, error.to_string(), remedy).into()
        })
    }

    fn mounts(&self) -> Carry {
        Carry { own: self.own_mounts, named: self.carry_mount.clone() }
    }
}

fn made(container: &Container, to: String, done: Done) -> Moved {
    Moved {
        container: container.id.clone(),
        to,
        checkpoint: None,
        pid: None,
        frozen_milliseconds: done.frozen.map(milliseconds),
        phases: done.phases.durations().into_iter().map(took).collect(),
    }
}

fn told(moved: &Moved) -> String {
    let Moved { container, to, .. } = moved;
    let what = match (&moved.checkpoint, moved.pid) {
        (Some(checkpoint), _) => format!(
            "container {container} has ended here; it goes on with: torpor restore {checkpoint} --store {to} --bundle DIR --detach\n"
        ),
        (None, Some(pid)) => format!("container {container} runs on {to}, as process {pid}\n"),
        (None, None) => format!(
            "container {container} has ended here; it goes on with: torpor receive --from docker://{to}\n"
        ),
    };
    what + &times(moved.frozen_milliseconds, &moved.phases)
}

#[cfg(test)]
mod tests {
    use super::super::failure;
    use super::*;

    #[test]
    fn a_place_is_a_host_or_a_store() {
        for (text, expected) in [
            ("node-2:7411", Place::Host("node-2:7411")),
            ("[::1]:7411", Place::Host("[::1]:7411")),
            ("/shared/store", Place::Store("/shared/store")),
            ("./store", Place::Store("./store")),
            ("file:///shared", Place::Store("file:///shared")),
        ] {
            assert_eq!(place(text).unwrap(), expected, "{text}");
        }
        let registry = Place::Registry("registry:5000/x:1".parse().unwrap());
        assert_eq!(place("docker://registry:5000/x:1").unwrap(), registry);
        for text in ["node-2", "node-2:port", ":7411", "docker://", "oci:here", ""] {
            assert_eq!(failure::exit(&place(text).unwrap_err()), Exit::Usage, "{text}");
        }
    }
}

//! `torpor receive`: takes a container that another machine sends.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use torpor_node::config::Surroundings;
use torpor_node::migration::Ticket;
use torpor_node::migration::target::{self, Bundle, Home, Reception, Waiting};
use torpor_node::oci_runtime::settings::Settings;

use super::carriage::Inward;
use super::restore::{self, Engine};
use super::{Exit, depot, output};

/// Take a container that another machine sends by `torpor migrate`
///
/// It waits for one container. The ticket that it prints lets in the one who has it, and nobody else; it is for this one migration. The
/// container goes on here once it has ended there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The address and port to listen at.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7411")]
    listen: String,
    /// Take it from here, where `torpor migrate` has sent it: `docker://HOST/REPOSITORY[:TAG]`. Whoever takes it first is the only one.
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["listen", "ticket_file"])]
    from: Option<String>,
    /// With --from, this machine's kernel may be older than where it was: it uses nothing that this one lacks.
    #[arg(long, requires = "from")]
    older_kernel: bool,
    /// Write the ticket to this file, for its owner alone, instead of printing it.
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<PathBuf>,
    /// The directory of the container's configuration, with its image mounted at its root: runc or crun makes it.
    #[arg(long, value_name = "DIR", conflicts_with = "into")]
    bundle: Option<PathBuf>,
    /// The container's ID, or its name where an engine makes it; by default the one it had.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The low-level runtime: runc, crun, or the path of one of them.
    #[arg(long, value_name = "PROGRAM", requires = "bundle")]
    runtime: Option<PathBuf>,
    /// The directory of the runtime's states, where it is not the usual one.
    #[arg(long, value_name = "DIR", requires = "bundle")]
    runtime_root: Option<PathBuf>,
    /// Write the PID of its first process here.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix sockets may have peers outside, as at the source.
    #[arg(long, requires = "bundle")]
    ext_unix_sockets: bool,
    /// It may be at a terminal, or in a session, of somebody outside, as at the source.
    #[arg(long, requires = "bundle")]
    shell_job: bool,
    /// Where what is sent is kept until the container runs: on a disk, with room for twice its memory. With an engine it is the state of
    /// torpor-runtime.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/torpor")]
    room: PathBuf,
    /// The engine that makes the container, by the runtime that `torpor install-node` gives it; by default the one it has at the source.
    #[arg(long, value_name = "ENGINE", value_enum)]
    into: Option<Engine>,
    /// The image that the engine makes it from, where it is not the one it has at the source.
    #[arg(long, value_name = "IMAGE", conflicts_with = "bundle")]
    image: Option<String>,
    /// Further flags of the engine's own `create`: mounts, networks, privileges.
    #[arg(last = true, value_name = "FLAGS", conflicts_with = "bundle")]
    flags: Vec<String>,
    #[command(flatten)]
    depot: depot::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    container: String,
    pid: i32,
    from: String,
}

/// Waits for it and takes it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let staging = Surroundings::read()?.runtime_dir.join("torpor");
    let room = std::path::absolute(&args.room)?;
    let (directory, runtime, settings);
    let home = match &args.bundle {
        Some(bundle) => {
            directory = std::path::absolute(bundle)?;
            runtime = restore::low_level(args.runtime.as_deref())?;
            Home::Bundle(Bundle {
                runtime: &runtime,
                root: args.runtime_root.as_deref(),
                directory: &directory,
                external_unix: args.ext_unix_sockets,
                shell_job: args.shell_job,
                room: &room,
                staging: &staging,
            })
        }
        None => {
            settings = Settings::load()?;
            Home::Engine(target::Engine {
                adopter: args.into.map(Into::into),
                image: args.image.as_deref(),
                flags: &args.flags,
                settings: &settings,
            })
        }
    };
    let reception = Reception { home, id: args.id.as_deref(), pid_file: args.pid_file.as_deref() };
    let received = match &args.from {
        Some(from) => reception.collect(&Inward::find(from, &args.depot)?, args.older_kernel)?,
        None => {
            let waiting = Waiting::at(&args.listen)?;
            give_out(args, waiting.ticket(), waiting.port()?)?;
            let received = waiting.receive(&reception);
            if let Some(file) = &args.ticket_file {
                // It is of no more use.
                let _ = std::fs::remove_file(file);
            }
            received?
        }
    };
    let received = Received { container: received.id, pid: received.pid, from: received.peer };
    args.output.print(&received, |received| {
        format!(
            "container {} runs here, as process {}; it came from {}\n",
            received.container, received.pid, received.from
        )
    })?;
    Ok(Exit::Success)
}

fn give_out(args: &Args, ticket: &Ticket, port: u16) -> anyhow::Result<()> {
    let Some(file) = &args.ticket_file else {
        eprintln!(
            "waiting at port {port} for: torpor migrate container:ID --to HOST:{port} --ticket {ticket}"
        );
        return Ok(());
    };
    // It appears whole: somebody may wait for it.
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = parent.join(format!(".torpor-ticket-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        writeln!(written, "{ticket}")?;
        std::fs::rename(&partial, file)
    };
    write().with_context(|| format!("cannot write the ticket to {}", file.display()))?;
    eprintln!("waiting at port {port}; the ticket is in {}", file.display());
    Ok(())
}

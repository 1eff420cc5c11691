//! `torpor restore`: a directory of CRIU's images as a container of runc's or crun's, or as plain processes.

use std::path::PathBuf;

use torpor_node::config::Surroundings;
use torpor_node::container::Flavor;
use torpor_node::container::restore::{self, Processes, Wanted};
use torpor_node::container::route::Runtime;
use torpor_node::criu_bundle;

use super::Exit;
use super::failure::Failure;

/// Restore a checkpoint as a container, or as plain processes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory of CRIU's images.
    #[arg(value_name = "DIR")]
    images: PathBuf,
    /// The directory of the container's configuration. Without it, plain processes are restored.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// The container's ID; the bundle's name where none is given.
    #[arg(long, value_name = "ID", requires = "bundle")]
    id: Option<String>,
    /// The low-level runtime: runc, crun, or the path of one of them.
    #[arg(long, value_name = "PROGRAM", requires = "bundle")]
    runtime: Option<PathBuf>,
    /// The directory of the runtime's states, where it is not the usual one.
    #[arg(long, value_name = "DIR", requires = "bundle")]
    runtime_root: Option<PathBuf>,
    /// Let it run on by itself, instead of waiting for its end and passing on its exit code.
    #[arg(long)]
    detach: bool,
    /// Write the PID of its first process here.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Unix sockets may have peers outside, as at the checkpoint.
    #[arg(long)]
    ext_unix_sockets: bool,
    /// It may be at a terminal, or in a session, of somebody outside, as at the checkpoint.
    #[arg(long)]
    shell_job: bool,
    /// The CRIU to use for plain processes; a runtime uses its own.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "bundle")]
    criu: Option<PathBuf>,
}

/// Restores it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let images = std::path::absolute(&args.images)?;
    let staging = Surroundings::read()?.runtime_dir.join("torpor");
    let code = match &args.bundle {
        Some(bundle) => {
            let bundle = std::path::absolute(bundle)?;
            let id = match (&args.id, bundle.file_name().and_then(|name| name.to_str())) {
                (Some(id), _) => id.as_str(),
                (None, Some(name)) => name,
                (None, None) => {
                    return Err(
                        Failure::new(Exit::Usage, "the container has no ID", "give one with --id").into()
                    );
                }
            };
            let wanted = Wanted {
                id,
                bundle: &bundle,
                root: args.runtime_root.as_deref(),
                images: &images,
                detach: args.detach,
                pid_file: args.pid_file.as_deref(),
                external_unix: args.ext_unix_sockets,
                shell_job: args.shell_job,
                staging: &staging,
            };
            restore::container(&args.runtime()?, &wanted)?
        }
        None => restore::processes(&Processes {
            criu: &criu_bundle::find(args.criu.as_deref())?.program,
            images: &images,
            pid_file: args.pid_file.as_deref(),
            detach: args.detach,
            external_unix: args.ext_unix_sockets,
            shell_job: args.shell_job,
            staging: &staging,
        })?,
    };
    Ok(code.map_or(Exit::Success, |code| Exit::Program(u8::try_from(code).unwrap_or(u8::MAX))))
}

impl Args {
    /// The runtime that was named; else runc, and where that is not there, crun.
    fn runtime(&self) -> anyhow::Result<Runtime> {
        if let Some(named) = &self.runtime {
            let name = named.file_name().unwrap_or_default().to_string_lossy();
            let flavor = if name.contains("crun") { Flavor::Crun } else { Flavor::Runc };
            return Ok(Runtime::find(flavor, Some(named))?);
        }
        let runc = Runtime::find(Flavor::Runc, None);
        Ok(runc.or_else(|error| Runtime::find(Flavor::Crun, None).map_err(|_| error))?)
    }
}

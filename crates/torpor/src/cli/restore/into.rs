//! `torpor restore --into docker`: an engine makes the container, and it is the engine's own.

use torpor_node::container::adoption::{Adopted, Adoption};
use torpor_node::oci_runtime::settings::Settings;

use super::super::failure::Failure;
use super::super::{Exit, store};

/// Flags of a restore into an engine.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Into an engine")]
#[group(skip)]
pub(super) struct Args {
    /// Have this engine make the container, from a name in the store; it is told `--id` as the name. It needs the runtime that
    /// `torpor install-node` gives it.
    #[arg(long, value_name = "ENGINE", value_enum, conflicts_with_all = ["criu", "shell_job", "ext_unix_sockets"])]
    into: Option<Engine>,
    /// The image that the engine makes it from, where it is not the one that the checkpoint tells.
    #[arg(long, value_name = "IMAGE", requires = "into")]
    image: Option<String>,
    /// Further flags of the engine's own `create`: mounts, networks, privileges.
    #[arg(last = true, value_name = "FLAGS", requires = "into")]
    flags: Vec<String>,
}

/// Engines that make a container.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Engine {
    /// Docker.
    Docker,
}

impl Args {
    /// Whether an engine is to make the container.
    pub(super) fn is_given(&self) -> bool {
        self.into.is_some()
    }
}

/// Restores it.
pub(super) fn run(args: &super::Args) -> anyhow::Result<Exit> {
    let Some(reference) = args.reference()? else {
        let message =
            format!("{} is a directory, and an engine restores names in a store", args.source.display());
        let remedy = "put it into a store with `torpor import`, or restore it with --bundle";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    };
    let repository = args.store.open()?;
    let adoption = Adoption {
        repository: &repository,
        store: &store::directory(&args.store.store)?,
        reference: &reference,
        name: args.id.as_deref(),
        image: args.into.image.as_deref(),
        flags: &args.into.flags,
    };
    let adopted = adoption.create(&Settings::load()?)?;
    if !args.detach {
        return Ok(Exit::Program(u8::try_from(adopted.run()?).unwrap_or(u8::MAX)));
    }
    adopted.start()?;
    if let Some(path) = &args.pid_file {
        write_pid(&adopted, path)?;
    }
    println!("{}", adopted.id());
    Ok(Exit::Success)
}

fn write_pid(adopted: &Adopted, path: &std::path::Path) -> anyhow::Result<()> {
    let pid = adopted.pid()?;
    std::fs::write(path, pid).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(Exit::Place, message, "name another file with --pid-file; the container runs on").into()
    })
}

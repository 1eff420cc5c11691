//! `torpor restore --into ENGINE`: an engine makes the container, and it is the engine's own.

use torpor_node::container::adoption::{self, Adopted, Adopter, Adoption, AdoptionError};
use torpor_node::oci_runtime::settings::Settings;

use super::super::failure::Failure;
use super::super::{Exit, place, store};
use super::by_cri;

/// Flags of a restore into an engine.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Into an engine")]
#[group(skip)]
pub(super) struct Args {
    /// Have this engine make the container, from a name in the store, for which it needs the runtime that `torpor install-node` gives it;
    /// Podman also from an archive, and a runtime through the CRI from any checkpoint. It is told `--id` as the name.
    #[arg(long, value_name = "ENGINE", value_enum, conflicts_with_all = ["criu", "criu_plugins", "shell_job", "ext_unix_sockets"])]
    into: Option<Maker>,
    /// The image that the engine makes it from, where it is not the one that the checkpoint tells.
    #[arg(long, value_name = "IMAGE", requires = "into")]
    pub(super) image: Option<String>,
    /// Further flags of the engine's own `create`: mounts, networks, privileges.
    #[arg(last = true, value_name = "FLAGS", requires = "into", help_heading = None)]
    pub(super) flags: Vec<String>,
}

/// Engines that make a container.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(in crate::cli) enum Engine {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// Who makes a container that is restored.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Maker {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd 2.1 to 2.3 or CRI-O, through the container runtime interface.
    Cri,
}

impl From<Engine> for Adopter {
    fn from(engine: Engine) -> Adopter {
        match engine {
            Engine::Docker => Adopter::Docker,
            Engine::Podman => Adopter::Podman,
        }
    }
}

impl Args {
    /// Whether an engine is to make the container.
    pub(super) fn is_given(&self) -> bool {
        self.into.is_some()
    }
}

/// Restores it.
pub(super) fn run(args: &super::Args) -> anyhow::Result<Exit> {
    let adopter = match args.into.into {
        Some(Maker::Cri) => return by_cri::run(args),
        Some(Maker::Podman) => Adopter::Podman,
        _ => Adopter::Docker,
    };
    if adopter == Adopter::Podman && args.source.is_file() {
        let adopted = adoption::import(&args.source, args.id.as_deref(), &args.into.flags)?;
        return finish(args, &adopted, Adopted::wait);
    }
    let Some(reference) = args.reference()? else {
        let message = format!(
            "{} is none that {adopter} can restore: it takes names in a store",
            args.source.display()
        );
        let remedy =
            "put an archive into a store with `torpor import`; a directory is restored with --bundle";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    };
    let (repository, _) = place::stored(&args.store, &args.source.to_string_lossy(), &reference)?;
    let adoption = Adoption {
        adopter,
        repository: &repository,
        store: &store::directory(&args.store.store)?,
        reference: &reference,
        name: args.id.as_deref(),
        image: args.into.image.as_deref(),
        flags: &args.into.flags,
    };
    let adopted = adoption.create(&Settings::load()?)?;
    if args.detach {
        adopted.start()?;
    }
    finish(args, &adopted, Adopted::run)
}

/// Tells of one that runs by itself; or has it run here until its end.
fn finish(
    args: &super::Args,
    adopted: &Adopted,
    run: impl Fn(&Adopted) -> Result<i32, AdoptionError>,
) -> anyhow::Result<Exit> {
    if !args.detach {
        return Ok(Exit::Program(u8::try_from(run(adopted)?).unwrap_or(u8::MAX)));
    }
    if let Some(path) = &args.pid_file {
        write_pid(adopted, path)?;
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

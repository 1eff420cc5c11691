//! `torpor restore`: a directory of CRIU's images as a container of runc's or crun's, or as plain processes.

mod by_cri;
mod imported;
mod into;
mod sandbox;
mod unpacked;

use std::path::{Path, PathBuf};

use imported::Form;
pub(super) use into::Engine;
use torpor_node::config::Surroundings;
use torpor_node::container::restore::{self, Wanted};
use torpor_node::container::route::Runtime;
use torpor_node::container::stored::{self, Origin};
use torpor_node::container::{self, Flavor};
use torpor_node::criu_bundle;
use torpor_node::processes::{self, Processes};
use torpor_store::name::Reference;

use super::failure::Failure;
use super::{Exit, place, store};

/// Restore a checkpoint as a container, or as plain processes
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("container").args(["bundle", "into"])))]
pub(crate) struct Args {
    /// A directory of CRIU's images, an archive, or a name in the store, as NAME or NAME@NUMBER. What is there as a path is one.
    /// For `--into cri` also any other checkpoint, such as an image: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`.
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The directory of the container's configuration. Without it, plain processes are restored.
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// The container's ID; the bundle's name where none is given. Its name, where an engine makes it.
    #[arg(long, value_name = "ID", requires = "container")]
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
    /// A directory with CRIU's plugins for graphics processors that plain processes used, which only root may be able to change.
    #[arg(long, value_name = "DIR", conflicts_with = "bundle")]
    criu_plugins: Option<PathBuf>,
    /// Where images from a store are laid out while they are restored: on a disk, for they are as large as the memory.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/torpor")]
    room: PathBuf,
    /// The directory of the dump before, where the images of plain processes are on top of one and the link `parent` does not lead there.
    #[arg(long, value_name = "DIR", conflicts_with = "bundle")]
    prev_images_dir: Option<PathBuf>,
    /// Let files pass that plain processes had open for writing, and that changed since their checkpoint in a store.
    #[arg(long, conflicts_with = "bundle")]
    changed_files: bool,
    #[command(flatten)]
    into: into::Args,
    #[command(flatten)]
    cri: by_cri::Args,
    #[command(flatten)]
    sandbox: sandbox::Args,
    #[command(flatten)]
    store: store::Args,
}

/// Restores it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let surroundings = Surroundings::read()?;
    let staging = surroundings.runtime_dir.join("torpor");
    container::cri::restore::clean_up(&staging);
    if args.into.is_given() {
        return into::run(args);
    }
    if args.sandbox.sandbox {
        return sandbox::run(args);
    }
    let repository;
    let signs = store::signs(&args.store.store);
    let from = match args.reference()? {
        None => None,
        Some(reference) => {
            (repository, _) = place::stored(&args.store, &args.source.to_string_lossy(), &reference)?;
            let (host, signs) = (surroundings.host, signs.as_deref());
            Some(Origin { repository: &repository, reference, host, signs, room: &args.room })
        }
    };
    let code = match &args.bundle {
        Some(bundle) => in_bundle(args, bundle, from.as_ref(), &staging)?,
        None => plain_processes(args, from.as_ref(), &staging)?,
    };
    Ok(code.map_or(Exit::Success, |code| Exit::Program(u8::try_from(code).unwrap_or(u8::MAX))))
}

/// As a container of runc's or crun's. Returns its exit code, where it was waited for.
fn in_bundle(
    args: &Args,
    bundle: &Path,
    from: Option<&Origin<'_>>,
    staging: &Path,
) -> anyhow::Result<Option<i32>> {
    let (images, bundle) = (std::path::absolute(&args.source)?, std::path::absolute(bundle)?);
    let id = args.id.as_deref().or_else(|| bundle.file_name().and_then(|name| name.to_str()));
    let id = id.ok_or_else(|| Failure::new(Exit::Usage, "the container has no ID", "give one with --id"))?;
    let wanted = Wanted {
        id,
        bundle: &bundle,
        root: args.runtime_root.as_deref(),
        images: &images,
        detach: args.detach,
        pid_file: args.pid_file.as_deref(),
        external_unix: args.ext_unix_sockets,
        shell_job: args.shell_job,
        stopped: false,
        alone: false,
        staging,
    };
    let runtime = low_level(args.runtime.as_deref())?;
    let with = |images: &Path| restore::container(&runtime, &Wanted { images, ..wanted.clone() });
    Ok(match from {
        None if images.is_file() => {
            let place = unpacked::container(&images, &args.room)?;
            container::unpacked::restore(&runtime, &wanted, place.path())?
        }
        None => with(&images)?,
        Some(from) => match imported::form(from)? {
            Some(form @ Form::Directory) => imported::go_on(from, form, id, &with)?,
            Some(form @ Form::Archive) => imported::go_on(from, form, id, &|directory| {
                container::unpacked::restore(&runtime, &wanted, directory)
            })?,
            None => stored::from_store(&runtime, &wanted, from)?,
        },
    })
}

/// As a tree of processes with no container around them. Returns the exit code of the first, where it was waited for.
fn plain_processes(args: &Args, from: Option<&Origin<'_>>, staging: &Path) -> anyhow::Result<Option<i32>> {
    let images = std::path::absolute(&args.source)?;
    let previous = args.prev_images_dir.as_ref().map(std::path::absolute).transpose()?;
    let wanted = Processes {
        criu: &criu_bundle::with_plugins(args.criu.as_deref(), args.criu_plugins.as_deref())?,
        images: &images,
        previous: previous.as_deref(),
        pid_file: args.pid_file.as_deref(),
        detach: args.detach,
        external_unix: args.ext_unix_sockets,
        shell_job: args.shell_job,
        staging,
    };
    Ok(match from {
        None if images.is_file() => {
            let unpacked = unpacked::processes(&images, &args.room)?;
            processes::restore(&Processes { images: unpacked.path(), ..wanted })?
        }
        None => processes::restore(&wanted)?,
        Some(from) if imported::form(from)? == Some(Form::Directory) => {
            imported::go_on(from, Form::Directory, "processes", &|images| {
                processes::restore(&Processes { images, previous: None, ..wanted.clone() })
            })?
        }
        Some(from) => processes::generation::from_store(&wanted, from, args.changed_files)?,
    })
}

impl Args {
    /// The source as a name in the store; none where it is a directory.
    fn reference(&self) -> anyhow::Result<Option<Reference>> {
        let text = self.source.to_string_lossy();
        let named = text.strip_prefix("store:");
        if named.is_none() && self.source.exists() {
            return Ok(None);
        }
        if named.is_none() && text.starts_with(['/', '.']) {
            let message = format!("there is no {text}");
            let remedy = "check the path: a directory of CRIU's images, or an archive";
            return Err(Failure::new(Exit::NotFound, message, remedy).into());
        }
        Ok(Some(named.unwrap_or(&text).parse()?))
    }
}

/// The runtime that was named; else runc, and where that is not there, crun.
pub(super) fn low_level(named: Option<&Path>) -> anyhow::Result<Runtime> {
    if let Some(named) = named {
        let name = named.file_name().unwrap_or_default().to_string_lossy();
        let flavor = if name.contains("crun") { Flavor::Crun } else { Flavor::Runc };
        return Ok(Runtime::find(flavor, Some(named))?);
    }
    let runc = Runtime::find(Flavor::Runc, None);
    Ok(runc.or_else(|error| Runtime::find(Flavor::Crun, None).map_err(|_| error))?)
}

//! Plain processes in a sandbox.

use std::path::{Path, PathBuf};

use torpor_node::config::Surroundings;
use torpor_node::container;
use torpor_node::criu_bundle;
use torpor_node::processes::sandbox::{self, Look, Sandbox};

use super::super::imported::{self, Form};
use super::super::unpacked;
use super::{generation, tell_processes};
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Restores them, and tells how to look at them.
pub(super) fn run(args: &super::super::Args) -> anyhow::Result<Exit> {
    let staging = Surroundings::read()?.runtime_dir.join("torpor");
    let room = container::sandbox::Sandbox::room(&args.room, &format!("processes-{}", std::process::id()))?;
    let images = std::path::absolute(&args.source)?;
    let previous = args.prev_images_dir.as_ref().map(std::path::absolute).transpose()?;
    let criu = criu_bundle::with_plugins(args.criu.as_deref(), None)?;
    let look = Look {
        criu: &criu,
        images: &images,
        previous: previous.as_deref(),
        streams: Vec::new(),
        volumes: args.sandbox.volumes(),
        external_unix: args.ext_unix_sockets,
        shell_job: args.shell_job,
        staging: &staging,
    };
    let sandbox = match args.reference()? {
        None if args.source.is_file() => {
            unpacked::processes_into(&images, room.path())?;
            Sandbox::new(&Look { images: room.path(), ..look }, None)?
        }
        None => Sandbox::new(&look, None)?,
        Some(reference) => {
            let repository = args.store.open()?;
            let manifest = generation(&repository, &reference)?;
            match imported::form_of(&manifest) {
                Some(Form::Directory) => {
                    imported::rebuild(&repository, &manifest, Form::Directory, room.path())?;
                    Sandbox::new(&Look { images: room.path(), previous: None, ..look }, None)?
                }
                Some(Form::Archive) => {
                    let message = format!("{reference} holds a container's archive");
                    return Err(Failure::new(Exit::Usage, message, "name its bundle with --bundle").into());
                }
                None => sandbox::from_manifest(&repository, &manifest, room.path(), &look)?,
            }
        }
    };
    if let Some(path) = &args.pid_file {
        std::fs::write(path, sandbox.root().to_string())?;
    }
    tell(&sandbox);
    sandbox.stay()?;
    Ok(Exit::Success)
}

fn tell(sandbox: &Sandbox) {
    println!("the processes are there and stand still, in a sandbox");
    tell_processes(sandbox.root(), " --pid");
    println!("its output:    cat {}", sandbox.output().display());
    println!("end it:        kill {}", sandbox.init());
    for (what, paths) in [
        ("cut short:    ", sandbox.grown()),
        ("read-only:    ", sandbox.read_only()),
        ("not there:    ", sandbox.left_out()),
    ] {
        if !paths.is_empty() {
            println!("{what} {}", listed(paths));
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let plain = |path: &PathBuf| crate::cli::output::plain(&Path::to_string_lossy(path)).to_string();
    paths.iter().map(plain).collect::<Vec<_>>().join(" ")
}

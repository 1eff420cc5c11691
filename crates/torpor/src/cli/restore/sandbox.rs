//! `torpor restore --sandbox`: a container or plain processes to be looked at, which reach nothing, change nothing, and stand still.

mod processes;

use std::path::Path;

use torpor_node::config::Surroundings;
use torpor_node::container;
use torpor_node::container::restore::{self, Wanted};
use torpor_node::container::sandbox::{Sandbox, Volumes};
use torpor_node::container::stored::Kept;
use torpor_node::machine::Machine;
use torpor_node::process_tree;
use torpor_store::lineage::{Lineage, LineageError};
use torpor_store::name::Reference;
use torpor_store::{Manifest, Repository};

use super::imported::{self, Form};
use super::{low_level, unpacked};
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Flags of looking at a checkpoint.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For a look")]
#[group(skip)]
pub(super) struct Args {
    /// Restore it to look at it: stopped, with no network, and with its root and volumes so that what is written goes nowhere. Any
    /// generation can be looked at, any number of times.
    #[arg(long, conflicts_with_all = ["into", "criu_plugins", "changed_files"])]
    pub(super) sandbox: bool,
    /// What is in its volumes: for plain processes, what is mounted besides the root and what programs are made of.
    #[arg(long, value_name = "WORD", default_value = "unchanged", requires = "sandbox")]
    volumes: Word,
}

impl Args {
    fn volumes(&self) -> Volumes {
        match self.volumes {
            Word::Unchanged => Volumes::Unchanged,
            Word::Empty => Volumes::Empty,
        }
    }
}

/// What is in its volumes.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Word {
    /// What is in them now; it stays as it is.
    Unchanged,
    /// Nothing.
    Empty,
}

/// Restores it, and tells how to look at it.
pub(super) fn run(args: &super::Args) -> anyhow::Result<Exit> {
    match &args.bundle {
        Some(bundle) => container(args, &std::path::absolute(bundle)?),
        None => processes::run(args),
    }
}

fn container(args: &super::Args, bundle: &Path) -> anyhow::Result<Exit> {
    let id = match (&args.id, bundle.file_name().and_then(|name| name.to_str())) {
        (Some(id), _) => id.clone(),
        (None, Some(name)) => format!("{name}-sandbox"),
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "the container has no ID", "give one with --id").into());
        }
    };
    let runtime = low_level(args.runtime.as_deref())?;
    let staging = Surroundings::read()?.runtime_dir.join("torpor");
    let place = Sandbox::room(&args.room, &id)?;
    let repository;
    let manifest;
    let mut kept = None;
    let mut archive = false;
    let images = match args.reference()? {
        None if args.source.is_file() => {
            unpacked::container_into(&unpacked::open(&args.source)?, place.path())?;
            archive = true;
            place.path().join(container::unpacked::IMAGES)
        }
        None => std::path::absolute(&args.source)?,
        Some(reference) => {
            repository = args.store.open()?;
            manifest = generation(&repository, &reference)?;
            match imported::form_of(&manifest) {
                Some(form) => {
                    imported::rebuild(&repository, &manifest, form, place.path())?;
                    archive = form == Form::Archive;
                }
                None => {
                    let found = Kept::new(&repository, &manifest)?;
                    found.check(&Machine::read())?;
                    found.images_into(place.path())?;
                    restore::take_any_root(place.path())?;
                    kept = Some(found);
                }
            }
            match archive {
                true => place.path().join(container::unpacked::IMAGES),
                false => place.path().to_owned(),
            }
        }
    };
    let sandbox = Sandbox::new(bundle, &id, args.sandbox.volumes(), &staging)?;
    if let Some(kept) = kept {
        for mut files in kept.all_files_for(sandbox.bundle())? {
            files.put()?;
        }
    }
    if archive {
        let root = restore::root_of_bundle(sandbox.bundle())?;
        container::unpacked::put_files(place.path(), &root)?.release();
    }
    let own_pid_file = sandbox.bundle().join("pid");
    restore::container(
        &runtime,
        &Wanted {
            id: &id,
            bundle: sandbox.bundle(),
            root: args.runtime_root.as_deref(),
            images: &images,
            detach: true,
            pid_file: Some(&own_pid_file),
            external_unix: args.ext_unix_sockets,
            shell_job: args.shell_job,
            stopped: true,
            alone: true,
            staging: &staging,
        },
    )?;
    let text = std::fs::read_to_string(&own_pid_file)?;
    if let Some(path) = &args.pid_file {
        std::fs::write(path, &text)?;
    }
    tell(&id, runtime.program(), text.trim().parse()?);
    Ok(Exit::Success)
}

/// A generation by its name, whatever became of it.
fn generation(repository: &Repository, reference: &Reference) -> anyhow::Result<Manifest> {
    let record = Lineage::new(repository, reference.name.clone()).record()?;
    let record = record.ok_or_else(|| LineageError::NoSuchName { name: reference.name.clone() })?;
    let found = match reference.generation {
        Some(number) => record.generations.iter().find(|one| one.number == number),
        None => record.generations.last(),
    };
    let Some(found) = found else {
        let message = format!("there is no checkpoint {reference}");
        return Err(Failure::new(Exit::NotFound, message, "see `torpor ls`").into());
    };
    Ok(repository.manifest(found.manifest)?)
}

fn tell(id: &str, runtime: &Path, root: i32) {
    println!("container {id} is there and stands still, in a sandbox");
    tell_processes(root, "");
    println!("end it:        {} delete --force {id}", runtime.display());
}

/// Tells all processes, and how to look at them. `enter` is what nsenter is told besides.
fn tell_processes(root: i32, enter: &str) {
    println!("{:>10} {:>8}  COMMAND", "PID", "INSIDE");
    let all = process_tree::of(root);
    for pid in &all {
        let inside = process_tree::innermost_pid(*pid).map_or("?".to_owned(), |pid| pid.to_string());
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        println!("{pid:>10} {inside:>8}  {}", crate::cli::output::plain(command.trim()));
    }
    let pids: Vec<String> = all.iter().map(ToString::to_string).collect();
    println!("look at it:    gdb --pid {root}");
    println!("its files:     nsenter --target {root} --mount --net --uts --ipc{enter}");
    println!("let it go on:  kill -CONT {}", pids.join(" "));
}

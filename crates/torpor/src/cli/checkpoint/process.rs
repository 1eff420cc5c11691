//! `torpor checkpoint pid:N`: a process and all below it, with no container around them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use torpor_archive::tape::Tape;
use torpor_node::config::Surroundings;
use torpor_node::container::Roots;
use torpor_node::container::carry::Carry;
use torpor_node::container::checkpoint::Done;
use torpor_node::container::generation::Destination;
use torpor_node::criu_bundle;
use torpor_node::processes::Job;

use super::container::{self, Made, Route, milliseconds, reference, told, took};
use crate::cli::Exit;
use crate::cli::convert;
use crate::cli::failure::Failure;
use crate::cli::store;
use crate::cli::target::Target;

/// Makes the checkpoint.
pub(super) fn run(pid: i32, args: &super::Args) -> anyhow::Result<Exit> {
    let choice = &args.container;
    let roots = Roots::with(choice.runtime_root.clone());
    if let Target::Containers(query) = Target::Process(pid).resolve(&roots) {
        return container::run(&query, args);
    }
    refuse(args)?;
    let job = Job {
        root: pid,
        criu: &criu_bundle::with_plugins(choice.criu.as_deref(), choice.dump.criu_plugins.as_deref())?,
        wishes: choice.dump.wishes(args.leave_running),
        timeout: args.wrapper.timeout,
    };
    let (checkpoint, done) = match (&choice.images, &args.engine.export) {
        (Some(images), _) => {
            let directory = std::path::absolute(images)?;
            (directory.display().to_string(), job.into_directory(&directory)?)
        }
        (None, Some(archive)) => {
            let archive = std::path::absolute(archive)?;
            (archive.display().to_string(), into_archive(&job, &archive)?)
        }
        (None, None) => {
            let stored = into_store(&job, args)?;
            (reference(&stored), stored.done)
        }
    };
    let made = Made {
        container: None,
        process: Some(pid),
        checkpoint,
        suspended: !args.leave_running,
        frozen_milliseconds: done.frozen.map(milliseconds),
        phases: done.phases.durations().into_iter().map(took).collect(),
    };
    args.output.print(&made, told)?;
    Ok(Exit::Success)
}

/// What means something for containers alone.
fn refuse(args: &super::Args) -> Result<(), Failure> {
    let choice = &args.container;
    let about = if choice.route != Route::Direct {
        "--route"
    } else if choice.own_mounts || !choice.carry_mount.is_empty() {
        "--own-mounts and --carry-mount"
    } else if args.engine.layout.is_some() {
        "--layout"
    } else {
        return Ok(());
    };
    let message =
        format!("plain processes have no engine and no mounts of their own, which {about} is about");
    Err(Failure::new(
        Exit::Usage,
        message,
        "leave it out; write to a directory with --images, an archive with --export, or a store",
    ))
}

/// Makes it as an archive, by way of a directory beside it.
fn into_archive(job: &Job<'_>, archive: &Path) -> anyhow::Result<Done> {
    let failed = || format!("cannot write {}", archive.display());
    if archive.exists() {
        let message = format!("there is a file {} already", archive.display());
        return Err(Failure::new(Exit::Place, message, "name another file").into());
    }
    let beside = archive.parent().unwrap_or(Path::new("/"));
    let room = tempfile::Builder::new().prefix(".torpor-images-").tempdir_in(beside).with_context(failed)?;
    let images = room.path().join("images");
    let done = job.into_directory(&images)?;
    match convert::written(archive, |output| Ok(pack(&images, output)?)) {
        Ok(()) => Ok(done),
        // Processes that have ended are nowhere but there.
        Err(error) if !job.wishes.leave_running => {
            let kept = room.keep().join("images");
            Err(error.context(format!("there is no archive; the checkpoint is {}", kept.display())))
        }
        Err(error) => Err(error),
    }
}

/// Writes the images as engines' archives have them, in `checkpoint/`.
fn pack(images: &Path, output: &mut dyn Write) -> io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(images)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let mut tape = Tape::new(output);
    tape.directory("checkpoint", 0o700, 0)?;
    for name in names {
        let mut file = File::open(images.join(&name))?;
        let metadata = file.metadata()?;
        let modified = u64::try_from(metadata.mtime()).unwrap_or_default();
        let name = format!("checkpoint/{}", name.to_string_lossy());
        tape.file(&name, 0o600, modified, metadata.len(), &mut file)?;
    }
    tape.end()?.flush()
}

/// Makes it as a generation in the store.
fn into_store(
    job: &Job<'_>,
    args: &super::Args,
) -> anyhow::Result<torpor_node::container::generation::Stored> {
    let choice = &args.container;
    let Some(name) = args.wrapper.name.clone() else {
        let message = "plain processes have no name of their own to be kept under";
        return Err(
            Failure::new(Exit::Usage, message, "give one with --name, or a directory with --images").into()
        );
    };
    let surroundings = Surroundings::read()?;
    let staging = surroundings.runtime_dir.join("torpor");
    let signs = store::signs(&choice.store.store);
    let destination = Destination {
        repository: &choice.open()?,
        name,
        host: surroundings.host,
        signs: signs.as_deref(),
        moment: None,
        mounts: Carry::default(),
        staging: Path::new(&staging),
    };
    Ok(job.into_store(&destination)?)
}

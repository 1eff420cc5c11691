//! An archive's images, laid out to be restored.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::source::{self, Entry, EntryKind, Place};
use torpor_node::container::restore::take_any_root;
use torpor_node::container::unpacked::{IMAGES, REMOVED, WRITTEN};
use torpor_node::staging::Staging;

use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Lays the images of plain processes in an archive out below `room`, for as long as the answer lives.
pub(super) fn processes(archive: &Path, room: &Path) -> anyhow::Result<Staging> {
    let place = room_below(room)?;
    processes_into(archive, place.path())?;
    Ok(place)
}

/// The same, into an empty directory.
pub(super) fn processes_into(archive: &Path, directory: &Path) -> anyhow::Result<()> {
    let checkpoint = open(archive)?;
    if holds_a_container(&checkpoint) {
        let message = format!("{} holds a container", archive.display());
        let remedy = "name its bundle with --bundle, have its engine restore it, or lay it out for another with `torpor convert`";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    }
    images(&checkpoint, directory)
}

/// Lays a container's archive out below `room`, as [`torpor_node::container::unpacked`] takes it.
pub(super) fn container(archive: &Path, room: &Path) -> anyhow::Result<Staging> {
    let checkpoint = open(archive)?;
    let place = room_below(room)?;
    container_into(&checkpoint, place.path())?;
    Ok(place)
}

/// The same, into an empty directory.
pub(super) fn container_into(checkpoint: &Checkpoint, directory: &Path) -> anyhow::Result<()> {
    if !holds_a_container(checkpoint) {
        let message = format!("{} holds no container", checkpoint.source().name());
        return Err(Failure::new(Exit::Usage, message, "leave --bundle away for plain processes").into());
    }
    images(checkpoint, &directory.join(IMAGES))?;
    take_any_root(&directory.join(IMAGES))?;
    for name in [WRITTEN, REMOVED] {
        if let Some(entry) = checkpoint.entry(name) {
            write(checkpoint, entry, &directory.join(name))?;
        }
    }
    Ok(())
}

/// An archive.
pub(super) fn open(archive: &Path) -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::new(source::open(&Place::Path(archive.to_owned()))?)?)
}

fn prefix(checkpoint: &Checkpoint) -> &str {
    checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str())
}

fn holds_a_container(checkpoint: &Checkpoint) -> bool {
    checkpoint.entry(&format!("{}descriptors.json", prefix(checkpoint))).is_some()
}

fn room_below(room: &Path) -> anyhow::Result<Staging> {
    let name = format!("restore-{}", std::process::id());
    Staging::create(room, &name).with_context(|| format!("cannot write below {}", room.display()))
}

/// CRIU's images, with those of the dumps before. What else an archive has is not theirs.
fn images(checkpoint: &Checkpoint, directory: &Path) -> anyhow::Result<()> {
    let prefix = prefix(checkpoint);
    for entry in checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File) {
        let Some(name) = entry.name.strip_prefix(prefix) else { continue };
        let mut above = name.rsplit_once('/').map_or("", |(above, _)| above).split('/');
        let beside = prefix.is_empty() && [WRITTEN, REMOVED].contains(&name);
        if !beside && above.all(|part| part.is_empty() || part == "parent") {
            write(checkpoint, entry, &directory.join(name))?;
        }
    }
    Ok(())
}

fn write(checkpoint: &Checkpoint, entry: &Entry, path: &Path) -> anyhow::Result<()> {
    let written = || -> io::Result<()> {
        let above = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(above)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        io::copy(&mut checkpoint.body(entry), &mut file)?;
        file.flush()
    };
    written().with_context(|| format!("cannot unpack {} from {}", entry.name, checkpoint.source().name()))
}

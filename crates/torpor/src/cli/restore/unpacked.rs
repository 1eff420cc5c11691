//! An archive of plain processes' images, laid out to be restored.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::source::{self, EntryKind, Place};
use torpor_node::staging::Staging;

use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Lays the images in an archive out below `room`, for as long as the answer lives.
pub(super) fn lay_out(archive: &Path, room: &Path) -> anyhow::Result<Staging> {
    let checkpoint = Checkpoint::new(source::open(&Place::Path(archive.to_owned()))?)?;
    let prefix = checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str());
    if checkpoint.entry(&format!("{prefix}descriptors.json")).is_some() {
        let message = format!("{} holds a container", archive.display());
        let remedy = "have its engine restore it, or lay it out for another with `torpor convert`";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    }
    let failed = || format!("cannot write below {}", room.display());
    let place = Staging::create(room, &format!("restore-{}", std::process::id())).with_context(failed)?;
    for entry in checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File) {
        let Some(name) = entry.name.strip_prefix(prefix) else { continue };
        // What stands beside the images is not theirs, but for those of the dumps before.
        if !name
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
            .split('/')
            .all(|part| part.is_empty() || part == "parent")
        {
            continue;
        }
        let path = place.path().join(name);
        let written = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(room))?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            io::copy(&mut checkpoint.body(entry), &mut file)?;
            file.flush()
        };
        written().with_context(|| format!("cannot unpack {} from {}", entry.name, archive.display()))?;
    }
    Ok(place)
}

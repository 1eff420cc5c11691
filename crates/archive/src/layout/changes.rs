//! The writable layer: what the container changed in its image.
//!
//! Podman and CRI-O have an archive of what was written and a list of what is gone (`pkg/checkpoint/crutils`); containerd has a
//! layer of an OCI image, in which empty files stand for what is gone (OCI image specification, `layer.md`).

use std::io::{self, Read, Write};

use serde_json::json;

use super::{LayoutError, Obstacle, Target};
use crate::Checkpoint;
use crate::engine::document;
use crate::source::{Entry, EntryKind, Limits, SourceError, each_raw};
use crate::tape::Tape;

/// What begins the name of a file that stands for one that is gone.
const WHITEOUT: &str = ".wh.";
/// The name that says that all the image has in a directory is gone.
const OPAQUE: &str = ".wh..wh..opq";
const BLOCK: u64 = 512;
/// What an archive ends with.
const END: u64 = 2 * BLOCK;

/// What the container changed, in the form that an engine wants.
#[derive(Debug)]
pub struct WritableLayer {
    /// The archive in the checkpoint.
    entry: Option<Entry>,
    /// Whether removals are empty files among the others.
    marks: bool,
    /// What is gone, by its path without the first slash.
    removed: Vec<String>,
    size: u64,
}

impl WritableLayer {
    /// Bytes of the archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The list of what is gone, where the engine has one.
    pub(super) fn deleted_files(&self, target: Target) -> Option<Vec<u8>> {
        let listed = target != Target::Containerd && !self.removed.is_empty();
        listed.then(|| {
            let paths: Vec<_> = self.removed.iter().map(|path| format!("/{path}")).collect();
            json!(paths).to_string().into_bytes()
        })
    }

    /// Writes the archive.
    pub(super) fn write(
        &self,
        checkpoint: &Checkpoint,
        output: &mut (impl Write + ?Sized),
    ) -> Result<(), LayoutError> {
        let mut counted = Counted { output, written: 0 };
        let failed = |source| LayoutError::Output { entry: "rootfs-diff.tar".to_owned(), source };
        if let Some(entry) = &self.entry {
            each_raw(checkpoint.source(), entry, &Limits::default(), |inner, header, body| {
                if is_mark(inner) { Ok(()) } else { copy(header, inner.size, body, &mut counted) }
            })?;
        }
        let mut tape = Tape::new(&mut counted);
        if self.marks {
            write_marks(&mut tape, &self.removed)?;
        }
        tape.end().map_err(failed)?;
        let (written, size) = (counted.written, self.size);
        if written != size {
            // The checkpoint is another one than a moment ago.
            return Err(SourceError::Short {
                place: checkpoint.source().name().to_owned(),
                entry: "rootfs-diff.tar".to_owned(),
                size: written,
                wanted: size,
            }
            .into());
        }
        Ok(())
    }
}

/// Reads the writable layer through, and decides what it becomes. None where the checkpoint has none.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    target: Target,
    obstacles: &mut Vec<Obstacle>,
) -> Result<Option<WritableLayer>, LayoutError> {
    let there = |entry: &&Entry| entry.kind == EntryKind::File && entry.size > 0;
    let entry = checkpoint.entry("rootfs-diff.tar").filter(there).cloned();
    let mut removed = Vec::new();
    let mut size = END;
    if let Some(entry) = &entry {
        each_raw(checkpoint.source(), entry, &Limits::default(), |inner, header, _| {
            let (directory, file) = inner.name.rsplit_once('/').unwrap_or(("", &inner.name));
            if file == OPAQUE {
                obstacles.push(Obstacle::Emptied { directory: format!("/{directory}") });
            } else if let Some(file) = file.strip_prefix(WHITEOUT) {
                let slash = if directory.is_empty() { "" } else { "/" };
                removed.push(format!("{directory}{slash}{file}"));
            } else {
                size += header.len() as u64 + inner.size.next_multiple_of(BLOCK);
            }
            Ok(())
        })?;
    }
    if let Some(listed) = document(checkpoint, "deleted.files")? {
        for path in listed.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            let path = path.trim_matches('/');
            // What leads out of the container is nobody's to remove.
            if !path.is_empty() && !path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                removed.push(path.to_owned());
            }
        }
    }
    removed.sort();
    removed.dedup();
    if entry.is_none() && removed.is_empty() {
        return Ok(None);
    }
    let marks = target == Target::Containerd;
    if marks {
        let mut counted = Counted { output: &mut io::sink(), written: 0 };
        write_marks(&mut Tape::new(&mut counted), &removed)?;
        size += counted.written;
    }
    Ok(Some(WritableLayer { entry, marks, removed, size }))
}

/// Writes an empty file for each path that is gone.
fn write_marks(tape: &mut Tape<impl Write>, removed: &[String]) -> Result<(), LayoutError> {
    for path in removed {
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if directory.is_empty() { "" } else { "/" };
        let name = format!("{directory}{slash}{WHITEOUT}{file}");
        tape.file(&name, 0o644, 0, 0, &mut io::empty())
            .map_err(|source| LayoutError::Output { entry: name.clone(), source })?;
    }
    Ok(())
}

/// Whether an entry stands for something that is gone.
fn is_mark(entry: &Entry) -> bool {
    entry.name.rsplit('/').next().is_some_and(|file| file.starts_with(WHITEOUT))
}

fn copy(header: &[u8], size: u64, body: &mut dyn Read, output: &mut impl Write) -> io::Result<()> {
    output.write_all(header)?;
    let copied = io::copy(body, output)?;
    if copied != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rest = (size % BLOCK) as usize;
    if rest == 0 { Ok(()) } else { output.write_all(&[0; BLOCK as usize][rest..]) }
}

/// Counts what passes.
struct Counted<'a, W: ?Sized> {
    output: &'a mut W,
    written: u64,
}

impl<W: Write + ?Sized> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

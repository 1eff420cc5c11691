//! Writing a checkpoint as another engine wants it, so that what one has made restores in another.
//!
//! [`Plan`] decides first: which documents the engine reads, which images have to say something else, what becomes of the
//! writable layer, and what stands in the way. Then it is written as it is read: memory passes through, and is kept nowhere.
//!
//! What engines read at a restore: Podman `pkg/checkpoint/checkpoint_restore.go` and `libpod/container_internal_common.go`,
//! CRI-O `server/container_restore.go`, containerd `internal/cri/server/container_checkpoint_linux.go` and
//! `core/runtime/v2/shim.go`.

use std::io::Write;

use crate::Checkpoint;
use crate::blueprint::{BLUEPRINT, GAPS, TAIL, is_image};
use crate::engine::Engine;
use crate::source::{Entry, EntryKind, MANIFEST};
use crate::tape::Tape;

mod changes;
mod cri;
mod description;
mod error;
mod images;
mod obstacle;
mod podman;

pub use changes::WritableLayer;
pub use description::Description;
pub use error::LayoutError;
pub use obstacle::{Note, Obstacle};

/// The engines whose layouts can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Podman: `podman container restore --import`.
    Podman,
    /// CRI-O, by the CRI.
    CriO,
    /// containerd, by the CRI.
    Containerd,
}

impl Target {
    /// The engine.
    #[must_use]
    pub fn engine(self) -> Engine {
        match self {
            Self::Podman => Engine::Podman,
            Self::CriO => Engine::CriO,
            Self::Containerd => Engine::Containerd,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.engine().fmt(f)
    }
}

/// A mount that whoever restores gives the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenMount {
    /// Where it is in the container.
    pub destination: String,
    /// What is mounted, on the machine it is restored on. In a pod, the pod says so, and nothing is needed here.
    pub source: Option<String>,
}

/// What is wanted of a layout.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Mounts that there will be.
    pub mounts: Vec<GivenMount>,
    /// Mounts that the container goes on without.
    pub without_mounts: Vec<String>,
    /// Established TCP connections are closed.
    pub close_connections: bool,
    /// The engine that restores it has the image, and uses the one it has.
    pub has_image: bool,
}

impl Request {
    /// Whether nothing of the container is to be other than it was.
    #[must_use]
    pub fn leaves_all(&self) -> bool {
        self.without_mounts.is_empty() && !self.close_connections
    }
}

/// One thing that is written.
#[derive(Debug)]
pub struct Part {
    /// Its path.
    pub name: String,
    /// The permission bits.
    pub mode: u32,
    /// When it was last changed, in seconds since 1970.
    pub modified: u64,
    body: Content,
}

#[derive(Debug)]
enum Content {
    Directory,
    Bytes(Vec<u8>),
    /// An entry of the checkpoint, as it is.
    Entry(Entry),
    /// The writable layer, in the form that the engine wants.
    Layer(WritableLayer),
}

/// What is going to be written.
#[derive(Debug)]
pub struct Plan {
    description: Description,
    parts: Vec<Part>,
    notes: Vec<Note>,
}

impl Plan {
    /// Decides how a checkpoint is laid out for an engine.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, or something of it cannot be carried over: all of that is named at once.
    pub fn new(
        checkpoint: &Checkpoint,
        description: Description,
        target: Target,
        request: &Request,
    ) -> Result<Self, LayoutError> {
        if description.engine == target.engine() && description.is_as_read() && request.leaves_all() {
            return Ok(Self::as_it_is(checkpoint, description));
        }
        let mut plan = Self { description, parts: Vec::new(), notes: Vec::new() };
        let mut obstacles = Vec::new();
        if checkpoint.layers().len() > 1 {
            obstacles.push(Obstacle::Parents { layers: checkpoint.layers().len() - 1 });
        }
        let images = images::plan(checkpoint, &plan.description, target, request, &mut obstacles)?;
        let layer = changes::plan(checkpoint, target, &mut obstacles)?;
        let moment = plan.description.moment();
        let documents = match target {
            Target::Podman => podman::documents(&plan.description, &images, request, &mut obstacles),
            Target::CriO | Target::Containerd => {
                cri::documents(&plan.description, target, request, &mut obstacles, &mut plan.notes)
            }
        };
        podman::left_behind(checkpoint, &plan.description, target, request, &mut obstacles)?;
        if !obstacles.is_empty() {
            return Err(LayoutError::Refused { target, obstacles });
        }
        plan.notes.extend(images.notes);
        let document = |(name, bytes): (&str, Vec<u8>)| Part {
            name: name.to_owned(),
            mode: 0o600,
            modified: moment,
            body: Content::Bytes(bytes),
        };
        plan.parts.extend(documents.into_iter().map(document));
        plan.parts.push(Part {
            name: "checkpoint".to_owned(),
            mode: 0o700,
            modified: moment,
            body: Content::Directory,
        });
        plan.parts.extend(images.parts);
        plan.carried(checkpoint, target);
        if let Some(layer) = layer {
            if let Some(deleted) = layer.deleted_files(target) {
                plan.parts.push(document(("deleted.files", deleted)));
            }
            let name = "rootfs-diff.tar".to_owned();
            plan.parts.push(Part { name, mode: 0o644, modified: moment, body: Content::Layer(layer) });
        }
        Ok(plan)
    }

    /// Every entry as it is. Images that are on top, as CRIU by itself writes them, are put into `checkpoint/`, where engines have them.
    #[must_use]
    pub fn as_it_is(checkpoint: &Checkpoint, description: Description) -> Self {
        let on_top = checkpoint.layers().first().is_some_and(|layer| layer.prefix.is_empty());
        let entries = checkpoint.entries().iter();
        let own = |entry: &Entry| on_top && [MANIFEST, BLUEPRINT, GAPS, TAIL].contains(&entry.name.as_str());
        let kept =
            entries.filter(|entry| entry.kind != EntryKind::Special && entry.name != "." && !own(entry));
        let name = |entry: &Entry| match on_top && is_image(&entry.name) {
            true => format!("checkpoint/{}", entry.name),
            false => entry.name.clone(),
        };
        let parts = kept.map(|entry| part(name(entry), entry)).collect();
        Self { description, parts, notes: Vec::new() }
    }

    /// Whose checkpoint it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What whoever restores it has to know.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What is written, in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Writes everything below a directory of a tar stream, whose name ends with `/` where it is not empty.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, or the output fails.
    pub fn write<W: Write>(
        &self,
        checkpoint: &Checkpoint,
        below: &str,
        tape: &mut Tape<W>,
    ) -> Result<(), LayoutError> {
        for part in &self.parts {
            let name = format!("{below}{}", part.name);
            let failed = |source| LayoutError::Output { entry: name.clone(), source };
            match &part.body {
                Content::Directory => tape.directory(&name, part.mode, part.modified).map_err(failed)?,
                Content::Bytes(bytes) => tape
                    .file(&name, part.mode, part.modified, bytes.len() as u64, &mut &bytes[..])
                    .map_err(failed)?,
                Content::Entry(entry) => match &entry.kind {
                    EntryKind::SymbolicLink(to) => {
                        tape.symbolic_link(&name, part.mode, part.modified, to).map_err(failed)?;
                    }
                    EntryKind::HardLink(to) => {
                        let to = format!("{below}{to}");
                        tape.hard_link(&name, part.mode, part.modified, &to).map_err(failed)?;
                    }
                    EntryKind::Directory => {
                        tape.directory(&name, part.mode, part.modified).map_err(failed)?;
                    }
                    _ => {
                        let mut body = checkpoint.body(entry);
                        tape.file(&name, part.mode, part.modified, entry.size, &mut body).map_err(failed)?;
                    }
                },
                Content::Layer(layer) => {
                    tape.begin(&name, part.mode, part.modified, layer.size()).map_err(failed)?;
                    layer.write(checkpoint, tape.output())?;
                    tape.pad(layer.size()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// What is carried over as it is, under the name that the engine has for it.
    fn carried(&mut self, checkpoint: &Checkpoint, target: Target) {
        let files = checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File);
        for entry in files {
            let name = match (entry.name.as_str(), target) {
                ("stats-dump", _) => "stats-dump",
                ("dump.log", Target::CriO | Target::Containerd) => "dump.log",
                ("ctr.log" | "container.log" | "io.kubernetes.cri-o.LogPath", target) => match target {
                    Target::Podman => "ctr.log",
                    Target::CriO => "io.kubernetes.cri-o.LogPath",
                    Target::Containerd => "container.log",
                },
                _ => continue,
            };
            self.parts.push(part(name.to_owned(), entry));
        }
    }
}

fn part(name: String, entry: &Entry) -> Part {
    let modified = u64::try_from(entry.modified).unwrap_or(0);
    Part { name, mode: entry.mode, modified, body: Content::Entry(entry.clone()) }
}

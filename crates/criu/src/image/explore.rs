//! What a directory of images is about, in the five views of `crit x`: processes, descriptors, mappings, resident pages and sockets.
//!
//! The views are models. As JSON they have the members of go-criu's `crit` (`crit/explore.go`); the lines of CRIU's own `crit`
//! (`crit/crit/__main__.py`) can be made from them.

use std::collections::HashMap;
use std::io;

use super::format::Format;
use super::framing::Limits;
use super::tree::{Tree, TreeError};
use super::{ImageError, ImageReader, Kind};

mod descriptors;
mod mappings;
mod processes;
mod resident;
mod sockets;

pub use descriptors::{OpenFile, OpenFiles, open_files};
pub use mappings::{Mapped, Mappings, mappings};
pub use processes::{Process, processes};
pub use resident::{Resident, ResidentArea, ResidentRange, resident};
pub use sockets::{OpenSocket, OpenSockets, open_sockets};

/// Where images come from.
pub trait Images {
    /// The bytes of the image with this file name; `None` if there is none. Names may go up the chain of parents (`parent/…`).
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
}

/// Why a view cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    /// An image that is needed is absent.
    #[error("{name} is missing")]
    Missing {
        /// Its file name.
        name: String,
    },
    /// An image cannot be read.
    #[error("{name} cannot be read")]
    Unreadable {
        /// Its file name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// An image is damaged.
    #[error("{name}: {source}")]
    Image {
        /// Its file name.
        name: String,
        /// What is wrong.
        source: ImageError,
    },
    /// A process is its own ancestor, or has more of them than any has.
    #[error("pstree.img: process {pid} has no place in a tree")]
    NoTree {
        /// The process.
        pid: u32,
    },
}

impl ExploreError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "give it the directory that holds all images of the checkpoint",
            Self::Unreadable { .. } => "check the disk and the permissions of the file",
            Self::Image { source, .. } => source.remedy(),
            Self::NoTree { .. } => "take the image from another copy of the checkpoint",
        }
    }
}

/// One process of `pstree.img`.
#[derive(Debug, Clone)]
struct Listed {
    pid: u32,
    parent: u32,
    group: u32,
    session: u32,
}

fn listed(images: &dyn Images) -> Result<Vec<Listed>, ExploreError> {
    let trees = needed(images, Kind::ProcessTree, 0)?;
    Ok(trees
        .iter()
        .map(|tree| Listed {
            pid: tree.number("pid") as u32,
            parent: tree.number("ppid") as u32,
            group: tree.number("pgid") as u32,
            session: tree.number("sid") as u32,
        })
        .collect())
}

impl Listed {
    fn core(&self, images: &dyn Images) -> Result<Tree, ExploreError> {
        first(needed(images, Kind::Core, self.pid.into())?, Kind::Core, self.pid.into())
    }

    /// Whether the process had ended, so that it has neither memory nor descriptors (CRIU `criu/include/pid.h`).
    fn has_ended(&self, images: &dyn Images) -> Result<bool, ExploreError> {
        const DEAD: u64 = 2;
        const HELPER: u64 = 4;
        const ZOMBIE: u64 = 6;
        let core = self.core(images)?;
        let state = core.message("tc").map_or(0, |task| task.number("task_state"));
        Ok([DEAD, HELPER, ZOMBIE].contains(&state))
    }
}

/// The entries of an image that has to be there.
fn needed(images: &dyn Images, kind: Kind, id: u64) -> Result<Vec<Tree>, ExploreError> {
    entries(images, kind, id)?.ok_or_else(|| ExploreError::Missing { name: kind.file_name(id) })
}

/// The first of an image's entries.
fn first(trees: Vec<Tree>, kind: Kind, id: u64) -> Result<Tree, ExploreError> {
    trees
        .into_iter()
        .next()
        .ok_or_else(|| ExploreError::Image { name: kind.file_name(id), source: ImageError::Empty { kind } })
}

/// The entries of an image, without their payloads; `None` if there is no such image.
fn entries(images: &dyn Images, kind: Kind, id: u64) -> Result<Option<Vec<Tree>>, ExploreError> {
    let name = kind.file_name(id);
    let Some(bytes) = bytes(images, &name)? else { return Ok(None) };
    let read = || {
        let mut reader = ImageReader::new(kind, bytes.as_slice(), Limits::default())?;
        let format = Format::of(kind).ok_or(ImageError::Raw { kind })?;
        let mut trees = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let tree = Tree::parse(format.schema(trees.len() as u64), entry.message);
            let failed = |source: TreeError| ImageError::Tree { kind, offset: entry.offset, source };
            trees.push(tree.map_err(failed)?);
        }
        Ok(trees)
    };
    read().map(Some).map_err(|source| ExploreError::Image { name, source })
}

fn bytes(images: &dyn Images, name: &str) -> Result<Option<Vec<u8>>, ExploreError> {
    images.read(name).map_err(|source| ExploreError::Unreadable { name: name.to_owned(), source })
}

/// Names of open files by their ids.
struct FileNames {
    /// `files.img`; empty in checkpoints of CRIU before 3.4, which had an image for each type.
    files: HashMap<u32, Tree>,
    old: HashMap<(&'static str, u32), Tree>,
}

impl FileNames {
    fn read(images: &dyn Images) -> Result<Self, ExploreError> {
        let id = |tree: &Tree| tree.number("id") as u32;
        let mut files = HashMap::new();
        for tree in entries(images, Kind::Files, 0)?.unwrap_or_default() {
            files.entry(id(&tree)).or_insert(tree);
        }
        let mut old = HashMap::new();
        if files.is_empty() {
            for (member, kind) in [
                ("reg", Kind::RegularFiles),
                ("pipe", Kind::Pipes),
                ("usk", Kind::UnixSockets),
                ("isk", Kind::InetSockets),
            ] {
                for tree in entries(images, kind, 0)?.unwrap_or_default() {
                    old.entry((member, id(&tree))).or_insert(tree);
                }
            }
        }
        Ok(Self { files, old })
    }

    /// The message about a file: the member of its entry that fits its type.
    fn of(&self, id: u32, member: &'static str) -> Option<&Tree> {
        match self.files.get(&id) {
            Some(file) => file.message(member),
            None => self.old.get(&(member, id)),
        }
    }

    fn regular(&self, id: u32) -> String {
        self.of(id, "reg").map_or_else(|| "unknown path".into(), |file| file.text("name").into_owned())
    }

    /// What people call a file of this type.
    fn named(&self, file_type: &str, id: u32) -> String {
        match file_type {
            "REG" => self.regular(id),
            "PIPE" => match self.of(id, "pipe") {
                Some(pipe) => format!("pipe[{}]", pipe.number("pipe_id")),
                None => "pipe[?]".into(),
            },
            "UNIXSK" => match self.of(id, "usk") {
                Some(socket) => {
                    let name = quoted_name(socket);
                    let name = if name.is_empty() { name } else { format!(" {name}") };
                    format!("unix[{} ({}){name}]", socket.number("ino"), socket.number("peer"))
                }
                None => "unix[?]".into(),
            },
            other => format!("{other}.{id}"),
        }
    }
}

/// The name of a Unix socket, in which any byte may occur.
fn quoted_name(socket: &Tree) -> String {
    match socket.get("name") {
        Some(super::tree::Value::Bytes(bytes)) => super::quoted::encode(bytes),
        _ => String::new(),
    }
}

/// The name of the number in a field that has names for them, or the number.
fn enumerated(tree: &Tree, field: &str) -> String {
    use super::schema::Type;
    let number = tree.number(field);
    let name = tree.schema().named(field).and_then(|field| match field.holds {
        Type::OneOf(enumeration) => i32::try_from(number).ok().and_then(|it| enumeration.name_of(it)),
        _ => None,
    });
    name.map_or_else(|| number.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests;

//! Directories of CRIU's images kept in a store, with the directories of their parents, and made again bit for bit.
//!
//! [`LISTING`] says which files there were; each is an image, or memory of the generation. A dump that has parents holds some pages
//! only there, so nothing of such a chain is known by address, and all of it is kept as it is, in one generation. Parents are put below
//! their children, where links to them were.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use torpor_criu::image::{Kind, Name};
use torpor_store::Draft;

use super::{BlueprintError, MAX_DOCUMENT, VERSION, copy, kept_as, memory, pages_of};
use crate::Checkpoint;
use crate::source::EntryKind;

/// The document that says which files there were.
pub const LISTING: &str = "directory.json";
/// The link from a directory to that of its parent.
const PARENT: &str = "parent";

/// The files of a directory, and of its parents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    version: u32,
    files: Vec<Listed>,
}

/// A file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    mode: u32,
    /// Seconds since 1970.
    modified: i64,
    size: u64,
    /// The image it is kept as.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// The pagemap of the memory it is kept as.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
}

/// Keeps a directory, with its parents.
///
/// # Errors
/// Where something in it is no file, cannot be read, or cannot be kept.
pub fn keep(checkpoint: &Checkpoint, draft: &mut Draft) -> Result<(), BlueprintError> {
    let place = checkpoint.source().name().to_owned();
    let mut memory = memory(checkpoint)?;
    let by_address = !memory.is_empty();
    let mut listing = Listing { version: VERSION, files: Vec::new() };
    let mut names = HashSet::new();
    for entry in checkpoint.entries() {
        match &entry.kind {
            EntryKind::File => {}
            EntryKind::Directory => continue,
            EntryKind::SymbolicLink(_) if entry.name.rsplit('/').next() == Some(PARENT) => continue,
            _ => return Err(BlueprintError::NoFile { place, entry: entry.name.clone() }),
        }
        let mut listed = Listed {
            name: entry.name.clone(),
            mode: entry.mode,
            modified: entry.modified,
            size: entry.size,
            image: None,
            memory: None,
        };
        let id = Name::parse(&entry.name).filter(|name| name.kind == Kind::Pages).and_then(|name| name.id);
        let mut body = checkpoint.body(entry);
        if entry.size == 0 {
            // There is nothing to keep of it.
        } else if let Some(memory) = id.and_then(|id| memory.remove(&id)) {
            for (vaddr, pages, flags) in memory.runs {
                draft.pages_from(memory.id, vaddr, flags, pages, &mut body)?;
            }
            listed.memory = Some(memory.pagemap);
        } else {
            let name = kept_as(&entry.name, "", by_address, &mut names);
            draft.image(&name, &mut body)?;
            listed.image = Some(name);
        }
        listing.files.push(listed);
    }
    let document = serde_json::to_vec(&listing).map_err(|_| BlueprintError::Document { place })?;
    Ok(draft.image(LISTING, &mut &document[..])?)
}

/// Whether a generation was a directory.
#[must_use]
pub fn is_one(checkpoint: &Checkpoint) -> bool {
    checkpoint.entry(LISTING).is_some()
}

/// Writes the directory again, in an empty one.
///
/// # Errors
/// Where the generation was no directory, cannot be read, or the files cannot be written.
pub fn rebuild(checkpoint: &Checkpoint, directory: &Path) -> Result<(), BlueprintError> {
    let place = || checkpoint.source().name().to_owned();
    let broken = || BlueprintError::Document { place: place() };
    let entry = checkpoint.entry(LISTING).ok_or_else(|| BlueprintError::NoBlueprint { place: place() })?;
    let listing: Listing =
        serde_json::from_slice(&checkpoint.bytes(entry, MAX_DOCUMENT)?).map_err(|_| broken())?;
    if listing.version > VERSION {
        return Err(broken());
    }
    for listed in &listing.files {
        let proper = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !listed.name.split('/').all(proper) {
            return Err(broken());
        }
        let path = directory.join(&listed.name);
        let written = || -> io::Result<File> {
            let parent = path.parent().unwrap_or(directory);
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        };
        let mut file = BufWriter::with_capacity(1 << 20, written().map_err(BlueprintError::Output)?);
        let entry = match (&listed.image, &listed.memory) {
            (Some(image), _) => Some(checkpoint.entry(image).ok_or_else(broken)?),
            (None, Some(pagemap)) => Some(pages_of(checkpoint, pagemap)?.ok_or_else(broken)?),
            (None, None) => None,
        };
        if entry.map_or(0, |entry| entry.size) != listed.size {
            return Err(broken());
        }
        if let Some(entry) = entry {
            copy(&mut checkpoint.body(entry), listed.size, &mut file, &entry.name, checkpoint)?;
        }
        finish(file, listed).map_err(BlueprintError::Output)?;
    }
    Ok(())
}

fn finish(mut file: BufWriter<File>, listed: &Listed) -> io::Result<()> {
    file.flush()?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Of one that others made, nothing is run as somebody else.
    file.set_permissions(Permissions::from_mode(listed.mode & 0o777))?;
    let since = u64::try_from(listed.modified).ok().map(Duration::from_secs);
    match since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)) {
        Some(modified) => file.set_modified(modified),
        None => Ok(()),
    }
}

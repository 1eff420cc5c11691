//! Archives kept in a store, and made again bit for bit.
//!
//! What stands between the bodies of an archive (headers, and what fills blocks) is kept as it is, in [`GAPS`]; bodies are kept for
//! themselves, so that the store finds what it has already. Memory is kept by page and address. [`BLUEPRINT`] says in which order they come.
//! Of a compressed archive, what it unpacks to is kept, and how it was compressed.
//!
//! The images have the names that they have in a directory of CRIU's, so that a kept archive can be looked into like any other generation.

pub mod chain;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use torpor_criu::image::pagemap::{PageFlags, PagemapReader};
use torpor_criu::image::{Framing, ImageError, Kind, Limits as ImageLimits, Name};
use torpor_store::manifest::MemoryKind;
use torpor_store::{Draft, DraftError, MemoryId};

use crate::Checkpoint;
use crate::source::{Compression, Entry, EntryKind, FILES, Limits, MANIFEST, SourceError, unpack};

/// The document that says how an archive is put together.
pub const BLUEPRINT: &str = "archive.json";
/// What stands between the bodies.
pub const GAPS: &str = "archive.gaps";
/// What follows the last body.
pub const TAIL: &str = "archive.tail";
/// The version of the document that this release writes, and the newest it reads.
const VERSION: u32 = 1;
/// Largest document.
const MAX_DOCUMENT: u64 = 64 << 20;
/// Most bytes between bodies, and largest pagemap.
const MAX_GAPS: usize = 256 << 20;
const PAGE: u64 = 4096;

/// How an archive is put together.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blueprint {
    version: u32,
    /// How the archive was compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<Compression>,
    bodies: Vec<Piece>,
}

/// A body, and what stands before it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Piece {
    /// Bytes of the gap before it.
    gap: u64,
    /// The image it is kept as.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// The pagemap of the memory it is kept as.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// Its bytes.
    size: u64,
}

/// Why an archive cannot be kept, or made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlueprintError {
    /// It cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It cannot be kept.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// An image is damaged.
    #[error("cannot read {entry}")]
    Image {
        /// The image.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// It is no archive: a directory, or something in a store.
    #[error("{place} is no archive")]
    NoArchive {
        /// The place.
        place: String,
    },
    /// Something in a directory is no file.
    #[error("{entry} in {place} is no file")]
    NoFile {
        /// The directory.
        place: String,
        /// What it is.
        entry: String,
    },
    /// There is too much between its bodies.
    #[error("{place} has more than {MAX_GAPS} bytes between the bodies of its files")]
    Gaps {
        /// The archive.
        place: String,
    },
    /// The generation was no archive.
    #[error("{place} was made by Torpor, and was never an archive")]
    NoBlueprint {
        /// The generation.
        place: String,
    },
    /// What says how it is put together makes no sense, or is of a newer release.
    #[error("{BLUEPRINT} of {place} makes no sense, or was written by a newer release")]
    Document {
        /// The generation.
        place: String,
    },
    /// It cannot be written.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
}

impl BlueprintError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Draft(error) => error.remedy(),
            Self::Image { source, .. } => source.remedy(),
            Self::NoArchive { .. } => "pack the directory with tar, or give an archive that an engine made",
            Self::NoFile { .. } => "name a directory that holds CRIU's images alone",
            Self::Gaps { .. } => "it is damaged, or made to do harm: use another copy",
            Self::NoBlueprint { .. } => "have it laid out for an engine with `torpor convert`",
            Self::Document { .. } => "use the release that wrote it, or another generation",
            Self::Output(_) => "make room, or write it to another place",
        }
        .to_owned()
    }
}

/// The memory in a pages image.
struct Memory {
    id: MemoryId,
    pagemap: String,
    /// First address, pages and flags of each run.
    runs: Vec<(u64, u64, u32)>,
}

/// Keeps the archive in a file, which is read through once more than it was to open it as this checkpoint.
///
/// # Errors
/// Where it cannot be read or kept.
pub fn keep(
    checkpoint: &Checkpoint,
    path: &Path,
    limits: &Limits,
    draft: &mut Draft,
) -> Result<(), BlueprintError> {
    let place = checkpoint.source().name().to_owned();
    let unreadable = |source| SourceError::Place { place: place.clone(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(BlueprintError::NoArchive { place });
    }
    file.rewind().map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let (mut stream, compression) = unpack(Box::new(file), size, limits).map_err(unreadable)?;
    let mut memory = memory(checkpoint)?;
    let pagemaps: HashSet<String> = memory.values().map(|memory| memory.pagemap.clone()).collect();
    let prefix = checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str());
    let mut blueprint = Blueprint { version: VERSION, compression, bodies: Vec::new() };
    let (mut gaps, mut names, mut at, mut gap) = (Vec::new(), HashSet::new(), 0, 0);
    for entry in checkpoint.entries() {
        let (Some(offset), EntryKind::File) = (entry.offset, &entry.kind) else { continue };
        if entry.size == 0 {
            continue;
        }
        let missing =
            offset.checked_sub(at).ok_or_else(|| BlueprintError::NoArchive { place: place.clone() })?;
        let file = entry.name.strip_prefix(prefix).filter(|file| !file.contains('/'));
        // A store makes pagemaps anew; the bytes that were there stay among what stands between.
        let inline = pagemaps.contains(&entry.name);
        let wanted = missing + if inline { entry.size } else { 0 };
        let taken = (&mut stream).take(wanted).read_to_end(&mut gaps).map_err(unreadable)? as u64;
        if taken < wanted {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()).into());
        }
        if gaps.len() > MAX_GAPS {
            return Err(BlueprintError::Gaps { place });
        }
        (at, gap) = (at + wanted, gap + wanted);
        if inline {
            continue;
        }
        let id = file.and_then(Name::parse).filter(|name| name.kind == Kind::Pages).and_then(|name| name.id);
        let mut body = (&mut stream).take(entry.size);
        let mut piece = Piece { gap, image: None, memory: None, size: entry.size };
        if let Some(memory) = id.and_then(|id| memory.remove(&id)) {
            for (vaddr, pages, flags) in memory.runs {
                draft.pages_from(memory.id, vaddr, flags, pages, &mut body)?;
            }
            let pagemap = memory.pagemap.strip_prefix(prefix).unwrap_or(&memory.pagemap);
            piece.memory = Some(pagemap.to_owned());
        } else {
            let name = kept_as(&entry.name, prefix, !pagemaps.is_empty(), &mut names);
            draft.image(&name, &mut body)?;
            piece.image = Some(name);
        }
        if body.limit() > 0 {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()).into());
        }
        blueprint.bodies.push(piece);
        (at, gap) = (at + entry.size, 0);
    }
    draft.image(GAPS, &mut &gaps[..gaps.len() - gap as usize])?;
    let rest = &gaps[gaps.len() - gap as usize..];
    draft.image(TAIL, &mut rest.chain(&mut stream))?;
    let document = serde_json::to_vec(&blueprint).map_err(|_| BlueprintError::Document { place })?;
    draft.image(BLUEPRINT, &mut &document[..])?;
    Ok(())
}

/// Writes the archive again, as it was before it was compressed.
///
/// # Errors
/// Where the generation was never an archive, cannot be read, or the output fails.
pub fn rebuild(checkpoint: &Checkpoint, output: &mut dyn Write) -> Result<(), BlueprintError> {
    let place = || checkpoint.source().name().to_owned();
    let blueprint = read(checkpoint)?;
    let broken = || BlueprintError::Document { place: place() };
    let gaps = checkpoint.entry(GAPS).ok_or_else(broken)?;
    let mut gaps = checkpoint.body(gaps);
    for piece in &blueprint.bodies {
        copy(&mut gaps, piece.gap, output, GAPS, checkpoint)?;
        let entry = match (&piece.image, &piece.memory) {
            (Some(image), _) => checkpoint.entry(image),
            (None, Some(pagemap)) => pages_of(checkpoint, pagemap)?,
            (None, None) => None,
        };
        let entry = entry.filter(|entry| entry.size == piece.size).ok_or_else(broken)?;
        copy(&mut checkpoint.body(entry), piece.size, output, &entry.name, checkpoint)?;
    }
    // An archive that ends with its last body has no tail.
    if let Some(tail) = checkpoint.entry(TAIL) {
        copy(&mut checkpoint.body(tail), tail.size, output, TAIL, checkpoint)?;
    }
    Ok(())
}

/// How a kept archive was compressed.
///
/// # Errors
/// Where the generation was never an archive, or cannot be read.
pub fn compression(checkpoint: &Checkpoint) -> Result<Option<Compression>, BlueprintError> {
    Ok(read(checkpoint)?.compression)
}

fn read(checkpoint: &Checkpoint) -> Result<Blueprint, BlueprintError> {
    let place = checkpoint.source().name().to_owned();
    let Some(entry) = checkpoint.entry(BLUEPRINT) else {
        return Err(BlueprintError::NoBlueprint { place });
    };
    let bytes = checkpoint.bytes(entry, MAX_DOCUMENT)?;
    serde_json::from_slice(&bytes)
        .ok()
        .filter(|blueprint: &Blueprint| blueprint.version <= VERSION)
        .ok_or(BlueprintError::Document { place })
}

fn copy(
    body: &mut dyn Read,
    size: u64,
    output: &mut dyn Write,
    entry: &str,
    checkpoint: &Checkpoint,
) -> Result<(), BlueprintError> {
    let mut chunk = vec![0; (256 << 10).min(size as usize)];
    let mut left = size;
    while left > 0 {
        let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        body.read_exact(&mut chunk[..length]).map_err(|source| SourceError::Entry {
            place: checkpoint.source().name().to_owned(),
            entry: entry.to_owned(),
            source,
        })?;
        output.write_all(&chunk[..length]).map_err(BlueprintError::Output)?;
        left -= length as u64;
    }
    Ok(())
}

/// The memory of a checkpoint, by the number of its pages image. Where a store cannot have all of it by address, it has none so: images
/// that the store makes and others would get in each other's way.
fn memory(checkpoint: &Checkpoint) -> Result<BTreeMap<u64, Memory>, BlueprintError> {
    let mut found: BTreeMap<u64, Memory> = BTreeMap::new();
    let [layer] = checkpoint.layers() else { return Ok(found) };
    for (name, entry) in checkpoint.images(layer) {
        let kind = match name.kind {
            Kind::Pagemap => MemoryKind::Process,
            Kind::SharedPagemap => MemoryKind::Shared,
            _ => continue,
        };
        let Some(id) = name.id else { continue };
        let damaged = |source| BlueprintError::Image { entry: entry.name.clone(), source };
        let bytes = checkpoint.bytes(entry, MAX_GAPS as u64)?;
        let reader = PagemapReader::new(&bytes[..], ImageLimits::default()).map_err(damaged)?;
        let pages_id = u64::from(reader.pages_id());
        let (mut runs, mut whole, mut pages) = (Vec::new(), true, 0_u64);
        for range in reader {
            let range = range.map_err(damaged)?;
            let here = range.is_present() && !range.flags.contains(PageFlags::PARENT);
            whole &= here && range.vaddr.is_multiple_of(PAGE) && range.pages > 0;
            pages = pages.saturating_add(range.pages);
            runs.push((range.vaddr, range.pages, range.flags.0));
        }
        let size = checkpoint.image(layer, Kind::Pages, pages_id).map(|entry| entry.size);
        let whole = whole && size == pages.checked_mul(PAGE) && !runs.is_empty();
        let memory = Memory { id: MemoryId { kind, id }, pagemap: entry.name.clone(), runs };
        if !whole || found.insert(pages_id, memory).is_some() {
            return Ok(BTreeMap::new());
        }
    }
    Ok(found)
}

/// The pages that belong to a pagemap, as the store puts them together.
fn pages_of<'a>(checkpoint: &'a Checkpoint, pagemap: &str) -> Result<Option<&'a Entry>, BlueprintError> {
    let Some(entry) = checkpoint.entry(pagemap) else { return Ok(None) };
    let damaged = |source| BlueprintError::Image { entry: entry.name.clone(), source };
    let bytes = checkpoint.bytes(entry, MAX_GAPS as u64)?;
    let reader = PagemapReader::new(&bytes[..], ImageLimits::default()).map_err(damaged)?;
    Ok(checkpoint.entry(&Kind::Pages.file_name(u64::from(reader.pages_id()))))
}

/// The name that an entry is kept under: images have theirs, other entries their path. None is one that the store makes.
fn kept_as(entry: &str, prefix: &str, by_address: bool, names: &mut HashSet<String>) -> String {
    let file = entry.strip_prefix(prefix).filter(|file| is_image(file)).unwrap_or(entry);
    let made = [MANIFEST, BLUEPRINT, GAPS, TAIL, chain::LISTING].contains(&file)
        || file.starts_with(FILES)
        || (by_address && (file.starts_with("pages-") || file.starts_with("pagemap-")));
    let mut name = if made { format!("archive/{entry}") } else { file.to_owned() };
    while !names.insert(name.clone()) {
        name = format!("archive/{name}");
    }
    name
}

/// Files of engines and of Torpor's that belong to the images: what was at descriptors 0, 1 and 2, and what devices were used.
const BESIDE: [&str; 2] = ["descriptors.json", "accelerators.json"];

/// Whether a file in a directory of images is one, or belongs to them.
pub(crate) fn is_image(file: &str) -> bool {
    let known = Name::parse(file).is_some_and(|name| name.kind.description().framing != Framing::Service);
    known || BESIDE.contains(&file)
}

//! A generation in a store, as the images it would be laid out as.

mod layer;

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_store::manifest::{Body, FileEntry, FileKind, MemoryKind, PAGE_SIZE, Phase, Sizes};
use torpor_store::{GenerationKind, Manifest, MemoryReader, PagemapEntry, ReadError, Repository};

use super::tar::normal;
use super::{Assurance, Entry, EntryKind, Source, SourceError};
use layer::Layer;

/// The name of the entry with what the store itself knows about the generation: a JSON document.
pub const MANIFEST: &str = "torpor.json";
/// Where the names of files of the program begin.
pub const FILES: &str = "files/";

/// Bytes of pages after which extents that were read are forgotten.
const FORGET_AFTER: u64 = 256 << 20;
/// Most entries.
const MAX_ENTRIES: usize = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;

/// A generation of a name in a store.
///
/// Its entries are what a restore would lay out: CRIU's images, with pagemaps and pages put together as they are read.
/// Besides there are [`MANIFEST`], and the files below [`FILES`], with the section before the path; a file that was
/// deleted is an empty one with `.wh.` before its name, as in layers of OCI images.
///
/// Of a container there is also what engines keep of theirs: `spec.dump`, `rootfs-diff.tar` and `deleted.files`.
#[derive(Debug)]
pub struct Stored {
    name: String,
    repository: Repository,
    entries: Vec<Entry>,
    /// What each entry is, in the same order.
    parts: Vec<Part>,
    /// The numbers of the entries, by name.
    by_name: Vec<u32>,
    memory: Vec<Memory>,
}

#[derive(Debug)]
enum Part {
    Nothing,
    Bytes(Vec<u8>),
    Body(Body),
    /// The pages of this memory object.
    Pages(usize),
    /// The writable layer of a container.
    Layer(Box<Layer>),
}

#[derive(Debug)]
struct Memory {
    reader: Mutex<(MemoryReader, u64)>,
    /// Runs of present pages: the first one's place in the pages image, counted in pages, and its address.
    runs: OnceLock<Vec<(u64, u64)>>,
}

/// What the store knows, as [`MANIFEST`] has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    name: &'a str,
    generation: u64,
    epoch: u64,
    kind: GenerationKind,
    parent: Option<u64>,
    created: jiff::Timestamp,
    phases: &'a [Phase],
    sizes: Sizes,
    facts: Option<serde_json::Value>,
}

impl Stored {
    /// The generation that this manifest describes.
    ///
    /// # Errors
    /// Where parts of the manifest are missing or damaged, or there are too many files.
    pub fn open(repository: Repository, manifest: &Manifest) -> Result<Self, SourceError> {
        let description = manifest.description();
        let name = format!("{}@{}", description.name, description.generation);
        let (entries, parts, by_name, memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut stored = Self { name, repository, entries, parts, by_name, memory };
        let document = Document {
            name: &description.name,
            generation: description.generation,
            epoch: description.epoch,
            kind: description.kind,
            parent: description.parent,
            created: description.created,
            phases: &description.phases,
            sizes: manifest.sizes(),
            facts: serde_json::from_slice(&description.facts).ok(),
        };
        let created = description.created.as_second();
        let document = serde_json::to_vec_pretty(&document).unwrap_or_default();
        stored.file(MANIFEST.to_owned(), document.len() as u64, created, Part::Bytes(document));
        for image in manifest.images() {
            let size = image.body.ranges().last().map_or(0, |range| range.offset + range.len);
            stored.file(image.name.clone(), size, created, Part::Body(image.body.clone()));
        }
        for (number, object) in (1u32..).zip(manifest.memory()) {
            let pagemap_name = match object.id.kind {
                MemoryKind::Process => format!("pagemap-{}.img", object.id.id),
                MemoryKind::Shared => format!("pagemap-shmem-{}.img", object.id.id),
            };
            let unreadable = |source| stored.unreadable(&pagemap_name, 0, source);
            let reader = stored.repository.memory(manifest, object.id).map_err(unreadable)?;
            let pagemap = reader.pagemap().map_err(unreadable)?;
            let image = pagemap_image(number, &pagemap).map_err(|source| SourceError::Entry {
                place: stored.name.clone(),
                entry: pagemap_name.clone(),
                source,
            })?;
            let (runs, present) = present_runs(&pagemap);
            stored.file(pagemap_name, image.len() as u64, created, Part::Bytes(image));
            let part = Part::Pages(stored.memory.len());
            stored.memory.push(Memory { reader: Mutex::new((reader, 0)), runs: runs.into() });
            stored.file(format!("pages-{number}.img"), present * PAGE, created, part);
        }
        let facts: Option<serde_json::Value> = serde_json::from_slice(&description.facts).ok();
        let container = facts.as_ref().filter(|facts| facts["kind"] == "container");
        let mut layer = container.map(|_| Layer::default());
        stored.list_files(manifest, layer.as_mut())?;
        if let Some(layer) = layer {
            stored.as_engines_do(layer, container, created);
        }
        stored.number()?;
        Ok(stored)
    }

    fn file(&mut self, name: String, size: u64, modified: i64, part: Part) {
        self.entries.push(Entry { name, kind: EntryKind::File, size, offset: None, mode: 0o600, modified });
        self.parts.push(part);
    }

    /// Adds what the engines' own checkpoints have.
    fn as_engines_do(&mut self, mut layer: Layer, container: Option<&serde_json::Value>, created: i64) {
        let spec = container.and_then(|container| container.get("config")).map(serde_json::Value::to_string);
        let size = layer.finish();
        let removed = serde_json::Value::from(layer.removed.clone()).to_string();
        let bytes = [("spec.dump", spec), ("deleted.files", (!layer.removed.is_empty()).then_some(removed))];
        for (name, bytes) in bytes {
            let Some(bytes) = bytes.map(String::into_bytes) else { continue };
            self.file(name.to_owned(), bytes.len() as u64, created, Part::Bytes(bytes));
        }
        self.file("rootfs-diff.tar".to_owned(), size, created, Part::Layer(Box::new(layer)));
    }

    fn list_files(&mut self, manifest: &Manifest, mut layer: Option<&mut Layer>) -> Result<(), SourceError> {
        let repository = self.repository.clone();
        for entry in repository.files(manifest) {
            let entry = entry.map_err(|source| self.unreadable(MANIFEST, 0, source))?;
            if self.entries.len() >= MAX_ENTRIES {
                return Err(SourceError::TooMany { place: self.name.clone(), limit: MAX_ENTRIES });
            }
            let path = entry_name(&entry);
            let name = normal(&path).map_err(|problem| SourceError::Name {
                place: self.name.clone(),
                entry: path.clone(),
                offset: 0,
                problem,
            })?;
            // What was taken along of mounts is in other sections.
            if let Some(layer) = layer.as_deref_mut().filter(|_| entry.section == "carried") {
                layer.add(entry.clone());
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (kind, size, part) = match entry.kind {
                FileKind::File { size } => (EntryKind::File, size, Part::Body(entry.body)),
                FileKind::Directory { .. } => (EntryKind::Directory, 0, Part::Nothing),
                FileKind::Symlink { target } => (EntryKind::SymbolicLink(text(&target)), 0, Part::Nothing),
                FileKind::HardLink { to } => (EntryKind::HardLink(text(&to)), 0, Part::Nothing),
                FileKind::Deleted => (EntryKind::File, 0, Part::Nothing),
                _ => (EntryKind::Special, 0, Part::Nothing),
            };
            let (mode, modified) = (entry.mode, entry.modified.seconds);
            self.entries.push(Entry { name, kind, size, offset: None, mode, modified });
            self.parts.push(part);
        }
        Ok(())
    }

    /// Puts the entries in the order of their names.
    fn number(&mut self) -> Result<(), SourceError> {
        let name = |number: &u32| self.entries[*number as usize].name.as_str();
        let mut by_name: Vec<u32> = (0..self.entries.len() as u32).collect();
        by_name.sort_by_key(name);
        if let Some(pair) = by_name.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            let (place, entry) = (self.name.clone(), name(&pair[1]).to_owned());
            return Err(SourceError::Duplicate { place, entry, offset: 0 });
        }
        self.by_name = by_name;
        Ok(())
    }

    fn part(&self, entry: &Entry) -> Option<&Part> {
        let name = |number: &u32| self.entries[*number as usize].name.as_str();
        let found = self.by_name.binary_search_by(|number| name(number).cmp(&entry.name)).ok()?;
        self.parts.get(self.by_name[found] as usize)
    }

    fn unreadable(&self, entry: &str, offset: u64, source: ReadError) -> SourceError {
        let (place, entry) = (self.name.clone(), entry.to_owned());
        SourceError::Store { place, entry, offset, source: Box::new(source) }
    }

    /// Fills `into` from byte `at` of a pages image on.
    fn read_pages(&self, memory: &Memory, mut at: u64, mut into: &mut [u8]) -> Result<(), (u64, ReadError)> {
        let mut held = memory.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, since) = &mut *held;
        *since += into.len() as u64;
        if *since > FORGET_AFTER {
            reader.forget();
            *since = 0;
        }
        let runs = memory.runs.get().map_or(&[][..], Vec::as_slice);
        while !into.is_empty() {
            let page = at / PAGE;
            let after = runs.partition_point(|(first, _)| *first <= page);
            let Some((first, vaddr)) = after.checked_sub(1).map(|number| runs[number]) else {
                into.fill(0);
                return Ok(());
            };
            let pages = runs.get(after).map_or(u64::MAX, |(next, _)| next - page);
            let vaddr = vaddr + (page - first) * PAGE;
            let inside = (at % PAGE) as usize;
            let whole = (into.len() as u64 / PAGE).min(pages) as usize * PAGE_SIZE;
            let done = if inside == 0 && whole > 0 {
                reader.read_pages(vaddr, &mut into[..whole]).map_err(|error| (at, error))?;
                whole
            } else {
                let mut one = [0; PAGE_SIZE];
                reader.read_pages(vaddr, &mut one).map_err(|error| (at, error))?;
                let length = into.len().min(PAGE_SIZE - inside);
                into[..length].copy_from_slice(&one[inside..inside + length]);
                length
            };
            at += done as u64;
            into = &mut into[done..];
        }
        Ok(())
    }
}

/// The pagemap as CRIU would have written it.
fn pagemap_image(number: u32, pagemap: &[PagemapEntry]) -> io::Result<Vec<u8>> {
    let mut writer = PagemapWriter::new(Vec::new(), number, Generation::Wide, PAGE)?;
    for entry in pagemap {
        writer.range(entry.vaddr, entry.pages, PageFlags(entry.flags))?;
    }
    Ok(writer.into_inner())
}

/// Runs of present pages, and how many pages there are.
fn present_runs(pagemap: &[PagemapEntry]) -> (Vec<(u64, u64)>, u64) {
    let (mut runs, mut present) = (Vec::new(), 0);
    for entry in pagemap.iter().filter(|entry| PageFlags(entry.flags).contains(PageFlags::PRESENT)) {
        runs.push((present, entry.vaddr));
        present += entry.pages;
    }
    (runs, present)
}

/// What an entry of a file is called.
fn entry_name(entry: &FileEntry) -> String {
    let path = String::from_utf8_lossy(&entry.path);
    let path = path.trim_start_matches('/');
    if entry.kind == FileKind::Deleted {
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        return format!("{FILES}{}/{directory}/.wh.{file}", entry.section);
    }
    format!("{FILES}{}/{path}", entry.section)
}

impl Source for Stored {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        entry.check_range(&self.name, offset, into.len())?;
        match self.part(entry) {
            Some(Part::Bytes(bytes)) => {
                into.copy_from_slice(&bytes[offset as usize..][..into.len()]);
                Ok(())
            }
            Some(Part::Body(body)) => self
                .repository
                .read_body_at(body, offset, into)
                .map_err(|source| self.unreadable(&entry.name, offset, source)),
            Some(Part::Layer(layer)) => layer
                .read_at(offset, into, |body, at, part| self.repository.read_body_at(body, at, part))
                .map_err(|source| self.unreadable(&entry.name, offset, source)),
            Some(Part::Pages(number)) => self
                .read_pages(&self.memory[*number], offset, into)
                .map_err(|(at, source)| self.unreadable(&entry.name, at, source)),
            Some(Part::Nothing) | None => {
                into.fill(0);
                Ok(())
            }
        }
    }

    fn random_access(&self) -> bool {
        true
    }

    fn assurance(&self) -> Assurance {
        Assurance::Digests("hashes of the store's blocks")
    }
}

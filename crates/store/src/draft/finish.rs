//! The end of a draft: where everything went becomes a manifest, which is written last.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::bytes::{LocalRun, Pieces};
use super::known::PieceAt;
use super::pipeline::{Found, FoundExtent, Pipeline};
use super::{Draft, DraftError, FinishedDraft};
use crate::format::enclose;
use crate::id::{BlockId, ManifestId, PackId};
use crate::manifest::extent::{PieceRun, encode_extents, joined, segments};
use crate::manifest::file::{BodyRun, encode_entries};
use crate::manifest::head::{MAX_FACTS, encode_head};
use crate::manifest::{
    Body, Description, Extent, FileEntry, Image, Manifest, MemoryId, MemoryObject, PAGE_SIZE, SegmentRef,
    Sizes, Source,
};
use crate::read::ReadError;
use crate::repository::{Repository, manifest_key};
use crate::seal::Sealed;

/// Entries in a segment of files, at most.
const SEGMENT_ENTRIES: usize = 256;
/// Index objects from which on a finished draft merges them.
const MANY_INDEXES: usize = 64;

/// A segment before its block's name is known.
struct LocalSegment {
    at: PieceAt,
    size: u32,
    start: u64,
    end: u64,
    count: u64,
}

/// The blocks of a draft by number, once all have names.
struct Settled(Vec<Option<(BlockId, bool)>>);

impl Settled {
    fn id(&self, number: u32) -> Result<BlockId, DraftError> {
        self.0.get(number as usize).copied().flatten().map(|(id, _)| id).ok_or(DraftError::Broken)
    }

    fn body(&self, runs: &[LocalRun]) -> Result<Body, DraftError> {
        let run = |run: &LocalRun| {
            let pieces = PieceRun { block: self.id(run.at.block)?, first: run.at.piece, count: run.count };
            Ok(BodyRun { offset: run.offset, len: run.len, pieces })
        };
        Ok(Body { runs: runs.iter().map(run).collect::<Result<_, DraftError>>()? })
    }

    fn segments(&self, segments: &[LocalSegment]) -> Result<Vec<SegmentRef>, DraftError> {
        let resolve = |segment: &LocalSegment| {
            let LocalSegment { at, size, start, end, count } = *segment;
            Ok(SegmentRef { block: self.id(at.block)?, piece: at.piece, size, start, end, count })
        };
        segments.iter().map(resolve).collect()
    }
}

/// The extents of one memory object, checked, with blocks named.
fn resolve_extents(
    settled: &Settled,
    memory: MemoryId,
    found: &[FoundExtent],
) -> Result<Vec<Extent>, DraftError> {
    let mut extents = Vec::with_capacity(found.len());
    let mut end = 0;
    for extent in found {
        if extent.vaddr < end {
            return Err(DraftError::Refused {
                what: format!("pages at {:#x} of the {memory}", extent.vaddr),
                reason: "they came twice".to_owned(),
            });
        }
        end = extent.vaddr + extent.pages * PAGE_SIZE as u64;
        let source = match extent.found {
            Found::Zero => Source::Zero,
            Found::NoData => Source::NoData,
            Found::Piece(at) => Source::Block { block: settled.id(at.block)?, first: at.piece },
        };
        extents.push(Extent { vaddr: extent.vaddr, pages: extent.pages, flags: extent.flags, source });
    }
    Ok(joined(extents))
}

fn add_segment(
    pieces: &mut Pieces,
    pipeline: &mut Pipeline,
    message: &[u8],
    span: (u64, u64),
    count: usize,
) -> Result<LocalSegment, DraftError> {
    let at = pieces.add(pipeline, message)?;
    Ok(LocalSegment { at, size: message.len() as u32, start: span.0, end: span.1, count: count as u64 })
}

/// A memory object before its segments' blocks are named.
type LocalMemory = (MemoryObject, Vec<LocalSegment>);

impl Draft {
    /// Makes everything durable, and writes the manifest last. The last phase of the description is the one under way:
    /// the time that this takes is added to it.
    ///
    /// # Errors
    /// Where anything was not written; no manifest exists then.
    pub fn finish(mut self, mut description: Description) -> Result<FinishedDraft, DraftError> {
        let begun = Instant::now();
        if description.facts.len() > MAX_FACTS {
            return Err(DraftError::Refused {
                what: "the facts".to_owned(),
                reason: format!("they take more than {MAX_FACTS} bytes"),
            });
        }
        self.intake.submit();
        self.pieces.flush(&mut self.pipeline);
        let mut found = self.pipeline.settle()?;
        found.append(&mut self.without_data);
        found.sort_unstable_by_key(|extent| (extent.memory, extent.vaddr));
        let settled = Settled(self.pipeline.shared.knowledge.numbers.settled());
        let mut used: HashSet<BlockId> = HashSet::new();
        let new_bytes = self.pieces.new;
        let memory = self.write_memory(&settled, &found, &mut used)?;
        let files = self.write_files(&settled, &mut used)?;
        let file_bytes = files.1;
        let images = self.resolve_images(&settled, &mut used)?;
        self.pieces.flush(&mut self.pipeline);
        let packs = self.pipeline.finish()?;

        let settled = Settled(self.pipeline.shared.knowledge.numbers.settled());
        let memory = memory
            .into_iter()
            .map(|(object, segments)| Ok(MemoryObject { segments: settled.segments(&segments)?, ..object }))
            .collect::<Result<Vec<_>, DraftError>>()?;
        let files = settled.segments(&files.0)?;
        used.extend(
            memory.iter().flat_map(|object| &object.segments).chain(&files).map(|segment| segment.block),
        );
        let pages: u64 = memory.iter().map(|object| object.pages).sum();
        let image_bytes = images.iter().map(|image| image.body.data_len()).sum();
        let page_bytes = |pages: u64| pages * PAGE_SIZE as u64;
        let shared = &self.pipeline.shared;
        let sizes = Sizes {
            logical: page_bytes(pages) + file_bytes + image_bytes,
            new: page_bytes(shared.new_pages.load(std::sync::atomic::Ordering::Relaxed)) + new_bytes,
            stored: packs.iter().map(|pack| pack.size).sum(),
            memory: page_bytes(pages),
            zero: page_bytes(memory.iter().map(|object| object.zero_pages).sum()),
            files: file_bytes,
            images: image_bytes,
        };
        let written: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
        self.repository.add_index(packs)?;
        let (reused, rescued) = secure(&self.repository, &used, &written)?;
        if let Some(phase) = description.phases.last_mut() {
            phase.micros += u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
        let manifest = Manifest { id: ManifestId([0; 32]), description, sizes, images, memory, files };
        let manifest = write_manifest(&self.repository, manifest)?;
        merge_indexes(&self.repository);
        Ok(FinishedDraft { manifest, written: [written, rescued].concat(), reused })
    }

    fn write_memory(
        &mut self,
        settled: &Settled,
        found: &[FoundExtent],
        used: &mut HashSet<BlockId>,
    ) -> Result<Vec<LocalMemory>, DraftError> {
        let mut objects: Vec<(MemoryId, &[FoundExtent])> = found
            .chunk_by(|a, b| a.memory == b.memory)
            .map(|extents| (self.memory[extents[0].memory as usize].id, extents))
            .collect();
        // Objects that were named but had no pages are objects all the same.
        for object in self.memory.iter().filter(|object| object.came) {
            if !objects.iter().any(|(present, _)| *present == object.id) {
                objects.push((object.id, &[]));
            }
        }
        objects.sort_by_key(|(id, _)| *id);
        let mut memory = Vec::with_capacity(objects.len());
        for (id, found) in objects {
            let extents = resolve_extents(settled, id, found)?;
            let pages = |keep: &dyn Fn(&Extent) -> bool| {
                extents.iter().filter(|extent| keep(extent)).map(|extent| extent.pages).sum()
            };
            let object = MemoryObject {
                id,
                pages: pages(&Extent::has_data),
                zero_pages: pages(&|extent| extent.source == Source::Zero),
                segments: Vec::new(),
            };
            let mut local = Vec::new();
            for segment in segments(&extents) {
                let span = (segment[0].vaddr, segment[segment.len() - 1].end());
                let message = encode_extents(segment);
                local.push(add_segment(&mut self.pieces, &mut self.pipeline, &message, span, segment.len())?);
            }
            used.extend(extents.iter().filter_map(|extent| match extent.source {
                Source::Block { block, .. } => Some(block),
                _ => None,
            }));
            memory.push((object, local));
        }
        Ok(memory)
    }

    /// Writes the file entries; returns their segments and the bytes of all bodies.
    fn write_files(
        &mut self,
        settled: &Settled,
        used: &mut HashSet<BlockId>,
    ) -> Result<(Vec<LocalSegment>, u64), DraftError> {
        let mut bytes = 0;
        let mut entries: Vec<FileEntry> = Vec::with_capacity(self.files.len());
        for (mut entry, runs) in std::mem::take(&mut self.files).into_values() {
            entry.body = settled.body(&runs)?;
            bytes += entry.body.data_len();
            used.extend(entry.body.runs.iter().map(|run| run.pieces.block));
            entries.push(entry);
        }
        let mut local = Vec::new();
        for segment in entries.chunks(SEGMENT_ENTRIES) {
            let message = encode_entries(segment);
            local.push(add_segment(&mut self.pieces, &mut self.pipeline, &message, (0, 0), segment.len())?);
        }
        Ok((local, bytes))
    }

    fn resolve_images(
        &mut self,
        settled: &Settled,
        used: &mut HashSet<BlockId>,
    ) -> Result<Vec<Image>, DraftError> {
        let resolve = |(name, runs): (String, Vec<LocalRun>)| {
            let body = settled.body(&runs)?;
            used.extend(body.runs.iter().map(|run| run.pieces.block));
            Ok(Image { name, body })
        };
        std::mem::take(&mut self.images).into_iter().map(resolve).collect()
    }
}

/// Makes sure that every block the manifest will refer to stays: what lies only in packs that carry a tombstone by
/// now is copied. Returns the packs of others that it will refer to, and the packs with copies.
fn secure(
    repository: &Repository,
    used: &HashSet<BlockId>,
    written: &[PackId],
) -> Result<(Vec<PackId>, Vec<PackId>), DraftError> {
    let there: HashSet<PackId> = repository.packs()?.iter().map(|pack| pack.id).collect();
    let tombstoned = repository.tombstoned()?;
    let mut reused: HashSet<PackId> = HashSet::new();
    let mut endangered: HashMap<PackId, HashSet<BlockId>> = HashMap::new();
    for block in used {
        let places: Vec<PackId> = repository
            .locate(*block)?
            .into_iter()
            .map(|place| place.pack)
            .filter(|pack| there.contains(pack))
            .collect();
        if places.iter().any(|pack| written.contains(pack)) {
            continue;
        }
        match places.iter().find(|pack| !tombstoned.contains(pack)) {
            Some(pack) => {
                reused.insert(*pack);
            }
            None => {
                let pack =
                    places.first().ok_or_else(|| ReadError::Missing { object: format!("block {block}") })?;
                endangered.entry(*pack).or_default().insert(*block);
            }
        }
    }
    let mut rescued = Vec::new();
    for (pack, blocks) in endangered {
        rescued.extend(repository.copy_blocks(pack, &blocks)?);
    }
    let mut reused: Vec<PackId> = reused.into_iter().collect();
    reused.sort();
    Ok((reused, rescued))
}

fn write_manifest(repository: &Repository, mut manifest: Manifest) -> Result<Manifest, DraftError> {
    let sealer = &repository.inner.sealer;
    let message = encode_head(&manifest);
    manifest.id = sealer.manifest_id(&message);
    let object = enclose(sealer, Sealed::Manifest, manifest.id.as_bytes(), &message);
    repository.backend().put(&manifest_key(manifest.id), &object)?;
    Ok(manifest)
}

/// Merges indexes where there are many. The checkpoint does not depend on it.
fn merge_indexes(repository: &Repository) {
    let merged = match repository.list_indexes() {
        Ok(indexes) if indexes.len() > MANY_INDEXES => repository.compact_index(&HashSet::new()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = merged {
        tracing::warn!(%error, "the indexes of the store were not merged");
    }
}

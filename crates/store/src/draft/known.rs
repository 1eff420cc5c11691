//! What the store has already: pages of the predecessor by address, and pieces by digest within a bound.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::{BlockId, Digest, PackId};
use crate::manifest::{Manifest, MemoryId, PAGE_SIZE, Source};
use crate::read::ReadError;
use crate::repository::Repository;

const SHARDS: usize = 16;
/// Bytes that an entry of the table takes, free places included.
const ENTRY: usize = 48;

/// A piece, by the number its block has within the draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PieceAt {
    pub(super) block: u32,
    pub(super) piece: u32,
}

/// Digests are evenly spread already.
#[derive(Default)]
pub(super) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

type Shard = HashMap<Digest, PieceAt, BuildHasherDefault<DigestHasher>>;

/// Pieces by digest, at most as many as fit the limit.
pub(super) struct Known {
    shards: [Mutex<Shard>; SHARDS],
    room: AtomicUsize,
}

impl Known {
    pub(super) fn within(bytes: usize) -> Self {
        Self { shards: Default::default(), room: AtomicUsize::new(bytes / ENTRY) }
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard> {
        // Not the bytes that the shard's own table goes by.
        let number = usize::from(digest.as_bytes()[15]) % SHARDS;
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<PieceAt> {
        self.shard(digest).get(digest).copied()
    }

    pub(super) fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed) > 0
    }

    /// Adds a piece, unless there is no room. One that is known stays as it is.
    pub(super) fn insert(&self, digest: Digest, at: PieceAt) {
        let taken = |room: usize| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok() {
            self.shard(&digest).entry(digest).or_insert(at);
        }
    }
}

/// A block the draft refers to.
#[derive(Debug, Clone, Copy)]
struct Numbered {
    /// None until the block is whole.
    id: Option<BlockId>,
    /// Whether the store had it before.
    existed: bool,
}

/// The blocks a draft refers to, by number.
#[derive(Default)]
pub(super) struct Numbers {
    blocks: Mutex<(Vec<Numbered>, HashMap<BlockId, u32>)>,
}

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, (Vec<Numbered>, HashMap<BlockId, u32>)> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a block that the store has.
    pub(super) fn existing(&self, id: BlockId) -> u32 {
        let (blocks, existing) = &mut *self.lock();
        *existing.entry(id).or_insert_with(|| {
            blocks.push(Numbered { id: Some(id), existed: true });
            (blocks.len() - 1) as u32
        })
    }

    /// A number for a block that will be written.
    pub(super) fn reserve(&self) -> u32 {
        let (blocks, _) = &mut *self.lock();
        blocks.push(Numbered { id: None, existed: false });
        (blocks.len() - 1) as u32
    }

    /// Says what a reserved number became.
    pub(super) fn settle(&self, number: u32, id: BlockId, existed: bool) {
        self.lock().0[number as usize] = Numbered { id: Some(id), existed };
    }

    /// All blocks by number, with whether the store had them before.
    pub(super) fn settled(&self) -> Vec<Option<(BlockId, bool)>> {
        self.lock().0.iter().map(|block| block.id.map(|id| (id, block.existed))).collect()
    }
}

/// Pages of the predecessor that lie in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlierExtent {
    vaddr: u64,
    pages: u64,
    at: PieceAt,
    /// Where its first page's digest lies in [`Earlier::digests`].
    digest: usize,
}

/// The predecessor's pages by address, with their digests.
#[derive(Default)]
pub(super) struct Earlier {
    objects: Vec<(MemoryId, Vec<EarlierExtent>)>,
    digests: Vec<Digest>,
}

impl Earlier {
    /// The number of a memory object's table, if the predecessor has that object.
    pub(super) fn object(&self, id: MemoryId) -> Option<usize> {
        self.objects.iter().position(|(candidate, _)| *candidate == id)
    }

    /// What the predecessor has at an address. `cursor` is where the search begins; keep it while addresses rise.
    pub(super) fn at(&self, object: usize, cursor: &mut usize, vaddr: u64) -> Option<(Digest, PieceAt)> {
        let extents = &self.objects[object].1;
        let end = |extent: &EarlierExtent| extent.vaddr + extent.pages * PAGE_SIZE as u64;
        let is_in = |extent: &EarlierExtent| (extent.vaddr..end(extent)).contains(&vaddr);
        if !extents.get(*cursor).is_some_and(is_in) {
            *cursor = match extents.get(*cursor + 1) {
                Some(next) if is_in(next) => *cursor + 1,
                _ => extents.partition_point(|extent| end(extent) <= vaddr),
            };
        }
        let extent = extents.get(*cursor).filter(|extent| extent.vaddr <= vaddr)?;
        let page = (vaddr - extent.vaddr) / PAGE_SIZE as u64;
        let digest = *self.digests.get(extent.digest + page as usize)?;
        Some((digest, PieceAt { block: extent.at.block, piece: extent.at.piece + page as u32 }))
    }
}

/// Everything a draft knows of the store at its beginning.
pub(super) struct Knowledge {
    pub(super) known: Known,
    pub(super) numbers: Numbers,
    pub(super) earlier: Earlier,
    /// Packs that must not be referred to.
    pub(super) condemned: HashSet<PackId>,
}

impl Knowledge {
    /// Reads what there is. What is damaged is not known, and written again.
    pub(super) fn gather(
        repository: &Repository,
        predecessor: Option<&Manifest>,
        limit: usize,
    ) -> Result<Self, ReadError> {
        repository.refresh_index()?;
        let mut knowledge = Self {
            known: Known::within(limit),
            numbers: Numbers::default(),
            earlier: Earlier::default(),
            condemned: repository.tombstoned()?,
        };
        let mut done = HashSet::new();
        if let Some(predecessor) = predecessor
            && let Err(error) = knowledge.gather_earlier(repository, predecessor, &mut done)
        {
            tracing::warn!(%error, "the generation before is damaged; what it has is stored again");
            knowledge.earlier = Earlier::default();
        }
        let mut packs = repository.packs()?;
        packs.sort_by_key(|pack| std::cmp::Reverse(pack.modified));
        for pack in packs {
            if !knowledge.known.has_room() {
                break;
            }
            if !knowledge.condemned.contains(&pack.id) && done.insert(pack.id) {
                knowledge.gather_pack(repository, pack.id, &mut |_, _| {});
            }
        }
        Ok(knowledge)
    }

    /// Takes in a pack's pieces, if the index has it and its table is whole.
    fn gather_pack(&self, repository: &Repository, pack: PackId, each: &mut dyn FnMut(BlockId, &[Digest])) {
        if repository.index().pack(pack).is_none() {
            return;
        }
        match repository.read_pack_table(pack) {
            Ok(table) => {
                for block in &table.blocks {
                    each(block.id, &block.digests);
                    if !self.known.has_room() {
                        continue;
                    }
                    let number = self.numbers.existing(block.id);
                    for (piece, digest) in block.digests.iter().enumerate() {
                        self.known.insert(*digest, PieceAt { block: number, piece: piece as u32 });
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "a pack is damaged; what it has is stored again"),
        }
    }

    fn gather_earlier(
        &mut self,
        repository: &Repository,
        predecessor: &Manifest,
        done: &mut HashSet<PackId>,
    ) -> Result<(), ReadError> {
        let mut objects = Vec::new();
        let mut wanted: HashMap<BlockId, Option<usize>> = HashMap::new();
        let mut packs = Vec::new();
        for object in predecessor.memory() {
            let extents = repository.memory(predecessor, object.id)?.extents()?;
            for extent in &extents {
                let Source::Block { block, .. } = extent.source else { continue };
                if wanted.contains_key(&block) {
                    continue;
                }
                wanted.insert(block, None);
                for place in repository.locate(block)? {
                    if !self.condemned.contains(&place.pack) && done.insert(place.pack) {
                        packs.push(place.pack);
                    }
                }
            }
            objects.push((object.id, extents));
        }
        let mut digests = Vec::new();
        for pack in packs {
            self.gather_pack(repository, pack, &mut |block, own| {
                if let Some(at @ None) = wanted.get_mut(&block) {
                    *at = Some(digests.len());
                    digests.extend_from_slice(own);
                }
            });
        }
        let known_extents = |extents: Vec<crate::manifest::Extent>| {
            let known = extents.iter().filter_map(|extent| {
                let Source::Block { block, first } = extent.source else { return None };
                let start = wanted.get(&block).copied().flatten()?;
                Some(EarlierExtent {
                    vaddr: extent.vaddr,
                    pages: extent.pages,
                    at: PieceAt { block: self.numbers.existing(block), piece: first },
                    digest: start + first as usize,
                })
            });
            known.collect()
        };
        let objects = objects.into_iter().map(|(id, extents)| (id, known_extents(extents))).collect();
        self.earlier = Earlier { objects, digests };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn earlier(extents: &[(u64, u64)]) -> Earlier {
        let mut digests = Vec::new();
        let place = |(page, pages): &(u64, u64)| {
            let start = digests.len();
            digests.extend((*page..page + pages).map(|page| Digest([page as u8; 16])));
            EarlierExtent {
                vaddr: page * 4096,
                pages: *pages,
                at: PieceAt { block: *page as u32, piece: 0 },
                digest: start,
            }
        };
        let extents = extents.iter().map(place).collect();
        Earlier { objects: vec![(MemoryId::process(1), extents)], digests }
    }

    proptest! {
        #[test]
        fn finds_what_is_at_an_address_from_any_cursor(
            gaps in prop::collection::vec((0_u64..3, 1_u64..4), 0..10),
            addresses in prop::collection::vec(0_u64..60, 0..40),
        ) {
            let mut end = 0;
            let extents: Vec<(u64, u64)> = gaps.into_iter().map(|(gap, pages)| {
                let start = end + gap;
                end = start + pages;
                (start, pages)
            }).collect();
            let earlier = earlier(&extents);
            let mut cursor = 0;
            for page in addresses {
                let found = earlier.at(0, &mut cursor, page * 4096).map(|(digest, _)| digest);
                let there = extents.iter().any(|(start, pages)| (*start..start + pages).contains(&page));
                prop_assert_eq!(found, there.then_some(Digest([page as u8; 16])));
            }
        }
    }

    #[test]
    fn the_table_keeps_to_its_limit() {
        let known = Known::within(2 * ENTRY);
        for byte in 0..3 {
            known.insert(Digest([byte; 16]), PieceAt { block: 0, piece: u32::from(byte) });
        }
        assert!(!known.has_room());
        assert!(known.get(&Digest([1; 16])).is_some());
        assert!(known.get(&Digest([2; 16])).is_none());
    }
}

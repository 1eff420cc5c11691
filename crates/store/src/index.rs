//! Indexes: which block lies in which pack, and where.
//!
//! Every writer adds an index object for the packs it wrote; collection replaces all of them with one. Everything in
//! an index can be had from the packs too.

use std::collections::{HashMap, HashSet};

use prost::Message;

use crate::block::{BlockKind, Codec, Cut};
use crate::format::INDEXES;
use crate::id::{BlockId, IndexId, PackId};
use crate::pack::{PACK_HEADER, PackTable, PackedBlock};

/// Most bytes of an index.
pub(crate) const MAX_INDEX: usize = 1 << 30;

/// Key of an index object.
pub(crate) fn index_key(id: IndexId) -> String {
    format!("{INDEXES}{id}")
}

#[derive(Clone, PartialEq, Eq, Message)]
struct IndexMessage {
    #[prost(message, repeated, tag = "1")]
    packs: Vec<PackMessage>,
}

/// A pack's blocks in columns, in the order they lie in.
#[derive(Clone, PartialEq, Eq, Message)]
struct PackMessage {
    #[prost(bytes = "vec", tag = "1")]
    pack: Vec<u8>,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(bytes = "vec", tag = "3")]
    blocks: Vec<u8>,
    #[prost(uint32, repeated, tag = "4")]
    stored: Vec<u32>,
    /// Kind times two, plus codec.
    #[prost(uint32, repeated, tag = "5")]
    shapes: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    pieces: Vec<u32>,
    /// Lengths of the pieces of all blocks of bytes.
    #[prost(uint32, repeated, tag = "7")]
    lengths: Vec<u32>,
}

/// Encodes an index of these packs.
pub(crate) fn encode_index<'a>(packs: impl Iterator<Item = &'a PackTable>) -> Vec<u8> {
    let mut message = IndexMessage::default();
    for pack in packs {
        let mut columns =
            PackMessage { pack: pack.id.as_bytes().to_vec(), size: pack.size, ..PackMessage::default() };
        for block in &pack.blocks {
            columns.blocks.extend_from_slice(block.id.as_bytes());
            columns.stored.push(block.stored);
            columns.shapes.push(block.cut.kind() as u32 * 2 + block.codec as u32);
            columns.pieces.push(block.cut.pieces() as u32);
            if let Cut::Bytes(lengths) = &block.cut {
                columns.lengths.extend_from_slice(lengths);
            }
        }
        message.packs.push(columns);
    }
    message.encode_to_vec()
}

/// Decodes an index. Blocks come without their digests.
pub(crate) fn decode_index(message: &[u8]) -> Result<Vec<PackTable>, String> {
    let message = IndexMessage::decode(message).map_err(|error| error.to_string())?;
    message.packs.into_iter().map(decode_pack).collect()
}

fn decode_pack(columns: PackMessage) -> Result<PackTable, String> {
    let id = PackId::try_from(columns.pack.as_slice()).map_err(|error| error.to_string())?;
    let count = columns.stored.len();
    if columns.blocks.len() != count * BlockId::LEN
        || columns.shapes.len() != count
        || columns.pieces.len() != count
    {
        return Err(format!("its columns for pack {id} are not of one length"));
    }
    let mut lengths = columns.lengths.as_slice();
    let mut offset = PACK_HEADER;
    let mut blocks = Vec::with_capacity(count);
    for (row, block) in columns.blocks.chunks_exact(BlockId::LEN).enumerate() {
        let (shape, pieces) = (columns.shapes[row], columns.pieces[row]);
        let kind =
            BlockKind::from_number(shape / 2).ok_or_else(|| format!("there is no block shape {shape}"))?;
        let codec =
            Codec::from_number(shape % 2).ok_or_else(|| format!("there is no block shape {shape}"))?;
        let cut = match kind {
            BlockKind::Pages => Cut::Pages(pieces),
            BlockKind::Bytes => {
                let (own, rest) = lengths
                    .split_at_checked(pieces as usize)
                    .ok_or_else(|| format!("its lengths for pack {id} are cut short"))?;
                lengths = rest;
                Cut::Bytes(own.to_vec())
            }
        };
        if !cut.is_allowed() {
            return Err(format!("a block of pack {id} is cut in no allowed way"));
        }
        let id = BlockId::try_from(block).map_err(|error| error.to_string())?;
        let stored = columns.stored[row];
        blocks.push(PackedBlock { id, offset, stored, codec, cut, digests: Vec::new() });
        offset += u64::from(stored);
    }
    if offset > columns.size {
        return Err(format!("its blocks do not fit pack {id}"));
    }
    Ok(PackTable { id, size: columns.size, blocks })
}

/// Where a block lies and what it takes to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) stored: u32,
    pub(crate) codec: Codec,
    pub(crate) cut: Cut,
}

/// All indexes of a store together, in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Index objects that went in.
    pub(crate) read: HashSet<IndexId>,
    /// Index objects that cannot be read, and why.
    pub(crate) unreadable: HashMap<IndexId, String>,
    packs: HashMap<PackId, PackTable>,
    /// The pack and row of each block.
    blocks: HashMap<BlockId, (PackId, u32)>,
    /// Further places of blocks that lie in several packs.
    also: HashMap<BlockId, Vec<(PackId, u32)>>,
}

impl Index {
    /// Adds packs. Packs it has already are left as they are.
    pub(crate) fn add(&mut self, packs: Vec<PackTable>) {
        for pack in packs {
            if self.packs.contains_key(&pack.id) {
                continue;
            }
            for (row, block) in pack.blocks.iter().enumerate() {
                let place = (pack.id, row as u32);
                if let Some(older) = self.blocks.insert(block.id, place) {
                    self.also.entry(block.id).or_default().push(older);
                }
            }
            self.packs.insert(pack.id, pack);
        }
    }

    /// Forgets packs.
    pub(crate) fn remove(&mut self, gone: &HashSet<PackId>) {
        let kept = std::mem::take(&mut self.packs);
        self.blocks.clear();
        self.also.clear();
        self.add(kept.into_values().filter(|pack| !gone.contains(&pack.id)).collect());
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = &PackTable> {
        self.packs.values()
    }

    pub(crate) fn pack(&self, id: PackId) -> Option<&PackTable> {
        self.packs.get(&id)
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Every place of a block.
    pub(crate) fn places(&self, block: BlockId) -> Vec<Place> {
        let also = self.also.get(&block).map_or(&[][..], Vec::as_slice);
        self.blocks
            .get(&block)
            .into_iter()
            .chain(also.iter().rev())
            .filter_map(|(pack, row)| {
                let packed = self.packs.get(pack)?.blocks.get(*row as usize)?;
                Some(Place {
                    pack: *pack,
                    offset: packed.offset,
                    stored: packed.stored,
                    codec: packed.codec,
                    cut: packed.cut.clone(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(id: u8, blocks: &[(u8, Cut)]) -> PackTable {
        let mut offset = PACK_HEADER;
        let blocks = blocks
            .iter()
            .map(|(id, cut)| {
                let block = PackedBlock {
                    id: BlockId([*id; 32]),
                    offset,
                    stored: 100,
                    codec: Codec::Zstd,
                    cut: cut.clone(),
                    digests: Vec::new(),
                };
                offset += 100;
                block
            })
            .collect();
        PackTable { id: PackId([id; 32]), size: offset + 50, blocks }
    }

    #[test]
    fn reads_what_it_writes() {
        let packs = [
            pack(1, &[(1, Cut::Pages(64)), (2, Cut::Bytes(vec![5, 6]))]),
            pack(2, &[(3, Cut::Bytes(vec![7]))]),
        ];
        assert_eq!(decode_index(&encode_index(packs.iter())).unwrap(), packs);
    }

    #[test]
    fn a_block_in_two_packs_survives_the_loss_of_one() {
        let mut index = Index::default();
        index.add(vec![pack(1, &[(9, Cut::Pages(1))]), pack(2, &[(9, Cut::Pages(1))])]);
        assert_eq!(index.places(BlockId([9; 32])).len(), 2);
        index.remove(&HashSet::from([PackId([2; 32])]));
        let places = index.places(BlockId([9; 32]));
        assert_eq!(places.iter().map(|place| place.pack).collect::<Vec<_>>(), [PackId([1; 32])]);
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes: Vec<u8>) {
            let _ = decode_index(&bytes);
        }

        #[test]
        fn takes_any_columns_without_panic(
            stored in prop::collection::vec(any::<u32>(), 0..4),
            shapes in prop::collection::vec(0_u32..7, 0..4),
            pieces in prop::collection::vec(any::<u32>(), 0..4),
            lengths in prop::collection::vec(any::<u32>(), 0..4),
            size: u64,
        ) {
            let blocks = vec![0; stored.len() * 32];
            let message = IndexMessage {
                packs: vec![PackMessage { pack: vec![0; 32], size, blocks, stored, shapes, pieces, lengths }],
            };
            let _ = decode_index(&message.encode_to_vec());
        }
    }
}

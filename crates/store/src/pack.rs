//! Packs: objects of tens of MiB that hold blocks, and a table of contents from which an index can be rebuilt.
//!
//! A pack is a header of 16 bytes, sealed blocks one after the other, the sealed table, and a footer of 16 bytes that
//! says how long the table is. Its name is a digest of its table, which has every block's digests.

use prost::Message;

use crate::backend::{Backend, BackendError, Upload};
use crate::block::{BlockKind, Codec, Cut};
use crate::format::{PACKS, VERSION};
use crate::id::{BlockId, Digest, PackId};
use crate::read::ReadError;
use crate::seal::{Sealed, Sealer, random};

const MAGIC: &[u8; 8] = b"torporPK";
const END_MAGIC: &[u8; 8] = b"torporKP";
/// Bytes before the first block.
pub(crate) const PACK_HEADER: u64 = 16;
const FOOTER: u64 = 16;
/// A pack is finished when it reaches this many bytes.
pub(crate) const PACK_TARGET: u64 = 32 << 20;
/// Most bytes of a pack.
const MAX_PACK: u64 = 1 << 30;
/// Most bytes of a table.
const MAX_TABLE: u64 = 64 << 20;

/// Key of a pack.
pub(crate) fn pack_key(id: PackId) -> String {
    format!("{PACKS}{id}")
}

/// A block in a table, as encoded.
#[derive(Clone, PartialEq, Eq, Message)]
struct TableRow {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    codec: u32,
    /// Sealed bytes.
    #[prost(uint32, tag = "3")]
    stored: u32,
    /// Pieces' digests, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    digests: Vec<u8>,
    /// Pieces' lengths, in a block of bytes.
    #[prost(uint32, repeated, tag = "5")]
    lengths: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Table {
    #[prost(message, repeated, tag = "1")]
    rows: Vec<TableRow>,
    /// Random, so that no pack has the name of one that is being collected, even if it has the same blocks.
    #[prost(bytes = "vec", tag = "2")]
    salt: Vec<u8>,
}

/// A block in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedBlock {
    pub(crate) id: BlockId,
    pub(crate) offset: u64,
    pub(crate) stored: u32,
    pub(crate) codec: Codec,
    pub(crate) cut: Cut,
    pub(crate) digests: Vec<Digest>,
}

/// A pack's blocks, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackTable {
    pub(crate) id: PackId,
    /// Bytes of the pack.
    pub(crate) size: u64,
    pub(crate) blocks: Vec<PackedBlock>,
}

/// Reads the table of a pack of `blocks_end` bytes before it.
pub(crate) fn decode_table(
    sealer: &Sealer,
    message: &[u8],
    blocks_end: u64,
) -> Result<Vec<PackedBlock>, String> {
    let table = Table::decode(message).map_err(|error| error.to_string())?;
    let mut offset = PACK_HEADER;
    let mut blocks = Vec::with_capacity(table.rows.len());
    for row in table.rows {
        let kind =
            BlockKind::from_number(row.kind).ok_or_else(|| format!("there is no kind {}", row.kind))?;
        let codec =
            Codec::from_number(row.codec).ok_or_else(|| format!("there is no codec {}", row.codec))?;
        let pieces = row.digests.len() / Digest::LEN;
        let cut = match kind {
            BlockKind::Pages => Cut::Pages(pieces as u32),
            BlockKind::Bytes => Cut::Bytes(row.lengths),
        };
        if row.digests.len() % Digest::LEN != 0 || cut.pieces() != pieces || !cut.is_allowed() {
            return Err("a block in its table is cut in no allowed way".to_owned());
        }
        let digests: Vec<Digest> = row
            .digests
            .chunks_exact(Digest::LEN)
            .filter_map(|digest| Digest::try_from(digest).ok())
            .collect();
        blocks.push(PackedBlock {
            id: cut.id(sealer, &digests),
            offset,
            stored: row.stored,
            codec,
            cut,
            digests,
        });
        offset += u64::from(row.stored);
    }
    if offset == blocks_end { Ok(blocks) } else { Err("its blocks do not fill it".to_owned()) }
}

fn header() -> [u8; PACK_HEADER as usize] {
    let mut header = [0; PACK_HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Whether a pack begins as one does. Readers go by its end; this is for verification.
///
/// # Errors
/// Where the pack cannot be read.
pub(crate) fn begins_well(backend: &dyn Backend, id: PackId) -> Result<bool, BackendError> {
    let mut found = [0; PACK_HEADER as usize];
    backend.read_at(&pack_key(id), 0, &mut found)?;
    Ok(found == header())
}

/// Reads a pack's table, given the pack's size.
///
/// # Errors
/// Where the pack is missing or damaged.
pub(crate) fn read_table(
    backend: &dyn Backend,
    sealer: &Sealer,
    id: PackId,
    size: u64,
) -> Result<PackTable, ReadError> {
    let damaged = |reason: String| ReadError::Damaged { object: format!("pack {id}"), reason };
    let key = pack_key(id);
    if !(PACK_HEADER + FOOTER..=MAX_PACK).contains(&size) {
        return Err(damaged(format!("a pack cannot have {size} bytes")));
    }
    let mut footer = [0; FOOTER as usize];
    backend.read_at(&key, size - FOOTER, &mut footer)?;
    let (length, version, magic) = (&footer[..4], &footer[4..8], &footer[8..]);
    if magic != END_MAGIC {
        return Err(damaged("it does not end as a pack does".to_owned()));
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    if number(version) > VERSION {
        return Err(ReadError::TooNew {
            object: format!("pack {id}"),
            found: number(version),
            ours: VERSION,
        });
    }
    let length = u64::from(number(length));
    let blocks_end = (size - FOOTER)
        .checked_sub(length)
        .filter(|end| *end >= PACK_HEADER && length <= MAX_TABLE)
        .ok_or_else(|| damaged("its table is longer than it is".to_owned()))?;
    let mut sealed = vec![0; length as usize];
    backend.read_at(&key, blocks_end, &mut sealed)?;
    let message = sealer
        .open(Sealed::PackTable, b"", &mut sealed)
        .map_err(|error| damaged(format!("its table: {error}")))?;
    if sealer.pack_id(message) != id {
        return Err(damaged("its table is that of another pack".to_owned()));
    }
    let blocks = decode_table(sealer, message, blocks_end).map_err(damaged)?;
    Ok(PackTable { id, size, blocks })
}

/// A pack that is being written.
pub(crate) struct PackWriter {
    upload: Box<dyn Upload>,
    size: u64,
    rows: Vec<TableRow>,
    blocks: Vec<PackedBlock>,
}

impl PackWriter {
    pub(crate) fn begin(backend: &dyn Backend) -> Result<Self, BackendError> {
        let mut upload = backend.begin()?;
        upload.write(&header())?;
        Ok(Self { upload, size: PACK_HEADER, rows: Vec::new(), blocks: Vec::new() })
    }

    /// Appends a sealed block.
    pub(crate) fn append(
        &mut self,
        id: BlockId,
        cut: Cut,
        digests: Vec<Digest>,
        codec: Codec,
        sealed: &[u8],
    ) -> Result<(), BackendError> {
        self.upload.write(sealed)?;
        let mut row = TableRow {
            kind: cut.kind() as u32,
            codec: codec as u32,
            stored: sealed.len() as u32,
            digests: Vec::with_capacity(digests.len() * Digest::LEN),
            lengths: Vec::new(),
        };
        digests.iter().for_each(|digest| row.digests.extend_from_slice(digest.as_bytes()));
        if let Cut::Bytes(lengths) = &cut {
            row.lengths.clone_from(lengths);
        }
        self.rows.push(row);
        self.blocks.push(PackedBlock {
            id,
            offset: self.size,
            stored: sealed.len() as u32,
            codec,
            cut,
            // The table has them; nobody asks a pack just written.
            digests: Vec::new(),
        });
        self.size += sealed.len() as u64;
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.size >= PACK_TARGET
    }

    /// Writes the table and makes the pack durable and visible. The blocks come back without their digests.
    pub(crate) fn finish(mut self, sealer: &Sealer) -> Result<PackTable, BackendError> {
        let salt = random::<16>().to_vec();
        let message = Table { rows: std::mem::take(&mut self.rows), salt }.encode_to_vec();
        let id = sealer.pack_id(&message);
        let mut tail = sealer.seal_copy(Sealed::PackTable, b"", &message);
        let length = tail.len() as u32;
        tail.extend_from_slice(&length.to_le_bytes());
        tail.extend_from_slice(&VERSION.to_le_bytes());
        tail.extend_from_slice(END_MAGIC);
        self.upload.write(&tail)?;
        self.upload.finish(&pack_key(id))?;
        Ok(PackTable { id, size: self.size + tail.len() as u64, blocks: self.blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::block::Press;
    use crate::id::StoreId;
    use crate::seal::Cipher;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn sealer() -> Sealer {
        Sealer::new(StoreId([7; 16]), Cipher::XChaCha20Poly1305, &Zeroizing::new([3; 32]))
    }

    fn written(backend: &MemoryBackend, sealer: &Sealer) -> PackTable {
        let mut writer = PackWriter::begin(backend).unwrap();
        for (cut, plain) in [(Cut::Pages(1), vec![1; 4096]), (Cut::Bytes(vec![3, 5]), b"abcdefgh".to_vec())] {
            let digests: Vec<Digest> = match &cut {
                Cut::Pages(_) => vec![sealer.page_digest(&plain)],
                Cut::Bytes(_) => vec![sealer.bytes_digest(b"abc"), sealer.bytes_digest(b"defgh")],
            };
            let id = cut.id(sealer, &digests);
            let mut sealed = Vec::new();
            let codec = Press::new(1).unwrap().press(sealer, id, &plain, &mut sealed);
            writer.append(id, cut, digests, codec, &sealed).unwrap();
        }
        writer.finish(sealer).unwrap()
    }

    #[test]
    fn the_table_is_read_from_the_pack_alone() {
        let (backend, sealer) = (MemoryBackend::new(), sealer());
        let written = written(&backend, &sealer);
        let read = read_table(&backend, &sealer, written.id, written.size).unwrap();
        assert_eq!((read.id, read.size), (written.id, written.size));
        for (read, written) in read.blocks.iter().zip(&written.blocks) {
            assert_eq!((read.id, read.offset, &read.cut), (written.id, written.offset, &written.cut));
            assert_eq!(read.digests.len(), read.cut.pieces());
        }
    }

    #[test]
    fn damage_and_truncation_name_the_pack() {
        let (backend, sealer) = (MemoryBackend::new(), sealer());
        let table = written(&backend, &sealer);
        let key = pack_key(table.id);
        for cut in 1..table.size {
            let copy = backend.fork();
            copy.damage(&key, |bytes| bytes.truncate(cut as usize));
            let error = read_table(&copy, &sealer, table.id, cut).unwrap_err();
            assert!(error.to_string().contains(&table.id.to_string()), "{error}");
        }
        let newer = backend.fork();
        newer.damage(&key, |bytes| {
            let at = bytes.len() - 12;
            bytes[at] = 2;
        });
        let error = read_table(&newer, &sealer, table.id, table.size).unwrap_err();
        assert!(matches!(error, ReadError::TooNew { found: 2, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn takes_any_table_without_panic(bytes: Vec<u8>, end: u64) {
            let _ = decode_table(&sealer(), &bytes, end);
        }

        #[test]
        fn takes_any_rows_without_panic(
            rows in prop::collection::vec((0_u32..4, 0_u32..3, any::<u32>(), prop::collection::vec(any::<u8>(), 0..64),
                prop::collection::vec(any::<u32>(), 0..4)), 0..4),
        ) {
            let rows = rows
                .into_iter()
                .map(|(kind, codec, stored, digests, lengths)| TableRow { kind, codec, stored, digests, lengths })
                .collect();
            let _ = decode_table(&sealer(), &Table { rows, salt: Vec::new() }.encode_to_vec(), 1000);
        }
    }
}

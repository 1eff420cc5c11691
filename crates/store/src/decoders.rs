//! Everything that the store decodes, by number: for the fuzz target `index` and its seeds.

use crate::format::Header;
use crate::id::{ManifestId, StoreId};
use crate::index::{decode_index, encode_index};
use crate::key::Credentials;
use crate::lineage::record::Record;
use crate::manifest::extent::{decode_extents, encode_extents};
use crate::manifest::file::{decode_entries, encode_entries};
use crate::manifest::head::{decode_head, encode_head};
use crate::pack::{PACK_HEADER, decode_table};
use crate::seal::{Cipher, Sealer, Secret};

/// What there is to decode, in the order of the numbers that choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    /// An index.
    Index,
    /// A pack's table; the pack's bytes before it come first, as 8 bytes.
    PackTable,
    /// The head of a manifest.
    Head,
    /// A segment of memory extents.
    Extents,
    /// A segment of file entries.
    Entries,
    /// A store's header.
    Header,
    /// A name's record.
    Record,
}

impl Decoder {
    /// All of them.
    pub const ALL: [Decoder; 7] = [
        Decoder::Index,
        Decoder::PackTable,
        Decoder::Head,
        Decoder::Extents,
        Decoder::Entries,
        Decoder::Header,
        Decoder::Record,
    ];

    /// Decodes `input` with the decoder that its first byte chooses. True where it could be.
    ///
    /// # Panics
    /// Where what was decoded is another thing once it was encoded.
    pub fn decode_any(input: &[u8]) -> bool {
        let Some((choice, bytes)) = input.split_first() else { return false };
        Decoder::ALL[usize::from(*choice) % Decoder::ALL.len()].decode(bytes)
    }

    /// Decodes `bytes`. True where they could be.
    ///
    /// # Panics
    /// Where what was decoded is another thing once it was encoded.
    pub fn decode(self, bytes: &[u8]) -> bool {
        match self {
            Decoder::Index => stays(decode_index, |packs| encode_index(packs.iter()), bytes),
            Decoder::PackTable => {
                let Some((end, message)) = bytes.split_first_chunk() else { return false };
                let sealer = Sealer::new(StoreId::from_bytes([0; 16]), Cipher::Null, &Secret::new([0; 32]));
                let end = u64::from_le_bytes(*end);
                let Ok(blocks) = decode_table(&sealer, message, end) else { return false };
                let mut next = PACK_HEADER;
                for block in &blocks {
                    assert_eq!((block.offset, block.digests.len()), (next, block.cut.pieces()));
                    next += u64::from(block.stored);
                }
                assert_eq!(next, end);
                true
            }
            Decoder::Head => {
                let id = ManifestId::from_bytes([0; 32]);
                stays(|bytes| decode_head(id, bytes), encode_head, bytes)
            }
            Decoder::Extents => stays(decode_extents, |extents| encode_extents(extents), bytes),
            Decoder::Entries => stays(decode_entries, |entries| encode_entries(entries), bytes),
            Decoder::Header => Header::unlock(bytes, &Credentials::None).is_ok(),
            Decoder::Record => stays(
                Record::parse,
                |record| record.to_bytes().expect("what was read is not too long to be written"),
                bytes,
            ),
        }
    }
}

/// Whether `bytes` can be decoded, and that they then mean the same once encoded again.
fn stays<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
    bytes: &[u8],
) -> bool {
    let Ok(value) = decode(bytes) else { return false };
    let again = decode(&encode(&value)).expect("what was encoded can be decoded");
    assert_eq!(again, value);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing starts from and what it has found: `fuzz/fuzz_targets/index.rs` does the same with more inputs.
    #[test]
    fn what_fuzzing_starts_from_is_decoded() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/index");
        for seed in std::fs::read_dir(seeds).unwrap() {
            let path = seed.unwrap().path();
            let decoded = Decoder::decode_any(&std::fs::read(&path).unwrap());
            let found = path.file_name().unwrap().to_string_lossy().starts_with("found-");
            assert!(decoded || found, "{}", path.display());
        }
    }
}

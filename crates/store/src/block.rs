//! Blocks: up to 64 pages, or runs of file bytes, compressed and sealed together.
//!
//! A block consists of *pieces*: pages in a block of pages, runs of bytes in a block of bytes. Its id is a digest of
//! its pieces' digests and lengths, so that it does not depend on how it is compressed or sealed, and reading it
//! verifies every piece.

use std::io::Cursor;
use std::ops::Range;

use crate::id::{BlockId, Digest};
use crate::manifest::PAGE_SIZE;
use crate::seal::{Sealed, Sealer};

/// Pages that a block is filled up to.
pub(crate) const BLOCK_PAGES: usize = 64;
/// Bytes that a block is filled up to.
pub(crate) const BLOCK_SIZE: usize = BLOCK_PAGES * PAGE_SIZE;
/// Most bytes of a block, which one large piece can have.
pub(crate) const MAX_BLOCK: usize = 8 << 20;
/// Most pieces of a block.
pub(crate) const MAX_PIECES: usize = 4096;

/// What a block's pieces are. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BlockKind {
    Pages = 1,
    Bytes = 2,
}

impl BlockKind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Pages),
            2 => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// How a block is compressed. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// How a block is cut into pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cut {
    Pages(u32),
    Bytes(Vec<u32>),
}

impl Cut {
    pub(crate) fn kind(&self) -> BlockKind {
        match self {
            Self::Pages(_) => BlockKind::Pages,
            Self::Bytes(_) => BlockKind::Bytes,
        }
    }

    pub(crate) fn pieces(&self) -> usize {
        match self {
            Self::Pages(count) => *count as usize,
            Self::Bytes(lengths) => lengths.len(),
        }
    }

    /// Bytes of all pieces.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Pages(count) => *count as usize * PAGE_SIZE,
            Self::Bytes(lengths) => lengths.iter().map(|length| *length as usize).sum(),
        }
    }

    /// The bytes that `count` pieces from `first` on take, or `None` where there are fewer.
    pub(crate) fn range(&self, first: u32, count: u32) -> Option<Range<usize>> {
        let (first, end) = (first as usize, (first as usize).checked_add(count as usize)?);
        if end > self.pieces() {
            return None;
        }
        match self {
            Self::Pages(_) => Some(first * PAGE_SIZE..end * PAGE_SIZE),
            Self::Bytes(lengths) => {
                let sum = |lengths: &[u32]| lengths.iter().map(|length| *length as usize).sum::<usize>();
                let start = sum(&lengths[..first]);
                Some(start..start + sum(&lengths[first..end]))
            }
        }
    }

    /// Whether the format allows it.
    pub(crate) fn is_allowed(&self) -> bool {
        if self.pieces() == 0 || self.pieces() > MAX_PIECES {
            return false;
        }
        let total = match self {
            Self::Pages(count) => u64::from(*count) * PAGE_SIZE as u64,
            Self::Bytes(lengths) if lengths.contains(&0) => return false,
            Self::Bytes(lengths) => lengths.iter().map(|length| u64::from(*length)).sum(),
        };
        total <= MAX_BLOCK as u64
    }

    /// The id of a block cut like this with these digests: over its kind, then each piece's digest and, in a block
    /// of bytes, length.
    pub(crate) fn id(&self, sealer: &Sealer, digests: &[Digest]) -> BlockId {
        let mut shape = Vec::with_capacity(1 + digests.len() * (Digest::LEN + 4));
        shape.push(self.kind() as u8);
        for (piece, digest) in digests.iter().enumerate() {
            shape.extend_from_slice(digest.as_bytes());
            if let Self::Bytes(lengths) = self {
                shape.extend_from_slice(&lengths[piece].to_le_bytes());
            }
        }
        sealer.block_id(&shape)
    }

    fn digests(&self, sealer: &Sealer, plain: &[u8]) -> Vec<Digest> {
        match self {
            Self::Pages(_) => plain.chunks(PAGE_SIZE).map(|page| sealer.page_digest(page)).collect(),
            Self::Bytes(lengths) => {
                let mut rest = plain;
                let mut digests = Vec::with_capacity(lengths.len());
                for length in lengths {
                    let (piece, after) = rest.split_at((*length as usize).min(rest.len()));
                    digests.push(sealer.bytes_digest(piece));
                    rest = after;
                }
                digests
            }
        }
    }
}

/// Compresses and seals blocks. One for each thread.
pub(crate) struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    sample: Vec<u8>,
    sampled: Vec<u8>,
}

impl Press {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(level)?, sample: Vec::new(), sampled: Vec::new() })
    }

    /// Replaces `out` with the sealed block.
    pub(crate) fn press(
        &mut self,
        sealer: &Sealer,
        block: BlockId,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Codec {
        out.clear();
        let before = sealer.before();
        out.reserve(before + zstd::zstd_safe::compress_bound(plain.len()) + sealer.overhead());
        out.resize(before, 0);
        let codec = if looks_random(plain) && !self.sample_compresses(plain) {
            Codec::Raw
        } else {
            self.compress(plain, before, out)
        };
        if codec == Codec::Raw {
            out.truncate(before);
            out.extend_from_slice(plain);
        }
        sealer.seal(Sealed::Block, block.as_bytes(), out);
        codec
    }

    /// Whether every seventh page, compressed, is smaller: what repeats can look random byte by byte. Seven is prime
    /// to whatever powers of two the pages alternate by.
    fn sample_compresses(&mut self, plain: &[u8]) -> bool {
        self.sample.clear();
        plain.chunks(PAGE_SIZE).step_by(7).for_each(|page| self.sample.extend_from_slice(page));
        self.sampled.clear();
        self.sampled.reserve(zstd::zstd_safe::compress_bound(self.sample.len()));
        let size = self.compressor.compress_to_buffer(&self.sample, &mut self.sampled);
        size.is_ok_and(|size| size < self.sample.len() - self.sample.len() / 32)
    }

    fn compress(&mut self, plain: &[u8], before: usize, out: &mut Vec<u8>) -> Codec {
        let mut cursor = Cursor::new(out);
        cursor.set_position(before as u64);
        match self.compressor.compress_to_buffer(plain, &mut cursor) {
            // Less than a thirty-second saved is not worth the time to decompress.
            Ok(size) if size < plain.len() - plain.len() / 32 => Codec::Zstd,
            _ => Codec::Raw,
        }
    }
}

/// Whether a sample of the bytes is spread as evenly as random bytes are, so that compressing may be wasted time.
///
/// The sample is 64 bytes of every 2048. In `n` random bytes each value comes `n / 256` times, and the sum of the
/// squares of the counts is about `n + n² / 256`; anything with structure has far more.
fn looks_random(plain: &[u8]) -> bool {
    const STEP: usize = 2048;
    const TAKE: usize = 64;
    if plain.len() < 2 * STEP {
        return false;
    }
    let mut counts = [0_u32; 256];
    let mut sampled = 0_u64;
    for chunk in plain.chunks(STEP) {
        for byte in &chunk[..TAKE.min(chunk.len())] {
            counts[usize::from(*byte)] += 1;
        }
        sampled += TAKE.min(chunk.len()) as u64;
    }
    let squares: u64 = counts.iter().map(|count| u64::from(*count).pow(2)).sum();
    let expected = sampled + sampled * sampled / 256;
    // Three parts in ten above is beyond chance from a few hundred bytes on.
    sampled >= 512 && squares * 10 <= expected * 13
}

/// Why a block does not open. Without the block's name, which the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockDamage {
    #[error("its check does not match its bytes")]
    NotAuthentic,
    #[error("it does not decompress")]
    Compression,
    #[error("its length is not what the index says")]
    Length,
    #[error("its content is not what its name says")]
    Content,
}

/// Opens blocks. One for each thread.
pub(crate) struct Opener {
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Opener {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { decompressor: zstd::bulk::Decompressor::new()? })
    }

    /// Opens, decompresses and verifies a block into `plain`, replacing what it has.
    pub(crate) fn open(
        &mut self,
        sealer: &Sealer,
        block: BlockId,
        cut: &Cut,
        codec: Codec,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), BlockDamage> {
        let body =
            sealer.open(Sealed::Block, block.as_bytes(), sealed).map_err(|_| BlockDamage::NotAuthentic)?;
        let size = cut.size();
        plain.clear();
        plain.reserve(size);
        match codec {
            Codec::Raw => plain.extend_from_slice(body),
            Codec::Zstd => {
                self.decompressor
                    .decompress_to_buffer(&*body, plain)
                    .map_err(|_| BlockDamage::Compression)?;
            }
        }
        if plain.len() != size {
            return Err(BlockDamage::Length);
        }
        let digests = cut.digests(sealer, plain);
        if cut.id(sealer, &digests) == block { Ok(()) } else { Err(BlockDamage::Content) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StoreId;
    use crate::seal::Cipher;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn sealer(cipher: Cipher) -> Sealer {
        Sealer::new(StoreId([7; 16]), cipher, &Zeroizing::new([3; 32]))
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn round_trip(cipher: Cipher, cut: &Cut, plain: &[u8]) -> (Codec, usize) {
        let sealer = sealer(cipher);
        let id = cut.id(&sealer, &cut.digests(&sealer, plain));
        let mut sealed = Vec::new();
        let codec = Press::new(1).unwrap().press(&sealer, id, plain, &mut sealed);
        let stored = sealed.len();
        let mut back = Vec::new();
        Opener::new().unwrap().open(&sealer, id, cut, codec, &mut sealed, &mut back).unwrap();
        assert_eq!(back, plain);
        (codec, stored)
    }

    #[test]
    fn random_pages_are_stored_as_they_are_and_others_small() {
        for cipher in [Cipher::Null, Cipher::XChaCha20Poly1305] {
            let (codec, stored) = round_trip(cipher, &Cut::Pages(64), &noise(BLOCK_SIZE));
            assert_eq!((codec, stored), (Codec::Raw, BLOCK_SIZE + sealer(cipher).overhead()));
            let text = b"all work and no play makes jack a dull boy\n".repeat(7000);
            let (codec, stored) = round_trip(cipher, &Cut::Pages(64), &text[..BLOCK_SIZE]);
            assert_eq!(codec, Codec::Zstd);
            assert!(stored < BLOCK_SIZE / 8, "{stored}");
        }
    }

    #[test]
    fn random_bytes_that_repeat_are_compressed() {
        let mut plain = noise(BLOCK_SIZE);
        for page in plain.chunks_mut(PAGE_SIZE).step_by(2) {
            (512..PAGE_SIZE).step_by(512).for_each(|at| page.copy_within(..512, at));
        }
        let (codec, stored) = round_trip(Cipher::Null, &Cut::Pages(64), &plain);
        assert_eq!(codec, Codec::Zstd);
        assert!(stored < BLOCK_SIZE * 6 / 10, "{stored}");
    }

    #[test]
    fn half_random_pages_are_compressed() {
        let mut plain = noise(BLOCK_SIZE);
        plain.chunks_mut(PAGE_SIZE).step_by(2).for_each(|page| page.fill(b'x'));
        let (codec, stored) = round_trip(Cipher::Null, &Cut::Pages(64), &plain);
        assert_eq!(codec, Codec::Zstd);
        assert!(stored < BLOCK_SIZE * 6 / 10, "{stored}");
    }

    #[test]
    fn another_content_under_a_name_is_noticed_even_if_sealed_well() {
        let sealer = sealer(Cipher::Null);
        let cut = Cut::Pages(1);
        let id = cut.id(&sealer, &cut.digests(&sealer, &[1; PAGE_SIZE]));
        let mut sealed = sealer.seal_copy(Sealed::Block, id.as_bytes(), &[2; PAGE_SIZE]);
        let opened = Opener::new().unwrap().open(&sealer, id, &cut, Codec::Raw, &mut sealed, &mut Vec::new());
        assert_eq!(opened, Err(BlockDamage::Content));
    }

    #[test]
    fn a_block_cannot_decompress_beyond_its_size() {
        let sealer = sealer(Cipher::Null);
        let id = BlockId([0; 32]);
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let mut sealed = sealer.seal_copy(Sealed::Block, id.as_bytes(), &bomb);
        let opened = Opener::new().unwrap().open(
            &sealer,
            id,
            &Cut::Pages(1),
            Codec::Zstd,
            &mut sealed,
            &mut Vec::new(),
        );
        assert!(opened.is_err());
    }

    #[test]
    fn pieces_have_ranges() {
        let cut = Cut::Bytes(vec![10, 20, 30]);
        assert_eq!(cut.range(0, 3), Some(0..60));
        assert_eq!(cut.range(1, 1), Some(10..30));
        assert_eq!(cut.range(3, 0), Some(60..60));
        assert_eq!(cut.range(2, 2), None);
        assert_eq!(cut.range(u32::MAX, u32::MAX), None);
        assert_eq!(Cut::Pages(4).range(1, 2), Some(4096..12288));
    }

    proptest! {
        #[test]
        fn bytes_come_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..500), 1..20)) {
            let cut = Cut::Bytes(pieces.iter().map(|piece| piece.len() as u32).collect());
            round_trip(Cipher::XChaCha20Poly1305, &cut, &pieces.concat());
        }
    }
}

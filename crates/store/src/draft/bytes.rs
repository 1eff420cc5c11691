//! Bodies of files and images: cut by content, so that what moved within a file is found again.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

use super::DraftError;
use super::known::PieceAt;
use super::pipeline::{ByteBlock, Pipeline, Plain};
use crate::block::{BLOCK_SIZE, MAX_BLOCK, MAX_PIECES};
use crate::id::Digest;

/// Lengths of pieces in bytes: least, most likely, most.
const PIECE: (usize, usize, usize) = (4 << 10, 16 << 10, 64 << 10);
/// Bytes that are read and cut at once.
const WINDOW: usize = 256 << 10;

/// A run of a body in the draft's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalRun {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) at: PieceAt,
    pub(super) count: u32,
}

/// Collects pieces into blocks.
pub(super) struct Pieces {
    filling: Option<ByteBlock>,
    window: Vec<u8>,
    /// Bytes that the store did not have.
    pub(super) new: u64,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self { filling: None, window: vec![0; WINDOW], new: 0 }
    }

    /// Puts one piece where it is found again. Pieces are not empty.
    pub(super) fn add(&mut self, pipeline: &mut Pipeline, piece: &[u8]) -> Result<PieceAt, DraftError> {
        let shared = std::sync::Arc::clone(&pipeline.shared);
        shared.check()?;
        let digest = shared.repository.inner.sealer.bytes_digest(piece);
        if let Some(at) = shared.knowledge.known.get(&digest) {
            return Ok(at);
        }
        self.new += piece.len() as u64;
        if piece.len() > BLOCK_SIZE {
            return Self::add_large(pipeline, piece, digest);
        }
        let is_full = |block: &ByteBlock| {
            let Plain::Buffer(_, used) = block.plain else { return true };
            used + piece.len() > BLOCK_SIZE || block.lengths.len() == MAX_PIECES
        };
        if self.filling.as_ref().is_some_and(is_full) {
            self.flush(pipeline);
        }
        let block = match &mut self.filling {
            Some(block) => block,
            none => none.insert(ByteBlock {
                number: shared.knowledge.numbers.reserve(),
                plain: Plain::Buffer(shared.take_buffer()?, 0),
                lengths: Vec::new(),
                digests: Vec::new(),
            }),
        };
        let at = PieceAt { block: block.number, piece: block.lengths.len() as u32 };
        if let Plain::Buffer(buffer, used) = &mut block.plain {
            buffer[*used..*used + piece.len()].copy_from_slice(piece);
            *used += piece.len();
        }
        block.lengths.push(piece.len() as u32);
        block.digests.push(digest);
        shared.knowledge.known.insert(digest, at);
        Ok(at)
    }

    fn add_large(pipeline: &mut Pipeline, piece: &[u8], digest: Digest) -> Result<PieceAt, DraftError> {
        if piece.len() > MAX_BLOCK {
            return Err(DraftError::Refused {
                what: "a file".to_owned(),
                reason: format!("its description takes more than {MAX_BLOCK} bytes"),
            });
        }
        let number = pipeline.shared.knowledge.numbers.reserve();
        let at = PieceAt { block: number, piece: 0 };
        pipeline.submit_bytes(ByteBlock {
            number,
            plain: Plain::Large(piece.to_vec()),
            lengths: vec![piece.len() as u32],
            digests: vec![digest],
        });
        Ok(at)
    }

    /// Hands the block that is being filled on, however full it is.
    pub(super) fn flush(&mut self, pipeline: &mut Pipeline) {
        if let Some(block) = self.filling.take() {
            pipeline.submit_bytes(block);
        }
    }

    /// Takes bytes from a reader, at most `limit`, and says where they went. The runs begin at `offset`; fewer bytes
    /// than `limit` is no error here.
    pub(super) fn take(
        &mut self,
        pipeline: &mut Pipeline,
        from: &mut dyn Read,
        limit: u64,
        mut offset: u64,
        runs: &mut Vec<LocalRun>,
    ) -> Result<Result<u64, io::Error>, DraftError> {
        let mut window = std::mem::take(&mut self.window);
        let (mut filled, mut taken) = (0, 0);
        let outcome = loop {
            let want = (limit - taken).min((window.len() - filled) as u64) as usize;
            let got = match read_some(from, &mut window[filled..filled + want]) {
                Ok(got) => got,
                Err(error) => break Ok(Err(error)),
            };
            filled += got;
            taken += got as u64;
            let is_end = got < want || taken == limit;
            let mut cut = 0;
            let mut failure = None;
            for chunk in FastCDC::new(&window[..filled], PIECE.0, PIECE.1, PIECE.2) {
                let end = chunk.offset + chunk.length;
                if end == filled && !is_end {
                    // The cut is the window's, not the content's.
                    break;
                }
                match self.add(pipeline, &window[chunk.offset..end]) {
                    Ok(at) => push_run(runs, offset, chunk.length as u64, at),
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
                offset += chunk.length as u64;
                cut = end;
            }
            if let Some(error) = failure {
                break Err(error);
            }
            window.copy_within(cut..filled, 0);
            filled -= cut;
            if is_end {
                break Ok(Ok(taken));
            }
        };
        self.window = window;
        outcome
    }
}

/// Reads until the buffer is full or the reader ends.
fn read_some(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn push_run(runs: &mut Vec<LocalRun>, offset: u64, len: u64, at: PieceAt) {
    if let Some(last) = runs.last_mut()
        && last.offset + last.len == offset
        && last.at.block == at.block
        && last.at.piece + last.count == at.piece
    {
        last.len += len;
        last.count += 1;
    } else {
        runs.push(LocalRun { offset, len, at, count: 1 });
    }
}

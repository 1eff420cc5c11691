//! Where pages wait that do not fit into memory while the program stands still.
//!
//! Hashing and pressing a page takes several times as long as writing it down. So what does not fit is written to a
//! scratch file as it is, or compressed by the fastest codec there is while the disk is busy, and past the page cache.
//! Once the program runs again it is read back and goes the way of all pages.
//!
//! The file has no name, so it goes with this process however that ends. Beside an encrypted store it is sealed with a
//! key that is never written anywhere; beside others a sum tells whether the disk gave back what it got.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce, Tag};
use zeroize::Zeroizing;

use super::DraftError;
use super::pipeline::{Buffer, Job, PageRun, size_of_runs};
use super::queue::Shared;
use crate::backend::Scratch;
use crate::block::BLOCK_SIZE;
use crate::checksum::checksum;
use crate::seal::random;
use crate::sys::arena::Room;

/// Bytes that are compressed at once. The codec is much faster below 64 KiB than above.
const SLICE: usize = 64 << 10;
/// Room that the codec wants for a slice.
const SLICE_ROOM: usize = SLICE + SLICE / 8;
/// Room that a whole buffer may take.
const BUFFER_ROOM: usize = BLOCK_SIZE / SLICE * SLICE_ROOM;
/// Bytes of a load before it is written: about a megabyte, which disks take at full speed.
pub(super) const LOAD: usize = 5 * BLOCK_SIZE;
/// Threads that write and read loads: while one compresses, the other writes.
pub(super) const SPOOLERS: usize = 2;
/// Bytes of pages after which a scratch file is judged by its speed.
const TRIAL: u64 = 64 << 20;
/// Bytes of pages a second below which pages are better worked on at once.
const SLOW: u64 = 400 << 20;

/// Pages from some buffers in one piece of the file.
pub(super) struct Load {
    offset: u64,
    len: usize,
    check: [u8; 16],
    parts: Vec<Part>,
}

/// Pages of one buffer.
struct Part {
    runs: Vec<PageRun>,
    /// Stored bytes of each slice; as many as the slice has where it is not compressed.
    slices: Vec<u32>,
}

/// The scratch file, shared by the threads that write and read it.
pub(super) struct Spool {
    file: File,
    check: Check,
    end: AtomicU64,
    loads: Mutex<VecDeque<Load>>,
    /// Loads that are being written at this moment.
    writing: AtomicUsize,
    /// Bytes of pages in written loads, and since when.
    taken: AtomicU64,
    began: OnceLock<Instant>,
    /// Whether the file takes no more.
    full: AtomicBool,
}

impl Spool {
    pub(super) fn new(scratch: Scratch, sealed: bool) -> Self {
        Self {
            file: scratch.into_file(),
            check: if sealed { Check::sealing() } else { Check::Sum },
            end: AtomicU64::new(0),
            loads: Mutex::default(),
            writing: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            began: OnceLock::new(),
            full: AtomicBool::new(false),
        }
    }

    pub(super) fn takes_more(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }

    fn loads(&self) -> MutexGuard<'_, VecDeque<Load>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_back(&self) -> Option<Load> {
        self.loads().pop_front()
    }

    /// Whether working on pages at once would have been faster so far.
    fn is_slow(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let elapsed = self.began.get().map_or(0.0, |began| began.elapsed().as_secs_f64());
        taken >= TRIAL && (taken as f64) < elapsed * SLOW as f64
    }

    /// Writes the first bytes of `staging`, which has whole pages beyond them.
    fn write(&self, staging: &mut [u8], len: usize, parts: Vec<Part>) -> Result<(), (Load, io::Error)> {
        let whole = len.next_multiple_of(ALIGNMENT);
        staging[len..whole].fill(0);
        let offset = self.end.fetch_add(whole as u64, Ordering::Relaxed);
        let check = self.check.close(offset, &mut staging[..len]);
        let load = Load { offset, len, check, parts };
        self.writing.fetch_add(1, Ordering::Relaxed);
        let written = self.file.write_all_at(&staging[..whole], offset);
        self.writing.fetch_sub(1, Ordering::Relaxed);
        match written {
            Ok(()) => {
                let pages: u64 = load.parts.iter().map(|part| size_of_runs(&part.runs) as u64).sum();
                self.taken.fetch_add(pages, Ordering::Relaxed);
                self.loads().push_back(load);
                Ok(())
            }
            Err(error) => {
                self.full.store(true, Ordering::Relaxed);
                Err((load, error))
            }
        }
    }

    fn read(&self, load: &Load, staging: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(&mut staging[..load.len.next_multiple_of(ALIGNMENT)], load.offset)
    }
}

/// What offsets and lengths of direct input and output are multiples of.
const ALIGNMENT: usize = 4096;

/// How it is known that a load came back as it went.
enum Check {
    Sum,
    Seal(Box<ChaCha20Poly1305>),
}

impl Check {
    fn sealing() -> Self {
        let key = Zeroizing::new(random::<32>());
        Self::Seal(Box::new(ChaCha20Poly1305::new((&*key).into())))
    }

    /// Offsets are used once each, so they do as nonces.
    fn nonce(offset: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&offset.to_le_bytes());
        nonce.into()
    }

    fn close(&self, offset: u64, bytes: &mut [u8]) -> [u8; 16] {
        match self {
            Self::Sum => checksum(bytes).to_le_bytes(),
            Self::Seal(cipher) => cipher
                .encrypt_inout_detached(&Self::nonce(offset), b"", InOutBuf::from(bytes))
                .expect("a load is far smaller than the cipher's limit")
                .into(),
        }
    }

    /// Whether the bytes are those that were closed, which they are again afterwards.
    fn open(&self, offset: u64, bytes: &mut [u8], check: [u8; 16]) -> bool {
        match self {
            Self::Sum => checksum(bytes).to_le_bytes() == check,
            Self::Seal(cipher) => cipher
                .decrypt_inout_detached(&Self::nonce(offset), b"", InOutBuf::from(bytes), &Tag::from(check))
                .is_ok(),
        }
    }
}

/// Puts pages into `room` slice by slice, and says how many bytes each takes.
fn pack(pages: &[u8], room: &mut [u8], compress: bool) -> Vec<u32> {
    let mut slices = Vec::with_capacity(pages.len().div_ceil(SLICE));
    let mut used = 0;
    for slice in pages.chunks(SLICE) {
        let packed = compress.then(|| lz4_flex::block::compress_into(slice, &mut room[used..]));
        let len = match packed {
            Some(Ok(len)) if len < slice.len() => len,
            _ => {
                room[used..used + slice.len()].copy_from_slice(slice);
                slice.len()
            }
        };
        slices.push(len as u32);
        used += len;
    }
    slices
}

/// Takes pages out again that fill `pages`. None where the bytes are not theirs.
fn unpack(mut packed: &[u8], slices: &[u32], pages: &mut [u8]) -> Option<()> {
    let mut lengths = slices.iter();
    for slice in pages.chunks_mut(SLICE) {
        let (bytes, rest) = packed.split_at_checked(*lengths.next()? as usize)?;
        packed = rest;
        if bytes.len() == slice.len() {
            slice.copy_from_slice(bytes);
        } else if lz4_flex::block::decompress_into(bytes, slice).ok()? != slice.len() {
            return None;
        }
    }
    Some(())
}

/// Work for a spooler.
pub(super) enum Spooling {
    /// Pages that must make room.
    Away(Buffer, Vec<PageRun>),
    /// Pages that are wanted again.
    Back(Load),
}

/// A thread that puts pages away and brings them back.
pub(super) struct Spooler {
    pub(super) shared: Arc<Shared>,
    pub(super) spool: Arc<Spool>,
    /// Room for a load.
    pub(super) staging: Room,
}

impl Spooler {
    pub(super) fn run(mut self) {
        while let Some(spooling) = self.shared.next_spooling(&self.spool) {
            match spooling {
                Spooling::Away(buffer, runs) => {
                    self.put_away(buffer, runs);
                    self.shared.put_away();
                }
                Spooling::Back(load) => {
                    let read = self.spool.read(&load, &mut self.staging);
                    match read {
                        Ok(()) => self.bring_back(load),
                        Err(source) => self.fail(source),
                    }
                }
            }
        }
    }

    fn fail(&self, source: io::Error) {
        self.shared
            .fail(DraftError::Source { what: "the scratch file of the checkpoint".to_owned(), source });
    }

    fn put_away(&mut self, mut buffer: Buffer, mut runs: Vec<PageRun>) {
        self.spool.began.get_or_init(Instant::now);
        let mut parts = Vec::new();
        let mut used = 0;
        loop {
            // Compressing is worth its time only while the disk has something to do.
            let compress = self.spool.writing.load(Ordering::Relaxed) > 0;
            let pages = size_of_runs(&runs);
            let slices = pack(&buffer[..pages], &mut self.staging[used..], compress);
            used += slices.iter().map(|len| *len as usize).sum::<usize>();
            parts.push(Part { runs, slices });
            self.shared.release(buffer);
            if self.staging.len() - used < BUFFER_ROOM {
                break;
            }
            match self.shared.more_to_put_away() {
                Some(more) => (buffer, runs) = more,
                None => break,
            }
        }
        match self.spool.write(&mut self.staging, used, parts) {
            Ok(()) if self.spool.is_slow() => {
                tracing::debug!("the scratch file is slow; pages are worked on at once");
                self.shared.resume_work();
            }
            Ok(()) => {}
            Err((load, error)) => {
                tracing::debug!(%error, "the scratch file takes no more; pages are worked on at once");
                self.shared.resume_work();
                self.bring_back(load);
            }
        }
    }

    /// Gives the pages of a load, which lies in `staging`, to the workers.
    fn bring_back(&mut self, load: Load) {
        if !self.spool.check.open(load.offset, &mut self.staging[..load.len], load.check) {
            return self.fail(io::ErrorKind::InvalidData.into());
        }
        let mut at = 0;
        for Part { runs, slices } in load.parts {
            let Ok(mut buffer) = self.shared.take_buffer() else { return };
            let pages = size_of_runs(&runs);
            if unpack(&self.staging[at..load.len], &slices, &mut buffer[..pages]).is_none() {
                self.shared.release(buffer);
                return self.fail(io::ErrorKind::InvalidData.into());
            }
            at += slices.iter().map(|len| *len as usize).sum::<usize>();
            self.shared.submit(Job::Pages(buffer, runs));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"spool").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn pages_fit_their_room_whatever_they_are() {
        for (pages, most) in [(noise(BLOCK_SIZE), BLOCK_SIZE), (vec![7; BLOCK_SIZE], BLOCK_SIZE / 100)] {
            let mut room = vec![0; BUFFER_ROOM];
            let slices = pack(&pages, &mut room, true);
            let used: usize = slices.iter().map(|len| *len as usize).sum();
            assert!(used <= most, "{used}");
            let mut back = vec![1; BLOCK_SIZE];
            unpack(&room, &slices, &mut back).unwrap();
            assert!(back == pages);
        }
    }

    #[test]
    fn what_the_disk_changed_is_noticed() {
        for check in [Check::Sum, Check::sealing()] {
            let plain = noise(10_001);
            let mut bytes = plain.clone();
            let tag = check.close(4096, &mut bytes);
            assert_eq!(bytes == plain, matches!(check, Check::Sum));
            for at in [0, 5000, 9_999, 10_000] {
                let mut changed = bytes.clone();
                changed[at] ^= 4;
                assert!(!check.open(4096, &mut changed, tag), "{at}");
            }
            assert!(check.open(4096, &mut bytes, tag));
            assert!(bytes == plain);
        }
    }

    proptest! {
        #[test]
        fn any_pages_come_back(seed in prop::collection::vec((any::<u8>(), 1_usize..3000), 1..60), compress: bool) {
            let mut pages: Vec<u8> =
                seed.iter().flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count)).collect();
            pages.truncate(BLOCK_SIZE);
            let mut room = vec![0; BUFFER_ROOM];
            let slices = pack(&pages, &mut room, compress);
            let mut back = vec![1; pages.len()];
            prop_assert!(unpack(&room, &slices, &mut back).is_some());
            prop_assert!(back == pages);
        }

        #[test]
        fn takes_any_bytes_without_panic(
            packed in prop::collection::vec(any::<u8>(), 0..2000),
            slices in prop::collection::vec(0_u32..3000, 0..4),
            len in 0_usize..200_000,
        ) {
            let _ = unpack(&packed, &slices, &mut vec![0; len]);
        }
    }
}

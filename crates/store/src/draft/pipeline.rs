//! Threads that hash, look up, compress, seal and write, within a bound of memory.
//!
//! The caller fills buffers; workers take them, find what is new, and press it into blocks; one thread writes blocks
//! into packs, and another makes full packs durable. All buffers are taken at the beginning.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::DraftError;
use super::known::{Knowledge, PieceAt};
use super::queue::Shared;
use super::spool::{LOAD, SPOOLERS, Spool, Spooler};
use super::writing::{SealedBlock, write_packs};
use crate::block::{BLOCK_PAGES, BLOCK_SIZE, Cut, Press};
use crate::id::Digest;
use crate::manifest::PAGE_SIZE;
use crate::pack::PackTable;
use crate::repository::Repository;
use crate::sys::arena::{self, Room};

/// Room for a block.
pub(super) type Buffer = Room;

/// Fewest buffers the caller gets.
const FEWEST_BUFFERS: usize = 4;

/// Pages that follow each other in a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRun {
    /// Number of the memory object within the draft.
    pub(super) memory: u32,
    /// Its table in the predecessor.
    pub(super) earlier: Option<usize>,
    pub(super) vaddr: u64,
    pub(super) pages: u32,
    pub(super) flags: u32,
}

/// The bytes that runs take.
pub(super) fn size_of_runs(runs: &[PageRun]) -> usize {
    runs.iter().map(|run| run.pages as usize * PAGE_SIZE).sum()
}

/// A block of bytes that wants pressing.
pub(super) struct ByteBlock {
    pub(super) number: u32,
    pub(super) plain: Plain,
    pub(super) lengths: Vec<u32>,
    pub(super) digests: Vec<Digest>,
}

/// A block's bytes: the first of a buffer, or one large piece.
pub(super) enum Plain {
    Buffer(Buffer, usize),
    Large(Vec<u8>),
}

/// Work for a worker.
pub(super) enum Job {
    Pages(Buffer, Vec<PageRun>),
    Bytes(ByteBlock),
}

/// Where pages were found or put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Zero,
    NoData,
    Piece(PieceAt),
}

/// A run of pages and where they are, in the draft's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundExtent {
    pub(super) memory: u32,
    pub(super) vaddr: u64,
    pub(super) pages: u64,
    pub(super) flags: u32,
    pub(super) found: Found,
}

/// Adds a run to others, joining it to the last where it continues that.
pub(super) fn push_extent(extents: &mut Vec<FoundExtent>, next: FoundExtent) {
    if let Some(last) = extents.last_mut()
        && last.memory == next.memory
        && last.flags == next.flags
        && last.vaddr + last.pages * PAGE_SIZE as u64 == next.vaddr
    {
        let continues = match (last.found, next.found) {
            (Found::Piece(a), Found::Piece(b)) => {
                a.block == b.block && u64::from(a.piece) + last.pages == u64::from(b.piece)
            }
            (a, b) => a == b,
        };
        if continues {
            last.pages += next.pages;
            return;
        }
    }
    extents.push(next);
}

/// Presses blocks and hands them to the writer. One for each thread.
pub(super) struct Presser {
    press: Press,
    writer: SyncSender<SealedBlock>,
}

impl Presser {
    /// Presses a block unless the store has it, and settles its number.
    fn press(&mut self, shared: &Shared, number: u32, cut: Cut, digests: Vec<Digest>, plain: &[u8]) {
        let sealer = &shared.repository.inner.sealer;
        let id = cut.id(sealer, &digests);
        let existed = shared.has(id);
        shared.knowledge.numbers.settle(number, id, existed);
        if existed {
            return;
        }
        let mut bytes = shared.spare();
        let codec = self.press.press(sealer, id, plain, &mut bytes);
        // The writer takes blocks to its end; were it gone, it has said why.
        let _ = self.writer.send(SealedBlock { id, cut, digests, codec, bytes });
    }

    pub(super) fn press_bytes(&mut self, shared: &Shared, block: ByteBlock) {
        let ByteBlock { number, plain, lengths, digests } = block;
        match plain {
            Plain::Buffer(buffer, used) => {
                self.press(shared, number, Cut::Bytes(lengths), digests, &buffer[..used]);
                shared.release(buffer);
            }
            Plain::Large(bytes) => self.press(shared, number, Cut::Bytes(lengths), digests, &bytes),
        }
    }
}

/// New pages that are not a whole block yet.
struct Pending {
    number: u32,
    plain: Vec<u8>,
    digests: Vec<Digest>,
}

/// Tells the caller when a thread panics, who would wait for it for ever.
pub(super) struct Alarm(pub(super) Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(DraftError::Broken);
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    presser: Presser,
    pending: Pending,
    found: Vec<FoundExtent>,
}

impl Worker {
    fn run(mut self) {
        let _alarm = Alarm(Arc::clone(&self.shared));
        while let Some(job) = self.shared.next_job() {
            let failed = self.shared.has_failed();
            match job {
                Job::Pages(buffer, runs) => {
                    if !failed {
                        self.take_pages(&buffer, &runs);
                    }
                    self.shared.release(buffer);
                }
                Job::Bytes(block) if !failed => self.presser.press_bytes(&self.shared, block),
                Job::Bytes(ByteBlock { plain: Plain::Buffer(buffer, _), .. }) => self.shared.release(buffer),
                Job::Bytes(_) => {}
            }
            self.shared.done();
        }
        self.flush();
        self.shared.add_found(&mut self.found);
    }

    fn take_pages(&mut self, buffer: &[u8], runs: &[PageRun]) {
        let mut pages = buffer.chunks_exact(PAGE_SIZE);
        let (mut zero, mut new) = (0, 0);
        for run in runs {
            let mut cursor = 0;
            for (number, page) in pages.by_ref().take(run.pages as usize).enumerate() {
                let vaddr = run.vaddr + (number * PAGE_SIZE) as u64;
                let found = if is_zero(page) {
                    zero += 1;
                    Found::Zero
                } else {
                    let (at, is_new) = self.find_page(run.earlier, &mut cursor, vaddr, page);
                    new += u64::from(is_new);
                    Found::Piece(at)
                };
                let extent = FoundExtent { memory: run.memory, vaddr, pages: 1, flags: run.flags, found };
                push_extent(&mut self.found, extent);
            }
        }
        self.shared.zero_pages.fetch_add(zero, Ordering::Relaxed);
        self.shared.new_pages.fetch_add(new, Ordering::Relaxed);
    }

    /// Where a page is, after putting it into the pending block if the store does not have it.
    fn find_page(
        &mut self,
        earlier: Option<usize>,
        cursor: &mut usize,
        vaddr: u64,
        page: &[u8],
    ) -> (PieceAt, bool) {
        let knowledge = &self.shared.knowledge;
        let digest = self.shared.repository.inner.sealer.page_digest(page);
        let before = earlier.and_then(|object| knowledge.earlier.at(object, cursor, vaddr));
        if let Some((_, at)) = before.filter(|(before, _)| *before == digest) {
            return (at, false);
        }
        if let Some(at) = knowledge.known.get(&digest) {
            return (at, false);
        }
        if self.pending.digests.is_empty() {
            self.pending.number = knowledge.numbers.reserve();
        }
        let at = PieceAt { block: self.pending.number, piece: self.pending.digests.len() as u32 };
        knowledge.known.insert(digest, at);
        self.pending.digests.push(digest);
        self.pending.plain.extend_from_slice(page);
        if self.pending.digests.len() == BLOCK_PAGES {
            self.flush();
        }
        (at, true)
    }

    fn flush(&mut self) {
        let digests = std::mem::take(&mut self.pending.digests);
        if digests.is_empty() {
            return;
        }
        let cut = Cut::Pages(digests.len() as u32);
        self.presser.press(&self.shared, self.pending.number, cut, digests, &self.pending.plain);
        self.pending.plain.clear();
    }
}

fn is_zero(page: &[u8]) -> bool {
    const ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    page == ZEROS
}

/// A scratch file beside the store, where pages will come while work is held for which memory has not enough room.
fn spool_for(repository: &Repository, held: u64, memory: usize) -> Option<Arc<Spool>> {
    // A program may grow between the moment its size is looked at and the freeze.
    let expected = held + held / 8;
    if expected <= memory as u64 {
        return None;
    }
    let scratch = repository.backend().scratch(expected)?;
    Some(Arc::new(Spool::new(scratch, repository.inner.sealer.is_encrypting())))
}

/// The threads of a draft. Dropped unfinished, they end without writing what is left.
pub(super) struct Pipeline {
    pub(super) shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    spoolers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Vec<PackTable>>>,
    /// For the caller's own blocks at the end.
    presser: Option<Presser>,
}

impl Pipeline {
    pub(super) fn start(
        repository: Repository,
        knowledge: Knowledge,
        settings: &super::DraftSettings<'_>,
    ) -> Result<Self, DraftError> {
        let threads = match settings.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let in_writing = threads + 2;
        // Each worker has a block it fills and one it seals; the writer has some in its hands.
        let fixed = (2 * threads + in_writing) * BLOCK_SIZE;
        let spare = settings.memory_limit.saturating_sub(fixed);
        let spool = spool_for(&repository, settings.held, spare);
        let loads = if spool.is_some() { SPOOLERS } else { 0 };
        let buffers = (spare.saturating_sub(loads * LOAD) / BLOCK_SIZE).max(FEWEST_BUFFERS + threads);
        let (sender, receiver) = sync_channel(in_writing);
        let press = |writer: &SyncSender<SealedBlock>| {
            Press::new(settings.level)
                .map(|press| Presser { press, writer: writer.clone() })
                .map_err(|source| DraftError::Source { what: "the compressor's settings".to_owned(), source })
        };
        let sizes = [vec![BLOCK_SIZE; buffers], vec![LOAD; loads]].concat();
        let mut free = arena::rooms(&sizes).map_err(|source| DraftError::Source {
            what: "the memory for a checkpoint".to_owned(),
            source,
        })?;
        let staging = free.split_off(buffers);
        let shared = Arc::new(Shared::new(repository, knowledge, free, spool.clone()));
        let mut pipeline = Self {
            shared: Arc::clone(&shared),
            workers: Vec::new(),
            spoolers: Vec::new(),
            writer: None,
            presser: None,
        };
        let spawned = |source| DraftError::Source { what: "a thread's start".to_owned(), source };
        for _ in 0..threads {
            let pending = Pending { number: 0, plain: Vec::with_capacity(BLOCK_SIZE), digests: Vec::new() };
            let worker =
                Worker { shared: Arc::clone(&shared), presser: press(&sender)?, pending, found: Vec::new() };
            let handle = thread::Builder::new().name("store-work".to_owned()).spawn(move || worker.run());
            pipeline.workers.push(handle.map_err(spawned)?);
        }
        for (staging, spool) in staging.into_iter().zip(spool.iter().cycle()) {
            let spooler = Spooler { shared: Arc::clone(&shared), spool: Arc::clone(spool), staging };
            let handle = thread::Builder::new().name("store-spool".to_owned()).spawn(move || {
                let _alarm = Alarm(Arc::clone(&spooler.shared));
                spooler.run();
            });
            pipeline.spoolers.push(handle.map_err(spawned)?);
        }
        pipeline.presser = Some(press(&sender)?);
        let writer = thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || {
                let _alarm = Alarm(Arc::clone(&shared));
                write_packs(&shared, receiver)
            })
            .map_err(spawned)?;
        pipeline.writer = Some(writer);
        Ok(pipeline)
    }

    /// Waits until the workers have done everything, and returns where all pages are.
    pub(super) fn settle(&mut self) -> Result<Vec<FoundExtent>, DraftError> {
        self.close();
        self.shared.check()?;
        Ok(self.shared.take_found())
    }

    fn close(&mut self) {
        self.shared.resume();
        for spooler in self.spoolers.drain(..) {
            if spooler.join().is_err() {
                self.shared.fail(DraftError::Broken);
            }
        }
        self.shared.close();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                self.shared.fail(DraftError::Broken);
            }
        }
    }

    /// Takes a block of bytes: for the workers, or, when they have ended, pressed at once.
    pub(super) fn submit_bytes(&mut self, block: ByteBlock) {
        match (&mut self.presser, self.workers.is_empty()) {
            (Some(presser), true) => presser.press_bytes(&self.shared, block),
            _ => self.shared.submit(Job::Bytes(block)),
        }
    }

    /// Waits until all packs are durable, and returns them.
    pub(super) fn finish(&mut self) -> Result<Vec<PackTable>, DraftError> {
        self.close();
        self.presser = None;
        let packs = self.writer.take().and_then(|writer| writer.join().ok()).ok_or(DraftError::Broken)?;
        self.shared.check()?;
        Ok(packs)
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.writer.is_some() || !self.workers.is_empty() {
            self.shared.fail(DraftError::Broken);
            self.close();
            self.presser = None;
            if let Some(writer) = self.writer.take() {
                // It has nobody left to tell.
                let _ = writer.join();
            }
        }
    }
}

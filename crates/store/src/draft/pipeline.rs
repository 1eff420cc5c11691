//! Threads that hash, look up, compress, seal and write, within a bound of memory.
//!
//! The caller fills buffers; workers take them, find what is new, and press it into blocks; one thread writes blocks
//! into packs, and another makes full packs durable. All buffers are taken at the beginning.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::DraftError;
use super::ahead::Ahead;
use super::known::{Knowledge, PieceAt};
use super::queue::Shared;
use super::spool::{LOAD, SPOOLERS, Spool, Spooler};
use super::worker::{Alarm, Presser, Worker};
use super::writing::{SealedBlock, write_packs};
use crate::block::{BLOCK_SIZE, Press};
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

impl PageRun {
    pub(super) fn found(self, found: Found) -> FoundExtent {
        let PageRun { memory, vaddr, pages, flags, .. } = self;
        FoundExtent { memory, vaddr, pages: u64::from(pages), flags, found }
    }
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
    /// Pages that will come again under the freeze.
    Ahead(Buffer, Vec<PageRun>),
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
                .map(|press| Presser::new(press, writer.clone()))
                .map_err(|source| DraftError::Source { what: "the compressor's settings".to_owned(), source })
        };
        let sizes = [vec![BLOCK_SIZE; buffers], vec![LOAD; loads]].concat();
        let mut free = arena::rooms(&sizes).map_err(|source| DraftError::Source {
            what: "the memory for a checkpoint".to_owned(),
            source,
        })?;
        let staging = free.split_off(buffers);
        let expected = usize::try_from(settings.held / PAGE_SIZE as u64).unwrap_or(usize::MAX);
        let ahead = Ahead::within(settings.ahead_limit, expected + expected / 8);
        let shared = Arc::new(Shared::new(repository, knowledge, ahead, free, spool.clone()));
        let mut pipeline = Self {
            shared: Arc::clone(&shared),
            workers: Vec::new(),
            spoolers: Vec::new(),
            writer: None,
            presser: None,
        };
        let spawned = |source| DraftError::Source { what: "a thread's start".to_owned(), source };
        for _ in 0..threads {
            let worker = Worker::new(Arc::clone(&shared), press(&sender)?);
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

//! A worker: recognises, hashes and looks up pages, and presses what is new.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::thread;

use super::DraftError;
use super::known::PieceAt;
use super::pipeline::{Buffer, ByteBlock, Found, FoundExtent, Job, PageRun, Plain, push_extent};
use super::queue::{Shared, Task};
use super::writing::SealedBlock;
use crate::block::{BLOCK_PAGES, BLOCK_SIZE, Cut, Press};
use crate::checksum::checksum;
use crate::id::Digest;
use crate::manifest::PAGE_SIZE;

/// Presses blocks and hands them to the writer. One for each thread.
pub(super) struct Presser {
    press: Press,
    writer: SyncSender<SealedBlock>,
}

impl Presser {
    pub(super) fn new(press: Press, writer: SyncSender<SealedBlock>) -> Self {
        Self { press, writer }
    }

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

/// Runs page by page, with where each page begins in their buffer.
fn single_pages(runs: &[PageRun]) -> impl Iterator<Item = (PageRun, usize)> {
    let pages = runs.iter().flat_map(|run| {
        (0..u64::from(run.pages)).map(|page| PageRun {
            vaddr: run.vaddr + page * PAGE_SIZE as u64,
            pages: 1,
            ..*run
        })
    });
    pages.zip((0..).step_by(PAGE_SIZE))
}

/// Pages that are collected in a buffer.
struct Rest {
    buffer: Buffer,
    runs: Vec<PageRun>,
    used: usize,
}

impl Rest {
    /// Moves the pages at these offsets, which rise, to the front of their buffer.
    fn of(mut buffer: Buffer, pages: &[(PageRun, usize)]) -> Self {
        let mut runs = Vec::with_capacity(pages.len());
        let mut used = 0;
        for (run, offset) in pages {
            buffer.copy_within(*offset..*offset + PAGE_SIZE, used);
            runs.push(*run);
            used += PAGE_SIZE;
        }
        Self { buffer, runs, used }
    }

    /// Adds a page, if there is room.
    fn push(&mut self, run: PageRun, page: &[u8]) -> bool {
        let Some(room) = self.buffer.get_mut(self.used..self.used + PAGE_SIZE) else { return false };
        room.copy_from_slice(page);
        self.runs.push(run);
        self.used += PAGE_SIZE;
        true
    }
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

/// A thread that works on what there is.
pub(super) struct Worker {
    shared: Arc<Shared>,
    presser: Presser,
    pending: Pending,
    found: Vec<FoundExtent>,
    /// Changed pages, found while work is held.
    rest: Option<Rest>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, presser: Presser) -> Self {
        let pending = Pending { number: 0, plain: Vec::with_capacity(BLOCK_SIZE), digests: Vec::new() };
        Self { shared, presser, pending, found: Vec::new(), rest: None }
    }

    pub(super) fn run(mut self) {
        let _alarm = Alarm(Arc::clone(&self.shared));
        while let Some(task) = self.shared.next_task(self.rest.is_some()) {
            match task {
                Task::Sift(buffer, _) if self.shared.has_failed() => {
                    self.shared.release(buffer);
                    self.shared.sifted();
                }
                Task::Sift(buffer, runs) => {
                    self.sift(buffer, &runs);
                    self.shared.sifted();
                }
                Task::Rest => {
                    if let Some(Rest { buffer, runs, .. }) = self.rest.take() {
                        self.take_pages(&buffer, &runs);
                        self.shared.release(buffer);
                    }
                }
                Task::Job(job) => {
                    self.work(job);
                    self.shared.done();
                }
            }
        }
        self.flush();
        self.shared.add_found(&mut self.found);
    }

    fn work(&mut self, job: Job) {
        let failed = self.shared.has_failed();
        match job {
            Job::Pages(buffer, runs) => {
                if !failed {
                    self.take_pages(&buffer, &runs);
                }
                self.shared.release(buffer);
            }
            Job::Ahead(buffer, runs) => {
                if !failed {
                    self.take_ahead(&buffer, &runs);
                }
                self.shared.release(buffer);
            }
            Job::Bytes(block) if !failed => self.presser.press_bytes(&self.shared, block),
            Job::Bytes(ByteBlock { plain: Plain::Buffer(buffer, _), .. }) => self.shared.release(buffer),
            Job::Bytes(_) => {}
        }
    }

    /// Notes where pages are that need no work: zeros, and those that are as they were ahead of the freeze. Gives the
    /// others to `changed`, one by one, with where they begin in the buffer.
    fn recognise(
        &mut self,
        buffer: &[u8],
        runs: &[PageRun],
        changed: &mut dyn FnMut(&mut Self, PageRun, usize),
    ) {
        let (mut zero, mut cursor) = (0, 0);
        for (run, offset) in single_pages(runs) {
            let page = &buffer[offset..offset + PAGE_SIZE];
            let ahead = &self.shared.ahead;
            let found = if is_zero(page) {
                zero += 1;
                Found::Zero
            } else if let Some(at) = ahead.find(run.memory, run.vaddr, &mut cursor, || checksum(page)) {
                Found::Piece(at)
            } else {
                changed(self, run, offset);
                continue;
            };
            push_extent(&mut self.found, run.found(found));
        }
        self.shared.zero_pages.fetch_add(zero, Ordering::Relaxed);
    }

    fn take_pages(&mut self, buffer: &[u8], runs: &[PageRun]) {
        let (mut new, mut cursor) = (0, 0);
        self.recognise(buffer, runs, &mut |worker, run, offset| {
            let page = &buffer[offset..offset + PAGE_SIZE];
            let (at, is_new) = worker.find_page(run.earlier, &mut cursor, run.vaddr, page);
            new += u64::from(is_new);
            push_extent(&mut worker.found, run.found(Found::Piece(at)));
        });
        self.shared.new_pages.fetch_add(new, Ordering::Relaxed);
    }

    /// Stores pages and keeps in mind what they were. Where they belong is said when they come again.
    fn take_ahead(&mut self, buffer: &[u8], runs: &[PageRun]) {
        let mut taken = Vec::with_capacity(BLOCK_PAGES);
        let (mut cursor, mut new) = (0, 0);
        for (run, offset) in single_pages(runs) {
            let page = &buffer[offset..offset + PAGE_SIZE];
            if !is_zero(page) {
                let (at, is_new) = self.find_page(run.earlier, &mut cursor, run.vaddr, page);
                new += u64::from(is_new);
                taken.push((run.memory, run.vaddr, checksum(page), at));
            }
        }
        self.shared.new_pages.fetch_add(new, Ordering::Relaxed);
        self.shared.ahead.add(taken.into_iter());
    }

    /// Looks through pages under the freeze. What changed is put together, so that it takes no more room than it must.
    fn sift(&mut self, buffer: Buffer, runs: &[PageRun]) {
        let mut changed = Vec::new();
        self.recognise(&buffer, runs, &mut |_, run, offset| changed.push((run, offset)));
        let mut left = changed.as_slice();
        while let (Some(rest), [(run, offset), behind @ ..]) = (&mut self.rest, left) {
            if rest.push(*run, &buffer[*offset..*offset + PAGE_SIZE]) {
                left = behind;
            } else if let Some(Rest { buffer, runs, .. }) = self.rest.take() {
                self.shared.submit_sifted(buffer, runs);
            }
        }
        if left.is_empty() {
            self.shared.release(buffer);
        } else {
            self.rest = Some(Rest::of(buffer, left));
        }
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

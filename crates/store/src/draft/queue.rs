//! What the threads of a draft share: jobs, free memory, and who waits for which.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::DraftError;
use super::ahead::Ahead;
use super::known::Knowledge;
use super::pipeline::{Buffer, FoundExtent, Job, PageRun};
use super::spool::{Spool, Spooling};
use crate::id::BlockId;
use crate::repository::Repository;

/// Free buffers that are left for those who wait for one.
const RESERVE: usize = 8;

struct Queue {
    jobs: VecDeque<Job>,
    /// Pages of which some may be known from before the freeze.
    unsifted: VecDeque<(Buffer, Vec<PageRun>)>,
    /// Buffers of those that workers have in their hands.
    sifting: usize,
    free: Vec<Buffer>,
    /// Jobs that workers have in their hands.
    working: usize,
    /// Whether workers wait.
    held: bool,
    /// Spoolers that put pages away at this moment.
    putting_away: usize,
    /// Whether what was put away comes back.
    coming_back: bool,
    closed: bool,
}

impl Queue {
    /// The first pages among the jobs.
    fn take_pages(&mut self) -> Option<(Buffer, Vec<PageRun>)> {
        let at = self.jobs.iter().position(|job| matches!(job, Job::Pages(..)))?;
        match self.jobs.remove(at)? {
            Job::Pages(buffer, runs) => Some((buffer, runs)),
            job @ (Job::Ahead(..) | Job::Bytes(_)) => {
                self.jobs.insert(at, job);
                None
            }
        }
    }
}

/// Work for a worker.
pub(super) enum Task {
    /// Pages to look through, work being held.
    Sift(Buffer, Vec<PageRun>),
    /// Work is not held any more: what was left of the sifting is to be done.
    Rest,
    /// What there is to do.
    Job(Job),
}

/// What all threads of a draft share.
pub(super) struct Shared {
    pub(super) repository: Repository,
    pub(super) knowledge: Knowledge,
    pub(super) ahead: Ahead,
    queue: Mutex<Queue>,
    /// A worker may go on.
    work: Condvar,
    /// The caller may go on.
    space: Condvar,
    /// A spooler may go on.
    spooling: Condvar,
    spool: Option<Arc<Spool>>,
    /// With fewer free buffers than this, pages are put away.
    few: usize,
    /// Sealed bytes' buffers that were written and can be used again.
    spare: Mutex<Vec<Vec<u8>>>,
    found: Mutex<Vec<FoundExtent>>,
    failure: Mutex<Option<DraftError>>,
    failed: AtomicBool,
    pub(super) zero_pages: AtomicU64,
    pub(super) new_pages: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        repository: Repository,
        knowledge: Knowledge,
        ahead: Ahead,
        free: Vec<Buffer>,
        spool: Option<Arc<Spool>>,
    ) -> Self {
        let few = free.len() / 2;
        let queue = Queue {
            jobs: VecDeque::new(),
            unsifted: VecDeque::new(),
            sifting: 0,
            free,
            working: 0,
            held: false,
            putting_away: 0,
            coming_back: false,
            closed: false,
        };
        Self {
            repository,
            knowledge,
            ahead,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            space: Condvar::new(),
            spooling: Condvar::new(),
            spool,
            few,
            spare: Mutex::default(),
            found: Mutex::default(),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            zero_pages: AtomicU64::new(0),
            new_pages: AtomicU64::new(0),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, error: DraftError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
        // Taken so that nobody is between looking and waiting.
        let _queue = self.queue();
        self.space.notify_all();
        self.work.notify_all();
        self.spooling.notify_all();
    }

    /// The first failure, once; afterwards that there was one.
    pub(super) fn check(&self) -> Result<(), DraftError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let first = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(first.unwrap_or(DraftError::Broken))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// A free buffer, once there is one.
    pub(super) fn take_buffer(&self) -> Result<Buffer, DraftError> {
        let mut queue = self.queue();
        loop {
            self.check()?;
            if let Some(buffer) = queue.free.pop() {
                return Ok(buffer);
            }
            if !self.makes_room(&queue) {
                // Memory has run out: what was put off must begin.
                queue.held = false;
                self.work.notify_all();
            }
            queue = self.space.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A free buffer, as long as there are more than a few.
    pub(super) fn try_take_buffer(&self) -> Option<Buffer> {
        let mut queue = self.queue();
        if queue.free.len() > RESERVE { queue.free.pop() } else { None }
    }

    /// Whether pages that are being put away will leave a buffer free.
    fn makes_room(&self, queue: &Queue) -> bool {
        let spool = self.spool.as_ref().is_some_and(|spool| spool.takes_more());
        let pages = || queue.jobs.iter().any(|job| matches!(job, Job::Pages(..)));
        let sifting = queue.sifting > 0 || !queue.unsifted.is_empty();
        queue.held && !queue.coming_back && (sifting || spool && (queue.putting_away > 0 || pages()))
    }

    pub(super) fn release(&self, buffer: Buffer) {
        self.queue().free.push(buffer);
        self.space.notify_one();
    }

    pub(super) fn submit(&self, job: Job) {
        let mut queue = self.queue();
        match job {
            Job::Pages(buffer, runs) if queue.held && self.ahead.is_settled() => {
                queue.unsifted.push_back((buffer, runs));
                self.work.notify_one();
            }
            job => self.enqueue(queue, job),
        }
    }

    /// As [`submit`](Self::submit), for pages of which none is known from before the freeze.
    pub(super) fn submit_sifted(&self, buffer: Buffer, runs: Vec<PageRun>) {
        self.enqueue(self.queue(), Job::Pages(buffer, runs));
    }

    fn enqueue(&self, mut queue: MutexGuard<'_, Queue>, job: Job) {
        queue.jobs.push_back(job);
        if !queue.held {
            self.work.notify_one();
        } else if queue.free.len() < self.few {
            self.spooling.notify_one();
        }
    }

    /// Waits until all work is done, and lets workers rest then.
    pub(super) fn hold(&self) -> Result<(), DraftError> {
        let mut queue = self.queue();
        while !queue.jobs.is_empty() || queue.working > 0 {
            self.check()?;
            queue = self.space.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.held = true;
        self.check()
    }

    /// Lets the workers go on.
    pub(super) fn resume_work(&self) {
        self.queue().held = false;
        self.work.notify_all();
    }

    /// Lets the workers go on, and brings back what was put away.
    pub(super) fn resume(&self) {
        let mut queue = self.queue();
        queue.held = false;
        queue.coming_back = true;
        self.work.notify_all();
        self.spooling.notify_all();
    }

    /// Lets workers end when they have done all there is.
    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.work.notify_all();
    }

    /// The next thing to do for a worker, who may have a `rest` of pages that were sifted.
    pub(super) fn next_task(&self, rest: bool) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if let Some((buffer, runs)) = queue.unsifted.pop_front() {
                queue.sifting += 1;
                return Some(Task::Sift(buffer, runs));
            }
            if !queue.held || queue.closed {
                if rest {
                    return Some(Task::Rest);
                }
                match queue.jobs.pop_front() {
                    Some(job) => {
                        queue.working += 1;
                        return Some(Task::Job(job));
                    }
                    None if queue.closed => return None,
                    None => {}
                }
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A worker has sifted pages.
    pub(super) fn sifted(&self) {
        self.queue().sifting -= 1;
        self.space.notify_all();
    }

    /// A worker has done a job.
    pub(super) fn done(&self) {
        self.queue().working -= 1;
        self.space.notify_all();
    }

    /// The next thing to do for a spooler. None once everything that was put away came back.
    pub(super) fn next_spooling(&self, spool: &Spool) -> Option<Spooling> {
        let mut queue = self.queue();
        loop {
            if self.has_failed() {
                return None;
            }
            if queue.coming_back {
                // Whoever still puts something away finds it here when done.
                match spool.next_back() {
                    Some(load) => return Some(Spooling::Back(load)),
                    None if queue.putting_away == 0 => return None,
                    None => {}
                }
            } else if let Some((buffer, runs)) = self.too_much(&mut queue) {
                queue.putting_away += 1;
                return Some(Spooling::Away(buffer, runs));
            }
            queue = self.spooling.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Pages that must make room, if any.
    fn too_much(&self, queue: &mut Queue) -> Option<(Buffer, Vec<PageRun>)> {
        let takes_more = self.spool.as_ref().is_some_and(|spool| spool.takes_more());
        let must = takes_more && queue.held && !queue.coming_back && queue.free.len() < self.few;
        if must { queue.take_pages() } else { None }
    }

    /// More pages that must make room, for a spooler that has some already.
    pub(super) fn more_to_put_away(&self) -> Option<(Buffer, Vec<PageRun>)> {
        self.too_much(&mut self.queue())
    }

    /// A spooler has put pages away.
    pub(super) fn put_away(&self) {
        self.queue().putting_away -= 1;
        self.space.notify_all();
        self.spooling.notify_all();
    }

    /// Lets a buffer of sealed bytes be used again.
    pub(super) fn recycle(&self, bytes: Vec<u8>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    /// A buffer for sealed bytes, used before if there is one.
    pub(super) fn spare(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Adds to what is known of where pages are.
    pub(super) fn add_found(&self, found: &mut Vec<FoundExtent>) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).append(found);
    }

    /// Where all pages are, once.
    pub(super) fn take_found(&self) -> Vec<FoundExtent> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the store has the block where it stays.
    pub(super) fn has(&self, block: BlockId) -> bool {
        let index = self.repository.index();
        index.contains(block)
            && index.places(block).iter().any(|place| !self.knowledge.condemned.contains(&place.pack))
    }
}

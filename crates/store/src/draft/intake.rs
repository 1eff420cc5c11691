//! Fills buffers with pages, from one thread or from several.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::DraftError;
use super::pipeline::{Buffer, Job, PageRun};
use super::queue::Shared;
use crate::block::{BLOCK_PAGES, BLOCK_SIZE};
use crate::manifest::{MemoryId, PAGE_SIZE};

/// Pages that one thread takes in at a time.
const STRETCH: u64 = BLOCK_PAGES as u64;

/// Pages of a memory object that follow each other, and can be read by several threads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Whose memory.
    pub memory: MemoryId,
    /// The first address.
    pub vaddr: u64,
    /// How many pages.
    pub pages: u64,
    /// What CRIU knows about them.
    pub flags: u32,
}

/// Reads pages: the number of their range, the first address, and room for whole pages.
pub type ReadPages<'a> = dyn Fn(usize, u64, &mut [u8]) -> io::Result<()> + Sync + 'a;

/// Reads pages for one thread: the first address, and room for them.
pub(super) type Source<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), DraftError> + 'a;

/// Where pages belong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Number of the memory object within the draft.
    pub(super) memory: u32,
    /// Its table in the predecessor.
    pub(super) earlier: Option<usize>,
    pub(super) flags: u32,
}

/// A buffer that is being filled with pages.
struct Filling {
    buffer: Buffer,
    used: usize,
    runs: Vec<PageRun>,
    /// Whether they were taken in ahead.
    ahead: bool,
}

/// Fills buffers and hands them over. One for each thread.
pub(super) struct Intake {
    shared: Arc<Shared>,
    filling: Option<Filling>,
}

impl Intake {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, filling: None }
    }

    /// Takes pages in; `read` is given the address and the room for some of them at a time.
    pub(super) fn fill(
        &mut self,
        place: Place,
        mut vaddr: u64,
        pages: u64,
        ahead: bool,
        read: &mut Source<'_>,
    ) -> Result<(), DraftError> {
        if self.filling.as_ref().is_some_and(|filling| filling.ahead != ahead) {
            self.submit();
        }
        let mut left = pages;
        while left > 0 {
            let filling = match &mut self.filling {
                Some(filling) => filling,
                none => {
                    let buffer = self.shared.take_buffer()?;
                    none.insert(Filling { buffer, used: 0, runs: Vec::new(), ahead })
                }
            };
            let some = left.min(((BLOCK_SIZE - filling.used) / PAGE_SIZE) as u64);
            let len = some as usize * PAGE_SIZE;
            read(vaddr, &mut filling.buffer[filling.used..filling.used + len])?;
            let Place { memory, earlier, flags } = place;
            filling.runs.push(PageRun { memory, earlier, vaddr, pages: some as u32, flags });
            filling.used += len;
            if filling.used == BLOCK_SIZE {
                self.submit();
            }
            vaddr += len as u64;
            left -= some;
        }
        self.shared.check()
    }

    /// Hands over what is not a full buffer yet.
    pub(super) fn submit(&mut self) {
        if let Some(Filling { buffer, runs, ahead, .. }) = self.filling.take() {
            self.shared.submit(if ahead { Job::Ahead(buffer, runs) } else { Job::Pages(buffer, runs) });
        }
    }
}

/// Takes pages in with so many threads. `ranges` are pages, with the place they belong to.
pub(super) fn fill_at_once(
    shared: &Arc<Shared>,
    ranges: &[(PageRange, Place)],
    read: &ReadPages<'_>,
    threads: usize,
) -> Result<(), DraftError> {
    let stretches = stretches(ranges);
    let next = AtomicUsize::new(0);
    let fill = || {
        let mut intake = Intake::new(Arc::clone(shared));
        while let Some(Stretch { range, vaddr, pages }) = stretches.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let (PageRange { memory, .. }, place) = ranges[*range];
            let mut read = |vaddr, room: &mut [u8]| {
                read(*range, vaddr, room)
                    .map_err(|source| DraftError::Source { what: format!("pages of the {memory}"), source })
            };
            if let Err(error) = intake.fill(place, *vaddr, *pages, false, &mut read) {
                next.store(stretches.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        intake.submit();
        Ok(())
    };
    thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads.min(stretches.len()) {
            // With fewer threads it takes longer, and no more.
            others.extend(thread::Builder::new().name("store-intake".to_owned()).spawn_scoped(scope, fill));
        }
        others
            .into_iter()
            .fold(fill(), |result, other| result.and(other.join().unwrap_or(Err(DraftError::Broken))))
    })
}

/// Pages of which is not known yet whether they belong to the generation.
#[derive(Default)]
pub(super) struct Trial {
    buffers: Vec<(Buffer, Vec<(PageRange, Place)>)>,
}

impl Trial {
    /// Reads pages until all are there, `stop` is set, or buffers run short. Those that cannot be read are left out.
    pub(super) fn fill(
        &mut self,
        shared: &Shared,
        ranges: &[(PageRange, Place)],
        read: &ReadPages<'_>,
        stop: &AtomicBool,
    ) {
        let mut parts = stretches(ranges).into_iter().peekable();
        while parts.peek().is_some() && !stop.load(Ordering::Relaxed) {
            let Some(mut buffer) = shared.try_take_buffer() else { return };
            let (mut used, mut taken) = (0, Vec::new());
            while let Some(part) = parts.next_if(|part| used + part.pages as usize * PAGE_SIZE <= BLOCK_SIZE)
            {
                let (range, place) = ranges[part.range];
                let len = part.pages as usize * PAGE_SIZE;
                if read(part.range, part.vaddr, &mut buffer[used..used + len]).is_ok() {
                    taken.push((PageRange { vaddr: part.vaddr, pages: part.pages, ..range }, place));
                    used += len;
                }
            }
            self.buffers.push((buffer, taken));
        }
    }

    /// Hands over the buffers whose pages all belong, and returns those pages. The others are forgotten.
    pub(super) fn settle(self, shared: &Shared, belongs: &dyn Fn(&PageRange) -> bool) -> Vec<PageRange> {
        let mut kept = Vec::new();
        for (buffer, taken) in self.buffers {
            if taken.is_empty() || !taken.iter().all(|(range, _)| belongs(range)) {
                shared.release(buffer);
                continue;
            }
            let run = |(range, place): &(PageRange, Place)| {
                let (PageRange { vaddr, pages, .. }, Place { memory, earlier, flags }) = (*range, *place);
                PageRun { memory, earlier, vaddr, pages: pages as u32, flags }
            };
            shared.submit(Job::Pages(buffer, taken.iter().map(run).collect()));
            kept.extend(taken.iter().map(|(range, _)| *range));
        }
        kept
    }
}

/// A part of a range.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    range: usize,
    vaddr: u64,
    pages: u64,
}

/// Ranges in parts that threads can share.
fn stretches(ranges: &[(PageRange, Place)]) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    for (range, (PageRange { vaddr, pages, .. }, _)) in ranges.iter().enumerate() {
        let starts = (0..*pages).step_by(STRETCH as usize);
        stretches.extend(starts.map(|at| Stretch {
            range,
            vaddr: vaddr + at * PAGE_SIZE as u64,
            pages: STRETCH.min(pages - at),
        }));
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_parts_for_threads_and_nothing_is_lost() {
        let place = Place { memory: 0, earlier: None, flags: 0 };
        let range =
            |vaddr, pages| (PageRange { memory: MemoryId::process(1), vaddr, pages, flags: 0 }, place);
        let parts = stretches(&[range(0x1000, 1), range(0x10_0000, 2 * STRETCH + 3), range(0x9000_0000, 0)]);
        let step = STRETCH * PAGE_SIZE as u64;
        assert_eq!(
            parts,
            [
                Stretch { range: 0, vaddr: 0x1000, pages: 1 },
                Stretch { range: 1, vaddr: 0x10_0000, pages: STRETCH },
                Stretch { range: 1, vaddr: 0x10_0000 + step, pages: STRETCH },
                Stretch { range: 1, vaddr: 0x10_0000 + 2 * step, pages: 3 },
            ]
        );
    }
}

//! Laying memory out as one file of pages: each block is read once, wherever its pages go.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::ReadError;
use crate::block::Opener;
use crate::id::BlockId;
use crate::index::Place;
use crate::manifest::{Extent, MemoryId, PAGE_SIZE, Source};
use crate::pack::pack_key;
use crate::repository::{PlainBlock, Repository};

/// Most bytes of neighbouring blocks that are read at once.
const READ_AT_ONCE: u64 = 2 << 20;
/// Bytes between two blocks that are read with them rather than skipped.
const WORTHWHILE_GAP: u64 = 32 << 10;

/// Pages of a block and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    first: u32,
    pages: u32,
    offset: u64,
}

/// A block, where it lies, and where its pages go.
#[derive(Debug)]
struct Task {
    block: BlockId,
    place: Place,
    targets: Vec<Target>,
}

/// A range of the output, in bytes.
type Range = (u64, u64);

/// Decides where everything goes: each block's pages, and the ranges of zeros.
fn plan(extents: &[Extent], mut offset: u64) -> (HashMap<BlockId, Vec<Target>>, Vec<Range>, u64) {
    let mut targets: HashMap<BlockId, Vec<Target>> = HashMap::new();
    let mut zeros: Vec<Range> = Vec::new();
    for extent in extents.iter().filter(|extent| extent.has_data()) {
        let end = offset + extent.pages * PAGE_SIZE as u64;
        match extent.source {
            Source::Block { block, first } => {
                targets.entry(block).or_default().push(Target { first, pages: extent.pages as u32, offset });
            }
            Source::Zero | Source::NoData => zeros.push((offset, end)),
        }
        offset = end;
    }
    (targets, zeros, offset)
}

/// Puts tasks that lie side by side in a pack into one group.
fn grouped(mut tasks: Vec<Task>) -> Vec<Vec<Task>> {
    tasks.sort_by_key(|task| (task.place.pack, task.place.offset));
    let mut groups: Vec<Vec<Task>> = Vec::new();
    for task in tasks {
        let end = task.place.offset + u64::from(task.place.stored);
        match groups.last_mut() {
            Some(group)
                if group.first().zip(group.last()).is_some_and(|(first, last)| {
                    first.place.pack == task.place.pack
                        && end - first.place.offset <= READ_AT_ONCE
                        && task.place.offset
                            <= last.place.offset + u64::from(last.place.stored) + WORTHWHILE_GAP
                }) =>
            {
                group.push(task);
            }
            _ => groups.push(vec![task]),
        }
    }
    groups
}

struct Output<'a> {
    file: &'a File,
    memory: MemoryId,
}

impl Output<'_> {
    fn failed(&self, source: std::io::Error) -> ReadError {
        ReadError::Output { what: format!("the pages of {}", self.memory), source }
    }

    fn write(&self, task: &Task, plain: &PlainBlock) -> Result<(), ReadError> {
        for target in &task.targets {
            let bytes = plain.pieces(task.block, target.first, target.pages)?;
            self.file.write_all_at(bytes, target.offset).map_err(|source| self.failed(source))?;
        }
        Ok(())
    }
}

/// Reads a group with one request and writes its pages. Blocks that do not open there are read on their own, from
/// wherever they lie whole.
fn lay_out_group(
    repository: &Repository,
    group: &[Task],
    output: &Output<'_>,
    opener: &mut Opener,
    sealed: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let Some((first, last)) = group.first().zip(group.last()) else { return Ok(()) };
    let start = first.place.offset;
    let length = last.place.offset + u64::from(last.place.stored) - start;
    sealed.resize(length as usize, 0);
    let read = repository.backend().read_at(&pack_key(first.place.pack), start, sealed);
    let mut plain = PlainBlock { plain: Vec::new(), cut: first.place.cut.clone() };
    for task in group {
        let at = (task.place.offset - start) as usize;
        let bytes = &mut sealed[at..at + task.place.stored as usize];
        let sealer = &repository.inner.sealer;
        let place = &task.place;
        let opened = read.is_ok()
            && opener.open(sealer, task.block, &place.cut, place.codec, bytes, &mut plain.plain).is_ok();
        if opened {
            plain.cut.clone_from(&place.cut);
            output.write(task, &plain)?;
        } else {
            output.write(task, &*repository.read_block(task.block)?)?;
        }
    }
    Ok(())
}

/// Writes all pages with data, densely and by address, from `offset` on.
pub(super) fn lay_out(
    repository: &Repository,
    memory: MemoryId,
    extents: &[Extent],
    file: &File,
    offset: u64,
) -> Result<(), ReadError> {
    let output = Output { file, memory };
    let (targets, zeros, end) = plan(extents, offset);
    let size = file.metadata().map_err(|source| output.failed(source))?.len();
    if size < end {
        file.set_len(end).map_err(|source| output.failed(source))?;
    }
    for (start, stop) in zeros {
        // Beyond the old end the file is zeros already.
        for at in (start..stop.min(size)).step_by(PAGE_SIZE) {
            file.write_all_at(&[0; PAGE_SIZE], at).map_err(|source| output.failed(source))?;
        }
    }
    let mut tasks = Vec::with_capacity(targets.len());
    for (block, targets) in targets {
        let place = repository.locate(block)?.into_iter().next().ok_or_else(|| repository.lost(block))?;
        tasks.push(Task { block, place, targets });
    }
    let groups = grouped(tasks);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(groups.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure: Mutex<Option<ReadError>> = Mutex::new(None);
    let work = || -> Result<(), ReadError> {
        let mut opener = Opener::new().map_err(|source| output.failed(source))?;
        let mut sealed = Vec::new();
        while !failed.load(Ordering::Relaxed)
            && let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed))
        {
            lay_out_group(repository, group, &output, &mut opener, &mut sealed)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = work() {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

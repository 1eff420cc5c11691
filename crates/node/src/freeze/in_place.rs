//! Memory that CRIU leaves in place, read by several of our threads while the program stands still.
//!
//! CRIU can leave pages where they are, for a restore that fetches them on demand (`--lazy-pages`). It then writes its
//! images, and before it lets the program go it serves pages to whoever asks, on a socket, until that is shut down. We
//! ask for none: what CRIU has noted we read from the program ourselves (`process_vm_readv`), with as many threads as
//! there are CPUs, and without a pipe and a socket on the way. The order of the steps is CRIU's (`criu/cr-dump.c`,
//! `cr_dump_finish`): images, our `post-dump`, the socket, the thaw.
//!
//! One thread begins as soon as all stands still, while CRIU is still at work: see [`trial`].

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use torpor_criu::image::pagemap::{self, PageFlags, PagemapReader};
use torpor_criu::image::{Kind, Limits, Name};
use torpor_store::{Draft, MemoryId, PageRange};

use super::FreezeError;
use crate::order::Order;
use crate::process_tree;
use crate::sys::memory;

mod ground;
mod trial;

pub(crate) use ground::{Ground, Memory, of_pipes};
use trial::Ranges;
pub(crate) use trial::try_early;

const PAGE: u64 = 4096;
/// More threads than this only wait for memory.
const MOST_THREADS: usize = 8;

/// Whether a file among CRIU's images is about memory. What is in it belongs into the draft's own tables.
pub(crate) fn is_memory(name: &str) -> bool {
    let kind = Name::parse(name).map(|name| name.kind);
    matches!(kind, Some(Kind::Pagemap | Kind::SharedPagemap | Kind::Pages))
}

/// Where pages are to be read.
enum Source {
    /// In an image that CRIU wrote, from this byte on.
    Image { file: usize, offset: u64 },
    /// In a process.
    Process(usize),
}

/// A process that stands still.
struct Process {
    pid: i32,
    memory: File,
}

impl Process {
    fn read(&self, mut vaddr: u64, mut room: &mut [u8]) -> io::Result<()> {
        while !room.is_empty() {
            let got = match memory::read(self.pid, vaddr, room) {
                Ok(got @ 1..) => got,
                // What the program itself may not read.
                Ok(0) | Err(_) => {
                    let page = room.len().min(PAGE as usize);
                    self.memory.read_exact_at(&mut room[..page], vaddr)?;
                    page
                }
            };
            vaddr += got as u64;
            room = &mut room[got..];
        }
        Ok(())
    }
}

/// What is to be read, and where.
#[derive(Default)]
struct Pages {
    ranges: Vec<PageRange>,
    sources: Vec<Source>,
    files: Vec<File>,
    processes: Vec<Process>,
    /// What CRIU left, by whose memory it is: the process, and its pages.
    left: BTreeMap<MemoryId, (usize, Ranges)>,
}

/// What is known about pages that were left, once we have them.
const FLAGS: PageFlags = PageFlags(PageFlags::LAZY.0 | PageFlags::PRESENT.0);

/// Takes all memory into the draft, as CRIU has noted it in `images`.
pub(crate) fn take(images: &Path, root: i32, order: &Order, draft: &mut Draft) -> Result<(), FreezeError> {
    let began = Instant::now();
    let mut pages = Pages::default();
    let pids: HashMap<u64, i32> = process_tree::of(root)
        .into_iter()
        .filter_map(|pid| Some((process_tree::pid_as_seen_by(pid, root)?.unsigned_abs().into(), pid)))
        .collect();
    let entries = fs::read_dir(images).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    for entry in entries.map_err(FreezeError::place(images))? {
        let name = entry.file_name();
        let Some(Name { kind, id: Some(id) }) = name.to_str().and_then(Name::parse) else { continue };
        match kind {
            Kind::Pagemap => {
                pages.note(images, &entry.path(), MemoryId::process(id), pids.get(&id), draft)?
            }
            Kind::SharedPagemap => pages.note(images, &entry.path(), MemoryId::shared(id), None, draft)?,
            _ => {}
        }
    }
    let early = pages.settle_trial(draft);
    let read = |number: usize, vaddr: u64, room: &mut [u8]| {
        order.check().map_err(io::Error::other)?;
        match &pages.sources[number] {
            Source::Image { file, offset } => {
                let offset = offset + (vaddr - pages.ranges[number].vaddr);
                pages.files[*file].read_exact_at(room, offset)
            }
            Source::Process(process) => pages.processes[*process].read(vaddr, room),
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    draft.pages_at_once(&pages.ranges, &read, threads)?;
    tracing::debug!(early, elapsed = ?began.elapsed(), "memory read in place");
    Ok(())
}

impl Pages {
    /// Notes what a pagemap has; `pid` is the process whose memory it is.
    fn note(
        &mut self,
        images: &Path,
        path: &Path,
        memory: MemoryId,
        pid: Option<&i32>,
        draft: &mut Draft,
    ) -> Result<(), FreezeError> {
        let invalid = |source| FreezeError::Pagemap { path: path.to_owned(), source };
        let failed = FreezeError::place(images);
        let file = File::open(path).map_err(&failed)?;
        let reader = PagemapReader::new(BufReader::new(file), Limits::default()).map_err(invalid)?;
        let image = images.join(Kind::Pages.file_name(reader.pages_id().into()));
        self.files.push(File::open(image).map_err(&failed)?);
        let mut left = Ranges::default();
        for range in reader {
            let pagemap::PageRange { vaddr, pages, flags, first } = range.map_err(invalid)?;
            if flags.contains(PageFlags::PRESENT) {
                self.ranges.push(PageRange { memory, vaddr, pages, flags: flags.0 });
                self.sources.push(Source::Image { file: self.files.len() - 1, offset: first * PAGE });
            } else if flags == PageFlags::LAZY {
                left.push(vaddr, vaddr + pages * PAGE);
            } else {
                draft.pages_without_data(memory, vaddr, flags.0, pages)?;
            }
        }
        if !left.is_empty() {
            let pid = *pid.ok_or_else(|| FreezeError::NoProcess(path.to_owned()))?;
            self.processes
                .push(Process { pid, memory: File::open(format!("/proc/{pid}/mem")).map_err(&failed)? });
            self.left.insert(memory, (self.processes.len() - 1, left));
        }
        Ok(())
    }

    /// Takes over what was read on trial, and notes what is left to read. Returns how many pages were taken over.
    fn settle_trial(&mut self, draft: &mut Draft) -> u64 {
        let mut early = 0;
        let end = |range: &PageRange| range.vaddr + range.pages * PAGE;
        let kept = draft.settle_trial(&|range| {
            let left = self.left.get(&range.memory);
            range.flags == FLAGS.0 && left.is_some_and(|(_, left)| left.contains(range.vaddr, end(range)))
        });
        for range in kept {
            early += range.pages;
            if let Some((_, left)) = self.left.get_mut(&range.memory) {
                left.remove(range.vaddr, end(&range));
            }
        }
        for (memory, (process, left)) in &self.left {
            for (start, end) in left.iter() {
                let pages = (end - start) / PAGE;
                self.ranges.push(PageRange { memory: *memory, vaddr: start, pages, flags: FLAGS.0 });
                self.sources.push(Source::Process(*process));
            }
        }
        early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_memory_are_told_by_their_names() {
        let names =
            ["pagemap-7.img", "pagemap-shmem-9.img", "pages-1.img", "core-7.img", "mm-7.img", "dump.log"];
        assert_eq!(names.map(is_memory), [true, true, true, false, false, false]);
    }
}

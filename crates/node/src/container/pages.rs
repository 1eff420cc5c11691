//! Memory from the page server into a directory of images.
//!
//! While the container is frozen, pages are copied into memory that was taken and touched before; they are written to
//! files afterwards. What does not fit is written meanwhile.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_criu::page_server::{PageSink, PagemapId, PagemapKind};
use torpor_store::direct::{Aligned, Writes};

use crate::freeze::Standstill;
use crate::order::Order;

/// How much is passed on at once, in bytes.
const CHUNK: usize = 4 << 20;
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = PAGE as usize;

/// A part of a pages image: the image's number, and the bytes.
struct Chunk {
    number: u32,
    room: Aligned,
    filled: usize,
}

/// What is known of one pagemap.
#[derive(Debug)]
struct Pagemap {
    id: PagemapId,
    ranges: Vec<(u64, u64, PageFlags)>,
}

/// A sink that becomes `pages-N.img` and pagemaps.
pub(super) struct PagesIntoDirectory<'a> {
    directory: PathBuf,
    order: &'a Order,
    standstill: &'a Standstill<'a>,
    pagemaps: Vec<Pagemap>,
    current: Option<Chunk>,
    /// Full, and not yet given to the writer.
    waiting: Vec<Chunk>,
    /// Whether the writer is given chunks as they come.
    streaming: bool,
    free: Vec<Aligned>,
    writer: Writer,
}

/// The thread that writes.
struct Writer {
    chunks: Sender<Chunk>,
    written: Receiver<Aligned>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl<'a> PagesIntoDirectory<'a> {
    /// Takes memory for `limit` bytes at most, no more than there is to copy. With `at_once`, writing begins with the
    /// first chunk: the container ends, so only the end of it all counts.
    pub(super) fn new(
        directory: &Path,
        order: &'a Order,
        standstill: &'a Standstill<'a>,
        limit: u64,
        at_once: bool,
    ) -> io::Result<Self> {
        let count = usize::try_from(limit).unwrap_or(usize::MAX).div_ceil(CHUNK).max(4);
        Ok(PagesIntoDirectory {
            directory: directory.to_owned(),
            order,
            standstill,
            pagemaps: Vec::new(),
            current: None,
            waiting: Vec::new(),
            streaming: at_once,
            free: (0..count).map(|_| touched()).collect(),
            writer: Writer::start(directory)?,
        })
    }

    /// Writes what is left, and makes all of it last.
    pub(super) fn finish(mut self, generation: Generation) -> io::Result<()> {
        self.pass_on();
        for chunk in std::mem::take(&mut self.waiting) {
            if self.writer.give(chunk).is_err() {
                return self.writer.finish();
            }
        }
        for (number, pagemap) in (1u32..).zip(&self.pagemaps) {
            let name = match pagemap.id.kind {
                PagemapKind::Process => format!("pagemap-{}.img", pagemap.id.id),
                PagemapKind::Shared => format!("pagemap-shmem-{}.img", pagemap.id.id),
            };
            // CRIU opens the image even where nothing is in it.
            File::options().append(true).create(true).open(pages_image(&self.directory, number))?;
            let file = File::create_new(self.directory.join(name))?;
            let mut writer = PagemapWriter::new(BufWriter::new(file), number, generation, PAGE)?;
            for (vaddr, pages, flags) in &pagemap.ranges {
                writer.range(*vaddr, *pages, *flags)?;
            }
            writer.into_inner().flush()?;
        }
        self.writer.finish()
    }

    fn note(&mut self, id: PagemapId, vaddr: u64, pages: u64, flags: PageFlags) -> io::Result<u32> {
        let place =
            self.pagemaps.iter().rposition(|pagemap| pagemap.id == id).ok_or(io::ErrorKind::InvalidData)?;
        self.pagemaps[place].ranges.push((vaddr, pages, flags));
        u32::try_from(place + 1).map_err(io::Error::other)
    }

    /// A chunk with room for the image.
    fn chunk(&mut self, number: u32) -> io::Result<&mut Chunk> {
        if self.current.as_ref().is_some_and(|chunk| chunk.number != number || chunk.filled == CHUNK) {
            self.pass_on();
        }
        if self.current.is_none() {
            let room = match self.free.pop() {
                Some(room) => room,
                None => {
                    self.streaming = true;
                    for chunk in std::mem::take(&mut self.waiting) {
                        self.writer.give(chunk)?;
                    }
                    self.writer.take()?
                }
            };
            self.current = Some(Chunk { number, room, filled: 0 });
        }
        self.current.as_mut().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn pass_on(&mut self) {
        let Some(chunk) = self.current.take() else { return };
        if self.streaming {
            // A writer that has failed says so when it is asked for its memory, or at the end.
            let _ = self.writer.give(chunk);
        } else {
            self.waiting.push(chunk);
        }
    }
}

impl PageSink for PagesIntoDirectory<'_> {
    fn open(&mut self, id: PagemapId) -> io::Result<bool> {
        // CRIU begins to send memory only when all processes of its tree stand still.
        self.standstill.reached()?;
        self.pagemaps.push(Pagemap { id, ranges: Vec::new() });
        Ok(false)
    }

    fn has_parent(&mut self, _: PagemapId) -> io::Result<bool> {
        Ok(false)
    }

    fn pages(
        &mut self,
        id: PagemapId,
        vaddr: u64,
        flags: PageFlags,
        pages: u64,
        body: &mut dyn Read,
    ) -> io::Result<()> {
        self.order.check().map_err(io::Error::other)?;
        let number = self.note(id, vaddr, pages, flags)?;
        let mut left = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(PAGE_BYTES));
        while let Some(some) = left.filter(|left| *left > 0) {
            let chunk = self.chunk(number)?;
            let some = some.min(CHUNK - chunk.filled);
            body.read_exact(&mut chunk.room[chunk.filled..chunk.filled + some])?;
            chunk.filled += some;
            left = left.map(|left| left - some);
        }
        Ok(())
    }

    fn hole(&mut self, id: PagemapId, vaddr: u64, flags: PageFlags, pages: u64) -> io::Result<()> {
        self.note(id, vaddr, pages, flags).map(drop)
    }

    fn close(&mut self) -> io::Result<()> {
        self.order.check().map_err(io::Error::other)
    }
}

impl Writer {
    fn start(directory: &Path) -> io::Result<Writer> {
        let (chunks, to_write) = mpsc::channel::<Chunk>();
        let (give_back, written) = mpsc::channel();
        let directory = directory.to_owned();
        let thread = std::thread::Builder::new().name("pages".into()).spawn(move || {
            let mut open: Option<(u32, PagesFile)> = None;
            for Chunk { number, room, filled } in to_write {
                let file = match &mut open {
                    Some((of, file)) if *of == number => file,
                    _ => {
                        if let Some((_, file)) = open.take() {
                            file.finish()?;
                        }
                        &mut open.insert((number, PagesFile::open(&pages_image(&directory, number))?)).1
                    }
                };
                file.write(&room[..filled])?;
                // Nobody wants it back at the end.
                let _ = give_back.send(room);
            }
            open.map_or(Ok(()), |(_, file)| file.finish())
        })?;
        Ok(Writer { chunks, written, thread: Some(thread) })
    }

    fn give(&self, chunk: Chunk) -> io::Result<()> {
        self.chunks.send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Memory that was written. Waits for it.
    fn take(&mut self) -> io::Result<Aligned> {
        match self.written.recv() {
            Ok(room) => Ok(room),
            Err(_) => Err(self.end().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        drop(std::mem::replace(&mut self.chunks, mpsc::channel().0));
        self.end()
    }

    /// How the thread ended. It does once no more chunks come, or at its first failure.
    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| io::Error::other("the thread that writes pages has panicked"))?
    }
}

fn pages_image(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("pages-{number}.img"))
}

/// Memory that is really there: the first write to each page would cost time under the freeze.
fn touched() -> Aligned {
    let mut room = Aligned::zeroed(CHUNK);
    room.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
    room
}

/// A pages image that is written at its end.
struct PagesFile {
    file: File,
    end: u64,
    writes: Writes,
}

impl PagesFile {
    fn open(path: &Path) -> io::Result<PagesFile> {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        let end = file.metadata()?.len();
        Ok(PagesFile { file, end, writes: Writes::default() })
    }

    fn write(&mut self, pages: &[u8]) -> io::Result<()> {
        self.writes.write(&self.file, pages, self.end)?;
        self.end += pages.len() as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::Limits;
    use torpor_criu::image::pagemap::PagemapReader;

    use super::*;
    use crate::triggers::Kind;

    fn process(id: u64) -> PagemapId {
        PagemapId { kind: PagemapKind::Process, id }
    }

    fn pages(count: u64, byte: u8) -> Vec<u8> {
        vec![byte; (count * PAGE) as usize]
    }

    #[test]
    fn pages_become_images_whether_they_fit_into_memory_or_not() {
        for (limit, at_once) in [(64 << 20, false), (0, false), (0, true)] {
            let directory = tempfile::tempdir().unwrap();
            let (order, standstill) = (Order::new(Kind::Running, None), Standstill::alone());
            let mut sink =
                PagesIntoDirectory::new(directory.path(), &order, &standstill, limit, at_once).unwrap();
            let shared = PagemapId { kind: PagemapKind::Shared, id: 9 };
            sink.open(process(1)).unwrap();
            let large = 6 * CHUNK as u64 / PAGE + 1;
            sink.pages(process(1), 0x1000, PageFlags::PRESENT, 2, &mut &pages(2, 1)[..]).unwrap();
            sink.pages(process(1), 0x10_0000, PageFlags::PRESENT, large, &mut &pages(large, 2)[..]).unwrap();
            sink.open(process(2)).unwrap();
            sink.open(shared).unwrap();
            sink.pages(shared, 0, PageFlags::PRESENT, 1, &mut &pages(1, 3)[..]).unwrap();
            sink.close().unwrap();
            sink.finish(Generation::Wide).unwrap();

            let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
            assert_eq!(read("pages-1.img"), [pages(2, 1), pages(large, 2)].concat());
            assert_eq!((read("pages-2.img").len(), read("pages-3.img")), (0, pages(1, 3)));
            for (name, number, present) in
                [("pagemap-1.img", 1, 2 + large), ("pagemap-2.img", 2, 0), ("pagemap-shmem-9.img", 3, 1)]
            {
                let image = read(name);
                let mut reader = PagemapReader::new(&image[..], Limits::default()).unwrap();
                assert_eq!(reader.pages_id(), number);
                assert!(reader.by_ref().all(|range| range.is_ok()));
                assert_eq!(reader.present_pages(), present);
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (order, standstill) = (Order::new(Kind::Running, None), Standstill::alone());
        let mut sink = PagesIntoDirectory::new(directory.path(), &order, &standstill, 0, false).unwrap();
        drop(directory);
        sink.open(process(1)).unwrap();
        sink.pages(process(1), 0, PageFlags::PRESENT, 1, &mut &pages(1, 1)[..]).unwrap();
        assert!(sink.finish(Generation::Wide).is_err());
    }
}

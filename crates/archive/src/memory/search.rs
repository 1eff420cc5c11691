//! Searching the memory of all processes at once.
//!
//! One thread reads, another looks. Every page is read once: shared memory is searched by itself, and its matches are reported for
//! each process that has it mapped. What can only be read in order is searched while it passes: see [`Passing`].

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use torpor_criu::image::Kind;

use super::pattern::Pattern;
use super::scanner::{Hit, Scanner};
use super::stream::{Batch, PagesStream, SpaceStream, Stream, fill};
use super::usage::Filter;
use super::{
    AddressSpace, AddressSpaces, Content, Mapping, MappingKind, MemoryError, Owner, Pages, Protection,
};

/// Memory is read in pieces of this size.
const BATCH: usize = 1 << 20;

/// What is to be searched, and what is kept of what is found.
#[derive(Debug)]
pub struct Search {
    /// What is searched for.
    pub patterns: Vec<Pattern>,
    /// The process to search; all where it is none.
    pub pid: Option<u32>,
    /// The mappings to search.
    pub filter: Filter,
    /// Bytes that are kept before and after each match.
    pub context: usize,
    /// Most matches that are kept. More are counted only.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Matches in the order of processes and addresses; those in memory that no process has mapped stand at the end.
    pub matches: Vec<Match>,
    /// Matches of each pattern, kept or not. In shared memory each counts once.
    pub counts: Vec<u64>,
    /// Bytes that were searched.
    pub searched: u64,
    /// What could not be read. The rest was searched.
    pub problems: Vec<MemoryError>,
}

/// A match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The pattern, by its place.
    pub pattern: usize,
    /// The process; none for shared memory that no process has mapped.
    pub pid: Option<u32>,
    /// The first address; in shared memory that no process has mapped, the offset in it.
    pub address: u64,
    /// Bytes of the match.
    pub length: usize,
    /// The mapping, with its kind and protection.
    pub mapping: Option<FoundIn>,
    /// The shared memory it is in, by CRIU's id.
    pub shared: Option<u64>,
    /// Bytes before it.
    pub before: Vec<u8>,
    /// Its first 256 bytes.
    pub bytes: Vec<u8>,
    /// Bytes after it.
    pub after: Vec<u8>,
}

/// The mapping in which a match is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundIn {
    /// Its first address.
    pub start: u64,
    /// What it is for.
    pub kind: MappingKind,
    /// What may be done with it.
    pub protection: Protection,
    /// The file behind it, by its id in `files.img`.
    pub file: Option<u32>,
}

impl FoundIn {
    fn new(mapping: &Mapping) -> Self {
        let Mapping { start, kind, protection, file, .. } = *mapping;
        Self { start, kind, protection, file }
    }
}

/// Shared memory as a process has it mapped.
struct Shown {
    pid: u32,
    object: u64,
    mapping: Mapping,
}

impl Search {
    /// Searches a checkpoint.
    ///
    /// # Errors
    /// Where there is no such process. Damage does not end it: see [`Found::problems`].
    pub fn run(&self, spaces: &AddressSpaces<'_>) -> Result<Found, MemoryError> {
        self.run_after(spaces, &mut BTreeMap::new())
    }

    /// Searches what was not searched while it passed.
    pub(super) fn run_after(
        &self,
        spaces: &AddressSpaces<'_>,
        passed: &mut BTreeMap<Owner, Scanned>,
    ) -> Result<Found, MemoryError> {
        let mut found = Found { counts: vec![0; self.patterns.len()], ..Found::default() };
        let pids: Vec<u32> = match self.pid {
            Some(pid) => vec![spaces.process(pid)?.pid],
            None => spaces
                .processes()
                .iter()
                .filter(|process| !process.ended)
                .map(|process| process.pid)
                .collect(),
        };
        let mut shown = Vec::new();
        let targets = self.targets(spaces, pids);
        for target in &targets {
            if let Target::Process(pid) = *target
                && let Err(problem) =
                    self.process(spaces, pid, passed.remove(&Owner::Process(pid)), &mut shown, &mut found)
            {
                found.problems.push(problem);
            }
        }
        for target in targets {
            if let Target::Shared(pages) = target
                && let Err(problem) = self.shared(&pages, passed.remove(&pages.owner()), &shown, &mut found)
            {
                found.problems.push(problem);
            }
        }
        found.matches.sort_by_key(|found| (found.pid.is_none(), found.pid, found.address, found.pattern));
        Ok(found)
    }

    /// What is to be searched. Where a place can only be read forward, it is in the order of its pages images.
    fn targets<'a>(&self, spaces: &AddressSpaces<'a>, pids: Vec<u32>) -> Vec<Target<'a>> {
        let checkpoint = spaces.checkpoint();
        let mut targets: Vec<Target<'a>> = pids.into_iter().map(Target::Process).collect();
        let images = checkpoint.layers().first().into_iter().flat_map(|layer| checkpoint.images(layer));
        for (name, _) in images.filter(|(name, _)| name.kind == Kind::SharedPagemap) {
            // Damaged ones are reported by the processes that have them mapped.
            if let Ok(Some(pages)) =
                Pages::open(checkpoint, Owner::Shared(name.id.unwrap_or(0)), spaces.page_size())
            {
                targets.push(Target::Shared(pages));
            }
        }
        if !checkpoint.source().random_access() {
            let place = |target: &Target<'_>| {
                let own;
                let pages = match target {
                    Target::Shared(pages) => Some(pages),
                    Target::Process(pid) => {
                        own = Pages::open(checkpoint, Owner::Process(*pid), None).ok().flatten();
                        own.as_ref()
                    }
                };
                let image = pages.and_then(|pages| pages.image(0));
                image.and_then(|image| {
                    checkpoint.entries().iter().position(|entry| std::ptr::eq(entry, image))
                })
            };
            targets.sort_by_cached_key(place);
        }
        targets
    }

    /// Searches a process's own pages.
    fn process(
        &self,
        spaces: &AddressSpaces<'_>,
        pid: u32,
        passed: Option<Scanned>,
        shown: &mut Vec<Shown>,
        found: &mut Found,
    ) -> Result<(), MemoryError> {
        let space = spaces.open(pid)?;
        let of_object = |mapping: &&Mapping| mapping.object.is_some() && self.filter.takes(mapping);
        shown.extend(
            space
                .mappings()
                .iter()
                .filter(of_object)
                .filter_map(|mapping| Some(Shown { pid, object: mapping.object?, mapping: mapping.clone() })),
        );
        let own = |content| matches!(content, Content::Stored { owner: Owner::Process(_), .. });
        let takes = |extent: &super::Extent| own(extent.content) && self.filter.takes_extent(&space, extent);
        let stream = SpaceStream::new(&space, space.extents(0, u64::MAX), takes);
        let scanned = passed.unwrap_or_else(|| self.scan(stream, found.matches.len()));
        let (hits, problem) = found.count(scanned, self.limit);
        found.matches.extend(hits.into_iter().map(|hit| of_process(hit, &space)));
        problem.map_or(Ok(()), Err)
    }

    /// Searches shared memory, where a mapping that counts shows it.
    fn shared(
        &self,
        pages: &Pages<'_>,
        passed: Option<Scanned>,
        shown: &[Shown],
        found: &mut Found,
    ) -> Result<(), MemoryError> {
        let Owner::Shared(id) = pages.owner() else { return Ok(()) };
        let everything = self.pid.is_none() && self.filter == Filter::default();
        let shown: Vec<_> = shown.iter().filter(|shown| shown.object == id).collect();
        if shown.is_empty() && !everything {
            return Ok(());
        }
        let scanned = passed.unwrap_or_else(|| self.scan(PagesStream::new(pages), found.matches.len()));
        let (hits, problem) = found.count(scanned, self.limit);
        for hit in hits {
            let before = found.matches.len();
            for Shown { pid, mapping, .. } in &shown {
                let Some(into) = hit.address.checked_sub(mapping.offset) else { continue };
                if into < mapping.length() {
                    let pid = Some(*pid);
                    let mapping_found = Some(FoundIn::new(mapping));
                    found.matches.push(of_hit(
                        hit.clone(),
                        pid,
                        mapping.start + into,
                        mapping_found,
                        Some(id),
                    ));
                }
            }
            if found.matches.len() == before && everything {
                let offset = hit.address;
                found.matches.push(of_hit(hit, None, offset, None, Some(id)));
            }
        }
        problem.map_or(Ok(()), Err)
    }

    /// Reads here, looks in another thread. `kept` matches were kept already.
    pub(super) fn scan(&self, mut stream: impl Stream, kept: usize) -> Scanned {
        let limit = self.limit.saturating_sub(kept);
        let mut searched = 0;
        let mut scanner = Scanner::new(&self.patterns, self.context, limit);
        let room = scanner.room();
        let (filled, to_scan) = sync_channel::<Batch>(1);
        let (emptied, to_fill) = sync_channel::<Batch>(3);
        for _ in 0..2 {
            // There is room for all of them.
            let _ = emptied.send(Batch::new(room, BATCH));
        }
        let looking = &mut scanner;
        let problem = std::thread::scope(|scope| {
            scope.spawn(move || {
                for mut batch in to_scan {
                    looking.batch(&mut batch);
                    let _ = emptied.send(batch);
                }
                looking.finish();
            });
            // Dropped in here, so that the other thread comes to its end.
            let filled = filled;
            while let Ok(mut batch) = to_fill.recv() {
                match fill(&mut stream, &mut batch, room, BATCH) {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(problem) => return Some(problem),
                }
                searched += batch.segments.iter().map(|segment| segment.length as u64).sum::<u64>();
                if filled.send(batch).is_err() {
                    break;
                }
            }
            None
        });
        let Scanner { hits, counts, .. } = scanner;
        Scanned { hits, counts, searched, problem }
    }
}

/// What was found in the pages of one owner.
#[derive(Debug)]
pub(super) struct Scanned {
    hits: Vec<Hit>,
    counts: Vec<u64>,
    searched: u64,
    problem: Option<MemoryError>,
}

impl Scanned {
    /// Matches that were kept.
    pub(super) fn kept(&self) -> usize {
        self.hits.len()
    }
}

impl Found {
    /// Counts what was found in the pages of one owner, and returns what of it is kept.
    fn count(&mut self, scanned: Scanned, limit: usize) -> (Vec<Hit>, Option<MemoryError>) {
        for (count, more) in self.counts.iter_mut().zip(&scanned.counts) {
            *count += more;
        }
        self.searched += scanned.searched;
        let mut hits = scanned.hits;
        hits.truncate(limit.saturating_sub(self.matches.len()));
        (hits, scanned.problem)
    }
}

/// Something that is searched by itself.
enum Target<'a> {
    Process(u32),
    Shared(Pages<'a>),
}

fn of_process(hit: Hit, space: &AddressSpace<'_>) -> Match {
    let mapping = space.mapping_at(hit.address).map(|place| FoundIn::new(&space.mappings()[place]));
    let address = hit.address;
    of_hit(hit, Some(space.pid()), address, mapping, None)
}

fn of_hit(hit: Hit, pid: Option<u32>, address: u64, mapping: Option<FoundIn>, shared: Option<u64>) -> Match {
    let Hit { pattern, length, before, bytes, after, .. } = hit;
    Match { pattern, pid, address, length, mapping, shared, before, bytes, after }
}

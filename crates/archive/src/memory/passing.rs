//! Searching memory while it passes, where it can be read only once and in order: from a pipe, or compressed.
//!
//! The pages of a process come after its pagemap in every archive that engines write (they sort by name), so a page's address is known
//! when it passes. Mappings need not be known: matches are attributed to them at the end.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use torpor_criu::image::pagemap::{PageFlags, PagemapReader};
use torpor_criu::image::{ImageError, Kind, Limits, Name};

use super::search::{Found, Scanned, Search};
use super::stream::{Part, Stream};
use super::usage::Filter;
use super::{AddressSpaces, MemoryError, Owner};
use crate::source::{Body, Entry, EntryKind, Source, SourceError, Tap};

/// A search that looks at pages as they pass, as the tap of a source.
#[derive(Debug)]
pub struct Passing<'s> {
    search: &'s Search,
    passed: BTreeMap<Owner, Scanned>,
}

impl<'s> Passing<'s> {
    /// A search that has seen nothing yet.
    #[must_use]
    pub fn new(search: &'s Search) -> Self {
        Self { search, passed: BTreeMap::new() }
    }

    /// Searches what did not pass, and puts everything together.
    ///
    /// # Errors
    /// As [`Search::run`].
    pub fn finish(mut self, spaces: &AddressSpaces<'_>) -> Result<Found, MemoryError> {
        self.search.run_after(spaces, &mut self.passed)
    }

    /// Whether an owner's pages are searched.
    fn wants(&self, owner: Owner) -> bool {
        // Which pages count is known only once mappings are. So with a filter, pages are searched in a second pass.
        self.search.filter == Filter::default()
            // Which process shows shared memory is not known yet.
            && match owner {
                Owner::Process(pid) => self.search.pid.is_none_or(|wanted| wanted == pid),
                Owner::Shared(_) => true,
            }
    }
}

impl Tap for Passing<'_> {
    fn body(&mut self, seen: &dyn Source, entry: &Entry, body: &mut dyn Read) -> io::Result<()> {
        let file = entry.name.rsplit('/').next().unwrap_or_default();
        let prefix = &entry.name[..entry.name.len() - file.len()];
        // Those of a parent count only where no newer page is: that is not known here.
        let newest = matches!(prefix, "" | "checkpoint/");
        let Some(Name { kind: Kind::Pages, id: Some(id) }) = Name::parse(file).filter(|_| newest) else {
            return Ok(());
        };
        for pagemap in seen.entries() {
            let named = pagemap.name.strip_prefix(prefix).and_then(Name::parse);
            let owner = match named {
                Some(Name { kind: Kind::Pagemap, id: Some(pid) }) => {
                    u32::try_from(pid).ok().map(Owner::Process)
                }
                Some(Name { kind: Kind::SharedPagemap, id: Some(id) }) => Some(Owner::Shared(id)),
                _ => None,
            };
            let Some(owner) = owner.filter(|_| pagemap.kind == EntryKind::File) else { continue };
            if !self.wants(owner) {
                continue;
            }
            // What is wrong with a pagemap is told by the search that follows.
            let Ok(Some(page_size)) = whole(seen, pagemap, entry, id) else { continue };
            let Ok(reader) = open(seen, pagemap) else { continue };
            let stream = PassingPages { reader, owner, page_size, part: None, entry, body, pagemap };
            let kept = self.passed.values().map(Scanned::kept).sum();
            self.passed.insert(owner, self.search.scan(stream, kept));
            break;
        }
        Ok(())
    }
}

type Ranges<'a> = PagemapReader<BufReader<Body<'a>>>;

fn open<'a>(seen: &'a dyn Source, pagemap: &'a Entry) -> Result<Ranges<'a>, ImageError> {
    PagemapReader::new(BufReader::new(Body::new(seen, pagemap)), Limits::default())
}

/// The size of a page, where a pagemap is that of a pages image, and all its pages are in that: none in a parent, none elsewhere.
fn whole(seen: &dyn Source, pagemap: &Entry, pages: &Entry, id: u64) -> Result<Option<u64>, ImageError> {
    let mut reader = open(seen, pagemap)?;
    if u64::from(reader.pages_id()) != id {
        return Ok(None);
    }
    for range in &mut reader {
        if !range?.flags.contains(PageFlags::PRESENT) {
            return Ok(None);
        }
    }
    let size = pages.size.checked_div(reader.present_pages()).unwrap_or(0);
    let fits = size.is_power_of_two() && (4096..=65536).contains(&size);
    Ok((fits && size * reader.present_pages() == pages.size).then_some(size))
}

/// The pages of one owner, as they pass.
struct PassingPages<'a, 'b> {
    reader: Ranges<'a>,
    owner: Owner,
    page_size: u64,
    part: Option<Part>,
    pagemap: &'a Entry,
    entry: &'b Entry,
    body: &'b mut dyn Read,
}

impl Stream for PassingPages<'_, '_> {
    fn next_part(&mut self, limit: u64) -> Result<Option<Part>, MemoryError> {
        loop {
            if let Some(part) = &mut self.part
                && part.length > 0
            {
                return Ok(Some(part.split(limit)));
            }
            let Some(range) = self.reader.next() else { return Ok(None) };
            let image = |source| MemoryError::Image { entry: self.pagemap.name.clone(), source };
            let range = range.map_err(image)?;
            let beyond = || MemoryError::Beyond { entry: self.pagemap.name.clone(), address: range.vaddr };
            let length = range.pages.checked_mul(self.page_size).ok_or_else(beyond)?;
            range.vaddr.checked_add(length).ok_or_else(beyond)?;
            self.part = Some(Part { address: range.vaddr, length, owner: self.owner, layer: 0, offset: 0 });
        }
    }

    fn read(&mut self, _: &Part, into: &mut [u8]) -> Result<(), MemoryError> {
        // Parts come in the order in which their pages lie, and all are read.
        self.body.read_exact(into).map_err(|source| {
            MemoryError::Source(SourceError::Entry {
                place: String::new(),
                entry: self.entry.name.clone(),
                source,
            })
        })
    }
}

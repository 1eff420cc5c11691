//! Which pages of each process are in the checkpoint, and in which mappings they lie.

use serde::Serialize;

use super::super::memory::Mapping;
use super::super::pagemap::{PageFlags, PageRange, PagemapReader};
use super::{ExploreError, FileNames, Images, Kind, Limits, bytes, listed, mappings};

/// Longest chain of parents that is followed.
const GENERATIONS: usize = 128;

/// The pages of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Its PID.
    pub pid: u32,
    /// Its pages, in the order of their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rss: Vec<ResidentRange>,
}

/// Pages that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResidentRange {
    /// First address, in hexadecimal.
    pub phy_addr: String,
    /// How many pages.
    pub phy_pages: u64,
    /// How many of them are not here but in an earlier checkpoint: one number for each step up the chain of parents, the first for
    /// the parent itself. Pages that are in none of them are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<u64>,
    /// The mappings they lie in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmas: Vec<ResidentArea>,
    /// The last file among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// A mapping with pages in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResidentArea {
    /// First address, in hexadecimal; `~` for the mapping in which the range before ended.
    pub addr: String,
    /// How many pages it has, resident or not; absent for `~`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// The file mapped there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// The pages of all processes.
///
/// # Errors
///
/// When an image is missing or damaged.
pub fn resident(images: &dyn Images) -> Result<Vec<Resident>, ExploreError> {
    let names = FileNames::read(images)?;
    let mut all = Vec::new();
    for process in listed(images)? {
        let Some(memory) = mappings::memory(images, &process)? else {
            all.push(Resident { pid: process.pid, rss: Vec::new() });
            continue;
        };
        let name = Kind::Pagemap.file_name(process.pid.into());
        let ranges = ranges(images, &name)?.ok_or(ExploreError::Missing { name: name.clone() })?;
        let mut parents = Parents { images, name, known: Vec::new() };
        let page = memory.page_size().unwrap_or(4096);
        let mut rss = areas(&ranges, &memory.vmas, page, &names);
        for (shown, range) in rss.iter_mut().zip(&ranges) {
            if range.flags.contains(PageFlags::PARENT) && !range.is_present() {
                shown.parents = parents.count(range, page)?;
            }
        }
        all.push(Resident { pid: process.pid, rss });
    }
    Ok(all)
}

/// The ranges of a pagemap; `None` if there is no such image.
fn ranges(images: &dyn Images, name: &str) -> Result<Option<Vec<PageRange>>, ExploreError> {
    let Some(image) = bytes(images, name)? else { return Ok(None) };
    PagemapReader::new(image.as_slice(), Limits::default())
        .and_then(Iterator::collect)
        .map(Some)
        .map_err(|source| ExploreError::Image { name: name.to_owned(), source })
}

/// Holds ranges and mappings, both in the order of their addresses, against each other.
fn areas(ranges: &[PageRange], mappings: &[Mapping], page: u64, names: &FileNames) -> Vec<ResidentRange> {
    let mut at = 0;
    let mut shown = None;
    let mut all = Vec::new();
    for range in ranges {
        let end = range.vaddr.saturating_add(range.pages.saturating_mul(page));
        while mappings.get(at).is_some_and(|mapping| mapping.end <= range.vaddr) {
            at += 1;
        }
        let mut found = ResidentRange {
            phy_addr: format!("{:x}", range.vaddr),
            phy_pages: range.pages,
            parents: Vec::new(),
            vmas: Vec::new(),
            resource: None,
        };
        while let Some(mapping) = mappings.get(at).filter(|mapping| mapping.start < end) {
            let again = shown == Some(at);
            let file = mapping.file_id().filter(|_| !again).map(|id| names.regular(id as u32));
            found.vmas.push(ResidentArea {
                addr: if again { "~".into() } else { format!("{:x}", mapping.start) },
                pages: (!again).then_some(mapping.end.saturating_sub(mapping.start) / page),
                resource: file.clone(),
            });
            found.resource = file.or(found.resource);
            shown = Some(at);
            at += 1;
        }
        // The next range may lie in the last of these mappings, too.
        at = at.saturating_sub(1);
        all.push(found);
    }
    all
}

/// The pagemaps of one process in earlier checkpoints, read as they are needed.
struct Parents<'a> {
    images: &'a dyn Images,
    name: String,
    known: Vec<Option<Vec<PageRange>>>,
}

impl Parents<'_> {
    /// The ranges so many steps up.
    fn generation(&mut self, steps: usize) -> Result<Option<&[PageRange]>, ExploreError> {
        while self.known.len() < steps {
            let name = "parent/".repeat(self.known.len() + 1) + &self.name;
            let ranges = ranges(self.images, &name)?;
            self.known.push(ranges);
        }
        Ok(self.known[steps - 1].as_deref())
    }

    /// How many pages of a range are in each of the earlier checkpoints.
    fn count(&mut self, range: &PageRange, page: u64) -> Result<Vec<u64>, ExploreError> {
        let mut counts = Vec::new();
        let mut wanted = vec![(range.vaddr, range.vaddr.saturating_add(range.pages.saturating_mul(page)))];
        for steps in 1..=GENERATIONS {
            let Some(ranges) = self.generation(steps)? else { break };
            let mut here = 0;
            let mut further = Vec::new();
            for (start, end) in wanted {
                let first =
                    ranges.partition_point(|range| range.vaddr + range.pages.saturating_mul(page) <= start);
                for range in ranges[first..].iter().take_while(|range| range.vaddr < end) {
                    let start = start.max(range.vaddr);
                    let end = end.min(range.vaddr + range.pages.saturating_mul(page));
                    if range.is_present() {
                        here += (end - start) / page;
                    } else if range.flags.contains(PageFlags::PARENT) {
                        further.push((start, end));
                    }
                }
            }
            counts.push(here);
            wanted = further;
            if wanted.is_empty() {
                break;
            }
        }
        while counts.last() == Some(&0) {
            counts.pop();
        }
        Ok(counts)
    }
}

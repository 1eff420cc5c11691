//! Pagemaps and pages.

use std::collections::HashMap;

use torpor_criu::image::pagemap::{PageFlags, PagemapReader};
use torpor_criu::image::{Kind, Limits};

use super::contents::sentence;
use super::{Answer, Fault, Finding};
use crate::source::Entry;
use crate::{Checkpoint, Layer};

/// Page sizes there are, in bytes.
const PAGE_SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// Whether every pages image has as many pages as its pagemaps say.
pub(super) fn matching(checkpoint: &Checkpoint) -> Finding {
    let (topic, question) = ("pages", "does the memory have as many pages as its maps say?");
    let (mut faults, mut total) = (Vec::new(), 0u64);
    for layer in checkpoint.layers() {
        let (present, unreadable) = present_pages(checkpoint, layer);
        faults.extend(unreadable);
        let size_of = |id: u32| checkpoint.image(layer, Kind::Pages, id.into()).map(|entry| entry.size);
        let page = page_size(present.iter().map(|(id, pages)| (size_of(*id), *pages)));
        for (id, pages) in present {
            total = total.saturating_add(pages);
            let expected = pages.checked_mul(page);
            let problem = match size_of(id) {
                Some(size) if Some(size) == expected => continue,
                None if pages == 0 => continue,
                None => format!("it is missing, and should hold {pages} pages"),
                Some(size) => {
                    format!("it has {size} bytes, and its maps tell of {pages} pages of {page} bytes")
                }
            };
            let entry = format!("{}{}", layer.prefix, Kind::Pages.file_name(id.into()));
            faults.push(Fault { entry, offset: None, problem });
        }
    }
    faults.sort_by(|a, b| a.entry.cmp(&b.entry));
    Finding::of_faults(topic, question, format!("{total} pages"), faults)
}

/// How many pages the maps of a layer tell of, by the number of the pages image; and the maps that cannot be read.
fn present_pages(checkpoint: &Checkpoint, layer: &Layer) -> (HashMap<u32, u64>, Vec<Fault>) {
    let (mut present, mut faults) = (HashMap::<u32, u64>::new(), Vec::new());
    for (name, entry) in checkpoint.images(layer) {
        if !matches!(name.kind, Kind::Pagemap | Kind::SharedPagemap) {
            continue;
        }
        match count(checkpoint, entry) {
            Ok((pages_id, pages)) => {
                let sum = present.entry(pages_id).or_default();
                *sum = sum.saturating_add(pages);
            }
            Err(problem) => faults.push(Fault { entry: entry.name.clone(), offset: None, problem }),
        }
    }
    (present, faults)
}

/// The size of a page in a checkpoint, as far as its images tell.
pub(super) fn page_size_of(checkpoint: &Checkpoint) -> u64 {
    let sizes = checkpoint.layers().iter().flat_map(|layer| {
        let (present, _) = present_pages(checkpoint, layer);
        present.into_iter().map(move |(id, pages)| {
            (checkpoint.image(layer, Kind::Pages, id.into()).map(|entry| entry.size), pages)
        })
    });
    page_size(sizes)
}

/// The size of a page that makes sizes right, or else the most common one.
fn page_size(images: impl Iterator<Item = (Option<u64>, u64)>) -> u64 {
    let sizes: Vec<u64> = images
        .filter_map(|(size, pages)| size?.checked_div(pages))
        .filter(|size| PAGE_SIZES.contains(size))
        .collect();
    PAGE_SIZES
        .into_iter()
        .max_by_key(|page| (sizes.iter().filter(|size| *size == page).count(), u64::MAX - page))
        .unwrap_or(PAGE_SIZES[0])
}

/// The number of a pagemap's pages image, and how many pages of it there are.
fn count(checkpoint: &Checkpoint, entry: &Entry) -> Result<(u32, u64), String> {
    let failed = |error| sentence(&error);
    let mut reader = PagemapReader::new(checkpoint.body(entry), Limits::default()).map_err(failed)?;
    for range in reader.by_ref() {
        range.map_err(failed)?;
    }
    Ok((reader.pages_id(), reader.present_pages()))
}

/// Whether parents have the pages that are left to them. None where no page is.
pub(super) fn parents(checkpoint: &Checkpoint) -> Option<Finding> {
    let (topic, question) = ("parents", "do earlier dumps have the pages that are left to them?");
    let (mut faults, mut left) = (Vec::new(), 0u64);
    let page = page_size_of(checkpoint);
    for (depth, layer) in checkpoint.layers().iter().enumerate() {
        for (name, entry) in checkpoint.images(layer) {
            if !matches!(name.kind, Kind::Pagemap | Kind::SharedPagemap) {
                continue;
            }
            let Ok(reader) = PagemapReader::new(checkpoint.body(entry), Limits::default()) else { continue };
            let mut earlier =
                Earlier::find(checkpoint, &checkpoint.layers()[depth + 1..], name.kind, name.id, page);
            for range in reader.map_while(Result::ok) {
                if !range.flags.contains(PageFlags::PARENT) {
                    continue;
                }
                left = left.saturating_add(range.pages);
                let covered =
                    earlier.as_mut().is_some_and(|earlier| earlier.covers(range.vaddr, range.pages));
                if !covered {
                    let (start, pages) = (range.vaddr, range.pages);
                    let problem = format!("{pages} pages from {start:#x} on are in no earlier dump");
                    faults.push(Fault { entry: entry.name.clone(), offset: None, problem });
                    break;
                }
            }
        }
    }
    let finding = Finding::of_faults(topic, question, format!("{left} pages are in earlier dumps"), faults);
    (left > 0 || finding.answer != Answer::Yes).then_some(finding)
}

/// The pagemap of the dump before, read along.
struct Earlier {
    ranges: Vec<(u64, u64)>,
    at: usize,
    page: u64,
}

/// Most ranges of an earlier pagemap that are looked at.
const MAX_RANGES: usize = 1 << 20;

impl Earlier {
    fn find(
        checkpoint: &Checkpoint,
        layers: &[Layer],
        kind: Kind,
        id: Option<u64>,
        page: u64,
    ) -> Option<Self> {
        let entry = checkpoint.image(layers.first()?, kind, id?)?;
        let reader = PagemapReader::new(checkpoint.body(entry), Limits::default()).ok()?;
        // Neighbours become one, so that this takes little room.
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for range in reader.map_while(Result::ok).take(MAX_RANGES) {
            let end = range.vaddr.saturating_add(range.pages.saturating_mul(page));
            match ranges.last_mut() {
                Some(last) if last.1 == range.vaddr => last.1 = end,
                _ => ranges.push((range.vaddr, end)),
            }
        }
        Some(Self { ranges, at: 0, page })
    }

    /// Whether a range lies in one of them. Ranges are asked for in the order of their addresses.
    fn covers(&mut self, vaddr: u64, pages: u64) -> bool {
        while self.ranges.get(self.at).is_some_and(|range| range.1 <= vaddr) {
            self.at += 1;
        }
        let end = vaddr.saturating_add(pages.saturating_mul(self.page));
        self.ranges.get(self.at).is_some_and(|range| range.0 <= vaddr && end <= range.1)
    }
}

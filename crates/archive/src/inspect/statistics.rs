//! What CRIU counted and measured.

use serde::Serialize;
use torpor_criu::stats::Statistics as Image;

use super::images::Images;

/// CRIU's statistics of the dump. Times are in microseconds, pages in pages of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Until all tasks stood still.
    pub freezing_us: u32,
    /// How long they stood still.
    pub frozen_us: u32,
    /// Finding the pages.
    pub memory_dump_us: u32,
    /// Writing the pages.
    pub memory_write_us: u32,
    /// Finding the paths of inodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode_search_us: Option<u32>,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages left to the parent.
    pub pages_in_parent: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages left for later.
    pub pages_lazy: u64,
    /// Pages of shared memory looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_pages_scanned: Option<u64>,
    /// Pages of shared memory left to the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_pages_in_parent: Option<u64>,
    /// Pages of shared memory written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_pages_written: Option<u64>,
}

/// What stands in `stats-dump`, beside the images or where engines put it.
pub(super) fn statistics(images: &Images<'_>) -> Option<Statistics> {
    let read = images.one::<Image>(0).or_else(|| {
        let checkpoint = images.checkpoint();
        let entry = checkpoint.entry("stats-dump")?;
        let read = checkpoint
            .bytes(entry, 1 << 20)
            .map_err(|error| images.note(&entry.name, &error))
            .and_then(|bytes| Image::read(&bytes).map_err(|error| images.note(&entry.name, &error)));
        read.ok()
    });
    let dump = read?.dump?;
    Some(Statistics {
        freezing_us: dump.freezing_time,
        frozen_us: dump.frozen_time,
        memory_dump_us: dump.memdump_time,
        memory_write_us: dump.memwrite_time,
        inode_search_us: dump.irmap_resolve,
        pages_scanned: dump.pages_scanned,
        pages_in_parent: dump.pages_skipped_parent,
        pages_written: dump.pages_written,
        pages_lazy: dump.pages_lazy,
        shared_pages_scanned: dump.shpages_scanned,
        shared_pages_in_parent: dump.shpages_skipped_parent,
        shared_pages_written: dump.shpages_written,
    })
}

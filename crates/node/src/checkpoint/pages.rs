//! Memory from the page server into a draft.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::Instant;

use torpor_criu::page_server::{PageFlags, PageSink, PagemapId, PagemapKind};
use torpor_store::{Draft, MemoryId};

use super::order::Order;

/// A sink that gives pages to a draft as they come, and stops when the order's time is over: CRIU then rolls back.
pub(crate) struct PagesIntoDraft<'a> {
    draft: Draft,
    order: &'a Order,
    /// When the first memory came: all tasks stood still then.
    frozen: &'a OnceLock<Instant>,
}

impl<'a> PagesIntoDraft<'a> {
    pub(crate) fn new(draft: Draft, order: &'a Order, frozen: &'a OnceLock<Instant>) -> Self {
        PagesIntoDraft { draft, order, frozen }
    }

    pub(crate) fn into_draft(self) -> Draft {
        self.draft
    }
}

impl PageSink for PagesIntoDraft<'_> {
    fn open(&mut self, _pagemap: PagemapId) -> io::Result<bool> {
        self.frozen.get_or_init(Instant::now);
        // No parent: pages that an earlier generation has are found by their content.
        Ok(false)
    }

    fn has_parent(&mut self, _pagemap: PagemapId) -> io::Result<bool> {
        Ok(false)
    }

    fn pages(
        &mut self,
        pagemap: PagemapId,
        vaddr: u64,
        flags: PageFlags,
        pages: u64,
        body: &mut dyn Read,
    ) -> io::Result<()> {
        self.order.check().map_err(io::Error::other)?;
        self.draft.pages_from(memory(pagemap), vaddr, flags.0, pages, body).map_err(io::Error::other)
    }

    fn hole(&mut self, pagemap: PagemapId, vaddr: u64, flags: PageFlags, pages: u64) -> io::Result<()> {
        self.draft.pages_without_data(memory(pagemap), vaddr, flags.0, pages).map_err(io::Error::other)
    }

    fn close(&mut self) -> io::Result<()> {
        self.order.check().map_err(io::Error::other)
    }
}

fn memory(pagemap: PagemapId) -> MemoryId {
    match pagemap.kind {
        PagemapKind::Process => MemoryId::process(pagemap.id),
        PagemapKind::Shared => MemoryId::shared(pagemap.id),
    }
}

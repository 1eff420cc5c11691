//! Memory from the page server into a draft.

use std::io::{self, Read};

use torpor_criu::page_server::{PageFlags, PageSink, PagemapId, PagemapKind};
use torpor_store::{Draft, MemoryId};

use super::Standstill;
use crate::order::Order;

/// A sink that gives pages to a draft as they come, and stops when the order's time is over: CRIU then rolls back.
pub(super) struct PagesIntoDraft<'a> {
    draft: &'a mut Draft,
    order: &'a Order,
    standstill: &'a Standstill<'a>,
}

impl<'a> PagesIntoDraft<'a> {
    pub(super) fn new(draft: &'a mut Draft, order: &'a Order, standstill: &'a Standstill<'a>) -> Self {
        PagesIntoDraft { draft, order, standstill }
    }
}

impl PageSink for PagesIntoDraft<'_> {
    fn open(&mut self, _pagemap: PagemapId) -> io::Result<bool> {
        // CRIU begins to send memory only when all processes of its tree stand still.
        self.standstill.reached()?;
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

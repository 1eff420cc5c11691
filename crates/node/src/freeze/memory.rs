//! Memory into a draft, on the way that the engine has chosen.

use std::path::Path;

use torpor_criu::page_server::{PageServer, PageServerError};
use torpor_store::Draft;

use super::pages::PagesIntoDraft;
use super::{Dump, Engine, FreezeError, Held, Intake, Standstill, in_place};
use crate::order::Order;

/// A draft that takes the memory of a tree.
pub(crate) struct MemoryIntoDraft<'a> {
    draft: Draft,
    order: &'a Order,
    standstill: &'a Standstill<'a>,
    /// CRIU leaves memory in place, and sends none.
    in_place: bool,
}

impl<'a> MemoryIntoDraft<'a> {
    pub(crate) fn new(
        draft: Draft,
        engine: &Engine,
        order: &'a Order,
        standstill: &'a Standstill<'a>,
    ) -> MemoryIntoDraft<'a> {
        MemoryIntoDraft { draft, order, standstill, in_place: engine.in_place() }
    }

    /// Takes what CRIU has left in place. All of memory is in the draft then.
    pub(crate) fn complete(mut self, held: &Held<'_>, images: &Path) -> Result<Draft, FreezeError> {
        if self.in_place {
            let reached = self.standstill.reached();
            self.order.check()?;
            reached.map_err(|_| FreezeError::OtherFailed)?;
            in_place::take(images, held.root, self.order, &mut self.draft)?;
        }
        self.order.check()?;
        Ok(self.draft)
    }
}

impl Intake for MemoryIntoDraft<'_> {
    fn take(&mut self, dump: &Dump<'_>) -> Result<(), PageServerError> {
        if !self.in_place {
            let mut sink = PagesIntoDraft::new(&mut self.draft, self.order, self.standstill);
            return PageServer::new(dump.pages).serve(&mut sink).map(drop);
        }
        // CRIU is not to wait for anybody who wants pages.
        let _ = rustix::net::shutdown(dump.pages, rustix::net::Shutdown::Write);
        // What is not read now is read at the end.
        if let Err(error) = in_place::try_early(dump, self.standstill, &mut self.draft) {
            tracing::debug!(%error, "no memory is read early");
        }
        Ok(())
    }
}

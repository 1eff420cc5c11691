//! Pages to look at in a browser: one file each, with nothing loaded from elsewhere.

pub(super) mod diff;
pub(super) mod inspect;
mod memory_map;
mod page;
mod processes;
mod timeline;

pub(super) use page::{Page, facts, table};

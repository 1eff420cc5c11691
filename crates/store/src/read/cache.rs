//! A few opened blocks, so that what lies beside is not opened again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::BlockId;
use crate::repository::PlainBlock;

/// Most bytes the cache holds.
const CAPACITY: usize = 16 << 20;

/// The blocks that were used last.
#[derive(Debug, Default)]
pub(crate) struct BlockCache {
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// The one used last is at the back.
    recent: VecDeque<(BlockId, Arc<PlainBlock>)>,
    bytes: usize,
}

impl BlockCache {
    pub(crate) fn get(&self, id: BlockId) -> Option<Arc<PlainBlock>> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = blocks.recent.iter().rposition(|(candidate, _)| *candidate == id)?;
        let found = blocks.recent.remove(at)?;
        let block = Arc::clone(&found.1);
        blocks.recent.push_back(found);
        Some(block)
    }

    pub(crate) fn put(&self, id: BlockId, block: Arc<PlainBlock>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.bytes += block.plain.len();
        blocks.recent.push_back((id, block));
        while blocks.bytes > CAPACITY
            && let Some((_, oldest)) = blocks.recent.pop_front()
        {
            blocks.bytes -= oldest.plain.len();
        }
    }
}

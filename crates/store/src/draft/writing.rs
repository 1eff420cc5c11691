//! Writing blocks into packs, and making full packs durable while the next is written.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::DraftError;
use super::queue::Shared;
use crate::block::{Codec, Cut};
use crate::id::{BlockId, Digest};
use crate::pack::{PackTable, PackWriter};

/// Full packs that wait to be made durable while the next is written.
const PACKS_IN_CLOSING: usize = 1;

/// A block for the writer.
pub(super) struct SealedBlock {
    pub(super) id: BlockId,
    pub(super) cut: Cut,
    pub(super) digests: Vec<Digest>,
    pub(super) codec: Codec,
    pub(super) bytes: Vec<u8>,
}

/// Writes blocks into packs until all senders are gone.
pub(super) fn write_packs(shared: &Shared, blocks: Receiver<SealedBlock>) -> Vec<PackTable> {
    let (sender, full) = sync_channel::<PackWriter>(PACKS_IN_CLOSING);
    thread::scope(|scope| {
        let closing = scope.spawn(move || {
            let mut packs = Vec::new();
            for pack in full {
                match pack.finish(&shared.repository.inner.sealer) {
                    Ok(table) => packs.push(table),
                    Err(error) => shared.fail(error.into()),
                }
            }
            packs
        });
        let mut pack = None;
        for block in blocks {
            if shared.has_failed() {
                continue;
            }
            match append(shared, pack.take(), block) {
                Ok(written) if written.is_full() => {
                    // The closing thread takes packs until this one hangs up.
                    let _ = sender.send(written);
                }
                Ok(written) => pack = Some(written),
                Err(error) => shared.fail(error),
            }
        }
        if let Some(last) = pack.filter(|_| !shared.has_failed()) {
            let _ = sender.send(last);
        }
        drop(sender);
        closing.join().unwrap_or_else(|_| {
            shared.fail(DraftError::Broken);
            Vec::new()
        })
    })
}

fn append(shared: &Shared, pack: Option<PackWriter>, block: SealedBlock) -> Result<PackWriter, DraftError> {
    let mut pack = match pack {
        Some(pack) => pack,
        None => PackWriter::begin(shared.repository.backend())?,
    };
    let SealedBlock { id, cut, digests, codec, bytes } = block;
    pack.append(id, cut, digests, codec, &bytes)?;
    shared.recycle(bytes);
    Ok(pack)
}

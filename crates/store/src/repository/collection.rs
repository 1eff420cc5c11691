//! What collection and repair build on: moving blocks, and replacing indexes.

use std::collections::HashSet;

use super::Repository;
use crate::block::Opener;
use crate::draft::DraftError;
use crate::format::enclose;
use crate::id::{BlockId, IndexId, PackId};
use crate::index::{encode_index, index_key};
use crate::pack::{PackTable, PackWriter, pack_key, read_table};
use crate::read::ReadError;
use crate::seal::Sealed;

impl Repository {
    /// Copies blocks, as they are stored and after verifying each, into new packs and indexes these: what a
    /// collection does before it deletes sparse packs. Durable when it returns.
    ///
    /// # Errors
    /// Where a block is not in that pack or damaged, or the store cannot be written.
    pub fn copy_blocks(&self, from: PackId, blocks: &HashSet<BlockId>) -> Result<Vec<PackId>, DraftError> {
        self.check_writable()?;
        let table = self.read_pack_table(from)?;
        let mut missing = blocks.clone();
        let mut opener =
            Opener::new().map_err(|source| DraftError::Source { what: format!("pack {from}"), source })?;
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        let mut writer: Option<PackWriter> = None;
        let mut written = Vec::new();
        for block in table.blocks {
            if !missing.remove(&block.id) {
                continue;
            }
            sealed.resize(block.stored as usize, 0);
            self.backend().read_at(&pack_key(from), block.offset, &mut sealed)?;
            let mut opened = sealed.clone();
            opener
                .open(&self.inner.sealer, block.id, &block.cut, block.codec, &mut opened, &mut plain)
                .map_err(|damage| ReadError::Damaged {
                    object: format!("block {} in pack {from}", block.id),
                    reason: damage.to_string(),
                })?;
            let target = match &mut writer {
                Some(target) => target,
                none => none.insert(PackWriter::begin(self.backend())?),
            };
            target.append(block.id, block.cut, block.digests, block.codec, &sealed)?;
            if target.is_full()
                && let Some(full) = writer.take()
            {
                written.push(full.finish(&self.inner.sealer)?);
            }
        }
        if let Some(block) = missing.iter().next() {
            return Err(ReadError::Missing { object: format!("block {block} in pack {from}") }.into());
        }
        if let Some(last) = writer {
            written.push(last.finish(&self.inner.sealer)?);
        }
        let ids = written.iter().map(|pack| pack.id).collect();
        self.add_index(written)?;
        Ok(ids)
    }

    /// Reads a pack's table from the pack.
    pub(crate) fn read_pack_table(&self, pack: PackId) -> Result<PackTable, ReadError> {
        let missing = || ReadError::Missing { object: format!("pack {pack}") };
        let stat = self.backend().stat(&pack_key(pack))?.ok_or_else(missing)?;
        read_table(self.backend(), &self.inner.sealer, pack, stat.size)
    }

    /// Writes an index object for new packs.
    pub(crate) fn add_index(&self, packs: Vec<PackTable>) -> Result<(), DraftError> {
        if packs.is_empty() {
            return Ok(());
        }
        let id = self.write_index(packs.iter())?;
        let mut index = self.index_mut();
        index.add(packs);
        index.read.insert(id);
        Ok(())
    }

    fn write_index<'a>(&self, packs: impl Iterator<Item = &'a PackTable>) -> Result<IndexId, DraftError> {
        let sealer = &self.inner.sealer;
        let message = encode_index(packs);
        let id = sealer.index_id(&message);
        self.backend().put(&index_key(id), &enclose(sealer, Sealed::Index, id.as_bytes(), &message))?;
        Ok(id)
    }

    /// Writes one index without the packs in `gone`, and deletes the indexes it replaces. Damaged indexes stay, for
    /// [`crate::verify::repair`] to replace.
    ///
    /// # Errors
    /// Where an index cannot be read, written or deleted.
    pub fn compact_index(&self, gone: &HashSet<PackId>) -> Result<(), DraftError> {
        self.check_writable()?;
        self.refresh_index()?;
        self.forget_packs(gone);
        let replaced: Vec<IndexId> = self.list_indexes()?;
        // Only what went into memory may go: another writer may have added an index since.
        let replaced: HashSet<IndexId> =
            replaced.into_iter().filter(|id| self.index().read.contains(id)).collect();
        self.replace_indexes(&replaced)
    }

    /// Writes one index of everything in memory and deletes others.
    pub(crate) fn replace_indexes(&self, replaced: &HashSet<IndexId>) -> Result<(), DraftError> {
        let kept = {
            let index = self.index();
            let mut packs: Vec<&PackTable> = index.packs().collect();
            packs.sort_by_key(|pack| pack.id);
            if packs.is_empty() { None } else { Some(self.write_index(packs.into_iter())?) }
        };
        for id in replaced.iter().filter(|id| Some(**id) != kept) {
            match self.backend().delete(&index_key(*id)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        let mut index = self.index_mut();
        index.read.retain(|id| !replaced.contains(id));
        index.unreadable.retain(|id, _| !replaced.contains(id));
        index.read.extend(kept);
        Ok(())
    }
}

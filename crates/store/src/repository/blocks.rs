//! Finding and reading blocks.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use super::Repository;
use crate::backend::BackendError;
use crate::block::{Cut, Opener};
use crate::format::{INDEXES, disclose};
use crate::id::{BlockId, IndexId, PackId};
use crate::index::{Index, MAX_INDEX, Place, decode_index, index_key};
use crate::pack::{PackTable, pack_key};
use crate::read::ReadError;
use crate::seal::Sealed;

/// How often the indexes are listed again when one vanishes under the reader: a collection replaces them.
const LISTING_ATTEMPTS: usize = 5;

/// What can be done with an index object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexState {
    Whole,
    Damaged,
    /// A newer torpor wrote it.
    Newer,
}

/// A block, opened and verified.
#[derive(Debug)]
pub(crate) struct PlainBlock {
    pub(crate) plain: Vec<u8>,
    pub(crate) cut: Cut,
}

impl PlainBlock {
    /// The bytes of `count` pieces from `first` on, which must exist.
    pub(crate) fn pieces(&self, block: BlockId, first: u32, count: u32) -> Result<&[u8], ReadError> {
        let range = self.cut.range(first, count).ok_or_else(|| ReadError::Damaged {
            object: "a manifest".to_owned(),
            reason: format!("it refers to pieces that block {block} does not have"),
        })?;
        Ok(&self.plain[range])
    }
}

impl Repository {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index objects there are.
    pub(crate) fn list_indexes(&self) -> Result<Vec<IndexId>, BackendError> {
        let entries = self.backend().list(INDEXES)?;
        Ok(entries.iter().filter_map(|entry| entry.key.strip_prefix(INDEXES)?.parse().ok()).collect())
    }

    fn read_index(&self, id: IndexId) -> Result<Vec<PackTable>, ReadError> {
        let object = || format!("index {id}");
        let damaged = |reason: String| ReadError::Damaged { object: object(), reason };
        let bytes = self.backend().get(&index_key(id), MAX_INDEX as u64)?;
        let message = disclose(&self.inner.sealer, Sealed::Index, id.as_bytes(), bytes, MAX_INDEX, &object)?;
        if self.inner.sealer.index_id(&message) != id {
            return Err(damaged("its content is not what its name says".to_owned()));
        }
        decode_index(&message).map_err(damaged)
    }

    /// What an index object is now, whatever was read of it before.
    pub(crate) fn index_state(&self, id: IndexId) -> Result<IndexState, ReadError> {
        match self.read_index(id) {
            Ok(_) => Ok(IndexState::Whole),
            Err(ReadError::TooNew { .. }) => Ok(IndexState::Newer),
            Err(ReadError::Backend(error)) => Err(error.into()),
            Err(_) => Ok(IndexState::Damaged),
        }
    }

    /// Reads the index objects that are new. One that is damaged is remembered: what it hides is reported when it
    /// is looked for.
    pub(crate) fn load_index(&self) -> Result<(), ReadError> {
        'listing: for attempt in 0..LISTING_ATTEMPTS {
            for id in self.list_indexes()? {
                if self.index().read.contains(&id) {
                    continue;
                }
                match self.read_index(id) {
                    Ok(packs) => {
                        let mut index = self.index_mut();
                        index.add(packs);
                        index.unreadable.remove(&id);
                        index.read.insert(id);
                    }
                    Err(ReadError::Backend(error))
                        if error.is_not_found() && attempt + 1 < LISTING_ATTEMPTS =>
                    {
                        continue 'listing;
                    }
                    Err(error @ (ReadError::Damaged { .. } | ReadError::TooNew { .. })) => {
                        let reason = match error {
                            ReadError::Damaged { reason, .. } => reason,
                            other => other.to_string(),
                        };
                        if self.index_mut().unreadable.insert(id, reason.clone()).is_none() {
                            tracing::warn!(index = %id, reason, "an index cannot be read; `torpor verify --repair` rebuilds it");
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            break;
        }
        Ok(())
    }

    /// Reads new indexes and forgets packs that were collected.
    pub(crate) fn refresh_index(&self) -> Result<(), ReadError> {
        self.load_index()?;
        let there: HashSet<PackId> = self.packs()?.iter().map(|pack| pack.id).collect();
        let gone: HashSet<PackId> =
            self.index().packs().map(|pack| pack.id).filter(|pack| !there.contains(pack)).collect();
        self.forget_packs(&gone);
        Ok(())
    }

    pub(crate) fn forget_packs(&self, gone: &HashSet<PackId>) {
        if !gone.is_empty() {
            self.index_mut().remove(gone);
        }
    }

    /// Every known place of a block, after looking for new indexes if there is none.
    pub(crate) fn locate(&self, block: BlockId) -> Result<Vec<Place>, ReadError> {
        let places = self.index().places(block);
        if !places.is_empty() {
            return Ok(places);
        }
        self.load_index()?;
        Ok(self.index().places(block))
    }

    /// What to say of a block that no readable index has.
    pub(crate) fn lost(&self, block: BlockId) -> ReadError {
        match self.index().unreadable.iter().next() {
            Some((index, reason)) => ReadError::Damaged {
                object: format!("index {index}"),
                reason: format!("{reason}, and no other index has block {block}"),
            },
            None => ReadError::Missing { object: format!("block {block}") },
        }
    }

    fn read_place(&self, block: BlockId, place: &Place) -> Result<PlainBlock, ReadError> {
        let damaged = |reason: String| ReadError::Damaged {
            object: format!("block {block} in pack {}", place.pack),
            reason,
        };
        let mut sealed = vec![0; place.stored as usize];
        match self.backend().read_at(&pack_key(place.pack), place.offset, &mut sealed) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {
                return Err(ReadError::Missing { object: format!("pack {}", place.pack) });
            }
            Err(BackendError::ShortRead { .. }) => {
                return Err(damaged("the pack ends before its end".to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        let mut plain = Vec::new();
        Opener::new()
            .map_err(|source| ReadError::Output { what: "a decompressed block".to_owned(), source })?
            .open(&self.inner.sealer, block, &place.cut, place.codec, &mut sealed, &mut plain)
            .map_err(|damage| damaged(damage.to_string()))?;
        Ok(PlainBlock { plain, cut: place.cut.clone() })
    }

    /// Reads a block from the first place where it is whole.
    pub(crate) fn read_block(&self, block: BlockId) -> Result<Arc<PlainBlock>, ReadError> {
        if let Some(cached) = self.inner.cache.get(block) {
            return Ok(cached);
        }
        let mut first_error = None;
        for refresh in [false, true] {
            if refresh {
                // A collection may have moved it since the index was read.
                self.load_index()?;
            }
            for place in self.locate(block)? {
                match self.read_place(block, &place) {
                    Ok(plain) => {
                        let plain = Arc::new(plain);
                        self.inner.cache.put(block, Arc::clone(&plain));
                        return Ok(plain);
                    }
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        Err(first_error.unwrap_or_else(|| self.lost(block)))
    }
}

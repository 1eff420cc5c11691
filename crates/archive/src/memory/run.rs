//! Where pages are, resolved through the parents of a dump.

use std::io::BufReader;

use torpor_criu::image::pagemap::{PageFlags, PagemapReader};

use super::{MemoryError, Pages};
use crate::source::Body;

/// Where the pages of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the pages image of a layer, from byte `offset` on.
    Stored {
        /// The layer: zero is this dump, one its parent.
        layer: usize,
        /// Bytes from the start of the pages image.
        offset: u64,
    },
    /// To be fetched from where the program ran before: such a checkpoint was never complete by itself.
    Lazy,
    /// A parent should have them, and does not.
    Lost,
}

/// Pages at addresses that follow each other, and in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where the pages are.
    pub place: Place,
}

impl Run {
    /// Bytes in it.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// The part of it from `start` to `end`, which lie inside.
    fn part(self, start: u64, end: u64) -> Self {
        let place = match self.place {
            Place::Stored { layer, offset } => Place::Stored { layer, offset: offset + (start - self.start) },
            place => place,
        };
        Self { start, end, place }
    }

    /// Makes `next` part of this run, where it goes on in the same place.
    fn extend(&mut self, next: Self) -> bool {
        let goes_on = self.end == next.start
            && match (self.place, next.place) {
                (Place::Stored { layer, offset }, Place::Stored { layer: other, offset: then }) => {
                    layer == other && offset + self.length() == then
                }
                (one, other) => one == other,
            };
        if goes_on {
            self.end = next.end;
        }
        goes_on
    }
}

/// A range as a layer's pagemap has it, in bytes.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    flags: PageFlags,
    offset: u64,
}

/// One layer's pagemap, read from lower to higher addresses.
struct Cursor<'a> {
    reader: Option<PagemapReader<BufReader<Body<'a>>>>,
    /// The range read last; it may be asked for again.
    range: Option<Range>,
}

/// All pages of an owner that a checkpoint knows of, in the order of their addresses.
pub struct Runs<'p, 'a> {
    pages: &'p Pages<'a>,
    cursors: Vec<Option<Cursor<'a>>>,
    at: u64,
    /// Read already, and not given out since it might grow.
    ahead: Option<Result<Run, MemoryError>>,
    ended: bool,
}

impl std::fmt::Debug for Runs<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runs")
            .field("owner", &self.pages.owner())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl<'p, 'a> Runs<'p, 'a> {
    pub(super) fn new(pages: &'p Pages<'a>, at: u64) -> Self {
        Self { pages, cursors: Vec::new(), at, ahead: None, ended: false }
    }

    /// The first range of a layer that ends after `address`. Addresses have to rise.
    fn range(&mut self, layer: usize, address: u64) -> Result<Option<Range>, MemoryError> {
        while self.cursors.len() <= layer {
            self.cursors.push(None);
        }
        let cursor = match &mut self.cursors[layer] {
            Some(cursor) => cursor,
            unopened => unopened.insert(Cursor { reader: self.pages.reader(layer, address)?, range: None }),
        };
        loop {
            if let Some(range) = cursor.range
                && range.end > address
            {
                return Ok(Some(range));
            }
            let Some(next) = cursor.reader.as_mut().and_then(Iterator::next) else {
                cursor.reader = None;
                return Ok(None);
            };
            let next = next.map_err(|source| self.pages.image_error(layer, source))?;
            let size = self.pages.page_size();
            let end =
                next.pages.checked_mul(size).and_then(|length| next.vaddr.checked_add(length)).ok_or_else(
                    || MemoryError::Beyond { entry: self.pages.pagemap_name(layer), address: next.vaddr },
                )?;
            if cursor.range.is_some_and(|before| before.end > next.vaddr) {
                return Err(MemoryError::Overlap {
                    entry: self.pages.pagemap_name(layer),
                    address: next.vaddr,
                });
            }
            // No overflow that matters: a pages image of that size cannot be, and reading from it fails.
            let offset = next.first.saturating_mul(size);
            cursor.range = Some(Range { start: next.vaddr, end, flags: next.flags, offset });
        }
    }

    /// The first piece from `start` on, which this dump says is there up to `end`.
    fn piece(&mut self, start: u64, mut end: u64) -> Result<Run, MemoryError> {
        for layer in 0..self.pages.layers() {
            let Some(range) = self.range(layer, start)? else { break };
            if range.start > start {
                end = end.min(range.start);
                break;
            }
            end = end.min(range.end);
            if range.flags.contains(PageFlags::PRESENT) {
                let place = Place::Stored { layer, offset: range.offset.saturating_add(start - range.start) };
                return Ok(Run { start, end, place });
            }
            if !range.flags.contains(PageFlags::PARENT) {
                return Ok(Run { start, end, place: Place::Lazy });
            }
        }
        Ok(Run { start, end, place: Place::Lost })
    }

    /// The next piece, which may go on where the one before ends.
    fn next_piece(&mut self) -> Result<Option<Run>, MemoryError> {
        let Some(range) = self.range(0, self.at)? else { return Ok(None) };
        let piece = self.piece(self.at.max(range.start), range.end)?;
        self.at = piece.end;
        Ok(Some(piece))
    }
}

impl Iterator for Runs<'_, '_> {
    type Item = Result<Run, MemoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = match self.ahead.take() {
            Some(Ok(run)) => Some(run),
            Some(Err(error)) => return Some(Err(error)),
            None => None,
        };
        while !self.ended {
            let piece = self.next_piece().transpose();
            self.ended = !matches!(piece, Some(Ok(_)));
            let goes_on = match (&mut run, &piece) {
                (Some(run), Some(Ok(piece))) => run.extend(*piece),
                _ => false,
            };
            if goes_on {
                continue;
            }
            if run.is_some() {
                // What was read before some damage is good.
                self.ahead = piece;
                break;
            }
            match piece {
                Some(Ok(piece)) => run = Some(piece),
                piece => return piece,
            }
        }
        run.map(Ok)
    }
}

/// Runs that can be looked at before they are taken, and taken in parts.
#[derive(Debug)]
pub(super) struct Peeked<'p, 'a> {
    runs: Runs<'p, 'a>,
    run: Option<Run>,
}

impl<'p, 'a> Peeked<'p, 'a> {
    pub(super) fn new(runs: Runs<'p, 'a>) -> Self {
        Self { runs, run: None }
    }

    /// What is left of the first run that ends after `address`. Addresses have to rise.
    pub(super) fn after(&mut self, address: u64) -> Result<Option<Run>, MemoryError> {
        loop {
            if let Some(run) = self.run
                && run.end > address
            {
                return Ok(Some(run.part(run.start.max(address), run.end)));
            }
            match self.runs.next().transpose()? {
                Some(run) => self.run = Some(run),
                None => return Ok(None),
            }
        }
    }
}

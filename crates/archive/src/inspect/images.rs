//! Reading one layer's images, and keeping what is wrong with them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::BufReader;

use torpor_criu::image::{ImageError, ImageReader, Kind, Limits, Record};

use super::Problem;
use crate::source::{Body, Entry};
use crate::{Checkpoint, Layer};

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// The images of the newest layer. What cannot be read is noted and left out: the rest of a damaged checkpoint still tells
/// something.
#[derive(Debug)]
pub(super) struct Images<'a> {
    checkpoint: &'a Checkpoint,
    layer: &'a Layer,
    entries: HashMap<(Kind, u64), &'a Entry>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Images<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        let layer = &checkpoint.layers()[0];
        let entries = checkpoint
            .images(layer)
            .map(|(name, entry)| ((name.kind, name.id.unwrap_or(0)), entry))
            .collect();
        Self { checkpoint, layer, entries, problems: RefCell::default() }
    }

    pub(super) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// What was wrong, in the order in which it was met.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Notes something that is wrong with an entry.
    pub(super) fn note(&self, entry: &str, error: &dyn std::error::Error) {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        let problem = Problem { entry: entry.to_owned(), message };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// The numbers of all images of a kind, in ascending order.
    pub(super) fn ids(&self, kind: Kind) -> Vec<u64> {
        let mut ids: Vec<_> = self.entries.keys().filter(|(of, _)| *of == kind).map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// All entries of an image; none where there is no such image.
    pub(super) fn all<M: Record>(&self, id: u64) -> Vec<M> {
        let mut messages = Vec::new();
        self.each(id, |message| messages.push(message));
        messages
    }

    /// Every entry of an image in turn.
    pub(super) fn each<M: Record>(&self, id: u64, mut take: impl FnMut(M)) {
        let Some(entry) = self.entries.get(&(M::KIND, id)) else { return };
        let read = || -> Result<(), ImageError> {
            let mut reader = ImageReader::new(M::KIND, self.body(entry), Limits::default())?;
            while let Some(message) = reader.next_message()? {
                take(message);
            }
            Ok(())
        }();
        if let Err(error) = read {
            self.note(&entry.name, &error);
        }
    }

    /// The first entry of an image; none where there is no such image.
    pub(super) fn one<M: Record>(&self, id: u64) -> Option<M> {
        let entry = self.entries.get(&(M::KIND, id))?;
        let read = ImageReader::new(M::KIND, self.body(entry), Limits::default())
            .and_then(|mut reader| reader.next_head()?.ok_or(ImageError::Empty { kind: M::KIND }));
        match read {
            Ok(message) => Some(message),
            Err(error) => {
                self.note(&entry.name, &error);
                None
            }
        }
    }

    /// The whole of an image that has no entries; none where there is no such image.
    pub(super) fn raw(&self, kind: Kind, id: u64) -> Option<Vec<u8>> {
        /// Far beyond what devices of a container need.
        const MOST: u64 = 1 << 20;
        let entry = self.entries.get(&(kind, id))?;
        self.checkpoint.bytes(entry, MOST).map_err(|error| self.note(&entry.name, &error)).ok()
    }

    /// The first entry of an image without which the checkpoint is not whole.
    pub(super) fn needed<M: Record>(&self, id: u64) -> Option<M> {
        if !self.entries.contains_key(&(M::KIND, id)) {
            let name = format!("{}{}", self.layer.prefix, M::KIND.file_name(id));
            self.problems.borrow_mut().push(Problem { entry: name, message: "it is missing".to_owned() });
            return None;
        }
        self.one(id)
    }

    fn body(&self, entry: &'a Entry) -> BufReader<Body<'a>> {
        BufReader::with_capacity((entry.size.clamp(1, BUFFER as u64)) as usize, self.checkpoint.body(entry))
    }
}

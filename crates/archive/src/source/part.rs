//! A part of a source, as a source: the container of a pod.

use std::sync::Arc;

use super::{Assurance, Compression, Digest, Entry, Remark, Source, SourceError};

/// The entries of a source whose names begin alike.
#[derive(Debug)]
pub struct Part {
    name: String,
    whole: Arc<dyn Source>,
    prefix: String,
    entries: Vec<Entry>,
}

impl Part {
    /// The entries whose names begin with `prefix`, which ends with `/`; in their names it is left out.
    #[must_use]
    pub fn new(whole: Arc<dyn Source>, prefix: &str) -> Self {
        let entries = whole
            .entries()
            .iter()
            .filter_map(|entry| {
                let name = entry.name.strip_prefix(prefix)?.to_owned();
                Some(Entry { name, ..entry.clone() })
            })
            .collect();
        let name = format!("{}//{}", whole.name(), prefix.trim_end_matches('/'));
        Self { name, whole, prefix: prefix.to_owned(), entries }
    }

    fn in_whole(&self, entry: &Entry) -> Entry {
        Entry { name: format!("{}{}", self.prefix, entry.name), ..entry.clone() }
    }
}

impl Source for Part {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.whole.read_at(&self.in_whole(entry), offset, into)
    }

    fn random_access(&self) -> bool {
        self.whole.random_access()
    }

    fn remarks(&self) -> &[Remark] {
        self.whole.remarks()
    }

    fn digest(&self, entry: &Entry) -> Option<Digest> {
        self.whole.digest(&self.in_whole(entry))
    }

    fn assurance(&self) -> Assurance {
        self.whole.assurance()
    }

    fn verify(&self) -> Result<(), SourceError> {
        self.whole.verify()
    }

    fn compression(&self) -> Option<Compression> {
        self.whole.compression()
    }
}

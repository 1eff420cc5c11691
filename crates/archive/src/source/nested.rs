//! Archives inside of checkpoints.

use super::archive::Seeking;
use super::bytes::{Borrowed, read_exact_at};
use super::compression::{Compression, Unpacker};
use super::tar::{Feed, Scan, failure};
use super::{Body, Entry, Limits, Source, SourceError};

/// Calls back with each entry of an archive that is itself an entry. Nothing of it is kept.
///
/// # Errors
/// Where the entry cannot be read, or is no archive.
pub fn each_nested(
    source: &dyn Source,
    entry: &Entry,
    limits: &Limits,
    mut each: impl FnMut(&Entry),
) -> Result<(), SourceError> {
    let place = format!("{} in {}", entry.name, source.name());
    let bytes = Borrowed { source, entry };
    let mut start = vec![0; entry.size.min(Compression::MAGIC as u64) as usize];
    read_exact_at(&bytes, 0, &mut start).map_err(|error| failure(&place, None, "", 0, error))?;
    let compression = Compression::of(&start);
    if compression.is_none() && source.random_access() {
        return scan(Scan::new(Seeking::new(&bytes), &place, None, limits), &mut each);
    }
    let body = Box::new(Body::new(source, entry));
    let unpacker = Unpacker::new(body, Some(entry.size), limits)
        .map_err(|error| failure(&place, compression, "", 0, error))?;
    scan(Scan::new(unpacker, &place, compression, limits), &mut each)
}

fn scan<F: Feed>(mut scan: Scan<'_, F>, each: &mut impl FnMut(&Entry)) -> Result<(), SourceError> {
    while let Some(entry) = scan.next()? {
        each(&entry);
    }
    Ok(())
}

//! Names are unique.

use super::{Entry, EntryKind, SourceError};

/// Refuses two entries of the same name. Directories that are named again are left out.
pub(crate) fn check_unique(place: &str, entries: &mut Vec<Entry>) -> Result<(), SourceError> {
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_by(|a, b| entries[*a as usize].name.cmp(&entries[*b as usize].name).then(a.cmp(b)));
    let mut again = Vec::new();
    for pair in order.windows(2) {
        let [first, second] = [&entries[pair[0] as usize], &entries[pair[1] as usize]];
        if first.name != second.name {
            continue;
        }
        if first.kind == EntryKind::Directory && second.kind == EntryKind::Directory {
            again.push(pair[1]);
            continue;
        }
        return Err(SourceError::Duplicate {
            place: place.to_owned(),
            entry: second.name.clone(),
            offset: second.offset.unwrap_or_default(),
        });
    }
    again.sort_unstable();
    for index in again.into_iter().rev() {
        entries.remove(index as usize);
    }
    Ok(())
}

//! CRIU's small images into a draft.

use std::fs::{self, File};
use std::path::Path;

use torpor_store::Draft;

use super::{FreezeError, LOG, in_place};

/// Takes CRIU's images into the draft: everything it wrote but its log, and memory, for which a draft has its own tables.
pub(crate) fn take_images(directory: &Path, draft: &mut Draft) -> Result<(), FreezeError> {
    let failed = FreezeError::place(directory);
    let mut names: Vec<_> = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(&failed)?
        .into_iter()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let Some(name) = name.to_str().filter(|name| *name != LOG && !in_place::is_memory(name)) else {
            continue;
        };
        let mut image = File::open(directory.join(name)).map_err(&failed)?;
        draft.image(name, &mut image)?;
    }
    Ok(())
}

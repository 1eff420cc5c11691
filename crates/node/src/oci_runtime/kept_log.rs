//! CRIU's logs of restores that failed, kept for who looks into it: `STATE/logs/ID.restore.log`.
//!
//! An engine deletes a container that it could not create at once, so they go by age and number, not with their container.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How much of a log is kept, in bytes: its end.
const LONGEST: u64 = 1 << 20;
/// For how long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many.
const MOST: usize = 64;

/// Keeps the end of a log, and removes old ones. Returns where it is.
///
/// # Errors
/// There is no log, or no place for it.
pub(super) fn keep(state: &Path, id: &str, log: &Path) -> io::Result<PathBuf> {
    let mut from = File::open(log)?;
    let size = from.metadata()?.len();
    from.seek(SeekFrom::Start(size.saturating_sub(LONGEST)))?;
    let directory = state.join("logs");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let path = directory.join(format!("{id}.restore.log"));
    io::copy(&mut from.take(LONGEST), &mut File::create(&path)?)?;
    sweep(&directory, SystemTime::now());
    Ok(path)
}

fn sweep(directory: &Path, now: SystemTime) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logs: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| Some((entry.metadata().and_then(|found| found.modified()).ok()?, entry.path())))
        .collect();
    logs.sort_by(|one, other| other.cmp(one));
    for (number, (written, path)) in logs.into_iter().enumerate() {
        let old = now.duration_since(written).is_ok_and(|age| age > KEPT);
        if (old || number >= MOST)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "an old log stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_kept_for_a_while() {
        let state = tempfile::tempdir().unwrap();
        let log = state.path().join("restore.log");
        assert!(keep(state.path(), "one", &log).is_err());
        std::fs::write(&log, vec![b'x'; LONGEST as usize + 5]).unwrap();
        let kept = keep(state.path(), "one", &log).unwrap();
        assert_eq!(kept, state.path().join("logs/one.restore.log"));
        assert_eq!(std::fs::metadata(&kept).unwrap().len(), LONGEST);
        for number in 0..MOST {
            keep(state.path(), &number.to_string(), &log).unwrap();
        }
        let directory = state.path().join("logs");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), MOST);
        sweep(&directory, SystemTime::now() + KEPT + Duration::from_secs(60));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    }
}

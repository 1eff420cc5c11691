//! The status file: it tells a program whether, when and how often it was restored.
//!
//! One JSON object, replaced atomically whenever it changes, at the path in the program's variable
//! `TORPOR_STATUS_FILE`. Readers ignore keys they do not know; a key keeps its meaning within a version.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The variable that tells a program where its status file is.
pub const VARIABLE: &str = "TORPOR_STATUS_FILE";
/// The version of the file's format.
pub const VERSION: u32 = 1;

/// What the status file and the control socket tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The name checkpoints are kept under.
    pub name: String,
    /// What this running copy is called: new at every start, so that copies of one template differ.
    pub instance: String,
    /// Which start of the name this is.
    pub epoch: u64,
    /// The phase of the checkpoint or restore under way, by its name; nothing while the program just runs.
    pub phase: Option<String>,
    /// When the program itself began, before any restore.
    pub started: Timestamp,
    /// Whether it was ever restored.
    pub restored: bool,
    /// How often.
    pub restores: u64,
    /// When, the last time.
    pub last_restore: Option<Timestamp>,
    /// From which generation, the last time.
    pub restored_from: Option<u64>,
    /// The newest generation made of it.
    pub generation: Option<u64>,
    /// When that was committed.
    pub last_checkpoint: Option<Timestamp>,
    /// Why the last checkpoint failed, if it did.
    pub last_failure: Option<String>,
}

impl Status {
    /// The status of a program that begins now.
    #[must_use]
    pub fn fresh(name: &str, instance: &str, epoch: u64, now: Timestamp) -> Status {
        Status {
            version: VERSION,
            name: name.to_owned(),
            instance: instance.to_owned(),
            epoch,
            phase: None,
            started: now,
            restored: false,
            restores: 0,
            last_restore: None,
            restored_from: None,
            generation: None,
            last_checkpoint: None,
            last_failure: None,
        }
    }

    /// The status of the same program after a restore from `generation`.
    #[must_use]
    pub fn restored(self, instance: &str, epoch: u64, generation: u64, now: Timestamp) -> Status {
        Status {
            instance: instance.to_owned(),
            epoch,
            phase: None,
            restored: true,
            restores: self.restores + 1,
            last_restore: Some(now),
            restored_from: Some(generation),
            generation: Some(generation),
            last_failure: None,
            ..self
        }
    }

    /// Replaces the file at `path`, readable for everyone: the program may run as another user.
    ///
    /// # Errors
    /// Where it cannot be written; the former file, if any, is whole then.
    pub fn write(&self, path: &Path) -> Result<(), StatusError> {
        let wrong = |source| StatusError::Write { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        replace(path, &beside, self).map_err(|source| {
            // What is half-written is of no use; that it cannot be removed either adds nothing.
            let _ = fs::remove_file(&beside);
            wrong(source)
        })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read or is no status file of this version.
    pub fn read(path: &Path) -> Result<Status, StatusError> {
        let text = fs::read(path).map_err(|source| StatusError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| StatusError::Parse { path: path.to_owned(), source })
    }
}

fn replace(path: &Path, beside: &Path, status: &Status) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut text = serde_json::to_vec_pretty(status)?;
    text.push(b'\n');
    // Never through a link somebody left under the name.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(beside)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(&text)?;
    fs::rename(beside, path)
}

/// What can go wrong with a status file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// It cannot be written.
    #[error("cannot write the status file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read the status file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no status file", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl StatusError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            StatusError::Write { .. } => "name a writable place with --status-file",
            StatusError::Read { .. } | StatusError::Parse { .. } => {
                "the program's TORPOR_STATUS_FILE says where the status file is"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_restore_counts_and_keeps_the_beginning() {
        let status =
            Status::fresh("web/app", "a", 1, at(10)).restored("b", 2, 7, at(20)).restored("c", 3, 9, at(30));
        assert_eq!((status.started, status.restores, status.last_restore), (at(10), 2, Some(at(30))));
        assert_eq!((status.instance.as_str(), status.epoch, status.restored_from), ("c", 3, Some(9)));
    }

    #[test]
    fn the_file_says_it_in_stable_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("torpor/web+app.json");
        let mut status = Status::fresh("web/app", "a", 1, at(10)).restored("b", 2, 7, at(20));
        status.phase = Some("go-on".to_owned());
        status.write(&path).unwrap();
        status.write(&path).unwrap();
        assert_eq!(Status::read(&path).unwrap(), status);
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({
            "version": 1, "name": "web/app", "instance": "b", "epoch": 2, "phase": "go-on",
            "started": "1970-01-01T00:00:10Z", "restored": true, "restores": 1,
            "lastRestore": "1970-01-01T00:00:20Z", "restoredFrom": 7, "generation": 7,
            "lastCheckpoint": null, "lastFailure": null,
        });
        assert_eq!(value, expected);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Status::fresh("a", "a", 1, at(0)).write(&file.join("status.json")).unwrap_err();
        assert!(error.to_string().contains("file/status.json"), "{error}");
        assert!(matches!(Status::read(&file), Err(StatusError::Parse { .. })));
    }
}

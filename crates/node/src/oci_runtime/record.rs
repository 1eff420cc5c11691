//! What is known of a container that was restored, for as long as it is there.
//!
//! A directory for each, by the runtime's directory of states and by ID: `RUN/ROOT/ID/record.json`. It is there before anything is
//! made of the container, so that whoever comes next finds what a killed restore has left.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::early_end::Origin;
use super::history::Undo;
use crate::{process_tree, staging};

/// The file's name.
const FILE: &str = "record.json";

/// How far a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// It is being restored, or was when somebody was killed.
    #[default]
    Making,
    /// All is there, and waits for the start.
    Created,
    /// It was started.
    Started,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// How far it is.
    pub stage: Stage,
    /// What it was restored from, for people.
    pub checkpoint: String,
    /// Its first process; 0 before there is one.
    #[serde(default)]
    pub pid: i32,
    /// When that was started, in clock ticks since boot.
    #[serde(default)]
    pub started: u64,
    /// Processes that were stopped at the checkpoint, by their PIDs in the container. They stay stopped.
    #[serde(default)]
    pub stopped: Vec<u32>,
    /// Where it was laid out.
    pub room: PathBuf,
    /// The directory in which the real runtime keeps its state.
    #[serde(default)]
    pub state: PathBuf,
    /// Its bundle.
    #[serde(default)]
    pub bundle: PathBuf,
    /// Who makes it, and when that was started.
    #[serde(default)]
    pub maker: (i32, u64),
    /// Control groups that were not there before it.
    #[serde(default)]
    pub groups: Vec<PathBuf>,
    /// What holds of its pod's history where nothing comes of it.
    #[serde(default)]
    pub undo: Option<Undo>,
    /// The generation it is from, where it is one of a store's.
    #[serde(default)]
    pub from: Option<Origin>,
    /// Where it is asked at its start whether it may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<PathBuf>,
}

impl Record {
    /// Whether its restore was cut off: whoever made it is gone.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let (pid, started) = self.maker;
        self.stage == Stage::Making && process_tree::started(pid) != Some(started)
    }
}

/// The place of one container's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPlace {
    directory: PathBuf,
}

impl RecordPlace {
    /// The place for the container `id` among the states in `root`.
    #[must_use]
    pub fn new(run: &Path, root: &Path, id: &str) -> RecordPlace {
        RecordPlace { directory: run.join(key(root)).join(id) }
    }

    /// The directory, which may hold further files about the container.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The record; none where the container was never restored.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<Option<Record>> {
        match std::fs::read(self.directory.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the record, as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let partial = self.directory.join(".record");
        std::fs::write(&partial, serde_json::to_vec(record)?)?;
        std::fs::rename(partial, self.directory.join(FILE))
    }

    /// Removes what is known, and what was laid out. Says whether there was anything.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> io::Result<bool> {
        let room = self.read().ok().flatten().map(|record| record.room);
        if let Some(room) = room {
            remove(&room)?;
        }
        remove(&self.directory)
    }
}

/// Removes what is known of containers that the real runtime knows no more: somebody else had it delete them. Those whose restore
/// was cut off are told to `cut_off`, by ID.
pub fn sweep(run: &Path, mut cut_off: impl FnMut(&str, &RecordPlace, &Record)) {
    let below = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    for directory in below(run).iter().flat_map(|roots| below(roots)) {
        let place = RecordPlace { directory };
        let record = place.read().ok().flatten();
        let id = place.directory.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some((record, id)) = record.filter(Record::is_cut_off).zip(id) {
            cut_off(&id, &place, &record);
            continue;
        }
        let gone = |record: &Record| record.stage != Stage::Making && !record.state.exists();
        if place.read().ok().flatten().is_some_and(|record| gone(&record))
            && let Err(error) = place.remove()
        {
            tracing::warn!(%error, path = %place.directory.display(), "what is known of a container stays");
        }
    }
}

/// Removes a directory, and says whether there was one.
fn remove(path: &Path) -> io::Result<bool> {
    match staging::remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name for a directory of states. Two ways to write one path are one directory.
fn key(root: &Path) -> String {
    let plain: PathBuf = root.components().collect();
    let hash = blake3::hash(plain.as_os_str().as_encoded_bytes());
    hash.to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_until_it_is_removed() {
        let run = tempfile::tempdir().unwrap();
        let room = run.path().join("room");
        std::fs::create_dir(&room).unwrap();
        let place = RecordPlace::new(run.path(), Path::new("/run/runc"), "one");
        assert_eq!(place.read().unwrap(), None);
        let record = Record {
            stage: Stage::Created,
            checkpoint: "web@3".into(),
            pid: 7,
            started: 9,
            stopped: vec![4],
            room: room.clone(),
            state: run.path().join("state"),
            bundle: "/b".into(),
            ..Record::default()
        };
        place.write(&record).unwrap();
        let same = RecordPlace::new(run.path(), Path::new("/run//runc/"), "one");
        assert_eq!(same.read().unwrap(), Some(record.clone()));
        let other = RecordPlace::new(run.path(), Path::new("/run/crun"), "one");
        assert_eq!(other.read().unwrap(), None);
        std::fs::create_dir(run.path().join("state")).unwrap();
        sweep(run.path(), |_, _, _| unreachable!());
        assert!(same.read().unwrap().is_some(), "the runtime knows it");
        std::fs::remove_dir(run.path().join("state")).unwrap();
        sweep(run.path(), |_, _, _| unreachable!());
        assert!(same.read().unwrap().is_none(), "the runtime knows it no more");
        assert!(!room.exists());
        std::fs::create_dir(&room).unwrap();
        place.write(&record).unwrap();
        assert!(same.remove().unwrap());
        assert!(!same.remove().unwrap());
        assert!(!room.exists());
    }

    #[test]
    fn a_restore_is_cut_off_where_its_maker_is_gone() {
        let run = tempfile::tempdir().unwrap();
        let own = std::process::id() as i32;
        let started = process_tree::started(own).unwrap();
        let place = |id: &str| RecordPlace::new(run.path(), Path::new("/run/runc"), id);
        for (id, maker) in [("lives", (own, started)), ("other", (own, started + 1))] {
            let record = serde_json::json!({"stage": "making", "checkpoint": "web@1", "room": run.path().join("room"), "maker": maker});
            place(id).write(&serde_json::from_value(record).unwrap()).unwrap();
        }
        let mut found = Vec::new();
        sweep(run.path(), |id, place, _| {
            found.push(id.to_owned());
            place.remove().unwrap();
        });
        assert_eq!(found, ["other"]);
        assert!(place("lives").read().unwrap().is_some());
    }
}

//! What pods' containers were restored from, so that one that starts again does not go back in time.
//!
//! A pod's container keeps its name and its pod's UID when it is started again; Podman and Docker keep the container's ID. One file for
//! each, `STATE/history/KEY.json`. Files of pods that are long gone are removed in passing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use torpor_store::GenerationKind;

use super::decision::Place;

/// How long it is remembered what a pod was restored from.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a container was restored from last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The name; the image's where the checkpoint came with it.
    pub name: String,
    /// The generation, of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// Why a container is not restored once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// It was, from just this.
    Same,
    /// It was, from this or a later one.
    Older,
    /// The checkpoint is from before its last end: it ran on after it.
    RanOn,
}

impl std::fmt::Display for Back {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Back::Same => "it was restored from there before",
            Back::Older => "it was restored from a later checkpoint before",
            Back::RanOn => "it ran on after that checkpoint was made",
        })
    }
}

/// Whether a container that was restored before may be from `next`. A suspend that is newer is where it stopped.
///
/// # Errors
/// Why not.
pub fn permitted(before: Option<&Restored>, next: &Restored, kind: GenerationKind) -> Result<(), Back> {
    let Some(before) = before.filter(|before| before.name == next.name) else { return Ok(()) };
    match (before.generation, next.generation) {
        (Some(before), Some(next)) if next > before && kind == GenerationKind::Suspend => Ok(()),
        (Some(before), Some(next)) if next > before => Err(Back::RanOn),
        (Some(before), Some(next)) if next < before => Err(Back::Older),
        _ => Err(Back::Same),
    }
}

/// The memory of one container.
#[derive(Debug, Clone)]
pub struct History {
    file: PathBuf,
}

impl History {
    /// That of a pod's container, or else of the container with an ID and a bundle.
    #[must_use]
    pub fn of(state: &Path, place: Option<&Place>, id: &str, bundle: &Path) -> History {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &[u8]| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        match place {
            Some(place) => {
                for text in ["pod", &place.namespace, &place.pod, &place.uid, &place.container] {
                    add(text.as_bytes());
                }
            }
            None => {
                add(b"container");
                add(id.as_bytes());
                add(bundle.as_os_str().as_encoded_bytes());
            }
        }
        let name = hasher.finalize().to_hex()[..32].to_owned();
        History { file: state.join("history").join(format!("{name}.json")) }
    }

    /// What it was restored from last.
    ///
    /// # Errors
    /// That cannot be read. It must not be taken for never.
    pub fn last(&self) -> io::Result<Option<Restored>> {
        match std::fs::read(&self.file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers.
    ///
    /// # Errors
    /// It cannot be written; nothing may be restored then.
    pub fn remember(&self, restored: &Restored) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        forget_old(directory, SystemTime::now());
        let partial = self.file.with_extension("new");
        std::fs::write(&partial, serde_json::to_vec(restored)?)?;
        std::fs::File::open(&partial)?.sync_all()?;
        std::fs::rename(partial, &self.file)
    }

    /// What is to hold again where a restore comes to nothing.
    #[must_use]
    pub fn undo(&self, before: Option<&Restored>) -> Undo {
        Undo { file: self.file.clone(), before: before.cloned() }
    }
}

/// How to forget a restore that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    file: PathBuf,
    before: Option<Restored>,
}

impl Undo {
    /// What was before holds again.
    pub fn put_back(&self) {
        let result = match &self.before {
            Some(before) => History { file: self.file.clone() }.remember(before),
            None => match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        if let Err(error) = result {
            tracing::warn!(%error, path = %self.file.display(), "a restore that came to nothing stays remembered");
        }
    }
}

fn forget_old(directory: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|found| found.modified());
        let old = written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age > KEPT));
        if old {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(name: &str, generation: u64) -> Restored {
        Restored { name: name.into(), generation: Some(generation) }
    }

    #[test]
    fn a_container_that_starts_again_goes_on_or_begins_and_never_goes_back() {
        use GenerationKind::{Running, Suspend, Template};
        let before = restored("web", 3);
        let image = |name: &str| Restored { name: name.into(), generation: None };
        for (last, next, kind, expected) in [
            (None, restored("web", 3), Running, Ok(())),
            (Some(&before), restored("web", 3), Suspend, Err(Back::Same)),
            (Some(&before), restored("web", 2), Suspend, Err(Back::Older)),
            (Some(&before), restored("web", 4), Suspend, Ok(())),
            (Some(&before), restored("web", 4), Running, Err(Back::RanOn)),
            (Some(&before), restored("web", 4), Template, Err(Back::RanOn)),
            (Some(&before), restored("other", 1), Running, Ok(())),
            (Some(&image("img")), image("img"), Template, Err(Back::Same)),
            (Some(&image("img")), restored("web", 1), Template, Ok(())),
        ] {
            assert_eq!(permitted(last, &next, kind), expected, "{last:?} {next:?} {kind}");
        }
    }

    #[test]
    fn it_is_remembered_by_pod_and_container_or_by_id() {
        let state = tempfile::tempdir().unwrap();
        let place = |uid: &str, container: &str| Place {
            namespace: "shop".into(),
            pod: "web".into(),
            uid: uid.into(),
            container: container.into(),
        };
        let of = |place: Option<&Place>, id: &str| History::of(state.path(), place, id, Path::new("/b"));
        let app = place("u1", "app");
        of(Some(&app), "c1").remember(&restored("web", 1)).unwrap();
        assert_eq!(of(Some(&app), "c2").last().unwrap(), Some(restored("web", 1)));
        for other in [place("u2", "app"), place("u1", "sidecar")] {
            assert_eq!(of(Some(&other), "c2").last().unwrap(), None);
        }
        assert_eq!(of(None, "c1").last().unwrap(), None);
        of(None, "c1").remember(&restored("web", 1)).unwrap();
        assert_eq!(of(None, "c2").last().unwrap(), None);
        of(None, "c1").undo(None).put_back();
        assert_eq!(of(None, "c1").last().unwrap(), None);
        of(Some(&app), "c1").undo(Some(&restored("web", 0))).put_back();
        assert_eq!(of(Some(&app), "c1").last().unwrap(), Some(restored("web", 0)));
    }

    #[test]
    fn pods_that_are_long_gone_are_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("old.json");
        std::fs::write(&file, "{}").unwrap();
        forget_old(state.path(), SystemTime::now());
        assert!(file.exists());
        forget_old(state.path(), SystemTime::now() + KEPT + Duration::from_secs(60));
        assert!(!file.exists());
    }
}

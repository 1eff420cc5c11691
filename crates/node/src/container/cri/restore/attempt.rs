//! What is known of a restore while it lasts, so that the next command finds what it leaves where it is killed.
//!
//! A directory with a lock, `cri-PID`, in which stands what the pod and the container will be called. It is there before anything is made, and goes
//! once the container runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::CriRestoreError;
use crate::container::cri::listing::PodIdentity;
use crate::container::cri::{Cri, CriError};
use crate::staging::{self, Staging};

/// What the names of such directories begin with.
const PREFIX: &str = "cri-";
const FILE: &str = "attempt.json";
/// How long after its caller's end a runtime may take to come to an end with what it was told, and how often it is looked whether it has.
const SETTLES: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(200);

/// What a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) pod: Place,
    /// The container's name.
    pub(super) container: String,
}

/// Where the container is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In a sandbox that is there.
    Given(String),
    /// In one that is made.
    Made(PodIdentity),
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    socket: PathBuf,
    attempt: Attempt,
    /// Those of the same name that were there before: sandboxes, or containers in the one that is there.
    others: Vec<String>,
}

/// A record, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct Recorded {
    _staging: Staging,
}

impl Attempt {
    /// Writes it down in a directory below `parent`.
    pub(super) fn record(self, cri: &Cri, parent: &Path) -> Result<Recorded, CriRestoreError> {
        let others = match &self.pod {
            Place::Given(pod) => cri.containers(pod, Some(&self.container)),
            Place::Made(identity) => cri.pods(identity),
        };
        let others = others.map_err(CriRestoreError::because("tell what pods and containers there are"))?;
        let record = Record { socket: cri.socket.clone(), attempt: self, others };
        let failed = |source| CriRestoreError::Record { path: parent.to_owned(), source };
        let staging = Staging::create(parent, &format!("{PREFIX}{}", std::process::id())).map_err(failed)?;
        let written = serde_json::to_vec(&record).map_err(std::io::Error::from);
        written.and_then(|bytes| std::fs::write(staging.path().join(FILE), bytes)).map_err(failed)?;
        Ok(Recorded { _staging: staging })
    }
}

/// Has runtimes remove what restores that were killed have left, and says so. `parent` is where they were recorded.
pub fn clean_up(parent: &Path) {
    staging::clean_up_after(parent, PREFIX, &|directory| take_away(directory, SETTLES));
}

/// Says whether nothing is left, or nobody knows of what.
fn take_away(directory: &Path, settles: Duration) -> bool {
    let file = directory.join(FILE);
    let record = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    let Some(record) = record else { return true };
    let written = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).ok();
    let age = written.and_then(|written| written.elapsed().ok()).unwrap_or_default();
    let until = Instant::now() + settles.saturating_sub(age);
    loop {
        match record.take_away() {
            Ok(true) => return true,
            // The runtime may be about to make it.
            Ok(false) if Instant::now() >= until => return true,
            // It may be about to start it.
            Err(CriError::Refused { .. }) if Instant::now() < until => {}
            Err(error) => {
                tracing::warn!(%error, container = record.attempt.container, "what a restore left that was cut off stays");
                return false;
            }
            Ok(false) => {}
        }
        std::thread::sleep(PACE);
    }
}

impl Record {
    /// Removes what is there but for containers that were started, which are whole. Says whether there was anything.
    fn take_away(&self) -> Result<bool, CriError> {
        let cri = Cri { socket: self.socket.clone() };
        let is_new = |id: &String| !self.others.contains(id);
        let mut found = false;
        match &self.attempt.pod {
            Place::Given(pod) => {
                for id in cri.containers(pod, Some(&self.attempt.container))?.iter().filter(|id| is_new(id)) {
                    found = true;
                    if !is_whole(&cri, id)? {
                        cri.remove(id)?;
                        tracing::warn!(container = id, "a restore was cut off; its container is removed");
                    }
                }
            }
            Place::Made(identity) => {
                for pod in cri.pods(identity)?.iter().filter(|id| is_new(id)) {
                    found = true;
                    let containers = cri.containers(pod, None)?;
                    let whole =
                        containers.iter().map(|id| is_whole(&cri, id)).collect::<Result<Vec<_>, _>>()?;
                    if !whole.contains(&true) {
                        cri.end_pod(pod)?;
                        tracing::warn!(sandbox = pod, "a restore was cut off; its sandbox is removed");
                    }
                }
            }
        }
        Ok(found)
    }
}

fn is_whole(cri: &Cri, container: &str) -> Result<bool, CriError> {
    let whole = cri.was_started(container)?;
    if whole {
        tracing::warn!(container, "a restore was cut off once it was done; its container stays");
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hyper::HeaderMap;

    use super::*;
    use crate::container::cri::tests::{Answer, runtime, status};

    /// A field of a message, by its number.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A pod or a container as they are listed, in a list of one; the name of a pod is its UID and its namespace.
    fn listed(kind: &str, id: &str) -> Vec<u8> {
        let name = match kind {
            "ListPodSandbox" => field(2, &[field(1, b"p"), field(2, b"p"), field(3, b"p")].concat()),
            _ => field(3, &field(1, b"web")),
        };
        field(1, &[field(1, id.as_bytes()), name].concat())
    }

    static CALLS: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());

    fn answer(path: &str, request: &[u8], started: bool) -> (Option<Vec<u8>>, HeaderMap) {
        let method = path.rsplit('/').next().unwrap();
        let answer = match method {
            "ListPodSandbox" => [listed(method, "before"), listed(method, "made")].concat(),
            "ListContainers" => listed(method, "one"),
            "ContainerStatus" if started => field(1, &[5 << 3, 1]),
            "ContainerStatus" => field(1, &[]),
            _ => {
                CALLS.lock().unwrap().push((method.to_owned(), request.to_owned()));
                Vec::new()
            }
        };
        (Some(answer), status("0", ""))
    }

    fn left(answer: Answer, pod: Place) -> Vec<(String, Vec<u8>)> {
        let (directory, cri) = runtime(answer);
        let attempt = Attempt { pod, container: "web".into() };
        let others = vec!["before".to_owned()];
        let record = Record { socket: cri.socket.clone(), attempt, others };
        std::fs::write(directory.path().join(FILE), serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(take_away(directory.path(), Duration::ZERO));
        std::mem::take(&mut CALLS.lock().unwrap())
    }

    #[test]
    fn what_was_not_started_is_removed_and_what_was_stays() {
        let identity = || PodIdentity { name: "p".into(), uid: "p".into(), namespace: "p".into() };
        let half: Answer = |path, request| answer(path, request, false);
        let whole: Answer = |path, request| answer(path, request, true);
        let call = |method: &str, id: &str| (method.to_owned(), field(1, id.as_bytes()));
        let ended = [call("StopPodSandbox", "made"), call("RemovePodSandbox", "made")];
        assert_eq!(left(half, Place::Made(identity())), ended);
        assert_eq!(left(whole, Place::Made(identity())), []);
        assert_eq!(left(half, Place::Given("pod".into())), [call("RemoveContainer", "one")]);
        assert_eq!(left(whole, Place::Given("pod".into())), []);
        let other = PodIdentity { uid: "q".into(), ..identity() };
        assert_eq!(left(half, Place::Made(other)), []);
    }

    #[test]
    fn a_record_stays_while_its_runtime_is_not_there() {
        let place = tempfile::tempdir().unwrap();
        let attempt = Attempt { pod: Place::Given("pod".into()), container: "web".into() };
        let record = Record { socket: place.path().join("none"), attempt, others: Vec::new() };
        let directory = place.path().join("cri-7");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join(FILE), serde_json::to_vec(&record).unwrap()).unwrap();
        clean_up(place.path());
        assert!(directory.exists());
        std::fs::write(directory.join(FILE), "{").unwrap();
        clean_up(place.path());
        assert!(!directory.exists());
    }
}

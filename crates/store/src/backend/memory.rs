//! A store in memory, for tests: it can be made to fail, or to end as if killed, at any operation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Backend, BackendError, Created, Entry, Stat, Tag, Upload, check_key};

#[derive(Clone)]
struct Object {
    body: Arc<Vec<u8>>,
    modified: SystemTime,
}

struct State {
    objects: BTreeMap<String, Object>,
    now: SystemTime,
    /// Changing operations left before the fault.
    until_fault: Option<u64>,
    fault: Fault,
    operations: u64,
}

/// What happens when the counted operation is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// That operation fails for want of space; later ones work.
    FailOnce,
    /// That operation and every later one fail, as if the process was killed.
    Kill,
}

/// Objects in memory. Clones share them, as two nodes share a store.
#[derive(Clone)]
pub struct MemoryBackend {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").finish_non_exhaustive()
    }
}

impl MemoryBackend {
    /// An empty place whose clock stands at 2026-01-01 and moves only by [`MemoryBackend::advance`].
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
            until_fault: None,
            fault: Fault::Kill,
            operations: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `after` more changing operations succeed (each write, finish, delete and replace counts), then strikes.
    pub fn strike(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        state.until_fault = Some(after);
        state.fault = fault;
    }

    /// Ends faults.
    pub fn heal(&self) {
        self.state().until_fault = None;
    }

    /// Changing operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.state().now += by;
    }

    /// A copy of everything with a life of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        let copy = State {
            objects: state.objects.clone(),
            now: state.now,
            until_fault: None,
            fault: Fault::Kill,
            operations: 0,
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Changes an object's bytes behind the store's back.
    ///
    /// # Panics
    /// Where there is no such object.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).unwrap_or_else(|| panic!("no object {key} to damage"));
        change(Arc::make_mut(&mut object.body));
    }
}

impl State {
    fn change(&mut self, path: &str) -> Result<(), BackendError> {
        self.operations += 1;
        match self.until_fault {
            None => Ok(()),
            Some(0) => match self.fault {
                Fault::FailOnce => {
                    self.until_fault = None;
                    Err(BackendError::NoSpace { path: path.to_owned() })
                }
                Fault::Kill => Err(BackendError::Io {
                    action: "write",
                    path: path.to_owned(),
                    source: io::Error::other("the process was killed"),
                }),
            },
            Some(left) => {
                self.until_fault = Some(left - 1);
                Ok(())
            }
        }
    }

    fn insert(&mut self, key: &str, body: Vec<u8>) {
        let modified = self.now;
        self.objects.insert(key.to_owned(), Object { body: Arc::new(body), modified });
    }
}

fn tag_of(body: &[u8]) -> Tag {
    Tag(blake3::hash(body).to_hex().to_string())
}

struct MemoryUpload {
    backend: MemoryBackend,
    body: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.backend.state().change("an upload")?;
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, key: &str) -> Result<Created, BackendError> {
        check_key(key)?;
        let mut state = self.backend.state();
        state.change(key)?;
        if state.objects.get(key).is_some_and(|object| object.body.len() == self.body.len()) {
            return Ok(Created::Existed);
        }
        state.insert(key, self.body);
        Ok(Created::New)
    }
}

impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn prepare(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn begin(&self) -> Result<Box<dyn Upload>, BackendError> {
        Ok(Box::new(MemoryUpload { backend: self.clone(), body: Vec::new() }))
    }

    fn read_at(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        let body = match self.state().objects.get(key) {
            Some(object) => Arc::clone(&object.body),
            None => return Err(BackendError::NotFound { path: key.to_owned() }),
        };
        let end = offset.saturating_add(buffer.len() as u64);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        match range.and_then(|(start, end)| body.get(start..end)) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(BackendError::ShortRead { path: key.to_owned(), end }),
        }
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, BackendError> {
        let state = self.state();
        Ok(state.objects.get(key).map(|o| Stat { size: o.body.len() as u64, modified: o.modified }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, BackendError> {
        let state = self.state();
        let entries = state
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| Entry {
                key: key.clone(),
                stat: Stat { size: object.body.len() as u64, modified: object.modified },
            })
            .collect();
        Ok(entries)
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        let mut state = self.state();
        state.change(key)?;
        match state.objects.remove(key) {
            Some(_) => Ok(()),
            None => Err(BackendError::NotFound { path: key.to_owned() }),
        }
    }

    fn load(&self, key: &str) -> Result<Option<(Tag, Vec<u8>)>, BackendError> {
        let state = self.state();
        Ok(state.objects.get(key).map(|object| (tag_of(&object.body), object.body.to_vec())))
    }

    fn replace(&self, key: &str, expected: Option<&Tag>, body: &[u8]) -> Result<Tag, BackendError> {
        check_key(key)?;
        if body.len() > super::MAX_RECORD {
            return Err(BackendError::RecordTooLarge { path: key.to_owned(), size: body.len() as u64 });
        }
        let mut state = self.state();
        state.change(key)?;
        let found = state.objects.get(key).map(|object| tag_of(&object.body));
        if found.as_ref() != expected {
            return Err(BackendError::Conflict { path: key.to_owned() });
        }
        state.insert(key, body.to_vec());
        Ok(tag_of(body))
    }

    fn now(&self) -> Result<SystemTime, BackendError> {
        Ok(self.state().now)
    }

    fn leftovers(&self, _before: SystemTime) -> Result<Vec<Entry>, BackendError> {
        Ok(Vec::new())
    }

    fn sweep(&self, leftover: &Entry) -> Result<(), BackendError> {
        Err(BackendError::NotFound { path: leftover.key.clone() })
    }
}

//! The store between the two sides: the target keeps it, the source works on it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use torpor_store::Backend;
use torpor_store::backend::{BackendError, Created, Entry, LocalBackend, Stat, Tag, Upload};

use super::MigrationError;
use super::channel::Channel;
use super::message::{self, Answer, PIECE, Request, Store, Stored};

/// How many objects may be written at a time.
const UPLOADS: usize = 64;

/// The connection, which several threads use in turn.
pub(super) type Shared = Arc<Mutex<Channel>>;

/// The source's side.
#[derive(Clone)]
pub struct Depot {
    channel: Shared,
    peer: String,
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Depot {
    /// The store at the other end of a connection.
    #[must_use]
    pub(super) fn new(channel: Shared, peer: String) -> Depot {
        Depot { channel, peer }
    }

    fn ask(&self, store: Store, body: &[u8]) -> Result<(Stored, Vec<u8>), BackendError> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = channel.say(&Request::Store(store), body).and_then(|()| channel.hear::<Answer>());
        match asked {
            Ok((Answer::Stored(Stored::Failed { failure, path }), _)) => Err(failure.error(path)),
            Ok((Answer::Stored(stored), body)) => Ok((stored, body)),
            Ok(_) => Err(self.nonsense()),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: MigrationError) -> BackendError {
        let source = match error {
            MigrationError::Broken { source, .. } => source,
            other => io::Error::other(other),
        };
        BackendError::Io { action: "the connection broke to", path: self.peer.clone(), source }
    }

    fn nonsense(&self) -> BackendError {
        self.broken(MigrationError::Nonsense { peer: self.peer.clone(), what: "the store" })
    }
}

/// An object on its way.
struct Sending {
    depot: Depot,
    upload: u64,
    piece: Vec<u8>,
    finished: bool,
}

impl Sending {
    fn send(&mut self) -> Result<(), BackendError> {
        if !self.piece.is_empty() {
            self.depot.ask(Store::Write { upload: self.upload }, &self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }
}

impl Upload for Sending {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackendError> {
        while !bytes.is_empty() {
            let some = bytes.len().min(PIECE - self.piece.len());
            self.piece.extend_from_slice(&bytes[..some]);
            bytes = &bytes[some..];
            if self.piece.len() == PIECE {
                self.send()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, key: &str) -> Result<Created, BackendError> {
        self.send()?;
        self.finished = true;
        match self.depot.ask(Store::Finish { upload: self.upload, key: key.to_owned() }, &[])? {
            (Stored::Made { new }, _) => Ok(message::made(new)),
            _ => Err(self.depot.nonsense()),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.finished {
            // Where the connection broke, the other side drops it by itself.
            let _ = self.depot.ask(Store::Abandon { upload: self.upload }, &[]);
        }
    }
}

impl Backend for Depot {
    fn location(&self) -> String {
        format!("the store at {}", self.peer)
    }

    fn prepare(&self) -> Result<(), BackendError> {
        self.ask(Store::Prepare, &[]).map(drop)
    }

    fn begin(&self) -> Result<Box<dyn Upload>, BackendError> {
        match self.ask(Store::Begin, &[])? {
            (Stored::Begun { upload }, _) => {
                Ok(Box::new(Sending { depot: self.clone(), upload, piece: Vec::new(), finished: false }))
            }
            _ => Err(self.nonsense()),
        }
    }

    fn read_at(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<(), BackendError> {
        let mut offset = offset;
        for piece in buffer.chunks_mut(PIECE) {
            // A piece has less than 4 GiB.
            let read = Store::ReadAt { key: key.to_owned(), offset, length: piece.len() as u32 };
            match self.ask(read, &[])? {
                (Stored::Done, body) if body.len() == piece.len() => piece.copy_from_slice(&body),
                _ => return Err(self.nonsense()),
            }
            offset = offset.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, BackendError> {
        match self.ask(Store::Stat { key: key.to_owned() }, &[])? {
            (Stored::Found { seen }, _) => Ok(seen.map(Stat::from)),
            _ => Err(self.nonsense()),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, BackendError> {
        match self.ask(Store::List { prefix: prefix.to_owned() }, &[])? {
            (Stored::Listed { entries }, _) => Ok(entries.into_iter().map(message::entry).collect()),
            _ => Err(self.nonsense()),
        }
    }

    fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.ask(Store::Delete { key: key.to_owned() }, &[]).map(drop)
    }

    fn load(&self, key: &str) -> Result<Option<(Tag, Vec<u8>)>, BackendError> {
        match self.ask(Store::Load { key: key.to_owned() }, &[])? {
            (Stored::Loaded { tag }, body) => Ok(tag.map(|tag| (message::tag(tag), body))),
            _ => Err(self.nonsense()),
        }
    }

    fn replace(&self, key: &str, expected: Option<&Tag>, body: &[u8]) -> Result<Tag, BackendError> {
        let expected = expected.map(ToString::to_string);
        match self.ask(Store::Replace { key: key.to_owned(), expected }, body)? {
            (Stored::Replaced { tag }, _) => Ok(message::tag(tag)),
            _ => Err(self.nonsense()),
        }
    }

    fn now(&self) -> Result<SystemTime, BackendError> {
        match self.ask(Store::Now, &[])? {
            (Stored::Time { since }, _) => Ok(message::time(since)),
            _ => Err(self.nonsense()),
        }
    }

    /// The store ends with the migration, with all that is left in it.
    fn leftovers(&self, _: SystemTime) -> Result<Vec<Entry>, BackendError> {
        Ok(Vec::new())
    }

    fn sweep(&self, _: &Entry) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The target's side.
pub(super) struct Keeper {
    backend: Arc<LocalBackend>,
    uploads: HashMap<u64, Box<dyn Upload>>,
    next: u64,
}

impl Keeper {
    pub(super) fn new(backend: Arc<LocalBackend>) -> Keeper {
        Keeper { backend, uploads: HashMap::new(), next: 0 }
    }

    /// The store.
    pub(super) fn backend(&self) -> Arc<LocalBackend> {
        Arc::clone(&self.backend)
    }

    /// Does what is asked for, until something else is said.
    pub(super) fn serve(&mut self, channel: &mut Channel) -> Result<Request, MigrationError> {
        loop {
            match channel.hear()? {
                (Request::Store(store), body) => {
                    let (stored, body) = self.answer(store, &body);
                    channel.say(&Answer::Stored(stored), &body)?;
                }
                (other, _) => return Ok(other),
            }
        }
    }

    /// Does one thing.
    fn answer(&mut self, store: Store, body: &[u8]) -> (Stored, Vec<u8>) {
        self.act(store, body).unwrap_or_else(|error| (error.into(), Vec::new()))
    }

    fn act(&mut self, store: Store, body: &[u8]) -> Result<(Stored, Vec<u8>), BackendError> {
        let backend = &self.backend;
        let stored = match store {
            Store::Prepare => backend.prepare().map(|()| Stored::Done)?,
            Store::Begin => {
                if self.uploads.len() >= UPLOADS {
                    return Err(refused("too many objects are written at a time"));
                }
                self.next += 1;
                self.uploads.insert(self.next, backend.begin()?);
                Stored::Begun { upload: self.next }
            }
            Store::Write { upload } => {
                let upload = self.uploads.get_mut(&upload).ok_or_else(no_upload)?;
                upload.write(body).map(|()| Stored::Done)?
            }
            Store::Finish { upload, key } => {
                let upload = self.uploads.remove(&upload).ok_or_else(no_upload)?;
                Stored::Made { new: upload.finish(&key)? == Created::New }
            }
            Store::Abandon { upload } => {
                self.uploads.remove(&upload);
                Stored::Done
            }
            Store::ReadAt { key, offset, length } => {
                let length = length as usize;
                if length > PIECE {
                    return Err(refused("too much is read at a time"));
                }
                let mut bytes = vec![0; length];
                backend.read_at(&key, offset, &mut bytes)?;
                return Ok((Stored::Done, bytes));
            }
            Store::Stat { key } => Stored::Found { seen: backend.stat(&key)?.map(Into::into) },
            Store::List { prefix } => {
                let entries = backend.list(&prefix)?;
                Stored::Listed {
                    entries: entries.into_iter().map(|entry| (entry.key, entry.stat.into())).collect(),
                }
            }
            Store::Delete { key } => backend.delete(&key).map(|()| Stored::Done)?,
            Store::Load { key } => match backend.load(&key)? {
                Some((tag, record)) => return Ok((Stored::Loaded { tag: Some(tag.to_string()) }, record)),
                None => Stored::Loaded { tag: None },
            },
            Store::Replace { key, expected } => {
                let expected = expected.map(message::tag);
                Stored::Replaced { tag: backend.replace(&key, expected.as_ref(), body)?.to_string() }
            }
            Store::Now => Stored::Time { since: message::since(backend.now()?) },
        };
        Ok((stored, Vec::new()))
    }
}

fn refused(what: &'static str) -> BackendError {
    BackendError::Io { action: "refused by", path: "the store".to_owned(), source: io::Error::other(what) }
}

fn no_upload() -> BackendError {
    refused("no such object is being written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> (tempfile::TempDir, Keeper) {
        let place = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Arc::new(LocalBackend::new(place.path().join("store"))));
        (place, keeper)
    }

    #[test]
    fn objects_come_in_pieces_and_records_change_by_their_tag() {
        let (_place, mut keeper) = keeper();
        let mut ask = |store, body: &[u8]| keeper.answer(store, body);
        assert!(matches!(ask(Store::Prepare, b""), (Stored::Done, _)));
        let (Stored::Begun { upload }, _) = ask(Store::Begin, b"") else { panic!() };
        for piece in [&b"one "[..], b"two"] {
            assert!(matches!(ask(Store::Write { upload }, piece), (Stored::Done, _)));
        }
        let key = || "packs/00".to_owned();
        assert!(matches!(ask(Store::Finish { upload, key: key() }, b""), (Stored::Made { new: true }, _)));
        let (_, body) = ask(Store::ReadAt { key: key(), offset: 4, length: 3 }, b"");
        assert_eq!(body, b"two");
        let key = || "names/x".to_owned();
        let (Stored::Replaced { tag }, _) = ask(Store::Replace { key: key(), expected: None }, b"a") else {
            panic!()
        };
        let (Stored::Loaded { tag: Some(loaded) }, body) = ask(Store::Load { key: key() }, b"") else {
            panic!()
        };
        assert_eq!((loaded, &body[..]), (tag, &b"a"[..]));
        let other = Some("another".to_owned());
        assert!(matches!(ask(Store::Replace { key: key(), expected: other }, b"b").0, Stored::Failed { .. }));
    }

    #[test]
    fn nothing_outside_of_the_store_is_reached() {
        let (place, mut keeper) = keeper();
        keeper.answer(Store::Prepare, b"");
        std::fs::write(place.path().join("outside"), "").unwrap();
        let key = || "../outside".to_owned();
        for store in [
            Store::ReadAt { key: key(), offset: 0, length: 0 },
            Store::Stat { key: key() },
            Store::Delete { key: key() },
            Store::Load { key: key() },
            Store::Replace { key: key(), expected: None },
            Store::ReadAt { key: "packs/00".to_owned(), offset: 0, length: u32::MAX },
            Store::Write { upload: 7 },
        ] {
            let told = format!("{store:?}");
            assert!(matches!(keeper.answer(store, b"x").0, Stored::Failed { .. }), "{told}");
        }
        for _ in 0..UPLOADS {
            keeper.answer(Store::Begin, b"");
        }
        assert!(matches!(keeper.answer(Store::Begin, b"").0, Stored::Failed { .. }));
        assert!(place.path().join("outside").exists());
    }
}

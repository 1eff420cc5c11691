//! What the two sides of a migration say to each other: documents with a body, each with its length before it.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use torpor_store::backend::{BackendError, Created, Entry, Stat, Tag};

use crate::container::Engine;
use crate::container::adoption::Outline;
use crate::machine::Machine;

/// The version of what is said.
pub const VERSION: u32 = 1;
/// The largest document, in bytes.
const DOCUMENT: u32 = 8 << 20;
/// The largest body, in bytes. A record may be as large.
const BODY: u32 = 16 << 20;
/// How much of an object goes with one message at most, in bytes.
pub const PIECE: usize = 4 << 20;

/// What the source says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "say")]
pub enum Request {
    /// What would come.
    Offer(Box<Offer>),
    /// Something about the store.
    Store(Store),
    /// All is there: restore this.
    #[serde(rename_all = "camelCase")]
    Restore {
        /// The generation's manifest.
        manifest: String,
    },
    /// It has ended at the source.
    GoOn,
    /// It stays where it is.
    #[serde(rename_all = "camelCase")]
    Stays {
        /// Why.
        because: String,
    },
}

/// What would come.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// [`VERSION`].
    pub version: u32,
    /// The container's ID.
    pub id: String,
    /// Who had it started.
    pub engine: Engine,
    /// What it is called by its engine.
    pub name: Option<String>,
    /// What an engine needs to make one like it.
    pub outline: Outline,
    /// Its machine.
    pub machine: Machine,
    /// The version of its CRIU, as a number: 40201 is 4.2.1.
    pub criu: u32,
    /// Names by which its mounts from outside are looked up.
    pub external: Vec<PathBuf>,
    /// Memory that may have to be copied, in bytes.
    pub memory: u64,
}

/// What there is at the target.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// Its machine.
    pub machine: Machine,
    /// The version of its CRIU, as a number.
    pub criu: u32,
    /// Who would make the container: the program.
    pub runtime: String,
    /// Memory that is free, in bytes.
    pub memory: u64,
    /// Room for what is sent, in bytes.
    pub room: u64,
}

/// An operation of [`Backend`](torpor_store::Backend).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
#[expect(missing_docs, reason = "they are the operations' own names and arguments")]
pub enum Store {
    Prepare,
    Begin,
    Write { upload: u64 },
    Finish { upload: u64, key: String },
    Abandon { upload: u64 },
    ReadAt { key: String, offset: u64, length: u32 },
    Stat { key: String },
    List { prefix: String },
    Delete { key: String },
    Load { key: String },
    Replace { key: String, expected: Option<String> },
    Now,
}

/// What the target says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "say")]
pub enum Answer {
    /// It can take the container, as far as it sees.
    #[serde(rename_all = "camelCase")]
    Accepted {
        /// [`VERSION`].
        version: u32,
        /// What there is, for the source to decide.
        site: Box<Site>,
    },
    /// It cannot.
    Refused {
        /// Why.
        because: String,
        /// What to do about it.
        remedy: String,
    },
    /// About the store.
    Stored(Stored),
    /// It is at work.
    Working,
    /// The container is there, and stands still.
    Ready,
    /// It goes on.
    Runs {
        /// Its first process.
        pid: i32,
    },
}

/// What an operation came to; some have a body.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
#[expect(missing_docs, reason = "they are what the operations return")]
pub enum Stored {
    Done,
    Begun { upload: u64 },
    Made { new: bool },
    Found { seen: Option<Seen> },
    Listed { entries: Vec<(String, Seen)> },
    Loaded { tag: Option<String> },
    Replaced { tag: String },
    Time { since: Duration },
    Failed { failure: Failure, path: String },
}

/// Size and age of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    size: u64,
    modified: Duration,
}

impl From<Stat> for Seen {
    fn from(stat: Stat) -> Seen {
        Seen { size: stat.size, modified: since(stat.modified) }
    }
}

impl From<Seen> for Stat {
    fn from(seen: Seen) -> Stat {
        Stat { size: seen.size, modified: time(seen.modified) }
    }
}

/// A time as it is told.
#[must_use]
pub fn since(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A time as it was told; no later than clocks go.
#[must_use]
pub fn time(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What an operation failed with; see [`BackendError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[expect(missing_docs, reason = "they are the variants of the store's error")]
pub enum Failure {
    NotFound,
    AlreadyExists,
    Conflict,
    NoSpace,
    ReadOnly,
    PermissionDenied,
    NotADirectory,
    ShortRead { end: u64 },
    RecordTooLarge { size: u64 },
    InvalidKey,
    Other { said: String },
}

impl From<BackendError> for Stored {
    fn from(error: BackendError) -> Stored {
        let said = error.to_string();
        let (failure, path) = match error {
            BackendError::NotFound { path } => (Failure::NotFound, path),
            BackendError::AlreadyExists { path } => (Failure::AlreadyExists, path),
            BackendError::Conflict { path } => (Failure::Conflict, path),
            BackendError::NoSpace { path } => (Failure::NoSpace, path),
            BackendError::ReadOnly { path } => (Failure::ReadOnly, path),
            BackendError::PermissionDenied { path } => (Failure::PermissionDenied, path),
            BackendError::NotADirectory { path } => (Failure::NotADirectory, path),
            BackendError::ShortRead { path, end } => (Failure::ShortRead { end }, path),
            BackendError::RecordTooLarge { path, size } => (Failure::RecordTooLarge { size }, path),
            BackendError::InvalidKey { key } => (Failure::InvalidKey, key),
            BackendError::Io { path, source, .. } => {
                (Failure::Other { said: format!("{said}: {source}") }, path)
            }
            _ => (Failure::Other { said }, String::new()),
        };
        Stored::Failed { failure, path }
    }
}

impl Failure {
    /// The error it was.
    #[must_use]
    pub fn error(self, path: String) -> BackendError {
        match self {
            Failure::NotFound => BackendError::NotFound { path },
            Failure::AlreadyExists => BackendError::AlreadyExists { path },
            Failure::Conflict => BackendError::Conflict { path },
            Failure::NoSpace => BackendError::NoSpace { path },
            Failure::ReadOnly => BackendError::ReadOnly { path },
            Failure::PermissionDenied => BackendError::PermissionDenied { path },
            Failure::NotADirectory => BackendError::NotADirectory { path },
            Failure::ShortRead { end } => BackendError::ShortRead { path, end },
            Failure::RecordTooLarge { size } => BackendError::RecordTooLarge { path, size },
            Failure::InvalidKey => BackendError::InvalidKey { key: path },
            Failure::Other { said } => {
                BackendError::Io { action: "cannot use", path, source: io::Error::other(said) }
            }
        }
    }
}

/// Whether an object was new.
#[must_use]
pub fn made(new: bool) -> Created {
    if new { Created::New } else { Created::Existed }
}

/// An object of a listing.
#[must_use]
pub fn entry((key, seen): (String, Seen)) -> Entry {
    Entry { key, stat: seen.into() }
}

/// What a record was when it was read.
#[must_use]
pub fn tag(text: String) -> Tag {
    Tag::new(text)
}

/// Writes a document and its body.
///
/// # Errors
/// One of them is too large, or the other side is gone.
pub fn write(to: &mut impl Write, document: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let document = serde_json::to_vec(document)?;
    let length = |bytes: &[u8], limit: u32| {
        u32::try_from(bytes.len()).ok().filter(|length| *length <= limit).ok_or(io::ErrorKind::InvalidInput)
    };
    let lengths = [length(&document, DOCUMENT)?, length(body, BODY)?];
    let mut head = [0; 8];
    head[..4].copy_from_slice(&lengths[0].to_le_bytes());
    head[4..].copy_from_slice(&lengths[1].to_le_bytes());
    to.write_all(&head)?;
    to.write_all(&document)?;
    to.write_all(body)?;
    to.flush()
}

/// Reads a document and its body.
///
/// # Errors
/// It is too large or no such document, or the other side is gone.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let length = |at: usize| u32::from_le_bytes(std::array::from_fn(|place| head[at + place]));
    let (document, body) = (length(0), length(4));
    if document > DOCUMENT || body > BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let document = exactly(from, document)?;
    let body = exactly(from, body)?;
    Ok((serde_json::from_slice(&document)?, body))
}

/// So many bytes, for which no more memory is taken than have come.
fn exactly(from: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let mut line = Vec::new();
        write(&mut line, &Request::Store(Store::Write { upload: 3 }), b"pages").unwrap();
        write(&mut line, &Request::GoOn, b"").unwrap();
        let mut line = &line[..];
        let (request, body) = read::<Request>(&mut line).unwrap();
        assert!(matches!(request, Request::Store(Store::Write { upload: 3 })));
        assert_eq!(body, b"pages");
        assert!(matches!(read::<Request>(&mut line).unwrap(), (Request::GoOn, _)));
        assert_eq!(read::<Request>(&mut line).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn errors_of_a_store_come_through() {
        let path = || "packs/00".to_owned();
        for error in [
            BackendError::NotFound { path: path() },
            BackendError::Conflict { path: path() },
            BackendError::ShortRead { path: path(), end: 5 },
            BackendError::InvalidKey { key: "../x".to_owned() },
        ] {
            let told = error.to_string();
            let Stored::Failed { failure, path } = Stored::from(error) else { panic!("{told}") };
            assert_eq!(failure.error(path).to_string(), told);
        }
    }

    #[test]
    fn more_than_the_limit_is_refused_before_memory_is_taken() {
        for head in [[0xff; 8], [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
            let error = read::<Request>(&mut &head[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(write(&mut Vec::new(), &Request::GoOn, &vec![0; BODY as usize + 1]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read::<Request>(&mut &bytes[..]);
            let _ = read::<Answer>(&mut &bytes[..]);
        }
    }
}

//! Keys that permits are signed with, and by which they are believed.
//!
//! A key is a line of text: three words, of which the last is base64. A secret key is a PKCS #8 document (RFC 5958, RFC 8410), a
//! public one its 32 bytes.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const SECRET: [&str; 2] = ["torpor-secret-key", "ed25519"];
const PUBLIC: [&str; 2] = ["torpor-public-key", "ed25519"];
/// The longest file that is read for a key, in bytes.
const LONGEST: u64 = 4096;

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyPairError {
    /// Its file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in the file is no such key.
    #[error("{} holds no {kind} key", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// `secret` or `public`.
        kind: &'static str,
    },
    /// The system has no random numbers.
    #[error("no key can be made: the system gives no random numbers")]
    Random,
}

impl KeyPairError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            KeyPairError::File { .. } => {
                "see whether it is there and may be used; an existing key is never written over"
            }
            KeyPairError::NoKey { kind: "secret", .. } => "`torpor key pair FILE` makes one",
            KeyPairError::NoKey { .. } => "name the file FILE.pub that `torpor key pair FILE` has made",
            KeyPairError::Random => "see getrandom(2)",
        }
    }
}

/// Signs.
pub struct SecretKey {
    document: Vec<u8>,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").finish_non_exhaustive()
    }
}

/// Is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl SecretKey {
    /// A new one.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn generate() -> Result<SecretKey, KeyPairError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyPairError::Random)?;
        SecretKey::of(document.as_ref()).ok_or(KeyPairError::Random)
    }

    fn of(document: &[u8]) -> Option<SecretKey> {
        let pair = Ed25519KeyPair::from_pkcs8(document).ok()?;
        Some(SecretKey { document: document.to_vec(), pair })
    }

    /// Reads one.
    ///
    /// # Errors
    /// There is none in the file.
    pub fn read(path: &Path) -> Result<SecretKey, KeyPairError> {
        let document = words(&read(path)?, SECRET);
        document
            .and_then(|document| SecretKey::of(&document))
            .ok_or_else(|| KeyPairError::NoKey { path: path.to_owned(), kind: "secret" })
    }

    /// Writes it to a file of its own, for its owner alone, and the public one beside it, with `.pub` behind its name.
    ///
    /// # Errors
    /// One of them is there already, or cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf, KeyPairError> {
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        let public = PathBuf::from(public);
        let secret = format!("{} {} {}\n", SECRET[0], SECRET[1], STANDARD.encode(&self.document));
        for (path, mode, text) in [(path, 0o600, secret), (&public, 0o644, format!("{}\n", self.public()))] {
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|source| KeyPairError::File { path: path.to_owned(), source })?;
        }
        Ok(public)
    }

    /// The other half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(key)
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

impl PublicKey {
    /// Reads one.
    ///
    /// # Errors
    /// There is none in the file.
    pub fn read(path: &Path) -> Result<PublicKey, KeyPairError> {
        read(path)?.parse().map_err(|NotAKey| KeyPairError::NoKey { path: path.to_owned(), kind: "public" })
    }

    pub(super) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(bytes, signature).is_ok()
    }
}

/// A text that is no public key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is no public key")]
pub struct NotAKey;

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<PublicKey, NotAKey> {
        let bytes = words(text, PUBLIC).ok_or(NotAKey)?;
        bytes.try_into().map(PublicKey).map_err(|_| NotAKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", PUBLIC[0], PUBLIC[1], STANDARD.encode(self.0))
    }
}

fn read(path: &Path) -> Result<String, KeyPairError> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .map_err(|source| KeyPairError::File { path: path.to_owned(), source })?;
    Ok(text)
}

fn words(text: &str, head: [&str; 2]) -> Option<Vec<u8>> {
    let mut words = text.split_ascii_whitespace();
    let known = head.iter().all(|word| words.next() == Some(word));
    let body = words.next().filter(|_| known && words.next().is_none())?;
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pair_is_written_once_and_read_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let key = SecretKey::generate().unwrap();
        let public = key.write(&path).unwrap();
        assert_eq!(public, place.path().join("key.pub"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SecretKey::read(&path).unwrap().public(), key.public());
        assert_eq!(PublicKey::read(&public).unwrap(), key.public());
        assert!(matches!(key.write(&path), Err(KeyPairError::File { .. })));
        assert!(matches!(PublicKey::read(&path), Err(KeyPairError::NoKey { kind: "public", .. })));
        assert!(matches!(SecretKey::read(&public), Err(KeyPairError::NoKey { kind: "secret", .. })));
    }

    proptest::proptest! {
        #[test]
        fn what_is_no_key_is_refused(text: String) {
            proptest::prop_assert!(text.parse::<PublicKey>().is_err());
            let document = format!("{} {} {text}", SECRET[0], SECRET[1]);
            proptest::prop_assert!(words(&document, SECRET).and_then(|bytes| SecretKey::of(&bytes)).is_none());
        }
    }
}

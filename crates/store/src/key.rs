//! The store's key, and what opens it.
//!
//! An encrypted store has one random secret that never changes. It lies in the store once for each *slot*, wrapped by
//! a key made from a passphrase (Argon2id) or a key file; changing a passphrase adds a slot and removes the old one,
//! and no data is written again.

use std::fmt;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::backend::BackendError;
use crate::id::{SlotId, StoreId};
use crate::seal::{Secret, derive, random};

/// Fewest bytes of a key file, so that nobody mistakes a word for a key.
const MIN_KEY_FILE: usize = 16;
/// Most bytes of a passphrase or key file.
const MAX_CREDENTIAL: u64 = 1 << 20;
const SALT: usize = 16;
/// A secret of 32 bytes and its tag.
const WRAPPED: usize = 48;

/// What opens a store.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nothing: the store is not encrypted.
    #[default]
    None,
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The content of a key file: any bytes, at least 16.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Passphrase(_) => "Passphrase(…)",
            Self::KeyFile(_) => "KeyFile(…)",
        })
    }
}

impl Credentials {
    /// A passphrase; line ends after it are not part of it.
    #[must_use]
    pub fn passphrase(text: &str) -> Self {
        Self::Passphrase(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The passphrase in the first line of a file.
    ///
    /// # Errors
    /// Where the file cannot be read, its first line is empty, or it is not UTF-8.
    pub fn from_passphrase_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = read_credential(path)?;
        let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.lines().next()).unwrap_or_default();
        if text.is_empty() {
            return Err(KeyError::NoPassphrase { path: path.display().to_string() });
        }
        Ok(Self::passphrase(text))
    }

    /// A key file.
    ///
    /// # Errors
    /// Where the file cannot be read or has fewer than 16 bytes.
    pub fn from_key_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = read_credential(path)?;
        if bytes.len() < MIN_KEY_FILE {
            return Err(KeyError::ShortKeyFile { path: path.display().to_string(), size: bytes.len() });
        }
        Ok(Self::KeyFile(bytes))
    }

    fn slot_kind(&self) -> Option<SlotKind> {
        match self {
            Self::None => None,
            Self::Passphrase(_) => Some(SlotKind::Passphrase),
            Self::KeyFile(_) => Some(SlotKind::KeyFile),
        }
    }
}

fn read_credential(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.display().to_string(), source };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_CREDENTIAL {
        return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

/// Why a store's key cannot be had or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A passphrase or key file cannot be read.
    #[error("cannot read the key from {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A passphrase file has no passphrase.
    #[error("{path}: its first line is not a passphrase")]
    NoPassphrase {
        /// The file.
        path: String,
    },
    /// A key file is too short to be a key.
    #[error("{path}: {size} bytes are too few for a key file")]
    ShortKeyFile {
        /// The file.
        path: String,
        /// Bytes it has.
        size: usize,
    },
    /// The store is encrypted and no credentials were given.
    #[error("the store in {location} is encrypted, and no key was given")]
    Needed {
        /// The store.
        location: String,
    },
    /// Credentials were given for a store that is not encrypted.
    #[error("the store in {location} is not encrypted, though a key was given")]
    NotEncrypted {
        /// The store.
        location: String,
    },
    /// The credentials open none of the slots.
    #[error("the {kind} does not open the store in {location}")]
    Wrong {
        /// What was given.
        kind: &'static str,
        /// The store.
        location: String,
    },
    /// There is no such slot.
    #[error("the store has no key slot {slot}")]
    NoSuchSlot {
        /// The slot.
        slot: SlotId,
    },
    /// Without this slot nobody could open the store.
    #[error("key slot {slot} is the last one")]
    LastSlot {
        /// The slot.
        slot: SlotId,
    },
    /// The store has as many slots as it can have.
    #[error("the store has {count} key slots already")]
    TooManySlots {
        /// How many.
        count: usize,
    },
    /// The store's header cannot be read or replaced.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The store's header is damaged.
    #[error("the header of the store in {location} is damaged: {reason}")]
    Header {
        /// The store.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl KeyError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "check the path and its permissions",
            Self::NoPassphrase { .. } => "write the passphrase into the file's first line",
            Self::ShortKeyFile { .. } => "make a key file of at least 16 random bytes",
            Self::Needed { .. } => "give --passphrase-file or --key-file",
            Self::NotEncrypted { .. } => {
                "leave the key away, or choose another store: an existing store cannot become encrypted"
            }
            Self::Wrong { .. } => {
                "give the passphrase or key file that this store was made with, or was given since"
            }
            Self::NoSuchSlot { .. } => "list the slots with `torpor key ls`",
            Self::LastSlot { .. } => "add another key first with `torpor key add`",
            Self::TooManySlots { .. } => "remove one first with `torpor key rm`",
            Self::Backend(error) => error.remedy(),
            Self::Header { .. } => {
                "put the file torpor-store back from a backup: without it an encrypted store is lost"
            }
        }
    }
}

/// How a slot's key is made. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// From a passphrase.
    Passphrase = 1,
    /// From a key file.
    KeyFile = 2,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl SlotKind {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
        }
    }
}

/// What a passphrase costs to try, for Argon2id.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Cost {
    /// Memory in KiB.
    #[prost(uint32, tag = "1")]
    pub(crate) memory: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) passes: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) lanes: u32,
}

impl Cost {
    /// Above the least that OWASP's password storage cheat sheet asks for, and within what a small pod can spare.
    pub(crate) const STANDARD: Self = Self { memory: 32 << 10, passes: 3, lanes: 1 };

    /// A hostile header must not take all memory or time.
    fn is_bearable(self) -> bool {
        (8..=1 << 20).contains(&self.memory)
            && (1..=64).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

/// A key slot, as the header has it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Slot {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) salt: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(crate) cost: Option<Cost>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) wrapped: Vec<u8>,
}

fn wrapping_key(credentials: &Credentials, salt: &[u8], cost: Cost) -> Option<Zeroizing<[u8; 32]>> {
    match credentials {
        Credentials::None => None,
        Credentials::Passphrase(text) => {
            if !cost.is_bearable() {
                return None;
            }
            let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).ok()?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(text.as_bytes(), salt, key.as_mut_slice())
                .ok()?;
            Some(key)
        }
        Credentials::KeyFile(bytes) => {
            let mut material = Zeroizing::new(Vec::with_capacity(salt.len() + bytes.len()));
            material.extend_from_slice(salt);
            material.extend_from_slice(bytes);
            Some(derive("torpor store 1: key file", &material))
        }
    }
}

fn associated(store: StoreId, slot: &[u8]) -> Vec<u8> {
    [b"torpor store 1: slot".as_slice(), store.as_bytes(), slot].concat()
}

impl Slot {
    /// Wraps the secret for these credentials; `None` where there are none.
    pub(crate) fn wrap(
        store: StoreId,
        secret: &Secret,
        credentials: &Credentials,
        cost: Cost,
    ) -> Option<Self> {
        let kind = credentials.slot_kind()?;
        let (id, salt, nonce) = (random::<{ SlotId::LEN }>(), random::<SALT>(), random::<24>());
        let key = wrapping_key(credentials, &salt, cost)?;
        let mut wrapped = secret.to_vec();
        let tag = XChaCha20Poly1305::new(&Key::from(*key))
            .encrypt_inout_detached(
                &XNonce::from(nonce),
                &associated(store, &id),
                InOutBuf::from(wrapped.as_mut_slice()),
            )
            .ok()?;
        wrapped.extend_from_slice(&tag);
        Some(Self {
            id: id.to_vec(),
            kind: kind as u32,
            salt: salt.to_vec(),
            cost: (kind == SlotKind::Passphrase).then_some(cost),
            nonce: nonce.to_vec(),
            wrapped,
        })
    }

    /// The secret, if these credentials open the slot.
    pub(crate) fn unwrap(&self, store: StoreId, credentials: &Credentials) -> Option<Secret> {
        if credentials.slot_kind()? as u32 != self.kind
            || self.wrapped.len() != WRAPPED
            || self.salt.len() != SALT
        {
            return None;
        }
        let nonce = XNonce::from(<[u8; 24]>::try_from(self.nonce.as_slice()).ok()?);
        let key = wrapping_key(credentials, &self.salt, self.cost.unwrap_or(Cost::STANDARD))?;
        let (body, tag) = self.wrapped.split_at(32);
        let mut secret = Zeroizing::new(<[u8; 32]>::try_from(body).ok()?);
        XChaCha20Poly1305::new(&Key::from(*key))
            .decrypt_inout_detached(
                &nonce,
                &associated(store, &self.id),
                InOutBuf::from(secret.as_mut_slice()),
                &Tag::from(<[u8; 16]>::try_from(tag).ok()?),
            )
            .ok()?;
        Some(secret)
    }

    /// Its id and kind, where both are known ones.
    pub(crate) fn describe(&self) -> Option<(SlotId, SlotKind)> {
        let kind = match self.kind {
            1 => SlotKind::Passphrase,
            2 => SlotKind::KeyFile,
            _ => return None,
        };
        Some((SlotId::try_from(self.id.as_slice()).ok()?, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

    #[test]
    fn a_slot_opens_for_its_credentials_only() {
        let (store, secret) = (StoreId([1; 16]), Zeroizing::new([9; 32]));
        let right =
            [Credentials::passphrase("correct horse"), Credentials::KeyFile(Zeroizing::new(vec![5; 32]))];
        for credentials in &right {
            let slot = Slot::wrap(store, &secret, credentials, CHEAP).unwrap();
            assert_eq!(slot.unwrap(store, credentials), Some(secret.clone()));
            assert_eq!(slot.unwrap(StoreId([2; 16]), credentials), None);
            let wrong = [
                Credentials::None,
                Credentials::passphrase("battery staple"),
                Credentials::KeyFile(Zeroizing::new(vec![6; 32])),
            ];
            for wrong in &wrong {
                assert_eq!(slot.unwrap(store, wrong), None);
            }
        }
    }

    #[test]
    fn a_hostile_cost_is_not_paid() {
        let (store, credentials) = (StoreId([1; 16]), Credentials::passphrase("x"));
        let slot = Slot::wrap(store, &Zeroizing::new([9; 32]), &credentials, CHEAP).unwrap();
        for cost in [
            Cost { memory: u32::MAX, ..CHEAP },
            Cost { passes: u32::MAX, ..CHEAP },
            Cost { lanes: u32::MAX, ..CHEAP },
            Cost { memory: 0, passes: 0, lanes: 0 },
        ] {
            assert_eq!(Slot { cost: Some(cost), ..slot.clone() }.unwrap(store, &credentials), None);
        }
    }

    #[test]
    fn credentials_do_not_print_their_secret() {
        assert_eq!(format!("{:?}", Credentials::passphrase("hunter2")), "Passphrase(…)");
    }

    #[test]
    fn credential_files_must_hold_something() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "secret\nsecond line\n").unwrap();
        let Credentials::Passphrase(text) = Credentials::from_passphrase_file(&path).unwrap() else {
            panic!()
        };
        assert_eq!(text.as_str(), "secret");
        assert!(matches!(
            Credentials::from_key_file(&directory.path().join("no")),
            Err(KeyError::Unreadable { .. })
        ));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Credentials::from_passphrase_file(&path), Err(KeyError::NoPassphrase { .. })));
        assert!(matches!(Credentials::from_key_file(&path), Err(KeyError::ShortKeyFile { size: 1, .. })));
    }
}

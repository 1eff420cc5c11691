//! The store's header, and the envelope of objects that are read whole.

use prost::Message;
use zeroize::Zeroizing;

use crate::id::StoreId;
use crate::key::{Credentials, Slot};
use crate::manifest::PAGE_SIZE;
use crate::read::ReadError;
use crate::seal::{Cipher, Sealed, Sealer, Secret, derive};

/// The version of everything this code writes.
pub const VERSION: u32 = 1;

/// Key of the header.
pub(crate) const HEADER: &str = "torpor-store";
pub(crate) const PACKS: &str = "packs/";
pub(crate) const INDEXES: &str = "index/";
pub(crate) const MANIFESTS: &str = "manifests/";
pub(crate) const TOMBSTONES: &str = "tombstones/";

const HEADER_MAGIC: &[u8; 12] = b"torpor-store";
/// Most bytes of a header.
pub(crate) const MAX_HEADER: usize = 64 << 10;
/// Most key slots.
pub(crate) const MAX_SLOTS: usize = 32;
const CHECK: usize = 32;

/// Flags of features that every reader must know. None yet.
const KNOWN_INCOMPATIBLE: u64 = 0;
/// Flags of features that every writer must know. None yet.
const KNOWN_READ_ONLY: u64 = 0;

/// The header's fields.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    store: Vec<u8>,
    #[prost(uint64, tag = "2")]
    compatible: u64,
    #[prost(uint64, tag = "3")]
    read_only: u64,
    #[prost(uint64, tag = "4")]
    incompatible: u64,
    #[prost(uint32, tag = "5")]
    cipher: u32,
    /// The secret of a store that is not encrypted.
    #[prost(bytes = "vec", tag = "6")]
    public_secret: Vec<u8>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) slots: Vec<Slot>,
    #[prost(uint32, tag = "8")]
    page_size: u32,
    /// Seconds since 1970.
    #[prost(int64, tag = "9")]
    created: i64,
}

/// Why a header opens for nobody, or not for these credentials.
#[derive(Debug)]
pub(crate) enum Locked {
    Read(ReadError),
    Needed,
    NotEncrypted,
    Wrong(&'static str),
}

impl From<ReadError> for Locked {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

fn damaged(reason: impl Into<String>) -> ReadError {
    ReadError::Damaged { object: format!("the header {HEADER}"), reason: reason.into() }
}

impl Header {
    pub(crate) fn new(store: StoreId, secret: &Secret, slot: Option<Slot>, created: i64) -> Self {
        let encrypted = slot.is_some();
        Self {
            store: store.as_bytes().to_vec(),
            compatible: 0,
            read_only: 0,
            incompatible: 0,
            cipher: if encrypted { Cipher::XChaCha20Poly1305 } else { Cipher::Null } as u32,
            public_secret: if encrypted { Vec::new() } else { secret.to_vec() },
            slots: slot.into_iter().collect(),
            page_size: PAGE_SIZE as u32,
            created,
        }
    }

    /// The header as stored: magic, version, length, fields, and a check keyed with the secret.
    pub(crate) fn encode(&self, secret: &Secret) -> Vec<u8> {
        let fields = self.encode_to_vec();
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(fields.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&fields);
        let check = header_check(secret, &bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// Reads a header and finds its secret.
    pub(crate) fn unlock(bytes: &[u8], credentials: &Credentials) -> Result<(Self, Sealer, Secret), Locked> {
        let header = Self::parse(bytes)?;
        let store = StoreId::try_from(header.store.as_slice()).map_err(|error| damaged(error.to_string()))?;
        let (cipher, secrets): (_, Vec<Secret>) = match header.cipher {
            0 => {
                if !matches!(credentials, Credentials::None) {
                    return Err(Locked::NotEncrypted);
                }
                let secret = <[u8; 32]>::try_from(header.public_secret.as_slice())
                    .map_err(|_| damaged("its secret has not 32 bytes"))?;
                (Cipher::Null, vec![Zeroizing::new(secret)])
            }
            1 => {
                if matches!(credentials, Credentials::None) {
                    return Err(Locked::Needed);
                }
                let opened = header.slots.iter().filter_map(|slot| slot.unwrap(store, credentials));
                (Cipher::XChaCha20Poly1305, opened.collect())
            }
            other => return Err(damaged(format!("there is no cipher {other}")).into()),
        };
        let Some(secret) = secrets.into_iter().next() else {
            return Err(Locked::Wrong(match credentials {
                Credentials::KeyFile(_) => "key file",
                _ => "passphrase",
            }));
        };
        verify_check(bytes, &secret)?;
        let sealer = Sealer::new(store, cipher, &secret);
        Ok((header, sealer, secret))
    }

    /// Reads a header again whose secret is known.
    pub(crate) fn reread(bytes: &[u8], secret: &Secret) -> Result<Self, ReadError> {
        let header = Self::parse(bytes)?;
        verify_check(bytes, secret)?;
        Ok(header)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        if bytes.len() > MAX_HEADER {
            return Err(damaged(format!("{} bytes are too many", bytes.len())));
        }
        let rest =
            bytes.strip_prefix(HEADER_MAGIC).ok_or_else(|| damaged("it does not begin as a header does"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
        let version = u32::from_le_bytes(*version);
        if version > VERSION {
            return Err(ReadError::TooNew { object: "the store".to_owned(), found: version, ours: VERSION });
        }
        if version == 0 {
            return Err(damaged("there is no version 0"));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if rest.len() != length + CHECK {
            return Err(damaged("its length is not what it says"));
        }
        let header = Self::decode(&rest[..length]).map_err(|error| damaged(error.to_string()))?;
        let unknown = header.incompatible & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            return Err(ReadError::UnknownFeatures { object: "the store".to_owned(), flags: unknown });
        }
        if header.page_size != PAGE_SIZE as u32 {
            return Err(damaged(format!("pages of {} bytes are not supported", header.page_size)));
        }
        if header.slots.len() > MAX_SLOTS {
            return Err(damaged(format!("{} key slots are too many", header.slots.len())));
        }
        Ok(header)
    }

    /// Features this code must not write with, as flags.
    pub(crate) fn unwritable(&self) -> u64 {
        self.read_only & !KNOWN_READ_ONLY
    }
}

fn verify_check(bytes: &[u8], secret: &Secret) -> Result<(), ReadError> {
    let (body, check) = bytes.split_last_chunk::<CHECK>().ok_or_else(|| damaged("it is cut short"))?;
    if header_check(secret, body) == blake3::Hash::from_bytes(*check) {
        Ok(())
    } else {
        Err(damaged("its check does not match its bytes"))
    }
}

fn header_check(secret: &Secret, bytes: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(&derive("torpor store 1: header", secret.as_slice()), bytes)
}

/// Bytes before the sealed part of an envelope: magic, version.
const ENVELOPE: usize = 12;
const ENVELOPE_LEVEL: i32 = 3;

fn envelope_magic(kind: Sealed) -> &'static [u8; 8] {
    match kind {
        Sealed::Index => b"torporIX",
        Sealed::Manifest => b"torporMF",
        Sealed::Record => b"torporRC",
        Sealed::Block | Sealed::PackTable => b"torporPK",
    }
}

/// Puts a message into the envelope of a whole object: magic, version, and sealed: its length and its bytes,
/// compressed.
pub(crate) fn enclose(sealer: &Sealer, kind: Sealed, name: &[u8], message: &[u8]) -> Vec<u8> {
    let mut body = (message.len() as u32).to_le_bytes().to_vec();
    // zstd compresses from memory to memory without failing; were it to, the reader would name the object.
    body.extend_from_slice(&zstd::bulk::compress(message, ENVELOPE_LEVEL).unwrap_or_default());
    let mut bytes = envelope_magic(kind).to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&sealer.seal_copy(kind, name, &body));
    bytes
}

/// Takes the message out of an envelope. `object` names it in errors.
pub(crate) fn disclose(
    sealer: &Sealer,
    kind: Sealed,
    name: &[u8],
    mut bytes: Vec<u8>,
    limit: usize,
    object: &dyn Fn() -> String,
) -> Result<Vec<u8>, ReadError> {
    let damaged = |reason: &str| ReadError::Damaged { object: object(), reason: reason.to_owned() };
    let (head, sealed) = bytes.split_at_mut_checked(ENVELOPE).ok_or_else(|| damaged("it is cut short"))?;
    let (magic, version) = head.split_at(8);
    if magic != envelope_magic(kind) {
        return Err(damaged("it does not begin as its kind does"));
    }
    let version = u32::from_le_bytes(version.try_into().map_err(|_| damaged("it is cut short"))?);
    if version > VERSION {
        return Err(ReadError::TooNew { object: object(), found: version, ours: VERSION });
    }
    let body = sealer.open(kind, name, sealed).map_err(|error| damaged(&error.to_string()))?;
    let (length, body) = body.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > limit {
        return Err(damaged("it is larger than its kind may be"));
    }
    let message = zstd::bulk::decompress(body, length).map_err(|_| damaged("it does not decompress"))?;
    if message.len() != length {
        return Err(damaged("its length is not what it says"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> (Header, Secret) {
        let secret = Zeroizing::new([1; 32]);
        (Header::new(StoreId([2; 16]), &secret, None, 0), secret)
    }

    #[test]
    fn a_newer_version_is_named() {
        let (header, secret) = plain();
        let mut bytes = header.encode(&secret);
        bytes[12] = 9;
        let Err(Locked::Read(error)) = Header::unlock(&bytes, &Credentials::None) else { panic!() };
        assert_eq!(error.to_string(), "the store has format version 9, and this torpor reads up to 1");
    }

    #[test]
    fn an_unknown_feature_is_named() {
        let (mut header, secret) = plain();
        header.incompatible = 4;
        let Err(Locked::Read(error)) = Header::unlock(&header.encode(&secret), &Credentials::None) else {
            panic!()
        };
        assert_eq!(error.to_string(), "the store uses features this torpor does not know (flags 0x4)");
    }

    #[test]
    fn a_store_cannot_lose_its_encryption_unnoticed() {
        let (header, secret) = plain();
        let opened = Header::unlock(&header.encode(&secret), &Credentials::passphrase("x"));
        assert!(matches!(opened, Err(Locked::NotEncrypted)));
    }

    #[test]
    fn an_envelope_of_a_newer_version_is_named() {
        let (header, secret) = plain();
        let (_, sealer, _) = Header::unlock(&header.encode(&secret), &Credentials::None).unwrap();
        let mut bytes = enclose(&sealer, Sealed::Manifest, b"n", b"message");
        let object = || "manifest n".to_owned();
        assert_eq!(
            disclose(&sealer, Sealed::Manifest, b"n", bytes.clone(), 100, &object).unwrap(),
            b"message"
        );
        assert!(disclose(&sealer, Sealed::Manifest, b"n", bytes.clone(), 3, &object).is_err());
        bytes[8] = 2;
        let error = disclose(&sealer, Sealed::Manifest, b"n", bytes, 100, &object).unwrap_err();
        assert_eq!(error.to_string(), "manifest n has format version 2, and this torpor reads up to 1");
    }

    proptest! {
        #[test]
        fn takes_any_header_without_panic(bytes: Vec<u8>) {
            let mut whole = HEADER_MAGIC.to_vec();
            whole.extend_from_slice(&VERSION.to_le_bytes());
            whole.extend_from_slice(&(bytes.len().saturating_sub(CHECK) as u32).to_le_bytes());
            whole.extend_from_slice(&bytes);
            let _ = Header::unlock(&whole, &Credentials::None);
            let _ = Header::unlock(&bytes, &Credentials::None);
        }

        #[test]
        fn any_change_to_a_header_is_noticed(at: prop::sample::Index, bit in 0_u32..8) {
            let (header, secret) = plain();
            let mut bytes = header.encode(&secret);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Header::unlock(&bytes, &Credentials::None).is_err());
        }
    }
}

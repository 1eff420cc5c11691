//! Sealing and naming: what makes every byte verifiable, and in an encrypted store unreadable to others.
//!
//! All keys derive from the store's one secret by BLAKE3's key derivation, each with a context string of its own
//! (listed in `docs/formats/store.md`). Sealed bytes are
//!
//! - encrypted: a random 24-byte nonce, the ciphertext, a 16-byte tag (XChaCha20-Poly1305);
//! - not encrypted: the plain bytes and a 16-byte check (keyed BLAKE3, truncated).
//!
//! Either is bound to its associated data: the kind of object, the store's id, and the object's name.

use std::fmt;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::id::{BlockId, Digest, IndexId, ManifestId, PackId, StoreId};

const NONCE: usize = 24;
const TAG: usize = 16;

/// A store's secret: random in an encrypted store, public in one that is not.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// What sort of object is sealed. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    Block = 1,
    PackTable = 2,
    Index = 3,
    Manifest = 4,
    Record = 5,
}

/// How a store seals. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    Null = 0,
    XChaCha20Poly1305 = 1,
}

/// The bytes are not what was sealed with this key for this kind and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its check does not match its bytes")]
pub(crate) struct NotAuthentic;

/// Seals, opens and names with a store's keys.
pub(crate) struct Sealer {
    store: StoreId,
    cipher: Option<XChaCha20Poly1305>,
    check: Zeroizing<[u8; 32]>,
    page: Zeroizing<[u8; 32]>,
    bytes: Zeroizing<[u8; 32]>,
    block: Zeroizing<[u8; 32]>,
    pack: Zeroizing<[u8; 32]>,
    index: Zeroizing<[u8; 32]>,
    manifest: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The key for one purpose.
pub(crate) fn derive(purpose: &str, secret: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key(purpose, secret))
}

/// Random bytes from the system.
///
/// # Panics
/// Where the system has none, which Linux rules out once it has booted.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system yields random bytes");
    bytes
}

fn truncated(hash: blake3::Hash) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

impl Sealer {
    pub(crate) fn new(store: StoreId, cipher: Cipher, secret: &Secret) -> Self {
        let key = |purpose: &str| derive(purpose, secret.as_slice());
        let seal = key("torpor store 1: seal");
        Self {
            store,
            cipher: (cipher == Cipher::XChaCha20Poly1305).then(|| XChaCha20Poly1305::new(&Key::from(*seal))),
            check: key("torpor store 1: check"),
            page: key("torpor store 1: page"),
            bytes: key("torpor store 1: bytes"),
            block: key("torpor store 1: block"),
            pack: key("torpor store 1: pack"),
            index: key("torpor store 1: index"),
            manifest: key("torpor store 1: manifest"),
        }
    }

    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    pub(crate) fn is_encrypting(&self) -> bool {
        self.cipher.is_some()
    }

    pub(crate) fn page_digest(&self, page: &[u8]) -> Digest {
        Digest(truncated(blake3::keyed_hash(&self.page, page)))
    }

    pub(crate) fn bytes_digest(&self, run: &[u8]) -> Digest {
        Digest(truncated(blake3::keyed_hash(&self.bytes, run)))
    }

    pub(crate) fn block_id(&self, shape: &[u8]) -> BlockId {
        BlockId(*blake3::keyed_hash(&self.block, shape).as_bytes())
    }

    pub(crate) fn pack_id(&self, table: &[u8]) -> PackId {
        PackId(*blake3::keyed_hash(&self.pack, table).as_bytes())
    }

    pub(crate) fn index_id(&self, index: &[u8]) -> IndexId {
        IndexId(*blake3::keyed_hash(&self.index, index).as_bytes())
    }

    pub(crate) fn manifest_id(&self, manifest: &[u8]) -> ManifestId {
        ManifestId(*blake3::keyed_hash(&self.manifest, manifest).as_bytes())
    }

    /// Bytes that sealing adds before the body.
    pub(crate) fn before(&self) -> usize {
        if self.cipher.is_some() { NONCE } else { 0 }
    }

    /// Bytes that sealing adds in all.
    pub(crate) fn overhead(&self) -> usize {
        self.before() + TAG
    }

    fn associated(&self, kind: Sealed, name: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(1 + StoreId::LEN + name.len());
        data.push(kind as u8);
        data.extend_from_slice(self.store.as_bytes());
        data.extend_from_slice(name);
        data
    }

    fn check_of(&self, associated: &[u8], body: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.check);
        hasher.update(&(associated.len() as u64).to_le_bytes());
        hasher.update(associated);
        hasher.update(body);
        truncated(hasher.finalize())
    }

    /// Seals in place: `buffer` is [`Sealer::before`] bytes of room and the body; the tag is appended.
    pub(crate) fn seal(&self, kind: Sealed, name: &[u8], buffer: &mut Vec<u8>) {
        let associated = self.associated(kind, name);
        let tag: [u8; TAG] = match &self.cipher {
            None => self.check_of(&associated, buffer),
            Some(cipher) => {
                let nonce = random::<NONCE>();
                buffer[..NONCE].copy_from_slice(&nonce);
                cipher
                    .encrypt_inout_detached(
                        &XNonce::from(nonce),
                        &associated,
                        InOutBuf::from(&mut buffer[NONCE..]),
                    )
                    .expect("an object is far smaller than the cipher's limit of 256 GiB")
                    .into()
            }
        };
        buffer.extend_from_slice(&tag);
    }

    /// Seals a copy.
    pub(crate) fn seal_copy(&self, kind: Sealed, name: &[u8], body: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(body.len() + self.overhead());
        buffer.resize(self.before(), 0);
        buffer.extend_from_slice(body);
        self.seal(kind, name, &mut buffer);
        buffer
    }

    /// Opens in place and returns the body.
    pub(crate) fn open<'a>(
        &self,
        kind: Sealed,
        name: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], NotAuthentic> {
        let associated = self.associated(kind, name);
        let end = sealed.len().checked_sub(TAG).filter(|end| *end >= self.before()).ok_or(NotAuthentic)?;
        let (head, tag) = sealed.split_at_mut(end);
        let tag: [u8; TAG] = (&*tag).try_into().map_err(|_| NotAuthentic)?;
        match &self.cipher {
            None => {
                // Not a secret: whoever can read the store can make checks.
                if self.check_of(&associated, head) == tag { Ok(head) } else { Err(NotAuthentic) }
            }
            Some(cipher) => {
                let (nonce, body) = head.split_at_mut(NONCE);
                let nonce: [u8; NONCE] = (&*nonce).try_into().map_err(|_| NotAuthentic)?;
                cipher
                    .decrypt_inout_detached(
                        &XNonce::from(nonce),
                        &associated,
                        InOutBuf::from(&mut *body),
                        &Tag::from(tag),
                    )
                    .map_err(|_| NotAuthentic)?;
                Ok(body)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealers() -> [Sealer; 2] {
        [Cipher::Null, Cipher::XChaCha20Poly1305]
            .map(|cipher| Sealer::new(StoreId([7; 16]), cipher, &Zeroizing::new([3; 32])))
    }

    #[test]
    fn opens_only_for_the_same_kind_name_store_and_secret() {
        for (sealer, cipher) in sealers().iter().zip([Cipher::Null, Cipher::XChaCha20Poly1305]) {
            let sealed = sealer.seal_copy(Sealed::Block, b"name", b"body");
            assert_eq!(sealed.len(), 4 + sealer.overhead());
            assert_eq!(
                sealer.open(Sealed::Block, b"name", &mut sealed.clone()),
                Ok(&mut b"body".to_owned()[..])
            );
            assert!(sealer.open(Sealed::Index, b"name", &mut sealed.clone()).is_err());
            assert!(sealer.open(Sealed::Block, b"eman", &mut sealed.clone()).is_err());
            let other_store = Sealer::new(StoreId([8; 16]), cipher, &Zeroizing::new([3; 32]));
            assert!(other_store.open(Sealed::Block, b"name", &mut sealed.clone()).is_err());
            let other_secret = Sealer::new(StoreId([7; 16]), cipher, &Zeroizing::new([4; 32]));
            assert!(other_secret.open(Sealed::Block, b"name", &mut sealed.clone()).is_err());
        }
    }

    #[test]
    fn hides_the_body_and_never_seals_alike_twice() {
        let [_, sealer] = sealers();
        let body = [0x61; 64];
        let [one, two] = [0, 1].map(|_| sealer.seal_copy(Sealed::Block, b"", &body));
        assert_ne!(one, two);
        assert!(!one.windows(4).any(|window| window == b"aaaa"));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(body: Vec<u8>, at: prop::sample::Index, bit in 0_u32..8) {
            for sealer in sealers() {
                let mut sealed = sealer.seal_copy(Sealed::Manifest, b"n", &body);
                let at = at.index(sealed.len());
                sealed[at] ^= 1_u8 << bit;
                prop_assert!(sealer.open(Sealed::Manifest, b"n", &mut sealed).is_err());
            }
        }

        #[test]
        fn takes_any_bytes_without_panic(mut bytes: Vec<u8>) {
            for sealer in sealers() {
                let _ = sealer.open(Sealed::Record, b"", &mut bytes);
            }
        }
    }
}

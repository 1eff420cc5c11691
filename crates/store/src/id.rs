//! Names of things in a store: keyed BLAKE3 digests, written as lower-case hexadecimal.

use std::fmt;
use std::str::FromStr;

/// What is wrong with the text or bytes of an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// The text is not the right number of lower-case hexadecimal digits.
    #[error("{text:?} is not an id of {digits} lower-case hexadecimal digits")]
    Text {
        /// The text as given.
        text: String,
        /// How many digits an id has.
        digits: usize,
    },
    /// The byte string has another length than the id.
    #[error("an id of {expected} bytes has {actual} bytes")]
    Length {
        /// Bytes an id has.
        expected: usize,
        /// Bytes there were.
        actual: usize,
    },
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let wrong = || IdError::Text { text: text.chars().take(80).collect(), digits: 2 * N };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(wrong()),
    };
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return Err(wrong());
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(id)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $len:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) [u8; $len]);

        impl $name {
            /// Bytes of an id.
            pub const LEN: usize = $len;

            /// The id with exactly these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes
                    .try_into()
                    .map(Self)
                    .map_err(|_| IdError::Length { expected: $len, actual: bytes.len() })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// Names a pack: a digest of its table of contents, and so of everything in it.
    PackId: 32;
    /// Names a block: a digest of its pieces' digests and lengths, whatever its compression or cipher.
    BlockId: 32;
    /// Names a manifest: a digest of its content.
    ManifestId: 32;
    /// Names an index object: a digest of its content.
    IndexId: 32;
    /// Names a store; random, made with it.
    StoreId: 16;
    /// Names a key slot; random, made with it.
    SlotId: 8;
    /// Digest of one piece (a page, or a run of file bytes): BLAKE3 keyed with the store's naming key, truncated.
    Digest: 16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in ["", "00", "0011223344556677889900112233445g", "0011223344556677889900112233445A", "é"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(bytes: [u8; 32]) {
            let id = PackId(bytes);
            prop_assert_eq!(id.to_string().parse::<PackId>(), Ok(id));
        }

        #[test]
        fn takes_any_text_without_panic(text: String) {
            let _ = text.parse::<SlotId>();
        }
    }
}

//! The store's key, and what opens it.
//!
//! An encrypted store has one random key that never changes. It lies in the store once for each *slot*, wrapped by
//! a key made from a passphrase (Argon2id) or a key file; changing a passphrase adds a slot and removes the old one,
//! and no data is written again.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

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
    /// A passphrase; surrounding line ends are not part of it.
    #[must_use]
    pub fn passphrase(text: &str) -> Self {
        Self::Passphrase(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The passphrase in the first line of a file.
    ///
    /// # Errors
    /// Where the file cannot be read, is empty or is not UTF-8.
    pub fn from_passphrase_file(path: &Path) -> Result<Self, KeyError> {
        todo!("{path:?}")
    }

    /// A key file.
    ///
    /// # Errors
    /// Where the file cannot be read or has fewer than 16 bytes.
    pub fn from_key_file(path: &Path) -> Result<Self, KeyError> {
        todo!("{path:?}")
    }
}

/// Why a store's key cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A passphrase or key file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

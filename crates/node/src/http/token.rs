//! The token that callers of the HTTP endpoint must send.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A shorter token could be guessed.
const SHORTEST: usize = 16;
/// A longer one fits no header.
const LONGEST: usize = 4096;

/// A token. Only its hash is kept.
pub struct Token(blake3::Hash);

impl Token {
    /// Reads the token in the file at `path`, without white space around it.
    ///
    /// # Errors
    /// Where the file cannot be read, or what is in it is too short, too long or does not fit a header.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LONGEST as u64 + 1).read_to_end(&mut text))
            .map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        let token = text.trim_ascii();
        if !(SHORTEST..=LONGEST).contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Unfit { path: path.to_owned() });
        }
        Ok(Token(blake3::hash(token)))
    }

    /// Whether `given` is the token. Hashes are compared, in constant time, so that nothing is learnt from how long it
    /// takes.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        blake3::hash(given) == self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token of the HTTP endpoint in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it is no token.
    #[error("{} holds no token of {SHORTEST} to {LONGEST} visible characters", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_stands_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " 0123456789abcdef\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for given in [&b""[..], b"0123456789abcde", b"0123456789abcdef ", b"0123456789abcdeF"] {
            assert!(!token.is(given));
        }
        for unfit in ["", "short", "with a space between", &"x".repeat(5000), "0123456789abcdef\u{e9}"] {
            std::fs::write(&path, unfit).unwrap();
            assert!(matches!(Token::read(&path), Err(TokenError::Unfit { .. })), "{unfit}");
        }
        assert!(matches!(Token::read(&dir.path().join("none")), Err(TokenError::Read { .. })));
    }
}

//! Paths as text, the way the kernel writes them in `/proc`: a byte that would confuse a reader is a backslash
//! and three octal digits. Torpor's own records use the same notation, so a path of any bytes survives JSON.

use std::fmt::Write as _;

/// A backslash that three octal digits up to 377 do not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {0} starts an escape that is not three octal digits")]
pub struct EscapeError(pub usize);

/// Turns the kernel's notation into bytes.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, EscapeError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut place = 0;
    while let Some(&byte) = text.get(place) {
        if byte != b'\\' {
            bytes.push(byte);
            place += 1;
            continue;
        }
        let value = text
            .get(place + 1..place + 4)
            .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .map(|digits| digits.iter().fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0')))
            .and_then(|value| u8::try_from(value).ok())
            .ok_or(EscapeError(place))?;
        bytes.push(value);
        place += 4;
    }
    Ok(bytes)
}

/// Writes bytes as text: white space, control characters, backslashes, `#` and what is not UTF-8 are escaped.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii_control() || matches!(character, ' ' | '\\' | '#') {
                octal(&mut text, character as u8);
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| octal(&mut text, *byte));
    }
    text
}

fn octal(text: &mut String, byte: u8) {
    let _ = write!(text, "\\{byte:03o}");
}

/// A path in serde's formats, escaped.
pub mod escaped_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the path's bytes, escaped.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::escape(path.as_os_str().as_bytes()))
    }

    /// Reads an escaped path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = super::unescape(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// A list of paths in serde's formats, each escaped.
pub mod escaped_paths {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Escaped(#[serde(with = "super::escaped_path")] PathBuf);

    /// Writes each path's bytes, escaped.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| Escaped(path.clone())))
    }

    /// Reads escaped paths.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let paths = Vec::<Escaped>::deserialize(deserializer)?;
        Ok(paths.into_iter().map(|path| path.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spaces_and_backslashes_are_octal() {
        assert_eq!(escape(b"/a b\\c"), "/a\\040b\\134c");
        assert_eq!(unescape(b"/a\\040b\\134c").unwrap(), b"/a b\\c");
    }

    #[test]
    fn bytes_that_are_not_text_survive() {
        assert_eq!(escape("/\u{e9}\u{fffd}".as_bytes()), "/\u{e9}\u{fffd}");
        assert_eq!(escape(b"/\xff"), "/\\377");
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for text in [&b"\\"[..], b"a\\04", b"\\048", b"\\777"] {
            assert!(unescape(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(escape(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(bytes: Vec<u8>) {
            let _ = unescape(&bytes);
        }
    }
}

//! What is searched for.

use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};

/// The longest match of a regular expression that is sure to be found whole, in bytes.
pub const LONGEST_MATCH: usize = 4096;

/// Something to search for.
#[derive(Debug)]
pub struct Pattern {
    /// As it was given.
    text: String,
    needles: Vec<Needle>,
}

/// One of the forms that a pattern takes in memory.
#[derive(Debug)]
pub(super) enum Needle {
    Bytes(Box<Finder<'static>>),
    Regex(Box<Regex>),
}

/// Why something cannot be searched for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is found everywhere.
    #[error("`{text}` matches where nothing is")]
    Empty {
        /// What was given.
        text: String,
    },
    /// It is longer than what can be found.
    #[error("a pattern of {length} bytes is longer than the limit of {LONGEST_MATCH}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It is no regular expression.
    #[error("`{text}` is no regular expression: {source}")]
    Regex {
        /// What was given.
        text: String,
        /// What is wrong.
        source: Box<regex::Error>,
    },
    /// It is no row of bytes in hexadecimal.
    #[error("`{text}` is not bytes in hexadecimal: there are two digits to a byte")]
    Hexadecimal {
        /// What was given.
        text: String,
    },
}

impl PatternError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "name at least one byte that has to be there",
            Self::TooLong { .. } => "search for the beginning of it",
            Self::Regex { .. } => "the syntax is that of Rust's crate regex: https://docs.rs/regex",
            Self::Hexadecimal { .. } => "write for example `de ad be ef` or `deadbeef`",
        }
    }
}

impl Pattern {
    /// Text, as it is in UTF-8.
    ///
    /// # Errors
    /// Where it is empty or too long.
    pub fn text(text: &str) -> Result<Self, PatternError> {
        Self::bytes(text, &[text.as_bytes().to_vec()])
    }

    /// Text in UTF-16, with the bytes of each unit in either order.
    ///
    /// # Errors
    /// Where it is empty or too long.
    pub fn utf16(text: &str) -> Result<Self, PatternError> {
        let little = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        Self::bytes(text, &[little, big])
    }

    /// Bytes in hexadecimal; blanks, colons and `0x` are passed over.
    ///
    /// # Errors
    /// Where it is something else, empty or too long.
    pub fn hexadecimal(text: &str) -> Result<Self, PatternError> {
        let wrong = || PatternError::Hexadecimal { text: text.to_owned() };
        let mut bytes = Vec::new();
        for part in text.split([' ', ':', ',']) {
            let digits = part.strip_prefix("0x").unwrap_or(part).as_bytes();
            let (pairs, rest) = digits.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(wrong());
            }
            for pair in pairs {
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(wrong);
                bytes.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
            }
        }
        Self::bytes(text, &[bytes])
    }

    /// A regular expression over bytes. `.` is any byte but the end of a line.
    ///
    /// # Errors
    /// Where it is none, or matches where nothing is.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        let regex = RegexBuilder::new(text)
            .size_limit(4 << 20)
            .dfa_size_limit(4 << 20)
            .build()
            .map_err(|source| PatternError::Regex { text: text.to_owned(), source: Box::new(source) })?;
        if regex.is_match(b"") {
            return Err(PatternError::Empty { text: text.to_owned() });
        }
        Ok(Self { text: text.to_owned(), needles: vec![Needle::Regex(Box::new(regex))] })
    }

    fn bytes(text: &str, forms: &[Vec<u8>]) -> Result<Self, PatternError> {
        for bytes in forms {
            match bytes.len() {
                0 => return Err(PatternError::Empty { text: text.to_owned() }),
                length if length > LONGEST_MATCH => return Err(PatternError::TooLong { length }),
                _ => {}
            }
        }
        let needles =
            forms.iter().map(|bytes| Needle::Bytes(Box::new(Finder::new(bytes).into_owned()))).collect();
        Ok(Self { text: text.to_owned(), needles })
    }

    /// As it was given.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.text
    }

    /// The forms that it takes in memory.
    pub(super) fn needles(&self) -> &[Needle] {
        &self.needles
    }
}

impl Needle {
    /// Bytes from the start of a match that have to be seen to know it.
    pub(super) fn reach(&self) -> usize {
        match self {
            Self::Bytes(finder) => finder.needle().len(),
            Self::Regex(_) => LONGEST_MATCH,
        }
    }

    /// The first match that starts at `from` or behind: start and end.
    pub(super) fn find(&self, bytes: &[u8], mut from: usize) -> Option<(usize, usize)> {
        match self {
            Self::Bytes(finder) => {
                let start = from + finder.find(bytes.get(from..)?)?;
                Some((start, start + finder.needle().len()))
            }
            Self::Regex(regex) => {
                while from <= bytes.len() {
                    let found = regex.find_at(bytes, from)?;
                    if !found.is_empty() {
                        return Some((found.start(), found.end()));
                    }
                    from = found.end() + 1;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_they_name() {
        type Case<'a> = (Result<Pattern, PatternError>, &'a [u8], Option<(usize, usize)>);
        let cases: [Case<'_>; 8] = [
            (Pattern::text("key"), b"a key", Some((2, 5))),
            (Pattern::text("k\u{e9}"), "a ké".as_bytes(), Some((2, 5))),
            (Pattern::utf16("ab"), b"\0a\0b\0", Some((0, 4))),
            (Pattern::utf16("ab"), b"xa\0b\0", Some((1, 5))),
            (Pattern::hexadecimal("00 ff:0x10"), &[1, 0, 255, 16], Some((1, 4))),
            (Pattern::hexadecimal("00FF"), &[0, 255], Some((0, 2))),
            (Pattern::regex("[0-9]+"), b"\xff a17\xff", Some((3, 5))),
            (Pattern::regex("(?-u)\\xff."), b"a\xff\0", Some((1, 3))),
        ];
        for (pattern, bytes, found) in cases {
            let pattern = pattern.unwrap();
            let first = pattern.needles().iter().filter_map(|needle| needle.find(bytes, 0)).min();
            assert_eq!(first, found, "{pattern:?}");
        }
    }

    #[test]
    fn what_is_found_everywhere_or_nowhere_is_refused() {
        for refused in [
            Pattern::text(""),
            Pattern::hexadecimal(""),
            Pattern::hexadecimal("abc"),
            Pattern::hexadecimal("zz"),
            Pattern::regex("a*"),
            Pattern::regex("("),
            Pattern::text(&"x".repeat(5000)),
        ] {
            assert!(refused.is_err(), "{refused:?}");
        }
    }
}

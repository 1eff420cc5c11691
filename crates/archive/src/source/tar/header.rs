//! One header of a tar archive.

use std::fmt;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// Its checksum is another one: what is there is no header, or a damaged one.
    Checksum,
    /// The size is no number, or none that can be.
    Size,
    /// Another field that should be a number is none.
    Number,
    /// The records that describe the next entry are damaged or too many.
    Records,
    /// There are too many descriptions in front of one entry.
    Extensions,
}

impl fmt::Display for HeaderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "what is there is no header: its checksum is wrong",
            Self::Size => "the size of the entry is not one that can be",
            Self::Number => "a field of the header is no number",
            Self::Records => "the records that describe the next entry are damaged, or too many",
            Self::Extensions => "too many descriptions stand in front of one entry",
        })
    }
}

/// What a header is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    File,
    HardLink,
    SymbolicLink,
    Directory,
    Special,
    /// A file with holes, as GNU tar writes it.
    Sparse,
    /// The name of the next entry, and what the next link leads to.
    LongName,
    LongLink,
    /// Records about the next entry, and about all that follow.
    Records,
    GlobalRecords,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) link: String,
    pub(crate) kind: Type,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) modified: i64,
}

impl Header {
    /// Parses a block that is not all zeros.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderProblem> {
        if !has_checksum(block) {
            return Err(HeaderProblem::Checksum);
        }
        let mut name = text(&block[..100]);
        // The prefix belongs to POSIX only: GNU tar has times there.
        if &block[257..263] == b"ustar\0" && block[345] != 0 {
            name = format!("{}/{name}", text(&block[345..500]));
        }
        let kind = match block[156] {
            b'1' => Type::HardLink,
            b'2' => Type::SymbolicLink,
            b'3' | b'4' | b'6' => Type::Special,
            b'5' => Type::Directory,
            b'S' => Type::Sparse,
            b'L' => Type::LongName,
            b'K' => Type::LongLink,
            b'x' | b'X' => Type::Records,
            b'g' => Type::GlobalRecords,
            // What is not known is a file: so POSIX wants it.
            _ => Type::File,
        };
        let size = number(&block[124..136]).and_then(|size| u64::try_from(size).ok());
        Ok(Self {
            name,
            link: text(&block[157..257]),
            kind,
            size: size.ok_or(HeaderProblem::Size)?,
            mode: (number(&block[100..108]).ok_or(HeaderProblem::Number)? & 0o7777) as u32,
            modified: number(&block[136..148]).ok_or(HeaderProblem::Number)?,
        })
    }
}

/// Whether a block has the checksum of a header. Some old writers added the bytes up with signs.
fn has_checksum(block: &[u8; BLOCK]) -> bool {
    let Some(stated) = number(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stated == unsigned || stated == signed
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// A number in octal digits, or in base 256 where the highest bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i64::from(field[0]) - 0x100 } else { i64::from(field[0] & 0x3f) };
        return field[1..]
            .iter()
            .try_fold(first, |value, byte| Some(value.checked_mul(256)? | i64::from(*byte)));
    }
    let digits = field.iter().skip_while(|byte| matches!(byte, b' ' | 0));
    let mut value = 0i64;
    for byte in digits {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8)? | i64::from(byte - b'0'),
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"     17 ", Some(0o17)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000008\0", None),
            (b"\x80\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:x?}");
        }
    }

    #[test]
    fn a_block_of_anything_is_no_header() {
        assert_eq!(Header::parse(&[7; BLOCK]), Err(HeaderProblem::Checksum));
    }
}

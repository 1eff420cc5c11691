//! Memory for people: hexadecimal rows, and the strings in it.

use std::io::{self, Write};
use std::ops::Range;

use super::stream::{Batch, SpaceStream, fill};
use super::usage::Filter;
use super::{AddressSpace, Extent, MemoryError};

/// Memory is read in pieces of this size.
const BATCH: usize = 256 << 10;
/// Bytes in a row.
const ROW: usize = 16;
/// Where longer strings are cut, in bytes.
const LONGEST_STRING: usize = 4096;

/// Why memory cannot be written out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// It cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The output fails.
    #[error("cannot write memory out")]
    Output {
        /// What the system said.
        #[from]
        source: io::Error,
    },
}

impl DumpError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Memory(error) => error.remedy(),
            Self::Output { .. } => "see that there is room, and that the file may be written",
        }
    }
}

impl AddressSpace<'_> {
    /// Hands over all stored bytes of a range, in pieces, in the order of their addresses, shared memory included.
    ///
    /// # Errors
    /// Where memory cannot be read, or `take` fails.
    pub fn each_piece<E: From<MemoryError>>(
        &self,
        range: Range<u64>,
        filter: &Filter,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let takes = |extent: &Extent| filter.takes_extent(self, extent);
        let mut stream = SpaceStream::new(self, self.extents(range.start, range.end), takes);
        let mut batch = Batch::new(0, BATCH);
        while fill(&mut stream, &mut batch, 0, BATCH)? {
            for segment in &batch.segments {
                take(segment.address, &batch.bytes[segment.start..segment.start + segment.length])?;
            }
        }
        Ok(())
    }

    /// Writes a range as rows of sixteen bytes. Where `shorten` is true, rows that repeat the one before become one `*`.
    ///
    /// # Errors
    /// Where memory cannot be read, or the output fails.
    pub fn hexdump(
        &self,
        range: Range<u64>,
        filter: &Filter,
        shorten: bool,
        output: &mut impl Write,
    ) -> Result<(), DumpError> {
        let mut rows = Rows::new(shorten);
        self.each_piece(range, filter, |address, bytes| {
            rows.piece(address, bytes, output).map_err(DumpError::from)
        })?;
        Ok(rows.flush(output)?)
    }

    /// Hands over every string of at least `least` printable ASCII characters, with its address. Longer ones than 4096 come in parts.
    ///
    /// # Errors
    /// Where memory cannot be read, or `take` fails.
    pub fn strings<E: From<MemoryError>>(
        &self,
        range: Range<u64>,
        filter: &Filter,
        least: usize,
        mut take: impl FnMut(u64, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut strings = Strings { text: String::new(), end: 0, least };
        self.each_piece(range, filter, |address, bytes| strings.piece(address, bytes, &mut take))?;
        strings.flush(&mut take)
    }
}

/// Rows of a hexdump, across the pieces it comes in.
struct Rows {
    shorten: bool,
    /// Where the row starts that is being filled.
    address: u64,
    row: Vec<u8>,
    previous: Vec<u8>,
    starred: bool,
}

impl Rows {
    fn new(shorten: bool) -> Self {
        Self { shorten, address: 0, row: Vec::new(), previous: Vec::new(), starred: false }
    }

    fn piece(&mut self, mut address: u64, mut bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
        if self.address + self.row.len() as u64 != address {
            self.flush(output)?;
            self.previous.clear();
            self.address = address;
        }
        while !bytes.is_empty() {
            let (some, rest) = bytes.split_at((ROW - self.row.len()).min(bytes.len()));
            self.row.extend_from_slice(some);
            address += some.len() as u64;
            bytes = rest;
            if self.row.len() == ROW {
                self.flush(output)?;
                self.address = address;
            }
        }
        Ok(())
    }

    fn flush(&mut self, output: &mut impl Write) -> io::Result<()> {
        if self.row.is_empty() {
            return Ok(());
        }
        if self.shorten && self.row == self.previous {
            if !self.starred {
                writeln!(output, "*")?;
                self.starred = true;
            }
            self.row.clear();
            return Ok(());
        }
        self.starred = false;
        output.write_all(row(self.address, &self.row).as_bytes())?;
        std::mem::swap(&mut self.row, &mut self.previous);
        self.row.clear();
        Ok(())
    }
}

/// One row: address, up to sixteen bytes in hexadecimal, the same as text.
#[must_use]
pub fn row(address: u64, bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut line = String::with_capacity(88);
    // Writing to a string cannot fail.
    let _ = write!(line, "{address:016x}  ");
    for place in 0..ROW {
        match bytes.get(place) {
            Some(byte) => {
                let _ = write!(line, "{byte:02x} ");
            }
            None => line.push_str("   "),
        }
    }
    line.push_str(" |");
    line.extend(bytes.iter().map(|byte| if printable(*byte) { char::from(*byte) } else { '.' }));
    line.push_str("|\n");
    line
}

fn printable(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

/// Strings, across the pieces they come in.
struct Strings {
    text: String,
    /// The address behind the last byte that was seen.
    end: u64,
    least: usize,
}

impl Strings {
    fn piece<E>(
        &mut self,
        address: u64,
        bytes: &[u8],
        take: &mut impl FnMut(u64, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.end != address {
            self.flush(take)?;
        }
        for (place, byte) in bytes.iter().enumerate() {
            self.end = address + place as u64;
            if printable(*byte) || *byte == b'\t' {
                self.text.push(char::from(*byte));
                if self.text.len() < LONGEST_STRING {
                    continue;
                }
                self.end += 1;
            }
            if !self.text.is_empty() {
                self.flush(take)?;
            }
        }
        self.end = address + bytes.len() as u64;
        Ok(())
    }

    fn flush<E>(&mut self, take: &mut impl FnMut(u64, &str) -> Result<(), E>) -> Result<(), E> {
        if self.text.len() >= self.least.max(1) {
            take(self.end - self.text.len() as u64, &self.text)?;
        }
        self.text.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shortened_only_where_their_bytes_are_equal() {
        let mut rows = Rows::new(true);
        let mut output = Vec::new();
        let mut bytes = vec![0; 48];
        bytes.extend([0xff; 16]);
        bytes.extend(b"end");
        rows.piece(0x1000, &bytes[..20], &mut output).unwrap();
        rows.piece(0x1014, &bytes[20..], &mut output).unwrap();
        rows.flush(&mut output).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "0000000000001000  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|\n\
             *\n\
             0000000000001030  ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff  |................|\n\
             0000000000001040  65 6e 64                                         |end|\n"
        );
    }

    #[test]
    fn equal_rows_on_both_sides_of_a_gap_are_both_shown() {
        let mut rows = Rows::new(true);
        let mut output = Vec::new();
        rows.piece(0x1000, &[0; 16], &mut output).unwrap();
        rows.piece(0x2000, &[0; 16], &mut output).unwrap();
        rows.flush(&mut output).unwrap();
        assert_eq!(output.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(!output.contains(&b'*'));
    }

    #[test]
    fn strings_go_on_in_the_next_piece() {
        let mut found = Vec::new();
        let mut take = |address, text: &str| {
            found.push((address, text.to_owned()));
            Ok::<_, MemoryError>(())
        };
        let mut strings = Strings { text: String::new(), end: 0, least: 4 };
        strings.piece(0x1000, b"abc\0hel", &mut take).unwrap();
        strings.piece(0x1007, b"lo\xff\xffword", &mut take).unwrap();
        strings.piece(0x9000, b"alone", &mut take).unwrap();
        strings.piece(0x9005, &[b'x'; 5000], &mut take).unwrap();
        strings.flush(&mut take).unwrap();
        let expected: [(u64, usize); 5] = [(0x1004, 5), (0x100b, 4), (0x9000, 4096), (0xa000, 909), (0, 0)];
        let found: Vec<_> = found.iter().map(|(address, text)| (*address, text.len())).collect();
        assert_eq!(found, expected[..4]);
    }
}

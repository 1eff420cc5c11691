//! Tar streams, written in order (POSIX `pax` interchange format, `pax(1)`).

use std::io::{self, Read, Write};

/// A tar archive is made of blocks of this size.
pub(crate) const BLOCK: usize = 512;
/// The largest size that fits a header as octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Bytes of a body that are copied at once.
const CHUNK: usize = 256 << 10;

/// A tar stream that is being written. All entries belong to root.
#[derive(Debug)]
pub struct Tape<W> {
    output: W,
}

impl<W: Write> Tape<W> {
    /// Begins a stream.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes a directory.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn directory(&mut self, name: &str, mode: u32, modified: u64) -> io::Result<()> {
        let name = format!("{}/", name.trim_end_matches('/'));
        self.extended(&name, "", 0)?;
        self.output.write_all(&header(beginning(&name), mode, modified, 0, b'5', ""))
    }

    /// Writes a file with its body, of `size` bytes.
    ///
    /// # Errors
    /// Where the body cannot be read or ends early, or the output fails.
    pub fn file(
        &mut self,
        name: &str,
        mode: u32,
        modified: u64,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<()> {
        self.begin(name, mode, modified, size)?;
        let mut chunk = vec![0; CHUNK.min(size as usize)];
        let mut left = size;
        while left > 0 {
            let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body.read_exact(&mut chunk[..length])?;
            self.output.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        self.pad(size)
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn symbolic_link(&mut self, name: &str, mode: u32, modified: u64, to: &str) -> io::Result<()> {
        self.link(name, mode, modified, b'2', to)
    }

    /// Writes another name of a file that was written before.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn hard_link(&mut self, name: &str, mode: u32, modified: u64, to: &str) -> io::Result<()> {
        self.link(name, mode, modified, b'1', to)
    }

    /// Writes the header of a file. Its body, of `size` bytes, is written through [`Tape::output`]; [`Tape::pad`] ends it.
    pub(crate) fn begin(&mut self, name: &str, mode: u32, modified: u64, size: u64) -> io::Result<()> {
        self.extended(name, "", size)?;
        self.output.write_all(&header(beginning(name), mode, modified, size, b'0', ""))
    }

    /// What the stream is written to.
    pub(crate) fn output(&mut self) -> &mut W {
        &mut self.output
    }

    /// Fills the last block of a body.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        if rest == 0 { Ok(()) } else { self.output.write_all(&[0; BLOCK][rest..]) }
    }

    /// Writes the end of the archive, and gives the output back.
    ///
    /// # Errors
    /// Where the output fails.
    pub fn end(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn link(&mut self, name: &str, mode: u32, modified: u64, kind: u8, to: &str) -> io::Result<()> {
        self.extended(name, to, 0)?;
        self.output.write_all(&header(beginning(name), mode, modified, 0, kind, beginning(to)))
    }

    /// Writes an extended header with what does not fit a plain one, if there is anything.
    fn extended(&mut self, name: &str, link: &str, size: u64) -> io::Result<()> {
        let mut records = Vec::new();
        for (key, value) in [("path", name), ("linkpath", link)] {
            if value.len() > 100 {
                records.extend(record(key, value));
            }
        }
        if size > MAX_SIZE {
            records.extend(record("size", &size.to_string()));
        }
        if records.is_empty() {
            return Ok(());
        }
        let length = records.len() as u64;
        self.output.write_all(&header("pax", 0o644, 0, length, b'x', ""))?;
        self.output.write_all(&records)?;
        self.pad(length)
    }
}

/// The header of a file, with a size of any magnitude: beyond eight gigabytes it is in base 256, as GNU tar and Go have it.
pub(crate) fn file_header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = header(beginning(name), 0o644, 0, size, b'0', "");
    if size > MAX_SIZE {
        header[124] = 0x80;
        header[125..128].fill(0);
        header[128..136].copy_from_slice(&size.to_be_bytes());
        seal(&mut header);
    }
    header
}

/// As much of a name as fits a header; an extended header before it has the whole.
fn beginning(name: &str) -> &str {
    let mut length = name.len().min(100);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    &name[..length]
}

/// A record starts with its own length, in decimal digits.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

fn header(name: &str, mode: u32, modified: u64, size: u64, kind: u8, link: &str) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", size.min(MAX_SIZE)).as_bytes());
    put(136, format!("{:011o}", modified.min(MAX_SIZE)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    seal(&mut header);
    header
}

/// Gives a header its checksum.
fn seal(header: &mut [u8; BLOCK]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::{EntryKind, Limits, open_stream};

    #[test]
    fn records_count_themselves() {
        assert_eq!(record("path", "x"), b"9 path=x\n");
        for length in (80..110).chain([200]) {
            let record = record("path", &"x".repeat(length));
            assert!(record.starts_with(format!("{} ", record.len()).as_bytes()));
        }
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let short = Tape::new(Vec::new()).file("a", 0o644, 0, 5, &mut &b"abc"[..]);
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            names in proptest::collection::btree_set("[a-zä]{1,120}(/[a-z]{1,120})?", 1..6),
            size in 0_usize..2000,
        ) {
            let mut tape = Tape::new(Vec::new());
            for name in &names {
                let body = vec![7; size];
                tape.file(name, 0o640, 12345, size as u64, &mut &body[..]).unwrap();
            }
            let bytes = tape.end().unwrap();
            let source =
                open_stream("x".to_owned(), Box::new(io::Cursor::new(bytes)), &Limits::default(), None).unwrap();
            let read: Vec<_> = source.entries().iter().map(|entry| entry.name.clone()).collect();
            prop_assert_eq!(read, names.into_iter().collect::<Vec<_>>());
            for entry in source.entries() {
                let shown = (&entry.kind, entry.size, entry.mode, entry.modified);
                prop_assert_eq!(shown, (&EntryKind::File, size as u64, 0o640, 12345));
            }
        }
    }
}

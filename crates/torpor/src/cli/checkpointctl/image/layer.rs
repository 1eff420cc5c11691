//! A tar stream of a checkpoint's entries (POSIX `pax` interchange format).

use std::io::{self, Read, Write};

use torpor_archive::Checkpoint;
use torpor_archive::source::EntryKind;

/// A tar archive is made of blocks of this size.
const BLOCK: usize = 512;
/// The largest size that fits a header as octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Writes all files, directories and links. What is neither is left out: an engine has no use for it.
pub(super) fn write(checkpoint: &Checkpoint, output: &mut impl Write) -> io::Result<()> {
    for entry in checkpoint.entries() {
        let modified = u64::try_from(entry.modified).unwrap_or(0);
        match &entry.kind {
            EntryKind::File => {
                let mut body = checkpoint.body(entry);
                file(output, &entry.name, entry.mode, modified, entry.size, &mut body)?;
            }
            EntryKind::Directory => {
                let name = format!("{}/", entry.name);
                output.write_all(&header(output_name(&name), entry.mode, modified, 0, b'5', ""))?;
            }
            EntryKind::SymbolicLink(to) => link(output, &entry.name, entry.mode, modified, b'2', to)?,
            EntryKind::HardLink(to) => link(output, &entry.name, entry.mode, modified, b'1', to)?,
            EntryKind::Special => {}
        }
    }
    end(output)
}

/// Writes a file with its body.
pub(super) fn file(
    output: &mut (impl Write + ?Sized),
    name: &str,
    mode: u32,
    modified: u64,
    size: u64,
    body: &mut impl Read,
) -> io::Result<()> {
    extended(output, name, "", size)?;
    output.write_all(&header(output_name(name), mode, modified, size, b'0', ""))?;
    let copied = io::copy(&mut body.take(size), output)?;
    if copied != size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{name} ends after {copied} bytes"),
        ));
    }
    pad(output, size)
}

fn link(output: &mut impl Write, name: &str, mode: u32, modified: u64, kind: u8, to: &str) -> io::Result<()> {
    extended(output, name, to, 0)?;
    output.write_all(&header(output_name(name), mode, modified, 0, kind, output_name(to)))
}

/// Writes the end of the archive.
pub(super) fn end(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; 2 * BLOCK])
}

fn pad(output: &mut (impl Write + ?Sized), size: u64) -> io::Result<()> {
    let rest = (size % BLOCK as u64) as usize;
    if rest == 0 { Ok(()) } else { output.write_all(&[0; BLOCK][rest..]) }
}

/// As much of a name as fits a header; an extended header before it has the rest.
fn output_name(name: &str) -> &str {
    let mut length = name.len().min(100);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    &name[..length]
}

/// Writes an extended header with what does not fit a plain one, if there is anything.
fn extended(output: &mut (impl Write + ?Sized), name: &str, link: &str, size: u64) -> io::Result<()> {
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
    output.write_all(&header("pax", 0o644, 0, records.len() as u64, b'x', ""))?;
    output.write_all(&records)?;
    pad(output, records.len() as u64)
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
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        assert_eq!(record("path", "x"), b"9 path=x\n");
        let long = record("path", &"x".repeat(200));
        assert!(long.starts_with(format!("{} path=", long.len()).as_bytes()));
        for length in 80..110 {
            let record = record("path", &"x".repeat(length));
            assert!(record.starts_with(format!("{} ", record.len()).as_bytes()));
        }
    }
}

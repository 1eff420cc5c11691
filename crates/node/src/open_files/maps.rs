//! `/proc/PID/maps` (proc_pid_maps(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mapping of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// It can be written now.
    pub writable: bool,
    /// Writes go to the file.
    pub shared: bool,
    /// Where in the file it starts, in bytes.
    pub offset: u64,
    /// The file's inode number, as the kernel prints it here (not always as stat(2) does).
    pub ino: u64,
    /// The file.
    pub path: PathBuf,
    /// The file has no name any more.
    pub deleted: bool,
}

/// A line of maps that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field} is missing or not understood")]
pub struct MapsError {
    /// Counted from one.
    pub line: usize,
    /// The field.
    pub field: &'static str,
}

impl Mapping {
    /// Reads the mappings of files from the bytes of a maps file. Anonymous memory and the kernel's own areas are
    /// passed over.
    pub fn parse_files(bytes: &[u8]) -> Result<Vec<Self>, MapsError> {
        let mut mappings = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if !line.is_empty() {
                mappings.extend(Self::parse(line, number + 1)?);
            }
        }
        Ok(mappings)
    }

    fn parse(line: &[u8], number: usize) -> Result<Option<Self>, MapsError> {
        let broken = |field| MapsError { line: number, field };
        // The path follows five words and any number of spaces, and may hold spaces itself.
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let mut word =
            |field| words.next().and_then(|word| std::str::from_utf8(word).ok()).ok_or(broken(field));
        let hex = |word, field| u64::from_str_radix(word, 16).map_err(|_| broken(field));
        let (start, end) = word("address")?.split_once('-').ok_or(broken("address"))?;
        let (start, end) = (hex(start, "address")?, hex(end, "address")?);
        let permissions = word("perms")?.as_bytes();
        let offset = hex(word("offset")?, "offset")?;
        word("dev")?;
        let ino = word("inode")?.parse().map_err(|_| broken("inode"))?;
        let [_, write, _, shared] = *permissions else { return Err(broken("perms")) };
        let path = words.next().unwrap_or_default().trim_ascii_start();
        if !path.starts_with(b"/") {
            return Ok(None);
        }
        let name = path.strip_suffix(b" (deleted)");
        let deleted = name.is_some();
        let path = newlines(name.unwrap_or(path));
        let path = PathBuf::from(OsString::from_vec(path));
        let (writable, shared) = (write == b'w', shared == b's');
        Ok(Some(Self { start, end, writable, shared, offset, ino, path, deleted }))
    }
}

/// The only byte the kernel escapes here is the newline; a backslash stands for itself.
fn newlines(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                plain.push(b'\n');
                rest = after;
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPS: &[u8] = b"\
55d0c0a00000-55d0c0a02000 r--p 00000000 fe:00 131132                     /usr/bin/a b
7f10c0000000-7f10c0021000 rw-p 00000000 00:00 0
7f10d0000000-7f10d0100000 rw-s 00001000 00:19 42                         /dev/shm/ring\\012x (deleted)
7ffd0d5f1000-7ffd0d612000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn mappings_of_files_are_read() {
        let mappings = Mapping::parse_files(MAPS).unwrap();
        assert_eq!(mappings.len(), 2);
        assert_eq!(mappings[0].path, PathBuf::from("/usr/bin/a b"));
        assert!(!mappings[0].shared && !mappings[0].writable && !mappings[0].deleted);
        let ring = &mappings[1];
        assert_eq!((ring.path.to_str(), ring.offset, ring.ino), (Some("/dev/shm/ring\nx"), 0x1000, 42));
        assert!(ring.shared && ring.writable && ring.deleted);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Mapping::parse_files(b"1-2 rw-p 0 0:0 x /y\n").unwrap_err();
        assert_eq!(error.to_string(), "line 1: inode is missing or not understood");
    }

    #[test]
    fn this_process_maps_its_executable() {
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let executable = std::env::current_exe().unwrap();
        assert!(Mapping::parse_files(&maps).unwrap().iter().any(|mapping| mapping.path == executable));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Mapping::parse_files(&bytes);
        }

        #[test]
        fn any_path_is_read(start: u64, end: u64, ino: u64, path in "[a-z \\\\()é]{0,30}[a-z]") {
            let line = format!("{start:x}-{end:x} rw-s 0 08:01 {ino}      /{path}\n");
            let mappings = Mapping::parse_files(line.as_bytes()).unwrap();
            prop_assert_eq!(mappings[0].path.to_str().unwrap(), format!("/{path}"));
            prop_assert_eq!((mappings[0].start, mappings[0].end, mappings[0].ino), (start, end, ino));
        }
    }
}

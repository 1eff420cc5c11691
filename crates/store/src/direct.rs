//! Writes past the page cache, where that can be done.
//!
//! They keep large files out of a container's memory, and are several times as fast as filling the cache and waiting for it
//! to be written.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

/// What addresses, offsets and lengths of direct writes are multiples of: no block device asks for more than a page.
const ALIGNMENT: usize = 4096;

/// Memory that direct writes can take from where it is.
#[derive(Debug, Default)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many bytes, all zero.
    #[must_use]
    pub fn zeroed(len: usize) -> Aligned {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Aligned { memory, start, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// The way of writes to files of one file system.
#[derive(Debug)]
pub struct Writes {
    /// Not every file system can.
    direct: bool,
}

impl Default for Writes {
    fn default() -> Writes {
        Writes { direct: true }
    }
}

impl Writes {
    /// Writes all `bytes` at `offset`; directly where they are whole pages and the file system can.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let whole = bytes.len().is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64);
        let directly = self.direct && whole;
        let flags = if directly { OFlags::DIRECT } else { OFlags::empty() };
        self.direct &= rustix::fs::fcntl_setfl(file, flags).is_ok() || !directly;
        match file.write_all_at(bytes, offset) {
            // Some file systems take the flag and refuse the write.
            Err(error) if directly && error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = false;
                rustix::fs::fcntl_setfl(file, OFlags::empty())?;
                file.write_all_at(bytes, offset)
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_what_is_none_stand_where_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pages");
        let file = File::create(&path).unwrap();
        let mut writes = Writes::default();
        let mut piece = Aligned::zeroed(2 * ALIGNMENT);
        piece.fill(1);
        assert_eq!(piece.as_ptr().align_offset(ALIGNMENT), 0);
        writes.write(&file, &piece, 0).unwrap();
        writes.write(&file, b"rest", piece.len() as u64).unwrap();
        writes.write(&file, &piece[..ALIGNMENT], ALIGNMENT as u64).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), [&piece[..], b"rest"].concat());
    }

    #[test]
    fn memory_that_lies_otherwise_is_written_too() {
        let file = tempfile::tempfile().unwrap();
        let mut writes = Writes::default();
        let piece = Aligned::zeroed(2 * ALIGNMENT);
        writes.write(&file, &piece[1..=ALIGNMENT], 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), ALIGNMENT as u64);
    }
}

//! Files with holes: where their data is.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use crate::manifest::DataRange;

/// A file's size, and where it has data.
pub(super) fn data_ranges(file: &File) -> std::io::Result<(u64, Vec<DataRange>)> {
    let size = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // File systems that know no holes have none.
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        ranges.push(DataRange { offset: start, len: end - start });
        at = end;
    }
    Ok((size, ranges))
}

/// Reads ranges of a file one after the other.
pub(super) struct RangeReader<'a> {
    pub(super) file: &'a File,
    pub(super) ranges: VecDeque<DataRange>,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.ranges.front().is_some_and(|range| range.len == 0) {
            self.ranges.pop_front();
        }
        let Some(range) = self.ranges.front_mut() else { return Ok(0) };
        let want = range.len.min(buffer.len() as u64) as usize;
        let got = self.file.read_at(&mut buffer[..want], range.offset)?;
        range.offset += got as u64;
        range.len -= got as u64;
        Ok(got)
    }
}

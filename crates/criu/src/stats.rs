//! What CRIU counted and measured: `stats-dump` and `stats-restore` in its work directory (CRIU `images/stats.proto`, `criu/stats.c`).

use prost::Message;

use crate::image::{ImageError, Kind, Record, read_one};

/// Either file: one of the two parts is there.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Statistics {
    /// From `stats-dump`.
    #[prost(message, optional, tag = "1")]
    pub dump: Option<DumpStatistics>,
    /// From `stats-restore`.
    #[prost(message, optional, tag = "2")]
    pub restore: Option<RestoreStatistics>,
}

/// Of a dump or a pre-dump. Times are in microseconds, pages in pages of the machine.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct DumpStatistics {
    /// Until all tasks stood still.
    #[prost(uint32, required, tag = "1")]
    pub freezing_time: u32,
    /// How long they stood still.
    #[prost(uint32, required, tag = "2")]
    pub frozen_time: u32,
    /// Finding the pages.
    #[prost(uint32, required, tag = "3")]
    pub memdump_time: u32,
    /// Writing the pages.
    #[prost(uint32, required, tag = "4")]
    pub memwrite_time: u32,
    /// Pages looked at.
    #[prost(uint64, required, tag = "5")]
    pub pages_scanned: u64,
    /// Pages left to the parent.
    #[prost(uint64, required, tag = "6")]
    pub pages_skipped_parent: u64,
    /// Pages written.
    #[prost(uint64, required, tag = "7")]
    pub pages_written: u64,
    /// Finding paths of inodes.
    #[prost(uint32, optional, tag = "8")]
    pub irmap_resolve: Option<u32>,
    /// Pages left for later.
    #[prost(uint64, required, tag = "9")]
    pub pages_lazy: u64,
    /// Pipes that pages passed through.
    #[prost(uint64, optional, tag = "10")]
    pub page_pipes: Option<u64>,
    /// Their buffers.
    #[prost(uint64, optional, tag = "11")]
    pub page_pipe_bufs: Option<u64>,
    /// Shared pages looked at.
    #[prost(uint64, optional, tag = "12")]
    pub shpages_scanned: Option<u64>,
    /// Shared pages left to the parent.
    #[prost(uint64, optional, tag = "13")]
    pub shpages_skipped_parent: Option<u64>,
    /// Shared pages written.
    #[prost(uint64, optional, tag = "14")]
    pub shpages_written: Option<u64>,
}

/// Of a restore. Times are in microseconds.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RestoreStatistics {
    /// Pages compared with the parent's.
    #[prost(uint64, required, tag = "1")]
    pub pages_compared: u64,
    /// Pages that could stay the parent's.
    #[prost(uint64, required, tag = "2")]
    pub pages_skipped_cow: u64,
    /// Making the processes.
    #[prost(uint32, required, tag = "3")]
    pub forking_time: u32,
    /// All of it.
    #[prost(uint32, required, tag = "4")]
    pub restore_time: u32,
    /// Pages put back.
    #[prost(uint64, optional, tag = "5")]
    pub pages_restored: Option<u64>,
}

impl Record for Statistics {
    const KIND: Kind = Kind::Statistics;
}

impl Statistics {
    /// Reads either file.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn read(file: &[u8]) -> Result<Self, ImageError> {
        read_one(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump's statistics with the required fields up to the pages written.
    const DUMP: &[u8] = &[
        0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57, 0x13, 0, 0, 0, 0x0a, 0x11, 0x08, 0x90, 0x4e, 0x10,
        0xa0, 0x9c, 0x01, 0x18, 5, 0x20, 6, 0x28, 7, 0x30, 0, 0x38, 9,
    ];

    #[test]
    fn times_are_microseconds_and_pages_are_pages() {
        let dump = Statistics::read(DUMP).unwrap().dump.unwrap();
        assert_eq!((dump.freezing_time, dump.frozen_time, dump.pages_written), (10_000, 20_000, 9));
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        assert!(matches!(Statistics::read(&DUMP[..20]), Err(ImageError::Truncated { .. })));
    }
}

//! Entries of files: what a restore puts back.

use std::collections::HashMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::extent::PieceRun;
use crate::id::BlockId;

/// A point in time of a file, by its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace, like `user.mime_type`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// What sort of file an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, with its size in bytes (holes included).
    File {
        /// Size in bytes.
        size: u64,
    },
    /// A directory; an opaque one hides what an image has below it.
    Directory {
        /// Whether it hides what was there.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Another name of a file that has an entry of its own in the same section.
    HardLink {
        /// Path of that entry.
        to: Vec<u8>,
    },
    /// A file of the image that is gone (a whiteout).
    Deleted,
}

/// A range of a file that has data; what lies between ranges is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A run of data of a body: `len` bytes at `offset`, which are the content of consecutive pieces of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyRun {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) pieces: PieceRun,
}

/// Where a file's or image's data lies in the store. Empty until a draft or a manifest fills it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    pub(crate) runs: Vec<BodyRun>,
}

impl Body {
    /// Bytes of data, holes not counted.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// The ranges with data, in order, neighbours joined.
    #[must_use]
    pub fn ranges(&self) -> Vec<DataRange> {
        let mut ranges: Vec<DataRange> = Vec::new();
        for run in &self.runs {
            match ranges.last_mut() {
                Some(last) if last.offset + last.len == run.offset => last.len += run.len,
                _ => ranges.push(DataRange { offset: run.offset, len: run.len }),
            }
        }
        ranges
    }
}

/// One file, directory, link or whiteout. Set `body` to `Body::default()` when giving an entry to a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// What it belongs to: the container's root, a volume, `/dev/shm`… The maker's word; the store only compares it.
    pub section: String,
    /// Path within the section.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content last changed.
    pub modified: FileTime,
    /// When it was last read.
    pub accessed: FileTime,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Where its data lies, for a regular file.
    pub body: Body,
}

/// Most bytes of a path, link target or extended attribute's name.
const MAX_NAME: usize = 64 << 10;
/// Most extended attributes of a file, and bytes of one's value.
const MAX_XATTRS: usize = 1024;
const MAX_XATTR: usize = 1 << 20;

/// A run of a body, as encoded.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RunMessage {
    /// Bytes between the end of the run before and the start of this one.
    #[prost(uint64, tag = "1")]
    gap: u64,
    #[prost(uint64, tag = "2")]
    len: u64,
    /// Number of the block in the table beside.
    #[prost(uint32, tag = "3")]
    block: u32,
    #[prost(uint32, tag = "4")]
    first: u32,
    #[prost(uint32, tag = "5")]
    count: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct XattrMessage {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct EntryMessage {
    /// The section's number in the segment.
    #[prost(uint32, tag = "1")]
    section: u32,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(uint32, tag = "4")]
    mode: u32,
    #[prost(uint32, tag = "5")]
    uid: u32,
    #[prost(uint32, tag = "6")]
    gid: u32,
    #[prost(sint64, tag = "7")]
    modified: i64,
    #[prost(uint32, tag = "8")]
    modified_nanos: u32,
    #[prost(sint64, tag = "9")]
    accessed: i64,
    #[prost(uint32, tag = "10")]
    accessed_nanos: u32,
    #[prost(message, repeated, tag = "11")]
    xattrs: Vec<XattrMessage>,
    #[prost(uint64, tag = "12")]
    size: u64,
    /// Target of a symbolic link, or the path a hard link names again.
    #[prost(bytes = "vec", tag = "13")]
    target: Vec<u8>,
    #[prost(uint32, tag = "14")]
    major: u32,
    #[prost(uint32, tag = "15")]
    minor: u32,
    #[prost(message, repeated, tag = "16")]
    runs: Vec<RunMessage>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Segment {
    #[prost(string, repeated, tag = "1")]
    sections: Vec<String>,
    #[prost(bytes = "vec", tag = "2")]
    blocks: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<EntryMessage>,
}

const FILE: u32 = 1;
const DIRECTORY: u32 = 2;
const OPAQUE_DIRECTORY: u32 = 3;
const SYMLINK: u32 = 4;
const FIFO: u32 = 5;
const SOCKET: u32 = 6;
const CHAR_DEVICE: u32 = 7;
const BLOCK_DEVICE: u32 = 8;
const HARD_LINK: u32 = 9;
const DELETED: u32 = 10;

/// Numbers blocks in the order they are first seen.
#[derive(Default)]
pub(super) struct BlockTable {
    numbers: HashMap<BlockId, u32>,
    pub(super) ids: Vec<u8>,
}

impl BlockTable {
    fn number(&mut self, block: BlockId) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(block).or_insert_with(|| {
            self.ids.extend_from_slice(block.as_bytes());
            next
        })
    }
}

/// The ids of a block table.
pub(super) fn decode_blocks(ids: &[u8]) -> Result<Vec<BlockId>, String> {
    let mut chunks = ids.chunks_exact(BlockId::LEN);
    let blocks = chunks.by_ref().filter_map(|id| BlockId::try_from(id).ok()).collect();
    if chunks.remainder().is_empty() { Ok(blocks) } else { Err("its block ids are cut short".to_owned()) }
}

pub(super) fn encode_body(body: &Body, table: &mut BlockTable) -> Vec<RunMessage> {
    let mut end = 0;
    let run_message = |run: &BodyRun| {
        let message = RunMessage {
            gap: run.offset - end,
            len: run.len,
            block: table.number(run.pieces.block),
            first: run.pieces.first,
            count: run.pieces.count,
        };
        end = run.offset + run.len;
        message
    };
    body.runs.iter().map(run_message).collect()
}

/// Decodes the runs of a body that ends at or before `size`.
pub(super) fn decode_body(runs: &[RunMessage], blocks: &[BlockId], size: u64) -> Result<Body, String> {
    let mut end = 0_u64;
    let mut body = Body::default();
    for run in runs {
        let offset = end.checked_add(run.gap);
        let after = offset.and_then(|offset| offset.checked_add(run.len)).filter(|after| *after <= size);
        let (Some(offset), Some(after)) = (offset, after) else {
            return Err("data lies beyond the end of its file".to_owned());
        };
        let block =
            *blocks.get(run.block as usize).ok_or_else(|| format!("it has no block {}", run.block))?;
        let pieces = PieceRun { block, first: run.first, count: run.count };
        body.runs.push(BodyRun { offset, len: run.len, pieces });
        end = after;
    }
    Ok(body)
}

/// What of a file entry the format does not allow.
pub(crate) fn refusal(entry: &FileEntry) -> Option<String> {
    let target = match &entry.kind {
        FileKind::Symlink { target } | FileKind::HardLink { to: target } => target.len(),
        _ => 0,
    };
    if entry.path.len() > MAX_NAME || target > MAX_NAME || entry.section.len() > MAX_NAME {
        return Some(format!("names have at most {MAX_NAME} bytes"));
    }
    if entry.xattrs.len() > MAX_XATTRS {
        return Some(format!("a file has at most {MAX_XATTRS} extended attributes"));
    }
    if entry.xattrs.iter().any(|xattr| xattr.name.len() > MAX_NAME || xattr.value.len() > MAX_XATTR) {
        return Some(format!("an extended attribute has at most {MAX_XATTR} bytes"));
    }
    if !matches!(entry.kind, FileKind::File { .. }) && !entry.body.runs.is_empty() {
        return Some("only a file has data".to_owned());
    }
    if entry.modified.nanos >= 1_000_000_000 || entry.accessed.nanos >= 1_000_000_000 {
        return Some("a second has fewer nanoseconds".to_owned());
    }
    None
}

/// Encodes entries.
pub(crate) fn encode_entries(entries: &[FileEntry]) -> Vec<u8> {
    let mut table = BlockTable::default();
    let mut segment = Segment::default();
    for entry in entries {
        let section = segment.sections.iter().position(|section| *section == entry.section);
        let section = section.unwrap_or_else(|| {
            segment.sections.push(entry.section.clone());
            segment.sections.len() - 1
        });
        let mut message = EntryMessage {
            section: section as u32,
            path: entry.path.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.modified.seconds,
            modified_nanos: entry.modified.nanos,
            accessed: entry.accessed.seconds,
            accessed_nanos: entry.accessed.nanos,
            xattrs: entry
                .xattrs
                .iter()
                .map(|xattr| XattrMessage { name: xattr.name.clone(), value: xattr.value.clone() })
                .collect(),
            runs: encode_body(&entry.body, &mut table),
            ..EntryMessage::default()
        };
        message.kind = match &entry.kind {
            FileKind::File { size } => {
                message.size = *size;
                FILE
            }
            FileKind::Directory { opaque: false } => DIRECTORY,
            FileKind::Directory { opaque: true } => OPAQUE_DIRECTORY,
            FileKind::Symlink { target } => {
                message.target.clone_from(target);
                SYMLINK
            }
            FileKind::Fifo => FIFO,
            FileKind::Socket => SOCKET,
            FileKind::CharDevice { major, minor } => {
                (message.major, message.minor) = (*major, *minor);
                CHAR_DEVICE
            }
            FileKind::BlockDevice { major, minor } => {
                (message.major, message.minor) = (*major, *minor);
                BLOCK_DEVICE
            }
            FileKind::HardLink { to } => {
                message.target.clone_from(to);
                HARD_LINK
            }
            FileKind::Deleted => DELETED,
        };
        segment.entries.push(message);
    }
    segment.blocks = table.ids;
    segment.encode_to_vec()
}

/// Decodes a segment of entries.
pub(crate) fn decode_entries(bytes: &[u8]) -> Result<Vec<FileEntry>, String> {
    let segment = Segment::decode(bytes).map_err(|error| error.to_string())?;
    let blocks = decode_blocks(&segment.blocks)?;
    let mut entries = Vec::with_capacity(segment.entries.len());
    for message in segment.entries {
        let section = segment
            .sections
            .get(message.section as usize)
            .ok_or_else(|| format!("it has no section {}", message.section))?;
        let kind = match message.kind {
            FILE => FileKind::File { size: message.size },
            DIRECTORY => FileKind::Directory { opaque: false },
            OPAQUE_DIRECTORY => FileKind::Directory { opaque: true },
            SYMLINK => FileKind::Symlink { target: message.target },
            FIFO => FileKind::Fifo,
            SOCKET => FileKind::Socket,
            CHAR_DEVICE => FileKind::CharDevice { major: message.major, minor: message.minor },
            BLOCK_DEVICE => FileKind::BlockDevice { major: message.major, minor: message.minor },
            HARD_LINK => FileKind::HardLink { to: message.target },
            DELETED => FileKind::Deleted,
            other => return Err(format!("there is no file kind {other}")),
        };
        let entry = FileEntry {
            section: section.clone(),
            path: message.path,
            kind,
            mode: message.mode,
            uid: message.uid,
            gid: message.gid,
            modified: FileTime { seconds: message.modified, nanos: message.modified_nanos },
            accessed: FileTime { seconds: message.accessed, nanos: message.accessed_nanos },
            xattrs: message
                .xattrs
                .into_iter()
                .map(|xattr| Xattr { name: xattr.name, value: xattr.value })
                .collect(),
            body: decode_body(&message.runs, &blocks, message.size)?,
        };
        if let Some(refusal) = refusal(&entry) {
            return Err(refusal);
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_kind() -> impl Strategy<Value = FileKind> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        prop_oneof![
            any::<bool>().prop_map(|opaque| FileKind::Directory { opaque }),
            bytes().prop_map(|target| FileKind::Symlink { target }),
            Just(FileKind::Fifo),
            Just(FileKind::Socket),
            any::<(u32, u32)>().prop_map(|(major, minor)| FileKind::CharDevice { major, minor }),
            any::<(u32, u32)>().prop_map(|(major, minor)| FileKind::BlockDevice { major, minor }),
            bytes().prop_map(|to| FileKind::HardLink { to }),
            Just(FileKind::Deleted),
        ]
    }

    fn any_entry() -> impl Strategy<Value = FileEntry> {
        let runs =
            prop::collection::vec((0_u64..1 << 40, 1_u64..1 << 20, any::<[u8; 32]>(), any::<u32>()), 0..4);
        let times = (any::<i64>(), 0_u32..1_000_000_000, any::<i64>(), 0_u32..1_000_000_000);
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        (any_kind(), "[a-z/]{0,8}", bytes(), any::<(u32, u32, u32)>(), times, bytes(), runs).prop_map(
            |(kind, section, path, (mode, uid, gid), times, value, runs)| {
                let mut body = Body::default();
                let mut end = 0;
                for (gap, len, block, first) in runs {
                    let pieces = PieceRun { block: BlockId(block), first, count: 1 };
                    body.runs.push(BodyRun { offset: end + gap, len, pieces });
                    end += gap + len;
                }
                FileEntry {
                    section,
                    path,
                    kind: if body.runs.is_empty() { kind } else { FileKind::File { size: end } },
                    mode,
                    uid,
                    gid,
                    modified: FileTime { seconds: times.0, nanos: times.1 },
                    accessed: FileTime { seconds: times.2, nanos: times.3 },
                    xattrs: vec![Xattr { name: b"user.x".to_vec(), value }],
                    body,
                }
            },
        )
    }

    #[test]
    fn ranges_join_neighbouring_runs() {
        let pieces = PieceRun { block: BlockId([0; 32]), first: 0, count: 1 };
        let run = |offset, len| BodyRun { offset, len, pieces };
        let body = Body { runs: vec![run(0, 10), run(10, 5), run(100, 1)] };
        assert_eq!(body.ranges(), [DataRange { offset: 0, len: 15 }, DataRange { offset: 100, len: 1 }]);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(entries in prop::collection::vec(any_entry(), 0..8)) {
            prop_assert_eq!(decode_entries(&encode_entries(&entries)), Ok(entries));
        }

        #[test]
        fn takes_any_bytes_without_panic(bytes: Vec<u8>) {
            let _ = decode_entries(&bytes);
        }

        #[test]
        fn takes_any_truncation_without_panic(entry in any_entry(), at: prop::sample::Index) {
            let bytes = encode_entries(&[entry]);
            let _ = decode_entries(&bytes[..at.index(bytes.len())]);
        }
    }
}

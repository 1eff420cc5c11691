//! Files between a container and a store: what [`crate::files`] finds becomes entries of a draft, and entries of a
//! manifest become what it lays out.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use torpor_store::manifest::{self, DataRange, FileEntry};
use torpor_store::{Draft, Manifest, ReadError, Repository};

use crate::files::{Extent, FileKind, FileRecord, FileSink, FileSource, Section, Timestamp, Xattr};
use crate::order::Order;

/// A draft that takes files, for as long as the order's time lasts.
#[derive(Debug)]
pub(crate) struct IntoDraft<'a> {
    draft: &'a mut Draft,
    order: &'a Order,
}

impl<'a> IntoDraft<'a> {
    pub(crate) fn new(draft: &'a mut Draft, order: &'a Order) -> Self {
        IntoDraft { draft, order }
    }
}

impl FileSink for IntoDraft<'_> {
    fn put(&mut self, record: &FileRecord, body: &mut dyn Read) -> io::Result<()> {
        self.order.check().map_err(io::Error::other)?;
        let ranges = ranges(record);
        self.draft.file(entry(record), &ranges, body).map_err(io::Error::other)
    }

    fn withdraw(&mut self, path: &Path) -> io::Result<()> {
        for section in [Section::Carried, Section::Additional] {
            self.draft.forget_file(section.word(), path.as_os_str().as_bytes());
        }
        Ok(())
    }
}

/// The files of a generation.
#[derive(Debug)]
pub(crate) struct FromManifest<'a> {
    repository: &'a Repository,
    entries: BTreeMap<PathBuf, FileEntry>,
}

impl<'a> FromManifest<'a> {
    /// Reads the entries of all files of `manifest`.
    ///
    /// # Errors
    /// Where a segment of the manifest is missing or damaged.
    pub(crate) fn read(
        repository: &'a Repository,
        manifest: &Manifest,
    ) -> Result<FromManifest<'a>, ReadError> {
        let by_path = |entry: FileEntry| (path_of(&entry.path), entry);
        let entries = repository.files(manifest).map(|entry| entry.map(by_path)).collect::<Result<_, _>>()?;
        Ok(FromManifest { repository, entries })
    }

    /// Their records, as far as this release knows their sections.
    #[must_use]
    pub(crate) fn records(&self) -> Vec<FileRecord> {
        self.entries.values().filter_map(record).collect()
    }
}

impl FileSource for FromManifest<'_> {
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
        let entry = self.entries.get(&record.path).ok_or(io::ErrorKind::NotFound)?;
        self.repository.read_data(&entry.body, out).map_err(io::Error::other)
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

fn ranges(record: &FileRecord) -> Vec<DataRange> {
    match &record.kind {
        FileKind::File { extents, .. } => {
            extents.iter().map(|extent| DataRange { offset: extent.offset, len: extent.length }).collect()
        }
        _ => Vec::new(),
    }
}

fn entry(record: &FileRecord) -> FileEntry {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let time = |time: Timestamp| manifest::FileTime { seconds: time.seconds, nanos: time.nanoseconds };
    let kind = match &record.kind {
        FileKind::File { size, .. } => manifest::FileKind::File { size: *size },
        FileKind::Directory { opaque } => manifest::FileKind::Directory { opaque: *opaque },
        FileKind::Symlink { target } => manifest::FileKind::Symlink { target: bytes(target) },
        FileKind::HardLink { target } => manifest::FileKind::HardLink { to: bytes(target) },
        FileKind::Fifo => manifest::FileKind::Fifo,
        FileKind::Socket => manifest::FileKind::Socket,
        FileKind::Character { major, minor } => {
            manifest::FileKind::CharDevice { major: *major, minor: *minor }
        }
        FileKind::Block { major, minor } => manifest::FileKind::BlockDevice { major: *major, minor: *minor },
        FileKind::Removed => manifest::FileKind::Deleted,
    };
    FileEntry {
        section: record.section.word().to_owned(),
        path: bytes(&record.path),
        kind,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        modified: time(record.mtime),
        accessed: time(record.atime),
        xattrs: record
            .xattrs
            .iter()
            .map(|xattr| manifest::Xattr { name: xattr.name.clone(), value: xattr.value.clone() })
            .collect(),
        body: manifest::Body::default(),
    }
}

fn record(entry: &FileEntry) -> Option<FileRecord> {
    let path = path_of;
    let time = |time: manifest::FileTime| Timestamp { seconds: time.seconds, nanoseconds: time.nanos };
    let kind = match &entry.kind {
        manifest::FileKind::File { size } => {
            let extents = entry
                .body
                .ranges()
                .into_iter()
                .map(|range| Extent { offset: range.offset, length: range.len })
                .collect();
            FileKind::File { size: *size, extents }
        }
        manifest::FileKind::Directory { opaque } => FileKind::Directory { opaque: *opaque },
        manifest::FileKind::Symlink { target } => FileKind::Symlink { target: path(target) },
        manifest::FileKind::HardLink { to } => FileKind::HardLink { target: path(to) },
        manifest::FileKind::Fifo => FileKind::Fifo,
        manifest::FileKind::Socket => FileKind::Socket,
        manifest::FileKind::CharDevice { major, minor } => {
            FileKind::Character { major: *major, minor: *minor }
        }
        manifest::FileKind::BlockDevice { major, minor } => FileKind::Block { major: *major, minor: *minor },
        manifest::FileKind::Deleted => FileKind::Removed,
    };
    Some(FileRecord {
        path: path(&entry.path),
        section: Section::from_word(&entry.section)?,
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: time(entry.modified),
        atime: time(entry.accessed),
        xattrs: entry
            .xattrs
            .iter()
            .map(|xattr| Xattr { name: xattr.name.clone(), value: xattr.value.clone() })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_through_an_entry() {
        let kinds = [
            FileKind::File { size: 10, extents: Vec::new() },
            FileKind::Directory { opaque: true },
            FileKind::Symlink { target: "/a".into() },
            FileKind::HardLink { target: "/b".into() },
            FileKind::Fifo,
            FileKind::Socket,
            FileKind::Character { major: 1, minor: 3 },
            FileKind::Block { major: 8, minor: 1 },
            FileKind::Removed,
        ];
        for kind in kinds {
            let before = FileRecord {
                path: PathBuf::from(std::ffi::OsString::from_vec(b"/x/\xff".to_vec())),
                section: Section::Carried,
                kind,
                mode: 0o4755,
                uid: 1,
                gid: 2,
                mtime: Timestamp { seconds: -1, nanoseconds: 999 },
                atime: Timestamp { seconds: 5, nanoseconds: 0 },
                xattrs: vec![Xattr { name: b"user.a".to_vec(), value: b"\0".to_vec() }],
            };
            assert_eq!(record(&entry(&before)), Some(before));
        }
    }
}

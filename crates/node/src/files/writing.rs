//! One file written from its record, through the directory that holds it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::beneath::magic_link;
use super::reading::read_xattrs;
use super::{Extent, FileKind, FileRecord, FileSource};

/// What could not be put back for lack of privilege, and can be lived without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The owner or group.
    Owner,
    /// An extended attribute.
    Attribute,
    /// A device node.
    Device,
}

/// Where a body goes: to the places its extents say, with holes between.
struct ExtentWriter<'a> {
    file: &'a File,
    extents: &'a [Extent],
    /// Bytes of the first extent already written.
    done: u64,
}

impl ExtentWriter<'_> {
    /// Everything promised has come.
    fn is_complete(&self) -> bool {
        self.extents.iter().all(|extent| extent.length == 0)
    }
}

impl Write for ExtentWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let empty = self.extents.iter().take_while(|extent| extent.length == 0).count();
        self.extents = &self.extents[empty..];
        let Some(extent) = self.extents.first() else {
            let longer = "the body is longer than its record says";
            return if bytes.is_empty() { Ok(0) } else { Err(io::Error::other(longer)) };
        };
        let left = usize::try_from(extent.length - self.done).unwrap_or(usize::MAX);
        let wrote = self.file.write_at(&bytes[..bytes.len().min(left)], extent.offset + self.done)?;
        self.done += wrote as u64;
        if self.done == extent.length {
            (self.extents, self.done) = (&self.extents[1..], 0);
        }
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Creates the file under a name of its own; the caller renames it over the old one.
pub(super) fn create(
    directory: &OwnedFd,
    name: &CStr,
    record: &FileRecord,
    source: &mut dyn FileSource,
) -> io::Result<Option<Lost>> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match &record.kind {
        FileKind::File { size, extents } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
            file.set_len(*size)?;
            let mut writer = ExtentWriter { file: &file, extents, done: 0 };
            source.body(record, &mut writer)?;
            if !writer.is_complete() {
                return Err(io::Error::other("the body is shorter than its record says"));
            }
        }
        FileKind::Symlink { target } => rustix::fs::symlinkat(target, directory, name)?,
        FileKind::Fifo => make_node(directory, name, FileType::Fifo, (0, 0))?,
        FileKind::Socket => make_node(directory, name, FileType::Socket, (0, 0))?,
        FileKind::Character { major, minor } | FileKind::Block { major, minor } => {
            let kind = match record.kind {
                FileKind::Block { .. } => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            match make_node(directory, name, kind, (*major, *minor)) {
                Err(error) if is_refused(&error) => return Ok(Some(Lost::Device)),
                made => made?,
            }
        }
        FileKind::Directory { .. } | FileKind::HardLink { .. } | FileKind::Removed => {
            return Err(Errno::INVAL.into());
        }
    }
    let lost = set_metadata(directory, name, record)?;
    set_times(directory, name, record)?;
    Ok(lost)
}

fn make_node(directory: &OwnedFd, name: &CStr, kind: FileType, (major, minor): (u32, u32)) -> io::Result<()> {
    let device = rustix::fs::makedev(major, minor);
    Ok(rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(0o600), device)?)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::ACCESS))
}

/// Sets owner, mode and attributes, in the order in which none undoes another.
pub(super) fn set_metadata(
    directory: &OwnedFd,
    name: &CStr,
    record: &FileRecord,
) -> io::Result<Option<Lost>> {
    let mut lost = None;
    let handle = open_handle(directory, name)?;
    let (uid, gid) = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
    match rustix::fs::chownat(&handle, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
        Err(Errno::PERM | Errno::INVAL) => lost = Some(Lost::Owner),
        done => done?,
    }
    let link = magic_link(&handle);
    if !matches!(record.kind, FileKind::Symlink { .. }) {
        let mode = Mode::from_raw_mode(record.mode & 0o7777);
        match rustix::fs::chmodat(rustix::fs::CWD, link.as_str(), mode, AtFlags::empty()) {
            Err(Errno::PERM) => lost = Some(Lost::Owner),
            done => done?,
        }
    }
    // What is there already may have attributes of its own.
    for there in read_xattrs(&handle)? {
        if !record.xattrs.iter().any(|xattr| xattr.name == there.name) {
            match rustix::fs::removexattr(link.as_str(), there.name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP) => lost = Some(Lost::Attribute),
                Err(error) => return Err(error.into()),
            }
        }
    }
    for xattr in &record.xattrs {
        let name = CString::new(xattr.name.as_slice())?;
        match rustix::fs::setxattr(link.as_str(), name, &xattr.value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP) => lost = Some(Lost::Attribute),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lost)
}

/// Sets the times; for a directory, when all beneath it is done.
pub(super) fn set_times(directory: &OwnedFd, name: &CStr, record: &FileRecord) -> io::Result<()> {
    let (last_access, last_modification) = (record.atime.to_timespec(), record.mtime.to_timespec());
    let times = Timestamps { last_access, last_modification };
    match rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
        // Only its owner may; that somebody else owns it was found before.
        Err(Errno::PERM | Errno::ACCESS) => Ok(()),
        done => Ok(done?),
    }
}

pub(super) fn open_handle(directory: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

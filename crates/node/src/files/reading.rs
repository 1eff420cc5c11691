//! One file as a record and a body, read through a descriptor that cannot turn into another file meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::beneath::magic_link;
use super::{Extent, FileKind, FileRecord, Section, Stat, Xattr};

/// The most extents a record holds; a file with more holes is read as if its smaller holes were data.
const EXTENT_LIMIT: usize = 65_536;

/// The largest list of names, and the largest value, the kernel gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_LIMIT: usize = 65_536;

/// Labels that belong to the machine, not to the file.
const MACHINE_LABELS: &[&[u8]] = &[b"security.selinux", b"security.ima", b"security.evm"];

/// A file that was opened for reading, of whatever kind.
#[derive(Debug)]
pub(super) struct OpenedFile {
    /// What is known about it, without the body.
    pub(super) record: FileRecord,
    /// Its state when it was opened.
    pub(super) stat: Stat,
    file: Option<File>,
}

impl OpenedFile {
    /// Opens a name in a directory. Pipes and devices are looked at, never opened.
    pub(super) fn open(
        directory: &OwnedFd,
        name: &CStr,
        path: &Path,
        section: Section,
        opaque: bool,
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let stat = Stat::at(&handle, c"")?;
        let (major, minor) = stat.rdev;
        let mut file = None;
        let kind = match stat.file_type() {
            FileType::RegularFile => {
                let opened = open_to_read(&handle)?;
                let extents = extents(&opened, stat.size)?;
                file = Some(opened);
                FileKind::File { size: stat.size, extents }
            }
            FileType::Directory => FileKind::Directory { opaque },
            FileType::Symlink => FileKind::Symlink { target: read_link(&handle)? },
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::Character { major, minor },
            FileType::BlockDevice => FileKind::Block { major, minor },
            FileType::Unknown => return Err(Errno::NOTSUP.into()),
        };
        let record = FileRecord {
            path: path.to_owned(),
            section,
            kind,
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            atime: stat.atime,
            xattrs: read_xattrs(&handle)?,
        };
        Ok(Self { record, stat, file })
    }

    /// Its body: the bytes of the record's extents, exactly as many as they say, whatever happens to the file.
    pub(super) fn body(&self) -> Body<'_> {
        let extents = match &self.record.kind {
            FileKind::File { extents, .. } => extents.as_slice(),
            _ => &[],
        };
        Body { file: self.file.as_ref(), extents, done: 0, shrank: false }
    }

    /// It changed since it was opened.
    pub(super) fn changed(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        Ok(!Stat::at(file, c"")?.same_state(&self.stat))
    }

    /// Lets the kernel forget what was read.
    pub(super) fn drop_cache(&self) {
        if let Some(file) = &self.file {
            // Advice only: a file system that has none keeps its pages.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        }
    }
}

/// Opens a regular file to read it, by a handle that was found to be one.
pub(crate) fn open_to_read(handle: &OwnedFd) -> io::Result<File> {
    let link = magic_link(handle);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(link.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner, and those who may act as one, can read without a trace.
        Err(Errno::PERM) => rustix::fs::open(link.as_str(), flags, Mode::empty()),
        opened => opened,
    };
    Ok(opened?.into())
}

fn read_link(handle: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let target = rustix::fs::readlinkat(handle, c"", Vec::new())?;
    Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
}

fn extents(file: &File, size: u64) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // The file system knows nothing of holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = if extents.len() + 1 == EXTENT_LIMIT {
            size
        } else {
            match rustix::fs::seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end,
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
                Err(error) => return Err(error.into()),
            }
        };
        // The file can grow and shrink under the search.
        let (start, end) = (start.min(size), end.min(size));
        if end <= start {
            break;
        }
        extents.push(Extent { offset: start, length: end - start });
        offset = end;
    }
    Ok(extents)
}

pub(super) fn read_xattrs(handle: impl AsFd) -> io::Result<Vec<Xattr>> {
    let link = magic_link(handle);
    let names = match list(&link) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if MACHINE_LABELS.contains(&name) {
            continue;
        }
        let mut value = Vec::with_capacity(XATTR_LIMIT.min(1024));
        let got = loop {
            let capacity = rustix::buffer::spare_capacity(&mut value);
            match rustix::fs::getxattr(link.as_str(), name, capacity) {
                Err(Errno::RANGE) if value.capacity() < XATTR_LIMIT => {
                    value = Vec::with_capacity(XATTR_LIMIT)
                }
                got => break got,
            }
        };
        match got {
            Ok(_) => xattrs.push(Xattr { name: name.to_vec(), value }),
            // Removed meanwhile, or not for us to see.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

fn list(link: &str) -> rustix::io::Result<Vec<u8>> {
    let mut names = Vec::with_capacity(1024);
    match rustix::fs::listxattr(link, rustix::buffer::spare_capacity(&mut names)) {
        Err(Errno::RANGE) => {
            names = Vec::with_capacity(XATTR_LIMIT);
            rustix::fs::listxattr(link, rustix::buffer::spare_capacity(&mut names))?;
        }
        listed => drop(listed?),
    }
    Ok(names)
}

/// Reads the extents of a file.
#[derive(Debug)]
pub(super) struct Body<'a> {
    file: Option<&'a File>,
    extents: &'a [Extent],
    /// Bytes of the first extent already given.
    done: u64,
    /// The file ended before its extents did; zeros took the place of what was missing.
    pub(super) shrank: bool,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let (Some(file), Some(extent)) = (self.file, self.extents.first()) else { return Ok(0) };
        let left = extent.length - self.done;
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..wanted];
        let got = match file.read_at(buffer, extent.offset + self.done)? {
            0 => {
                self.shrank = true;
                buffer.fill(0);
                wanted
            }
            got => got,
        };
        self.done += got as u64;
        if self.done == extent.length {
            self.extents = &self.extents[1..];
            self.done = 0;
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn open(root: &Path, name: &CStr) -> OpenedFile {
        let directory = rustix::fs::open(root, OFlags::PATH, Mode::empty()).unwrap();
        OpenedFile::open(&directory, name, &super::super::walk::join(root, name), Section::Carried, false)
            .unwrap()
    }

    #[test]
    fn holes_are_not_read() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create(root.path().join("f")).unwrap();
        file.set_len(1 << 30).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"end", (1 << 30) - 3).unwrap();
        let opened = open(root.path(), c"f");
        let length = opened.record.body_length();
        assert!((3..=2 << 20).contains(&length), "{length}");
        let mut body = Vec::new();
        opened.body().read_to_end(&mut body).unwrap();
        assert_eq!(body.len() as u64, length);
        assert!(body.ends_with(b"end"));
    }

    #[test]
    fn a_file_that_shrinks_still_gives_what_it_promised() {
        let root = tempfile::tempdir().unwrap();
        let mut file = File::create(root.path().join("f")).unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let opened = open(root.path(), c"f");
        file.set_len(100).unwrap();
        let (mut body, mut bytes) = (opened.body(), Vec::new());
        body.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.len(), body.shrank, bytes[99], bytes[100]), (10_000, true, 7, 0));
        assert!(opened.changed().unwrap());
    }

    #[test]
    fn a_fifo_without_a_writer_does_not_block() {
        let root = tempfile::tempdir().unwrap();
        let (path, mode) = (root.path().join("p"), Mode::from_raw_mode(0o640));
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        let opened = open(root.path(), c"p");
        assert_eq!((opened.record.kind, opened.record.mode), (FileKind::Fifo, 0o640));
    }

    #[test]
    fn attributes_of_any_length_are_read() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = root.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let set = |name: &str, length| {
            rustix::fs::setxattr(&path, name, &vec![b'v'; length], rustix::fs::XattrFlags::empty())
        };
        if set("user.long", 5000).is_err() || set("user.empty", 0).is_err() {
            eprintln!("skipped: this tmpfs has no user attributes");
            return;
        }
        let xattrs = open(root.path(), c"f").record.xattrs;
        let found: Vec<_> = xattrs.iter().map(|xattr| (xattr.name.as_slice(), xattr.value.len())).collect();
        assert_eq!(found, [(&b"user.empty"[..], 0), (b"user.long", 5000)]);
    }
}

//! What a container had changed in its files, as engines write it: a tar of what was written, with whiteouts or a list for what was
//! removed (OCI image specification, `layer.md`; Podman's and CRI-O's `deleted.files`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::ContainerError;
use super::stored::{record_below, writable};
use crate::files::layout::LayoutPlan;
use crate::files::{Extent, FileKind, FileRecord, FileSource, Section, Selection, Timestamp, Xattr};

/// What begins the names that stand for files of the image which are gone.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that all the image has in a directory is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The most that a compressed difference may unpack to: so many bytes, or so many times its size where that is more.
const UNPACKED: u64 = 16 << 30;
const TIMES: u64 = 200;
/// The most files.
const MOST: usize = 2_000_000;
/// What pax headers put before the names of extended attributes.
const XATTR: &str = "SCHILY.xattr.";
/// Labels that belong to a machine.
const MACHINES: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

/// Files that were changed, and where their bodies are.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    records: BTreeMap<PathBuf, FileRecord>,
    bodies: BTreeMap<PathBuf, u64>,
    tar: Option<File>,
    root: PathBuf,
}

impl Difference {
    /// Reads the tar, which may be compressed by gzip; it is unpacked to a file without a name in `room`.
    pub(crate) fn read(mut file: File, room: &Path) -> io::Result<Difference> {
        let mut magic = [0; 2];
        let size = file.metadata()?.len();
        let compressed = size >= 2 && file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
        file.seek(SeekFrom::Start(0))?;
        if compressed {
            file = unpacked(file, room, UNPACKED.max(size.saturating_mul(TIMES)))?;
        }
        let mut difference = Difference::default();
        let mut archive = Archive::new(BufReader::new(file.try_clone()?));
        for entry in archive.entries()? {
            difference.add(&mut entry?)?;
            if difference.records.len() > MOST {
                return Err(invalid("it has too many files"));
            }
        }
        difference.tar = Some(file);
        Ok(difference)
    }

    /// Takes files out that were removed.
    pub(crate) fn remove(&mut self, paths: Vec<PathBuf>) {
        for path in paths {
            let path = absolute(&path);
            self.records.entry(path.clone()).or_insert_with(|| record(path, FileKind::Removed));
        }
    }

    /// What is to be done in a container's root.
    pub(crate) fn plan(&mut self, rootfs: &Path) -> Result<LayoutPlan, ContainerError> {
        self.root = rootfs.canonicalize().map_err(ContainerError::place(rootfs))?;
        let records =
            self.records.values().map(|record| record_below(record.clone(), Path::new("/"), &self.root));
        Ok(LayoutPlan::new(records, &writable(&self.root), &Selection::default())?)
    }

    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let path = absolute(Path::new(&std::ffi::OsString::from_vec(entry.path_bytes().into_owned())));
        let name = path.file_name().unwrap_or_default().as_bytes();
        if name == OPAQUE {
            let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
            let there = self.records.entry(directory.clone());
            there.or_insert_with(|| record(directory, FileKind::Directory { opaque: true })).kind =
                FileKind::Directory { opaque: true };
            return Ok(());
        }
        if let Some(removed) = name.strip_prefix(WHITEOUT) {
            let path = path.with_file_name(std::ffi::OsStr::from_bytes(removed));
            self.records.insert(path.clone(), record(path, FileKind::Removed));
            return Ok(());
        }
        // The root itself is the container's.
        if path == Path::new("/") {
            return Ok(());
        }
        let Some(kind) = kind(entry)? else { return Ok(()) };
        let kind = match (kind, self.records.get(&path).map(|record| &record.kind)) {
            // What was said about a directory before it came.
            (FileKind::Directory { .. }, Some(FileKind::Directory { opaque })) => {
                FileKind::Directory { opaque: *opaque }
            }
            (kind, _) => kind,
        };
        let header = entry.header();
        let seconds = i64::try_from(header.mtime()?).unwrap_or_default();
        let time = Timestamp { seconds, nanoseconds: 0 };
        let mut record = FileRecord {
            path: path.clone(),
            section: Section::Carried,
            mode: header.mode()? & 0o7777,
            uid: u32::try_from(header.uid()?).map_err(|_| invalid("an owner is no number of one"))?,
            gid: u32::try_from(header.gid()?).map_err(|_| invalid("a group is no number of one"))?,
            mtime: time,
            atime: time,
            xattrs: Vec::new(),
            kind,
        };
        if matches!(record.kind, FileKind::File { .. }) {
            self.bodies.insert(path.clone(), entry.raw_file_position());
        }
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let name = extension.key().ok().and_then(|key| key.strip_prefix(XATTR));
            if let Some(name) = name.filter(|name| !MACHINES.contains(&name.as_bytes())) {
                let value = extension.value_bytes().to_vec();
                record.xattrs.push(Xattr { name: name.as_bytes().to_vec(), value });
            }
        }
        record.xattrs.sort();
        self.records.insert(path, record);
        Ok(())
    }
}

fn invalid(because: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, because)
}

fn unpacked(file: File, room: &Path, limit: u64) -> io::Result<File> {
    let path = room.join("rootfs-diff");
    let mut plain = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let mut decoder = MultiGzDecoder::new(BufReader::new(file)).take(limit.saturating_add(1));
    if io::copy(&mut decoder, &mut plain)? > limit {
        return Err(invalid("it unpacks to more than it may"));
    }
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

/// A path of the container's. What climbs is kept as it is, and refused when it is to be laid out.
fn absolute(path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    Path::new("/").join(parts.collect::<PathBuf>())
}

/// A record of something that has no body and no owner of its own.
fn record(path: PathBuf, kind: FileKind) -> FileRecord {
    let time = Timestamp { seconds: 0, nanoseconds: 0 };
    FileRecord {
        path,
        section: Section::Carried,
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: time,
        atime: time,
        xattrs: Vec::new(),
    }
}

/// What an entry is; none for what is no file.
fn kind<R: Read>(entry: &Entry<'_, R>) -> io::Result<Option<FileKind>> {
    let header = entry.header();
    let target = || {
        let name = entry.link_name_bytes().ok_or_else(|| invalid("a link leads nowhere"))?;
        Ok::<_, io::Error>(PathBuf::from(std::ffi::OsString::from_vec(name.into_owned())))
    };
    let device = || {
        let (major, minor) = (header.device_major()?, header.device_minor()?);
        Ok::<_, io::Error>((major.unwrap_or_default(), minor.unwrap_or_default()))
    };
    Ok(Some(match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let size = entry.size();
            let extents = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, length: size }] };
            FileKind::File { size, extents }
        }
        EntryType::Directory => FileKind::Directory { opaque: false },
        EntryType::Symlink => FileKind::Symlink { target: target()? },
        EntryType::Link => FileKind::HardLink { target: absolute(&target()?) },
        EntryType::Fifo => FileKind::Fifo,
        EntryType::Char => {
            let (major, minor) = device()?;
            // Overlays stand for what is gone by this device.
            if (major, minor) == (0, 0) { FileKind::Removed } else { FileKind::Character { major, minor } }
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            FileKind::Block { major, minor }
        }
        EntryType::GNUSparse => return Err(invalid("it has a sparse file in GNU's form")),
        _ => return Ok(None),
    }))
}

impl FileSource for Difference {
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
        let inside = record.path.strip_prefix(&self.root).map_err(io::Error::other)?;
        let at = self.bodies.get(&Path::new("/").join(inside)).copied();
        let (Some(at), Some(tar)) = (at, &mut self.tar) else { return Err(io::ErrorKind::NotFound.into()) };
        tar.seek(SeekFrom::Start(at))?;
        let length = record.body_length();
        match io::copy(&mut tar.take(length), out)? {
            copied if copied == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o640);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header
    }

    /// A tar of files with these bodies, links with these targets, and empty files.
    fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (path, kind, text) in entries {
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    tar.append_link(&mut header(*kind, 0), path, text).unwrap();
                }
                _ => {
                    tar.append_data(&mut header(*kind, text.len() as u64), path, text.as_bytes()).unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    fn read(bytes: &[u8], room: &Path) -> io::Result<Difference> {
        let path = room.join("diff");
        std::fs::write(&path, bytes)?;
        Difference::read(File::open(path)?, room)
    }

    fn usual() -> Vec<u8> {
        use EntryType::{Directory, Link, Regular, Symlink};
        tar(&[
            ("./etc", Directory, ""),
            ("./etc/me", Regular, "app"),
            ("./etc/again", Link, "etc/me"),
            ("./etc/.wh.motd", Regular, ""),
            ("./cache/.wh..wh..opq", Regular, ""),
            ("./etc/link", Symlink, "/nowhere"),
        ])
    }

    fn lay_out(bytes: &[u8]) {
        let (place, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in ["etc", "cache"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["etc/motd", "etc/kept", "cache/old", "gone"] {
            std::fs::write(root.path().join(file), "image").unwrap();
        }
        let mut difference = read(bytes, place.path()).unwrap();
        difference.remove(vec!["gone".into(), "/etc/me".into()]);
        let plan = difference.plan(root.path()).unwrap();
        let before = plan.before().unwrap();
        plan.apply(&mut difference).unwrap();
        let text = |path: &str| std::fs::read_to_string(root.path().join(path)).ok();
        assert_eq!(text("etc/me").as_deref(), Some("app"));
        assert_eq!(text("etc/again").as_deref(), Some("app"));
        assert_eq!(text("etc/kept").as_deref(), Some("image"));
        for gone in ["etc/motd", "cache/old", "gone"] {
            assert_eq!(text(gone), None, "{gone}");
        }
        assert_eq!(std::fs::read_link(root.path().join("etc/link")).unwrap(), Path::new("/nowhere"));
        drop(before);
        assert_eq!(text("etc/motd").as_deref(), Some("image"), "it is undone");
        assert_eq!(text("etc/me"), None);
    }

    #[test]
    fn files_are_put_back_and_taken_away() {
        lay_out(&usual());
    }

    #[test]
    fn containerd_compresses() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&usual()).unwrap();
        lay_out(&encoder.finish().unwrap());
    }

    #[test]
    fn nothing_climbs_out_of_the_root() {
        let place = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut climbing = tar(&[("etc/aa/bb/cc", EntryType::Regular, "x")]);
        climbing[..12].copy_from_slice(b"../../../a/c");
        // The header's sum counts the name.
        let sum: u32 = climbing[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => 32,
                _ => u32::from(*byte),
            })
            .sum();
        climbing[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut difference = read(&climbing, place.path()).unwrap();
        assert!(difference.plan(root.path()).is_err());
        let mut listed = Difference::default();
        listed.remove(vec!["../../etc/passwd".into()]);
        assert!(listed.plan(root.path()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let place = tempfile::tempdir().unwrap();
            let _ = read(&bytes, place.path());
        }
    }
}

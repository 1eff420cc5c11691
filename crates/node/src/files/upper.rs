//! The upper directory of an overlay: what a container changed in its image.
//!
//! The kernel has made the difference already (Linux, Documentation/filesystems/overlayfs.rst): what is here was
//! written, a character device 0:0 stands for what was removed, and an attribute marks directories that hide what is
//! below. It is copied twice, once while the container runs and once, as far as it changed since, while it is frozen.
//! The program can change this directory at any time, so nothing is reached but by descriptors beneath it.

mod difference;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::capture;
use super::reading::OpenedFile;
use super::{FileKind, FileSink, FilesError, Inode, Section, Stat, Xattr};
use difference::Difference;

/// A write sets a file's time when it begins; one that began so long ago is taken for done.
const LONGEST_WRITE_SECONDS: i64 = 2;
/// What the names of the overlay's own attributes begin with.
const TRUSTED: &[u8] = b"trusted.overlay.";
/// The same where it is mounted with `userxattr`. Elsewhere these are the program's own, and mean nothing.
const USER: &[u8] = b"user.overlay.";

/// A path that is in the sink.
#[derive(Debug)]
struct Copied {
    stat: Stat,
    /// For a hard link, the path of the record with the body.
    leader: Option<PathBuf>,
    /// It may not be what the file held at any one moment.
    doubtful: bool,
    /// It is only known that it is gone.
    removed: bool,
}

/// The copying of one layer, or of what is in one mount.
#[derive(Debug)]
pub struct Layer {
    upper: PathBuf,
    /// Where the container has it.
    at: PathBuf,
    section: Section,
    /// What the names of the overlay's own attributes begin with.
    marks: &'static [u8],
    /// The overlay as a whole, for files of which only owner, mode or times are in the upper directory.
    merged: Option<PathBuf>,
    /// What all of it is compared with, where it is a copy and no difference.
    image: Option<PathBuf>,
    /// What is in that.
    listing: Option<BTreeMap<PathBuf, Stat>>,
    copied: BTreeMap<PathBuf, Copied>,
}

impl Layer {
    /// The layer in the directory `upper`.
    #[must_use]
    pub fn new(upper: impl Into<PathBuf>) -> Layer {
        Layer {
            upper: upper.into(),
            at: PathBuf::from("/"),
            section: Section::Carried,
            marks: TRUSTED,
            merged: None,
            image: None,
            listing: None,
            copied: BTreeMap::new(),
        }
    }

    /// Where the directory is a copy of an image, and not only what was changed in it: compared with that by types, owners, modes, sizes
    /// and times.
    #[must_use]
    pub fn against(self, image: impl Into<PathBuf>) -> Layer {
        Layer { image: Some(image.into()), ..self }
    }

    /// As an overlay mounted with `userxattr` has it.
    #[must_use]
    pub fn marked_for_users(self) -> Layer {
        Layer { marks: USER, ..self }
    }

    /// With the root that the container sees: an overlay mounted with `metacopy` leaves bodies of files in the image.
    #[must_use]
    pub fn seen_at(self, merged: impl Into<PathBuf>) -> Layer {
        Layer { merged: Some(merged.into()), ..self }
    }

    /// All that is in a mount, which the container has at `at`: here it is in `directory`.
    #[must_use]
    pub fn of_mount(directory: impl Into<PathBuf>, at: impl Into<PathBuf>) -> Layer {
        let (upper, at) = (directory.into(), at.into());
        Layer {
            upper,
            at,
            section: Section::Additional,
            marks: TRUSTED,
            merged: None,
            image: None,
            listing: None,
            copied: BTreeMap::new(),
        }
    }

    /// Where the container has it.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Copies what is new since the last pass, or everything. `writable` are paths, as the container has them, that are
    /// open for writing: their times tell nothing. Returns how many records were put.
    ///
    /// # Errors
    /// A file cannot be read, or the sink does not take it.
    pub fn pass(
        &mut self,
        writable: &HashSet<PathBuf>,
        sink: &mut dyn FileSink,
        running: bool,
    ) -> Result<u64, FilesError> {
        let failed =
            |path: &Path, errno: Errno| FilesError::Read { path: path.to_owned(), source: errno.into() };
        let mut beneath = Beneath::new(&self.upper).map_err(|errno| failed(&self.upper, errno))?;
        let found = self.list(&mut beneath)?;
        if let (Some(image), None) = (&self.image, &self.listing) {
            // An image does not change, so it is looked at once, while the container runs.
            self.listing = Some(Layer::new(image).listed()?);
        }
        let nothing = BTreeMap::new();
        let image = self.listing.as_ref().unwrap_or(&nothing);
        let Difference { changed: found, removed } = Difference::of(found, image);
        let mut leaders: HashMap<Inode, PathBuf> = HashMap::new();
        let mut put = 0;
        for (path, stat) in &found {
            let leader = (stat.links > 1 && stat.file_type() == FileType::RegularFile)
                .then(|| leaders.entry(stat.inode()).or_insert_with(|| path.clone()).clone())
                .filter(|leader| leader != path);
            let is_same = self.copied.get(path).is_some_and(|before| {
                before.stat.same_state(stat) && !before.doubtful && !before.removed && before.leader == leader
            });
            if is_same && !writable.contains(path) {
                continue;
            }
            let (directory, name) = match beneath.parent(&self.place(path)) {
                Ok(found) => found,
                Err(errno) if running && is_vanished(errno) => continue,
                Err(errno) => return Err(failed(path, errno)),
            };
            let vanished =
                |error: &io::Error| running && Errno::from_io_error(error).is_some_and(is_vanished);
            let opened = match OpenedFile::open(&directory, &name, path, self.section, false) {
                Ok(opened) => opened,
                Err(error) if vanished(&error) => continue,
                Err(source) => return Err(FilesError::Read { path: path.clone(), source }),
            };
            let whole = match self.is_part(&opened).then(|| self.whole(path)) {
                None => None,
                Some(Ok(whole)) => Some(whole),
                Some(Err(FilesError::Read { source, .. })) if vanished(&source) => continue,
                Some(Err(error)) => return Err(error),
            };
            let doubtful = self.take(whole.as_ref().unwrap_or(&opened), leader.as_deref(), sink)?;
            put += 1;
            self.copied.insert(
                path.clone(),
                Copied {
                    stat: opened.stat,
                    leader,
                    doubtful: running && (doubtful || writable.contains(path)),
                    removed: false,
                },
            );
        }
        for (path, stat) in &removed {
            if self.copied.get(path).is_some_and(|before| before.removed) {
                continue;
            }
            sink.put(&capture::removed(path, self.section), &mut io::empty())
                .map_err(|source| FilesError::Store { path: path.clone(), source })?;
            put += 1;
            let copied = Copied { stat: *stat, leader: None, doubtful: false, removed: true };
            self.copied.insert(path.clone(), copied);
        }
        let gone =
            self.copied.keys().filter(|path| !(found.contains_key(*path) || removed.contains_key(*path)));
        let gone: Vec<PathBuf> = gone.cloned().collect();
        for path in gone {
            sink.withdraw(&path).map_err(|source| FilesError::Store { path: path.clone(), source })?;
            self.copied.remove(&path);
        }
        Ok(put)
    }

    /// Whether only owner, mode, times or attributes of a file are in the upper directory.
    fn is_part(&self, opened: &OpenedFile) -> bool {
        let name = [self.marks, b"metacopy"].concat();
        self.section == Section::Carried
            && opened.stat.file_type() == FileType::RegularFile
            && opened.record.xattrs.iter().any(|xattr| xattr.name == name)
    }

    /// A file as the container sees it.
    fn whole(&self, path: &Path) -> Result<OpenedFile, FilesError> {
        let not_copied = || FilesError::NotCopied { path: path.to_owned() };
        let failed = |source: io::Error| FilesError::Read { path: path.to_owned(), source };
        let merged = self.merged.as_ref().ok_or_else(not_copied)?;
        let mut beneath = Beneath::new(merged).map_err(|errno| failed(errno.into()))?;
        let place = merged.join(path.strip_prefix("/").unwrap_or(path));
        let (directory, name) = beneath.parent(&place).map_err(|errno| failed(errno.into()))?;
        let opened = OpenedFile::open(&directory, &name, path, self.section, false).map_err(failed)?;
        // Something else is mounted over it.
        if opened.stat.mount_root { Err(not_copied()) } else { Ok(opened) }
    }

    /// Puts one file. Returns whether it may have changed meanwhile.
    fn take(
        &self,
        opened: &OpenedFile,
        leader: Option<&Path>,
        sink: &mut dyn FileSink,
    ) -> Result<bool, FilesError> {
        let mut record = opened.record.clone();
        let path = record.path.clone();
        let is_overlay = self.section == Section::Carried;
        let has = |name: &str| {
            if !is_overlay {
                return None;
            }
            let name = [self.marks, name.as_bytes()].concat();
            record.xattrs.iter().find(|xattr| xattr.name == name).map(|xattr| xattr.value.clone())
        };
        if has("redirect").is_some() || has("metacopy").is_some() {
            return Err(FilesError::NotCopied { path });
        }
        let removed = is_overlay
            && (matches!(record.kind, FileKind::Character { major: 0, minor: 0 })
                || has("whiteout").is_some());
        let opaque = has("opaque").is_some_and(|value| value == b"y");
        if is_overlay {
            record.xattrs = as_seen(std::mem::take(&mut record.xattrs), self.marks);
        }
        match &mut record.kind {
            kind if removed => *kind = FileKind::Removed,
            kind if leader.is_some() => {
                *kind = FileKind::HardLink { target: leader.map(Path::to_owned).unwrap_or_default() };
            }
            FileKind::Directory { opaque: marked } => *marked = opaque,
            _ => {}
        }
        let stored = |source| FilesError::Store { path: path.clone(), source };
        if matches!(record.kind, FileKind::File { .. }) {
            let mut body = opened.body();
            sink.put(&record, &mut body).map_err(stored)?;
            let shrank = body.shrank;
            let changed =
                opened.changed().map_err(|source| FilesError::Read { path: path.clone(), source })?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            let recent =
                i64::try_from(now).unwrap_or(i64::MAX) - opened.stat.ctime.seconds < LONGEST_WRITE_SECONDS;
            return Ok(shrank || changed || recent);
        }
        sink.put(&record, &mut io::empty()).map_err(stored)?;
        Ok(false)
    }

    fn listed(&self) -> Result<BTreeMap<PathBuf, Stat>, FilesError> {
        let failed = |errno: Errno| FilesError::Read { path: self.upper.clone(), source: errno.into() };
        self.list(&mut Beneath::new(&self.upper).map_err(failed)?)
    }

    /// Everything beneath the directory, by the paths that the container has for it.
    fn list(&self, beneath: &mut Beneath) -> Result<BTreeMap<PathBuf, Stat>, FilesError> {
        let mut found = BTreeMap::new();
        let top = |errno: Errno| FilesError::Read { path: self.upper.clone(), source: errno.into() };
        let (root, name) = beneath.parent(&self.upper).map_err(top)?;
        found.insert(self.at.clone(), Stat::at(&root, name.as_c_str()).map_err(top)?);
        let mut directories = vec![self.at.clone()];
        while let Some(path) = directories.pop() {
            let failed = |errno: Errno| FilesError::Read { path: path.clone(), source: errno.into() };
            let (parent, name) = match beneath.parent(&self.place(&path)) {
                Ok(place) => place,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::openat(&*parent, name.as_c_str(), flags, Mode::empty()) {
                Ok(directory) => directory,
                // Removed, or replaced, since it was listed.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            for entry in Dir::read_from(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name: CString = entry.file_name().to_owned();
                if matches!(name.as_bytes(), b"." | b"..") {
                    continue;
                }
                let stat = match Stat::at(&directory, name.as_c_str()) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(failed(errno)),
                };
                let path = path.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
                if stat.file_type() == FileType::Directory {
                    directories.push(path.clone());
                }
                found.insert(path, stat);
            }
        }
        Ok(found)
    }

    /// Where a path of the container's is.
    fn place(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.at).unwrap_or(path) {
            inside if inside.as_os_str().is_empty() => self.upper.clone(),
            inside => self.upper.join(inside),
        }
    }
}

/// What a path that was there a moment ago says when it was removed, or became something else.
fn is_vanished(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Attributes as the container sees them: without the overlay's own, and those of an overlay within it by their names
/// there (they have one more `overlay.` here).
fn as_seen(xattrs: Vec<Xattr>, marks: &[u8]) -> Vec<Xattr> {
    let seen = |xattr: Xattr| {
        let Some(name) = xattr.name.strip_prefix(marks) else { return Some(xattr) };
        let inner = [marks, name.strip_prefix(b"overlay.")?].concat();
        Some(Xattr { name: inner, value: xattr.value })
    };
    xattrs.into_iter().filter_map(seen).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::files::tests::MemoryFiles;

    fn none() -> HashSet<PathBuf> {
        HashSet::new()
    }

    #[test]
    fn a_layer_is_read_as_the_kernel_wrote_it() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::write(at("etc/motd"), "hello").unwrap();
        std::fs::hard_link(at("etc/motd"), at("etc/other")).unwrap();
        symlink("/etc/motd", at("link")).unwrap();
        let mut sink = MemoryFiles::default();
        assert_eq!(Layer::new(upper.path()).pass(&none(), &mut sink, false).unwrap(), 5);
        assert!(sink.files.contains_key(Path::new("/")));
        assert_eq!(sink.kind("/etc"), Some(FileKind::Directory { opaque: false }));
        assert_eq!(sink.files[Path::new("/etc/motd")].1, b"hello");
        assert_eq!(sink.kind("/etc/other"), Some(FileKind::HardLink { target: "/etc/motd".into() }));
        assert_eq!(sink.kind("/link"), Some(FileKind::Symlink { target: "/etc/motd".into() }));
    }

    #[test]
    fn what_was_removed_and_what_hides_is_told() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let upper = tempfile::tempdir().unwrap();
        let whiteout = upper.path().join("gone");
        let mode = Mode::from_raw_mode(0);
        if rustix::fs::mknodat(rustix::fs::CWD, &whiteout, FileType::CharacterDevice, mode, 0).is_err() {
            return;
        }
        let hidden = upper.path().join("hidden");
        std::fs::create_dir(&hidden).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let marked = rustix::fs::setxattr(&hidden, "trusted.overlay.opaque", b"y", flags).is_ok();
        let mut sink = MemoryFiles::default();
        Layer::new(upper.path()).pass(&none(), &mut sink, false).unwrap();
        assert_eq!(sink.kind("/gone"), Some(FileKind::Removed));
        assert_eq!(sink.kind("/hidden"), Some(FileKind::Directory { opaque: marked }));
        assert!(sink.files[Path::new("/hidden")].0.xattrs.is_empty());
    }

    #[test]
    fn what_is_in_a_mount_has_the_containers_paths() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("segment"), "shared").unwrap();
        let mut sink = MemoryFiles::default();
        let mut layer = Layer::of_mount(directory.path(), "/dev/shm");
        assert_eq!(layer.pass(&none(), &mut sink, false).unwrap(), 2);
        let (record, body) = &sink.files[Path::new("/dev/shm/segment")];
        assert_eq!((record.section, &body[..]), (Section::Additional, &b"shared"[..]));
        assert_eq!(sink.kind("/dev/shm"), Some(FileKind::Directory { opaque: false }));
    }

    #[test]
    fn attributes_of_the_overlay_stay_behind() {
        let names = |names: &[&str]| -> Vec<Xattr> {
            names.iter().map(|name| Xattr { name: name.as_bytes().to_vec(), value: Vec::new() }).collect()
        };
        let found = names(&[
            "security.capability",
            "trusted.overlay.origin",
            "trusted.overlay.overlay.opaque",
            "user.overlay.a",
        ]);
        let seen = names(&["security.capability", "trusted.overlay.opaque", "user.overlay.a"]);
        assert_eq!(as_seen(found, TRUSTED), seen);
        assert_eq!(as_seen(names(&["user.overlay.origin", "user.a"]), USER), names(&["user.a"]));
    }

    #[test]
    fn the_second_pass_copies_what_changed_and_withdraws_what_went() {
        let upper = tempfile::tempdir().unwrap();
        let at = |name: &str| upper.path().join(name);
        for name in ["same", "written", "open", "gone"] {
            std::fs::write(at(name), "1").unwrap();
        }
        let mut sink = MemoryFiles::default();
        let mut layer = Layer::new(upper.path());
        layer.pass(&none(), &mut sink, true).unwrap();
        // As if the first pass had been long after the last write.
        layer.copied.values_mut().for_each(|copied| copied.doubtful = false);
        std::fs::write(at("written"), "22").unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        std::fs::write(at("new"), "3").unwrap();
        let writable = HashSet::from([PathBuf::from("/open")]);
        let put = layer.pass(&writable, &mut sink, false).unwrap();
        assert_eq!(put, 4, "the root, written, open and new");
        assert_eq!(sink.kind("/gone"), None);
        assert_eq!(sink.files[Path::new("/written")].1, b"22");
    }
}

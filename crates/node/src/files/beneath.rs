//! Directories found beneath a root and nowhere else: no symbolic link is followed, no other mount entered, and
//! no `..` climbs out, whatever the path says and whoever changes the tree meanwhile.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Stat;

/// Longer paths are resolved in pieces; the kernel takes 4095 bytes at a time.
const PIECE: usize = 2048;

/// A root, and the directory last asked for: callers come in path order.
#[derive(Debug)]
pub(super) struct Beneath {
    point: PathBuf,
    root: Rc<OwnedFd>,
    last: Option<(PathBuf, Rc<OwnedFd>)>,
}

impl Beneath {
    /// Takes the directory at `point` as root. The point itself may be reached through links.
    pub(super) fn new(point: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(point, flags, Mode::empty())?;
        Ok(Self { point: point.to_owned(), root: Rc::new(root), last: None })
    }

    /// Where the root is.
    pub(super) fn point(&self) -> &Path {
        &self.point
    }

    /// The directory that holds `path` and the path's name in it; for the root itself, the root and `.`.
    pub(super) fn parent(&mut self, path: &Path) -> rustix::io::Result<(Rc<OwnedFd>, CString)> {
        let relative = path.strip_prefix(&self.point).map_err(|_| Errno::XDEV)?;
        let Some(name) = relative.file_name() else {
            return if relative.as_os_str().is_empty() {
                Ok((Rc::clone(&self.root), c".".into()))
            } else {
                Err(Errno::XDEV)
            };
        };
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        Ok((self.directory(relative.parent().unwrap_or(Path::new("")))?, name))
    }

    fn directory(&mut self, relative: &Path) -> rustix::io::Result<Rc<OwnedFd>> {
        if relative.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((path, directory)) = &self.last
            && path == relative
        {
            return Ok(Rc::clone(directory));
        }
        let directory = Rc::new(open_beneath(&self.root, relative)?);
        self.last = Some((relative.to_owned(), Rc::clone(&directory)));
        Ok(directory)
    }

    /// Forgets the directory last asked for, before something replaces it.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

fn open_beneath(root: &OwnedFd, relative: &Path) -> rustix::io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    let mut components = relative.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        piece.push(name);
        if components.peek().is_none() || piece.as_os_str().len() > PIECE {
            at = Some(open_piece(at.as_ref().unwrap_or(root), &piece)?);
            piece.clear();
        }
    }
    at.map_or_else(|| rustix::io::fcntl_dupfd_cloexec(root, 0), Ok)
}

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_piece(at: &OwnedFd, piece: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(at, piece, DIRECTORY, Mode::empty(), resolve) {
        // Older container engines' seccomp profiles know nothing of openat2.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(at, piece),
        opened => opened,
    }
}

fn step_by_step(at: &OwnedFd, piece: &Path) -> rustix::io::Result<OwnedFd> {
    let mut at = rustix::io::fcntl_dupfd_cloexec(at, 0)?;
    for name in piece.iter() {
        if Stat::at(&at, name)?.mount_root {
            return Err(Errno::XDEV);
        }
        at = rustix::fs::openat(&at, name, DIRECTORY, Mode::empty())?;
    }
    Ok(at)
}

/// The path by which the kernel reaches an open descriptor's file, whatever its kind.
pub(crate) fn magic_link(descriptor: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// A path that names one place only: absolute, without `.`, `..` and doubled slashes, and not the root.
pub(super) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let Some(rest) = bytes.strip_prefix(b"/") else { return false };
    !bytes.contains(&0)
        && rest
            .split(|byte| *byte == b'/')
            .all(|name| !matches!(name, b"" | b"." | b"..") && name.len() <= 255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_is_found_by_its_path() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let mut beneath = Beneath::new(root.path()).unwrap();
        let (directory, name) = beneath.parent(&root.path().join("a/b/c")).unwrap();
        assert_eq!(name.as_c_str(), c"c");
        let stat = Stat::at(&*directory, c"").unwrap();
        assert_eq!(stat.ino, Stat::follow(root.path().join("a/b")).unwrap().ino);
    }

    #[test]
    fn links_and_other_mounts_are_not_entered() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc", root.path().join("link")).unwrap();
        let mut beneath = Beneath::new(root.path()).unwrap();
        let link = root.path().join("link/passwd");
        assert!(matches!(beneath.parent(&link), Err(Errno::LOOP | Errno::NOTDIR)));
        let mut machine = Beneath::new(Path::new("/")).unwrap();
        assert_eq!(machine.parent(Path::new("/proc/self/stat")).unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn without_openat2_the_answers_are_the_same() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        symlink("/etc", root.path().join("a/link")).unwrap();
        let at = rustix::fs::open(root.path(), OFlags::PATH, Mode::empty()).unwrap();
        assert!(step_by_step(&at, Path::new("a/b")).is_ok());
        assert!(matches!(step_by_step(&at, Path::new("a/link")), Err(Errno::NOTDIR | Errno::LOOP)));
        let machine = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(step_by_step(&machine, Path::new("proc/self")).unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn a_plain_path_names_one_place() {
        let table = [
            ("/a/b", true),
            ("/", false),
            ("a", false),
            ("/a/../b", false),
            ("/a//b", false),
            ("/a/.", false),
            ("/a/", false),
            ("", false),
            ("/...", true),
        ];
        for (path, plain) in table {
            assert_eq!(is_plain(Path::new(path)), plain, "{path}");
        }
    }
}

//! A container from the checkpoint that its image carries.
//!
//! The checkpoint lies in the image as engines lay out theirs, below `/.torpor/checkpoint`: `checkpoint/` with CRIU's images and
//! `descriptors.json`, what was used of devices (`accelerators.json`), and what the container had changed in its files, `rootfs-diff.tar` and `deleted.files`. Whoever may run the image may run what
//! is in it, so no namespace is asked for. Nothing of it but these files is looked at, none of them through a link: what an engine
//! would take from there (names of images, annotations, logs) stays what this container's own configuration says.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use torpor_criu::image::process::Inventory;
use torpor_store::GenerationKind;

use super::create::{Making, Outcome};
use super::decision::CARRIED;
use super::error::RuntimeError;
use super::history::{self, History, Restored};
use super::images::entries;
use crate::accelerator::{self, RECORD};
use crate::container::ContainerError;
use crate::container::difference::Difference;
use crate::container::dump::DESCRIPTORS;

/// The largest image, in bytes, but for memory.
const LARGEST: u64 = 1 << 28;
/// The most images.
const MOST: usize = 200_000;
/// The largest list of removed files, in bytes.
const LONGEST_LIST: u64 = 1 << 26;

/// A directory that nobody's links lead out of.
#[derive(Debug)]
struct Inside {
    directory: OwnedFd,
    path: PathBuf,
}

impl Inside {
    fn open(root: &Path, below: &str) -> io::Result<Inside> {
        const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);
        let root = root.canonicalize()?;
        let opened = rustix::fs::open(&root, HANDLE, Mode::empty())?;
        let directory = rustix::fs::openat2(opened, below, HANDLE, Mode::empty(), RESOLVE)?;
        Ok(Inside { directory, path: root.join(below) })
    }

    fn below(&self, name: &str) -> io::Result<Inside> {
        const HANDLE: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);
        let directory = rustix::fs::openat2(self.directory.as_fd(), name, HANDLE, Mode::empty(), RESOLVE)?;
        Ok(Inside { directory, path: self.path.join(name) })
    }

    /// A regular file; none where there is nothing of that name.
    fn file(&self, name: &str) -> io::Result<Option<File>> {
        // A pipe must not keep us waiting.
        const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
        let opened = rustix::fs::openat2(self.directory.as_fd(), name, READ, Mode::empty(), RESOLVE);
        let file = match opened {
            Ok(opened) => File::from(opened),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        match file.metadata()?.is_file() {
            true => Ok(Some(file)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if names.len() >= MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has too many entries"));
            }
            names.push(name);
        }
        Ok(names)
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Lays out CRIU's images in an empty directory. A link to one would lead nowhere: CRIU opens memory once it has changed its root.
fn images_into(checkpoint: &Inside, directory: &Path) -> Result<(), RuntimeError> {
    let inside = checkpoint.path.join("checkpoint");
    let from = checkpoint.below("checkpoint").map_err(RuntimeError::place(&inside))?;
    for name in from.names().map_err(RuntimeError::place(&inside))? {
        if !(name.ends_with(".img") || [DESCRIPTORS, RECORD].contains(&name.as_str())) {
            continue;
        }
        let failed = RuntimeError::place(&inside.join(&name));
        let Some(mut file) = from.file(&name).map_err(&failed)? else { continue };
        let to = directory.join(&name);
        let size = file.metadata().map_err(&failed)?.len();
        if size > LARGEST && !name.starts_with("pages-") {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        let mut copy = File::create_new(&to).map_err(RuntimeError::place(&to))?;
        io::copy(&mut (&mut file).take(size), &mut copy).map_err(&failed)?;
    }
    Ok(())
}

/// What tells this checkpoint from another in an image of the same name.
fn identity(directory: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for name in ["inventory.img", "pstree.img", "files.img"] {
        match std::fs::read(directory.join(name)) {
            Ok(bytes) => hasher.update(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => &mut hasher,
            Err(error) => return Err(error),
        };
    }
    Ok(format!("image {}", &hasher.finalize().to_hex()[..32]))
}

/// What CRIU was told at the dump, as far as it says so.
fn options(directory: &Path) -> Result<Vec<(String, String)>, ContainerError> {
    let inventory: Vec<Inventory> = entries(&directory.join("inventory.img"))?;
    let closed = inventory.iter().any(|entry| entry.tcp_close == Some(true));
    Ok(closed.then(|| ("tcp_close".to_owned(), "true".to_owned())).into_iter().collect())
}

/// Restores the container from its image.
pub(super) fn restore(making: &Making<'_>) -> Result<Outcome, RuntimeError> {
    let checkpoint = making.order.source.to_string();
    let failed = making.failed(&checkpoint);
    let place = making.rootfs.join(CARRIED);
    let inside = Inside::open(&making.rootfs, CARRIED).map_err(RuntimeError::place(&place))?;
    let settings = &making.call.settings;
    let history = History::of(&settings.state, making.order.place.as_ref(), &making.new.id, &making.bundle);
    let cannot = RuntimeError::place(&settings.state);
    let last = history.last().map_err(&cannot)?;
    let undo = history.undo(last.as_ref());
    let room = making.room(&checkpoint, undo.clone())?;
    let directory = room.path().join("images");
    std::fs::create_dir(&directory).map_err(RuntimeError::place(&directory))?;
    images_into(&inside, &directory)?;

    let name = identity(&directory).map_err(RuntimeError::place(&directory))?;
    let next = Restored { name, generation: None };
    if !making.order.again
        && let Err(because) = history::permitted(last.as_ref(), &next, GenerationKind::Template)
    {
        return Ok(Outcome::Nothing(format!("{checkpoint} is not gone back to: {because}")));
    }

    let options = options(&directory).map_err(&failed)?;
    let vendors = accelerator::images_fit(&directory, settings.plugins.as_deref()).map_err(&failed)?;
    let prepared = making.prepare(&checkpoint, &directory, &vendors)?;
    let mut difference = difference(&inside, room.path())?;
    let plan = difference.plan(&making.rootfs).map_err(&failed)?;
    let before = plan.before().map_err(ContainerError::from).map_err(&failed)?;
    plan.apply(&mut difference).map_err(ContainerError::from).map_err(&failed)?;
    history.remember(&next).map_err(&cannot)?;
    let record =
        making.run(&checkpoint, room.path(), &prepared, &options).inspect_err(|_| undo.put_back())?;
    before.release();
    Ok(Outcome::Restored(Box::new(record)))
}

/// What the container had changed in its files.
fn difference(inside: &Inside, room: &Path) -> Result<Difference, RuntimeError> {
    let mut difference = Difference::default();
    let path = inside.path.join("rootfs-diff.tar");
    let failed = RuntimeError::place(&path);
    if let Some(file) = inside.file("rootfs-diff.tar").map_err(&failed)? {
        difference = Difference::read(file, room).map_err(&failed)?;
    }
    let path = inside.path.join("deleted.files");
    let failed = RuntimeError::place(&path);
    if let Some(file) = inside.file("deleted.files").map_err(&failed)? {
        let list: Option<Vec<PathBuf>> =
            serde_json::from_reader(file.take(LONGEST_LIST)).map_err(|error| failed(error.into()))?;
        difference.remove(list.unwrap_or_default());
    }
    Ok(difference)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join(CARRIED).join("checkpoint");
        std::fs::create_dir_all(&images).unwrap();
        for name in ["inventory.img", "pstree.img", "pages-1.img", DESCRIPTORS, RECORD, "dump.log"] {
            std::fs::write(images.join(name), name).unwrap();
        }
        root
    }

    fn lay_out(root: &Path) -> Result<Vec<String>, RuntimeError> {
        let directory = tempfile::tempdir().unwrap();
        let inside = Inside::open(root, CARRIED).map_err(RuntimeError::place(root))?;
        images_into(&inside, directory.path())?;
        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(!directory.path().join("pages-1.img").is_symlink());
        assert_eq!(std::fs::read_to_string(directory.path().join("pages-1.img")).unwrap(), "pages-1.img");
        Ok(names)
    }

    #[test]
    fn images_are_copied() {
        let root = image();
        assert_eq!(
            lay_out(root.path()).unwrap(),
            [RECORD, DESCRIPTORS, "inventory.img", "pages-1.img", "pstree.img"]
        );
    }

    /// CVE-2026-53489: containerd followed a link in an archive to a file of the machine's.
    #[test]
    fn no_link_leads_to_a_file_of_the_machines() {
        for link in ["checkpoint/core-1.img", "checkpoint/pages-2.img", "rootfs-diff.tar", "deleted.files"] {
            let root = image();
            symlink("/etc/passwd", root.path().join(CARRIED).join(link)).unwrap();
            let inside = Inside::open(root.path(), CARRIED).unwrap();
            let refused = match link.starts_with("checkpoint") {
                true => lay_out(root.path()).unwrap_err(),
                false => difference(&inside, root.path()).unwrap_err(),
            };
            assert!(refused.to_string().contains(link), "{refused}");
        }
        let root = image();
        let elsewhere = image();
        let checkpoint = root.path().join(CARRIED);
        std::fs::remove_dir_all(&checkpoint).unwrap();
        symlink(elsewhere.path().join(CARRIED), &checkpoint).unwrap();
        assert!(Inside::open(root.path(), CARRIED).is_err());
    }

    /// CVE-2026-53492: containerd took annotations from an archive, and devices by them. CVE-2026-50195: it gave an image of the machine the
    /// name that an archive said.
    #[test]
    fn what_a_checkpoint_says_of_annotations_and_images_is_not_looked_at() {
        let root = image();
        for name in ["spec.dump", "config.dump", "status.dump", "container.log"] {
            let text =
                r#"{"annotations": {"cdi.k8s.io/x": "vendor.com/device=all"}, "rootfsImageName": "pause:1"}"#;
            std::fs::write(root.path().join(CARRIED).join(name), text).unwrap();
            std::fs::write(root.path().join(CARRIED).join("checkpoint").join(name), text).unwrap();
        }
        assert_eq!(
            lay_out(root.path()).unwrap(),
            [RECORD, DESCRIPTORS, "inventory.img", "pages-1.img", "pstree.img"]
        );
    }

    #[test]
    fn a_pipe_keeps_nobody_waiting() {
        let root = image();
        let pipe = root.path().join(CARRIED).join("rootfs-diff.tar");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let inside = Inside::open(root.path(), CARRIED).unwrap();
        assert!(difference(&inside, root.path()).unwrap_err().to_string().contains("rootfs-diff.tar"));
    }

    #[test]
    fn another_checkpoint_is_another() {
        let place = tempfile::tempdir().unwrap();
        let first = identity(place.path()).unwrap();
        std::fs::write(place.path().join("pstree.img"), "x").unwrap();
        assert_ne!(identity(place.path()).unwrap(), first);
    }
}

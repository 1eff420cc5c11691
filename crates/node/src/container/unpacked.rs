//! An engine's archive that lies unpacked in a directory of ours: CRIU's images in [`IMAGES`], and beside them what the container had changed
//! in its image.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::ContainerError;
use super::difference::Difference;
use super::restore::{Wanted, container, root_of_bundle};
use super::route::Runtime;
use crate::files::layout::Before;

/// Where CRIU's images are.
pub const IMAGES: &str = "checkpoint";
/// What the container had written.
pub const WRITTEN: &str = "rootfs-diff.tar";
/// What it had removed.
pub const REMOVED: &str = "deleted.files";

/// Makes a container run again from such a directory. Of `wanted`, the images are those in it. Returns its exit code, where it was waited for.
///
/// # Errors
/// It does not fit, or the runtime fails: then the bundle's root is as it was.
pub fn restore(
    runtime: &Runtime,
    wanted: &Wanted<'_>,
    directory: &Path,
) -> Result<Option<i32>, ContainerError> {
    let images = directory.join(IMAGES);
    super::restore::check(&images, wanted.bundle)?;
    runtime.has_not(wanted.root, wanted.id)?;
    let before = put_files(directory, &root_of_bundle(wanted.bundle)?)?;
    let code = container(runtime, &Wanted { images: &images, ..wanted.clone() })?;
    before.release();
    Ok(code)
}

/// Puts what the container had changed into a root. What was there comes back when the answer is dropped, unless that is released.
///
/// # Errors
/// It cannot be read or written, or leads out of the root.
pub fn put_files(directory: &Path, rootfs: &Path) -> Result<Before, ContainerError> {
    let path = directory.join(WRITTEN);
    let failed = ContainerError::place(&path);
    let mut difference = match opened(&path).map_err(&failed)? {
        Some(file) => Difference::read(file, directory).map_err(failed)?,
        None => Difference::default(),
    };
    let path = directory.join(REMOVED);
    let failed = ContainerError::place(&path);
    if let Some(file) = opened(&path).map_err(&failed)? {
        let list: Option<Vec<PathBuf>> =
            serde_json::from_reader(file).map_err(|error| failed(error.into()))?;
        difference.remove(list.unwrap_or_default());
    }
    let plan = difference.plan(rootfs)?;
    let before = plan.before()?;
    plan.apply(&mut difference)?;
    Ok(before)
}

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_put_in_and_taken_back_again() {
        let place = tempfile::tempdir().unwrap();
        let (archive, root) = (place.path().join("archive"), place.path().join("root"));
        for directory in [&archive, &root] {
            std::fs::create_dir(directory).unwrap();
        }
        for name in ["kept", "removed"] {
            std::fs::write(root.join(name), "image").unwrap();
        }
        let mut tar = tar::Builder::new(File::create(archive.join(WRITTEN)).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(7);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        tar.append_data(&mut header, "kept", &b"changed"[..]).unwrap();
        tar.finish().unwrap();
        std::fs::write(archive.join(REMOVED), r#"["/removed"]"#).unwrap();
        let before = put_files(&archive, &root).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("kept")).unwrap(), "changed");
        assert!(!root.join("removed").exists());
        drop(before);
        assert_eq!(std::fs::read_to_string(root.join("kept")).unwrap(), "image");
        assert!(root.join("removed").exists());
        std::fs::write(archive.join(REMOVED), "no list").unwrap();
        assert!(put_files(&archive, &root).is_err());
        std::fs::remove_file(archive.join(REMOVED)).unwrap();
        std::fs::remove_file(archive.join(WRITTEN)).unwrap();
        put_files(&archive, &root).unwrap().release();
        assert_eq!(std::fs::read_to_string(root.join("kept")).unwrap(), "image");
    }
}

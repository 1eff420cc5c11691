//! Restore a directory of CRIU's images as plain processes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use torpor_criu::diagnosis::Operation;
use torpor_criu::options::{Common, RestoreOptions, Tcp};
use torpor_criu::program::Program;
use torpor_criu::rpc::CgroupMode;
use torpor_criu::session::{Session, Spawn, Verdict};

use super::streams;
use crate::accelerator;
use crate::container::ContainerError;
use crate::container::dump::DESCRIPTORS;
use crate::container::restore::{LOG, has_connections, wait, whole};
use crate::staging::{self, Staging};

/// CRIU's name for the link to the images of the dump before (CRIU, `criu/include/image.h`).
const PARENT: &str = "parent";
/// The number of the first standard stream that CRIU is given.
const STREAMS: i32 = 20;
/// Most dumps on top of each other.
const CHAIN: usize = 1024;

/// What was asked for about processes that are to be.
#[derive(Debug, Clone)]
pub struct Processes<'a> {
    /// The CRIU to use.
    pub criu: &'a Program,
    /// The images.
    pub images: &'a Path,
    /// The images of the dump before, where no link beside the images leads there.
    pub previous: Option<&'a Path>,
    /// Where its PID is written.
    pub pid_file: Option<&'a Path>,
    /// They run on by themselves; else this waits for the end of their root.
    pub detach: bool,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// Their terminal or session may be somebody else's.
    pub shell_job: bool,
    /// Where the log is kept while they are made.
    pub staging: &'a Path,
}

/// Makes processes run again that were in no container. Returns the exit code of their root, where it was waited for.
///
/// # Errors
/// The images are not whole or a container's, devices that were used are not here as they were, or CRIU fails. Nothing is left of them then.
pub fn restore(wanted: &Processes<'_>) -> Result<Option<i32>, ContainerError> {
    are_of_processes(wanted.images)?;
    staging::clean_up(wanted.staging, "restore-");
    let name = format!("restore-{}", std::process::id());
    let work = Staging::create(wanted.staging, &name).map_err(ContainerError::place(wanted.staging))?;
    let images = match wanted.previous {
        Some(_) => seen(wanted.images, wanted.previous, work.path())?,
        None => wanted.images.to_owned(),
    };
    has_parents(&images)?;
    accelerator::images_fit(&images, wanted.criu.plugins())?;
    let mut spawn = Spawn::default();
    let mut inherited = Vec::new();
    for (descriptor, key) in streams::outside(&images)? {
        let own = match descriptor {
            0 => io::stdin().as_fd().try_clone_to_owned(),
            1 => io::stdout().as_fd().try_clone_to_owned(),
            _ => io::stderr().as_fd().try_clone_to_owned(),
        };
        let number = STREAMS + i32::try_from(inherited.len()).unwrap_or_default();
        spawn = spawn.pass(own.map_err(ContainerError::helper("pass on a standard stream"))?, number);
        inherited.push((key, number));
    }
    if wanted.shell_job && rustix::termios::isatty(rustix::stdio::stdin()) {
        let terminal = rustix::stdio::stdin().try_clone_to_owned();
        spawn.terminal = Some(terminal.map_err(ContainerError::helper("pass on the terminal"))?);
        spawn.same_process_group = true;
    }
    let session = Session::start(wanted.criu, spawn)?;
    let mut common = Common::new(&images);
    common.work_dir = Some(work.path().to_owned());
    common.log_file = Some(LOG.to_owned());
    common.unprivileged = crate::capabilities::unprivileged();
    common.tcp = if has_connections(wanted.images)? { Tcp::Established } else { Tcp::Fail };
    common.ext_unix_sockets = wanted.external_unix;
    common.shell_job = wanted.shell_job;
    common.file_locks = true;
    common.evasive_devices = true;
    common.cgroups = Some(CgroupMode::Ignore);
    let options = RestoreOptions { sibling: !wanted.detach, ..RestoreOptions::new(common) };
    let options = inherited.into_iter().fold(options, |options, (key, number)| options.inherit(key, number));
    let restored = session
        .restore(&options, &mut |_| Verdict::Proceed)
        .map_err(|error| ContainerError::from(error).with_log(&work.path().join(LOG), Operation::Restore))?;
    let root = restored.pid.as_raw_nonzero().get();
    if let Some(path) = wanted.pid_file {
        std::fs::write(path, root.to_string()).map_err(ContainerError::place(path))?;
    }
    if wanted.detach { Ok(None) } else { wait(root).map(Some) }
}

/// Refuses what is no directory of images, or one of a container's.
pub(super) fn are_of_processes(images: &Path) -> Result<(), ContainerError> {
    whole(images)?;
    match images.join(DESCRIPTORS).exists() {
        true => Err(ContainerError::NeedsBundle { checkpoint: images.display().to_string() }),
        false => Ok(()),
    }
}

/// The images as links in a directory of ours, with another parent where one is given: what belongs to others is not changed.
pub(super) fn seen(images: &Path, previous: Option<&Path>, work: &Path) -> Result<PathBuf, ContainerError> {
    let view = work.join("images");
    std::fs::create_dir(&view).map_err(ContainerError::place(&view))?;
    let link = |to: &Path, name: &OsStr| {
        let path = view.join(name);
        symlink(to, &path).map_err(ContainerError::place(&path))
    };
    for entry in std::fs::read_dir(images).map_err(ContainerError::place(images))? {
        let name = entry.map_err(ContainerError::place(images))?.file_name();
        if name != PARENT || previous.is_none() {
            link(&images.join(&name), &name)?;
        }
    }
    previous.map_or(Ok(()), |previous| link(previous, OsStr::new(PARENT)))?;
    Ok(view)
}

/// Whether all directories of a chain are there.
///
/// # Errors
/// A link leads nowhere, or back.
pub(crate) fn has_parents(images: &Path) -> Result<(), ContainerError> {
    let mut directory = images.to_owned();
    for _ in 0..CHAIN {
        let link = directory.join(PARENT);
        match std::fs::symlink_metadata(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ContainerError::place(&link)(error)),
            Ok(_) if link.join("inventory.img").exists() => directory = link,
            Ok(_) => {
                let to = std::fs::read_link(&link).unwrap_or_else(|_| link.clone());
                return Err(ContainerError::NoParent { link, to });
            }
        }
    }
    Err(ContainerError::NoParent { link: images.join(PARENT), to: images.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_whole_or_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = |name: &str| {
            let path = place.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("inventory.img"), name).unwrap();
            path
        };
        let (first, second) = (directory("1"), directory("2"));
        has_parents(&second).unwrap();
        symlink("../1", second.join(PARENT)).unwrap();
        has_parents(&second).unwrap();
        symlink("../gone", first.join(PARENT)).unwrap();
        let error = has_parents(&second).unwrap_err();
        assert!(error.to_string().contains("../gone"), "{error}");

        // Another parent goes before the link that leads nowhere.
        let third = directory("3");
        let view = seen(&first, Some(&third), place.path()).unwrap();
        has_parents(&view).unwrap();
        assert_eq!(std::fs::read(view.join("inventory.img")).unwrap(), b"1");
        assert_eq!(std::fs::read(view.join("parent/inventory.img")).unwrap(), b"3");
        symlink("../3", third.join(PARENT)).unwrap();
        assert!(matches!(has_parents(&third), Err(ContainerError::NoParent { .. })), "it goes in circles");
    }
}

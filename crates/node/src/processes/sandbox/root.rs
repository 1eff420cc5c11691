//! The root of a sandbox: what its plan says, mounted by its first process in its mount namespace, and entered.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::plan::{Cover, Covered, SandboxMounts};
use crate::container::own::{MASKED, READ_ONLY};
use crate::mounts::overlay;

/// Devices that lead nowhere, by their names in `/dev`.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What programs expect in `/dev` besides.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// A step that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// What could not be done.
    pub(super) doing: String,
    /// Why.
    pub(super) source: io::Error,
}

impl Failed {
    pub(super) fn at(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
        let doing = doing.into();
        move |source| Failed { doing, source }
    }
}

/// Where the root is made, in its place.
pub(super) const ROOT: &str = "root";

/// Makes the root over the empty directory `place`. Returns what is read-only because nothing else can be made of it.
pub(super) fn build(place: &Path, plan: &SandboxMounts) -> Result<Vec<PathBuf>, Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
        .map_err(io::Error::from)
        .map_err(Failed::at("have mounts of its own"))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mounted("tmpfs", place, flags, c"mode=0700").map_err(Failed::at("keep changes in memory"))?;
    let root = place.join(ROOT);
    let mut read_only = Vec::new();
    for (number, covered) in plan.covered.iter().enumerate() {
        let at = root.join(covered.at.strip_prefix("/").unwrap_or(&covered.at));
        // Below something that is empty, or not the sandbox's, there is nothing to mount on.
        if covered.at != Path::new("/") && !at.exists() {
            continue;
        }
        match cover(covered, &at, &place.join(number.to_string())) {
            Ok(Made::AsPlanned) => {}
            Ok(Made::ReadOnly) => read_only.push(covered.at.clone()),
            Err(source) => return Err(Failed { doing: format!("show {}", covered.at.display()), source }),
        }
    }
    Ok(read_only)
}

enum Made {
    AsPlanned,
    ReadOnly,
}

fn cover(covered: &Covered, at: &Path, changes: &Path) -> io::Result<Made> {
    let silent = MountFlags::NODEV | MountFlags::NOSUID;
    let quiet = silent | MountFlags::NOEXEC;
    match covered.cover {
        Cover::Scratch => {
            let flags = if covered.read_only { silent | MountFlags::RDONLY } else { silent };
            if let Err(error) = overlay(&covered.at, &changes.join("upper"), &changes.join("work"), at, flags)
            {
                tracing::debug!(at = %covered.at.display(), %error, "no overlay");
                read_only(&covered.at, at)?;
                return Ok(Made::ReadOnly);
            }
        }
        Cover::ReadOnly => read_only(&covered.at, at)?,
        Cover::Copy => {
            fs::create_dir_all(changes)?;
            let copy = changes.join("copy");
            fs::copy(&covered.at, &copy)?;
            rustix::mount::mount_bind(&copy, at)?;
        }
        Cover::Empty => {
            fs::create_dir_all(changes)?;
            fs::set_permissions(changes, fs::metadata(&covered.at)?.permissions())?;
            rustix::mount::mount_bind(changes, at)?;
        }
        Cover::Memory => {
            fs::create_dir_all(at)?;
            mounted("tmpfs", at, quiet, c"mode=1777")?;
        }
        Cover::Processes => mounted("proc", at, quiet, c"")?,
        Cover::Kernel => mounted("sysfs", at, quiet | MountFlags::RDONLY, c"")?,
        Cover::Devices => devices(at)?,
        Cover::Terminals => mounted(
            "devpts",
            at,
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"newinstance,ptmxmode=0666,mode=0620,gid=5",
        )?,
        Cover::Messages => mounted("mqueue", at, quiet, c"")?,
    }
    Ok(Made::AsPlanned)
}

fn mounted(kind: &str, at: &Path, flags: MountFlags, options: &std::ffi::CStr) -> io::Result<()> {
    Ok(rustix::mount::mount(kind, at, kind, flags, options)?)
}

/// What is at `from`, without what is mounted below, for nobody to change.
fn read_only(from: &Path, at: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(from, at)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    Ok(rustix::mount::mount_remount(at, flags, c"")?)
}

fn devices(at: &Path) -> io::Result<()> {
    mounted("tmpfs", at, MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755")?;
    for name in NODES {
        let (from, node) = (Path::new("/dev").join(name), at.join(name));
        // Not every container has a terminal's.
        if from.exists() {
            File::create(&node)?;
            rustix::mount::mount_bind(&from, &node)?;
        }
    }
    for (name, to) in LINKS {
        symlink(to, at.join(name))?;
    }
    for name in ["pts", "mqueue", "shm"] {
        fs::create_dir(at.join(name))?;
    }
    Ok(())
}

/// Makes what was built the root, and takes the machine's away.
pub(super) fn enter(place: &Path) -> io::Result<()> {
    rustix::process::chdir(place.join(ROOT))?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Keeps those in the sandbox from changing the machine by its `/proc`, which CRIU itself had to write to, and from reading what tells of its
/// memory, keys and hardware: as in a container.
pub(super) fn close_proc() -> io::Result<()> {
    for path in MASKED.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => mounted("tmpfs", path, MountFlags::RDONLY, c"size=0")?,
            Ok(_) => rustix::mount::mount_bind("/dev/null", path)?,
            Err(_) => {}
        }
    }
    READ_ONLY.map(Path::new).iter().filter(|path| path.exists()).try_for_each(|path| read_only(path, path))
}

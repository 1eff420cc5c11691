//! Restore a directory of CRIU's images as a container, by its runtime and from a bundle.

mod seclusion;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use torpor_criu::diagnosis::Operation;
use torpor_criu::image::edit::{self, EditError};
use torpor_criu::image::namespace::Mount;
use torpor_criu::image::{ImageReader, Kind, Limits};

use super::ContainerError;
use super::dump::{DESCRIPTORS, resolve_in};
use super::route::{Runtime, Start};
use super::state::{Description, MountKind};
use crate::accelerator;
use crate::oci_runtime::criu::{self, Annotated};
use crate::processes::restore::has_parents;
use crate::staging::{self, Staging};
use crate::sys::process::{self, Ended, Wait};
use seclusion::{Seclusion, Traces};

/// The name that CRIU and the runtimes give to the log of a restore.
pub(crate) const LOG: &str = "restore.log";

/// What the names of directories for such logs begin with.
const PREFIX: &str = "bundle-";

/// What was asked for about a container that is to be.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Its ID.
    pub id: &'a str,
    /// The directory of its configuration.
    pub bundle: &'a Path,
    /// The directory of the runtime's states, where it is not the usual one.
    pub root: Option<&'a Path>,
    /// The images.
    pub images: &'a Path,
    /// It runs on by itself; else this waits for its end.
    pub detach: bool,
    /// Where its PID is written.
    pub pid_file: Option<&'a Path>,
    /// Unix sockets may have peers outside.
    pub external_unix: bool,
    /// Its terminal or session may be somebody else's.
    pub shell_job: bool,
    /// All its processes are left stopped, before their first instruction.
    pub stopped: bool,
    /// Its connections are closed: nobody whom they led to is there.
    pub alone: bool,
    /// Where the log is kept while it is made.
    pub staging: &'a Path,
}

/// Makes a container run again, by its runtime. Returns its exit code, where it was waited for.
///
/// # Errors
/// It does not fit, which is found before anything is made; or the runtime fails.
pub fn container(runtime: &Runtime, wanted: &Wanted<'_>) -> Result<Option<i32>, ContainerError> {
    check(wanted.images, wanted.bundle)?;
    // A runtime's own `restore` tells CRIU nothing of plugins.
    accelerator::images_fit(wanted.images, None)?;
    has_parents(wanted.images)?;
    staging::clean_up_after(wanted.staging, PREFIX, &Traces::take_away);
    // What has failed is forgotten, and that must be ours.
    runtime.has_not(wanted.root, wanted.id)?;
    let name = format!("{PREFIX}{}", wanted.id);
    let work = Staging::create(wanted.staging, &name).map_err(ContainerError::place(wanted.staging))?;
    let start = Start {
        id: wanted.id,
        bundle: wanted.bundle,
        root: wanted.root,
        images: wanted.images,
        work: work.path(),
        detach: wanted.detach,
        pid_file: wanted.pid_file,
        tcp_established: !wanted.alone && has_connections(wanted.images)?,
        external_unix: wanted.external_unix,
        shell_job: wanted.shell_job,
    };
    let path = wanted.bundle.join("config.json");
    let config = read_config(wanted.bundle)?;
    let mut secluded = Seclusion::plan(runtime.flavor(), wanted.id, &config);
    Traces::leave(work.path(), runtime, wanted, &config, &secluded)?;
    let asks = wanted.stopped || wanted.alone;
    let told = if asks || !secluded.bound.is_empty() {
        match Told::new(runtime, wanted, &path, &config, &secluded.bound) {
            Err(error) if !asks => {
                tracing::debug!(%error, "no control group of its own for the restore");
                secluded = Seclusion::default();
                None
            }
            told => Some(told?),
        }
    } else {
        None
    };
    let result = runtime.restore(&start, &secluded.places);
    drop(told);
    if result.as_ref().map_or(true, Option::is_some) {
        // runc removes what it knows of a container that has ended or never was; crun does not, nor does one killed.
        runtime.forget(wanted.root, wanted.id, Some(wanted.bundle));
    }
    result.map_err(|error| error.with_log(&work.path().join(LOG), Operation::Restore))
}

/// What CRIU is told besides what its runtime tells it, by way of the bundle, which is as it was when this is dropped.
struct Told<'a> {
    path: PathBuf,
    afterwards: Vec<u8>,
    _annotated: Annotated<'a>,
}

impl<'a> Told<'a> {
    fn new(
        runtime: &Runtime,
        wanted: &Wanted<'_>,
        path: &Path,
        config: &'a [u8],
        bound: &[(PathBuf, PathBuf)],
    ) -> Result<Told<'a>, ContainerError> {
        let told = wanted.staging.join(format!("criu-{}.conf", wanted.id));
        let afterwards = criu::afterwards(config, criu::usual(runtime.flavor()));
        let mut while_restored = afterwards.clone();
        for (wanted, line) in [(wanted.stopped, "\nleave-stopped\n"), (wanted.alone, "\ntcp-close\n")] {
            while_restored.extend_from_slice(if wanted { line.as_bytes() } else { b"" });
        }
        while_restored.extend_from_slice(b"\n");
        while_restored.extend_from_slice(criu::bindings(bound).as_bytes());
        std::fs::write(&told, while_restored).map_err(ContainerError::place(&told))?;
        let annotated = Annotated::new(path, config, &told).map_err(ContainerError::place(path))?;
        Ok(Told { path: told, afterwards, _annotated: annotated })
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        // The runtime keeps the place, and a checkpoint by the runtime reads what is there.
        if let Err(error) = std::fs::write(&self.path, &self.afterwards) {
            tracing::warn!(%error, path = %self.path.display(), "CRIU would leave the container stopped by what stays there");
        }
    }
}

/// Holds images and bundle against each other.
///
/// # Errors
/// They do not fit each other, or one of them cannot be read.
pub(crate) fn check(images: &Path, bundle: &Path) -> Result<(), ContainerError> {
    whole(images)?;
    let descriptors = images.join(DESCRIPTORS);
    if !descriptors.exists() {
        return Err(ContainerError::NotAContainer { path: images.to_owned() });
    }
    has_mounts(&external_mounts(images)?, bundle)
}

/// A bundle's configuration, as it is written.
fn read_config(bundle: &Path) -> Result<Vec<u8>, ContainerError> {
    let path = bundle.join("config.json");
    std::fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ContainerError::NoBundle { path: bundle.to_owned() }
        }
        _ => ContainerError::Place { path, source },
    })
}

/// Whether a bundle has the mounts from outside that images look up by these names.
///
/// # Errors
/// It has not, or cannot be read.
pub(crate) fn has_mounts(external: &BTreeSet<PathBuf>, bundle: &Path) -> Result<(), ContainerError> {
    let (description, rootfs) = configuration(bundle)?;
    let missing = missing(external, &description, |path| resolve_in(&rootfs, path));
    if missing.is_empty() {
        Ok(())
    } else {
        Err(ContainerError::MissingMounts { bundle: bundle.to_owned(), missing })
    }
}

/// The configuration of a bundle, and its root directory, which must be there.
fn configuration(bundle: &Path) -> Result<(Description, PathBuf), ContainerError> {
    let path = bundle.join("config.json");
    let config = read_config(bundle)?;
    let broken = |source| ContainerError::Config { path: path.clone(), source };
    let description = Description::from_oci(&config).map_err(broken)?;
    let rootfs = bundle.join(Description::root_of(&config).map_err(broken)?);
    if !rootfs.is_dir() {
        return Err(ContainerError::place(&rootfs)(Errno::NOENT.into()));
    }
    Ok((description, rootfs))
}

/// Where the mounts from outside of a bundle come from, by where the container has them.
pub(super) fn sources_of_mounts(bundle: &Path) -> Result<BTreeMap<PathBuf, PathBuf>, ContainerError> {
    let path = bundle.join("config.json");
    let config = read_config(bundle)?;
    let config: serde_json::Value =
        serde_json::from_slice(&config).map_err(|source| ContainerError::Config { path, source })?;
    let mounts = config["mounts"].as_array().into_iter().flatten();
    let sources = mounts.filter_map(|mount| {
        Some((mount["destination"].as_str()?.into(), bundle.join(mount["source"].as_str()?)))
    });
    Ok(sources.collect())
}

/// The root directory of a bundle, which must be there.
///
/// # Errors
/// It is not, or the configuration cannot be read.
pub fn root_of_bundle(path: &Path) -> Result<PathBuf, ContainerError> {
    configuration(path).map(|(_, rootfs)| rootfs)
}

/// Has CRIU not compare the permissions of the container's root in images of ours: each engine makes roots with others, and so does who
/// unpacks an image for a bundle.
///
/// # Errors
/// The images cannot be read or changed.
pub fn take_any_root(images: &Path) -> Result<(), ContainerError> {
    let path = images.join("files.img");
    let read = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(ContainerError::place(&path))?,
    };
    let damaged = |source| ContainerError::Edit { path: path.clone(), source: EditError::from(source) };
    let changed = edit::any_mode_of_root(&read).map_err(damaged)?;
    if changed != read {
        std::fs::write(&path, changed).map_err(ContainerError::place(&path))?;
    }
    Ok(())
}

/// Refuses what is certainly no directory of images, or not all of one.
pub(crate) fn whole(images: &Path) -> Result<(), ContainerError> {
    for missing in ["inventory.img", "pstree.img"] {
        let path = images.join(missing);
        match std::fs::metadata(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(ContainerError::NoImages { path: images.to_owned(), missing });
            }
            looked_at => looked_at.map_err(ContainerError::place(&path))?,
        };
    }
    Ok(())
}

/// Whether connections were captured.
pub(crate) fn has_connections(images: &Path) -> Result<bool, ContainerError> {
    let names = names(images)?;
    Ok(names.iter().any(|name| name.starts_with("tcp-stream-")))
}

/// The names by which mounts from outside are looked up.
fn external_mounts(images: &Path) -> Result<BTreeSet<PathBuf>, ContainerError> {
    let mut keys = BTreeSet::new();
    for name in names(images)?.iter().filter(|name| name.starts_with("mountpoints-")) {
        let path = images.join(name);
        let file = File::open(&path).map_err(ContainerError::place(&path))?;
        let broken = |source| ContainerError::Image { path: path.clone(), source };
        let mut reader =
            ImageReader::new(Kind::Mounts, BufReader::new(file), Limits::default()).map_err(broken)?;
        while let Some(mount) = reader.next_message::<Mount>().map_err(broken)? {
            keys.extend(mount.ext_key.map(PathBuf::from));
        }
    }
    Ok(keys)
}

/// Mounts that the images need from outside and that this configuration does not have.
fn missing(
    external: &BTreeSet<PathBuf>,
    description: &Description,
    resolve: impl Fn(&Path) -> Option<PathBuf>,
) -> Vec<PathBuf> {
    let wanted = |kind| description.mounts.iter().filter(move |mount| mount.kind == kind);
    let binds: BTreeSet<PathBuf> = wanted(MountKind::Bind)
        .flat_map(|mount| [Some(mount.destination.clone()), resolve(&mount.destination)])
        .flatten()
        .collect();
    let groups: Vec<&PathBuf> = wanted(MountKind::Cgroup).map(|mount| &mount.destination).collect();
    let there = |key: &Path| {
        binds.contains(key)
            || groups.iter().any(|group| key.starts_with(group))
            || key.starts_with("/dev")
            || description.masked.iter().any(|masked| masked == key)
            || key.file_name().is_some_and(|name| name == ".empty-directory")
            // The root itself, which the runtime provides.
            || key == Path::new("/")
    };
    external.iter().filter(|key| key.is_absolute() && !there(key)).cloned().collect()
}

fn names(directory: &Path) -> Result<Vec<String>, ContainerError> {
    let failed = ContainerError::place(directory);
    let entries = std::fs::read_dir(directory).map_err(&failed)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(failed)
}

/// Waits for the end of a child, and passes on what is sent to this process meanwhile. Returns its exit code.
pub(crate) fn wait(root: i32) -> Result<i32, ContainerError> {
    let failed = ContainerError::helper("wait for the end of the program");
    let signals = process::signal_descriptor().map_err(&failed)?;
    loop {
        if let Some((_, ended)) = process::ended_child(Wait::Reap(root)).map_err(&failed)? {
            return Ok(Ended::exit_code(ended));
        }
        let mut polled = [PollFd::new(&signals, PollFlags::IN)];
        let patience = rustix::event::Timespec::try_from(Duration::from_secs(1)).ok();
        let _ = rustix::event::poll(&mut polled, patience.as_ref());
        for (signal, _) in process::read_signals(&signals).map_err(&failed)? {
            if signal != libc::SIGCHLD {
                let _ = process::kill(root, signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(config: &str) -> Description {
        Description::from_oci(config.as_bytes()).unwrap()
    }

    #[test]
    fn a_mount_from_outside_must_be_in_the_bundle() {
        let bundle = description(
            r#"{"mounts": [{"destination": "/data", "type": "bind"}, {"destination": "/var/run/x", "type": "bind"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup"}, {"destination": "/tmp", "type": "tmpfs"}],
                "linux": {"maskedPaths": ["/proc/keys"]}}"#,
        );
        let link = |path: &Path| (path == Path::new("/var/run/x")).then(|| PathBuf::from("/run/x"));
        let keys = |list: &[&str]| list.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let there = [
            "/",
            "/data",
            "/dev/null",
            "/proc/keys",
            "/run/x",
            "/run/crun/.empty-directory",
            "/sys/fs/cgroup/cpu",
        ];
        assert!(missing(&keys(&there), &bundle, link).is_empty());
        let lacking = ["/data", "/etc/hosts", "/tmp"];
        assert_eq!(missing(&keys(&lacking), &bundle, link), ["/etc/hosts", "/tmp"].map(PathBuf::from));
    }

    #[test]
    fn what_is_no_checkpoint_of_a_container_is_refused_before_anything_is_made() {
        let images = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(images.path().join(name), text).unwrap();
        let refusal = || check(images.path(), images.path()).unwrap_err();
        assert!(matches!(refusal(), ContainerError::NoImages { missing: "inventory.img", .. }));
        put("inventory.img", "");
        put("pstree.img", "");
        assert!(matches!(refusal(), ContainerError::NotAContainer { .. }));
        put(DESCRIPTORS, "[]");
        assert!(matches!(refusal(), ContainerError::NoBundle { .. }));
        put("config.json", "{");
        assert!(matches!(refusal(), ContainerError::Config { .. }));
        put("config.json", r#"{"root": {"path": "rootfs"}}"#);
        assert!(matches!(refusal(), ContainerError::Place { path, .. } if path.ends_with("rootfs")));
        std::fs::create_dir(images.path().join("rootfs")).unwrap();
        check(images.path(), images.path()).unwrap();
        put("mountpoints-1.img", "not an image");
        assert!(matches!(refusal(), ContainerError::Image { .. }));
    }
}

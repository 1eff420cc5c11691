//! Archives that an engine makes of a container, where they are wanted: whole or not at all, and over no other file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use torpor_criu::diagnosis::{self, Operation};
use torpor_criu::log::Log;
use torpor_criu::options::Tcp;

use super::cri::{Cri, CriError};
use super::dump::Sight;
use super::kubelet::{Kubelet, KubeletError};
use super::obstacle::{Ability, Obstacle};
use super::refusal::Refusal;
use super::state::{Container, PodPlace, Status};
use super::{ContainerError, Query, Roots, directory};
use crate::guard::{Guard, Watch};
use crate::staging::{self, Staging};

/// Where the kubelet puts archives.
pub const KUBELETS: &str = "/var/lib/kubelet/checkpoints";
/// How long a runtime may take to let a container go on whose checkpoint failed.
const GO_ON: Duration = Duration::from_secs(4);
/// How long a container runs before it counts as one that is not frozen any more by a call that was given up.
const QUIET: Duration = Duration::from_secs(1);
/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_millis(20);

/// What begins the name of a directory in which an archive is written, beside its place.
const STAGING: &str = ".torpor-archive-";
/// The longest name that file systems take, in bytes (`NAME_MAX`).
const LONGEST: usize = 255;

/// A file that is to be.
#[derive(Debug)]
pub struct Placement {
    staging: Staging,
    partial: PathBuf,
    path: PathBuf,
}

impl Placement {
    /// In `wanted`, which is a file that is not there yet, or a directory: there it gets a name as the kubelet gives, but
    /// of a moment in nanoseconds. What earlier ones left there that were killed is removed.
    ///
    /// # Errors
    /// There is such a file, or no such directory.
    pub fn new(wanted: &Path, place: &PodPlace, now: Timestamp) -> Result<Placement, ContainerError> {
        let path = if wanted.is_dir() { wanted.join(name(place, now)) } else { wanted.to_owned() };
        if path.symlink_metadata().is_ok() {
            return Err(ContainerError::Taken { path });
        }
        let failed = ContainerError::place(&path);
        if path.file_name().is_none() {
            return Err(failed(Errno::INVAL.into()));
        }
        let directory = directory_of(&path);
        if !directory.is_dir() {
            return Err(failed(Errno::NOENT.into()));
        }
        staging::clean_up(directory, STAGING);
        let name = format!("{STAGING}{}-{:x}", std::process::id(), Timestamp::now().as_nanosecond());
        let staging = Staging::create(directory, &name).map_err(&failed)?;
        Ok(Placement { partial: staging.path().join("archive.tar"), staging, path })
    }

    /// Where it is to be written.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// The directory that it will be in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// It is whole: puts it where it is wanted. Returns where that is.
    ///
    /// # Errors
    /// Somebody has put another file there, or it cannot be made to last.
    pub fn finish(self) -> Result<PathBuf, ContainerError> {
        let failed = ContainerError::place(&self.path);
        std::fs::File::open(&self.partial).and_then(|file| file.sync_all()).map_err(&failed)?;
        put(&self.partial, &self.path)?;
        std::fs::File::open(self.directory()).and_then(|directory| directory.sync_all()).map_err(&failed)?;
        drop(self.staging);
        Ok(self.path)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Gives a file another name, which no other file may have.
fn put(from: &Path, to: &Path) -> Result<(), ContainerError> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(ContainerError::Taken { path: to.to_owned() }),
        // The file system does not know how; a second name does not replace either.
        Err(Errno::INVAL) => std::fs::hard_link(from, to).map_err(ContainerError::place(to)),
        Err(errno) => Err(ContainerError::place(to)(errno.into())),
    }
}

/// As the kubelet names archives, which says the time in seconds.
fn name(place: &PodPlace, now: Timestamp) -> String {
    let PodPlace { namespace, pod, container } = place;
    file_name(&format!("{pod}_{namespace}-{container}"), &format!("-{now:.9}.tar"))
}

/// As the kubelet would name the directory of a pod's checkpoint.
#[must_use]
pub fn directory_name(namespace: &str, pod: &str, now: Timestamp) -> String {
    file_name(&format!("{pod}_{namespace}"), &format!("-{now:.9}"))
}

/// A name of one file, whatever engines call what it is of: no part of a path, and not longer than a file system takes.
fn file_name(of: &str, end: &str) -> String {
    let odd = |letter: char| letter == '/' || letter.is_control();
    let mut name = format!("checkpoint-{}", of.replace(odd, "_"));
    let room = LONGEST.saturating_sub(end.len());
    name.truncate(name.floor_char_boundary(room));
    name + end
}

/// Has the container's runtime make an archive through its CRI. The container runs on.
///
/// # Errors
/// It does not: the container runs on then, too, and nothing stays.
pub fn by_cri(
    cri: &Cri,
    container: &Container,
    placement: Placement,
    timeout: Option<Duration>,
) -> Result<PathBuf, ContainerError> {
    check(container)?;
    let guard = guarded(cri, &container.id)?;
    let made = cri.checkpoint(&container.id, placement.partial(), timeout);
    if let Err(error) = &made {
        goes_on(cri, container, matches!(error, CriError::Expired));
    }
    guard.dismiss();
    made.map_err(with_log)?;
    placement.finish()
}

/// Has the runtime make a checkpoint of a pod's containers through its CRI, in the directory `wanted`, which is not there yet or empty.
/// They run on.
///
/// # Errors
/// It does not: the containers run on then, too, and nothing stays.
pub fn pod_by_cri(
    cri: &Cri,
    containers: &[Container],
    wanted: &Path,
    timeout: Option<Duration>,
) -> Result<(), ContainerError> {
    containers.iter().try_for_each(check)?;
    let sandbox = containers.iter().find_map(Container::sandbox).unwrap_or_default();
    let ids: Vec<&str> = containers.iter().map(|container| container.id.as_str()).collect();
    let partial = directory::partial(wanted)?;
    let guard = guarded(cri, &ids.join(","))?;
    let made = cri.checkpoint_pod(sandbox, &ids, partial.path(), timeout);
    if let Err(error) = &made {
        let expired = matches!(error, CriError::Expired);
        std::thread::scope(|scope| {
            for container in containers {
                scope.spawn(move || goes_on(cri, container, expired));
            }
        });
    }
    guard.dismiss();
    made.map_err(with_log)?;
    std::fs::rename(partial.path(), wanted).map_err(ContainerError::place(wanted))?;
    partial.keep();
    Ok(())
}

/// Refuses a container that stands in the way of its own checkpoint.
fn check(container: &Container) -> Result<(), ContainerError> {
    let refused = |obstacle| ContainerError::Obstacle { id: container.id.clone(), obstacle };
    let status = container.status();
    if status != Status::Running {
        return Err(refused(Obstacle::Status { status }));
    }
    let sight = Sight::of(container)?;
    // Whether connections are taken is for the runtime's configuration of CRIU to say.
    let ability = Ability::of(container, &sight, Tcp::Established, false)?;
    match ability.obstacles.first() {
        Some(obstacle) => Err(refused(obstacle.clone())),
        None => Ok(()),
    }
}

/// A guard, for a runtime gives up what it does for a caller that is gone, in the midst of it.
fn guarded(cri: &Cri, ids: &str) -> Result<Guard, ContainerError> {
    let mut guard = Guard::start().map_err(ContainerError::helper("start the guard"))?;
    let watch = Watch::Call { ids: ids.to_owned(), socket: cri.socket().to_owned() };
    if let Err(error) = guard.watch(watch) {
        tracing::warn!(%error, "the guard is gone; the checkpoint goes on without");
    }
    Ok(guard)
}

/// Lets containers go on whose checkpoint by a runtime, which listens at `socket`, was given up. Returns how many were frozen.
pub(crate) fn given_up(ids: &str, socket: &Path) -> usize {
    let Ok(cri) = Cri::find(Some(socket), None) else { return 0 };
    let roots = Roots::with(Vec::new());
    let find = |id: &str| roots.find(&Query::Container(id.to_owned())).ok();
    let containers: Vec<Container> = ids.split(',').filter_map(find).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            containers.iter().map(|container| scope.spawn(|| goes_on(&cri, container, true))).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap_or(false))).sum()
    })
}

/// Lets a container go on that its runtime has left frozen, and says whether it had. The runtime is asked for that, which else takes it for paused. One whose call was
/// given up may be about to freeze it still, and lets nothing go on by itself: containerd does all of it within that call.
fn goes_on(cri: &Cri, container: &Container, expired: bool) -> bool {
    let quiet = if expired { QUIET } else { Duration::ZERO };
    let until = Instant::now() + GO_ON;
    let mut runs_since = Instant::now();
    let (mut asked, mut was_frozen) = (Ok(()), false);
    while Instant::now() < until {
        if container.status() == Status::Paused {
            asked = cri.resume(&container.engine, &container.id);
            (runs_since, was_frozen) = (Instant::now(), true);
        } else if runs_since.elapsed() >= quiet {
            return was_frozen;
        }
        std::thread::sleep(LOOK);
    }
    if let Err(error) = asked {
        tracing::warn!(%error, "the runtime takes the container for paused");
    }
    if container.status() == Status::Paused
        && let Some(Err(error)) = container.freezer.as_ref().map(|freezer| freezer.thaw())
    {
        tracing::error!(%error, "the runtime left the container frozen, and it cannot be thawed");
    }
    was_frozen
}

/// Has the kubelet of this or another node make an archive. The container runs on. Returns where it is on its node.
///
/// # Errors
/// It does not: the container runs on then, too.
pub fn by_kubelet(
    kubelet: &Kubelet,
    place: &PodPlace,
    timeout: Option<Duration>,
) -> Result<PathBuf, ContainerError> {
    let made = kubelet.checkpoint(place, timeout)?;
    made.into_iter().next().ok_or_else(|| {
        ContainerError::Kubelet(KubeletError::Unexpected { status: 200, said: "no archive".to_owned() })
    })
}

/// Moves an archive that the kubelet of this node has made to where it is wanted.
///
/// # Errors
/// It is not on this node, or cannot be read or written.
pub fn take_from_kubelet(archive: &Path, placement: Placement) -> Result<PathBuf, ContainerError> {
    match std::fs::rename(archive, placement.partial()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            std::fs::copy(archive, placement.partial())
                .map_err(ContainerError::place(placement.partial()))?;
            std::fs::remove_file(archive).map_err(ContainerError::place(archive))?;
        }
        Err(error) => return Err(ContainerError::place(archive)(error)),
    }
    placement.finish()
}

/// Gives an archive that the kubelet of this node has made a name of its own beside it: the kubelet's says the second, and the next
/// archive of that second replaces it. None where it is not on this node.
///
/// # Errors
/// It cannot be given another name.
pub fn keep_from_kubelet(
    archive: &Path,
    place: &PodPlace,
    now: Timestamp,
) -> Result<Option<PathBuf>, ContainerError> {
    let Some(directory) = archive.parent().filter(|_| archive.is_file()) else { return Ok(None) };
    take_from_kubelet(archive, Placement::new(directory, place, now)?).map(Some)
}

/// Adds what CRIU's log says, where the runtime names one that is here.
fn with_log(error: CriError) -> ContainerError {
    if let CriError::Refused { refusal: Refusal::Criu(Some(log)), .. } = &error
        && let Ok(bytes) = std::fs::read(log)
    {
        let diagnosis = diagnosis::diagnose(Operation::Checkpoint, &Log::from_bytes(&bytes));
        return ContainerError::Criu { restoring: false, diagnosis: Box::new(diagnosis) };
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> PodPlace {
        PodPlace { namespace: "shop".into(), pod: "web-0".into(), container: "web".into() }
    }

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_the_kubelets_but_of_a_shorter_moment() {
        assert_eq!(
            name(&place(), moment("2026-11-21T17:00:00.5Z")),
            "checkpoint-web-0_shop-web-2026-11-21T17:00:00.500000000Z.tar"
        );
    }

    #[test]
    fn odd_and_long_names_are_names_of_files_all_the_same() {
        let now = moment("2026-11-21T17:00:00.5Z");
        let odd = PodPlace { container: "../../etc/x\n".into(), ..place() };
        assert_eq!(name(&odd, now), "checkpoint-web-0_shop-.._.._etc_x_-2026-11-21T17:00:00.500000000Z.tar");
        let directory = tempfile::tempdir().unwrap();
        for pod in ["p".repeat(253), "ä".repeat(200)] {
            let long = PodPlace { pod, ..place() };
            let placement = Placement::new(directory.path(), &long, now).unwrap();
            std::fs::write(placement.partial(), "whole").unwrap();
            let path = placement.finish().unwrap();
            assert!(path.to_str().unwrap().ends_with("-2026-11-21T17:00:00.500000000Z.tar"));
            assert!(directory_name("shop", &long.pod, now).len() < 256);
        }
    }

    #[test]
    fn an_archive_is_put_over_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let now = moment("2026-11-21T17:00:00Z");
        let first = Placement::new(directory.path(), &place(), now).unwrap();
        std::fs::write(first.partial(), "one").unwrap();
        let path = first.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert!(matches!(Placement::new(directory.path(), &place(), now), Err(ContainerError::Taken { .. })));

        // Two at the same time.
        let file = directory.path().join("a.tar");
        let placement = Placement::new(&file, &place(), now).unwrap();
        std::fs::write(placement.partial(), "two").unwrap();
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(placement.finish(), Err(ContainerError::Taken { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");

        let other = Placement::new(&directory.path().join("b.tar"), &place(), now).unwrap();
        std::fs::write(other.partial(), "half").unwrap();
        drop(other);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "nothing half-made stays");
        assert!(Placement::new(&directory.path().join("none/c.tar"), &place(), now).is_err());
    }

    #[test]
    fn the_kubelets_archive_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made.tar");
        std::fs::write(&made, "archive").unwrap();
        let placement = Placement::new(&directory.path().join("to.tar"), &place(), Timestamp::now()).unwrap();
        assert_eq!(std::fs::read(take_from_kubelet(&made, placement).unwrap()).unwrap(), b"archive");
        assert!(!made.exists());

        std::fs::write(&made, "another").unwrap();
        let now = moment("2026-11-21T17:00:00.5Z");
        let kept = keep_from_kubelet(&made, &place(), now).unwrap().unwrap();
        assert_eq!(kept, directory.path().join(name(&place(), now)));
        assert_eq!(keep_from_kubelet(&made, &place(), now).unwrap(), None, "it is on another node");
    }
}

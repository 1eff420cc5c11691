//! A control group for crun's `restore` alone.
//!
//! Where crun does not create the container's group before CRIU begins (version 1, or systemd's driver), its `restore` starts a process that stands
//! in that group for the container, until it reads the container's PID from a pipe. It then destroys the group that it is in, with all that is there
//! (crun, `src/libcrun/container.c`, `restore_proxy_process`). A crun that is killed ends the pipe, which that process takes for its turn; before it
//! was put into the container's group it is in crun's: the caller's, an engine's service or a whole machine. So crun is started in a group in which
//! there is nothing else.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::state::Flavor;
use crate::oci_runtime::remains::{self, MOUNT};
use crate::process_tree;
use crate::sys::process;

/// What the names of enclosures begin with.
const PREFIX: &str = "torpor-restore-";
/// What a group of version 1 needs before it takes a process, and has from the one above (Linux,
/// Documentation/admin-guide/cgroup-v1/cpusets.rst).
const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// How often, and after what pause, it is tried to remove what is busy: a group is for a moment after its last process has ended.
const PATIENCE: u32 = 40;
const PAUSE: Duration = Duration::from_millis(25);

/// The groups that an enclosure for a restore by this process consists of: one below each of this process's own that crun looks at. None where the
/// runtime does no such thing, or where `shown` is false and the container would be shown crun's group as its own.
pub(crate) fn places(flavor: Flavor, shown: bool) -> Vec<PathBuf> {
    let unified = Path::new(MOUNT).join("cgroup.controllers").exists();
    if flavor != Flavor::Crun || !(unified || shown) {
        return Vec::new();
    }
    let own = std::process::id() as i32;
    let name = format!("{PREFIX}{own}-{}", process_tree::started(own).unwrap_or_default());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    looked_at(&groups, unified).into_iter().map(|group| Path::new(MOUNT).join(group).join(&name)).collect()
}

/// The groups of a process, below where control groups are mounted, by which crun decides what to destroy: of version 1 the first that is not of
/// `memory` (crun, `src/libcrun/cgroup-utils.c`, `get_cgroup_process_from_content`), and that one, whose processes it kills.
fn looked_at(groups: &str, unified: bool) -> Vec<PathBuf> {
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.strip_prefix('/')?);
        Some((controllers.strip_prefix("name=").unwrap_or(controllers), path))
    });
    if unified {
        return lines
            .filter(|(controllers, _)| controllers.is_empty())
            .map(|(_, path)| path.into())
            .collect();
    }
    let (memory, others): (Vec<_>, Vec<_>) = lines
        .filter(|(controllers, _)| !controllers.is_empty())
        .partition(|(controllers, _)| *controllers == "memory");
    let chosen = others.into_iter().take(1).chain(memory);
    chosen.map(|(controllers, path)| Path::new(controllers).join(path)).collect()
}

/// An enclosure. All that is in it is killed where it is dropped.
#[derive(Debug)]
pub(crate) struct Enclosure {
    groups: Vec<PathBuf>,
}

impl Enclosure {
    /// Makes one, and has the command started in it. None, with the reason logged, where there may be none: the command is started where we are.
    pub(crate) fn around(command: &mut Command, places: &[PathBuf]) -> Option<Enclosure> {
        let enclosure = Enclosure { groups: places.to_vec() };
        let made = places.iter().map(|group| make(group));
        match made.collect::<io::Result<Vec<_>>>() {
            Ok(entrances) if !entrances.is_empty() => process::starts_in(command, entrances),
            Ok(_) => return None,
            Err(error) => {
                tracing::debug!(%error, "no control group of its own for the restore");
                return None;
            }
        }
        Some(enclosure)
    }

    /// Removes it, once the command has done its work. What it left there on purpose goes on where we are.
    pub(crate) fn leave(mut self) {
        for group in std::mem::take(&mut self.groups) {
            end(&group, |group| {
                let above = group.parent().unwrap_or(group).join("cgroup.procs");
                for pid in remains::processes(group) {
                    let _ = std::fs::write(&above, pid.to_string());
                }
            });
        }
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        for group in &self.groups {
            end(group, |group| {
                for pid in remains::processes(group) {
                    let _ = process::kill(pid, libc::SIGKILL);
                }
            });
        }
    }
}

/// Removes what a process that was killed has left of its enclosure. Says whether all of it is gone: not where something still runs in it.
pub(crate) fn take_away(groups: &[PathBuf]) -> bool {
    let is_ours = |group: &Path| {
        let name = group.file_name().and_then(|name| name.to_str());
        group.starts_with(MOUNT) && name.is_some_and(|name| name.starts_with(PREFIX))
    };
    let mut gone = true;
    for group in groups.iter().filter(|group| is_ours(group)) {
        gone &= is_removed(group);
    }
    gone
}

/// Makes a group, and returns the file by which one enters it.
fn make(group: &Path) -> io::Result<std::fs::File> {
    match std::fs::create_dir(group) {
        // Of a process that had our PID.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let above = group.parent().unwrap_or(group);
    for file in INHERITED {
        if let Ok(value) = std::fs::read(above.join(file)) {
            std::fs::write(group.join(file), value)?;
        }
    }
    OpenOptions::new().write(true).open(group.join("cgroup.procs"))
}

fn end(group: &Path, empty: impl Fn(&Path)) {
    for _ in 0..PATIENCE {
        if is_removed(group) {
            return;
        }
        empty(group);
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(group = %group.display(), "the control group of a restore stays");
}

fn is_removed(group: &Path) -> bool {
    match std::fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn groups_are_those_by_which_crun_decides_what_to_destroy() {
        const FIRST: &str = "9:name=systemd:/system.slice/one\n8:pids:/a\n4:memory:/b:c\n0::/u\n";
        for (groups, unified, expected) in [
            (FIRST, false, &["systemd/system.slice/one", "memory/b:c"][..]),
            ("4:memory:/\n3:cpu,cpuacct:/\n2:cpuset:/x\n", false, &["cpu,cpuacct", "memory"]),
            ("1:net_cls:/x\n0::/system.slice/one\n", true, &["system.slice/one"]),
            ("0::/\n", true, &[""]),
            ("0::/../elsewhere\n", false, &[]),
            ("nonsense\n1:cpu\n", false, &[]),
        ] {
            assert_eq!(looked_at(groups, unified), expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        }
    }

    /// Starts a command in an enclosure below this process's groups; none where there may be none here.
    fn enclosed(script: &str) -> Option<(std::process::Child, Enclosure)> {
        let places: Vec<_> = places(Flavor::Crun, true).iter().map(|place| with(place, script)).collect();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Some(enclosure) = Enclosure::around(&mut command, &places) else {
            eprintln!("SKIPPED: no control group can be made here");
            return None;
        };
        Some((command.spawn().unwrap(), enclosure))
    }

    /// A place of its own for each test.
    fn with(place: &Path, script: &str) -> PathBuf {
        let hash = blake3::hash(script.as_bytes()).to_hex();
        place.with_file_name(format!("{}-{hash}", place.file_name().unwrap().to_str().unwrap()))
    }

    #[test]
    fn a_command_is_alone_in_its_groups_which_go_with_it() {
        let Some((child, enclosure)) = enclosed("cat /proc/self/cgroup") else { return };
        let said = child.wait_with_output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let groups = enclosure.groups.clone();
        for group in &groups {
            let name = group.file_name().unwrap().to_str().unwrap();
            assert!(said.contains(name) && group.exists(), "{name}: {said}");
        }
        enclosure.leave();
        assert!(!groups.iter().any(|group| group.exists()));
        assert!(!std::fs::read_to_string("/proc/self/cgroup").unwrap().contains(PREFIX));
    }

    #[test]
    fn what_is_left_in_it_goes_on_outside_or_is_killed() {
        let Some((mut child, enclosure)) = enclosed("read line") else { return };
        let groups = enclosure.groups.clone();
        assert!(!take_away(&groups) && groups.iter().all(|group| group.exists()), "it is in use");
        enclosure.leave();
        assert!(!groups.iter().any(|group| group.exists()));
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(1), "it ends by itself");

        let Some((mut child, enclosure)) = enclosed("read other") else { return };
        let groups = enclosure.groups.clone();
        let line = child.stdin.take();
        let killed = std::thread::spawn(move || drop(enclosure));
        assert_eq!(child.wait().unwrap().code(), None);
        killed.join().unwrap();
        drop(line);
        assert!(take_away(&groups) && !groups.iter().any(|group| group.exists()));
    }
}

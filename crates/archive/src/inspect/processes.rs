//! Processes and their threads.

use std::collections::HashMap;

use serde::Serialize;
use torpor_criu::image::credential::SeccompFilter;
use torpor_criu::image::process::{
    Core, FileSystem, Ids, Machine, Task, TaskState, Thread as ImageThread, TreeEntry,
};

use super::images::Images;
use super::{Credentials, Limit, MemoryMap, OpenFile, Signals, Socket, Variable, signal_name};

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its id, in the innermost PID namespace.
    pub pid: u32,
    /// Its parent; none for the root of the tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// `alive`, `stopped`, `dead`, `zombie`, or the number that stands there.
    pub state: String,
    /// How it ended, for those that have: `exited 3` or `killed by SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Its name, as in `/proc/PID/comm`.
    pub name: String,
    /// The program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// The command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// The environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<Variable>>,
    /// Its threads; the first has the process's id. Those that have ended have none.
    pub threads: Vec<Thread>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// The root directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_directory: Option<String>,
    /// The mask for the mode of new files, in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<String>,
    /// The out-of-memory killer's adjustment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adjustment: Option<i32>,
    /// Open files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<OpenFile>>,
    /// Open sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Vec<Socket>>,
    /// Who it acts as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Resource limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Limit>>,
    /// Signals and timers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals: Option<Signals>,
    /// Its address space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryMap>,
}

/// A thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// Its id.
    pub id: u32,
    /// Its own name.
    pub name: String,
    /// Nice value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// `other`, `fifo`, `rr`, `batch`, `idle`, `deadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<String>,
    /// Who it acts as, where that differs from the first thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// What a process's images say, before it is decided what of it is shown.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: TreeEntry,
    pub(super) core: Option<Core>,
    /// The other threads' images.
    pub(super) threads: Vec<(u32, Core)>,
    pub(super) ids: Option<Ids>,
}

impl Found {
    pub(super) fn pid(&self) -> u32 {
        self.entry.pid
    }

    fn task(&self) -> Option<&Task> {
        self.core.as_ref()?.tc.as_ref()
    }

    pub(super) fn machine(&self) -> Option<Machine> {
        Machine::try_from(self.core.as_ref()?.mtype).ok()
    }

    pub(super) fn state(&self) -> Option<TaskState> {
        self.task().map(Task::state)
    }

    /// Whether it has memory, files and threads.
    pub(super) fn lives(&self) -> bool {
        matches!(self.state(), Some(TaskState::Alive | TaskState::Stopped))
    }

    pub(super) fn first_thread(&self) -> Option<&ImageThread> {
        self.core.as_ref()?.thread_core.as_ref()
    }

    /// The set of control groups of each thread that has one of its own.
    fn cgroup_sets(&self) -> impl Iterator<Item = u32> {
        let old = self.task().and_then(|task| task.cg_set);
        let first = self.first_thread().and_then(|thread| thread.cg_set).or(old);
        let others = self
            .threads
            .iter()
            .filter_map(|(_, core)| core.thread_core.as_ref().and_then(|thread| thread.cg_set));
        first.into_iter().chain(others)
    }

    pub(super) fn signals(&self) -> Option<Signals> {
        let threads = self
            .first_thread()
            .into_iter()
            .chain(self.threads.iter().filter_map(|(_, core)| core.thread_core.as_ref()));
        Some(Signals::of(self.task()?, self.first_thread(), threads))
    }

    pub(super) fn limits(&self) -> Option<Vec<Limit>> {
        self.task()?.rlimits.as_ref().map(super::limits::limits)
    }

    pub(super) fn credentials(&self, filters: &[SeccompFilter]) -> Option<Credentials> {
        let thread = self.first_thread()?;
        let old = self.task().and_then(|task| task.old_seccomp_mode);
        Some(Credentials::of(thread.creds.as_ref()?, thread, old, filters))
    }

    /// The credentials of other threads, where they differ from the first's.
    pub(super) fn add_thread_credentials(&self, process: &mut Process, filters: &[SeccompFilter]) {
        for (id, core) in &self.threads {
            let Some(image) = &core.thread_core else { continue };
            let mut of_thread =
                image.creds.as_ref().map(|creds| Credentials::of(creds, image, None, filters));
            // CRIU 4.2 records the filters of the first thread alone (seen in images of runc containers).
            if let (None, Some(of_thread), Some(first)) =
                (image.seccomp_mode, &mut of_thread, &process.credentials)
            {
                of_thread.seccomp.clone_from(&first.seccomp);
            }
            if of_thread != process.credentials
                && let Some(thread) = process.threads.iter_mut().find(|thread| thread.id == *id)
            {
                thread.credentials = of_thread;
            }
        }
    }

    /// The process, with what its own images say of it.
    pub(super) fn process(&self) -> Process {
        let mut process = Process {
            pid: self.entry.pid,
            parent: (self.entry.ppid != 0).then_some(self.entry.ppid),
            group: self.entry.pgid,
            session: self.entry.sid,
            state: "unknown".to_owned(),
            ..Process::default()
        };
        if let Some(task) = self.task() {
            process.state = match task.state() {
                TaskState::Alive => "alive".to_owned(),
                TaskState::Dead => "dead".to_owned(),
                TaskState::Zombie => "zombie".to_owned(),
                TaskState::Stopped => "stopped".to_owned(),
                TaskState::Other(number) => number.to_string(),
            };
            process.end =
                matches!(task.state(), TaskState::Dead | TaskState::Zombie).then(|| end(task.exit_code));
            process.name.clone_from(&task.comm);
            process.oom_score_adjustment = task.oom_score_adj;
        }
        if self.lives() {
            process.threads = self.thread_list();
        }
        process
    }

    fn thread_list(&self) -> Vec<Thread> {
        let name = self.task().map(|task| task.comm.as_str()).unwrap_or_default();
        let first = self.first_thread().map(|thread| self::thread(self.entry.pid, thread, name));
        let others = self
            .threads
            .iter()
            .filter_map(|(id, core)| Some(self::thread(*id, core.thread_core.as_ref()?, "")));
        first.into_iter().chain(others).collect()
    }
}

fn thread(id: u32, thread: &ImageThread, fallback: &str) -> Thread {
    Thread {
        id,
        name: thread.comm.clone().unwrap_or_else(|| fallback.to_owned()),
        nice: thread.sched_nice,
        scheduling: thread.sched_policy.map(|policy| match policy {
            0 => "other".to_owned(),
            1 => "fifo".to_owned(),
            2 => "rr".to_owned(),
            3 => "batch".to_owned(),
            5 => "idle".to_owned(),
            6 => "deadline".to_owned(),
            other => other.to_string(),
        }),
        credentials: None,
    }
}

/// How a process ended, from its status as wait(2) reports it.
fn end(status: u32) -> String {
    match status & 0x7f {
        0 => format!("exited {}", status >> 8 & 0xff),
        signal => format!("killed by {}", signal_name(signal)),
    }
}

/// Reads every process, parents before their children and these in the order of their ids.
pub(super) fn read(images: &Images<'_>) -> Vec<Found> {
    let mut entries: Vec<TreeEntry> = images.all(0);
    if entries.is_empty() && images.ids(torpor_criu::image::Kind::ProcessTree).is_empty() {
        let _: Option<TreeEntry> = images.needed(0);
    }
    order(&mut entries);
    entries
        .into_iter()
        .map(|entry| {
            let core: Option<Core> = images.needed(u64::from(entry.pid));
            let ended = core
                .as_ref()
                .and_then(|core| core.tc.as_ref())
                .is_some_and(|task| matches!(task.state(), TaskState::Dead | TaskState::Zombie));
            let mut threads = Vec::new();
            if !ended {
                for id in entry.threads.iter().filter(|id| **id != entry.pid) {
                    threads.extend(images.needed(u64::from(*id)).map(|core| (*id, core)));
                }
            }
            let ids = core.as_ref().and_then(|core| core.ids).or_else(|| images.one(u64::from(entry.pid)));
            Found { entry, core, threads, ids }
        })
        .collect()
}

/// Sorts depth first. Entries whose parents are not there, and circles of them, come as roots.
fn order(entries: &mut Vec<TreeEntry>) {
    let known: HashMap<u32, usize> =
        entries.iter().enumerate().map(|(index, entry)| (entry.pid, index)).collect();
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if known.contains_key(&entry.ppid) && entry.ppid != entry.pid {
            children.entry(entry.ppid).or_default().push(index);
        } else {
            roots.push(index);
        }
    }
    for list in children.values_mut() {
        list.sort_by_key(|index| std::cmp::Reverse(entries[*index].pid));
    }
    let mut placed = vec![false; entries.len()];
    let mut order = Vec::with_capacity(entries.len());
    roots.reverse();
    // Those in a circle are reached from no root.
    let circles: Vec<usize> = (0..entries.len()).rev().collect();
    for mut open in [roots, circles] {
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut placed[index], true) {
                order.push(index);
                open.extend(children.get(&entries[index].pid).into_iter().flatten());
            }
        }
    }
    let mut taken: Vec<Option<TreeEntry>> = std::mem::take(entries).into_iter().map(Some).collect();
    entries.extend(order.into_iter().filter_map(|index| taken[index].take()));
}

/// Sets of control groups with the processes in them. A process for which none is recorded is where its parent is (CRIU
/// `criu/cgroup.c`).
pub(super) fn cgroup_members(found: &[Found]) -> Vec<(u32, u32)> {
    let mut of_process: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut members = Vec::new();
    for found in found.iter().filter(|found| found.lives()) {
        let mut sets: Vec<u32> = found.cgroup_sets().collect();
        if sets.is_empty() {
            let inherited = of_process.get(&found.entry.ppid).and_then(|sets| sets.first());
            sets.extend(inherited);
        }
        members.extend(sets.iter().map(|set| (*set, found.pid())));
        of_process.insert(found.pid(), sets);
    }
    members
}

/// Where a process stands in the file system.
pub(super) fn file_system(images: &Images<'_>, pid: u32) -> Option<FileSystem> {
    images.needed(u64::from(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(entries: &[(u32, u32)]) -> Vec<u32> {
        let mut entries =
            entries.iter().map(|&(pid, ppid)| TreeEntry { pid, ppid, ..TreeEntry::default() }).collect();
        order(&mut entries);
        entries.iter().map(|entry| entry.pid).collect()
    }

    #[test]
    fn children_follow_their_parents() {
        assert_eq!(ordered(&[(1, 0), (9, 1), (2, 1), (5, 9)]), [1, 2, 9, 5]);
    }

    #[test]
    fn orphans_and_circles_are_listed_once() {
        assert_eq!(ordered(&[(4, 77), (1, 2), (2, 1), (3, 3)]), [4, 3, 1, 2]);
    }

    #[test]
    fn a_status_is_told_in_words() {
        for (status, text) in [(3 << 8, "exited 3"), (9, "killed by SIGKILL"), (0x8b, "killed by SIGSEGV")] {
            assert_eq!(end(status), text);
        }
    }
}

//! What follows from what is seen.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use torpor_criu::options::Tcp;

use super::{Answer, Finding, Seen, Wanted};
use crate::config::show_duration;
use crate::container::Status;
use crate::container::obstacle::Obstacle;
use crate::freeze::GHOST_LIMIT;
use crate::open_files::{OpenFile, OpenKind, Place};

/// What CRIU takes for any program, in milliseconds, and for each process of it.
const ALWAYS: u64 = 120;
const EACH_PROCESS: u64 = 4;
/// Bytes a second that are copied while it stands still, into memory and beyond what memory holds. On two cores of 2026 (`cargo xtask
/// bench freeze`) 1 GiB stood still for 0.30 to 0.35 s with a budget that held it, and for 0.46 to 0.51 s with one of 64 MiB.
const INTO_MEMORY: u64 = 2 << 30;
const INTO_SCRATCH: u64 = 1 << 30;
/// Bytes a second that are hashed, compressed and written: 4.6 to 5.3 s for the same 1 GiB.
const INTO_STORE: u64 = 200 << 20;
/// The estimate may be wrong by this factor, either way.
const DOUBT: u32 = 2;

/// Kinds of files without names that CRIU dumps.
const ANONYMOUS: [&str; 7] = ["eventfd", "eventpoll", "signalfd", "timerfd", "pidfd", "fanotify", "bpf-map"];
/// How the kernel's names of protocols begin that CRIU dumps.
const PROTOCOLS: [&str; 7] = ["TCP", "UDP", "RAW", "PING", "UNIX", "PACKET", "NETLINK"];
/// Namespaces that a process below the first one may have of its own.
const NESTED: [&str; 2] = ["mnt", "net"];

/// How long a checkpoint takes, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// How long it stands still, where it runs on.
    pub frozen: Duration,
    /// How long a checkpoint that ends it takes in all.
    pub total: Duration,
}

impl Estimate {
    /// For what is seen.
    #[must_use]
    pub fn of(seen: &Seen) -> Estimate {
        let for_bytes = |bytes: u64, rate: u64| bytes.saturating_mul(1000) / rate;
        let held = seen.memory.min(seen.budget);
        let processes = (seen.tasks.len() as u64).saturating_mul(EACH_PROCESS);
        let frozen = ALWAYS
            .saturating_add(processes)
            .saturating_add(for_bytes(held, INTO_MEMORY))
            .saturating_add(for_bytes(seen.memory - held, INTO_SCRATCH));
        let total = frozen.saturating_add(for_bytes(seen.memory, INTO_STORE));
        Estimate { frozen: Duration::from_millis(frozen), total: Duration::from_millis(total) }
    }
}

/// Every question with its answer. Of what does not run, only that is told.
#[must_use]
pub fn findings(seen: &Seen, wanted: &Wanted) -> Vec<Finding> {
    let mut findings: Vec<Finding> = running(seen).into_iter().collect();
    if seen.tasks.is_empty() {
        return findings;
    }
    findings.extend([
        traced(seen),
        io_uring(seen),
        graphics(seen),
        devices(seen),
        outside(seen),
        anonymous(seen),
        deleted(seen),
        terminal(seen, wanted),
        connections(seen, wanted),
        protocols(seen),
        unix(seen, wanted),
        namespaces(seen),
        memory(seen),
    ]);
    let estimate = Estimate::of(seen);
    findings.push(in_time(
        ("standstill", "does it stand still for no longer than it may?"),
        ("it would stand still for", estimate.frozen, wanted.standstill),
        "give its liveness probe a larger failureThreshold, or the node more free memory",
    ));
    findings.push(in_time(
        ("grace", "would a checkpoint that ends it be made in time?"),
        ("it would take", estimate.total, wanted.grace),
        "give it a longer grace period, or checkpoint it before it is told to end",
    ));
    findings
}

fn yes(topic: &'static str, question: &'static str, reason: impl Into<String>) -> Finding {
    Finding { topic, question, answer: Answer::Yes, reason: reason.into(), remedy: None }
}

fn no(topic: &'static str, question: &'static str, reason: String, remedy: &'static str) -> Finding {
    Finding { answer: Answer::No, remedy: Some(remedy), ..yes(topic, question, reason) }
}

fn unknown(topic: &'static str, question: &'static str, reason: String, remedy: &'static str) -> Finding {
    Finding { answer: Answer::Unknown, ..no(topic, question, reason, remedy) }
}

/// No with the first of what is wrong, and how much more there is; yes where nothing is.
fn unless(
    (topic, question): (&'static str, &'static str),
    good: &str,
    wrong: impl IntoIterator<Item = (String, &'static str)>,
) -> Finding {
    let mut wrong = wrong.into_iter();
    let Some((first, remedy)) = wrong.next() else { return yes(topic, question, good) };
    let reason = match wrong.count() {
        0 => first,
        more => format!("{first}, and {more} more"),
    };
    no(topic, question, reason, remedy)
}

fn running(seen: &Seen) -> Option<Finding> {
    let (topic, question) = ("running", "does it run?");
    Some(match seen.status? {
        Status::Running => {
            let processes = if seen.tasks.len() == 1 { "process" } else { "processes" };
            yes(topic, question, format!("{} {processes}", seen.tasks.len()))
        }
        status => {
            let obstacle = Obstacle::Status { status };
            no(topic, question, obstacle.to_string(), obstacle.remedy())
        }
    })
}

fn traced(seen: &Seen) -> Finding {
    let traced = seen.tasks.iter().filter(|task| task.tracer != 0);
    unless(
        ("traced", "does nobody trace it?"),
        "nobody does",
        traced.map(|task| {
            let reason = format!("process {} is traced by process {}", task.pid, task.tracer);
            (reason, "end the debugger or tracer: CRIU takes its place")
        }),
    )
}

fn obstacles<'a>(
    seen: &'a Seen,
    which: impl Fn(&Obstacle) -> bool + 'a,
) -> impl Iterator<Item = (String, &'static str)> + 'a {
    let those = seen.obstacles.iter().filter(move |obstacle| which(obstacle));
    those.map(|obstacle| (obstacle.to_string(), obstacle.remedy()))
}

fn io_uring(seen: &Seen) -> Finding {
    let those = obstacles(seen, |obstacle| matches!(obstacle, Obstacle::IoUring { .. }));
    unless(("io-uring", "does it do without io_uring?"), "it has none open", those)
}

fn is_graphics(path: &Path) -> bool {
    let text = path.to_string_lossy();
    ["/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/accel"].iter().any(|prefix| text.starts_with(prefix))
}

fn graphics(seen: &Seen) -> Finding {
    let those =
        obstacles(seen, |obstacle| matches!(obstacle, Obstacle::Device { path, .. } if is_graphics(path)));
    let captured: Vec<String> =
        seen.accelerators.iter().map(|one| format!("{}'s, by {}", one.vendor, one.vendor.plugin())).collect();
    let good = match captured.as_slice() {
        [] => "it uses none".to_owned(),
        captured => format!("its state is captured: {}", captured.join("; ")),
    };
    unless(("gpu", "does it do without a graphics processor, or is there a plugin for it?"), &good, those)
}

fn devices(seen: &Seen) -> Finding {
    let those =
        obstacles(seen, |obstacle| matches!(obstacle, Obstacle::Device { path, .. } if !is_graphics(path)));
    unless(("devices", "does it use only devices that can be captured?"), "it uses no other", those)
}

fn outside(seen: &Seen) -> Finding {
    let those = obstacles(seen, |obstacle| matches!(obstacle, Obstacle::Outside { .. }));
    unless(("files", "are its open files where it can see them?"), "all are on its own mounts", those)
}

fn anonymous(seen: &Seen) -> Finding {
    let wrong = seen.open.iter().filter_map(|file| match (&file.kind, file.place) {
        (OpenKind::Anonymous(word), Place::Descriptor(number)) if !ANONYMOUS.contains(&word.as_str()) => {
            let reason = format!("descriptor {number} of process {} is {word}", file.pid.as_raw_nonzero());
            Some((reason, "have the program close it before the checkpoint: CRIU knows no such thing"))
        }
        _ => None,
    });
    unless(("descriptors", "can all that it has open be captured?"), "nothing else is open", wrong)
}

fn deleted(seen: &Seen) -> Finding {
    let (topic, question) = ("deleted-files", "can deleted files that it has open be kept?");
    let mut known = BTreeSet::new();
    let is_gone = |file: &&OpenFile| {
        file.deleted && file.kind == OpenKind::File && !matches!(file.place, Place::Mapping(_))
    };
    let gone: Vec<&OpenFile> = seen
        .open
        .iter()
        .filter(is_gone)
        .filter(|file| file.stat.is_some_and(|stat| known.insert((stat.device, stat.ino))))
        .collect();
    let size = |file: &OpenFile| file.stat.map_or(0, |stat| stat.size);
    let large = gone.iter().find(|file| size(file) > u64::from(GHOST_LIMIT));
    if let Some(file) = large {
        let (path, bytes) = (file.path.display(), size(file).div_ceil(1 << 20));
        let reason = format!("{path} was deleted and has {bytes} MiB; at most 1024 MiB are copied");
        return no(topic, question, reason, "have the program close it, or keep the file");
    }
    match gone.len() {
        0 => yes(topic, question, "there are none"),
        count => {
            let bytes: u64 = gone.iter().map(|file| size(file)).sum();
            yes(
                topic,
                question,
                format!("{count}, {} KiB in all, go into the checkpoint", bytes.div_ceil(1 << 10)),
            )
        }
    }
}

fn terminal(seen: &Seen, wanted: &Wanted) -> Finding {
    let (topic, question) = ("terminal", "are its terminal and session its own?");
    let own: BTreeSet<i32> = seen.tasks.iter().map(|task| task.own_pid).collect();
    let remedy =
        "start it detached or by setsid, or give --shell-job here, at the checkpoint and at the restore";
    let terminals = obstacles(seen, |obstacle| matches!(obstacle, Obstacle::Terminal { .. }))
        .map(|(reason, _)| (reason, remedy));
    let sessions = seen.tasks.iter().filter(|task| !own.contains(&task.session));
    let sessions = sessions.map(|task| {
        (format!("process {} is in the session of a process that is not its own", task.pid), remedy)
    });
    let wrong: Vec<_> = terminals.chain(sessions).collect();
    match wrong.first() {
        Some((reason, _)) if wanted.shell_job => yes(topic, question, format!("{reason}, which is allowed")),
        _ => unless((topic, question), "they are", wrong),
    }
}

fn connections(seen: &Seen, wanted: &Wanted) -> Finding {
    let (topic, question) = ("tcp", "what of its TCP connections?");
    let outside = &seen.connections.outside;
    if outside.is_empty() {
        let reason = match seen.connections.inside.len() {
            0 => "there are none".to_owned(),
            ends => format!("it is connected with itself: {ends} ends"),
        };
        let stands = wanted.tcp == Tcp::Fail && !seen.connections.inside.is_empty();
        return if stands { no(topic, question, reason, WORD) } else { yes(topic, question, reason) };
    }
    let told = &seen.connections;
    match wanted.tcp {
        Tcp::Fail => no(topic, question, format!("it is connected: {told}"), WORD),
        Tcp::Close => yes(topic, question, format!("these are closed at the restore: {told}")),
        Tcp::Established => yes(topic, question, format!("kept for a restore at the same address: {told}")),
    }
}

const WORD: &str = "say --tcp close to have them closed, or --tcp established to have them kept for a restore at the same address";

fn protocols(seen: &Seen) -> Finding {
    let wrong =
        seen.protocols.iter().filter(|(name, _)| !PROTOCOLS.iter().any(|known| name.starts_with(known)));
    unless(
        ("sockets", "are its sockets of kinds that can be captured?"),
        "they are",
        wrong.map(|(name, pid)| {
            let remedy = if name.starts_with("MPTCP") {
                "turn multipath TCP off: for programs in Go set GODEBUG=multipathtcp=0"
            } else {
                "have the program close it before the checkpoint"
            };
            (format!("process {pid} has a socket of the kind {name}"), remedy)
        }),
    )
}

fn unix(seen: &Seen, wanted: &Wanted) -> Finding {
    let (topic, question) = ("unix-sockets", "are the peers of its Unix sockets its own?");
    let Some(outside) = seen.unix else {
        let reason = "the kernel does not tell who the peers are".to_owned();
        return unknown(topic, question, reason, "run it as root, with a kernel that has UNIX_DIAG");
    };
    if outside.streams > 0 {
        let reason = format!("streams to somebody outside: {}", outside.streams);
        return no(
            topic,
            question,
            reason,
            "have the program close them before the checkpoint: a stream cannot be cut in two",
        );
    }
    match outside.datagrams {
        0 => yes(topic, question, "they are"),
        count if wanted.external_unix => {
            yes(topic, question, format!("{count} that are not are connected again by name"))
        }
        count => {
            let reason = format!("datagram sockets that send to somebody outside: {count}");
            no(topic, question, reason, "give --ext-unix-sockets here and at the checkpoint")
        }
    }
}

fn namespaces(seen: &Seen) -> Finding {
    let Some((root, others)) = seen.tasks.split_first() else {
        return yes("namespaces", "are its namespaces in one layer?", "");
    };
    let wrong = others.iter().flat_map(|task| {
        task.namespaces.iter().filter_map(|(kind, inode)| {
            let first = root.namespaces.get(kind)?;
            // Those that may be nested may be so only in one that is not the machine's.
            let allowed = NESTED.contains(kind) && seen.own_namespaces.get(kind) != Some(first);
            (inode != first && !allowed)
                .then(|| format!("process {} has a {kind} namespace of its own", task.pid))
        })
    });
    let remedy =
        "have the program end what it runs in containers or sandboxes of its own before the checkpoint";
    unless(
        ("namespaces", "are its namespaces in one layer?"),
        "they are",
        wrong.map(|reason| (reason, remedy)),
    )
}

fn memory(seen: &Seen) -> Finding {
    let (topic, question) = ("memory", "is there memory to hold a copy of its own?");
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let (needed, there) = (mebibytes(seen.memory), mebibytes(seen.budget));
    if seen.memory <= seen.budget {
        return yes(topic, question, format!("it has {needed} MiB, and {there} MiB may be taken"));
    }
    let reason = format!(
        "it has {needed} MiB, and {there} MiB may be taken: the rest is written while it stands still"
    );
    unknown(topic, question, reason, "make memory free on this machine for a shorter standstill")
}

/// Holds an estimate against what is allowed. Where that lies within the doubt, it cannot be known.
fn in_time(
    (topic, question): (&'static str, &'static str),
    (what, estimate, allowed): (&str, Duration, Option<Duration>),
    remedy: &'static str,
) -> Finding {
    let told = format!("{what} about {}", rounded(estimate));
    let Some(allowed) = allowed else { return yes(topic, question, told) };
    let reason = format!("{told}, of {} at most", show_duration(allowed));
    if estimate * DOUBT <= allowed {
        yes(topic, question, reason)
    } else if estimate > allowed * DOUBT {
        no(topic, question, reason, remedy)
    } else {
        unknown(topic, question, reason, remedy)
    }
}

/// To tenths of a second below ten, to seconds above: it is an estimate.
fn rounded(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match milliseconds {
        0..10_000 => {
            format!("{}.{} s", milliseconds.saturating_add(50) / 1000, (milliseconds + 50) % 1000 / 100)
        }
        _ => format!("{} s", milliseconds.saturating_add(500) / 1000),
    }
}

#[cfg(test)]
mod tests;

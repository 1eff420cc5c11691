//! What tables, trees and pages have in common: values in words.

use std::collections::HashMap;

use jiff::Timestamp;
use torpor_archive::engine::{Change, ChangeKind};
use torpor_archive::inspect::{
    CgroupSet, Credentials, Identity, Limit, Log, Mapping, MemoryMap, Mount, Namespace, OpenFile, Pages,
    Process, Report, Socket, Statistics, Summary, Timer, Variable, command_line, every_capability,
};

use crate::cli::output;

/// The columns of [`files`].
pub(crate) const FILE_COLUMNS: [&str; 6] = [">PID", "FD", "KIND", "FLAGS", ">POSITION", "FILE"];
/// The columns of [`sockets`].
pub(crate) const SOCKET_COLUMNS: [&str; 9] =
    [">PID", ">FD", "PROTOCOL", "STATE", ">RECEIVED", ">SENT", "LOCAL", "REMOTE", "OPTIONS"];

/// A name and a value.
pub(crate) type Fact = (&'static str, String);

/// The checkpoint at a glance.
pub(crate) fn summary(report: &Report, summary: &Summary) -> Vec<Fact> {
    let mut facts = container(report);
    if let Some(root) = &summary.root {
        facts.push(("root process", format!("{} ({})", root.pid, root.name)));
    }
    let ended = if summary.ended > 0 { format!(" ({} of them ended)", summary.ended) } else { String::new() };
    let threads = output::count(summary.threads, "thread");
    facts.push(("processes", format!("{}{ended}, with {threads}", summary.processes)));
    facts.push(("architecture", summary.architecture.clone()));
    let sizes = &summary.sizes;
    let mut parts = vec![format!("memory {}", output::bytes(sizes.pages))];
    for (name, size) in [
        ("memory in parents", sizes.parent_pages),
        ("GPU memory", sizes.gpu_pages),
        ("other images", sizes.images),
        ("root file system", sizes.root_fs_diff),
        ("other", sizes.other),
    ] {
        if size > 0 {
            parts.push(format!("{name} {}", output::bytes(size)));
        }
    }
    facts.push(("size", format!("{} ({})", output::bytes(sizes.total), parts.join(", "))));
    if sizes.layers > 1 {
        facts.push(("dumps", format!("{}, each on top of the next", sizes.layers)));
    }
    if let Some(criu) = &summary.criu {
        if let Some(lsm) = criu.lsm.as_ref().filter(|lsm| *lsm != "none") {
            facts.push(("security module", lsm.clone()));
        }
        if criu.tcp_closed {
            facts.push(("connections", "closed at the dump".to_owned()));
        }
        if !criu.plugins.is_empty() {
            facts.push(("plugins", criu.plugins.join(", ")));
        }
        if let Some(uptime) = criu.uptime_us {
            facts.push(("machine up for", duration_us(uptime)));
        }
    }
    facts
}

/// The container, as its engine told about it.
fn container(report: &Report) -> Vec<Fact> {
    let Some(container) = &report.container else { return Vec::new() };
    let mut facts = Vec::new();
    let mut add = |what: &'static str, value: Option<String>| facts.extend(value.map(|value| (what, value)));
    add("container", container.name.clone());
    add("id", container.id.clone());
    if let Some(pod) = &container.pod {
        let name = [pod.namespace.as_deref(), pod.name.as_deref()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/");
        add("pod", Some(name).filter(|name| !name.is_empty()));
        add("pod UID", pod.uid.clone());
        add("sandbox", pod.sandbox.clone());
    }
    if let Some(image) = &container.image {
        add("image", image.name.clone());
        add("image asked for", image.requested.clone());
        add("image id", image.id.clone());
    }
    add("engine", Some(container.engine.to_string()));
    add("runtime", container.runtime.clone());
    add("host name", container.host_name.clone());
    add("created", container.created.map(output::moment));
    add("checkpointed", container.checkpointed.map(output::moment));
    add("restored", container.restored.map(output::moment));
    if let Some(status) = &report.status {
        add("state", status.state.clone());
        add("started", status.started.map(output::moment));
        add("ended", status.finished.map(output::moment));
        let why = [status.reason.as_deref(), status.message.as_deref()];
        let why = why.into_iter().flatten().collect::<Vec<_>>().join(": ");
        add("reason", Some(why).filter(|why| !why.is_empty()));
        add(
            "starts before",
            status.attempt.filter(|attempt| *attempt > 0).map(|attempt| attempt.to_string()),
        );
        add("log was at", status.log.clone());
    }
    for interface in &report.interfaces {
        let names = [interface.network.as_deref(), interface.name.as_deref()];
        let mut told: Vec<String> = vec![names.into_iter().flatten().collect::<Vec<_>>().join(" ")];
        told.extend(interface.addresses.iter().cloned());
        told.extend(interface.mac.iter().map(|mac| format!("MAC {mac}")));
        told.extend(interface.gateways.iter().map(|gateway| format!("gateway {gateway}")));
        told.retain(|part| !part.is_empty());
        add("network", Some(told.join(", ")));
    }
    facts
}

/// The columns of [`change`].
pub(crate) const CHANGE_COLUMNS: [&str; 4] = ["CHANGE", ">SIZE", "MODIFIED", "PATH"];

/// A path that differs from the image.
pub(crate) fn change(path: &str, change: &Change) -> [String; 4] {
    let kind = match (change.kind, change.directory, &change.link) {
        (ChangeKind::Removed, ..) => "removed",
        (ChangeKind::Emptied, ..) => "emptied",
        (ChangeKind::Written, true, _) => "directory",
        (ChangeKind::Written, false, Some(_)) => "link",
        (ChangeKind::Written, false, None) => "written",
    };
    let target = change.link.as_ref().map(|link| format!(" → {link}")).unwrap_or_default();
    let modified = change.modified.and_then(|seconds| Timestamp::from_second(seconds).ok());
    [
        kind.to_owned(),
        change.size.map_or_else(|| "-".to_owned(), output::bytes),
        modified.map_or_else(|| "-".to_owned(), output::moment),
        format!("{path}{target}"),
    ]
}

/// What a log is called, and how much of it is shown.
pub(crate) fn log_title(log: &Log) -> String {
    let shown: usize = log.lines.iter().map(|line| line.len() + 1).sum();
    let rest = if log.size > shown as u64 + 1 { ", the end of it" } else { "" };
    format!("{} ({}{rest})", log.entry, output::bytes(log.size))
}

pub(crate) fn statistics(statistics: &Statistics) -> Vec<Fact> {
    let mut facts = vec![
        ("freezing", duration_us(statistics.freezing_us.into())),
        ("frozen", duration_us(statistics.frozen_us.into())),
        ("finding pages", duration_us(statistics.memory_dump_us.into())),
        ("writing pages", duration_us(statistics.memory_write_us.into())),
    ];
    facts.extend(counts(statistics));
    facts
}

/// What CRIU counted.
pub(crate) fn counts(statistics: &Statistics) -> Vec<Fact> {
    vec![
        ("pages scanned", statistics.pages_scanned.to_string()),
        ("pages written", statistics.pages_written.to_string()),
        ("pages in parents", statistics.pages_in_parent.to_string()),
    ]
}

/// A time for people, with its unit.
pub(crate) fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => {
            let (hours, minutes, seconds) = (us / 3_600_000_000, us / 60_000_000 % 60, us / 1_000_000 % 60);
            if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {seconds} s") }
        }
    }
}

/// What a process was doing.
pub(crate) fn state(process: &Process) -> String {
    match &process.end {
        Some(end) => format!("{}, {end}", process.state),
        None => process.state.clone(),
    }
}

/// The command line, or the name where that is not known.
pub(crate) fn command(process: &Process) -> String {
    match &process.arguments {
        Some(arguments) if !arguments.is_empty() => command_line(arguments),
        _ => process.name.clone(),
    }
}

/// A variable and its value, or how much is hidden.
pub(crate) fn variable(variable: &Variable) -> String {
    let value =
        variable.value.clone().unwrap_or_else(|| format!("({})", output::count(variable.length, "byte")));
    match &variable.name {
        Some(name) => format!("{name}={value}"),
        None => value,
    }
}

pub(crate) fn local(socket: &Socket) -> String {
    socket.local.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

pub(crate) fn remote(socket: &Socket) -> String {
    match (&socket.peer, &socket.remote) {
        (Some(peer), _) => format!("process {}, descriptor {}", peer.pid, peer.fd),
        (None, Some(remote)) => remote.to_string(),
        (None, None) => "-".to_owned(),
    }
}

pub(crate) fn protocol(socket: &Socket) -> String {
    match socket.family {
        "ipv6" => format!("{}6", socket.protocol),
        _ => socket.protocol.clone(),
    }
}

pub(crate) fn external(mount: &Mount) -> String {
    match mount.external.as_deref() {
        None => "-".to_owned(),
        Some("") => "yes".to_owned(),
        Some(key) => key.to_owned(),
    }
}

pub(crate) fn mount_options(mount: &Mount) -> String {
    let mut options: Vec<&str> = mount.flags.clone();
    if !mount.options.is_empty() {
        options.push(&mount.options);
    }
    options.join(",")
}

/// What is known about a namespace beside its number.
pub(crate) fn namespace(namespace: &Namespace) -> String {
    let mut known = Vec::new();
    if namespace.of_criu {
        known.push("of the machine".to_owned());
    }
    if let Some(name) = &namespace.host_name {
        known.push(format!("host name {name}"));
    }
    for (what, ranges) in [("users", &namespace.users), ("groups", &namespace.groups)] {
        for range in ranges {
            known.push(format!("{what} {} to {} ({})", range.inside, range.outside, range.count));
        }
    }
    for device in &namespace.devices {
        let state = if device.up { "up" } else { "down" };
        let mut told = vec![format!("{} ({}, {state}, mtu {})", device.name, device.kind, device.mtu)];
        told.extend(device.hardware_address.clone());
        told.extend(device.addresses.iter().cloned());
        known.push(told.join(" "));
    }
    if let Some(clocks) = &namespace.clocks {
        known.push(format!("up for {}", duration_us(clocks.boottime_ns / 1000)));
    }
    if let Some(external) = &namespace.external {
        known.push(format!("from outside as {external}"));
    }
    known.join("; ")
}

/// A list of processes, shortened where it is long.
pub(crate) fn pids(pids: &[u32]) -> String {
    const MOST: usize = 8;
    let mut text: Vec<_> = pids.iter().take(MOST).map(u32::to_string).collect();
    if pids.len() > MOST {
        text.push(format!("and {} more", pids.len() - MOST));
    }
    text.join(" ")
}

fn identity(identity: &Identity) -> String {
    let Identity { real, effective, saved, file_system } = *identity;
    if [effective, saved, file_system].iter().all(|id| *id == real) {
        real.to_string()
    } else {
        format!("{real}, effective {effective}, saved {saved}, file system {file_system}")
    }
}

/// A set of capabilities in a few words.
pub(crate) fn capabilities(names: &[String]) -> String {
    const FEW: usize = 8;
    let short = |names: &mut dyn Iterator<Item = &String>| {
        names.map(|name| name.trim_start_matches("cap_")).collect::<Vec<_>>().join(" ")
    };
    let every = every_capability();
    let lacking: Vec<_> = every.iter().filter(|name| !names.contains(name)).collect();
    if names.is_empty() {
        "none".to_owned()
    } else if lacking.is_empty() {
        "all".to_owned()
    } else if lacking.len() <= FEW {
        format!("all but {}", short(&mut lacking.into_iter()))
    } else {
        short(&mut names.iter())
    }
}

pub(crate) fn credentials(credentials: &Credentials) -> Vec<Fact> {
    let mut facts = vec![("user", identity(&credentials.users)), ("group", identity(&credentials.groups))];
    if !credentials.supplementary_groups.is_empty() {
        let groups: Vec<_> = credentials.supplementary_groups.iter().map(u32::to_string).collect();
        facts.push(("more groups", groups.join(" ")));
    }
    facts.push(("effective", capabilities(&credentials.effective)));
    for (name, set) in [
        ("permitted", &credentials.permitted),
        ("inheritable", &credentials.inheritable),
        ("ambient", &credentials.ambient),
        ("bounding", &credentials.bounding),
    ] {
        if *set != credentials.effective {
            facts.push((name, capabilities(set)));
        }
    }
    if !credentials.secure_bits.is_empty() {
        facts.push(("secure bits", credentials.secure_bits.join(" ")));
    }
    facts.push(("no new privileges", if credentials.no_new_privileges { "yes" } else { "no" }.to_owned()));
    let filters = match credentials.seccomp.filters.as_slice() {
        [] => String::new(),
        filters => {
            let lengths: Vec<_> = filters.iter().map(|filter| filter.instructions.to_string()).collect();
            format!(", {} of {} instructions", output::count(filters.len(), "filter"), lengths.join(" and "))
        }
    };
    facts.push(("seccomp", credentials.seccomp.mode.clone() + &filters));
    if let Some(profile) = &credentials.lsm_profile {
        facts.push(("profile", profile.clone()));
    }
    facts
}

pub(crate) fn limit(limit: &Limit) -> [String; 3] {
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    [limit.resource.clone(), shown(limit.soft), shown(limit.hard)]
}

pub(crate) fn timer(timer: &Timer) -> String {
    let every = match timer.interval_ns {
        0 => String::new(),
        interval => format!(", then every {}", duration_us(interval / 1000)),
    };
    format!("{}: {} in {}{every}", timer.timer, timer.signal, duration_us(timer.left_ns / 1000))
}

/// An amount of pages in bytes; a dash for none.
pub(crate) fn pages(map: &MemoryMap, pages: u64) -> String {
    if pages == 0 { "-".to_owned() } else { output::bytes(pages.saturating_mul(map.page_size)) }
}

/// Where the pages of a mapping are that are not in the checkpoint.
pub(crate) fn absent(pages: &Pages) -> String {
    let parts = [
        ("zero", pages.zero),
        ("in file", pages.in_file),
        ("lazy", pages.lazy),
        ("outside", pages.outside),
        ("lost", pages.lost),
    ];
    let known: Vec<_> =
        parts.iter().filter(|(_, pages)| *pages > 0).map(|(name, pages)| format!("{name} {pages}")).collect();
    if known.is_empty() { "-".to_owned() } else { known.join(", ") }
}

pub(crate) fn range(mapping: &Mapping) -> String {
    format!("{:012x}-{:012x}", mapping.start, mapping.end)
}

/// The files a process has open, and where it stands.
pub(crate) fn files(process: &Process) -> Vec<[String; 6]> {
    let pid = || process.pid.to_string();
    let dash = || "-".to_owned();
    let places = [
        ("exe", &process.executable),
        ("cwd", &process.working_directory),
        ("root", &process.root_directory),
    ];
    let places = places
        .into_iter()
        .filter_map(|(name, path)| Some([pid(), name.to_owned(), dash(), dash(), dash(), path.clone()?]));
    let files = process.files.iter().flatten().map(|file| {
        [
            pid(),
            file.fd.to_string(),
            file.kind.to_owned(),
            file.flags.join(","),
            file.position.map_or_else(dash, |position| position.to_string()),
            target(file),
        ]
    });
    places.chain(files).collect()
}

/// What a file is called, with what is remarkable about it.
pub(crate) fn target(file: &OpenFile) -> String {
    let removed = if file.removed { " (removed)" } else { "" };
    let queued = match file.queued {
        None | Some(0) => String::new(),
        Some(queued) => format!(" ({queued} bytes in it)"),
    };
    format!("{}{removed}{queued}", file.target)
}

/// The sockets a process has open.
pub(crate) fn sockets(process: &Process) -> Vec<[String; 9]> {
    let row = |socket: &Socket| {
        [
            process.pid.to_string(),
            socket.fd.to_string(),
            protocol(socket),
            socket.state.clone(),
            socket.receive_queue.to_string(),
            socket.send_queue.to_string(),
            local(socket),
            remote(socket),
            socket.options.join(","),
        ]
    };
    process.sockets.iter().flatten().map(row).collect()
}

/// Who is in a set of control groups.
pub(crate) fn members(set: &CgroupSet) -> String {
    if set.of_criu && set.processes.is_empty() { "(CRIU)".to_owned() } else { pids(&set.processes) }
}

/// Where a process stands in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The place of its parent in the list.
    pub(crate) parent: Option<usize>,
    /// How many are above it.
    pub(crate) depth: usize,
}

/// Where each process stands in the tree. The tree has no more than `deepest` levels below its roots, however long a chain the
/// checkpoint claims: what is deeper begins anew.
pub(crate) fn standings(processes: &[Process], deepest: usize) -> Vec<Standing> {
    let places: HashMap<u32, usize> =
        processes.iter().enumerate().map(|(place, process)| (process.pid, place)).collect();
    let mut standings: Vec<Standing> = Vec::with_capacity(processes.len());
    for (place, process) in processes.iter().enumerate() {
        let parent = process.parent.and_then(|parent| places.get(&parent).copied());
        let parent = parent.filter(|parent| *parent < place && standings[*parent].depth < deepest);
        standings.push(Standing { parent, depth: parent.map_or(0, |parent| standings[parent].depth + 1) });
    }
    standings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_no_deeper_than_it_may_be() {
        let process = |pid, parent| Process { pid, parent, ..Process::default() };
        let list = [
            process(1, None),
            process(2, Some(1)),
            process(3, Some(2)),
            process(9, Some(1)),
            process(4, Some(77)),
        ];
        let depths =
            |deepest| standings(&list, deepest).iter().map(|standing| standing.depth).collect::<Vec<_>>();
        assert_eq!(depths(64), [0, 1, 2, 1, 0]);
        assert_eq!(depths(1), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn capabilities_are_told_by_what_is_shorter() {
        let all = every_capability();
        assert_eq!(capabilities(&all), "all");
        assert_eq!(capabilities(&all[1..]), "all but chown");
        assert_eq!(capabilities(&all[..2]), "chown dac_override");
        assert_eq!(capabilities(&[]), "none");
    }

    #[test]
    fn times_have_fitting_units() {
        for (us, text) in [(7, "7 µs"), (1500, "1.5 ms"), (2_340_000, "2.34 s"), (3_700_000_000, "1 h 1 min")]
        {
            assert_eq!(duration_us(us), text);
        }
    }
}

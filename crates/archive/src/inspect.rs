//! What was running: everything a checkpoint tells about its processes, in one model that every output is made from.
//!
//! Only what is asked for is read ([`Parts`]). A damaged image costs what it says and nothing else; it is named in
//! [`Report::problems`].
//!
//! Formats: CRIU 4.2, `images/*.proto`; numbers and flags of the kernel as the man pages of section 2 and 7 have them.

use std::collections::BTreeMap;

use serde::Serialize;
use torpor_criu::image::Kind;
use torpor_criu::image::file::Descriptor;
use torpor_criu::image::memory::Memory;
use torpor_criu::image::process::Inventory;

use crate::Checkpoint;
use crate::engine::{self, Changes, Container, Interface};
use crate::memory::AddressSpaces;

mod addresses;
mod cgroups;
mod credentials;
mod descriptors;
mod environment;
mod images;
mod limits;
mod logs;
mod memory_map;
mod mounts;
mod namespaces;
mod phases;
mod processes;
mod signals;
mod sockets;
mod statistics;
mod strings;
mod summary;

pub use cgroups::{CgroupMembership, CgroupSet, CgroupSetting, CgroupSettings, Cgroups};
pub use credentials::{Credentials, Filter, Identity, Seccomp, capability_names, every_capability};
pub use descriptors::OpenFile;
pub use environment::Variable;
pub use limits::Limit;
pub use logs::Log;
pub use memory_map::{KindTotal, Mapping, MemoryMap, Pages};
pub use mounts::Mount;
pub use namespaces::{Clocks, Device, IdRange, Namespace};
pub use phases::Phase;
pub use processes::{Process, Thread};
pub use signals::{Signals, Timer, signal_name};
pub use sockets::{Address, Peer, Socket};
pub use statistics::Statistics;
pub use strings::{command_line, text};
pub use summary::{Criu, Root, Sizes, Summary};

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// The checkpoint at a glance.
    pub summary: bool,
    /// What CRIU measured.
    pub statistics: bool,
    /// The processes. All that follows down to `memory` needs them, and includes them.
    pub processes: bool,
    /// Command lines.
    pub arguments: bool,
    /// Environments.
    pub environment: bool,
    /// Open files.
    pub files: bool,
    /// Open sockets.
    pub sockets: bool,
    /// Credentials, capabilities and seccomp.
    pub credentials: bool,
    /// Resource limits.
    pub limits: bool,
    /// Signals and timers.
    pub signals: bool,
    /// Mappings.
    pub memory: bool,
    /// Mounts.
    pub mounts: bool,
    /// Namespaces.
    pub namespaces: bool,
    /// Control groups.
    pub cgroups: bool,
    /// What the container changed in its file system.
    pub writable_layer: bool,
    /// What the container, the engine and CRIU wrote.
    pub logs: bool,
    /// Values of environment variables, too.
    pub secrets: bool,
}

impl Parts {
    /// Everything but secrets.
    pub const ALL: Self = Self {
        summary: true,
        statistics: true,
        processes: true,
        arguments: true,
        environment: true,
        files: true,
        sockets: true,
        credentials: true,
        limits: true,
        signals: true,
        memory: true,
        mounts: true,
        namespaces: true,
        cgroups: true,
        writable_layer: true,
        logs: true,
        secrets: false,
    };

    /// Whether anything about single processes is asked for.
    #[must_use]
    pub fn any_process(&self) -> bool {
        self.processes
            || self.arguments
            || self.environment
            || self.files
            || self.sockets
            || self.credentials
            || self.limits
            || self.signals
            || self.memory
    }
}

/// What a checkpoint tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Where the checkpoint is kept.
    pub source: String,
    /// Whether the report holds secrets: values of environment variables.
    pub secrets: bool,
    /// The container, as its engine told about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// How it had fared, where its engine noted that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<engine::Status>,
    /// Its network interfaces, as its engine told about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The checkpoint at a glance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What CRIU measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
    /// What Torpor measured, for checkpoints in its stores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// The processes, parents before their children.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<Process>>,
    /// Mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    /// Namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<Namespace>>,
    /// Control groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Cgroups>,
    /// What the container changed in its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable_layer: Option<Changes>,
    /// What the container, the engine and CRIU wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Vec<Log>>,
    /// What is missing or could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Something that is missing or could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The entry of the checkpoint.
    pub entry: String,
    /// What is wrong with it.
    pub message: String,
}

impl Report {
    /// Reads what is asked for, of all processes or of one.
    #[must_use]
    pub fn read(checkpoint: &Checkpoint, parts: Parts, pid: Option<u32>) -> Self {
        let images = images::Images::new(checkpoint);
        let mut report = Self { source: checkpoint.source().name().to_owned(), ..Self::default() };
        if parts.summary {
            report.container = report_or(&images, "config.dump", engine::container(checkpoint));
            report.status = report_or(&images, "status.dump", engine::status(checkpoint)).flatten();
            report.interfaces =
                report_or(&images, "network.status", engine::networks(checkpoint)).unwrap_or_default();
        }
        if parts.statistics {
            report.statistics = statistics::statistics(&images);
            report.phases = phases::phases(&images);
        }
        if parts.writable_layer {
            report.writable_layer =
                report_or(&images, "rootfs-diff.tar", engine::changes(checkpoint)).flatten();
        }
        if parts.logs {
            report.logs = Some(logs::logs(&images));
        }
        if parts.mounts {
            report.mounts = Some(mounts::mounts(&images));
        }
        if parts.any_process() || parts.summary || parts.namespaces || parts.cgroups {
            report.read_processes(&images, parts, pid);
        }
        report.problems = images.into_problems();
        report
    }

    fn read_processes(&mut self, images: &images::Images<'_>, parts: Parts, pid: Option<u32>) {
        let inventory: Option<Inventory> = images.needed(0);
        let found = processes::read(images);
        if parts.summary {
            self.summary = Some(summary::summary(images, inventory.as_ref(), &found));
        }
        if parts.namespaces {
            let ids: Vec<_> = found.iter().filter_map(|found| Some((found.pid(), found.ids?))).collect();
            let of_criu = inventory.as_ref().and_then(|inventory| inventory.root_ids.as_ref());
            self.namespaces = Some(namespaces::namespaces(images, &ids, of_criu));
        }
        if parts.cgroups {
            let members = processes::cgroup_members(&found);
            let of_criu = inventory.as_ref().and_then(|inventory| inventory.root_cg_set);
            self.cgroups = Some(cgroups::cgroups(images, &members, of_criu));
        }
        if parts.any_process() {
            let reader = Reader::new(images, parts, &found);
            let wanted = found.iter().filter(|found| pid.is_none_or(|pid| pid == found.pid()));
            let processes: Vec<_> = wanted.map(|found| reader.process(found)).collect();
            self.secrets =
                parts.secrets && processes.iter().any(|process: &Process| process.environment.is_some());
            self.processes = Some(processes);
        }
    }
}

/// What an engine's part tells, or a note on why it does not.
fn report_or<T>(images: &images::Images<'_>, entry: &str, told: Result<T, engine::EngineError>) -> Option<T> {
    told.map_err(|error| images.note(entry, &error)).ok()
}

/// What is read once, for all processes.
#[derive(Debug)]
struct Reader<'i, 'a> {
    images: &'i images::Images<'a>,
    parts: Parts,
    files: descriptors::Files,
    /// The descriptors of each process that has some.
    tables: BTreeMap<u32, Vec<Descriptor>>,
    ends: sockets::Ends,
    filters: Vec<torpor_criu::image::credential::SeccompFilter>,
    spaces: Option<AddressSpaces<'a>>,
}

impl<'i, 'a> Reader<'i, 'a> {
    fn new(images: &'i images::Images<'a>, parts: Parts, found: &[processes::Found]) -> Self {
        let mut files = descriptors::Files::read(images, found.iter().find_map(processes::Found::machine));
        let mut tables = BTreeMap::new();
        if parts.files || parts.sockets {
            files.read_contents(images);
            for found in found.iter().filter(|found| found.lives()) {
                if let Some(ids) = found.ids {
                    tables.insert(found.pid(), images.all(u64::from(ids.files_id)));
                }
            }
        }
        let ends = if parts.sockets {
            sockets::Ends::read(images, &files, &tables)
        } else {
            sockets::Ends::default()
        };
        let filters = if parts.credentials { credentials::filters(images) } else { Vec::new() };
        let spaces = (parts.arguments || parts.environment || parts.memory)
            .then(|| {
                let spaces = AddressSpaces::new(images.checkpoint());
                spaces.map_err(|error| images.note(&Kind::ProcessTree.file_name(0), &error)).ok()
            })
            .flatten();
        Self { images, parts, files, tables, ends, filters, spaces }
    }

    fn process(&self, found: &processes::Found) -> Process {
        let (images, parts) = (self.images, self.parts);
        let mut process = found.process();
        if !found.lives() {
            return process;
        }
        let pid = found.pid();
        if let Some(place) = processes::file_system(images, pid) {
            process.working_directory = self.files.path(place.cwd_id);
            process.root_directory = self.files.path(place.root_id);
            process.umask = place.umask.map(|mask| format!("{mask:04o}"));
        }
        if let Some(memory) = images.needed::<Memory>(u64::from(pid)) {
            process.executable = self.files.path(memory.exe_file_id);
            self.add_memory(&mut process, &memory);
        }
        if let Some(table) = self.tables.get(&pid) {
            if parts.files {
                process.files = Some(self.files.table(table));
            }
            if parts.sockets {
                process.sockets = Some(self.ends.sockets(images, &self.files, table));
            }
        }
        if parts.credentials {
            process.credentials = found.credentials(&self.filters);
            found.add_thread_credentials(&mut process, &self.filters);
        }
        if parts.limits {
            process.limits = found.limits();
        }
        if parts.signals {
            process.signals = found.signals();
        }
        process
    }

    fn add_memory(&self, process: &mut Process, memory: &Memory) {
        let (images, parts) = (self.images, self.parts);
        let Some(spaces) = &self.spaces else { return };
        let space = match spaces.open(process.pid) {
            Ok(space) => space,
            Err(error) => return images.note(&Kind::Memory.file_name(u64::from(process.pid)), &error),
        };
        if parts.arguments {
            process.arguments = environment::arguments(images, &space, memory);
        }
        if parts.environment {
            process.environment = environment::environment(images, &space, memory, parts.secrets);
        }
        if parts.memory {
            process.memory = Some(memory_map::memory_map(images, spaces, &space, memory));
        }
    }
}

#[cfg(test)]
mod tests;

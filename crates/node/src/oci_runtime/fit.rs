//! Whether images ask for no more than a container's configuration grants.
//!
//! CRIU restores what images say: users, capabilities, filters, mounts, limits. Whoever can write images could have more in a
//! restored container than a fresh one would get. So they are held against the configuration the container is to be made from:
//! first what is granted (`grant`), then one rule for each thing that could be more. A process may have changed since its
//! start, as far as a process of such a container can.

mod credentials;
mod filters;
mod grant;
mod mounts;
mod namespaces;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use torpor_criu::image::Kind;
use torpor_criu::image::cgroup::Cgroups;
use torpor_criu::image::credential::SeccompFilters;
use torpor_criu::image::file;
use torpor_criu::image::namespace::{Mount, UserNamespace};
use torpor_criu::image::process::{Core, Ids, Inventory, TaskState, TreeEntry};
use torpor_criu::image::{Name, Record};

pub use grant::{Grant, GrantError, GrantedMount};

use super::images::entries;
use crate::container::ContainerError;

/// How many misfits are told of one container.
const MOST: usize = 12;

/// Something that images ask for and that is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// A process acts as somebody else.
    User {
        /// The thread, in the container.
        thread: u32,
        /// `user` or `group`.
        kind: &'static str,
        /// Whose.
        id: u32,
    },
    /// A set of capabilities has more.
    Capabilities {
        /// The thread.
        thread: u32,
        /// The set.
        set: &'static str,
        /// What is too much, by name.
        beyond: Vec<String>,
    },
    /// A process may gain privileges.
    NewPrivileges {
        /// The thread.
        thread: u32,
    },
    /// A process is under no profile of a security module.
    Unconfined {
        /// The thread.
        thread: u32,
    },
    /// A process has no filter of system calls.
    NoFilter {
        /// The thread.
        thread: u32,
    },
    /// Its filters let through what the profile does not.
    Filter {
        /// The thread.
        thread: u32,
        /// System calls, by name.
        calls: Vec<String>,
    },
    /// A process may use more of something.
    Limit {
        /// The process.
        process: u32,
        /// Which limit, as the specification calls it.
        limit: String,
        /// How much, `u64::MAX` for no limit.
        asked: u64,
        /// How much is granted.
        granted: u64,
    },
    /// A process goes before others.
    Priority {
        /// The process.
        process: u32,
        /// How.
        what: &'static str,
    },
    /// A process is in a namespace of the machine's.
    Namespace {
        /// The process.
        process: u32,
        /// Which kind.
        kind: &'static str,
    },
    /// There are user namespaces, or others than are granted.
    Users,
    /// A mount that the configuration does not have.
    Mount {
        /// Where.
        point: PathBuf,
        /// Of which file system.
        file_system: String,
    },
    /// A mount without a restriction.
    Flag {
        /// Where.
        point: PathBuf,
        /// Which, as the specification calls it.
        flag: &'static str,
    },
    /// The container was at no terminal, and is to be at one.
    NoTerminal,
    /// A path is neither covered up nor read-only.
    Uncovered {
        /// The path.
        path: PathBuf,
    },
    /// A path that climbs, or is none.
    Path {
        /// Where it stands.
        image: String,
        /// The path.
        path: String,
    },
    /// A plugin of CRIU's is needed.
    Plugin {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::User { thread, kind, id } => write!(f, "thread {thread} acts as {kind} {id}"),
            Misfit::Capabilities { thread, set, beyond } => {
                write!(f, "thread {thread} has {} in its {set} set", beyond.join(", "))
            }
            Misfit::NewPrivileges { thread } => write!(f, "thread {thread} lacks no_new_privs"),
            Misfit::Unconfined { thread } => write!(f, "thread {thread} is under no security profile"),
            Misfit::NoFilter { thread } => write!(f, "thread {thread} has no seccomp filter"),
            Misfit::Filter { thread, calls } => {
                write!(f, "the seccomp filters of thread {thread} let {} through", calls.join(", "))
            }
            Misfit::Limit { process, limit, asked: u64::MAX, granted } => {
                write!(f, "process {process} has no limit {limit}, and {granted} is granted")
            }
            Misfit::Limit { process, limit, asked, granted } => {
                write!(f, "process {process} has limit {limit} of {asked}, and {granted} is granted")
            }
            Misfit::Priority { process, what } => write!(f, "process {process} has {what}"),
            Misfit::Namespace { process, kind } => {
                write!(f, "process {process} is in the machine's {kind} namespace")
            }
            Misfit::Users => f.write_str("its user namespaces are not those of the configuration"),
            Misfit::Mount { point, file_system } => {
                write!(f, "{file_system} is mounted at {}", point.display())
            }
            Misfit::Flag { point, flag } => write!(f, "the mount at {} is not {flag}", point.display()),
            Misfit::NoTerminal => f.write_str("it was at no terminal, and is to be at one"),
            Misfit::Uncovered { path } => write!(f, "{} is neither masked nor read-only", path.display()),
            Misfit::Path { image, path } => write!(f, "{image} has the path {path:?}"),
            Misfit::Plugin { name } => write!(f, "it takes CRIU's plugin {name:?}"),
        }
    }
}

/// What was found in images, as far as it is held against a configuration.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// CRIU's own namespaces at the dump.
    machine: Option<Ids>,
    /// Processes: PID, what they share, and the rest.
    processes: Vec<(u32, Option<Ids>, Core)>,
    /// Threads by their numbers.
    threads: Vec<(u32, Core)>,
    /// Of threads other than the first, the place of their process among all.
    leaders: HashMap<u32, usize>,
    filters: Vec<torpor_criu::image::credential::SeccompFilter>,
    mounts: Vec<Mount>,
    users: Vec<UserNamespace>,
    /// Paths, and in which image they stand.
    paths: Vec<(String, String)>,
    plugins: Vec<String>,
    /// Whether a process has a terminal.
    terminal: bool,
}

impl Claim {
    /// Reads what the images in a directory ask for.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(images: &Path) -> Result<Claim, ContainerError> {
        // Of an image without any entry there are only the two words that tell its kind.
        let terminal = images.join("tty-info.img").metadata().is_ok_and(|found| found.len() > 8);
        let mut claim = Claim { terminal, ..Claim::default() };
        let inventory: Vec<Inventory> = entries(&images.join("inventory.img"))?;
        for entry in inventory {
            claim.machine = entry.root_ids;
            claim.plugins.extend(entry.plugins_entry.unwrap_or_default().plugins);
        }
        for process in entries::<TreeEntry>(&images.join("pstree.img"))? {
            let core = |thread: u32| entries::<Core>(&images.join(format!("core-{thread}.img")));
            let Some(own) = core(process.pid)?.into_iter().next() else { continue };
            let ids = optional::<Ids>(&images.join(format!("ids-{}.img", process.pid)))?.into_iter().next();
            // Of one that has ended CRIU writes any number for its thread.
            for thread in process.threads.into_iter().filter(|_| !has_ended(&own)) {
                if thread != process.pid {
                    claim.leaders.insert(thread, claim.processes.len());
                    claim.threads.extend(core(thread)?.into_iter().map(|core| (thread, core)));
                }
            }
            claim.threads.push((process.pid, own.clone()));
            claim.processes.push((process.pid, ids.or(own.ids), own));
        }
        for filters in optional::<SeccompFilters>(&images.join("seccomp.img"))? {
            claim.filters.extend(filters.seccomp_filters);
        }
        let listed = std::fs::read_dir(images).map_err(ContainerError::place(images))?;
        for entry in listed {
            let entry = entry.map_err(ContainerError::place(images))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            claim.add(&file, &entry.path())?;
        }
        Ok(claim)
    }

    /// The first thread of the process that a thread belongs to; none where it is the first itself.
    fn leader(&self, thread: u32) -> Option<&Core> {
        self.processes.get(*self.leaders.get(&thread)?).map(|(.., core)| core)
    }

    fn add(&mut self, file: &str, path: &Path) -> Result<(), ContainerError> {
        let Some(name) = Name::parse(file) else { return Ok(()) };
        let mut add = |path: String| self.paths.push((file.to_owned(), path));
        match name.kind {
            Kind::Mounts => self.mounts.extend(entries::<Mount>(path)?),
            Kind::UserNamespace => self.users.extend(entries::<UserNamespace>(path)?),
            Kind::Files => {
                for found in entries::<file::File>(path)? {
                    if let Some(regular) = found.reg {
                        add(regular.name);
                    }
                }
            }
            Kind::Cgroup => {
                for groups in entries::<Cgroups>(path)? {
                    groups.sets.into_iter().flat_map(|set| set.ctls).for_each(|member| add(member.path));
                    let mut below: Vec<_> = groups.controllers.into_iter().flat_map(|one| one.dirs).collect();
                    while let Some(directory) = below.pop() {
                        directory.properties.into_iter().for_each(|property| add(property.name));
                        add(directory.dir_name);
                        below.extend(directory.children);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Claim {
    /// The profile or label that processes are to have, as runtimes and CRIU take it; none where they have the right one.
    #[must_use]
    pub fn new_label(&self, grant: &Grant) -> Option<String> {
        let (module, wanted) = grant.security_label()?;
        let creds = self.threads.iter().filter_map(|(_, core)| core.thread_core.as_ref()?.creds.as_ref());
        let differs = creds.filter_map(|creds| creds.lsm_profile.as_deref()).any(|label| label != wanted);
        differs.then(|| format!("{module}:{wanted}"))
    }
}

/// Whether a process has ended, and only waits to be asked how.
fn has_ended(core: &Core) -> bool {
    core.tc.as_ref().is_some_and(|task| matches!(task.state(), TaskState::Dead | TaskState::Zombie))
}

/// All entries of an image that may be missing.
fn optional<M: Record>(path: &Path) -> Result<Vec<M>, ContainerError> {
    if path.exists() { entries(path) } else { Ok(Vec::new()) }
}

/// What does not fit. `exists` tells whether a path of the kernel's is there on this machine.
#[must_use]
pub fn misfits(claim: &Claim, grant: &Grant, exists: impl Fn(&Path) -> bool) -> Vec<Misfit> {
    let mut all = Vec::new();
    for (thread, core) in &claim.threads {
        credentials::thread(*thread, core, grant, &mut all);
    }
    for (process, _, core) in &claim.processes {
        credentials::process(*process, core, grant, &mut all);
    }
    filters::check(claim, grant, &mut all);
    namespaces::check(claim, grant, &mut all);
    mounts::check(&claim.mounts, grant, exists, &mut all);
    if grant.terminal && !claim.terminal {
        all.push(Misfit::NoTerminal);
    }
    let climbing = |path: &str| Path::new(path).components().any(|part| part.as_os_str() == "..");
    for (image, path) in claim.paths.iter().filter(|(_, path)| climbing(path) || path.contains('\0')) {
        all.push(Misfit::Path { image: image.clone(), path: path.clone() });
    }
    all.extend(claim.plugins.iter().map(|name| Misfit::Plugin { name: name.clone() }));
    all.dedup();
    all.truncate(MOST);
    all
}

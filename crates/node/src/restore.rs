//! Restore a generation: find, check, prepare, restore, go on.
//!
//! Which generation is tried is decided by the lineage ([`torpor_store::lineage::Offer`]); here one is held against this
//! machine, laid out, and made to run. Nothing of the program exists before the check has passed.

use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use torpor_criu::image::edit::{self, PortRemap};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_criu::options::{Common, ExpertOption, RestoreOptions, Tcp};
use torpor_criu::program::Program;
use torpor_criu::rpc::CgroupMode;
use torpor_criu::session::{DefaultConfig, Event, Pid, Session, Spawn, Verdict};
use torpor_store::manifest::MemoryKind;
use torpor_store::{Manifest, Repository};

use crate::facts::Facts;
use crate::files::layout::{Before, LayoutPlan};
use crate::files::{FileRecord, Section, Selection};
use crate::guard::{Guard, Watch};
use crate::mounts::MountPlan;
use crate::network_lock::NoResets;
use crate::phase::{Phase, Phases};
use crate::staging::Staging;
use crate::stored_files::FromManifest;
use crate::streams::{Streams, UNREAD};
use crate::{addresses, launch, process_tree};

pub mod check;
mod error;
pub(crate) mod watchdog;

pub use check::{Misfit, Site};
pub use error::RestoreError;
use watchdog::Watchdog;

/// CRIU's name for its log of a restore.
const LOG: &str = "restore.log";
/// The first number that a descriptor has within CRIU.
const FIRST_DESCRIPTOR: i32 = 10;
/// Addresses of a page, in bytes.
const PAGE: u64 = torpor_store::manifest::PAGE_SIZE as u64;

/// A generation and what it takes to restore it here.
#[derive(Debug)]
pub struct Restoration<'a> {
    /// Where it is kept.
    pub repository: &'a Repository,
    /// Which it is.
    pub manifest: &'a Manifest,
    /// What it tells of the program.
    pub facts: &'a Facts,
    /// The CRIU to use.
    pub criu: &'a Program,
    /// What CRIU is told besides what follows from all this.
    pub expert_options: &'a [ExpertOption],
    /// Whether it reads its own configuration files.
    pub default_config: DefaultConfig,
    /// What is done about each mount here.
    pub mounts: &'a MountPlan,
    /// Which paths may be written besides, and which not.
    pub selection: &'a Selection,
    /// Listening ports that are others from now on.
    pub listen_remap: &'a [PortRemap],
    /// Whether Unix sockets may have a peer outside.
    pub external_unix: bool,
    /// Where staging directories are made.
    pub staging: &'a Path,
    /// Leave the program stopped.
    pub leave_stopped: bool,
}

/// A program that was restored.
#[derive(Debug)]
pub struct Restored {
    /// The root of its tree, a child of this process.
    pub root: i32,
    /// The master of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// The files that were put back: changes since the image, however old they look from now on.
    pub files: Vec<PathBuf>,
    /// What was there in their places; dropped, it comes back.
    pub before: Before,
}

impl Restoration<'_> {
    /// Makes the program run again. `about_to_run` is called when everything exists and nothing has run yet; where it
    /// fails, nothing will.
    ///
    /// # Errors
    /// Where the generation cannot be laid out or CRIU fails. No process of the program is left then.
    pub fn restore(
        &self,
        streams: &Streams,
        phases: &mut Phases,
        about_to_run: &mut dyn FnMut() -> Result<(), RestoreError>,
    ) -> Result<Restored, RestoreError> {
        phases.enter(Phase::Prepare);
        let staging =
            Staging::create(self.staging, "restore").map_err(RestoreError::staging(self.staging))?;
        let mut files = FromManifest::read(self.repository, self.manifest)?;
        let records = files.records();
        let paths = carried(&records);
        let layout = LayoutPlan::new(records, self.mounts, self.selection)?;
        let default_config = self.default_config.clone();
        let mut session_spawn = Spawn {
            pid: self.pid_out_of_the_way(),
            default_config,
            capabilities: crate::capabilities::raised_for_criu(),
            ..Spawn::default()
        };
        let mut options = self.options(staging.path());
        for (number, (key, descriptor)) in (FIRST_DESCRIPTOR..).zip(streams.replacements(&self.facts.streams))
        {
            let copy = descriptor.try_clone_to_owned().map_err(RestoreError::Stream)?;
            session_spawn = session_spawn.pass(copy, number);
            options = options.inherit(key, number);
        }
        let mut guard = Guard::start().map_err(RestoreError::Guard)?;
        let mut session = Session::start(self.criu, session_spawn)?;
        let version = session.version()?;
        check::criu(self.facts.criu.version, version.number()).map_err(RestoreError::Misfit)?;
        self.lay_out_images(staging.path(), generation_of(&version))?;
        // Dropped on any failure from here on, which puts back what was there.
        let before = layout.before()?;
        let report = layout.apply(&mut files)?;
        for (path, lost) in &report.lost {
            tracing::warn!(path = %path.display(), ?lost, "a file could not be put back exactly");
        }

        phases.enter(Phase::Restore);
        let watch = Watch::Restore { criu: session.pid().as_raw_nonzero().get(), root: self.facts.tree.root };
        if let Err(error) = guard.watch(watch) {
            tracing::warn!(%error, "the guard is gone; the restore goes on without");
        }
        let mut terminal = None;
        let mut refusal = None;
        let others = process_tree::of(std::process::id() as i32);
        let watchdog = Watchdog::watch(session.process(), self.patience()).map_err(RestoreError::Watchdog)?;
        let resets = (self.facts.tcp.inside > 0).then(NoResets::begin);
        if let Some(Err(error)) = &resets {
            tracing::debug!(%error, "a half-closed connection inside the program may be lost");
        }
        let result = session.restore(&options, &mut |notification| match notification.event {
            Event::OrphanPtsMaster => {
                terminal = notification.take_descriptor();
                Verdict::Proceed
            }
            Event::PostRestore => match about_to_run() {
                Ok(()) => {
                    // Before the program runs: the first child it starts may be long-lived.
                    self.continue_pids();
                    Verdict::Proceed
                }
                Err(error) => {
                    refusal = Some(error);
                    Verdict::Refuse
                }
            },
            _ => Verdict::Proceed,
        });
        drop(resets);
        let bitten = watchdog.dismiss();
        if result.is_err() {
            // CRIU kills what it has made; one that was killed itself leaves it behind.
            process_tree::end_all_but(&others);
        }
        guard.dismiss();
        let restored = match (result, refusal) {
            (_, Some(error)) => return Err(error),
            (Err(_), None) if bitten => return Err(RestoreError::TooLong { after: self.patience() }),
            (Err(error), None) => return Err(RestoreError::from(error).with_log(&staging.path().join(LOG))),
            (Ok(restored), None) => restored,
        };
        phases.enter(Phase::GoOn);
        let root = restored.pid.as_raw_nonzero().get();
        Ok(Restored { root, terminal, files: paths, before })
    }

    /// How long CRIU may take: far longer than it should.
    fn patience(&self) -> Duration {
        const AT_LEAST: Duration = Duration::from_secs(60);
        const SLOWEST: u64 = 20 << 20;
        AT_LEAST + Duration::from_secs(self.manifest.sizes().logical / SLOWEST)
    }

    fn options(&self, images: &Path) -> RestoreOptions {
        let mut common = Common::new(images);
        common.log_file = Some(LOG.to_owned());
        common.unprivileged = crate::capabilities::unprivileged();
        common.tcp = if self.facts.tcp.captured { Tcp::Established } else { Tcp::Close };
        common.tcp_skip_in_flight = true;
        common.ext_unix_sockets = self.external_unix;
        common.file_locks = true;
        common.evasive_devices = true;
        common.cgroups = Some(CgroupMode::Ignore);
        common.config.expert = self.expert_options.to_vec();
        let mut options = RestoreOptions::new(common);
        options.orphan_pts_master = true;
        if self.leave_stopped {
            options.after = torpor_criu::options::AfterRestore::Stopped;
        }
        options
    }

    /// A PID for CRIU that no process of the program has had.
    fn pid_out_of_the_way(&self) -> Option<Pid> {
        let highest = self.facts.tree.pids.iter().copied().max()?;
        let lowest = self.facts.tree.pids.iter().copied().min()?;
        // Above all of them is where the program's next children will be, so a gap below is better.
        Pid::from_raw(if lowest > 400 { lowest - 100 } else { highest + 1000 })
    }

    /// Children that the program starts from now on get PIDs above those it has.
    fn continue_pids(&self) {
        if let Some(highest) = self.facts.tree.pids.iter().max()
            && let Err(error) = launch::continue_pids_after(*highest)
        {
            tracing::debug!(%error, "PIDs do not continue where the program left off");
        }
    }

    /// Lays out CRIU's images: the small ones as they were, but for sockets, and memory as pages and pagemaps.
    fn lay_out_images(&self, directory: &Path, generation: Generation) -> Result<(), RestoreError> {
        let failed = RestoreError::staging(directory);
        let mut left_out = Vec::new();
        let mut sockets = None;
        // What is not CRIU's is given to the program otherwise.
        for image in self.manifest.images().iter().filter(|image| image.name != UNREAD) {
            let body = self.repository.read_image(self.manifest, &image.name)?;
            if image.name == "files.img" {
                let edited = self.edit_sockets(&body)?;
                left_out = edited.inodes.iter().map(|inode| format!("tcp-stream-{inode:x}.img")).collect();
                // Each engine makes its containers' roots with other permissions.
                sockets = Some(edit::any_mode_of_root(&edited.image).map_err(edit::EditError::from)?);
            } else if image.name.starts_with("tcp-stream-") {
                // No lock on the network keeps the ends of a connection apart until both are there.
                let silent = edit::count_as_sent(&body).map_err(edit::EditError::from)?;
                std::fs::write(directory.join(&image.name), silent).map_err(&failed)?;
            } else {
                std::fs::write(directory.join(&image.name), body).map_err(&failed)?;
            }
        }
        if let Some(files) = sockets {
            std::fs::write(directory.join("files.img"), files).map_err(&failed)?;
        }
        for name in left_out {
            match std::fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        lay_out_memory(self.repository, self.manifest, directory, generation)
    }

    /// Closes connections that lead out, moves sockets to the new addresses, and ports to others.
    fn edit_sockets(&self, files: &[u8]) -> Result<edit::Closed, RestoreError> {
        let mut files = files.to_vec();
        for (from, to) in moves(&self.facts.addresses, &addresses::of_machine()) {
            files = edit::rebind(&files, from, to)?;
        }
        if !self.listen_remap.is_empty() {
            files = edit::remap_listening_ports(&files, self.listen_remap)?;
        }
        if !(self.facts.tcp.captured && self.facts.tcp.close_outside) {
            return Ok(edit::Closed { image: files, inodes: Vec::new() });
        }
        let all = edit::sockets(&files)?;
        let inside: Vec<u32> =
            edit::internal_pairs(&all).into_iter().flat_map(|(a, b)| [all[a].id, all[b].id]).collect();
        Ok(edit::close_connections(&files, |socket| !inside.contains(&socket.id))?)
    }
}

/// Lays out memory: pages, and pagemaps in the form that a version of CRIU reads.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn lay_out_memory(
    repository: &Repository,
    manifest: &Manifest,
    directory: &Path,
    generation: Generation,
) -> Result<(), RestoreError> {
    let failed = RestoreError::staging(directory);
    for (number, object) in (1u32..).zip(manifest.memory()) {
        let pages = File::create_new(directory.join(format!("pages-{number}.img"))).map_err(&failed)?;
        let pagemap = repository.memory(manifest, object.id)?.lay_out(&pages, 0)?;
        let present = pagemap.iter().filter(|entry| PageFlags(entry.flags).contains(PageFlags::PRESENT));
        let expected = present.map(|entry| entry.pages * PAGE).sum::<u64>();
        let length = pages.metadata().map_err(&failed)?.len();
        if length != expected {
            // CRIU 4.2.1 reads beyond the end of a file that is too short for ever.
            return Err(RestoreError::ShortPages { number, length, expected });
        }
        let name = match object.id.kind {
            MemoryKind::Process => format!("pagemap-{}.img", object.id.id),
            MemoryKind::Shared => format!("pagemap-shmem-{}.img", object.id.id),
        };
        let file = BufWriter::new(File::create_new(directory.join(name)).map_err(&failed)?);
        let mut writer = PagemapWriter::new(file, number, generation, PAGE).map_err(&failed)?;
        for entry in pagemap {
            writer.range(entry.vaddr, entry.pages, PageFlags(entry.flags)).map_err(&failed)?;
        }
        std::io::Write::flush(&mut writer.into_inner()).map_err(&failed)?;
    }
    Ok(())
}

/// The paths on carried mounts. What was carried besides is found again by its name.
fn carried(records: &[FileRecord]) -> Vec<PathBuf> {
    let carried = records.iter().filter(|record| record.section == Section::Carried);
    carried.map(|record| record.path.clone()).collect()
}

/// Which old address becomes which new one: those that are gone, family by family, in order. A container has one of
/// each family as a rule.
fn moves(old: &[IpAddr], new: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let mut moves = Vec::new();
    for v4 in [true, false] {
        let gone = old.iter().filter(|address| address.is_ipv4() == v4 && !new.contains(address));
        let fresh = new.iter().filter(|address| address.is_ipv4() == v4 && !old.contains(address));
        moves.extend(gone.copied().zip(fresh.copied()));
    }
    moves
}

fn generation_of(version: &torpor_criu::rpc::Version) -> Generation {
    let (major, minor, _) = version.numbers();
    Generation::of_version(major.unsigned_abs(), minor.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_carried_mounts_counts_as_changed() {
        let record = |path: &str, section| FileRecord {
            path: path.into(),
            section,
            kind: crate::files::FileKind::Removed,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Default::default(),
            atime: Default::default(),
            xattrs: Vec::new(),
        };
        let records = [record("/etc/a", Section::Carried), record("/volume/b", Section::Additional)];
        assert_eq!(carried(&records), [Path::new("/etc/a")]);
    }

    #[test]
    fn an_address_that_is_gone_moves_to_one_that_is_new() {
        let addresses = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<IpAddr>>();
        let moved = |old: &[&str], new: &[&str]| {
            moves(&addresses(old), &addresses(new))
                .into_iter()
                .map(|(a, b)| format!("{a}>{b}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            moved(&["10.0.0.1", "fd00::1"], &["10.0.0.2", "fd00::2"]),
            ["10.0.0.1>10.0.0.2", "fd00::1>fd00::2"]
        );
        assert!(moved(&["10.0.0.1"], &["10.0.0.1", "10.0.0.2"]).is_empty());
        assert!(moved(&["10.0.0.1"], &["fd00::2"]).is_empty());
    }
}

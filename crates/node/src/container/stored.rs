//! A generation of a container: held against this machine, laid out for a runtime, and restored.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use torpor_criu::image::pagemap::Generation;
use torpor_store::lineage::{Decision, Ending, Epoch, Lineage, LineageError, Wish};
use torpor_store::manifest::GenerationKind;
use torpor_store::name::Reference;
use torpor_store::{Manifest, Repository};

use super::ContainerError;
use super::generation::{Facts, Process};
use super::lease::{Lease, Taker};
use super::restore::{Wanted, container, root_of_bundle, sources_of_mounts, take_any_root};
use super::route::Runtime;
use crate::accelerator::{self, Plugins, Vendor};
use crate::files::layout::{Before, LayoutPlan, LayoutReport};
use crate::files::{FileKind, FileRecord, FileSource, Section, Selection};
use crate::machine::Machine;
use crate::mounts::{Mount, MountClass, MountPlan, MountPolicy, PlannedMount};
use crate::restore::check;
use crate::staging::{self, Staging};
use crate::stored_files::FromManifest;

/// A generation that holds a container.
#[derive(Debug)]
pub struct Kept<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
    facts: Facts,
}

impl<'a> Kept<'a> {
    /// The container in a generation.
    ///
    /// # Errors
    /// It holds something else, or a newer release wrote it.
    pub fn new(repository: &'a Repository, manifest: &'a Manifest) -> Result<Kept<'a>, ContainerError> {
        let description = manifest.description();
        let facts = Facts::parse(&description.facts)?.ok_or_else(|| ContainerError::OfAProgram {
            generation: format!("{}@{}", description.name, description.generation),
        })?;
        Ok(Kept { repository, manifest, facts })
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether it can run on a machine.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self, machine: &Machine) -> Result<(), ContainerError> {
        check::machine(&self.facts.machine, machine).map_err(ContainerError::Machine)
    }

    /// Whether the plugins that captured devices are here, with the same driver and models. Returns whose they are.
    ///
    /// # Errors
    /// They are not.
    pub fn check_accelerators(&self, plugins: Option<&Plugins>) -> Result<Vec<Vendor>, ContainerError> {
        accelerator::fit(&self.facts.accelerators, plugins)
    }

    /// Whether the container still runs here that a suspend was to end: Torpor was killed between its commit and that.
    fn never_ended(&self, machine: &Machine) -> bool {
        never_ended(self.manifest, &self.facts.machine, self.facts.process, machine)
    }

    /// Lays out CRIU's images and `descriptors.json` in an empty directory, for the `restore` of runc and crun.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn images_into(&self, directory: &Path) -> Result<(), ContainerError> {
        images_into(self.repository, self.manifest, directory)
    }

    /// Holds the container's files against the root directory that they are for. Nothing is written yet.
    ///
    /// # Errors
    /// They cannot be read, or one of them lies outside of the root.
    pub fn files_for(&self, rootfs: &Path) -> Result<Files<'a>, ContainerError> {
        self.files(Path::new("/"), rootfs, |record| record.section == Section::Carried)
    }

    /// The same for what is in mounts from outside that were taken along. `given` tells where a mount that the container
    /// has at a path comes from.
    ///
    /// # Errors
    /// As [`files_for`](Self::files_for), or a mount is not given, which `missing` makes an error of.
    pub fn mounts_for(
        &self,
        given: impl Fn(&Path) -> Option<PathBuf>,
        missing: impl Fn(PathBuf) -> ContainerError,
    ) -> Result<Vec<Files<'a>>, ContainerError> {
        let each = self.facts.mounts.iter().map(|at| {
            let source = given(at).ok_or_else(|| missing(at.clone()))?;
            let others = || self.facts.mounts.iter().filter(|other| *other != at && other.starts_with(at));
            self.files(at, &source, |record| {
                record.section == Section::Additional
                    && record.path.starts_with(at)
                    && !others().any(|other| record.path.starts_with(other))
            })
        });
        each.collect()
    }

    /// All of them, for a bundle.
    ///
    /// # Errors
    /// As both.
    pub fn all_files_for(&self, bundle: &Path) -> Result<Vec<Files<'a>>, ContainerError> {
        let mut files = vec![self.files_for(&root_of_bundle(bundle)?)?];
        let sources = sources_of_mounts(bundle)?;
        let missing = |at| ContainerError::MissingMounts { bundle: bundle.to_owned(), missing: vec![at] };
        files.extend(self.mounts_for(|at| sources.get(at).cloned(), missing)?);
        Ok(files)
    }

    /// Files that the container has at `at` and beneath, for a directory.
    fn files(
        &self,
        at: &Path,
        directory: &Path,
        wanted: impl Fn(&FileRecord) -> bool,
    ) -> Result<Files<'a>, ContainerError> {
        let root = directory.canonicalize().map_err(ContainerError::place(directory))?;
        let files = FromManifest::read(self.repository, self.manifest)?;
        let below = Below { files, at: at.to_owned(), root };
        let records = below.files.records().into_iter().filter(wanted);
        let records = records.map(|record| record_below(record, at, &below.root));
        let plan = LayoutPlan::new(records, &writable(&below.root), &Selection::default())?;
        Ok(Files { plan, below })
    }
}

/// What a container changed in its image, for one root directory.
#[derive(Debug)]
pub struct Files<'a> {
    plan: LayoutPlan,
    below: Below<'a>,
}

impl Files<'_> {
    /// What is there in their places now. It comes back when the answer is dropped, unless that is released.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn before(&self) -> Result<Before, ContainerError> {
        Ok(self.plan.before()?)
    }

    /// Writes and removes them. Doing it twice gives the same as doing it once.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn put(&mut self) -> Result<LayoutReport, ContainerError> {
        let report = self.plan.apply(&mut self.below)?;
        for (path, lost) in &report.lost {
            tracing::warn!(path = %path.display(), ?lost, "a file could not be put back exactly");
        }
        Ok(report)
    }
}

/// Which generation, and where from.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The store.
    pub repository: &'a Repository,
    /// The name, and the generation where one is meant.
    pub reference: Reference,
    /// This machine's name.
    pub host: String,
    /// Where holders on this machine show that they live; see [`Taker::signs`].
    pub signs: Option<&'a Path>,
    /// Where images are laid out; on a disk, for they are as large as the container's memory.
    pub room: &'a Path,
}

/// Whether a process still runs on this machine that a suspend was to end.
pub(crate) fn never_ended(manifest: &Manifest, was: &Machine, process: Process, is: &Machine) -> bool {
    manifest.description().kind == GenerationKind::Suspend && was.same_boot(is) && process.runs()
}

/// Lays out CRIU's images, memory too, in an empty directory.
pub(crate) fn images_into(
    repository: &Repository,
    manifest: &Manifest,
    directory: &Path,
) -> Result<(), ContainerError> {
    for image in manifest.images() {
        if image.name.contains('/') || image.name.starts_with('.') {
            return Err(ContainerError::ImageName { name: image.name.clone() });
        }
        let body = repository.read_image(manifest, &image.name)?;
        let path = directory.join(&image.name);
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&body))
            .map_err(ContainerError::place(&path))?;
    }
    // The runtime's CRIU may be any: newer ones read the older form, too.
    crate::restore::lay_out_memory(repository, manifest, directory, Generation::Narrow)
        .map_err(|error| ContainerError::Layout(Box::new(error)))
}

/// Makes a container run again from a generation. Of `wanted`, the images are those of the store. Returns its exit code,
/// where it was waited for.
///
/// # Errors
/// The lineage does not offer it, it does not fit, or the runtime fails: then it may be tried once more.
pub fn from_store(
    runtime: &Runtime,
    wanted: &Wanted<'_>,
    from: &Origin<'_>,
) -> Result<Option<i32>, ContainerError> {
    go_on(from, wanted.id, |epoch| restore(runtime, wanted, from, epoch))
}

/// Makes something run again from a generation that others lay out: what was imported. Returns its exit code, where it was
/// waited for.
///
/// # Errors
/// The lineage does not offer it, or one of the two fails: then it may be tried once more.
pub fn from_layout(
    from: &Origin<'_>,
    id: &str,
    lay_out: &dyn Fn(&Manifest, &Path) -> Result<(), ContainerError>,
    make: &dyn Fn(&Path) -> Result<Option<i32>, ContainerError>,
) -> Result<Option<i32>, ContainerError> {
    go_on(from, id, |epoch| {
        let manifest = offered(from, epoch)?;
        let number = manifest.description().generation;
        attempt(epoch, number, || {
            let name = format!("restore-{}", std::process::id());
            let images = Staging::create(from.room, &name).map_err(ContainerError::place(from.room))?;
            lay_out(&manifest, images.path())?;
            epoch.record_restored(number)?;
            let code = make(images.path())?;
            if code.is_none() {
                epoch.record_settled()?;
            }
            Ok(code)
        })
    })
}

/// Holds the name while something of it is restored and, where that was waited for, notes how it ended.
pub(crate) fn go_on(
    from: &Origin<'_>,
    id: &str,
    restore: impl FnOnce(&Epoch) -> Result<Option<i32>, ContainerError>,
) -> Result<Option<i32>, ContainerError> {
    staging::clean_up(from.room, "restore-");
    let lineage = Lineage::new(from.repository, from.reference.name.clone());
    if lineage.record()?.is_none() {
        return Err(LineageError::NoSuchName { name: from.reference.name.clone() }.into());
    }
    let taker = Taker { id, pod: None, host: &from.host, signs: from.signs };
    let lease = Lease::take(&lineage, &taker)?;
    let code = restore(lease.epoch())?;
    if let Some(code) = code {
        match lease.epoch().close(ending(code)) {
            // A checkpoint that was made meanwhile has its own word on how it goes on.
            Ok(_) | Err(LineageError::Fenced { .. }) => {}
            Err(error) => tracing::warn!(%error, "how it ended cannot be noted"),
        }
    }
    Ok(code)
}

/// Notes an attempt to restore a generation, and its failure.
pub(crate) fn attempt(
    epoch: &Epoch,
    number: u64,
    attempt: impl FnOnce() -> Result<Option<i32>, ContainerError>,
) -> Result<Option<i32>, ContainerError> {
    epoch.record_attempt(number)?;
    attempt().inspect_err(|error| {
        if let Err(error) = epoch.record_failed(number, &error.to_string()) {
            tracing::warn!(%error, "the failure cannot be noted");
        }
    })
}

/// Runtimes tell a signal as 128 and its number.
fn ending(code: i32) -> Ending {
    match code {
        129..=192 => Ending::Signaled(code - 128),
        code => Ending::Exited(code),
    }
}

fn restore(
    runtime: &Runtime,
    wanted: &Wanted<'_>,
    from: &Origin<'_>,
    epoch: &Epoch,
) -> Result<Option<i32>, ContainerError> {
    let manifest = offered(from, epoch)?;
    let number = manifest.description().generation;
    let kept = Kept::new(from.repository, &manifest)?;
    let machine = Machine::read();
    kept.check(&machine)?;
    // A runtime's own `restore` tells CRIU nothing of plugins.
    kept.check_accelerators(None)?;
    if kept.never_ended(&machine) {
        return Err(ContainerError::NeverEnded { id: format!("container {}", kept.facts.id) });
    }
    let mut files = kept.all_files_for(wanted.bundle)?;
    runtime.has_not(wanted.root, wanted.id)?;

    attempt(epoch, number, || {
        let name = format!("restore-{}", wanted.id);
        let images = Staging::create(from.room, &name).map_err(ContainerError::place(from.room))?;
        kept.images_into(images.path())?;
        take_any_root(images.path())?;
        let before = files.iter().map(Files::before).collect::<Result<Vec<_>, _>>()?;
        files.iter_mut().try_for_each(|files| files.put().map(drop))?;
        // Before its first instruction: a suspend is resumed once.
        epoch.record_restored(number)?;
        let code = container(runtime, &Wanted { images: images.path(), ..wanted.clone() })?;
        if code.is_none() {
            // Nobody is there who could say later that it runs on.
            epoch.record_settled()?;
        }
        before.into_iter().for_each(Before::release);
        Ok(code)
    })
}

/// The manifest of what the lineage offers; an error where another was asked for, or nothing is offered.
pub(crate) fn offered(from: &Origin<'_>, epoch: &Epoch) -> Result<Manifest, ContainerError> {
    // What a container was started with is for its bundle to say.
    let wish = Wish { allow_changed: true, templates: true, ..Wish::default() };
    let offer = epoch.offer(&wish)?;
    let refused =
        |because: String| ContainerError::NotOffered { reference: from.reference.to_string(), because };
    match offer.decision {
        Decision::Restore { number, manifest, .. }
            if from.reference.generation.is_none_or(|wanted| wanted == number) =>
        {
            Ok(from.repository.manifest(manifest)?)
        }
        Decision::Restore { number, .. } => {
            Err(refused(format!("generation {number} is the one to go on from")))
        }
        Decision::Fresh { because } | Decision::Fail { because } => Err(refused(because.to_string())),
    }
}

/// The container's root as a mount that is carried.
pub(crate) fn writable(rootfs: &Path) -> MountPlan {
    let mount = Mount {
        id: 0,
        parent: 0,
        major: 0,
        minor: 0,
        root: PathBuf::from("/"),
        point: rootfs.to_owned(),
        read_only: false,
        file_system: "overlay".to_owned(),
        source: String::new(),
    };
    let planned =
        PlannedMount { mount, class: MountClass::ContainerRoot, policy: MountPolicy::Carry, asked: true };
    MountPlan { mounts: vec![planned], unused_rules: Vec::new() }
}

/// A record with its paths, which begin with `at`, below `root`.
pub(crate) fn record_below(mut record: FileRecord, at: &Path, root: &Path) -> FileRecord {
    let moved = |path: &Path| match path.strip_prefix(at).unwrap_or(path) {
        inside if inside.as_os_str().is_empty() => root.to_owned(),
        inside => root.join(inside),
    };
    record.path = moved(&record.path);
    if let FileKind::HardLink { target } = &mut record.kind {
        *target = moved(target);
    }
    record
}

/// Files of a manifest under paths below the container's root.
#[derive(Debug)]
pub(crate) struct Below<'a> {
    pub(crate) files: FromManifest<'a>,
    /// Where they were.
    pub(crate) at: PathBuf,
    /// Where that is now.
    pub(crate) root: PathBuf,
}

impl FileSource for Below<'_> {
    fn body(&mut self, record: &FileRecord, out: &mut dyn Write) -> io::Result<()> {
        let inside = record.path.strip_prefix(&self.root).map_err(io::Error::other)?;
        let path = if inside.as_os_str().is_empty() { self.at.clone() } else { self.at.join(inside) };
        let record = FileRecord { path, ..record.clone() };
        self.files.body(&record, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_move_below_the_root_and_those_that_climb_out_are_refused() {
        let root = Path::new("/bundle/rootfs");
        let record = |path: &str, kind| FileRecord {
            path: path.into(),
            section: Section::Carried,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Default::default(),
            atime: Default::default(),
            xattrs: Vec::new(),
        };
        let plan = |record: FileRecord| {
            LayoutPlan::new(
                [record_below(record, Path::new("/"), root)],
                &writable(root),
                &Selection::default(),
            )
        };
        let directory = || FileKind::Directory { opaque: false };
        assert_eq!(record_below(record("/", directory()), Path::new("/"), root).path, root);
        for path in ["/", "/etc", "/a/b"] {
            assert!(plan(record(path, directory())).is_ok(), "{path}");
        }
        for path in ["/../etc", "/a/../../b", "../x", "/a//b", ""] {
            let result = plan(record(path, FileKind::Removed));
            assert!(result.is_err(), "{path:?}: {result:?}");
        }
    }

    #[test]
    fn a_signal_is_a_crash() {
        assert_eq!(ending(0), Ending::Exited(0));
        assert_eq!(ending(3), Ending::Exited(3));
        assert_eq!(ending(137), Ending::Signaled(9));
        assert_eq!(ending(255), Ending::Exited(255));
    }
}

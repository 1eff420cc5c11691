//! `create` and `run`: a container that is restored in place of its start.

mod restore;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

use super::command_line::New;
use super::decision::{self, CARRIED, Decision, OnFailure, Order, Source};
use super::error::RuntimeError;
use super::fit::{self, Claim, Grant, Misfit};
use super::history::Undo;
use super::hooks;
use super::images::{self, Prepared};
use super::log::{self, Level};
use super::projections::Projections;
use super::record::{self, Record, RecordPlace, Stage};
use super::remains::{self, Remains};
use super::{Call, carried, networks, received, stored, wake};
use crate::accelerator::Vendor;
use crate::container::ContainerError;
use crate::container::enclosure;
use crate::process_tree;
use crate::staging::Staging;
use crate::sys::process;

/// Where nothing but the beginning of an annotation of ours is, none of ours is.
const PREFIX: &[u8] = b"torpor.dev/";
/// What of a bundle's configuration is looked at.
#[derive(Debug, Deserialize)]
struct Config {
    root: Root,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    cgroups_path: Option<String>,
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<PathBuf>,
}

/// What became of a container that was to be restored.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was, from this.
    Restored(Box<Record>),
    /// There is nothing to go on from, so it begins.
    Nothing(String),
}

/// A container that is to be restored.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) new: &'a New,
    pub(super) order: &'a Order,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    pub(super) config: &'a [u8],
    /// What that grants.
    pub(super) grant: &'a Grant,
    /// Control groups that it will be in.
    pub(super) own_groups: Vec<PathBuf>,
    /// Those of them that are not there yet, and those that only the restore takes.
    pub(super) groups: Vec<PathBuf>,
    /// The latter.
    pub(super) enclosure: Vec<PathBuf>,
    /// The network it will be in: one that is joined, or none of its own making yet.
    pub(super) network: Network,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    /// The machine's.
    Machine,
    /// One that is there.
    Joined(PathBuf),
    /// A new one, with loopback alone.
    New,
}

/// Restores the container, where that is wanted. None where it is the real runtime's.
pub(super) fn create(call: &Call<'_>, new: &New, run: bool) -> Result<Option<u8>, RuntimeError> {
    let path = new.configuration();
    // Without a configuration, the real runtime says so better.
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    let Ok(config) = serde_json::from_slice::<Config>(&bytes) else { return Ok(None) };
    let bundle = new.absolute_bundle();
    let rootfs = bundle.join(&config.root.path);
    let carries = || carries(&rootfs);
    let annotations = match contains(&bytes, PREFIX) {
        true => config.annotations.unwrap_or_default(),
        false if carries() => config.annotations.unwrap_or_default(),
        false => return Ok(None),
    };
    let Decision::Restore(order) = decision::decide(&annotations, carries)? else { return Ok(None) };
    if !rustix::process::geteuid().is_root() {
        return Err(RuntimeError::NotRoot);
    }
    let grant = Grant::parse(&bytes).map_err(|source| RuntimeError::Grant { path: path.clone(), source })?;
    let linux = config.linux.unwrap_or_default();
    let group = linux.cgroups_path.clone();
    let network = network(linux);
    let (groups, own_groups, enclosure) = (Vec::new(), Vec::new(), Vec::new());
    let config = &bytes;
    let mut making = Making {
        call,
        new,
        order: &order,
        bundle,
        rootfs,
        config,
        grant: &grant,
        own_groups,
        groups,
        enclosure,
        network,
    };
    let place = call.record(&new.id);
    if !making.is_free(&place)? {
        return Ok(None);
    }
    making.own_groups = remains::groups(group.as_deref(), &new.id);
    making.enclosure =
        enclosure::places(call.real.flavor, remains::shows_own(&grant.mounts, &making.own_groups));
    making.groups = remains::groups_to_come(&making.own_groups);
    making.groups.extend(making.enclosure.iter().cloned());
    if run && !new.detach {
        // What the runtime makes is to be waited for here.
        process::become_subreaper().map_err(RuntimeError::place(&path))?;
    }
    match making.restore() {
        Ok(Outcome::Restored(mut record)) => {
            call.say(Level::Info, &format!("container {} is restored from {}", new.id, record.checkpoint));
            if !run {
                return Ok(Some(0));
            }
            wake::start(call, &new.id, &place, &mut record)?;
            if new.detach {
                return Ok(Some(0));
            }
            let code = wake::wait(record.pid)?;
            wake::delete_by_id(call, &new.id)?;
            Ok(Some(code))
        }
        Ok(Outcome::Nothing(because)) => {
            forget(&place);
            call.say(Level::Info, &format!("container {} starts from its beginning: {because}", new.id));
            Ok(None)
        }
        Err(error) => {
            forget(&place);
            if order.on_failure == OnFailure::Fresh && error.may_start_fresh() {
                let line = error.line();
                call.say(Level::Warning, &format!("container {} starts from its beginning: {line}", new.id));
                return Ok(None);
            }
            Err(error)
        }
    }
}

fn forget(place: &RecordPlace) {
    if let Err(error) = place.remove() {
        tracing::warn!(%error, path = %place.directory().display(), "what was begun cannot be removed");
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn network(linux: Linux) -> Network {
    let namespaces = linux.namespaces.unwrap_or_default();
    match namespaces.into_iter().find(|namespace| namespace.kind == "network") {
        None => Network::Machine,
        Some(Namespace { path: Some(path), .. }) if !path.as_os_str().is_empty() => Network::Joined(path),
        Some(_) => Network::New,
    }
}

/// Whether the image carries a checkpoint. No link is followed, whoever made it.
fn carries(rootfs: &Path) -> bool {
    open_below(rootfs, CARRIED).is_some()
}

fn open_below(rootfs: &Path, path: &str) -> Option<OwnedFd> {
    const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);
    let root = rustix::fs::open(rootfs, HANDLE, Mode::empty()).ok()?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, HANDLE, Mode::empty(), resolve).ok()
}

impl Making<'_> {
    /// Whether there is no such container yet. What a killed restore has left of one is removed; of any other the real runtime
    /// says that it is there.
    fn is_free(&self, place: &RecordPlace) -> Result<bool, RuntimeError> {
        let failed = RuntimeError::place(place.directory());
        let there = self.call.root().join(&self.new.id).exists();
        match place.read().map_err(&failed)? {
            Some(record) if record.is_cut_off() => {
                self.call.take_away(&self.new.id, place, &record)?;
                Ok(true)
            }
            Some(Record { stage: Stage::Making, .. }) => {
                Err(RuntimeError::InTheMaking { id: self.new.id.clone() })
            }
            // Its state is gone, but nobody deleted it through us.
            Some(_) if !there => place.remove().map_err(&failed).map(|_| true),
            _ => Ok(!there),
        }
    }

    fn restore(&self) -> Result<Outcome, RuntimeError> {
        match &self.order.source {
            Source::Store(reference) => stored::restore(self, reference),
            Source::Image => carried::restore(self),
            Source::Received(token) => received::restore(self, token),
        }
    }

    /// Names the checkpoint in an error.
    pub(super) fn failed(&self, checkpoint: &str) -> impl Fn(ContainerError) -> RuntimeError + use<> {
        let checkpoint = checkpoint.to_owned();
        move |source| RuntimeError::Container {
            checkpoint: checkpoint.clone(),
            source: Box::new(source),
            log: None,
        }
    }

    /// Makes images fit this container, and refuses those that ask for more than it is granted.
    /// Plugins of CRIU's that it takes are those for devices of `vendors`.
    pub(super) fn prepare(
        &self,
        checkpoint: &str,
        images: &Path,
        vendors: &[Vendor],
    ) -> Result<Prepared, RuntimeError> {
        if let Some(kind) = hooks::impossible(self.config) {
            return Err(RuntimeError::Hooks { kind });
        }
        let failed = self.failed(checkpoint);
        let projections = Projections::of(&self.grant.mounts);
        let mut prepared = images::prepare(images, &self.addresses()?, &projections).map_err(&failed)?;
        networks::fit(images, &self.network).map_err(&failed)?;
        let is_mounted =
            |place: &str| self.grant.mounts.iter().any(|mount| mount.destination == Path::new(place));
        images::leave_out_engines_own(images, is_mounted).map_err(&failed)?;
        crate::container::restore::check(images, &self.bundle).map_err(&failed)?;
        let claim = Claim::read(images).map_err(&failed)?;
        let mut misfits = fit::misfits(&claim, self.grant, Path::exists);
        // They are named as their files are.
        let known =
            |name: &str| vendors.iter().any(|vendor| vendor.plugin().strip_suffix(".so") == Some(name));
        misfits.retain(|misfit| !matches!(misfit, Misfit::Plugin { name } if known(name)));
        if !misfits.is_empty() {
            return Err(RuntimeError::Misfits { checkpoint: checkpoint.to_owned(), misfits });
        }
        prepared.label = claim.new_label(self.grant);
        prepared.plugins = !vendors.is_empty();
        Ok(prepared)
    }

    /// A directory to lay the checkpoint out in, which the record tells of before it is there. `undo` is what a restore that is cut off
    /// leaves to others to do.
    pub(super) fn room(&self, checkpoint: &str, undo: Undo) -> Result<Staging, RuntimeError> {
        let place = self.call.record(&self.new.id);
        let parent = self.call.settings.state.join("room");
        let name = format!("{}-{}", self.new.id, std::process::id());
        let own = std::process::id() as i32;
        let record = Record {
            stage: Stage::Making,
            checkpoint: checkpoint.to_owned(),
            pid: 0,
            started: 0,
            stopped: Vec::new(),
            room: parent.join(&name),
            state: self.call.root().join(&self.new.id),
            bundle: self.bundle.clone(),
            maker: (own, process_tree::started(own).unwrap_or_default()),
            groups: self.groups.clone(),
            undo: Some(undo),
            ..Record::default()
        };
        crate::staging::clean_up(&parent, "");
        self.call.sweep();
        place.write(&record).map_err(RuntimeError::place(place.directory()))?;
        Staging::create(&parent, &name).map_err(RuntimeError::place(&parent))
    }

    /// The addresses of the network it will be in.
    fn addresses(&self) -> Result<Vec<std::net::IpAddr>, RuntimeError> {
        match &self.network {
            Network::Machine => Ok(crate::addresses::of_machine()),
            Network::New => Ok(Vec::new()),
            Network::Joined(path) => crate::addresses::of_namespace(path).map_err(RuntimeError::place(path)),
        }
    }
}

impl Call<'_> {
    /// Tells something in the runtime's log.
    pub(super) fn say(&self, level: Level, message: &str) {
        log::write(&self.line.global, level, message);
    }

    /// Takes away what a restore that was cut off has left, and says so.
    pub(super) fn take_away(
        &self,
        id: &str,
        place: &RecordPlace,
        record: &Record,
    ) -> Result<(), RuntimeError> {
        let root = record.state.parent();
        let remains = Remains {
            real: &self.real,
            root,
            state: &record.state,
            bundle: &record.bundle,
            id,
            groups: &record.groups,
        };
        let found = remains.take_away();
        if let Some(undo) = &record.undo {
            undo.put_back();
        }
        place.remove().map_err(RuntimeError::place(place.directory()))?;
        let what = if found { "what it left is removed" } else { "it left nothing of the container" };
        self.say(
            Level::Warning,
            &format!("a restore of {id} from {} was cut off; {what}", record.checkpoint),
        );
        Ok(())
    }

    /// Looks after all containers: what others' deletes and kills have left of them.
    pub(super) fn sweep(&self) {
        record::sweep(&self.settings.run, |id, place, record| {
            if let Err(error) = self.take_away(id, place, record) {
                tracing::warn!(id, %error, "what a restore left that was cut off stays");
            }
        });
    }
}

//! CRIU's images, and which of them say something else under another engine.
//!
//! Names of what comes from outside are those that runc and crun give CRIU: the path for a bind mount, `/dev/null` for a masked
//! file, `extRootNetNS` for a network namespace (runc `libcontainer/criu_linux.go`, crun `src/libcrun/criu.c`).

use std::collections::HashSet;

use torpor_criu::image::edit::{
    MOUNTS_OF_ENGINES, any_mode_of_root, close_connections, external_network, mounts_in_use, sockets,
    without_mounts,
};
use torpor_criu::image::file::File;
use torpor_criu::image::namespace::{Mount, NetworkNamespace};
use torpor_criu::image::process::Ids;
use torpor_criu::image::{Kind, Name, read_all, read_one};

use super::{Content, Description, LayoutError, Note, Obstacle, Part, Request, Target, part};
use crate::Checkpoint;
use crate::blueprint::is_image;
use crate::engine::Engine;
use crate::source::{Entry, EntryKind};

/// Largest image that is changed.
const MAX_IMAGE: u64 = 256 << 20;
/// The name under which a network namespace is given to a restore.
const NETWORK: &str = "extRootNetNS";

/// The network that the container is restored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// The machine's.
    Host,
    /// One that the engine makes.
    External,
    /// One that CRIU makes, with nothing but a loopback device in it.
    Empty,
}

/// The images as they are written.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) network: Network,
    pub(super) parts: Vec<Part>,
    pub(super) notes: Vec<Note>,
}

/// The images of a checkpoint that matter here.
struct Parsed {
    /// The mounts, and the image they are in.
    mounts: Vec<(String, Vec<Mount>)>,
    /// The ids of mounts that something else refers to.
    in_use: HashSet<u32>,
    /// `files.img`.
    files: Option<(String, Vec<u8>)>,
}

/// Decides what becomes of the images.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    description: &Description,
    target: Target,
    request: &Request,
    obstacles: &mut Vec<Obstacle>,
) -> Result<Images, LayoutError> {
    let parsed = Parsed::read(checkpoint)?;
    let (network, namespace) = network(checkpoint, description, obstacles)?;
    let mut images = Images { network, parts: Vec::new(), notes: Vec::new() };
    let leave_out = mounts(&parsed, target, network, request, &mut images.notes, obstacles);
    let connections = parsed.connections()?;
    let mut closed = HashSet::new();
    if target != Target::Podman && network == Network::Host {
        images.notes.push(Note::HostNetwork);
    }
    match (connections, target) {
        (0, _) => {}
        (_, _) if request.close_connections => {}
        (_, Target::Podman) => images.notes.push(Note::KeepConnections),
        (count, _) => obstacles.push(Obstacle::Connections { count }),
    }
    let changed = |entry: &Entry, bytes: Vec<u8>| Part { body: Content::Bytes(bytes), ..below(entry) };
    for (name, entry) in images_of(checkpoint) {
        let damaged = |source| LayoutError::Image { entry: entry.name.clone(), source };
        match name.map(|name| name.kind) {
            Some(Kind::Files) => {
                let bytes = checkpoint.bytes(entry, MAX_IMAGE)?;
                let mut bytes = any_mode_of_root(&bytes).map_err(damaged)?;
                if request.close_connections {
                    let result = close_connections(&bytes, |_| true)
                        .map_err(|source| LayoutError::Edit { entry: entry.name.clone(), source })?;
                    closed.extend(result.inodes.into_iter().map(u64::from));
                    bytes = result.image;
                }
                images.parts.push(changed(entry, bytes));
            }
            Some(Kind::Mounts) if !leave_out.is_empty() => {
                let bytes = checkpoint.bytes(entry, MAX_IMAGE)?;
                let bytes = without_mounts(&bytes, |mount| leave_out.contains(&mount.mnt_id));
                images.parts.push(changed(entry, bytes.map_err(damaged)?));
            }
            _ => images.parts.push(below(entry)),
        }
    }
    if !closed.is_empty() {
        let stream = |part: &Part| {
            let name = part.name.strip_prefix("checkpoint/").and_then(Name::parse);
            name.is_some_and(|name| {
                name.kind == Kind::TcpStream && name.id.is_some_and(|id| closed.contains(&id))
            })
        };
        images.parts.retain(|part| !stream(part));
    }
    if let (Network::Empty, Target::CriO | Target::Containerd, Some(id)) = (network, target, namespace) {
        // In a pod there is a network already, in place of what may have been dumped of its own.
        let entry = format!("checkpoint/{}", Kind::NetworkNamespace.file_name(u64::from(id)));
        let bytes = external_network(NETWORK)
            .map_err(|source| LayoutError::Output { entry: entry.clone(), source })?;
        let (mode, modified) = (0o600, description.moment());
        images.parts.retain(|part| part.name != entry);
        images.parts.push(Part { name: entry, mode, modified, body: Content::Bytes(bytes) });
    }
    Ok(images)
}

/// An entry of the directory of images, where it goes.
fn below(entry: &Entry) -> Part {
    let file = entry.name.rsplit('/').next().unwrap_or_default();
    part(format!("checkpoint/{file}"), entry)
}

/// The files in the directory of images. Where that is the top, only what is known to be one.
fn images_of(checkpoint: &Checkpoint) -> impl Iterator<Item = (Option<Name>, &Entry)> {
    let prefix = checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str());
    checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File).filter_map(move |entry| {
        let file = entry.name.strip_prefix(prefix).filter(|rest| !rest.contains('/'))?;
        let name = Name::parse(file);
        (is_image(file) || (!prefix.is_empty() && name.is_none())).then_some((name, entry))
    })
}

impl Parsed {
    fn read(checkpoint: &Checkpoint) -> Result<Self, LayoutError> {
        let mut parsed = Self { mounts: Vec::new(), in_use: HashSet::new(), files: None };
        for (name, entry) in images_of(checkpoint) {
            let damaged = |source| LayoutError::Image { entry: entry.name.clone(), source };
            match name.map(|name| name.kind) {
                Some(Kind::Mounts) => {
                    let mounts = read_all::<Mount>(&checkpoint.bytes(entry, MAX_IMAGE)?).map_err(damaged)?;
                    parsed.in_use.extend(mounts_in_use(&mounts, []));
                    parsed.mounts.push((entry.name.clone(), mounts));
                }
                Some(Kind::Files) => {
                    let bytes = checkpoint.bytes(entry, MAX_IMAGE)?;
                    let files: Vec<File> = read_all(&bytes).map_err(damaged)?;
                    parsed.in_use.extend(mounts_in_use([], &files));
                    parsed.files = Some((entry.name.clone(), bytes));
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// How many TCP connections there are.
    fn connections(&self) -> Result<usize, LayoutError> {
        let Some((entry, bytes)) = &self.files else { return Ok(0) };
        let all = sockets(bytes).map_err(|source| LayoutError::Image { entry: entry.clone(), source })?;
        Ok(all.iter().filter(|socket| socket.is_tcp_connection()).count())
    }
}

/// What becomes of the mounts from outside. Returns the ids of those that are left out.
fn mounts(
    parsed: &Parsed,
    target: Target,
    network: Network,
    request: &Request,
    notes: &mut Vec<Note>,
    obstacles: &mut Vec<Obstacle>,
) -> HashSet<u32> {
    let (mut leave_out, mut masks) = (HashSet::new(), false);
    for mount in parsed.mounts.iter().flat_map(|(_, mounts)| mounts) {
        let Some(key) = &mount.ext_key else { continue };
        let destination = mount.mountpoint.clone();
        if key == "/dev/null" {
            masks = true;
            continue;
        }
        if destination.starts_with("/sys/fs/cgroup") || is_made(target, network, &destination) {
            continue;
        }
        let in_use = parsed.in_use.contains(&mount.mnt_id);
        let given = request.mounts.iter().find(|given| given.destination == destination);
        if request.without_mounts.contains(&destination) {
            if in_use {
                obstacles.push(Obstacle::MountInUse { destination });
            } else {
                leave_out.insert(mount.mnt_id);
            }
        } else if given.is_some_and(|given| given.source.is_some() || target != Target::Podman) {
            continue;
        } else if MOUNTS_OF_ENGINES.contains(&destination.as_str()) && !in_use {
            leave_out.insert(mount.mnt_id);
        } else if target == Target::Podman {
            obstacles.push(Obstacle::Mount { destination });
        } else {
            notes.push(Note::PodMounts { destination });
        }
    }
    if masks && target != Target::Podman {
        notes.push(Note::PodMasks);
    }
    leave_out
}

/// Whether the engine mounts something there by itself.
pub(super) fn is_made(target: Target, network: Network, destination: &str) -> bool {
    match destination {
        "/etc/hostname" | "/etc/hosts" | "/dev/shm" => true,
        "/etc/resolv.conf" => target != Target::Podman || network != Network::Empty,
        "/run/.containerenv" => target == Target::Podman,
        _ => false,
    }
}

/// The container's network, and the id of its namespace.
fn network(
    checkpoint: &Checkpoint,
    description: &Description,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(Network, Option<u32>), LayoutError> {
    let (mut id, mut known, mut external) = (None, false, false);
    for (name, entry) in images_of(checkpoint) {
        let damaged = |source| LayoutError::Image { entry: entry.name.clone(), source };
        match name.map(|name| name.kind) {
            Some(Kind::Ids) if id.is_none() => {
                let ids = read_one::<Ids>(&checkpoint.bytes(entry, MAX_IMAGE)?).map_err(damaged)?;
                id = ids.net_ns_id;
            }
            Some(Kind::NetworkNamespace) => {
                known = true;
                let bytes = checkpoint.bytes(entry, MAX_IMAGE)?;
                let found: Vec<NetworkNamespace> = read_all(&bytes).map_err(damaged)?;
                external |= found.iter().any(|namespace| namespace.ext_key.is_some());
            }
            _ => {}
        }
    }
    let has_namespace = description.spec.is_none() || description.namespace("network").is_some();
    Ok(match (has_namespace, known, external) {
        (false, _, false) => (Network::Host, id),
        (_, _, true) => (Network::External, id),
        (true, false, _) => (Network::Empty, id),
        // Torpor has CRIU dump what is in it, which is a loopback device where no engine gave it more from outside.
        (true, true, false) if description.engine == Engine::Torpor => (Network::Empty, id),
        (true, true, false) => {
            obstacles.push(Obstacle::OwnNetwork);
            (Network::Empty, id)
        }
    })
}

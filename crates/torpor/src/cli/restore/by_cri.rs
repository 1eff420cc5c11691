//! `torpor restore --into cri`: a runtime that still restores by image is told to create the container from an archive.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, Note, Plan, Request, Target};
use torpor_archive::oci::{self, Layout};
use torpor_archive::packing::Packing;
use torpor_archive::registry::{self, Credential};
use torpor_archive::source::Stored;
use torpor_archive::tape::Tape;
use torpor_node::config::Surroundings;
use torpor_node::container::ContainerError;
use torpor_node::container::cri::configuration::{self, Origin};
use torpor_node::container::cri::restore::{self, CriRestoreError, Preparation, Restored, Wanted};
use torpor_node::container::cri::{Cri, Login, Restorer};
use torpor_node::container::stored;
use torpor_node::staging::{self, Staging};
use torpor_store::name::Reference;

use crate::cli::failure::{self, Failure};
use crate::cli::{Exit, depot, place, store};

/// Flags of a restore through the container runtime interface.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Through the CRI (--into cri)")]
#[group(skip)]
pub(super) struct Args {
    /// The runtime's socket, where it is not the usual one of containerd or CRI-O.
    #[arg(long, value_name = "FILE", requires = "into")]
    cri_socket: Option<PathBuf>,
    /// The pod sandbox that the container is to be in. Without it, one is made.
    #[arg(long, value_name = "SANDBOX", requires = "into")]
    pod: Option<String>,
    /// The pod's configuration, as `crictl runp` takes it. Without it, the pod is one of the name and the namespace that the checkpoint
    /// tells.
    #[arg(long, value_name = "FILE", requires = "into")]
    pod_config: Option<PathBuf>,
    /// The container's configuration, as `crictl create` takes it. Without it, name, command, mounts and rights are those that the
    /// checkpoint tells.
    #[arg(long, value_name = "FILE", requires = "into")]
    container_config: Option<PathBuf>,
    /// The runtime's handler for a sandbox that is made.
    #[arg(long, value_name = "NAME", default_value = "", requires = "into", conflicts_with = "pod")]
    runtime_handler: String,
    /// The ID of the image that the container was started from: the digest of its configuration, which CRI-O knows it by.
    #[arg(long, value_name = "DIGEST", requires = "into")]
    image_id: Option<String>,
    /// The container goes on without its mount at this path.
    #[arg(long, value_name = "PATH", requires = "into")]
    without_mount: Vec<String>,
    /// Close established TCP connections.
    #[arg(long, requires = "into")]
    close_connections: bool,
    #[command(flatten)]
    depot: depot::Args,
}

/// What is restored, by whom.
struct Restore<'a> {
    args: &'a super::Args,
    cri: Cri,
    restorer: Restorer,
    /// Where restores are recorded while they last.
    records: PathBuf,
}

/// Restores it, and tells the container's ID. It runs by itself.
pub(super) fn run(args: &super::Args) -> anyhow::Result<Exit> {
    let flags = &args.cri;
    if !args.into.flags.is_empty() {
        let message = "the container runtime interface has no flags of its own";
        let remedy = "leave out what is behind `--`, and say it with --pod-config and --container-config";
        return Err(Failure::new(Exit::Usage, message, remedy).into());
    }
    let cri = Cri::find(flags.cri_socket.as_deref(), None).map_err(CriRestoreError::Cri)?;
    let restorer = restore::restorer(&cri)?;
    let records = Surroundings::read()?.runtime_dir.join("torpor");
    let restore = Restore { args, cri, restorer, records };
    let text = args.source.to_string_lossy();
    let restored = match restore.reference(&text)? {
        Some(reference) => restore.stored(&reference)?,
        None => restore.place(&text)?,
    };
    if let Some(path) = &args.pid_file {
        let pid = restore.cri.pid(&restored.container)?.unwrap_or_default();
        std::fs::write(path, pid.to_string())
            .with_context(|| format!("the container runs, and {} cannot be written", path.display()))?;
    }
    println!("{}", restored.container);
    Ok(Exit::Success)
}

impl Restore<'_> {
    /// The name in the store, where one is meant: neither a place nor an image.
    fn reference(&self, text: &str) -> anyhow::Result<Option<Reference>> {
        let is_image = ["docker://", "oci:", "oci-archive:"].iter().any(|kind| text.starts_with(kind));
        if is_image { Ok(None) } else { self.args.reference() }
    }

    fn target(&self) -> Target {
        match self.restorer {
            Restorer::Containerd { .. } => Target::Containerd,
            Restorer::CriO => Target::CriO,
        }
    }

    /// An archive, a directory, an image, or one in a registry.
    fn place(&self, text: &str) -> anyhow::Result<Restored> {
        staging::clean_up(&self.args.room, ROOM);
        let room = Staging::create(&self.args.room, &format!("{ROOM}{}", std::process::id()))
            .with_context(|| format!("cannot write below {}", self.args.room.display()))?;
        let fetched;
        let mut source = text;
        if text.starts_with("docker://") {
            let layout = room.path().join("image");
            let origin = self.args.cri.depot.origin(&depot::Place::parse(text, |_| false)?)?;
            oci::copy(&*origin, &mut Layout::new(&layout, Some("checkpoint")))?;
            fetched = format!("oci:{}:checkpoint", layout.display());
            source = &fetched;
        }
        let checkpoint = place::Args::of(&self.args.store).checkpoint(source)?;
        let plan = self.plan(&checkpoint)?;
        let preparation = self.prepare(plan.description())?;
        let path = Path::new(text);
        let archive = match self.is_ready(&checkpoint, plan.description(), path) {
            true => std::path::absolute(path)?,
            false => written(&plan, &checkpoint, room.path())?,
        };
        self.pull(&preparation, plan.description())?;
        Ok(preparation.restore(&self.cri, &archive, &self.records)?)
    }

    /// A generation of a store, by the rules of its lineage.
    fn stored(&self, reference: &Reference) -> anyhow::Result<Restored> {
        let args = self.args;
        let checkpoint = place::Args::of(&args.store).checkpoint(&format!("store:{reference}"))?;
        let plan = self.plan(&checkpoint)?;
        let preparation = self.prepare(plan.description())?;
        self.pull(&preparation, plan.description())?;
        let repository = args.store.open()?;
        let signs = store::signs(&args.store.store);
        let (host, signs) = (Surroundings::read()?.host, signs.as_deref());
        let from = stored::Origin {
            repository: &repository,
            reference: reference.clone(),
            host,
            signs,
            room: &args.room,
        };
        let lay_out = |manifest: &_, directory: &Path| {
            let write = || -> anyhow::Result<()> {
                let checkpoint = Checkpoint::new(Box::new(Stored::open(repository.clone(), manifest)?))?;
                written(&self.plan(&checkpoint)?, &checkpoint, directory).map(drop)
            };
            write().map_err(|error| ContainerError::Place {
                path: directory.to_owned(),
                source: io::Error::other(failure::sentence(&error)),
            })
        };
        let restored = std::cell::OnceCell::new();
        let make = |directory: &Path| {
            let done = preparation.restore(&self.cri, &directory.join(ARCHIVE), &self.records)?;
            let _ = restored.set(done);
            Ok(None)
        };
        let id = args.id.clone().unwrap_or_else(|| reference.name.to_string());
        stored::from_layout(&from, &id, &lay_out, &make)?;
        restored.into_inner().context("the container is not there")
    }

    /// How the checkpoint is laid out for the runtime.
    fn plan(&self, checkpoint: &Checkpoint) -> anyhow::Result<Plan> {
        let flags = &self.args.cri;
        let mut description = Description::read(checkpoint)?;
        let pulls = matches!(self.restorer, Restorer::Containerd { pulls_always: true });
        let mut image = self.args.into.image.clone();
        if pulls && image.is_none() && description.image_reference.is_none() {
            // containerd itself notes the ID of an image that it did not pull by a digest, and pulls nothing by an ID.
            image.clone_from(&description.image);
        }
        description.set_image(image.as_deref(), flags.image_id.as_deref());
        let has_image = match &description.image {
            Some(image) if !pulls => self.cri.has_image(image)?,
            _ => false,
        };
        let request = Request {
            without_mounts: flags.without_mount.clone(),
            close_connections: flags.close_connections,
            has_image,
            ..Request::default()
        };
        let plan = Plan::new(checkpoint, description, self.target(), &request)?;
        // What a pod has to have is seen to here.
        let seen_to = |note: &&Note| matches!(note, Note::PodMounts { .. } | Note::PodMasks);
        for note in plan.notes().iter().filter(|note| !seen_to(note)) {
            eprintln!("note: {note}");
        }
        Ok(plan)
    }

    /// What the runtime is told.
    fn prepare(&self, description: &Description) -> Result<Preparation, CriRestoreError> {
        let flags = &self.args.cri;
        let read = |path: &Option<PathBuf>| path.as_deref().map(configuration::read).transpose();
        let wanted = Wanted {
            pod: flags.pod.clone(),
            pod_config: read(&flags.pod_config)?,
            container_config: read(&flags.container_config)?,
            name: self.args.id.clone(),
            handler: flags.runtime_handler.clone(),
        };
        let pod = description.pod.as_ref();
        let mut spec = description.spec.clone().unwrap_or_default();
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            let left_out = |mount: &serde_json::Value| {
                flags.without_mount.iter().any(|path| mount["destination"] == path.as_str())
            };
            mounts.retain(|mount| !left_out(mount));
        }
        let origin = Origin {
            name: description.name.clone(),
            pod: pod.and_then(|pod| Some((pod.namespace.clone()?, pod.name.clone()?))),
            labels: description.labels.clone(),
            spec,
        };
        wanted.prepare(&self.cri, self.restorer, &origin)
    }

    /// Sees to it that the runtime has the image that the container was started from, as far as that can be named.
    fn pull(&self, preparation: &Preparation, description: &Description) -> anyhow::Result<()> {
        // One pulls it in any case, and by itself; others know it by a digest.
        let name = match self.restorer {
            Restorer::Containerd { pulls_always: true } => return Ok(()),
            Restorer::Containerd { .. } => {
                description.image_reference.as_ref().or(description.image.as_ref())
            }
            Restorer::CriO => description.image.as_ref(),
        };
        let Some((name, reference)) = name
            .and_then(|name| Some((name, format!("docker://{name}").parse::<registry::Reference>().ok()?)))
        else {
            return Ok(());
        };
        if self.cri.has_image(name)? {
            return Ok(());
        }
        let server_address = reference.host().to_owned();
        let login = self.args.cri.depot.credential(&reference)?.map(|credential| match credential {
            Credential::Password { name, password } => {
                Login { username: name, password, server_address, identity_token: String::new() }
            }
            Credential::IdentityToken(identity_token) => {
                Login { identity_token, server_address, ..Login::default() }
            }
        });
        Ok(preparation.pull(&self.cri, name, login)?)
    }

    /// Whether it is an archive that the runtime can take as it is.
    fn is_ready(&self, checkpoint: &Checkpoint, description: &Description, path: &Path) -> bool {
        let flags = &self.args.cri;
        let is_own =
            torpor_archive::engine::Engine::of(checkpoint).is_ok_and(|own| own == self.target().engine());
        let is_left = description.is_as_read() && flags.without_mount.is_empty() && !flags.close_connections;
        is_own && is_left && is_tar(path).unwrap_or(false)
    }
}

/// What the names of directories begin with in which a checkpoint is laid out.
const ROOM: &str = "restore-cri-";
/// The name of an archive that is written for the runtime.
const ARCHIVE: &str = "checkpoint.tar";

/// Writes the archive into a directory. Returns its path.
fn written(plan: &Plan, checkpoint: &Checkpoint, directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join(ARCHIVE);
    let failed = || format!("cannot write {}", path.display());
    let file = File::create_new(&path).with_context(failed)?;
    let mut output = BufWriter::with_capacity(1 << 20, file);
    let mut tape = Tape::new(Packing::None.begin(&mut output)?);
    plan.write(checkpoint, "", &mut tape)?;
    tape.end()?.finish()?;
    output.flush().with_context(failed)?;
    Ok(path)
}

/// Whether a file is a tar archive that is not compressed: POSIX says what stands at byte 257.
fn is_tar(path: &Path) -> io::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(257))?;
    let mut magic = [0; 5];
    file.read_exact(&mut magic)?;
    Ok(&magic == b"ustar")
}

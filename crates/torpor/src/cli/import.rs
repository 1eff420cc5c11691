//! `torpor import`: an engine's archive, or a directory of CRIU's images, into a store.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_archive::blueprint::{self, chain};
use torpor_archive::layout::Description as Container;
use torpor_archive::source::{self, Limits, Place};
use torpor_store::lineage::{Holder, Program, Publication, Start};
use torpor_store::name::Name;
use torpor_store::{Description, DraftSettings, GenerationKind, Lineage, Repository};

use super::{Exit, output, store};

/// How the incarnations begin under which checkpoints are imported.
const INCARNATION: &str = "import of ";
/// How long the name is held while the archive is read.
const LEASE: SignedDuration = SignedDuration::from_mins(60);
/// Memory for data on its way.
const MEMORY: usize = 256 << 20;
/// Memory for the table of what the store has.
const INDEX: usize = 64 << 20;

/// Keep an engine's archive, or a directory of CRIU's images, in a store
///
/// Memory is kept by page, and files once: what the store has from other checkpoints takes no room. `torpor export` gives the archive back
/// bit for bit, compressed in the same way; or the directory, with those of its parents below it. Other commands look into it as into any
/// checkpoint of the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, compressed or not; or the directory, of which the link `parent` leads to the one of the dump before.
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The name that it becomes a checkpoint of.
    #[arg(long, value_name = "NAME")]
    name: Name,
    /// Let a compressed archive unpack to this many bytes; the default is 16 GiB, or 200 times its size where that is more.
    #[arg(long, value_name = "BYTES")]
    max_unpacked: Option<u64>,
    #[command(flatten)]
    store: store::Args,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    name: String,
    generation: u64,
    bytes: u64,
    new_bytes: u64,
}

/// Keeps it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let limits = Limits { unpacked: args.max_unpacked, ..Limits::default() };
    let checkpoint = Checkpoint::new(source::open_with(&Place::Path(args.archive.clone()), &limits, None)?)?;
    // A directory of CRIU's images says nothing about who had the program.
    let container = if args.archive.is_dir() { None } else { Some(Container::read(&checkpoint)?) };
    let backend = store::backend(&args.store.store)?;
    let credentials =
        store::credentials(args.store.passphrase_file.as_deref(), args.store.key_file.as_deref())?;
    let repository = Repository::open_or_create(backend, &credentials)?;
    let lineage = Lineage::new(&repository, args.name.clone());
    let epoch = lineage.begin(&start(&args.archive)?)?;
    let kept = keep(args, &limits, &checkpoint, container.as_ref(), &repository, &epoch);
    // Whether that went or not: nobody holds the name any more.
    let released = epoch.release();
    let imported = kept?;
    released?;
    args.output.print(&imported, |imported| {
        format!(
            "{}@{}: {}, of which {} are new\n",
            imported.name,
            imported.generation,
            output::bytes(imported.bytes),
            output::bytes(imported.new_bytes)
        )
    })?;
    Ok(Exit::Success)
}

/// Whether somebody held a name to import a checkpoint.
pub(super) fn was_by(holder: &Holder) -> bool {
    holder.incarnation.as_deref().is_some_and(|incarnation| incarnation.starts_with(INCARNATION))
}

fn start(archive: &Path) -> anyhow::Result<Start> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("cannot get random bytes")?;
    Ok(Start {
        id: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        incarnation: Some(format!("{INCARNATION}{}", archive.display())),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pod: None,
        pid: std::process::id(),
        lease: LEASE,
        known_gone: None,
    })
}

fn keep(
    args: &Args,
    limits: &Limits,
    checkpoint: &Checkpoint,
    container: Option<&Container>,
    repository: &Repository,
    epoch: &torpor_store::lineage::Epoch,
) -> anyhow::Result<Imported> {
    let newest = epoch.record()?.generations.last().map(|newest| newest.manifest);
    let predecessor = newest.map(|newest| repository.manifest(newest)).transpose()?;
    let settings = DraftSettings {
        predecessor: predecessor.as_ref(),
        memory_limit: MEMORY,
        index_limit: INDEX,
        ..DraftSettings::default()
    };
    let mut draft = repository.draft(settings)?;
    let mut facts = serde_json::json!({ "version": 1, "torpor": env!("CARGO_PKG_VERSION") });
    match container {
        Some(container) => {
            blueprint::keep(checkpoint, &args.archive, limits, &mut draft)?;
            facts["kind"] = "archive".into();
            facts["engine"] = serde_json::to_value(container.engine)?;
            facts["container"] = serde_json::to_value(&container.name)?;
            facts["image"] = serde_json::to_value(&container.image)?;
        }
        None => {
            chain::keep(checkpoint, &mut draft)?;
            facts["kind"] = "directory".into();
        }
    }
    let generation = epoch.next_generation()?;
    let description = Description {
        name: args.name.to_string(),
        epoch: epoch.number(),
        generation,
        kind: GenerationKind::Running,
        parent: predecessor.as_ref().map(|manifest| manifest.description().generation),
        created: container.and_then(|container| container.checkpointed).unwrap_or_else(Timestamp::now),
        phases: Vec::new(),
        facts: serde_json::to_vec(&facts)?,
    };
    let finished = draft.finish(description)?;
    let sizes = finished.manifest.sizes();
    let program = Program {
        command: None,
        executable: None,
        image: container.and_then(|container| container.image.clone()),
    };
    epoch.publish(&Publication::new(&finished, program))?;
    let name = args.name.to_string();
    Ok(Imported { name, generation, bytes: sizes.logical, new_bytes: sizes.new })
}

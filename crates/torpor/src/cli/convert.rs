//! `torpor convert`: a checkpoint of one engine as an archive of another.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, GivenMount, Plan, Request, Target};
use torpor_archive::packing::Packing;
use torpor_archive::tape::Tape;

use super::failure::Failure;
use super::{Exit, place};

/// Write a checkpoint as the archive of another engine, which restores it
///
/// Documents, images and the writable layer are made what that engine expects; memory passes through as it is. What cannot be carried
/// over is refused, all of it at once, with the reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: an archive, a directory of images, an image, or a name in a store.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The engine that will restore it.
    #[arg(long, value_name = "ENGINE")]
    to: Engine,
    /// The archive to write; `-` is standard output.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// How the archive is compressed; by default as its name says, by `.gz` or `.zst`. CRI-O and containerd read plain
    /// ones only.
    #[arg(long, value_name = "WORD")]
    compress: Option<Compress>,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    place: place::Args,
}

/// What is said of the container that it will be.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Container")]
#[group(skip)]
pub(crate) struct Container {
    /// The container's name from now on.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The image it was started from, by the name it has where it is restored.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// That image's ID: the digest of its configuration, which Podman and CRI-O know it by.
    #[arg(long, value_name = "DIGEST")]
    image_id: Option<String>,
    /// How the container was made: a runtime's config.json, for a checkpoint without one.
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// There will be a mount at this path of the container; for Podman, of this path of the machine.
    #[arg(long, value_name = "PATH[=SOURCE]")]
    mount: Vec<String>,
    /// The container goes on without its mount at this path.
    #[arg(long, value_name = "PATH")]
    without_mount: Vec<String>,
    /// Close established TCP connections.
    #[arg(long)]
    close_connections: bool,
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Podman.
    Podman,
    /// CRI-O.
    Crio,
    /// containerd.
    Containerd,
}

impl From<Engine> for Target {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Podman => Self::Podman,
            Engine::Crio => Self::CriO,
            Engine::Containerd => Self::Containerd,
        }
    }
}

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compress {
    /// What the end of a file's name promises.
    fn promised_by(path: &Path) -> Compress {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "tgz") => Compress::Gzip,
            Some("zst") => Compress::Zstd,
            _ => Compress::None,
        }
    }
}

impl From<Compress> for Packing {
    fn from(compress: Compress) -> Self {
        match compress {
            Compress::None => Self::None,
            Compress::Gzip => Self::Gzip,
            Compress::Zstd => Self::Zstd,
        }
    }
}

impl Container {
    /// Decides how a checkpoint is laid out for an engine, and says what whoever restores it has to know.
    pub(crate) fn plan(&self, checkpoint: &Checkpoint, target: Target) -> anyhow::Result<Plan> {
        let mut description = Description::read(checkpoint)?;
        if let Some(name) = &self.name {
            description.rename(name);
        }
        description.set_image(self.image.as_deref(), self.image_id.as_deref());
        if let Some(path) = &self.spec {
            description.set_spec(spec(path)?);
        }
        let mount = |text: &String| match text.split_once('=') {
            Some((destination, source)) => {
                GivenMount { destination: destination.to_owned(), source: Some(source.to_owned()) }
            }
            None => GivenMount { destination: text.clone(), source: None },
        };
        let request = Request {
            mounts: self.mount.iter().map(mount).collect(),
            without_mounts: self.without_mount.clone(),
            close_connections: self.close_connections,
            has_image: false,
        };
        let plan = Plan::new(checkpoint, description, target, &request)?;
        for note in plan.notes() {
            eprintln!("note: {note}");
        }
        Ok(plan)
    }
}

fn spec(path: &Path) -> anyhow::Result<Value> {
    const LIMIT: u64 = 16 << 20;
    let failed = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(failed)?;
    let size = file.metadata().with_context(failed)?.len();
    if size > LIMIT {
        let message = format!("{} has {size} bytes, more than the limit of {LIMIT}", path.display());
        return Err(
            Failure::new(Exit::Usage, message, "give the config.json of the container's bundle").into()
        );
    }
    serde_json::from_reader(io::BufReader::new(file)).with_context(failed)
}

/// Writes the archive.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let checkpoint = args.place.checkpoint(&args.source)?;
    let plan = args.container.plan(&checkpoint, args.to.into())?;
    let compress = args.compress.unwrap_or_else(|| Compress::promised_by(&args.out));
    written(&args.out, |output| {
        let mut tape = Tape::new(Packing::from(compress).begin(output)?);
        plan.write(&checkpoint, "", &mut tape)?;
        tape.end()?.finish()?;
        Ok(())
    })?;
    Ok(Exit::Success)
}

/// Has a file written, which is there once it is whole; `-` is standard output.
pub(crate) fn written(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const BUFFER: usize = 1 << 20;
    if path == Path::new("-") {
        let mut output = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        write(&mut output)?;
        return output.flush().context("cannot write to standard output");
    }
    let failed = || format!("cannot write {}", path.display());
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = tempfile::NamedTempFile::new_in(beside).with_context(failed)?;
    let mut output = BufWriter::with_capacity(BUFFER, partial.as_file());
    write(&mut output).with_context(failed)?;
    output.flush().with_context(failed)?;
    drop(output);
    partial.persist(path).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_compressed_as_its_name_says() {
        for (name, compress) in [
            ("a.tar", Compress::None),
            ("a.tar.gz", Compress::Gzip),
            ("b/a.tgz", Compress::Gzip),
            ("a.tar.zst", Compress::Zstd),
            ("-", Compress::None),
        ] {
            assert_eq!(Compress::promised_by(Path::new(name)), compress, "{name}");
        }
    }
}

//! `torpor image`: CRIU's images, one by one or a directory of them, as `crit` shows them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use torpor_archive::Checkpoint;
use torpor_criu::image::document::{self, DecodeError, Decoder, Payloads};
use torpor_criu::image::explore::{self, Images};
use torpor_criu::image::json::{Json, Layout};
use torpor_criu::image::presentation::Style;
use torpor_criu::image::{Kind, Limits, Name, format};

use super::failure::Failure;
use super::{Exit, output, place};

mod listing;

/// Show and change the images of a checkpoint, as crit does
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn an image into JSON
    Decode(DecodeArgs),
    /// Turn JSON into an image
    Encode(EncodeArgs),
    /// Show an image as JSON for people
    Show(ShowArgs),
    /// Tell what an image is, and how many entries it has
    Info(InfoArgs),
    /// Explore a checkpoint
    X(ExploreArgs),
}

/// `decode`.
#[derive(Debug, clap::Args)]
pub(super) struct DecodeArgs {
    /// The image; `-` or nothing for standard input.
    #[arg(value_name = "IMAGE", conflicts_with = "input")]
    image: Option<PathBuf>,
    /// The image, as crit takes it.
    #[arg(long = "in", short, value_name = "IMAGE")]
    pub(super) input: Option<PathBuf>,
    /// Write the JSON to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Write one value a line, and numbers in the form that suits the field: addresses, flags, devices.
    #[arg(long)]
    pub(super) pretty: bool,
}

/// `encode`.
#[derive(Debug, clap::Args)]
pub(super) struct EncodeArgs {
    /// The JSON; `-` or nothing for standard input.
    #[arg(value_name = "JSON", conflicts_with = "input")]
    json: Option<PathBuf>,
    /// The JSON, as crit takes it.
    #[arg(long = "in", short, value_name = "JSON")]
    pub(super) input: Option<PathBuf>,
    /// Write the image to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

/// `show`.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The image; `-` for standard input.
    #[arg(value_name = "IMAGE")]
    pub(super) image: PathBuf,
    /// Show how large payloads are instead of the payloads.
    #[arg(long)]
    pub(super) nopl: bool,
}

/// `info`.
#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    /// The image; `-` for standard input.
    #[arg(value_name = "IMAGE")]
    pub(super) image: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ExploreArgs {
    /// What to show.
    what: View,
    /// A directory of images, an archive of a container engine, `-`, or a name in a store.
    #[arg(value_name = "SOURCE")]
    source: String,
    #[command(flatten)]
    place: place::Args,
    #[command(flatten)]
    output: output::Args,
}

/// What `x` can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum View {
    /// The processes, each below its parent.
    Ps,
    /// The open files of each process.
    #[value(alias = "fd")]
    Fds,
    /// The mappings of each process.
    #[value(alias = "mem")]
    Mems,
    /// The pages of each process that are in the checkpoint.
    Rss,
    /// The sockets of each process.
    Sk,
}

/// Does what was asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Decode(args) => decode(args),
        Command::Encode(args) => encode(args),
        Command::Show(args) => show(args),
        Command::Info(args) => tell(args),
        Command::X(args) => {
            let images = CheckpointImages(args.place.checkpoint(&args.source)?);
            explored(&images, args.what, |view| view.print(args.output))
                .with_context(|| format!("in {}", args.source))
        }
    }
}

/// `decode`: an image becomes JSON.
pub(super) fn decode(args: &DecodeArgs) -> anyhow::Result<Exit> {
    let (style, layout) =
        if args.pretty { (Style::Pretty, Layout::Lines) } else { (Style::Plain, Layout::Line) };
    let source = args.image.as_deref().or(args.input.as_deref());
    write(args.out.as_deref(), |out| {
        to_json(source, style, Payloads::Whole, layout, out)?;
        if args.out.is_none() { out.write_all(b"\n") } else { Ok(()) }.context("cannot write the JSON")
    })
}

/// `show`: an image as JSON for people.
pub(super) fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let payloads = if args.nopl { Payloads::Measured } else { Payloads::Whole };
    write(None, |out| {
        to_json(Some(&args.image), Style::Pretty, payloads, Layout::Lines, out)?;
        out.write_all(b"\n").context("cannot write the JSON")
    })
}

fn to_json(
    source: Option<&Path>,
    style: Style,
    payloads: Payloads,
    layout: Layout,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut decoder = decoder(source, style, payloads)?;
    match document::write_json(&mut decoder, layout, out) {
        Ok(_) => Ok(()),
        Err(DecodeError::Image(error)) => Err(error).with_context(|| shown(source)),
        Err(DecodeError::Output(error)) => Err(error).context("cannot write the JSON"),
    }
}

/// `info`: what an image is, even one without entries.
fn tell(args: &InfoArgs) -> anyhow::Result<Exit> {
    let Some((kind, contents)) = raw(&args.image) else { return info(args) };
    let info = Json::Object(vec![
        ("magic".into(), Json::Null),
        ("kind".into(), Json::Text(kind.to_string())),
        ("contents".into(), Json::Text(contents.into())),
    ]);
    open(Some(&args.image))?;
    print_lines(&info)
}

/// `info` of crit: what an image with entries is.
pub(super) fn info(args: &InfoArgs) -> anyhow::Result<Exit> {
    let source = Some(args.image.as_path());
    let mut decoder = decoder(source, Style::Plain, Payloads::Measured)?;
    let mut count = 0;
    while decoder.next_entry().with_context(|| shown(source))?.is_some() {
        count += 1;
    }
    // Only the entries count, not the head of a pagemap or of a file in chunks.
    if matches!(decoder.format().kind, Kind::Pagemap | Kind::SharedPagemap) && count > 0 {
        count -= 1;
    }
    let info = Json::Object(vec![
        ("magic".into(), Json::Text(decoder.format().magic.into())),
        ("count".into(), Json::Number(count)),
    ]);
    print_lines(&info)
}

fn print_lines(json: &Json) -> anyhow::Result<Exit> {
    write(None, |out| {
        json.write(Layout::Lines, 0, out)?;
        Ok(out.write_all(b"\n")?)
    })
}

/// `encode`: JSON becomes an image.
pub(super) fn encode(args: &EncodeArgs) -> anyhow::Result<Exit> {
    let source = args.json.as_deref().or(args.input.as_deref());
    let json: Json = serde_json::from_reader(BufReader::new(open(source)?)).map_err(|error| {
        let message = format!("{} is not JSON: {error}", shown(source));
        Failure::new(
            Exit::Damaged,
            message,
            "give it what `torpor image decode` has written; images are encoded already",
        )
    })?;
    // Made whole before anything is written: JSON that is no image leaves no half of one.
    let image = document::encode(&json, Vec::new()).with_context(|| shown(source))?;
    write(args.out.as_deref(), |out| out.write_all(&image).context("cannot write the image"))
}

/// One of the views, as JSON and as text.
pub(super) enum Explored {
    Processes(Vec<explore::Process>),
    Files(Vec<explore::OpenFiles>),
    Mappings(Vec<explore::Mappings>),
    Resident(Vec<explore::Resident>),
    Sockets(Vec<explore::OpenSockets>),
}

/// Makes a view of a checkpoint and hands it on.
pub(super) fn explored(
    images: &dyn Images,
    view: View,
    show: impl FnOnce(Explored) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    show(match view {
        View::Ps => Explored::Processes(explore::processes(images)?),
        View::Fds => Explored::Files(explore::open_files(images)?),
        View::Mems => Explored::Mappings(explore::mappings(images)?),
        View::Rss => Explored::Resident(explore::resident(images)?),
        View::Sk => Explored::Sockets(explore::open_sockets(images)?),
    })?;
    Ok(Exit::Success)
}

/// A view with a name, since a document is an object.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Named<'a> {
    Processes(&'a [explore::Process]),
    Files(&'a [explore::OpenFiles]),
    Mappings(&'a [explore::Mappings]),
    Resident(&'a [explore::Resident]),
    Sockets(&'a [explore::OpenSockets]),
}

impl Explored {
    fn print(self, output: output::Args) -> anyhow::Result<()> {
        let named = match &self {
            Self::Processes(all) => Named::Processes(all),
            Self::Files(all) => Named::Files(all),
            Self::Mappings(all) => Named::Mappings(all),
            Self::Resident(all) => Named::Resident(all),
            Self::Sockets(all) => Named::Sockets(all),
        };
        output.print(&named, |_| self.text())
    }

    /// The lines that crit prints.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Processes(all) => listing::processes(all),
            Self::Files(all) => listing::open_files(all),
            Self::Mappings(all) => listing::mappings(all),
            Self::Resident(all) => listing::resident(all),
            Self::Sockets(all) => listing::sockets(all),
        }
    }
}

/// A directory with images, as crit takes it.
pub(super) struct ImageDirectory(PathBuf);

impl ImageDirectory {
    /// A directory that exists.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Ok(Self(path.to_owned()));
        }
        let message = format!("{} is no directory", path.display());
        let remedy =
            "give it the directory CRIU wrote its images to, for a container `checkpoint` in its archive";
        Err(Failure::new(Exit::NotFound, message, remedy).into())
    }
}

impl Images for ImageDirectory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The images of a checkpoint, wherever it is kept.
struct CheckpointImages(Checkpoint);

impl Images for CheckpointImages {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        /// Far more than an image takes that is read whole.
        const LIMIT: u64 = 1 << 30;
        let file = name.trim_start_matches("parent/");
        let steps = (name.len() - file.len()) / "parent/".len();
        let entry =
            self.0.layers().get(steps).and_then(|layer| self.0.entry(&format!("{}{file}", layer.prefix)));
        entry.map(|entry| self.0.bytes(entry, LIMIT).map_err(io::Error::other)).transpose()
    }
}

fn decoder(
    source: Option<&Path>,
    style: Style,
    payloads: Payloads,
) -> anyhow::Result<Decoder<Box<dyn Read>>> {
    if let Some(path) = source
        && let Some((_, contents)) = raw(path)
    {
        let message = format!("{} has no entries: it holds {contents}", path.display());
        let remedy = "read it with the tool it is made for; pages are read with `torpor memory`";
        return Err(Failure::new(Exit::Damaged, message, remedy).into());
    }
    // The contents of a removed file are one payload, and CRIU lets people choose how large it may be.
    let limits = Limits { payload: 4 << 30, ..Limits::default() };
    Decoder::new(open(source)?, style, payloads, limits).with_context(|| shown(source))
}

/// What a file without entries holds. Its name tells, since it has no magic.
fn raw(path: &Path) -> Option<(Kind, &'static str)> {
    let name = Name::parse(&path.file_name()?.to_string_lossy())?;
    Some((name.kind, format::raw_contents(name.kind)?))
}

/// A file for reading; standard input for `-` or none.
fn open(source: Option<&Path>) -> anyhow::Result<Box<dyn Read>> {
    let Some(path) = source.filter(|path| *path != Path::new("-")) else {
        return Ok(Box::new(io::stdin().lock()));
    };
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) => {
            let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Place };
            let message = format!("cannot open {}: {error}", path.display());
            Err(Failure::new(exit, message, "check the path and the permissions").into())
        }
    }
}

fn shown(source: Option<&Path>) -> String {
    match source.filter(|path| *path != Path::new("-")) {
        Some(path) => path.display().to_string(),
        None => "standard input".to_owned(),
    }
}

/// Writes to a file or to standard output. A file that could not be finished is removed.
fn write(
    path: Option<&Path>,
    act: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        let mut out = BufWriter::new(io::stdout().lock());
        return match act(&mut out).and_then(|()| Ok(out.flush()?)) {
            Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
            result => result.map(|()| Exit::Success),
        };
    };
    let file = File::create(path).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(Exit::Place, message, "check the path and the permissions")
    })?;
    let mut out = BufWriter::new(file);
    let done =
        act(&mut out).and_then(|()| out.flush().with_context(|| format!("cannot write {}", path.display())));
    if done.is_err() && path.is_file() {
        // The first failure is the one to tell.
        let _ = std::fs::remove_file(path);
    }
    done.map(|()| Exit::Success)
}

/// Whether whoever reads has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

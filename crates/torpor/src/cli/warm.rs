//! `torpor warm`: an image whose program is ready as soon as it starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, Plan};
use torpor_archive::oci::{self, CHECKPOINT, Copied, Image, Layout, Origin, Recipe};
use torpor_criu::options::{ExpertOption, Tcp};
use torpor_node::config::Surroundings;
use torpor_node::container::carry::Carry;
use torpor_node::container::checkpoint::Job;
use torpor_node::container::dump::Wishes;
use torpor_node::container::generation::Destination;
use torpor_node::container::own::{self, Files, Network, Own, Parts, Program, Room};
use torpor_node::criu_bundle;
use torpor_node::readiness::{Condition, ConditionError};
use torpor_node::seccomp::{Around, Profile};
use torpor_store::name::Name;
use torpor_store::{Credentials, LocalBackend, Manifest, Repository};

use super::failure::Failure;
use super::{Exit, control, depot, restore};

/// Make an image whose program is ready when it starts
///
/// The image's program is started in a container of its own, and checkpointed once it is ready. The checkpoint becomes one more
/// layer on the image, as by `torpor build --base`: torpor-runtime starts it from there, any other runtime from its beginning. What
/// is printed is the new image's digest. Of the container nothing stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The application's image: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or a path.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Arguments of the program instead of the image's.
    #[arg(value_name = "ARGUMENT", last = true)]
    arguments: Vec<String>,
    /// What tells that it is ready: `port:NUMBER` (it listens there), `http:URL` (it answers with a status below 400),
    /// `log:REGEX` (it says a line that matches), `exec:COMMAND` (a shell command succeeds in the container).
    #[arg(long, value_name = "CONDITION", value_parser = condition)]
    until: Condition,
    /// How long the program may take to become ready.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = control::duration)]
    timeout: Duration,
    #[command(flatten)]
    output: depot::Output,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    depot: depot::Args,
}

/// The container in which the program becomes ready.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Container")]
#[group(skip)]
struct Container {
    /// A variable of the program's, as NAME=VALUE.
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// There will be a volume at this path where the image is run; here it is an empty directory.
    #[arg(long, value_name = "PATH")]
    mount: Vec<PathBuf>,
    /// The network namespace that it is in, such as /run/netns/NAME. By default it has loopback alone.
    #[arg(long, value_name = "PATH")]
    network: Option<PathBuf>,
    /// What its system calls are held against: a profile as Docker and Podman take it, or `unconfined`. It must let through no more than
    /// where the image is run. By default it is what Docker's, containerd's and Podman's all let through.
    #[arg(long, value_name = "FILE")]
    seccomp_profile: Option<PathBuf>,
    /// The program may gain privileges, as by setuid programs. The image then runs only where that is allowed.
    #[arg(long)]
    new_privileges: bool,
    /// Where the image is unpacked meanwhile: on a disk, and on no overlay.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/torpor")]
    room: PathBuf,
    /// The low-level runtime: runc, crun, or the path of one of them.
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<PathBuf>,
    /// The CRIU to use.
    #[arg(long, value_name = "PROGRAM")]
    criu: Option<PathBuf>,
    /// An option of CRIU's own, as KEY or KEY=VALUE.
    #[arg(long, value_name = "OPTION")]
    criu_option: Vec<ExpertOption>,
}

/// Makes the image.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    own::privileged()?;
    let place = depot::Place::parse(&args.image, Path::is_file)?;
    let origin = args.depot.origin(&place)?;
    let to = args.output.place()?;
    let given = &args.container;
    if let Some(path) = given.mount.iter().find(|path| !path.is_absolute()) {
        let message = format!("--mount {} does not begin with a slash", path.display());
        return Err(Failure::new(Exit::Usage, message, "give the path that the container has it at").into());
    }
    let seccomp = given.seccomp()?;
    let parent = std::path::absolute(&given.room)?;
    let room = Room::create(&parent, restore::low_level(given.runtime.as_deref())?)
        .with_context(|| format!("cannot use {}", parent.display()))?;
    room.go_with_a_signal(|signal| std::process::exit(128 + signal)).context("cannot wait for signals")?;

    let layout = room.path().join("image");
    let image = Image::for_here(&*origin)?;
    image.copy(&*origin, &mut Layout::new(&layout, None))?;
    let layout = Layout::new(&layout, None);
    let mut files = Files::new(&room)?;
    for layer in &image.manifest.layers {
        files.add(&mut layout.layer(layer)?)?;
    }
    let program: Program = serde_json::from_value(image.config["config"].clone()).unwrap_or_default();
    let network = match &given.network {
        None => Network::new(),
        Some(path) => Network::join(path),
    };
    let network = network.map_err(own::OwnError::Network)?;
    let parts = Parts {
        arguments: &args.arguments,
        environment: &given.env,
        new_privileges: given.new_privileges,
        seccomp,
        mounts: &given.mount,
    };
    let own = Own::start(files, &network, &program, &parts, &args.until)?;
    let took = own.wait(&args.until, args.timeout)?;
    eprintln!("ready after {:.1} s", took.as_secs_f64());
    let (repository, manifest) = given.checkpoint(&own, &room, name(&place)?)?;

    let source = torpor_archive::source::Stored::open(repository, &manifest)?;
    let checkpoint = Checkpoint::new(Box::new(source))?;
    let plan = Plan::as_it_is(&checkpoint, Description::read(&checkpoint)?);
    let annotations = BTreeMap::from([(CHECKPOINT.to_owned(), plan.description().name.clone())]);
    let copied = Copied { layout, from: &*origin };
    let base: &dyn Origin = &copied;
    let recipe = Recipe {
        checkpoint: &checkpoint,
        plan: &plan,
        base: Some(base),
        packing: args.output.packing(&checkpoint)?,
        annotations,
    };
    let mut depot = args.depot.depot(&to)?;
    let made = oci::build(&recipe, &mut *depot)?;
    depot.finish()?;
    println!("{}", made.digest);
    Ok(Exit::Success)
}

impl Container {
    /// Checkpoints the container, which ends with it, into a store in the room.
    fn checkpoint(&self, own: &Own<'_>, room: &Room, name: Name) -> anyhow::Result<(Repository, Manifest)> {
        let criu = criu_bundle::find(self.criu.as_deref())?.program;
        let surroundings = Surroundings::read()?;
        let store = LocalBackend::new(room.path().join("store"));
        let repository = Repository::create(Arc::new(store), &Credentials::None)?;
        let job = Job {
            container: own.container(),
            criu: &criu,
            // Whoever starts the image is somebody else than whom it was connected to.
            wishes: Wishes {
                tcp: Tcp::Close,
                expert_options: self.criu_option.clone(),
                ..Wishes::usual(false)
            },
            timeout: None,
            memory_budget: None,
            together: None,
            heir: None,
        };
        let destination = Destination {
            repository: &repository,
            name,
            host: surroundings.host.clone(),
            signs: None,
            moment: None,
            mounts: Carry { own: false, named: Vec::new() },
            staging: &surroundings.runtime_dir.join("torpor"),
        };
        let stored = job.into_store(&destination)?;
        Ok((repository, stored.manifest))
    }

    /// What system calls are held against.
    fn seccomp(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let profile = match self.seccomp_profile.as_deref() {
            Some(path) if path == Path::new("unconfined") => return Ok(None),
            Some(path) => Profile::read(path)?,
            None => own::profile(),
        };
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let around = Around { capabilities: own::capabilities(), kernel: &kernel };
        Ok(Some(profile.for_runtime(around)))
    }
}

fn condition(text: &str) -> Result<Condition, String> {
    text.parse().map_err(|error: ConditionError| format!("{error}; {}", error.remedy()))
}

/// What the checkpoint is called: as the image, without where that is.
fn name(place: &depot::Place) -> anyhow::Result<Name> {
    let said = match place {
        depot::Place::Registry(reference) => reference.repository().to_owned(),
        depot::Place::Layout(path, _) | depot::Place::Archive(path, _) => {
            path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    let last = said.rsplit('/').next().unwrap_or_default();
    Ok(last.parse().or_else(|_| "warm".parse())?)
}

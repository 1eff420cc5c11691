//! The side that a container comes to.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use torpor_store::{Credentials, LocalBackend, Repository};

use super::MigrationError;
use super::channel::Channel;
use super::depot::Keeper;
use super::message::{Answer, Offer, Request, VERSION};
use super::ticket::{Secret, Ticket};
use crate::container::directory::room;
use crate::container::restore::{self, Wanted, container, has_mounts, root_of_bundle};
use crate::container::route::Runtime;
use crate::container::stored::Kept;
use crate::container::{ContainerError, Flavor};
use crate::criu_bundle;
use crate::files::layout::Before;
use crate::machine::Machine;
use crate::oci_runtime::fit::{self, Claim, Grant};
use crate::oci_runtime::{images, wake};
use crate::restore::check;
use crate::staging::{self, Staging};

/// How often the source is told that it is worked on.
const SIGN: Duration = Duration::from_secs(1);
/// How long a source that was refused is listened to.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many misfits are told one by one.
const TOLD: usize = 3;
/// What directories of migrations are called.
const PREFIX: &str = "receive-";
/// Tells, in such a directory, which container may be half made.
const MAKING: &str = "making.json";

/// Where a container is to go on.
#[derive(Debug)]
pub struct Reception<'a> {
    /// Who makes it.
    pub runtime: &'a Runtime,
    /// The directory of the runtime's states, where it is not the usual one.
    pub root: Option<&'a Path>,
    /// The directory of its configuration.
    pub bundle: &'a Path,
    /// Its ID; by default the one it had.
    pub id: Option<&'a str>,
    /// Where its PID is written once it runs.
    pub pid_file: Option<&'a Path>,
    /// Unix sockets may have peers outside, as at the source.
    pub external_unix: bool,
    /// Its terminal or session may be somebody else's, as at the source.
    pub shell_job: bool,
    /// Where what is sent is kept until it runs: on a disk.
    pub room: &'a Path,
    /// Where logs are kept while it is made.
    pub staging: &'a Path,
}

/// A container that goes on here.
#[derive(Debug)]
pub struct Received {
    /// Its ID.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// Where it came from.
    pub peer: String,
}

/// One who waits for a container.
#[derive(Debug)]
pub struct Waiting {
    listener: TcpListener,
    secret: Secret,
    ticket: Ticket,
}

impl Waiting {
    /// Listens at an address, for the one who has the ticket.
    ///
    /// # Errors
    /// It cannot be listened at.
    pub fn at(address: &str) -> Result<Waiting, MigrationError> {
        let failed =
            |source| MigrationError::Address { doing: "listen at", address: address.to_owned(), source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let secret = Secret::new()?;
        let ticket = Ticket { target: secret.fingerprint()?, source: Secret::new()? };
        Ok(Waiting { listener, secret, ticket })
    }

    /// What the source needs.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The port.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn port(&self) -> Result<u16, MigrationError> {
        let address = self.listener.local_addr();
        let failed =
            |source| MigrationError::Address { doing: "listen at", address: "the port".to_owned(), source };
        Ok(address.map_err(failed)?.port())
    }

    /// Takes one container.
    ///
    /// # Errors
    /// It cannot be taken: then it runs on where it was, and nothing of it is here, unless the error is
    /// [`MigrationError::Orphan`].
    pub fn receive(&self, reception: &Reception<'_>) -> Result<Received, MigrationError> {
        reception.clean_up();
        let mut channel = Channel::accept(&self.listener, &self.secret, self.ticket.source.fingerprint()?)?;
        let peer = channel.peer().to_owned();
        let (Request::Offer(offer), _) = channel.hear()? else {
            return Err(MigrationError::Nonsense { peer, what: "the offer" });
        };
        if let Err(error) = reception.fits(&offer, &peer) {
            return Err(refuse(&mut channel, error));
        }
        let id = reception.id.unwrap_or(&offer.id).to_owned();
        let place = Staging::create(reception.room, &format!("{PREFIX}{id}"))
            .map_err(ContainerError::place(reception.room))?;
        channel.say(&Answer::Accepted { version: VERSION }, &[])?;
        let mut keeper = Keeper::new(Arc::new(LocalBackend::new(place.path().join("store"))));
        let Request::Restore { manifest } = keeper.serve(&mut channel)? else {
            return Err(MigrationError::Nonsense { peer, what: "the transfer" });
        };
        let making = Making { reception, id: &id, place: place.path() };
        let store = keeper.backend();
        let made = making.while_told(&mut channel, || making.make(store, &manifest));
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                making.undo();
                let error = refuse(&mut channel, error);
                // The source gives the store's records back as it would anywhere.
                channel.patience(FAREWELL)?;
                let _ = keeper.serve(&mut channel);
                return Err(error);
            }
        };
        // From here on it may have ended at the source, so whatever happens it stays.
        making.forget();
        let Made { pid, stopped, before } = made;
        before.into_iter().for_each(Before::release);
        let orphan = |error| MigrationError::Orphan { id: id.clone(), pid, source: Box::new(error) };
        channel.say(&Answer::Ready, &[]).map_err(orphan)?;
        match keeper.serve(&mut channel).map_err(orphan)? {
            Request::GoOn => wake::go_on(pid, &stopped),
            _ => return Err(orphan(MigrationError::Nonsense { peer, what: "the end" })),
        }
        if let Some(path) = reception.pid_file {
            std::fs::write(path, pid.to_string()).map_err(ContainerError::place(path))?;
        }
        if let Err(error) = channel.say(&Answer::Runs { pid }, &[]) {
            tracing::warn!(%error, "the source does not hear that the container runs here");
        }
        Ok(Received { id, pid, peer })
    }
}

/// Tells the source why not.
fn refuse(channel: &mut Channel, error: MigrationError) -> MigrationError {
    let because = sentence(&error);
    // One that is gone need not be told.
    let _ = channel.say(&Answer::Refused { because, remedy: error.remedy() }, &[]);
    error
}

/// An error with its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

impl Reception<'_> {
    /// Whether a container could go on here, by what is known before it is frozen.
    fn fits(&self, offer: &Offer, peer: &str) -> Result<(), MigrationError> {
        if offer.version != VERSION {
            let (theirs, ours) = (offer.version, VERSION);
            return Err(MigrationError::Version { peer: peer.to_owned(), theirs, ours });
        }
        let id = self.id.unwrap_or(&offer.id);
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err(MigrationError::Nonsense { peer: peer.to_owned(), what: "the container's ID" });
        }
        check::machine(&offer.machine, &Machine::read()).map_err(MigrationError::Machine)?;
        let criu = criu_bundle::version(&criu_bundle::find(None)?.program)?;
        check::criu(offer.criu, criu.number()).map_err(MigrationError::Machine)?;
        has_mounts(&offer.external.iter().cloned().collect(), self.bundle)?;
        self.runtime.has_not(self.root, id)?;
        std::fs::create_dir_all(self.room).map_err(ContainerError::place(self.room))?;
        // It is there twice: as it was sent, and as images.
        Ok(room(self.room, offer.memory.saturating_mul(2))?)
    }

    /// Removes what one that was killed has left: its directory, and a container that it was about to make.
    fn clean_up(&self) {
        staging::clean_up_after(self.room, PREFIX, &|path| {
            let making = std::fs::read(path.join(MAKING)).ok();
            let made = making.and_then(|bytes| serde_json::from_slice::<HalfMade>(&bytes).ok());
            if let Some(HalfMade { program, flavor, root, id }) = made
                && let Ok(runtime) = Runtime::find(flavor, Some(&program))
            {
                tracing::warn!(id, "a migration was cut off; what it left of the container is removed");
                runtime.forget(root.as_deref(), &id);
            }
        });
    }
}

/// A container that may be half made.
#[derive(Debug, Serialize, Deserialize)]
struct HalfMade {
    program: PathBuf,
    flavor: Flavor,
    root: Option<PathBuf>,
    id: String,
}

/// A container that stands still here.
struct Made {
    pid: i32,
    /// Processes that were stopped at the source, too.
    stopped: Vec<u32>,
    /// What was where its files are now.
    before: Vec<Before>,
}

/// A container that is being made.
struct Making<'a> {
    reception: &'a Reception<'a>,
    id: &'a str,
    place: &'a Path,
}

impl Making<'_> {
    /// Works, and tells the source so meanwhile. An error where that is gone: it goes on there.
    fn while_told(
        &self,
        channel: &mut Channel,
        work: impl FnOnce() -> Result<Made, MigrationError> + Send,
    ) -> Result<Made, MigrationError> {
        std::thread::scope(|scope| {
            let (done, result) = mpsc::channel();
            scope.spawn(move || {
                // Somebody waits for it until it is there.
                let _ = done.send(work());
            });
            let mut gone = None;
            loop {
                match result.recv_timeout(SIGN) {
                    Ok(result) => return gone.map_or(result, Err),
                    Err(RecvTimeoutError::Timeout) if gone.is_none() => {
                        gone = channel.say(&Answer::Working, &[]).err();
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        let peer = channel.peer().to_owned();
                        return Err(MigrationError::Nonsense { peer, what: "what was sent" });
                    }
                }
            }
        })
    }

    /// Makes the container, stopped before its first instruction.
    fn make(&self, store: Arc<LocalBackend>, manifest: &str) -> Result<Made, MigrationError> {
        let Reception { runtime, bundle, .. } = *self.reception;
        let unknown = |_| MigrationError::Nonsense { peer: "the source".to_owned(), what: "a manifest" };
        let repository = Repository::open(store, &Credentials::None)?;
        let manifest = repository.manifest(manifest.parse().map_err(unknown)?)?;
        let kept = Kept::new(&repository, &manifest)?;
        let images = Staging::create(self.place, "images").map_err(ContainerError::place(self.place))?;
        kept.images_into(images.path())?;
        self.fits(images.path())?;
        let mut files = kept.all_files_for(bundle)?;
        self.note(runtime)?;
        let before = files.iter().map(|files| files.before()).collect::<Result<Vec<_>, _>>()?;
        for files in &mut files {
            files.put()?;
        }
        let pid_file = self.place.join("pid");
        let wanted = Wanted {
            id: self.id,
            bundle,
            root: self.reception.root,
            images: images.path(),
            detach: true,
            pid_file: Some(&pid_file),
            external_unix: self.reception.external_unix,
            shell_job: self.reception.shell_job,
            stopped: true,
            alone: false,
            staging: self.reception.staging,
        };
        container(runtime, &wanted)?;
        let text = std::fs::read_to_string(&pid_file).map_err(ContainerError::place(&pid_file))?;
        let broken = |_| ContainerError::place(&pid_file)(std::io::ErrorKind::InvalidData.into());
        Ok(Made {
            pid: text.trim().parse().map_err(broken)?,
            stopped: images::stopped(images.path())?,
            before,
        })
    }

    /// Whether the bundle grants what the images ask for.
    fn fits(&self, images: &Path) -> Result<(), MigrationError> {
        let bundle = self.reception.bundle;
        restore::check(images, bundle)?;
        let path = bundle.join("config.json");
        let config = std::fs::read(&path).map_err(ContainerError::place(&path))?;
        let grant = Grant::parse(&config).map_err(|error| MigrationError::Beyond {
            bundle: bundle.to_owned(),
            misfits: sentence(&error),
        })?;
        let misfits = fit::misfits(&Claim::read(images)?, &grant, Path::exists);
        if misfits.is_empty() {
            return Ok(());
        }
        let mut told: Vec<String> = misfits.iter().take(TOLD).map(ToString::to_string).collect();
        if misfits.len() > TOLD {
            told.push(format!("and {} more", misfits.len() - TOLD));
        }
        Err(MigrationError::Beyond { bundle: bundle.to_owned(), misfits: told.join("; ") })
    }

    fn note(&self, runtime: &Runtime) -> Result<(), MigrationError> {
        // The bundle's root must be there before anything is noted of it.
        root_of_bundle(self.reception.bundle)?;
        let half_made = HalfMade {
            program: runtime.program().to_owned(),
            flavor: runtime.flavor(),
            root: self.reception.root.map(Path::to_owned),
            id: self.id.to_owned(),
        };
        let path = self.place.join(MAKING);
        let document = serde_json::to_vec(&half_made).map_err(ContainerError::Facts)?;
        Ok(std::fs::write(&path, document).map_err(ContainerError::place(&path))?)
    }

    /// It is no longer half made.
    fn forget(&self) {
        let _ = std::fs::remove_file(self.place.join(MAKING));
    }

    /// Takes away what there may be of it.
    fn undo(&self) {
        if self.place.join(MAKING).exists() {
            self.reception.runtime.forget(self.reception.root, self.id);
        }
    }
}

//! The side that a container comes to.

mod bundle;
mod engine;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use torpor_store::LocalBackend;

use super::carrier::{self, Claim, Parcel};
use super::channel::Channel;
use super::depot::Keeper;
use super::gate::Guest;
use super::message::{Answer, Offer, Request, Site, VERSION};
use super::ticket::{Secret, Ticket};
use super::{MigrationError, fit, gate};
use crate::budget::Memory;
use crate::container::adoption::{Adopter, Starting};
use crate::container::directory::free;
use crate::container::route::Runtime;
use crate::container::{ContainerError, Flavor};
use crate::criu_bundle;
use crate::files::layout::Before;
use crate::machine::Machine;
use crate::oci_runtime::{NAME, wake};
use crate::staging::{self, Staging};

pub use bundle::Bundle;
pub use engine::Engine;

/// How often the source is told that it is worked on.
const SIGN: Duration = Duration::from_secs(1);
/// How long a source that was refused is listened to.
const FAREWELL: Duration = Duration::from_secs(2);
/// Tells, in such a directory, which container may be half made.
const MAKING: &str = "making.json";

/// Where a container is to go on.
#[derive(Debug)]
pub struct Reception<'a> {
    /// Who makes it.
    pub home: Home<'a>,
    /// Its ID, or its name where an engine makes it; by default the one it had.
    pub id: Option<&'a str>,
    /// Where its PID is written once it runs.
    pub pid_file: Option<&'a Path>,
}

/// Who makes a container.
#[derive(Debug)]
pub enum Home<'a> {
    /// A runtime, from a bundle.
    Bundle(Bundle<'a>),
    /// An engine.
    Engine(Engine<'a>),
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
        let room = reception.home.room();
        clean_up(&room);
        let mut channel = Channel::accept(&self.listener, &self.secret, self.ticket.source.fingerprint()?)?;
        let peer = channel.peer().to_owned();
        let (Request::Offer(offer), _) = channel.hear()? else {
            return Err(MigrationError::Nonsense { peer, what: "the offer" });
        };
        let found = reception.fits(&offer, &peer).and_then(|maker| Ok((reception.home.site(&room)?, maker)));
        let (site, maker) = match found {
            Ok((site, maker)) => (Box::new(site), maker),
            Err(error) => return Err(refuse(&mut channel, error)),
        };
        let token = gate::token().map_err(MigrationError::Random)?;
        let place = Staging::create(&room, &format!("{}{token}", gate::PREFIX))
            .map_err(ContainerError::place(&room))?;
        channel.say(&Answer::Accepted { version: VERSION, site }, &[])?;
        let mut keeper = Keeper::new(Arc::new(LocalBackend::new(place.path().join(gate::STORE))));
        let manifest = match keeper.serve(&mut channel)? {
            Request::Restore { manifest } => manifest,
            Request::Stays { because } => return Err(MigrationError::Stays { because }),
            _ => return Err(MigrationError::Nonsense { peer, what: "the transfer" }),
        };
        let sent = Sent { store: keeper.backend(), manifest: &manifest, place: place.path(), token: &token };
        let made = while_told(&mut channel, || maker.make(&sent));
        let made = made.and_then(|made| {
            // From here on it may have ended at the source, so whatever happens it stays.
            gate::ready(place.path()).map_err(ContainerError::place(place.path()))?;
            Ok(made)
        });
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                undo(place.path());
                let error = refuse(&mut channel, error);
                // The source gives the store's records back as it would anywhere.
                channel.patience(FAREWELL)?;
                let _ = keeper.serve(&mut channel);
                return Err(error);
            }
        };
        let (id, pid) = (made.id.clone(), made.pid);
        let orphan = |error| MigrationError::Orphan { id: id.clone(), pid, source: Box::new(error) };
        let told = channel.say(&Answer::Ready, &[]).and_then(|()| match keeper.serve(&mut channel)? {
            Request::GoOn => Ok(()),
            _ => Err(MigrationError::Nonsense { peer: peer.clone(), what: "the end" }),
        });
        match told {
            Ok(()) => made.go_on().map_err(orphan)?,
            Err(error) => {
                made.stay();
                return Err(orphan(error));
            }
        }
        reception.note(pid)?;
        if let Err(error) = channel.say(&Answer::Runs { pid }, &[]) {
            tracing::warn!(%error, "the source does not hear that the container runs here");
        }
        Ok(Received { id, pid, peer })
    }
}

/// What was sent.
struct Sent<'a> {
    store: Arc<LocalBackend>,
    /// The generation's manifest.
    manifest: &'a str,
    /// The directory that it lies in.
    place: &'a Path,
    /// What tells that from others.
    token: &'a str,
}

/// Somebody who can make the container.
trait Maker: Send + Sync {
    /// Makes it, stopped before its first instruction.
    fn make(&self, sent: &Sent<'_>) -> Result<Made, MigrationError>;
}

/// A container that stands still here.
struct Made {
    id: String,
    /// Its first process.
    pid: i32,
    held: Held,
}

/// By what it stands still.
enum Held {
    /// By signals: by these PIDs in the container processes were stopped at the source, too. And what was where its files are now.
    Signals { stopped: Vec<u32>, before: Vec<Before> },
    /// At its start, which an engine has begun.
    Gate { guest: Guest, starting: Starting },
}

impl Made {
    /// It goes on.
    fn go_on(self) -> Result<(), MigrationError> {
        match self.held {
            Held::Signals { stopped, before } => {
                before.into_iter().for_each(Before::release);
                wake::go_on(self.pid, &stopped);
                Ok(())
            }
            Held::Gate { guest, starting } => {
                guest.let_go().map_err(|source| MigrationError::Gate { source })?;
                Ok(starting.finish()?)
            }
        }
    }

    /// It stands still until people decide.
    fn stay(self) {
        match self.held {
            Held::Signals { before, .. } => before.into_iter().for_each(Before::release),
            Held::Gate { guest, starting } => {
                drop(guest);
                if let Err(error) = starting.finish() {
                    tracing::error!(%error, "the engine does not keep the container");
                }
            }
        }
    }
}

impl Reception<'_> {
    /// Takes a container from a carrier. The target's kernel may be older if `older_kernel`.
    ///
    /// # Errors
    /// It cannot be taken: it stays where it is then, and nothing of it is here, unless the error is
    /// [`MigrationError::Unclaimed`].
    pub fn collect(&self, parcel: &dyn Parcel, older_kernel: bool) -> Result<Received, MigrationError> {
        let from = parcel.place();
        let failed = |source| MigrationError::Carrier { place: from.clone(), source };
        let room = self.home.room();
        clean_up(&room);
        let said = parcel.said().map_err(failed)?;
        let offer = said.get(carrier::OFFER).and_then(|offer| serde_json::from_str::<Offer>(offer).ok());
        let offer = offer.ok_or_else(|| MigrationError::NoParcel { place: from.clone() })?;
        let maker = self.fits(&offer, &from)?;
        let site = self.home.site(&room)?;
        fit::check(&offer, &site, older_kernel).map_err(|unfit| {
            let peer = "this machine".to_owned();
            MigrationError::Unfit { peer, unfit }
        })?;
        let token = gate::token().map_err(MigrationError::Random)?;
        let place = Staging::create(&room, &format!("{}{token}", gate::PREFIX))
            .map_err(ContainerError::place(&room))?;
        parcel.unpack(place.path()).map_err(failed)?;
        let path = place.path().join(gate::MANIFEST);
        let manifest = std::fs::read_to_string(&path).map_err(ContainerError::place(&path))?;
        let store = Arc::new(LocalBackend::new(place.path().join(gate::STORE)));
        let sent = Sent { store, manifest: &manifest, place: place.path(), token: &token };
        let made = maker.make(&sent).inspect_err(|_| undo(place.path()))?;
        // From here on it may be ours, so whatever happens it stays.
        gate::ready(place.path()).map_err(ContainerError::place(place.path()))?;
        let (id, pid) = (made.id.clone(), made.pid);
        match parcel.claim() {
            Ok(Claim::Ours) => made.go_on().map_err(|error| {
                let (id, source) = (id.clone(), Box::new(error));
                MigrationError::Orphan { id, pid, source }
            })?,
            Ok(Claim::Others) => {
                gate::not_ready(place.path()).map_err(ContainerError::place(place.path()))?;
                drop(made);
                undo(place.path());
                return Err(MigrationError::Taken { place: from });
            }
            Err(source) => {
                made.stay();
                return Err(MigrationError::Unclaimed { place: from, id, pid, source });
            }
        }
        self.note(pid)?;
        Ok(Received { id, pid, peer: from })
    }

    fn note(&self, pid: i32) -> Result<(), MigrationError> {
        let Some(path) = self.pid_file else { return Ok(()) };
        Ok(std::fs::write(path, pid.to_string()).map_err(ContainerError::place(path))?)
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

impl<'a> Reception<'a> {
    /// Whether a container could go on here, by what this side alone sees; then by whom it is made.
    fn fits(&self, offer: &Offer, peer: &str) -> Result<Box<dyn Maker + 'a>, MigrationError> {
        if offer.version != VERSION {
            let (theirs, ours) = (offer.version, VERSION);
            return Err(MigrationError::Version { peer: peer.to_owned(), theirs, ours });
        }
        match &self.home {
            Home::Bundle(bundle) => {
                let id = self.id.unwrap_or(&offer.id);
                if id.is_empty() || id.starts_with('.') || id.contains('/') {
                    return Err(MigrationError::Nonsense {
                        peer: peer.to_owned(),
                        what: "the container's ID",
                    });
                }
                bundle.could_take(id, offer).map(|maker| Box::new(maker) as Box<dyn Maker + 'a>)
            }
            Home::Engine(engine) => {
                let name = self.id.or(offer.name.as_deref());
                engine.could_take(name, offer).map(|maker| Box::new(maker) as Box<dyn Maker + 'a>)
            }
        }
    }
}

impl Home<'_> {
    /// Where what is sent is kept until it runs: on a disk.
    fn room(&self) -> PathBuf {
        match self {
            Home::Bundle(bundle) => bundle.room.to_owned(),
            Home::Engine(engine) => gate::room(&engine.settings.state),
        }
    }

    /// What there is here.
    fn site(&self, room: &Path) -> Result<Site, MigrationError> {
        std::fs::create_dir_all(room).map_err(ContainerError::place(room))?;
        let (named, runtime) = match self {
            Home::Bundle(bundle) => (None, bundle.runtime.program().display().to_string()),
            Home::Engine(engine) => (engine.settings.criu.as_deref(), NAME.to_owned()),
        };
        Ok(Site {
            machine: Machine::read(),
            criu: criu_bundle::version(&criu_bundle::find(named)?.program)?.number(),
            runtime,
            memory: Memory::read().free(),
            room: free(room)?,
        })
    }
}

/// Works, and tells the source so meanwhile. An error where that is gone: it goes on there.
fn while_told(
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

/// Removes what receptions that were killed have left: their directories, and containers that they were about to make.
fn clean_up(room: &Path) {
    staging::clean_up_after(room, gate::PREFIX, &|place| {
        undo(place);
        true
    });
}

/// A container that may be half made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
enum HalfMade {
    Runtime { program: PathBuf, flavor: Flavor, root: Option<PathBuf>, id: String, bundle: PathBuf },
    Engine { engine: Adopter },
}

impl HalfMade {
    /// Notes it before anything is made.
    fn note(&self, place: &Path) -> Result<(), MigrationError> {
        let path = place.join(MAKING);
        let document = serde_json::to_vec(self).map_err(ContainerError::Facts)?;
        Ok(std::fs::write(&path, document).map_err(ContainerError::place(&path))?)
    }
}

/// Takes away what there may be of a container, by the directory of its reception. One that may have ended at its source stays.
fn undo(place: &Path) {
    if gate::is_ready(place) {
        return;
    }
    let making = std::fs::read(place.join(MAKING)).ok();
    match making.and_then(|bytes| serde_json::from_slice::<HalfMade>(&bytes).ok()) {
        Some(HalfMade::Runtime { program, flavor, root, id, bundle }) => {
            if let Ok(runtime) = Runtime::find(flavor, Some(&program)) {
                runtime.forget(root.as_deref(), &id, Some(&bundle));
            }
        }
        Some(HalfMade::Engine { engine }) => {
            if let Ok(id) = std::fs::read_to_string(place.join(engine::ID)) {
                engine.adopted(id.trim()).remove();
            }
        }
        None => {}
    }
}

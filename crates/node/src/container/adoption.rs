//! A container that Docker or Podman makes of a checkpoint: by its own command, under the runtime `torpor`, so that it is the engine's as any
//! other.
//!
//! What a container may is for who restores it to say, and not for the checkpoint: privileges, users, mounts and networks are flags of the
//! engine's `create`. Of the checkpoint only the image and the command are taken, which the engine needs for a fresh start later.

mod error;
pub mod outline;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use torpor_store::Repository;
use torpor_store::lineage::{Lineage, LineageError};
use torpor_store::name::Reference;

use super::stored::Kept;
use crate::install::HANDLER;
use crate::machine::Machine;
use crate::oci_runtime::decision;
use crate::oci_runtime::settings::Settings;

pub use error::AdoptionError;
pub(crate) use error::told;
pub use outline::Outline;

/// Who makes the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Adopter {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// What is to become an engine's.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// The engine.
    pub adopter: Adopter,
    /// The store.
    pub repository: &'a Repository,
    /// The store's directory.
    pub store: &'a Path,
    /// The name, and the generation where one is meant.
    pub reference: &'a Reference,
    /// The container's name; the engine invents one where none is given.
    pub name: Option<&'a str>,
    /// The image, where it is not the one that the checkpoint tells.
    pub image: Option<&'a str>,
    /// Further flags of the engine's `create`.
    pub flags: &'a [String],
}

/// A container that an engine has made.
#[derive(Debug)]
pub struct Adopted {
    adopter: Adopter,
    id: String,
}

impl Adoption<'_> {
    /// Has the engine make the container. Nothing runs yet.
    ///
    /// # Errors
    /// What is missing is found before anything is made.
    pub fn create(&self, settings: &Settings) -> Result<Adopted, AdoptionError> {
        let same = |store: &PathBuf| {
            store == self.store || store.canonicalize().ok() == self.store.canonicalize().ok()
        };
        if !settings.stores.iter().filter_map(|store| store.directory()).any(|store| same(&store)) {
            return Err(AdoptionError::Store { store: self.store.to_owned() });
        }
        let name = &self.reference.name;
        let record = Lineage::new(self.repository, name.clone()).record()?;
        let record = record.ok_or_else(|| LineageError::NoSuchName { name: name.clone() })?;
        let number =
            self.reference.generation.or_else(|| record.generations.last().map(|newest| newest.number));
        let number = number.ok_or_else(|| LineageError::NoSuchName { name: name.clone() })?;
        let generation = record
            .generation(number)
            .ok_or_else(|| LineageError::NoSuchGeneration { name: name.clone(), number })?;
        let manifest = self.repository.manifest(generation.manifest)?;
        let kept = Kept::new(self.repository, &manifest)?;
        kept.check(&Machine::read())?;
        let reference = Reference { name: name.clone(), generation: Some(number) };
        let outline = Outline::of(kept.facts());
        let wanted = Wanted { name: self.name, image: self.image, flags: self.flags };
        let image = self.adopter.could_make(&outline, &wanted, &format!("the container in {reference}"))?;
        self.adopter.create(&outline, &wanted, &image, (decision::RESTORE, &reference.to_string()), None)
    }
}

/// What was asked for about a container that an engine is to make.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name; the engine invents one where none is given.
    pub name: Option<&'a str>,
    /// The image, where it is not the one that the checkpoint tells.
    pub image: Option<&'a str>,
    /// Further flags of the engine's `create`.
    pub flags: &'a [String],
}

/// Has Podman restore an archive of its own kind, by `podman container restore --import`. It runs then.
///
/// # Errors
/// What Podman says.
pub fn import(archive: &Path, name: Option<&str>, flags: &[String]) -> Result<Adopted, AdoptionError> {
    let adopter = Adopter::Podman;
    let mut words: Vec<OsString> = ["container", "restore", "--import"].map(OsString::from).to_vec();
    words.push(archive.into());
    words.extend(name.into_iter().flat_map(|name| ["--name".into(), name.into()]));
    words.extend(flags.iter().map(OsString::from));
    let id = adopter.call(words, "container restore")?;
    Ok(Adopted { adopter, id: id.trim().to_owned() })
}

impl Adopted {
    /// Its ID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it, which restores it. It runs on by itself.
    ///
    /// # Errors
    /// It cannot be restored; then there is no container of it.
    pub fn start(&self) -> Result<(), AdoptionError> {
        self.adopter.call(["start", &self.id], "start").map(drop).inspect_err(|_| self.remove())
    }

    /// Starts it with its output here, passes signals on and waits for its end. Returns its exit code.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn run(&self) -> Result<i32, AdoptionError> {
        let status = self.attached(&["start", "--attach"])?;
        // The engine's own failures have codes of programs, too.
        let state = self.inspect("{{.State.Status}} {{.State.ExitCode}}")?;
        match state.split_once(' ') {
            Some(("created" | "configured" | "initialized", _)) | None => {
                self.remove();
                let said = "it says why above".to_owned();
                Err(AdoptionError::Failed { adopter: self.adopter, action: "start", said })
            }
            Some((_, code)) => Ok(code.parse().ok().or(status.code()).unwrap_or(1)),
        }
    }

    /// Waits for the end of one that runs, with its output here. Returns its exit code.
    ///
    /// # Errors
    /// The engine does not say.
    pub fn wait(&self) -> Result<i32, AdoptionError> {
        let status = self.attached(&["attach", "--no-stdin"])?;
        let code = self.adopter.call(["wait", &self.id], "wait")?;
        Ok(code.trim().parse().ok().or(status.code()).unwrap_or(1))
    }

    /// The PID of its first process.
    ///
    /// # Errors
    /// The engine does not say.
    pub fn pid(&self) -> Result<String, AdoptionError> {
        self.inspect("{{.State.Pid}}")
    }

    fn attached(&self, words: &[&str]) -> Result<ExitStatus, AdoptionError> {
        let mut command = Command::new(self.adopter.program());
        let status = command.args(words).arg(&self.id).stdin(Stdio::null()).status();
        status.map_err(self.adopter.failed())
    }

    fn inspect(&self, what: &str) -> Result<String, AdoptionError> {
        Ok(self.adopter.call(["inspect", "--format", what, &self.id], "inspect")?.trim().to_owned())
    }

    /// Starts it in the background. What the engine says goes into a file.
    ///
    /// # Errors
    /// It cannot be called.
    pub fn begin(&self, said: &Path) -> Result<Starting, AdoptionError> {
        let failed = self.adopter.failed();
        let file = File::create(said).map_err(&failed)?;
        let mut command = Command::new(self.adopter.program());
        command.args(["start", &self.id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let process = command.spawn().map_err(failed)?;
        Ok(Starting { adopter: self.adopter, process, said: said.to_owned() })
    }

    /// Removes it. One that could not be restored is nobody's.
    pub fn remove(&self) {
        if let Err(error) = self.adopter.call(["rm", "--force", &self.id], "rm") {
            tracing::warn!(%error, "what the engine made cannot be removed");
        }
    }
}

/// A container that an engine is about to start.
#[derive(Debug)]
pub struct Starting {
    adopter: Adopter,
    process: Child,
    said: PathBuf,
}

impl Starting {
    /// Whether it is done.
    ///
    /// # Errors
    /// The engine failed.
    pub fn is_done(&mut self) -> Result<bool, AdoptionError> {
        match self.process.try_wait().map_err(self.adopter.failed())? {
            Some(status) => self.outcome(status).map(|()| true),
            None => Ok(false),
        }
    }

    /// Waits until it is done.
    ///
    /// # Errors
    /// The engine failed.
    pub fn finish(mut self) -> Result<(), AdoptionError> {
        let status = self.process.wait().map_err(self.adopter.failed())?;
        self.outcome(status)
    }

    fn outcome(&self, status: ExitStatus) -> Result<(), AdoptionError> {
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&self.said).unwrap_or_default().trim().to_owned();
        Err(AdoptionError::Failed { adopter: self.adopter, action: "start", said })
    }
}

impl Adopter {
    /// The engine's command.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Adopter::Docker => "docker",
            Adopter::Podman => "podman",
        }
    }

    /// The engine of a container, where it is one of these.
    #[must_use]
    pub fn of(engine: &super::Engine) -> Option<Adopter> {
        match engine {
            super::Engine::Docker => Some(Adopter::Docker),
            super::Engine::Podman => Some(Adopter::Podman),
            _ => None,
        }
    }

    /// Looks whether it could make a container, as far as that can be told before. Returns the image as it has it.
    ///
    /// # Errors
    /// It does not know the runtime or the image, or mounts are not given. `what` names the container.
    pub fn could_make(
        self,
        outline: &Outline,
        wanted: &Wanted<'_>,
        what: &str,
    ) -> Result<String, AdoptionError> {
        let missing = outline.missing_mounts(wanted.flags);
        if !missing.is_empty() {
            return Err(AdoptionError::Mounts { what: what.to_owned(), missing });
        }
        self.knows_the_runtime()?;
        let candidates = match wanted.image {
            Some(image) => vec![image.to_owned()],
            None => outline.images(),
        };
        for image in &candidates {
            if self.said(["image", "inspect", "--format", "{{.Id}}", image])?.status.success() {
                return Ok(image.clone());
            }
        }
        match candidates.last() {
            Some(image) => Err(AdoptionError::NoImage { adopter: self, image: image.clone() }),
            None => Err(AdoptionError::ImageUnknown { what: what.to_owned() }),
        }
    }

    /// Whether there is a container of this name or ID.
    ///
    /// # Errors
    /// It cannot be called.
    pub fn has(self, container: &str) -> Result<bool, AdoptionError> {
        Ok(self.said(["container", "inspect", "--format", "{{.Id}}", container])?.status.success())
    }

    /// Has it make a container with an annotation. Nothing runs yet. Its ID is written to `id_file`, too, by the engine's own command.
    ///
    /// # Errors
    /// What it says.
    pub fn create(
        self,
        outline: &Outline,
        wanted: &Wanted<'_>,
        image: &str,
        annotation: (&str, &str),
        id_file: Option<&Path>,
    ) -> Result<Adopted, AdoptionError> {
        let words = outline.words(self, wanted, image, annotation, id_file);
        let id = self.call(words, "create")?;
        Ok(Adopted { adopter: self, id: id.trim().to_owned() })
    }

    /// One that it made before.
    #[must_use]
    pub fn adopted(self, id: &str) -> Adopted {
        Adopted { adopter: self, id: id.to_owned() }
    }

    /// By what a container comes to restart by itself; none where it does not.
    ///
    /// # Errors
    /// It does not say.
    pub fn restarts(self, container: &str) -> Result<Option<String>, AdoptionError> {
        let format = "{{.HostConfig.RestartPolicy.Name}}";
        let policy = self.call(["container", "inspect", "--format", format, container], "inspect")?;
        let policy = policy.trim();
        Ok((!matches!(policy, "" | "no")).then(|| policy.to_owned()))
    }

    /// Whether the runtime is known to it.
    fn knows_the_runtime(self) -> Result<(), AdoptionError> {
        let known = match self {
            Adopter::Docker => {
                let runtimes = self.call(["info", "--format", "{{json .Runtimes}}"], "info")?;
                let runtimes: Value = serde_json::from_str(&runtimes).unwrap_or_default();
                runtimes.get(HANDLER).is_some()
            }
            Adopter::Podman => {
                self.said(["--runtime", HANDLER, "info", "--format", "{{.Host.Arch}}"])?.status.success()
            }
        };
        if known { Ok(()) } else { Err(AdoptionError::NoRuntime { adopter: self }) }
    }

    /// Calls it, and returns what it printed.
    fn call<T: AsRef<OsStr>>(
        self,
        words: impl IntoIterator<Item = T>,
        action: &'static str,
    ) -> Result<String, AdoptionError> {
        let output = self.said(words)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(AdoptionError::Failed {
                adopter: self,
                action,
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }

    fn said<T: AsRef<OsStr>>(self, words: impl IntoIterator<Item = T>) -> Result<Output, AdoptionError> {
        Command::new(self.program()).args(words).stdin(Stdio::null()).output().map_err(self.failed())
    }

    fn failed(self) -> impl Fn(io::Error) -> AdoptionError {
        move |source| AdoptionError::Program { adopter: self, source }
    }
}

impl std::fmt::Display for Adopter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Adopter::Docker => "Docker",
            Adopter::Podman => "Podman",
        })
    }
}

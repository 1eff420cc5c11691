//! A container that Docker or Podman makes of a checkpoint: by its own command, under the runtime `torpor`, so that it is the engine's as any
//! other.
//!
//! What a container may is for who restores it to say, and not for the checkpoint: privileges, users, mounts and networks are flags of the
//! engine's `create`. Of the checkpoint only the image and the command are taken, which the engine needs for a fresh start later.

mod error;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use torpor_store::Repository;
use torpor_store::lineage::{Lineage, LineageError};
use torpor_store::name::Reference;

use super::generation::Facts;
use super::stored::Kept;
use crate::install::HANDLER;
use crate::machine::Machine;
use crate::oci_runtime::decision;
use crate::oci_runtime::settings::Settings;

pub use error::{AdoptionError, Mount};

/// Mounts that engines make for every container.
const OWN_MOUNTS: [&str; 6] =
    ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/dev/shm", "/run/.containerenv", "/run/secrets"];
/// Where engines keep volumes.
const VOLUMES: [&str; 2] = ["/var/lib/docker/volumes/", "/var/lib/containers/storage/volumes/"];

/// Who makes the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        let missing = missing_mounts(kept.facts(), self.flags);
        if !missing.is_empty() {
            return Err(AdoptionError::Mounts { reference, missing });
        }
        self.adopter.knows_the_runtime()?;
        let image = self.image(&reference, kept.facts())?;
        let words = words(self.adopter, kept.facts(), &reference, self.name, &image, self.flags);
        let id = self.adopter.call(words, "create")?;
        Ok(Adopted { adopter: self.adopter, id: id.trim().to_owned() })
    }

    /// The image as this engine has it: by its ID, where it has the very one.
    fn image(&self, reference: &Reference, facts: &Facts) -> Result<String, AdoptionError> {
        let id = facts.image_id.as_ref().map(|id| format!("sha256:{}", id.trim_start_matches("sha256:")));
        let candidates = match self.image {
            Some(image) => vec![image.to_owned()],
            None => id.into_iter().chain(facts.image.clone()).collect(),
        };
        for image in &candidates {
            if self.adopter.said(["image", "inspect", "--format", "{{.Id}}", image])?.status.success() {
                return Ok(image.clone());
            }
        }
        match candidates.last() {
            Some(image) => Err(AdoptionError::NoImage { adopter: self.adopter, image: image.clone() }),
            None => Err(AdoptionError::ImageUnknown { reference: reference.clone() }),
        }
    }
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

    /// One that could not be restored is nobody's.
    fn remove(&self) {
        if let Err(error) = self.adopter.call(["rm", "--force", &self.id], "rm") {
            tracing::warn!(%error, "what the engine made cannot be removed");
        }
    }
}

impl Adopter {
    fn program(self) -> &'static str {
        match self {
            Adopter::Docker => "docker",
            Adopter::Podman => "podman",
        }
    }

    /// Podman takes it for itself, Docker for the container.
    fn create(self) -> [&'static str; 3] {
        match self {
            Adopter::Docker => ["create", "--runtime", HANDLER],
            Adopter::Podman => ["--runtime", HANDLER, "create"],
        }
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

/// The words of a `create`.
fn words(
    adopter: Adopter,
    facts: &Facts,
    reference: &Reference,
    name: Option<&str>,
    image: &str,
    flags: &[String],
) -> Vec<String> {
    let text = |word: &str| word.to_owned();
    let mut words: Vec<String> = adopter.create().map(str::to_owned).to_vec();
    words.push(text("--annotation"));
    words.push(format!("{}={reference}", decision::RESTORE));
    if let Some(name) = name {
        words.extend([text("--name"), text(name)]);
    }
    let (program, arguments) = match facts.command.split_first() {
        Some((program, arguments)) => (Some(program), arguments),
        None => (None, &[][..]),
    };
    if let Some(program) = program {
        words.extend([text("--entrypoint"), program.clone()]);
    }
    words.extend(flags.iter().cloned());
    words.push(text(image));
    words.extend(arguments.iter().cloned());
    words
}

/// Mounts from outside that the container had, and that no flag mentions.
fn missing_mounts(facts: &Facts, flags: &[String]) -> Vec<Mount> {
    let mounts = facts.config.as_ref().and_then(|config| config["mounts"].as_array());
    let mut missing = Vec::new();
    for mount in mounts.into_iter().flatten() {
        let word = |key: &str| mount[key].as_str().unwrap_or_default();
        let (at, from) = (word("destination"), word("source"));
        let options = mount["options"].as_array().into_iter().flatten();
        let bound =
            word("type") == "bind" || options.flat_map(Value::as_str).any(|option| option.ends_with("bind"));
        let given = flags.iter().any(|flag| mentions(flag, at));
        if bound && !given && !OWN_MOUNTS.contains(&at) {
            let volume =
                VOLUMES.iter().find_map(|volumes| from.strip_prefix(volumes)?.strip_suffix("/_data"));
            missing.push(Mount { at: at.into(), from: volume.unwrap_or(from).to_owned() });
        }
    }
    missing
}

/// Whether a word of a `create` is about a mount at a path: `FROM:PATH[:OPTIONS]`, or `…,target=PATH,…`.
fn mentions(flag: &str, at: &str) -> bool {
    flag.split([',', ':', '=']).any(|part| part == at)
}

#[cfg(test)]
mod tests;

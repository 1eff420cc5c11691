//! A container that Docker makes of a checkpoint: by its own command, under the runtime `torpor`, so that it is Docker's as any other.
//!
//! What a container may is for who restores it to say, and not for the checkpoint: privileges, users, mounts and networks are flags of
//! `docker create`. Of the checkpoint only the image and the command are taken, which Docker needs for a fresh start later.

mod error;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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

/// The program.
const DOCKER: &str = "docker";
/// Mounts that Docker makes for every container.
const OWN_MOUNTS: [&str; 4] = ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/dev/shm"];
/// Where Docker keeps volumes.
const VOLUMES: &str = "/var/lib/docker/volumes/";

/// What is to become Docker's.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// The store.
    pub repository: &'a Repository,
    /// The store's directory.
    pub store: &'a Path,
    /// The name, and the generation where one is meant.
    pub reference: &'a Reference,
    /// The container's name; Docker invents one where none is given.
    pub name: Option<&'a str>,
    /// The image, where it is not the one that the checkpoint tells.
    pub image: Option<&'a str>,
    /// Further flags of `docker create`.
    pub flags: &'a [String],
}

/// A container that Docker has made, and that waits for its start.
#[derive(Debug)]
pub struct Adopted {
    id: String,
}

impl Adoption<'_> {
    /// Has Docker make the container. Nothing runs yet.
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
        let runtimes = docker(["info", "--format", "{{json .Runtimes}}"], "info")?;
        let runtimes: Value = serde_json::from_str(&runtimes).unwrap_or_default();
        if runtimes.get(HANDLER).is_none() {
            return Err(AdoptionError::NoRuntime);
        }
        let image = self.image(&reference, kept.facts())?;
        let words = words(kept.facts(), &reference, self.name, &image, self.flags);
        let id = docker(words, "create")?;
        Ok(Adopted { id: id.trim().to_owned() })
    }

    /// The image as this Docker has it: by its ID, where it has the very one.
    fn image(&self, reference: &Reference, facts: &Facts) -> Result<String, AdoptionError> {
        let id = facts.image_id.as_ref().map(|id| format!("sha256:{}", id.trim_start_matches("sha256:")));
        let candidates = match self.image {
            Some(image) => vec![image.to_owned()],
            None => id.into_iter().chain(facts.image.clone()).collect(),
        };
        for image in &candidates {
            if said(["image", "inspect", "--format", "{{.Id}}", image])?.status.success() {
                return Ok(image.clone());
            }
        }
        match candidates.last() {
            Some(image) => Err(AdoptionError::NoImage { image: image.clone() }),
            None => Err(AdoptionError::ImageUnknown { reference: reference.clone() }),
        }
    }
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
        docker(["start", &self.id], "start").map(drop).inspect_err(|_| self.remove())
    }

    /// Starts it with its output here, passes signals on and waits for its end. Returns its exit code.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn run(&self) -> Result<i32, AdoptionError> {
        let mut command = Command::new(DOCKER);
        let mut child = command
            .args(["start", "--attach", &self.id])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(AdoptionError::program)?;
        let status = child.wait().map_err(AdoptionError::program)?;
        // Docker's own failures have codes of programs, too.
        let state = self.inspect("{{.State.Status}} {{.State.ExitCode}}")?;
        match state.split_once(' ') {
            Some(("created", _)) | None => {
                self.remove();
                Err(AdoptionError::Failed { action: "start", said: "it says why above".to_owned() })
            }
            Some((_, code)) => Ok(code.parse().ok().or(status.code()).unwrap_or(1)),
        }
    }

    /// The PID of its first process.
    ///
    /// # Errors
    /// Docker does not say.
    pub fn pid(&self) -> Result<String, AdoptionError> {
        self.inspect("{{.State.Pid}}")
    }

    fn inspect(&self, what: &str) -> Result<String, AdoptionError> {
        Ok(docker(["inspect", "--format", what, &self.id], "inspect")?.trim().to_owned())
    }

    /// One that could not be restored is nobody's.
    fn remove(&self) {
        if let Err(error) = docker(["rm", "--force", &self.id], "rm") {
            tracing::warn!(%error, "what Docker made cannot be removed");
        }
    }
}

/// The words of `docker create`.
fn words(
    facts: &Facts,
    reference: &Reference,
    name: Option<&str>,
    image: &str,
    flags: &[String],
) -> Vec<String> {
    let text = |word: &str| word.to_owned();
    let mut words = vec![text("create"), text("--runtime"), text(HANDLER), text("--annotation")];
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
            let volume = from.strip_prefix(VOLUMES).and_then(|rest| rest.strip_suffix("/_data"));
            missing.push(Mount { at: at.into(), from: volume.unwrap_or(from).to_owned() });
        }
    }
    missing
}

/// Whether a word of `docker create` is about a mount at a path: `FROM:PATH[:OPTIONS]`, or `…,target=PATH,…`.
fn mentions(flag: &str, at: &str) -> bool {
    flag.split([',', ':', '=']).any(|part| part == at)
}

/// Calls Docker, and returns what it printed.
fn docker<T: AsRef<std::ffi::OsStr>>(
    words: impl IntoIterator<Item = T>,
    action: &'static str,
) -> Result<String, AdoptionError> {
    let output = said(words)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(AdoptionError::Failed {
            action,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

fn said<T: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = T>) -> Result<Output, AdoptionError> {
    Command::new(DOCKER).args(words).stdin(Stdio::null()).output().map_err(AdoptionError::program)
}

#[cfg(test)]
mod tests;

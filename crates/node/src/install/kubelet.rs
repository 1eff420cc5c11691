//! The kubelet's own switches: the feature gate by which it checkpoints containers, and graceful node shutdown, which gives pods the time
//! for a suspend when the node goes down.
//!
//! Where the kubelet reads a directory of configurations (`--config-dir`, Kubernetes 1.28), a file of our own goes there; else the lines go
//! into its configuration. Where a kubelet runs, its own command line counts last. Flags and fields: kubernetes, `cmd/kubelet/app/options/options.go`, `pkg/apis/config/types.go` of the kubelet. The
//! gate `ContainerCheckpoint` is there from 1.25 on and open from 1.30 on.

pub(crate) mod settings;

use std::fs;
use std::path::{Path, PathBuf};

use settings::{Existing, Missing};

use super::InstallError;
use super::plan::{Plan, Wanted};
use super::site::Site;

/// Where kubeadm puts it.
pub(crate) const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const PROGRAM: &str = "kubelet";
const PROGRAMS: [&str; 3] = ["/usr/bin/kubelet", "/usr/local/bin/kubelet", "/var/lib/kubelet/config.yaml"];
/// The file of our own in a directory of configurations; only such names are read.
const DROP_IN: &str = "90-torpor.conf";
/// Where its flags are said.
const UNITS: [&str; 7] = [
    "/usr/lib/systemd/system/kubelet.service",
    "/lib/systemd/system/kubelet.service",
    "/etc/systemd/system/kubelet.service",
    "/usr/lib/systemd/system/kubelet.service.d",
    "/etc/systemd/system/kubelet.service.d",
    "/etc/default/kubelet",
    "/var/lib/kubelet/kubeadm-flags.env",
];

/// A version of Kubernetes: 1.30 is `(1, 30)`.
pub(crate) type Version = (u32, u32);

/// A kubelet, as the machine's files tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kubelet {
    /// Its version, where it can be asked.
    pub(crate) version: Option<Version>,
    /// Its configuration.
    pub(crate) config: PathBuf,
    /// A directory of more.
    pub(crate) directory: Option<PathBuf>,
    /// All of them, in the order in which they count.
    pub(crate) texts: Vec<(PathBuf, String)>,
}

impl Kubelet {
    /// Looks for one; none where there is none.
    pub(crate) fn on(site: &Site) -> Result<Option<Kubelet>, InstallError> {
        let running = Running::on(site);
        if running.is_none() && !site.has(&PROGRAMS) {
            return Ok(None);
        }
        let program = running.as_ref().map_or_else(|| PROGRAM.to_owned(), |kubelet| kubelet.program.clone());
        let said = flags(site) + &running.unwrap_or_default().words;
        let version = site.ask(&program, &["--version"]).and_then(Result::ok);
        let config = flag(&said, "--config").unwrap_or_else(|| CONFIG.into());
        let directory = flag(&said, "--config-dir");
        let mut texts = Vec::new();
        let text = |path: &Path| site.read(&path.display().to_string());
        if let Some(found) = text(&config)? {
            texts.push((config.clone(), found));
        }
        for path in directory.iter().flat_map(|directory| drop_ins(site, directory)) {
            if let Some(found) = text(&path)? {
                texts.push((path, found));
            }
        }
        Ok(Some(Kubelet { version: version.as_deref().and_then(parsed), config, directory, texts }))
    }

    /// What its configurations say, the last word counting.
    pub(crate) fn existing(&self) -> Result<Existing, InstallError> {
        let mut existing = Existing::default();
        for (path, text) in &self.texts {
            let format = |because| InstallError::Format { path: path.clone(), because };
            existing = existing.then(Existing::of(text).map_err(format)?);
        }
        Ok(existing)
    }
}

pub(super) fn plan(wanted: &Wanted, plan: &mut Plan) -> Result<(), InstallError> {
    if !wanted.checkpointing {
        return Ok(());
    }
    let Some(kubelet) = Kubelet::on(&wanted.site)? else { return Ok(()) };
    let own = kubelet.directory.as_ref().map(|directory| directory.join(DROP_IN));
    // What our file says must not make it look as if it were not needed.
    let others = Kubelet {
        texts: kubelet.texts.iter().filter(|(path, _)| Some(path) != own.as_ref()).cloned().collect(),
        ..kubelet.clone()
    };
    let missing = others.existing()?.missing(kubelet.version);
    if missing == Missing::default() {
        return Ok(());
    }
    let before = plan.changes.len();
    let purpose = "let the kubelet checkpoint containers, and give pods time when the node goes down";
    match own {
        Some(path) => plan.write(wanted.site.on_machine(&path), missing.file(), purpose),
        None => {
            let text = kubelet.texts.first().map_or("", |(_, text)| text.as_str());
            let path = wanted.site.on_machine(&kubelet.config);
            let format = |because| InstallError::Format { path: path.clone(), because };
            let after = missing.put_into(text).map_err(format)?;
            plan.write(path, after, purpose);
        }
    }
    plan.note_changed(before, "restart the kubelet: `systemctl restart kubelet`; pods run on");
    Ok(())
}

/// A kubelet that runs, wherever it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Running {
    program: String,
    words: String,
}

impl Running {
    fn on(site: &Site) -> Option<Running> {
        let entries = fs::read_dir(site.on_machine(Path::new("/proc"))).ok()?;
        let is_number = |path: &Path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
        };
        let mut processes = entries.flatten().map(|entry| entry.path()).filter(|path| is_number(path));
        processes.find_map(|process| {
            let name = fs::read_to_string(process.join("comm")).ok()?;
            let program = fs::read_link(process.join("exe")).ok()?;
            let words = fs::read(process.join("cmdline")).ok().filter(|_| name.trim_end() == PROGRAM)?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            Some(Running { program: program.display().to_string(), words })
        })
    }
}

/// All that its units and environment files say.
fn flags(site: &Site) -> String {
    let mut said = String::new();
    let mut add = |path: &Path| {
        if let Ok(text) = fs::read_to_string(path) {
            for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
                said += line;
                said.push('\n');
            }
        }
    };
    for unit in UNITS {
        let path = site.on_machine(Path::new(unit));
        match fs::read_dir(&path) {
            Err(_) => add(&path),
            Ok(entries) => {
                let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                paths.sort();
                paths
                    .iter()
                    .filter(|path| path.extension().is_some_and(|kind| kind == "conf"))
                    .for_each(|path| add(path));
            }
        }
    }
    said
}

/// The value of a flag, `--flag=VALUE` or `--flag VALUE`; the last one counts.
fn flag(said: &str, name: &str) -> Option<PathBuf> {
    let ends = |c: char| c.is_whitespace() || c == '"' || c == '\'';
    let mut words = said.split(ends).filter(|word| !word.is_empty());
    let mut value = None;
    while let Some(word) = words.next() {
        // `VARIABLE=--flag=VALUE` is one word.
        let word = word.find("--").map_or(word, |at| &word[at..]);
        match word.strip_prefix(name) {
            Some("") => value = words.next(),
            Some(rest) if rest.starts_with('=') => value = Some(&rest[1..]),
            _ => {}
        }
    }
    value.filter(|value| value.starts_with('/')).map(PathBuf::from)
}

/// Files that count in a directory of configurations, in order.
fn drop_ins(site: &Site, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.on_machine(directory)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| PathBuf::from(entry.file_name())).collect();
    names.retain(|name| name.extension().is_some_and(|kind| kind == "conf"));
    names.sort();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// `Kubernetes v1.29.3`.
fn parsed(said: &str) -> Option<Version> {
    let mut numbers = said.trim().rsplit('v').next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;

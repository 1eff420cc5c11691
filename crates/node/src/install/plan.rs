//! What is to be changed on a node, and the change itself.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ledger::{Before, Ledger, replace};
use super::site::Site;
use super::trial::Trial;
use super::{InstallError, containerd, crio, docker, kubelet, podman};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "do", rename_all_fields = "camelCase")]
pub enum Change {
    /// A file gets this content.
    Write {
        /// The file.
        path: PathBuf,
        /// Its content.
        content: String,
        /// What it is for.
        purpose: &'static str,
    },
    /// A program is copied.
    Copy {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
    },
    /// A name for a program.
    Link {
        /// The name.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::Write { path, purpose, .. } => write!(f, "write {}: {purpose}", path.display()),
            Change::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Change::Link { path, target } => write!(f, "link {} to {}", path.display(), target.display()),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub site: Site,
    /// The binary.
    pub binary: PathBuf,
    /// A private CRIU that goes with it.
    pub criu: Option<PathBuf>,
    /// Whether engines and the kubelet are told to let containers be checkpointed by their own interfaces.
    pub checkpointing: bool,
}

/// What is to be changed, and what a person has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In this order.
    pub changes: Vec<Change>,
    /// What is to be done by hand.
    pub notes: Vec<String>,
    /// Engines that get the handler.
    pub engines: Vec<&'static str>,
    /// Configurations that their engines have to take before any is changed.
    #[serde(skip)]
    pub(super) trials: Vec<Trial>,
}

impl Plan {
    /// Looks at the machine, and says what is missing.
    ///
    /// # Errors
    /// A file cannot be read, or not be extended.
    pub fn of(wanted: &Wanted) -> Result<Plan, InstallError> {
        let mut plan =
            Plan { changes: Vec::new(), notes: Vec::new(), engines: Vec::new(), trials: Vec::new() };
        let bin = wanted.site.here().join("bin");
        plan.copy(&wanted.binary, &bin.join("torpor"))?;
        plan.link(bin.join("torpor-runtime"), Path::new("torpor"));
        if let Some(criu) = &wanted.criu {
            let to = wanted.site.here().join("criu");
            let mut files = Vec::new();
            files_below(criu, &mut files)?;
            for file in files {
                let inside = file.strip_prefix(criu).unwrap_or(&file);
                match fs::read_link(&file) {
                    Ok(target) => plan.link(to.join(inside), &target),
                    Err(_) => plan.copy(&file, &to.join(inside))?,
                }
            }
        }
        let runtime = wanted.site.prefix.join("bin/torpor-runtime");
        containerd::plan(wanted, &runtime, &mut plan)?;
        crio::plan(wanted, &runtime, &mut plan)?;
        docker::plan(wanted, &runtime, &mut plan)?;
        podman::plan(wanted, &runtime, &mut plan)?;
        kubelet::plan(wanted, &mut plan)?;
        if plan.engines.is_empty() {
            plan.notes.push("no engine is configured here; a handler is added to none".to_owned());
        }
        Ok(plan)
    }

    /// Has a file written, unless it is as it should be.
    pub(super) fn write(&mut self, path: PathBuf, content: String, purpose: &'static str) {
        if fs::read_to_string(&path).ok().as_ref() != Some(&content) {
            self.changes.push(Change::Write { path, content, purpose });
        }
    }

    /// Tells what is to be done by hand, where anything has changed since there were `before` changes.
    pub(super) fn note_changed(&mut self, before: usize, note: &str) {
        if self.changes.len() > before {
            self.notes.push(note.to_owned());
        }
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<(), InstallError> {
        let same = match fs::metadata(to) {
            Ok(there) => {
                let here = fs::metadata(from).map_err(InstallError::place(from))?;
                there.len() == here.len() && same_content(from, to).map_err(InstallError::place(to))?
            }
            Err(_) => false,
        };
        if !same {
            self.changes.push(Change::Copy { from: from.to_owned(), to: to.to_owned() });
        }
        Ok(())
    }

    fn link(&mut self, path: PathBuf, target: &Path) {
        if fs::read_link(&path).ok().as_deref() != Some(target) {
            self.changes.push(Change::Link { path, target: target.to_owned() });
        }
    }

    /// Makes the changes, each written down before it is made. Where something changes at all, engines have their say first.
    ///
    /// # Errors
    /// An engine would not take its configuration; then nothing is changed. Or a change cannot be made; those before stay, and are in
    /// the ledger.
    pub fn apply(&self, wanted: &Wanted) -> Result<(), InstallError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        self.trials.iter().try_for_each(|trial| trial.run(&wanted.site))?;
        let prefix = wanted.site.here();
        let mut ledger = Ledger::read(&prefix)?.unwrap_or_default();
        for change in &self.changes {
            let path = change.path();
            ledger.add(path, Before::of(path)?);
            ledger.directories_above(path);
            if let Change::Write { content, .. } = change {
                ledger.written(path, content);
            }
            ledger.write(&prefix)?;
            change.make().map_err(InstallError::place(path))?;
        }
        Ok(())
    }
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Change::Write { path, .. } | Change::Link { path, .. } | Change::Copy { to: path, .. } => path,
        }
    }

    fn make(&self) -> io::Result<()> {
        let path = self.path();
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)?;
        replace(path, |partial| match self {
            Change::Write { content, .. } => {
                fs::write(partial, content)?;
                fs::set_permissions(partial, fs::Permissions::from_mode(0o644))
            }
            Change::Copy { from, .. } => {
                fs::copy(from, partial)?;
                fs::set_permissions(partial, fs::metadata(from)?.permissions())
            }
            Change::Link { target, .. } => symlink(target, partial),
        })
    }
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let hash = |path: &Path| -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(path)?)?;
        Ok(hasher.finalize())
    };
    Ok(hash(one)? == hash(other)?)
}

/// All files and links below a directory.
fn files_below(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), InstallError> {
    let failed = InstallError::place(directory);
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory).map_err(&failed)? {
        names.push(entry.map_err(&failed)?.path());
    }
    names.sort();
    for path in names {
        let found = fs::symlink_metadata(&path).map_err(InstallError::place(&path))?;
        match found.is_dir() {
            true => files_below(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Wanted) {
        let place = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let wanted = Wanted {
            site: Site { machine: place.path().join("machine"), prefix: "/opt/torpor".into() },
            binary: place.path().join("torpor"),
            criu: Some(place.path().join("criu")),
            checkpointing: true,
        };
        (place, wanted)
    }

    const CONTAINERD: &str = "machine/etc/containerd/config.toml";
    const KUBELET: &str = "machine/var/lib/kubelet/config.yaml";
    const FILES: [(&str, &str); 6] = [
        ("torpor", "binary"),
        ("criu/bin/criu", "program"),
        (CONTAINERD, "version = 3\n# mine\n"),
        ("machine/etc/docker/daemon.json", "{\"debug\": true}"),
        ("machine/etc/crio/crio.conf", ""),
        (KUBELET, "kind: KubeletConfiguration\n# mine\nshutdownGracePeriod: 0s"),
    ];

    #[test]
    fn a_node_is_set_up_once_and_put_back_as_it_was() {
        let (place, wanted) = machine(&FILES);
        fs::set_permissions(place.path().join(KUBELET), fs::Permissions::from_mode(0o600)).unwrap();
        let plan = Plan::of(&wanted).unwrap();
        assert_eq!(plan.engines, ["containerd", "CRI-O", "Docker"]);
        assert!(!place.path().join("machine/opt").exists(), "a plan changes nothing");
        plan.apply(&wanted).unwrap();
        let opt = place.path().join("machine/opt/torpor");
        assert_eq!(fs::read_to_string(opt.join("bin/torpor-runtime")).unwrap(), "binary");
        assert_eq!(fs::read_to_string(opt.join("criu/bin/criu")).unwrap(), "program");
        assert!(fs::read_to_string(place.path().join(CONTAINERD)).unwrap().contains("imports"));
        let kubelet = place.path().join(KUBELET);
        assert!(fs::read_to_string(&kubelet).unwrap().contains("shutdownGracePeriod: 60s"));
        assert_eq!(fs::metadata(&kubelet).unwrap().permissions().mode() & 0o777, 0o600, "as it was");
        assert_eq!(Plan::of(&wanted).unwrap().changes, [], "it is there already");

        // A new binary: what was there before the first time is still known.
        fs::write(&wanted.binary, "newer binary").unwrap();
        let again = Plan::of(&wanted).unwrap();
        assert_eq!(again.changes.len(), 1);
        again.apply(&wanted).unwrap();
        let ledger = Ledger::read(&opt).unwrap().unwrap();
        assert_eq!(ledger.put_back(&opt).unwrap(), [""; 0].map(PathBuf::from));
        for (path, content) in &FILES[2..] {
            assert_eq!(fs::read_to_string(place.path().join(path)).unwrap(), *content, "{path}");
        }
        assert_eq!(fs::metadata(&kubelet).unwrap().permissions().mode() & 0o777, 0o600);
        for made in ["opt", "etc/containerd/conf.d", "etc/crio/crio.conf.d"] {
            assert!(!place.path().join("machine").join(made).exists(), "{made}");
        }
        assert!(Ledger::read(&opt).unwrap().is_none());
    }

    #[test]
    fn what_somebody_has_changed_since_is_left_to_them() {
        let (place, wanted) = machine(&FILES);
        Plan::of(&wanted).unwrap().apply(&wanted).unwrap();
        let config = place.path().join("machine/etc/docker/daemon.json");
        fs::write(&config, "{}").unwrap();
        let opt = place.path().join("machine/opt/torpor");
        let ledger = Ledger::read(&opt).unwrap().unwrap();
        assert_eq!(ledger.changed_since(), std::slice::from_ref(&config));
        assert!(ledger.told().iter().all(|line| !line.contains("daemon.json")), "{:?}", ledger.told());
        let left = ledger.put_back(&opt).unwrap();
        assert_eq!(left, std::slice::from_ref(&config));
        assert_eq!(fs::read_to_string(config).unwrap(), "{}");
    }

    #[test]
    fn what_cannot_be_extended_is_refused_before_anything_is_changed() {
        let (place, wanted) = machine(&FILES);
        fs::write(place.path().join(CONTAINERD), "root = '/x'\n").unwrap();
        assert!(matches!(Plan::of(&wanted), Err(InstallError::Format { .. })));
        assert!(!place.path().join("machine/opt").exists());
    }

    #[test]
    fn a_kubelet_that_reads_a_directory_gets_a_file_there() {
        let (place, wanted) = machine(&FILES);
        let unit = place.path().join("machine/etc/systemd/system/kubelet.service.d/10-kubeadm.conf");
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        fs::write(&unit, "ExecStart=/usr/bin/kubelet --config-dir=/etc/kubernetes/kubelet.conf.d\n").unwrap();
        let kubelets = |plan: &Plan| -> Vec<String> {
            let written = plan.changes.iter().filter(|change| change.to_string().contains("the kubelet"));
            written.map(|change| change.path().display().to_string()).collect()
        };
        let plan = Plan::of(&wanted).unwrap();
        let [path] = &kubelets(&plan)[..] else { panic!("{:?}", plan.changes) };
        assert!(path.ends_with("machine/etc/kubernetes/kubelet.conf.d/90-torpor.conf"), "{path}");
        plan.apply(&wanted).unwrap();
        assert!(kubelets(&Plan::of(&wanted).unwrap()).is_empty());
        assert!(kubelets(&Plan::of(&Wanted { checkpointing: false, ..wanted }).unwrap()).is_empty());
    }
}

//! What a node's files and engines say.

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::DocumentMut;

use crate::container::Flavor;
use crate::container::route::Runtime;
use crate::criu_bundle;
use crate::install::kubelet::settings::Existing;
use crate::install::{InstallError, Ledger, Site, containerd, crio, docker, kubelet, podman};
use crate::oci_runtime::settings::Settings;

/// Everything that rows about a node are made from.
#[derive(Debug, Clone)]
pub struct NodeFindings {
    /// Where the handler's program is to be, on the machine.
    pub handler: PathBuf,
    /// Whether it is there.
    pub handler_there: bool,
    /// Whether the ledger says that it was installed.
    pub installed: bool,
    /// The private CRIU below the prefix: its version, or what is wrong with it.
    pub criu: Option<Result<String, String>>,
    /// The runtime that the handler becomes, or why there is none.
    pub runtime: Result<PathBuf, String>,
    /// What the operator's file says, or what is wrong with it, with a remedy.
    pub settings: Result<String, (String, &'static str)>,
    /// containerd, where it is here.
    pub containerd: Option<Containerd>,
    /// CRI-O, where it is here.
    pub crio: Option<Crio>,
    /// Docker, where it is here.
    pub docker: Option<Docker>,
    /// The program of Podman's runtime, where Podman is here.
    pub podman: Option<Option<PathBuf>>,
    /// The kubelet, where it is here.
    pub kubelet: Option<Kubelet>,
}

/// What is known of containerd.
#[derive(Debug, Clone, Default)]
pub struct Containerd {
    /// The first number of its version.
    pub major: Option<u32>,
    /// Why its configuration cannot be read.
    pub problem: Option<String>,
    /// The handler's program, by what is in force.
    pub handler: Option<PathBuf>,
    /// The handler is in a file of ours that its configuration does not import.
    pub not_imported: bool,
    /// Whether its CRI makes checkpoints, where it says so.
    pub enable_criu: Option<bool>,
}

/// What is known of CRI-O.
#[derive(Debug, Clone, Default)]
pub struct Crio {
    /// Why its configuration cannot be read.
    pub problem: Option<String>,
    /// The handler's program.
    pub handler: Option<PathBuf>,
    /// `container_level_enabled`, where it says so.
    pub level: Option<String>,
    /// `enable_criu_support`, where it says so.
    pub support: Option<bool>,
    /// `drop_infra_ctr`, where it says so.
    pub drop_infra: Option<bool>,
}

/// What is known of Docker.
#[derive(Debug, Clone, Default)]
pub struct Docker {
    /// Why its configuration cannot be read.
    pub problem: Option<String>,
    /// The runtime's program.
    pub runtime: Option<PathBuf>,
}

/// What is known of the kubelet.
#[derive(Debug, Clone, Default)]
pub struct Kubelet {
    /// Its version.
    pub version: Option<(u32, u32)>,
    /// Why its configuration cannot be read.
    pub problem: Option<String>,
    /// Whether it checkpoints containers; none where that cannot be told.
    pub checkpoints: Option<bool>,
    /// Whether it waits for pods when the node goes down.
    pub waits: bool,
}

impl NodeFindings {
    /// Looks at a node. Engines are asked what is in force.
    #[must_use]
    pub fn examine(site: &Site) -> NodeFindings {
        let handler = site.prefix.join("bin/torpor-runtime");
        NodeFindings {
            handler_there: site.on_machine(&handler).is_file(),
            installed: Ledger::read(&site.here()).is_ok_and(|ledger| ledger.is_some()),
            criu: private_criu(site),
            runtime: runtime(),
            settings: settings(),
            containerd: site.has(&containerd::PROGRAMS).then(|| examine_containerd(site)),
            crio: site.has(&crio::PROGRAMS).then(|| examine_crio(site)),
            docker: site.has(&docker::PROGRAMS).then(|| examine_docker(site)),
            podman: site.has(&podman::PROGRAMS).then(|| {
                let text = site.read(podman::DROP_IN).ok().flatten().unwrap_or_default();
                containerd::parse(&text).ok().as_ref().and_then(podman::runtime)
            }),
            kubelet: examine_kubelet(site),
            handler,
        }
    }
}

fn private_criu(site: &Site) -> Option<Result<String, String>> {
    let directory = site.here().join("criu");
    directory.exists().then(|| {
        let found = criu_bundle::find(Some(&directory));
        let version = found.and_then(|found| criu_bundle::version(&found.program));
        version
            .map(|version| format!("{version}, in {}", directory.display()))
            .map_err(|error| error.to_string())
    })
}

fn runtime() -> Result<PathBuf, String> {
    let named = Settings::load().ok().and_then(|settings| settings.runtime);
    let find = |flavor| Runtime::find(flavor, named.as_deref());
    match find(Flavor::Runc).or_else(|error| find(Flavor::Crun).map_err(|_| error)) {
        Ok(found) if found.program().is_file() => Ok(found.program().to_owned()),
        Ok(found) => Err(format!("there is no {}", found.program().display())),
        Err(error) => Err(error.to_string()),
    }
}

fn settings() -> Result<String, (String, &'static str)> {
    let settings = Settings::load().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        (format!("{error}{cause}"), error.remedy())
    })?;
    let mut stores = Vec::new();
    for store in &settings.stores {
        match store.directory() {
            Some(_) => stores.push(store.url.clone()),
            None => {
                return Err((
                    format!("its store {} is no directory", store.url),
                    "name it by its whole path, as file:///PATH, in /etc/torpor/runtime.yaml",
                ));
            }
        }
    }
    Ok(format!("checkpoints are looked for in {}", stores.join(", ")))
}

fn told(error: &InstallError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn examine_containerd(site: &Site) -> Containerd {
    let major = site.ask("containerd", &["--version"]).and_then(Result::ok);
    let major = major.and_then(|said| containerd::major(&said));
    let read = |path: &str| site.read(path).map_err(|error| told(&error));
    let text = match site.ask("containerd", &["config", "dump"]) {
        Some(dump) => dump,
        // Nobody can be asked: what the files say, then.
        None => read(containerd::CONFIG).map(Option::unwrap_or_default),
    };
    let document = text.and_then(|text| containerd::parse(&text));
    let ours = read(containerd::DROP_IN).ok().flatten().and_then(|text| containerd::parse(&text).ok());
    let main = read(containerd::CONFIG).ok().flatten().and_then(|text| containerd::parse(&text).ok());
    let ours_counts = main.as_ref().is_some_and(containerd::imports_ours);
    match document {
        Err(problem) => Containerd { major, problem: Some(problem), ..Containerd::default() },
        Ok(document) => {
            let imported = ours.as_ref().filter(|_| ours_counts);
            let say = |document: &DocumentMut| containerd::handler(document);
            Containerd {
                major,
                problem: None,
                handler: say(&document).or_else(|| imported.and_then(say)),
                not_imported: ours.is_some() && !ours_counts,
                enable_criu: containerd::enable_criu(&document)
                    .or_else(|| imported.and_then(containerd::enable_criu)),
            }
        }
    }
}

fn examine_crio(site: &Site) -> Crio {
    let mut found = Crio::default();
    let mut files = vec![PathBuf::from(crio::CONFIG)];
    let mut beside: Vec<PathBuf> = fs::read_dir(site.on_machine(Path::new(crio::DIRECTORY)))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Path::new(crio::DIRECTORY).join(entry.file_name()))
        .collect();
    beside.sort();
    files.append(&mut beside);
    for path in files {
        let text = site.read(&path.display().to_string()).map_err(|error| told(&error));
        match text.and_then(|text| containerd::parse(&text.unwrap_or_default())) {
            Ok(document) => crio::read(&document, &mut found),
            Err(problem) => found.problem = Some(format!("{}: {problem}", path.display())),
        }
    }
    found
}

fn examine_docker(site: &Site) -> Docker {
    match site.read(docker::CONFIG) {
        Err(error) => Docker { problem: Some(told(&error)), runtime: None },
        Ok(None) => Docker::default(),
        Ok(Some(text)) => match docker::runtime(&text) {
            Ok(runtime) => Docker { problem: None, runtime },
            Err(error) => Docker { problem: Some(format!("{}: {error}", docker::CONFIG)), runtime: None },
        },
    }
}

fn examine_kubelet(site: &Site) -> Option<Kubelet> {
    let failed =
        |version, error: &InstallError| Kubelet { version, problem: Some(told(error)), ..Kubelet::default() };
    match kubelet::Kubelet::on(site) {
        Err(error) => Some(failed(None, &error)),
        Ok(None) => None,
        Ok(Some(kubelet)) => {
            let version = kubelet.version;
            Some(kubelet.existing().map_or_else(
                |error| failed(version, &error),
                |existing: Existing| Kubelet {
                    version,
                    problem: None,
                    checkpoints: existing.checkpoints(version),
                    waits: existing.waits(),
                },
            ))
        }
    }
}

//! Finding a container: by its ID, the beginning of one, its name, or its place in a pod.
//!
//! Where the runtimes keep their states follows from who calls them: by hand (`/run/runc`, `/run/crun`; Podman and CRI-O
//! leave it at that), containerd (`/run/containerd/runc/NAMESPACE`; containerd, `pkg/process/init.go`), Docker
//! (`/run/docker/runtime-runc/moby`). Whose layout a state has shows in the state itself, because every engine can be
//! told to use the other runtime.

mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::freezer::Freezer;
use super::state::{Container, Engine, Flavor, Status};
use names::Names;

/// The largest state or configuration that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// Which container is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// By ID, the beginning of an ID, or name.
    Container(String),
    /// By its pod, and by its name where the pod has several.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container's name in the pod.
        container: Option<String>,
    },
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Query::Container(name) => write!(f, "container:{name}"),
            Query::Pod { namespace, pod, container: None } => write!(f, "pod:{namespace}/{pod}"),
            Query::Pod { namespace, pod, container: Some(name) } => write!(f, "pod:{namespace}/{pod}/{name}"),
        }
    }
}

/// Words that name no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no container: write container:ID-OR-NAME or pod:NAMESPACE/POD[/CONTAINER]")]
pub struct NotAQuery(pub String);

impl FromStr for Query {
    type Err = NotAQuery;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || NotAQuery(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(refused());
        }
        match (kind, parts.as_slice()) {
            ("container", [name]) => Ok(Query::Container((*name).to_owned())),
            ("pod", [namespace, pod, container @ ..]) if container.len() <= 1 => Ok(Query::Pod {
                namespace: (*namespace).to_owned(),
                pod: (*pod).to_owned(),
                container: container.first().map(|name| (*name).to_owned()),
            }),
            _ => Err(refused()),
        }
    }
}

/// Why a container cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// There is none.
    #[error("there is no {query}: looked in {}", list(looked))]
    None {
        /// What was asked for.
        query: Query,
        /// Directories that were looked in.
        looked: Vec<PathBuf>,
    },
    /// There are several.
    #[error("{query} may be any of {}", found.join(", "))]
    Several {
        /// What was asked for.
        query: Query,
        /// Which there are.
        found: Vec<String>,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no state of a container.
    #[error("{} is not the state of a container as runc or crun write it", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if texts.is_empty() {
        "none of the runtimes' directories, for none is there".to_owned()
    } else {
        texts.join(", ")
    }
}

impl FindError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            FindError::None { .. } => {
                "see that it runs; where its runtime keeps its state elsewhere, name that directory with --runtime-root"
            }
            FindError::Several { .. } => "give more of the ID, or the container's name in the pod",
            FindError::Read { .. } => "run this as root, on the node and outside of any container",
            FindError::State { .. } => {
                "see whether another program wrote it; runc 1.1 and crun 1.8 or newer are known"
            }
        }
    }
}

/// Where states are looked for.
#[derive(Debug, Clone)]
pub struct Roots {
    /// What stands before every path; `/` but in tests.
    prefix: PathBuf,
    /// Directories named besides.
    extra: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Roots { prefix: PathBuf::from("/"), extra: Vec::new() }
    }
}

impl Roots {
    /// The usual places, and `extra`.
    #[must_use]
    pub fn with(extra: Vec<PathBuf>) -> Roots {
        Roots { extra, ..Roots::default() }
    }

    /// The directories that there are, each with who uses it.
    fn directories(&self) -> Vec<(PathBuf, Engine)> {
        let mut all: Vec<(PathBuf, Engine)> =
            self.extra.iter().map(|directory| (directory.clone(), Engine::None)).collect();
        for bare in ["run/runc", "run/crun"] {
            all.push((self.prefix.join(bare), Engine::None));
        }
        for (namespace, directory) in entries(&self.prefix.join("run/containerd/runc")) {
            let engine = if namespace == "moby" { Engine::Docker } else { Engine::Containerd { namespace } };
            all.push((directory, engine));
        }
        for (name, directory) in entries(&self.prefix.join("run/docker")) {
            if name.starts_with("runtime-") {
                all.extend(entries(&directory).into_values().map(|directory| (directory, Engine::Docker)));
            }
        }
        all.retain(|(directory, _)| directory.is_dir());
        all
    }

    /// All containers whose state can be read. One that cannot hides no other.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        let names = Names::read(&self.prefix);
        let mut all = Vec::new();
        for (root, engine) in self.directories() {
            for (id, directory) in entries(&root) {
                match read(&root, &id, &directory) {
                    Ok(Some(mut container)) => {
                        container.engine = engine_of(&container, engine.clone());
                        container.names = names.of(&container);
                        container.made_from = names.image_of(&container);
                        all.push(container);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, id, "the state of a container cannot be read"),
                }
            }
        }
        all
    }

    /// The one that is meant.
    ///
    /// # Errors
    /// [`FindError`]: there is none, there are several, or its state cannot be read.
    pub fn find(&self, query: &Query) -> Result<Container, FindError> {
        let all = self.containers();
        let mut found = matching(query, &all);
        match found.len() {
            1 => Ok(found.remove(0).clone()),
            0 => {
                // The state of the very one that is meant may be what cannot be read.
                if let Query::Container(id) = query {
                    for (root, _) in self.directories() {
                        read(&root, id, &root.join(id))?;
                    }
                }
                let looked = self.directories().into_iter().map(|(directory, _)| directory).collect();
                Err(FindError::None { query: query.clone(), looked })
            }
            _ => {
                let found = found.into_iter().map(|container| told(query, container)).collect();
                Err(FindError::Several { query: query.clone(), found })
            }
        }
    }
}

impl Roots {
    /// All that are meant: one, or those of a whole pod that run.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_all(&self, query: &Query) -> Result<Vec<Container>, FindError> {
        if !matches!(query, Query::Pod { container: None, .. }) {
            return Ok(vec![self.find(query)?]);
        }
        let all = self.containers();
        let mut found: Vec<Container> = matching(query, &all)
            .into_iter()
            .filter(|container| container.status() != Status::Stopped)
            .cloned()
            .collect();
        found.sort_by_key(|container| container.pod().map(|place| place.container));
        match found.is_empty() {
            true => Ok(vec![self.find(query)?]),
            false => Ok(found),
        }
    }
}

/// What tells one of several from the others.
fn told(query: &Query, container: &Container) -> String {
    match (query, container.pod()) {
        (Query::Pod { .. }, Some(place)) => place.container,
        _ => format!("{} ({})", container.id, container.root.display()),
    }
}

/// The containers that a query means: an ID or name as it is goes before the beginning of an ID.
fn matching<'a>(query: &Query, all: &'a [Container]) -> Vec<&'a Container> {
    let those = |test: &dyn Fn(&Container) -> bool| all.iter().filter(|one| test(one)).collect::<Vec<_>>();
    match query {
        Query::Container(name) => {
            let exactly = those(&|one| one.id == *name || one.names.contains(name));
            if exactly.is_empty() { those(&|one| one.id.starts_with(name.as_str())) } else { exactly }
        }
        Query::Pod { namespace, pod, container } => those(&|one| {
            one.pod().is_some_and(|place| {
                place.namespace == *namespace
                    && place.pod == *pod
                    && container.as_ref().is_none_or(|name| place.container == *name)
            })
        }),
    }
}

/// Podman and CRI-O leave the runtime's directory as it is, and show in annotations and in where the bundle is.
fn engine_of(container: &Container, by_place: Engine) -> Engine {
    let annotations = &container.description.annotations;
    if by_place != Engine::None {
        by_place
    } else if annotations.contains_key("io.kubernetes.cri-o.ContainerID") {
        Engine::CriO
    } else if annotations.get("io.container.manager").is_some_and(|manager| manager == "libpod") {
        Engine::Podman
    } else {
        Engine::None
    }
}

/// Reads the state in `directory`; none where it is no container's.
fn read(root: &Path, id: &str, directory: &Path) -> Result<Option<Container>, FindError> {
    let file = |name: &str| contents(&directory.join(name));
    let state = |name: &str, source| FindError::State { path: directory.join(name), source };
    let runc = Flavor::Runc.state_file();
    if let Some(bytes) = file(runc)? {
        let mut container = Container::from_runc(&bytes, root).map_err(|source| state(runc, source))?;
        // runc keeps neither the command nor annotations in a form of its own: the bundle has them.
        if let Ok(Some(config)) = contents(&container.bundle.join("config.json"))
            && let Ok(description) = super::state::Description::from_oci(&config)
        {
            container.description.command = description.command;
        }
        return Ok(Some(container));
    }
    let crun = Flavor::Crun.state_file();
    let (Some(bytes), Some(config)) = (file(crun)?, file("config.json")?) else { return Ok(None) };
    Container::from_crun(&bytes, &config, (root, id), Freezer::named)
        .map(Some)
        .map_err(|source| state(crun, source))
}

/// A file's content; none where there is no such file.
fn contents(path: &Path) -> Result<Option<Vec<u8>>, FindError> {
    use std::io::Read;
    let failed = |source| FindError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// The entries of a directory with Unicode names, sorted; none where it cannot be read.
fn entries(directory: &Path) -> BTreeMap<String, PathBuf> {
    let listed = std::fs::read_dir(directory).into_iter().flatten().flatten();
    listed.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

#[cfg(test)]
mod tests;

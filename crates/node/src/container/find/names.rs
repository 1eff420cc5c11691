//! The names that engines give to containers, which the runtimes do not know.
//!
//! Podman and CRI-O: `containers.json` and `volatile-containers.json` of the storage (containers/storage,
//! `containers.go`). Docker: `config.v2.json` (moby, `daemon/container/container.go`). containerd keeps none; nerdctl
//! has an annotation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{contents, entries};
use crate::container::state::{Container, Engine, MadeFrom};

const STORAGE: &str = "var/lib/containers/storage";
const DOCKER: &str = "var/lib/docker/containers";
const ANNOTATIONS: [&str; 3] = ["nerdctl/name", "io.podman.annotations.name", "io.kubernetes.cri-o.Name"];

/// All names that the storage knows, by ID.
#[derive(Debug, Default)]
pub(super) struct Names {
    stored: HashMap<String, Stored>,
    docker: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// The image's ID.
    #[serde(default)]
    image: Option<String>,
    /// What the engine keeps with it: a JSON document.
    #[serde(default)]
    metadata: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Metadata {
    image_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    name: String,
    /// The image's ID, after the algorithm.
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    config: DockerConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    /// The image as it was named, which may be by its ID.
    #[serde(default)]
    image: Option<String>,
}

impl Names {
    pub(super) fn read(prefix: &Path) -> Names {
        let mut stored = HashMap::new();
        for (driver, directory) in entries(&prefix.join(STORAGE)) {
            if !driver.ends_with("-containers") {
                continue;
            }
            for file in ["containers.json", "volatile-containers.json"] {
                let Ok(Some(bytes)) = contents(&directory.join(file)) else { continue };
                let listed: Vec<Stored> = serde_json::from_slice(&bytes).unwrap_or_default();
                stored.extend(listed.into_iter().map(|one| (one.id.clone(), one)));
            }
        }
        Names { stored, docker: prefix.join(DOCKER) }
    }

    /// Those of one container.
    pub(super) fn of(&self, container: &Container) -> Vec<String> {
        let annotations = &container.description.annotations;
        let mut names = self.stored.get(&container.id).map(|stored| stored.names.clone()).unwrap_or_default();
        names.extend(ANNOTATIONS.iter().filter_map(|key| annotations.get(*key).cloned()));
        if let Some(docker) = self.docker(container) {
            names.push(docker.name.trim_start_matches('/').to_owned());
        }
        names.sort();
        names.dedup();
        names
    }

    /// The image of one container.
    pub(super) fn image_of(&self, container: &Container) -> MadeFrom {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(docker) = self.docker(container) {
            let id = docker.image.map(|id| id.trim_start_matches("sha256:").to_owned());
            let name = docker.config.image.filter(|name| id.as_ref().is_none_or(|id| !is_id(name, id)));
            return MadeFrom { name: filled(name).map(in_full), id: filled(id) };
        }
        let Some(stored) = self.stored.get(&container.id) else { return MadeFrom::default() };
        let Metadata { image_name } = serde_json::from_str(&stored.metadata).unwrap_or_default();
        MadeFrom { name: filled(image_name), id: filled(stored.image.clone()) }
    }

    /// What Docker keeps of a container of its own.
    fn docker(&self, container: &Container) -> Option<Docker> {
        if container.engine != Engine::Docker {
            return None;
        }
        let bytes = contents(&self.docker.join(&container.id).join("config.v2.json")).ok()??;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Whether an image was named by its ID, or the beginning of one.
fn is_id(name: &str, id: &str) -> bool {
    let name = name.trim_start_matches("sha256:");
    name.len() >= 4 && id.starts_with(name)
}

/// Docker keeps an image's name as it was typed: without the registry where its own is meant, and without the tag where that is
/// `latest` (distribution/reference, `normalize.go`).
fn in_full(name: String) -> String {
    let last = name.rsplit('/').next().unwrap_or(&name);
    let tag = if last.contains([':', '@']) { "" } else { ":latest" };
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => format!("{name}{tag}"),
        Some(_) => format!("docker.io/{name}{tag}"),
        None => format!("docker.io/library/{name}{tag}"),
    }
}

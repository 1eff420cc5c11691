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
struct Docker {
    #[serde(rename = "Name")]
    name: String,
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
        if container.engine == Engine::Docker
            && let Ok(Some(bytes)) = contents(&self.docker.join(&container.id).join("config.v2.json"))
            && let Ok(Docker { name }) = serde_json::from_slice(&bytes)
        {
            names.push(name.trim_start_matches('/').to_owned());
        }
        names.sort();
        names.dedup();
        names
    }

    /// The image of one container.
    pub(super) fn image_of(&self, container: &Container) -> MadeFrom {
        let Some(stored) = self.stored.get(&container.id) else { return MadeFrom::default() };
        let Metadata { image_name } = serde_json::from_str(&stored.metadata).unwrap_or_default();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        MadeFrom { name: filled(image_name), id: filled(stored.image.clone()) }
    }
}

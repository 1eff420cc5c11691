//! Whose checkpoint it is, as every engine's documents need it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::LayoutError;
use crate::Checkpoint;
use crate::engine::{self, Engine, Pod, document};

/// A container, as the documents of any engine need it.
#[derive(Debug, Clone)]
pub struct Description {
    /// Who made the checkpoint.
    pub engine: Engine,
    /// The container's id: 64 hexadecimal digits.
    pub id: String,
    /// Its name; in a pod, the one it has there.
    pub name: String,
    /// The pod it was in.
    pub pod: Option<Pod>,
    /// Its image, by a name with a tag.
    pub image: Option<String>,
    /// The same by its digest, as `NAME@sha256:…`, where that is known.
    pub image_reference: Option<String>,
    /// The digest of the image's configuration: 64 hexadecimal digits.
    pub image_id: Option<String>,
    /// What ran it, such as `runc`.
    pub runtime: Option<String>,
    /// Labels that its engine or user gave it.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When the checkpoint was made.
    pub checkpointed: Option<Timestamp>,
    /// How it was made (the OCI runtime specification's `config.json`).
    pub spec: Option<Value>,
    changed: bool,
}

impl Description {
    /// What the documents in a checkpoint say.
    ///
    /// # Errors
    /// Where one of them is there and cannot be read.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self, LayoutError> {
        let container = engine::container(checkpoint)?;
        let status = document(checkpoint, "status.dump")?;
        let config = document(checkpoint, "config.dump")?;
        let image = container.image.unwrap_or(engine::Image { name: None, requested: None, id: None });
        let of_config = |key: &str| config.as_ref()?.get(key)?.as_str().map(str::to_owned);
        let reference = image.id.filter(|id| !id.is_empty());
        let id = of_config("rootfsImageID").or_else(|| reference.clone()).as_deref().and_then(bare_digest);
        let labels = status.as_ref().or(config.as_ref()).and_then(|document| document.get("labels"));
        Ok(Self {
            engine: container.engine,
            id: container.id.filter(|id| is_hex(id)).unwrap_or_else(|| made_up_id(checkpoint)),
            name: container.name.unwrap_or_else(|| "restored".to_owned()),
            pod: container.pod.filter(|pod| pod.name.is_some()),
            image: image.name,
            image_reference: reference.filter(|reference| reference.contains('@')),
            image_id: id,
            runtime: container.runtime,
            labels: texts(labels),
            created: container.created,
            checkpointed: container.checkpointed,
            spec: document(checkpoint, "spec.dump")?,
            changed: false,
        })
    }

    /// Gives it another name.
    pub fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.name);
        self.changed = true;
    }

    /// Gives its image another name, and its ID where it is known.
    pub fn set_image(&mut self, image: Option<&str>, id: Option<&str>) {
        if let Some(image) = image {
            self.image = Some(image.to_owned());
            self.image_reference = image.contains('@').then(|| image.to_owned());
        }
        if let Some(id) = id {
            self.image_id = bare_digest(id).or_else(|| Some(id.to_owned()));
        }
        self.changed |= image.is_some() || id.is_some();
    }

    /// Says how the container was made.
    pub fn set_spec(&mut self, spec: Value) {
        self.spec = Some(spec);
        self.changed = true;
    }

    /// Whether nothing of it is other than in the checkpoint it was read from.
    #[must_use]
    pub fn is_as_read(&self) -> bool {
        !self.changed
    }

    /// When the checkpoint was made, in seconds since 1970; what is written has this time.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.checkpointed.map_or(0, |moment| u64::try_from(moment.as_second()).unwrap_or(0))
    }

    /// A moment in RFC 3339, as Go's JSON has it: one in the year 1 for none.
    pub(super) fn time(moment: Option<Timestamp>) -> String {
        moment.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |moment| moment.to_string())
    }

    /// A namespace as the container's specification has it: none where it has none of that kind, its path where it is one
    /// that was there before.
    pub(super) fn namespace(&self, kind: &str) -> Option<Option<&str>> {
        let all = self.spec.as_ref()?.get("linux")?.get("namespaces")?.as_array()?;
        let found = all.iter().find(|namespace| namespace["type"] == kind)?;
        Some(found.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()))
    }
}

/// A digest without its algorithm, where a text is one and nothing else.
fn bare_digest(text: &str) -> Option<String> {
    let digest = text.strip_prefix("sha256:").unwrap_or(text);
    is_hex(digest).then(|| digest.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An id for a container that has none: always the same for the same checkpoint.
fn made_up_id(checkpoint: &Checkpoint) -> String {
    let prefix = checkpoint.layers().first().map_or("", |layer| layer.prefix.as_str());
    let inventory = checkpoint.entry(&format!("{prefix}inventory.img"));
    let bytes = inventory.and_then(|entry| checkpoint.bytes(entry, 1 << 20).ok()).unwrap_or_default();
    blake3::hash(&bytes).to_hex().to_string()
}

fn texts(object: Option<&Value>) -> BTreeMap<String, String> {
    let all = object.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

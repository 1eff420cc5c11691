//! Images: made of checkpoints, and moved from one place to another.
//!
//! An image comes from an [`Origin`] and goes to a [`Depot`]: a layout directory, an archive of one, or a registry. Blobs are written as
//! they are read or made, once, and every digest is checked on the way.
//!
//! Formats: OCI image specification 1.1 (`manifest.md`, `config.md`, `layer.md`, `image-index.md`, `image-layout.md`). Docker's manifests
//! (distribution, `docs/content/spec/manifest-v2-2.md`) are read.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

mod annotations;
mod archive;
mod build;
mod copy;
mod digest;
mod error;
mod image;
mod layout;
mod parcel;

pub use annotations::{CHECKPOINT, annotations};
pub use archive::{ArchiveDepot, ArchiveOrigin};
pub use build::{BELOW, Recipe, build};
pub use copy::copy;
pub use digest::Digest;
pub(crate) use digest::Hashing;
pub use error::OciError;
pub use image::{Copied, Image};
pub use layout::Layout;
pub use parcel::{Parcel, unpack};

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Largest document: manifests have at most 4 MiB by the distribution specification.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// Types of documents and layers.
pub(crate) mod media {
    pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What a blob is referred to by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The processor, as Go calls it.
    pub architecture: String,
    /// The system.
    pub os: String,
    /// What else is said.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// An image's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What else is in it.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// A list of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) others: BTreeMap<String, serde_json::Value>,
}

impl Index {
    fn empty() -> Self {
        Self {
            schema_version: 2,
            media_type: media::INDEX.to_owned(),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
            others: BTreeMap::new(),
        }
    }

    /// The document with an image under a tag, instead of the one that had it.
    fn with(
        mut self,
        mut manifest: Descriptor,
        tag: &str,
        annotations: &BTreeMap<String, String>,
        place: &str,
    ) -> Result<Vec<u8>, OciError> {
        self.manifests.retain(|other| other.annotations.get(REF_NAME).is_none_or(|name| name != tag));
        manifest.annotations.clone_from(annotations);
        manifest.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        self.manifests.push(manifest);
        self.annotations = match self.manifests.len() {
            // containerd looks for annotations on whatever a name stands for.
            1 => annotations.clone(),
            _ => BTreeMap::new(),
        };
        serde_json::to_vec(&self).map_err(|source| OciError::Document {
            place: place.to_owned(),
            entry: "index.json".to_owned(),
            source,
        })
    }
}

/// Where an image comes from.
pub trait Origin: std::fmt::Debug {
    /// What it is called, for people.
    fn name(&self) -> String;

    /// The document that the name stands for: a manifest or an index, with its descriptor.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    fn top(&self) -> Result<(Descriptor, Vec<u8>), OciError>;

    /// A blob, from byte `offset` on.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + '_>, OciError>;

    /// The repository it is in, where it is one of a registry: other repositories there may take its blobs over.
    fn repository(&self) -> Option<(&str, &str)> {
        None
    }
}

/// What writes a blob.
pub type Writer<'a> = dyn FnMut(&mut dyn Write) -> Result<(), OciError> + 'a;

/// Where an image goes.
pub trait Depot {
    /// What it is called, for people.
    fn name(&self) -> String;

    /// Whether a blob is there already, or can be had from the origin without moving it.
    ///
    /// # Errors
    /// Where that cannot be found out.
    fn has(&mut self, blob: &Descriptor, from: Option<&dyn Origin>) -> Result<bool, OciError>;

    /// Writes a blob, whose digest is known only then. Where it must be another, it is refused.
    ///
    /// # Errors
    /// Where it cannot be written, or is not what was expected.
    fn put(
        &mut self,
        expected: Option<&Descriptor>,
        write: &mut Writer<'_>,
    ) -> Result<(Digest, u64), OciError>;

    /// Has a name stand for a manifest or an index, whose blobs are all there.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn publish(
        &mut self,
        manifest: &Descriptor,
        bytes: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), OciError>;

    /// Writes a further document that an index refers to.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn document(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), OciError> {
        self.put(Some(descriptor), &mut |output| {
            output
                .write_all(bytes)
                .map_err(|source| OciError::Output { entry: descriptor.digest.to_string(), source })
        })?;
        Ok(())
    }

    /// Makes what was written last.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn finish(self: Box<Self>) -> Result<(), OciError>;
}

/// Reads a document, which is small.
fn document(origin: &dyn Origin, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
    let entry = descriptor.digest.to_string();
    if descriptor.size > MAX_DOCUMENT {
        return Err(OciError::TooLarge { place: origin.name(), entry, size: descriptor.size });
    }
    let mut bytes = Vec::new();
    origin
        .open(descriptor, 0)?
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| OciError::Read { place: origin.name(), entry: entry.clone(), source })?;
    let found = Digest::of(&bytes);
    if found != descriptor.digest {
        return Err(OciError::Digest { place: origin.name(), expected: descriptor.digest.clone(), found });
    }
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(place: &str, entry: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Document {
        place: place.to_owned(),
        entry: entry.to_owned(),
        source,
    })
}

/// Whether a type is that of a list of images.
fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::INDEX | media::DOCKER_LIST)
}

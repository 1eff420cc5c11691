//! Checkpoints in OCI images: a layout directory, or an archive of one.
//!
//! Formats: OCI image specification 1.1, `image-layout.md`, `image-index.md`, `manifest.md`. Who puts checkpoints into images:
//! checkpointctl's `build` and Podman's `--create-image` (a layer with the archive unpacked), containerd (an index whose
//! manifests are the archive's parts), Torpor (a layer with the archive unpacked below [`BELOW`]).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::bytes::{Bytes, EntryBytes, FileBytes, Ordered, read_exact_at};
use super::place::open_bytes;
use super::tar::normal;
use super::{Assurance, Compression, Digest, Entry, EntryKind, Limits, Part, Remark, Source, SourceError};
use crate::oci::BELOW;

/// Largest document: manifests have at most 4 MiB by the distribution specification.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Most indexes inside of each other.
const MAX_DEPTH: usize = 4;
/// Most documents and layers that are looked at.
const MAX_BLOBS: usize = 256;
/// Bytes that are hashed at once.
const CHUNK: usize = 256 << 10;

/// What an index, a manifest or a layer is referred to by.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// An index, or a manifest.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Where blobs are.
#[derive(Debug)]
enum Blobs {
    Directory(PathBuf),
    Archive(Arc<dyn Source>),
}

impl Blobs {
    /// A file of the layout, by its path.
    fn open(&self, place: &str, name: &str) -> Result<Arc<dyn Bytes>, SourceError> {
        let failed = |source| SourceError::Entry { place: place.to_owned(), entry: name.to_owned(), source };
        match self {
            Self::Directory(path) => {
                let file = File::open(path.join(name)).map_err(failed)?;
                if !file.metadata().map_err(failed)?.is_file() {
                    return Err(SourceError::NoBody { place: place.to_owned(), entry: name.to_owned() });
                }
                Ok(Arc::new(FileBytes::new(file, 0).map_err(failed)?))
            }
            Self::Archive(source) => {
                let entry = source.entries().iter().find(|entry| entry.name == name).cloned();
                let entry = entry.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
                entry.check_range(place, 0, 0)?;
                Ok(Arc::new(EntryBytes::new(Arc::clone(source), entry)))
            }
        }
    }
}

/// The layer of an image that a checkpoint is in.
#[derive(Debug)]
pub struct Image {
    name: String,
    layer: Box<dyn Source>,
    descriptor: Descriptor,
    blob: Arc<dyn Bytes>,
}

impl Image {
    /// Opens the checkpoint in a layout directory. Where it has several images, `reference` names one.
    ///
    /// # Errors
    /// Where the layout cannot be read, a digest is wrong, or no layer holds a checkpoint.
    pub fn open(path: &Path, reference: Option<&str>, limits: &Limits) -> Result<Self, SourceError> {
        let name = format!("oci:{}", path.display());
        Self::find(name, &Blobs::Directory(path.to_owned()), reference, limits)
    }

    /// As [`Image::open`], for an archive with a layout in it.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn inside(
        archive: Arc<dyn Source>,
        reference: Option<&str>,
        limits: &Limits,
    ) -> Result<Self, SourceError> {
        Self::find(archive.name().to_owned(), &Blobs::Archive(archive), reference, limits)
    }

    fn find(
        name: String,
        blobs: &Blobs,
        reference: Option<&str>,
        limits: &Limits,
    ) -> Result<Self, SourceError> {
        let index = blobs.open(&name, "index.json")?;
        let index = parse(&name, "index.json", &small(&name, "index.json", &*index)?)?;
        let named = |descriptor: &&Descriptor| match reference {
            None => true,
            Some(wanted) => {
                descriptor.digest == wanted
                    || descriptor.annotations.get(REF_NAME).is_some_and(|name| name == wanted)
            }
        };
        let mut left: Vec<(Descriptor, usize)> =
            index.manifests.iter().filter(named).map(|descriptor| (descriptor.clone(), 0)).collect();
        if let (true, Some(reference)) = (left.is_empty(), reference) {
            return Err(SourceError::NoReference { place: name, reference: reference.to_owned() });
        }
        let (mut seen, mut refusal) = (0, None);
        while let Some((descriptor, depth)) = left.pop() {
            seen += 1;
            if seen > MAX_BLOBS || depth > MAX_DEPTH {
                return Err(SourceError::TooDeep { place: name, limit: MAX_BLOBS });
            }
            let path = blob_path(&name, &descriptor)?;
            let blob = blobs.open(&name, &path)?;
            if !descriptor.media_type.contains("json") || descriptor.media_type.contains("tar") {
                match Self::layer(&name, &path, descriptor, blob, limits) {
                    Ok(Some(image)) => return Ok(image),
                    Ok(None) => {}
                    Err(error) => refusal = Some(error),
                }
                continue;
            }
            let bytes = small(&name, &path, &*blob)?;
            let found = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
            if found != descriptor.digest {
                return Err(wrong(&name, &path, &descriptor, found));
            }
            let document = parse(&name, &path, &bytes)?;
            // What is added last is looked at first: of images the first one, of layers the uppermost.
            let children = document.manifests.into_iter().rev().chain(document.layers);
            left.extend(children.map(|child| (child, depth + 1)));
        }
        Err(refusal.unwrap_or(SourceError::NoImages { place: name }))
    }

    /// The layer, if it holds a checkpoint.
    fn layer(
        name: &str,
        path: &str,
        descriptor: Descriptor,
        blob: Arc<dyn Bytes>,
        limits: &Limits,
    ) -> Result<Option<Self>, SourceError> {
        let place = format!("{name} ({path})");
        let layer = match open_bytes(place, Arc::clone(&blob), limits, None) {
            // Configurations and the like are blobs too.
            Err(SourceError::NoArchive { .. }) => return Ok(None),
            layer => layer?,
        };
        let holds = layer.entries().iter().any(|entry| entry.name.ends_with("inventory.img"));
        let own = layer.entries().iter().any(|entry| entry.name.starts_with(BELOW));
        let layer = if own { Box::new(Part::new(layer.into(), BELOW)) } else { layer };
        Ok(holds.then(|| Self { name: name.to_owned(), layer, descriptor, blob }))
    }
}

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where a blob is, by its digest.
fn blob_path(place: &str, descriptor: &Descriptor) -> Result<String, SourceError> {
    let refused = || SourceError::NoDigest {
        place: place.to_owned(),
        digest: descriptor.digest.chars().take(128).collect(),
    };
    let hash = descriptor.digest.strip_prefix("sha256:").ok_or_else(refused)?;
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    normal(&format!("blobs/sha256/{hash}")).map_err(|_| refused())
}

fn small(place: &str, name: &str, bytes: &dyn Bytes) -> Result<Vec<u8>, SourceError> {
    if bytes.size() > MAX_DOCUMENT {
        return Err(SourceError::TooLarge {
            place: place.to_owned(),
            entry: name.to_owned(),
            size: bytes.size(),
            limit: MAX_DOCUMENT,
        });
    }
    let mut read = vec![0; bytes.size() as usize];
    read_exact_at(bytes, 0, &mut read).map_err(|source| SourceError::Entry {
        place: place.to_owned(),
        entry: name.to_owned(),
        source,
    })?;
    Ok(read)
}

fn parse(place: &str, name: &str, bytes: &[u8]) -> Result<Document, SourceError> {
    serde_json::from_slice(bytes).map_err(|source| SourceError::Document {
        place: place.to_owned(),
        entry: name.to_owned(),
        source,
    })
}

fn wrong(place: &str, entry: &str, descriptor: &Descriptor, found: String) -> SourceError {
    SourceError::Digest {
        place: place.to_owned(),
        entry: entry.to_owned(),
        expected: descriptor.digest.clone(),
        found,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Source for Image {
    fn name(&self) -> &str {
        &self.name
    }

    fn entries(&self) -> &[Entry] {
        self.layer.entries()
    }

    fn read_at(&self, entry: &Entry, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.layer.read_at(entry, offset, into)
    }

    fn random_access(&self) -> bool {
        self.layer.random_access()
    }

    fn remarks(&self) -> &[Remark] {
        self.layer.remarks()
    }

    fn digest(&self, entry: &Entry) -> Option<Digest> {
        self.layer.digest(entry)
    }

    fn assurance(&self) -> Assurance {
        Assurance::Digests("digest of the image's layer")
    }

    fn verify(&self) -> Result<(), SourceError> {
        let path = blob_path(&self.name, &self.descriptor)?;
        if self.descriptor.size != 0 && self.descriptor.size != self.blob.size() {
            return Err(SourceError::Short {
                place: self.name.clone(),
                entry: path,
                size: self.blob.size(),
                wanted: self.descriptor.size,
            });
        }
        let mut hasher = Sha256::new();
        let mut ordered = Ordered::new(Arc::clone(&self.blob), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = ordered.read(&mut chunk).map_err(|source| SourceError::Entry {
                place: self.name.clone(),
                entry: path.clone(),
                source,
            })?;
            if read == 0 {
                break;
            }
            hasher.update(&chunk[..read]);
        }
        let found = format!("sha256:{}", hex(&hasher.finalize()));
        if found == self.descriptor.digest {
            return Ok(());
        }
        Err(wrong(&self.name, &path, &self.descriptor, found))
    }

    fn compression(&self) -> Option<Compression> {
        self.layer.compression()
    }
}

/// Whether there is a layout among these entries.
pub(crate) fn is_layout(entries: &[Entry]) -> bool {
    let has = |name: &str| entries.iter().any(|entry| entry.name == name && entry.kind == EntryKind::File);
    has("index.json") && has("oci-layout")
}

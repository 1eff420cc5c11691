//! Making an image of a checkpoint.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::json;

use super::copy::copy_blob;
use super::digest::Hashed;
use super::image::{Image, architecture};
use super::{Depot, Descriptor, Manifest, OciError, Origin, media};
use crate::Checkpoint;
use crate::layout::Plan;
use crate::packing::Packing;
use crate::tape::Tape;

/// Where Torpor's checkpoints are in an image, with a `/` at the end.
pub const BELOW: &str = ".torpor/checkpoint/";

/// What an image is made of.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// How it is laid out.
    pub plan: &'a Plan,
    /// The image whose layers it lies on; none for an image with the checkpoint alone.
    pub base: Option<&'a dyn Origin>,
    /// How its layer is compressed.
    pub packing: Packing,
    /// What is said about it.
    pub annotations: BTreeMap<String, String>,
}

/// Makes an image: with a base, its layers and its configuration with the checkpoint as one more layer below [`BELOW`], so that
/// whoever does not know of checkpoints starts it afresh; without one, a layer with the checkpoint alone. The same checkpoint gives the same
/// image, bit for bit. Returns what the image is referred to by.
///
/// # Errors
/// Where checkpoint or base cannot be read, or the depot fails.
pub fn build(recipe: &Recipe<'_>, depot: &mut dyn Depot) -> Result<Descriptor, OciError> {
    let created = recipe.plan.description().checkpointed;
    let created = created.map(|made| made.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let mut hides = false;
    let (mut config, mut layers) = match recipe.base {
        Some(base) => {
            let Image { manifest, config, .. } = Image::for_here(base)?;
            for layer in &manifest.layers {
                copy_blob(base, depot, layer)?;
            }
            hides = manifest.annotations.contains_key(super::CHECKPOINT);
            (config, manifest.layers.into_iter().map(as_oci).collect())
        }
        None => {
            let config = json!({
                "architecture": architecture(),
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": []},
            });
            (config, Vec::new())
        }
    };
    let (layer, unpacked) = layer(recipe, hides, depot)?;
    layers.push(layer);
    if let Some(ids) = config["rootfs"]["diff_ids"].as_array_mut() {
        ids.push(json!(unpacked));
    }
    if let Some(created) = created {
        if recipe.base.is_some() {
            let entry = json!({"created": created, "created_by": "torpor build", "comment": "checkpoint"});
            match config["history"].as_array_mut() {
                Some(history) => history.push(entry),
                None => config["history"] = json!([entry]),
            }
        } else {
            config["created"] = json!(created);
        }
    }
    let config = blob(depot, media::CONFIG, config.to_string().as_bytes())?;
    publish(config, layers, &recipe.annotations, depot)
}

/// Has the depot's name stand for an image whose blobs are there.
pub(super) fn publish(
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: &BTreeMap<String, String>,
    depot: &mut dyn Depot,
) -> Result<Descriptor, OciError> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST.to_owned(),
        config,
        layers,
        annotations: annotations.clone(),
        others: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| OciError::Document {
        place: depot.name(),
        entry: "the manifest".to_owned(),
        source,
    })?;
    let descriptor = descriptor(media::MANIFEST, super::Digest::of(&bytes), bytes.len() as u64);
    depot.publish(&descriptor, &bytes, annotations)?;
    Ok(descriptor)
}

/// What hides all that lower layers have in a directory (OCI image specification, `layer.md`).
const OPAQUE: &str = ".wh..wh..opq";

/// Writes the layer, which hides a checkpoint that is in the base already. Returns its descriptor, and the digest of what it unpacks to.
fn layer(
    recipe: &Recipe<'_>,
    hides: bool,
    depot: &mut dyn Depot,
) -> Result<(Descriptor, super::Digest), OciError> {
    let below = if recipe.base.is_some() { BELOW } else { "" };
    let moment = recipe.plan.description().moment();
    let mut unpacked = None;
    let (digest, size) = depot.put(None, &mut |output| {
        let failed = |source| OciError::Output { entry: "the layer".to_owned(), source };
        let packed = recipe.packing.begin(output).map_err(failed)?;
        let mut tape = Tape::new(match recipe.packing {
            Packing::None => Unpacked::Same(packed),
            _ => Unpacked::Hashed(Box::new(Hashed::new(packed))),
        });
        let directories: Vec<_> = below.match_indices('/').map(|(at, _)| &below[..at]).collect();
        for directory in directories {
            tape.directory(directory, 0o700, moment).map_err(failed)?;
        }
        if hides {
            tape.file(&format!("{below}{OPAQUE}"), 0o600, moment, 0, &mut io::empty()).map_err(failed)?;
        }
        recipe.plan.write(recipe.checkpoint, below, &mut tape)?;
        let packed = match tape.end().map_err(failed)? {
            Unpacked::Same(packed) => packed,
            Unpacked::Hashed(hashed) => {
                let (packed, digest, _) = hashed.finish();
                unpacked = Some(digest);
                packed
            }
        };
        packed.finish().map_err(failed)?;
        Ok(())
    })?;
    let unpacked = unpacked.unwrap_or_else(|| digest.clone());
    let suffix = match recipe.packing {
        Packing::None => "",
        Packing::Gzip => "+gzip",
        Packing::Zstd => "+zstd",
    };
    let media_type = format!("{}{suffix}", media::LAYER);
    Ok((descriptor(&media_type, digest, size), unpacked))
}

/// What a layer is before it is compressed. Where it is not, its digest is the blob's, which is taken anyway.
enum Unpacked<W: Write> {
    Same(W),
    Hashed(Box<Hashed<W>>),
}

impl<W: Write> Write for Unpacked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Same(output) => output.write(bytes),
            Self::Hashed(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Same(output) => output.flush(),
            Self::Hashed(output) => output.flush(),
        }
    }
}

/// A layer of Docker's, as OCI calls it.
fn as_oci(mut layer: Descriptor) -> Descriptor {
    let kind = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "+zstd",
        "application/vnd.docker.image.rootfs.diff.tar" => "",
        _ => return layer,
    };
    layer.media_type = format!("{}{kind}", media::LAYER);
    layer
}

pub(super) fn blob(depot: &mut dyn Depot, media_type: &str, bytes: &[u8]) -> Result<Descriptor, OciError> {
    let descriptor = descriptor(media_type, super::Digest::of(bytes), bytes.len() as u64);
    if !depot.has(&descriptor, None)? {
        depot.document(&descriptor, bytes)?;
    }
    Ok(descriptor)
}

pub(super) fn descriptor(media_type: &str, digest: super::Digest, size: u64) -> Descriptor {
    let media_type = media_type.to_owned();
    Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None }
}

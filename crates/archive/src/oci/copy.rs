//! Moving images.

use std::collections::BTreeMap;
use std::io;

use super::{Depot, Descriptor, Index, Manifest, OciError, Origin, document, is_index, parse};

/// Most images of a list.
const MAX_IMAGES: usize = 64;

/// Copies an image, or a list of images, with all its blobs. What is there already is not moved.
///
/// # Errors
/// Where it cannot be read, is damaged, or cannot be written.
pub fn copy(origin: &dyn Origin, depot: &mut dyn Depot) -> Result<Descriptor, OciError> {
    let (top, bytes) = origin.top()?;
    let annotations = if is_index(&top.media_type) {
        let index: Index = parse(&origin.name(), &top.digest.to_string(), &bytes)?;
        if index.manifests.len() > MAX_IMAGES {
            return Err(OciError::TooDeep { place: origin.name() });
        }
        for child in &index.manifests {
            if is_index(&child.media_type) {
                return Err(OciError::TooDeep { place: origin.name() });
            }
            let bytes = document(origin, child)?;
            copy_blobs(origin, depot, child, &bytes)?;
            depot.document(child, &bytes)?;
        }
        index.annotations
    } else {
        copy_blobs(origin, depot, &top, &bytes)?
    };
    depot.publish(&top, &bytes, &annotations)?;
    Ok(top)
}

/// Copies what a manifest refers to. Returns its annotations.
fn copy_blobs(
    origin: &dyn Origin,
    depot: &mut dyn Depot,
    descriptor: &Descriptor,
    bytes: &[u8],
) -> Result<BTreeMap<String, String>, OciError> {
    let manifest: Manifest = parse(&origin.name(), &descriptor.digest.to_string(), bytes)?;
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        copy_blob(origin, depot, blob)?;
    }
    Ok(manifest.annotations)
}

/// Copies one blob.
pub(super) fn copy_blob(
    origin: &dyn Origin,
    depot: &mut dyn Depot,
    blob: &Descriptor,
) -> Result<(), OciError> {
    if depot.has(blob, Some(origin))? {
        return Ok(());
    }
    depot.put(Some(blob), &mut |output| {
        let mut left = blob.size;
        let mut body = origin.open(blob, 0)?;
        let mut chunk = vec![0; 256 << 10];
        while left > 0 {
            let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = body.read(&mut chunk[..length]).and_then(|read| match read {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                read => Ok(read),
            });
            let read = read.map_err(|source| OciError::Read {
                place: origin.name(),
                entry: blob.digest.to_string(),
                source,
            })?;
            output
                .write_all(&chunk[..read])
                .map_err(|source| OciError::Output { entry: blob.digest.to_string(), source })?;
            left -= read as u64;
        }
        Ok(())
    })?;
    Ok(())
}

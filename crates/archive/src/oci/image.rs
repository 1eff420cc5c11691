//! One image: the one of this machine, where a name stands for several.

use std::io::{self, Read};

use serde_json::Value;

use super::copy::copy_blob;
use super::{Depot, Descriptor, Index, Layout, Manifest, OciError, Origin, document, is_index, parse};
use crate::source::{Limits, unpack};

/// An image's documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What it is referred to by.
    pub descriptor: Descriptor,
    /// The manifest, as it is.
    pub bytes: Vec<u8>,
    /// What that says.
    pub manifest: Manifest,
    /// The configuration (OCI image specification, `config.md`).
    pub config: Value,
}

impl Image {
    /// Reads those of the image that runs on this machine.
    ///
    /// # Errors
    /// Where they cannot be read, or none of a list runs here.
    pub fn for_here(origin: &dyn Origin) -> Result<Self, OciError> {
        let (mut descriptor, mut bytes) = origin.top()?;
        if is_index(&descriptor.media_type) {
            let index: Index = parse(&origin.name(), &descriptor.digest.to_string(), &bytes)?;
            let fits = |one: &&Descriptor| {
                one.platform
                    .as_ref()
                    .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
            };
            descriptor = index.manifests.iter().find(fits).cloned().ok_or_else(|| OciError::Platform {
                place: origin.name(),
                architecture: architecture().to_owned(),
            })?;
            if is_index(&descriptor.media_type) {
                return Err(OciError::TooDeep { place: origin.name() });
            }
            bytes = document(origin, &descriptor)?;
        }
        let manifest: Manifest = parse(&origin.name(), &descriptor.digest.to_string(), &bytes)?;
        let config = document(origin, &manifest.config)?;
        let config = parse(&origin.name(), &manifest.config.digest.to_string(), &config)?;
        Ok(Self { descriptor, bytes, manifest, config })
    }

    /// Copies the image, without those for other machines.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or cannot be written.
    pub fn copy(&self, origin: &dyn Origin, depot: &mut dyn Depot) -> Result<(), OciError> {
        for blob in self.manifest.layers.iter().chain([&self.manifest.config]) {
            copy_blob(origin, depot, blob)?;
        }
        depot.publish(&self.descriptor, &self.bytes, &self.manifest.annotations)
    }
}

impl Layout {
    /// The tar stream of a layer.
    ///
    /// # Errors
    /// Where it cannot be read. Reading fails where it is damaged.
    pub fn layer(&self, layer: &Descriptor) -> Result<impl Read + use<>, OciError> {
        let failed = |source: io::Error| OciError::Read {
            place: Origin::name(self),
            entry: layer.digest.to_string(),
            source,
        };
        let file = std::fs::File::open(self.blob(&layer.digest)).map_err(failed)?;
        unpack(Box::new(file), layer.size, &Limits::default()).map(|(stream, _)| stream).map_err(failed)
    }
}

/// An image that was copied to a layout, and that a registry still has, which can take its blobs over from there.
#[derive(Debug)]
pub struct Copied<'a> {
    /// The copy.
    pub layout: Layout,
    /// Where it comes from.
    pub from: &'a dyn Origin,
}

impl Origin for Copied<'_> {
    fn name(&self) -> String {
        self.from.name()
    }

    fn top(&self) -> Result<(Descriptor, Vec<u8>), OciError> {
        self.layout.top()
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + '_>, OciError> {
        self.layout.open(blob, offset)
    }

    fn repository(&self) -> Option<(&str, &str)> {
        self.from.repository()
    }
}

/// This machine's architecture, as Go calls it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

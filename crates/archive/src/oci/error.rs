//! Why an image cannot be made or moved.

use std::io;

use super::Digest;
use crate::layout::LayoutError;
use crate::registry::RegistryError;
use crate::source::SourceError;

/// Why an image cannot be made or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A checkpoint cannot be laid out in it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An archive cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A registry refuses, or cannot be reached.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A part of an image cannot be read.
    #[error("cannot read {entry} of {place}")]
    Read {
        /// Where the image is.
        place: String,
        /// The part.
        entry: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A part of an image cannot be written.
    #[error("cannot write {entry}")]
    Output {
        /// The part.
        entry: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A document makes no sense.
    #[error("{entry} of {place} is no document of an image")]
    Document {
        /// Where the image is.
        place: String,
        /// The document.
        entry: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A document is larger than any should be.
    #[error("{entry} of {place} has {size} bytes, more than a document of an image may have")]
    TooLarge {
        /// Where the image is.
        place: String,
        /// The document.
        entry: String,
        /// Its bytes.
        size: u64,
    },
    /// A part is not what its digest says.
    #[error("{place} is damaged: a blob should be {expected}, and is {found}")]
    Digest {
        /// Where it is, or goes.
        place: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// There are no images at all.
    #[error("{place} holds no images: there is no {missing}")]
    NoLayout {
        /// What should be a layout.
        place: String,
        /// What every layout has.
        missing: String,
    },
    /// There is no image of this name.
    #[error("{place} has no image {reference:?}{}", there_is(names))]
    NoImage {
        /// The layout.
        place: String,
        /// The name.
        reference: String,
        /// What those that are there are called.
        names: Vec<String>,
    },
    /// There are several images.
    #[error("{place} has several images: {}", names.join(", "))]
    Several {
        /// The layout.
        place: String,
        /// What they are called.
        names: Vec<String>,
    },
    /// No image of a list runs on this machine.
    #[error("{place} has no image for linux/{architecture}")]
    Platform {
        /// Where the list is.
        place: String,
        /// This machine's architecture, as Go calls it.
        architecture: String,
    },
    /// Indexes refer to indexes without end.
    #[error("{place} has lists of lists of images")]
    TooDeep {
        /// Where it is.
        place: String,
    },
}

/// What there is instead.
fn there_is(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; it has {}", names.join(", ")) }
}

impl OciError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Layout(error) => return error.remedy(),
            Self::Source(error) => error.remedy(),
            Self::Registry(error) => error.remedy(),
            Self::Read { .. } => "check the path, and that you may read it",
            Self::Output { .. } => "make room, or write it to another place",
            Self::Document { .. } | Self::TooLarge { .. } | Self::Digest { .. } | Self::TooDeep { .. } => {
                "the image is damaged: use another copy"
            }
            Self::NoLayout { .. } => "name a directory in OCI's layout, or an archive of one",
            Self::NoImage { .. } => "check the name after the colon",
            Self::Several { .. } => "name one of them after a colon",
            Self::Platform { .. } => "use an image for this machine",
        }
        .to_owned()
    }
}

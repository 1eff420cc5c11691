//! Why a checkpoint cannot be laid out for an engine.

use std::io;

use torpor_criu::image::ImageError;
use torpor_criu::image::edit::EditError;

use super::{Obstacle, Target};
use crate::engine::EngineError;
use crate::source::SourceError;

/// Why a checkpoint cannot be laid out for an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What its engine wrote beside the images cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image is damaged.
    #[error("cannot change {entry}")]
    Image {
        /// The image.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// Connections cannot be closed.
    #[error("cannot change {entry}")]
    Edit {
        /// The image.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: EditError,
    },
    /// Something cannot be carried over.
    #[error("this checkpoint cannot be carried over to {target}: {}", all(obstacles))]
    Refused {
        /// The engine it should be for.
        target: Target,
        /// What stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// It cannot be written.
    #[error("cannot write {entry}")]
    Output {
        /// What was being written.
        entry: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn all(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl LayoutError {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Source(error) => error.remedy().to_owned(),
            Self::Engine(error) => error.remedy().to_owned(),
            Self::Image { source, .. } => source.remedy().to_owned(),
            Self::Edit { source, .. } => source.remedy().to_owned(),
            Self::Refused { obstacles, .. } => {
                let mut remedies: Vec<_> = obstacles.iter().map(Obstacle::remedy).collect();
                remedies.dedup();
                remedies.join("; ")
            }
            Self::Output { .. } => "make room, or write it to another place".to_owned(),
        }
    }
}

//! What keeps a checkpoint from going on under another engine, and what whoever restores it has to know.

use std::fmt;

/// What keeps a checkpoint from going on under another engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Its memory is spread over checkpoints before it, which only their engine puts together.
    Parents {
        /// How many there are.
        layers: usize,
    },
    /// Nothing says how the container is made.
    NoSpec,
    /// Nothing says what image it was started from.
    NoImage,
    /// The image's name means something on the machine it comes from only.
    LocalImage {
        /// The name.
        image: String,
    },
    /// The engine knows images by the digest of their configuration, and that is not known.
    NoImageId {
        /// The image.
        image: String,
    },
    /// Something was mounted there that the engine does not make by itself.
    Mount {
        /// Where, in the container.
        destination: String,
    },
    /// A mount should be left out, and is used.
    MountInUse {
        /// Where, in the container.
        destination: String,
    },
    /// The content of a mount is in the checkpoint, and the engine has no place for it.
    Content {
        /// Where, in the container.
        destination: String,
    },
    /// Ids are mapped in a user namespace.
    UserNamespace,
    /// Processes are seen by those of other containers.
    SharedNamespace {
        /// Which namespace.
        kind: &'static str,
    },
    /// The network namespace was dumped with its devices.
    OwnNetwork,
    /// Connections are established, and the engine does not let them be restored.
    Connections {
        /// How many.
        count: usize,
    },
    /// A directory of the image was emptied; the engine only knows of single files that are gone.
    Emptied {
        /// The directory.
        directory: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parents { layers } => write!(f, "its memory is spread over {layers} checkpoints before it"),
            Self::NoSpec => f.write_str("nothing says how the container is made (there is no spec.dump)"),
            Self::NoImage => f.write_str("nothing says what image the container was started from"),
            Self::LocalImage { image } => write!(f, "the image {image} cannot be pulled anywhere"),
            Self::NoImageId { image } => {
                write!(f, "the ID of the image {image} (the digest of its configuration) is not known")
            }
            Self::Mount { destination } => {
                write!(f, "{destination} is a mount from outside that there is none for")
            }
            Self::MountInUse { destination } => {
                write!(f, "{destination} cannot be left out: files or other mounts on it are in use")
            }
            Self::Content { destination } => {
                write!(f, "the content of {destination} is in the checkpoint, and would be lost")
            }
            Self::UserNamespace => f.write_str("its user namespace maps ids"),
            Self::SharedNamespace { kind } => {
                write!(f, "it shares its {kind} namespace with other containers")
            }
            Self::OwnNetwork => f.write_str("its network namespace has devices of its own"),
            Self::Connections { count } => write!(f, "{count} TCP connections are established"),
            Self::Emptied { directory } => {
                write!(f, "{directory} was emptied, which single removals cannot say")
            }
        }
    }
}

impl Obstacle {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Parents { .. } => "make a checkpoint without parents".to_owned(),
            Self::NoSpec => "give the container's config.json with --spec".to_owned(),
            Self::NoImage => "name its image with --image".to_owned(),
            Self::LocalImage { .. } => "push it, and give the name it has there with --image".to_owned(),
            Self::NoImageId { .. } => {
                "give it with --image-id (`podman image inspect --format '{{.Id}}' IMAGE`)".to_owned()
            }
            Self::Mount { destination } => format!(
                "say what is mounted there with --mount {destination}=PATH, or leave it out with --without-mount {destination}"
            ),
            Self::MountInUse { destination } => {
                format!("say what is mounted there with --mount {destination}=PATH")
            }
            Self::Content { destination } => {
                format!("unpack it where it is mounted from, and say --mount {destination}")
            }
            Self::UserNamespace | Self::SharedNamespace { .. } | Self::OwnNetwork => {
                "restore it with the engine that made it".to_owned()
            }
            Self::Connections { .. } => "have them closed with --close-connections".to_owned(),
            Self::Emptied { .. } => "restore it with the engine that made it".to_owned(),
        }
    }
}

/// What whoever restores a checkpoint has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The pod must mount something there.
    PodMounts {
        /// Where, in the container.
        destination: String,
    },
    /// The pod must hide paths below `/proc`, as it does by default.
    PodMasks,
    /// The container was on the network of its machine.
    HostNetwork,
    /// The container is pulled by a name that may mean another image by then.
    ImageByName {
        /// The name.
        image: String,
    },
    /// Connections are established: the restore must be asked to keep them.
    KeepConnections,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodMounts { destination } => {
                write!(f, "the container it is restored as must have a mount at {destination}")
            }
            Self::PodMasks => f.write_str(
                "the container it is restored as must hide paths below /proc (which is the default in a pod)",
            ),
            Self::HostNetwork => {
                f.write_str("the container it is restored as must be on the network of its machine")
            }
            Self::ImageByName { image } => {
                write!(f, "the image is pulled as {image}, which should still be the same one")
            }
            Self::KeepConnections => {
                f.write_str("TCP connections are established: restore it with --tcp-established")
            }
        }
    }
}

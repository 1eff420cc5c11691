//! Where an image is or goes: a layout directory, an archive of one, or a registry.

use std::path::{Path, PathBuf};

use torpor_archive::Checkpoint;
use torpor_archive::oci::{ArchiveDepot, ArchiveOrigin, Depot, Layout, Origin};
use torpor_archive::packing::Packing;
use torpor_archive::registry::{Access, Credential, Credentials, Reference, Remote};
use torpor_archive::source::{self, Limits};

use super::convert::Compress;

/// Flags of every command that may speak to a registry.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Registries")]
#[group(skip)]
pub(crate) struct Args {
    /// The file with names and passwords, in Podman's or Docker's form; by default theirs.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Trust the certificates in this file, too.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Speak to the registry without TLS, as is done with one on this machine (unless there is --ca).
    #[arg(long, conflicts_with = "ca")]
    plain_http: bool,
}

/// Where an image that is made goes, and how.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Output {
    /// Where the image goes: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or a path: an archive where it ends in .tar.
    #[arg(long, short, visible_alias = "to", value_name = "IMAGE")]
    out: String,
    /// The image's tag in a directory or an archive.
    #[arg(long, short, value_name = "TAG")]
    tag: Option<String>,
    /// How the layer is compressed; by default by Zstandard, or not where samples of its memory do not get smaller.
    #[arg(long, value_name = "WORD")]
    compress: Option<Compress>,
}

impl Output {
    /// The place.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        Ok(Place::parse(&self.out, Path::is_file)?.tagged(self.tag.as_deref()))
    }

    /// What was asked for, or what is best for a checkpoint.
    pub(crate) fn packing(&self, checkpoint: &Checkpoint) -> anyhow::Result<Packing> {
        Ok(match self.compress {
            Some(compress) => compress.into(),
            None => Packing::best_for(checkpoint)?,
        })
    }
}

/// A place for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Layout(PathBuf, Option<String>),
    Archive(PathBuf, Option<String>),
    Registry(Reference),
}

impl Place {
    /// `docker://NAME`, `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, or a path: of an archive where it ends in `.tar` or is a file.
    pub(crate) fn parse(text: &str, is_file: impl Fn(&Path) -> bool) -> anyhow::Result<Self> {
        let tagged = |rest: &str| match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => {
                (PathBuf::from(path), Some(tag.to_owned()))
            }
            _ => (PathBuf::from(rest), None),
        };
        if text.starts_with("docker://") {
            return Ok(Self::Registry(text.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = tagged(rest);
            return Ok(Self::Layout(path, tag));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, tag) = tagged(rest);
            return Ok(Self::Archive(path, tag));
        }
        let path = PathBuf::from(text);
        Ok(match text.ends_with(".tar") || is_file(&path) {
            true => Self::Archive(path, None),
            false => Self::Layout(path, None),
        })
    }

    /// The same with a tag, where it has none.
    pub(crate) fn tagged(self, tag: Option<&str>) -> Self {
        let tag = tag.map(str::to_owned);
        match self {
            Self::Layout(path, own) => Self::Layout(path, own.or(tag)),
            Self::Archive(path, own) => Self::Archive(path, own.or(tag)),
            registry @ Self::Registry(_) => registry,
        }
    }
}

impl Args {
    fn access(&self) -> Access {
        let credentials = match &self.authfile {
            Some(path) => Credentials::in_file(path),
            None => Credentials::of_user(|name| std::env::var(name).ok()),
        };
        Access { credentials, authority: self.ca.clone(), plain: self.plain_http, chunk: None }
    }

    /// An image that is read.
    pub(crate) fn origin(&self, place: &Place) -> anyhow::Result<Box<dyn Origin>> {
        Ok(match place {
            Place::Layout(path, tag) => Box::new(Layout::new(path, tag.as_deref())),
            Place::Archive(path, tag) => {
                // What is in an archive is listed without reading images in it as checkpoints.
                let archive = source::open_archive(path, &Limits::default())?;
                Box::new(ArchiveOrigin::new(archive.into(), tag.as_deref()))
            }
            Place::Registry(reference) => Box::new(self.remote(reference)?),
        })
    }

    /// An image that is written.
    pub(crate) fn depot(&self, place: &Place) -> anyhow::Result<Box<dyn Depot>> {
        Ok(match place {
            Place::Layout(path, tag) => Box::new(Layout::new(path, tag.as_deref())),
            Place::Archive(path, tag) => Box::new(ArchiveDepot::create(path, tag.as_deref())?),
            Place::Registry(reference) => Box::new(self.remote(reference)?),
        })
    }

    /// What lets whoever runs this in at an image's registry.
    pub(crate) fn credential(&self, reference: &Reference) -> anyhow::Result<Option<Credential>> {
        Ok(self.access().credentials.find(reference)?)
    }

    /// An image in a registry.
    pub(crate) fn remote(&self, reference: &Reference) -> anyhow::Result<Remote> {
        Ok(Remote::new(reference.clone(), &self.access())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_images() {
        let layout = |path: &str, tag: Option<&str>| Place::Layout(path.into(), tag.map(str::to_owned));
        let archive = |path: &str, tag: Option<&str>| Place::Archive(path.into(), tag.map(str::to_owned));
        for (text, place) in [
            ("images", layout("images", None)),
            ("oci:a/b:v1", layout("a/b", Some("v1"))),
            ("oci:/a:b/c", layout("/a:b/c", None)),
            ("web.tar", archive("web.tar", None)),
            ("here", archive("here", None)),
            ("oci-archive:x:v1", archive("x", Some("v1"))),
            ("docker://quay.io/a/b:1", Place::Registry("quay.io/a/b:1".parse().unwrap())),
        ] {
            assert_eq!(Place::parse(text, |path| path == Path::new("here")).unwrap(), place, "{text}");
        }
        assert!(Place::parse("docker://", |_| false).is_err());
    }
}

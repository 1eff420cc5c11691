//! `checkpointctl build`: an OCI image of an archive.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, Plan};
use torpor_archive::oci::{self, ArchiveDepot, Depot, Layout, Recipe};
use torpor_archive::packing::Packing;

use super::identity::Identity;
use super::{open, print};
use crate::cli::Exit;
use crate::cli::failure::Failure;

/// Create an OCI image from a container checkpoint archive
///
/// The image has one layer, with the archive's content, and annotations that CRI-O, containerd and Podman know a checkpoint
/// by. IMAGE is `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`, or a name, under which the image is kept where Podman,
/// Buildah and CRI-O keep theirs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The archive.
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The image to make.
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Where an image goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target<'a> {
    /// An image layout, and the tag in it.
    Layout(&'a Path, &'a str),
    /// An archive of one.
    Archive(&'a Path, &'a str),
    /// containers-storage, by name.
    Storage(&'a str),
}

impl<'a> Target<'a> {
    fn parse(image: &'a str) -> Self {
        let tagged = |rest: &'a str| match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => (Path::new(path), tag),
            _ => (Path::new(rest), "latest"),
        };
        if let Some(rest) = image.strip_prefix("oci:") {
            let (path, tag) = tagged(rest);
            Self::Layout(path, tag)
        } else if let Some(rest) = image.strip_prefix("oci-archive:") {
            let (path, tag) = tagged(rest);
            Self::Archive(path, tag)
        } else {
            Self::Storage(image.strip_prefix("containers-storage:").unwrap_or(image))
        }
    }
}

/// Makes the image.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let checkpoint = open(&args.archive)?;
    let identity = Identity::read(&checkpoint)?;
    let annotations = annotations(&identity);
    match Target::parse(&args.image) {
        Target::Layout(path, tag) => {
            write(&checkpoint, &annotations, Box::new(Layout::new(path, Some(tag))))?;
        }
        Target::Archive(path, tag) => {
            write(&checkpoint, &annotations, Box::new(ArchiveDepot::create(path, Some(tag))?))?;
        }
        Target::Storage(name) => {
            let keeper = Keeper::found(std::env::var_os("PATH").as_deref())?;
            let layout = tempfile::tempdir().context("cannot make a temporary directory")?;
            // Under its own name, so that no other name is left beside it.
            write(&checkpoint, &annotations, Box::new(Layout::new(layout.path(), Some(name))))?;
            keeper.keep(layout.path(), name)?;
        }
    }
    let lines = annotations.iter().map(|(key, value)| format!("Added annotation: {key}={value}\n"));
    print(&lines.collect::<String>())?;
    eprintln!("Image '{}' created successfully from checkpoint '{}'", args.image, args.archive.display());
    Ok(())
}

fn write(
    checkpoint: &Checkpoint,
    annotations: &BTreeMap<String, String>,
    mut depot: Box<dyn Depot>,
) -> anyhow::Result<()> {
    let plan = Plan::as_it_is(checkpoint, Description::read(checkpoint)?);
    let (base, packing, annotations) = (None, Packing::None, annotations.clone());
    oci::build(&Recipe { checkpoint, plan: &plan, base, packing, annotations }, &mut *depot)?;
    Ok(depot.finish()?)
}

/// What an engine looks for: CRI-O for `io.kubernetes.cri-o.annotations.checkpoint.name`, Podman for
/// `io.podman.annotations.checkpoint.runtime.name`, containerd for `org.criu.checkpoint.container.name`.
fn annotations(identity: &Identity) -> BTreeMap<String, String> {
    let (criu, podman, crio) = (
        "org.criu.checkpoint",
        "io.podman.annotations.checkpoint",
        "io.kubernetes.cri-o.annotations.checkpoint",
    );
    let pairs = [
        (criu, "engine.name", &identity.engine),
        (criu, "container.name", &identity.name),
        (criu, "pod.name", &identity.pod),
        (criu, "pod.namespace", &identity.namespace),
        (criu, "rootfsImageUserRequested", &identity.requested_image),
        (criu, "rootfsImageName", &identity.image),
        (criu, "rootfsImageID", &identity.image_id),
        (criu, "runtime.name", &identity.runtime),
        (podman, "name", &identity.name),
        (podman, "rawImageName", &identity.requested_image),
        (podman, "rootfsImageName", &identity.image),
        (podman, "rootfsImageID", &identity.image_id),
        (podman, "runtime.name", &identity.runtime),
        (crio, "name", &identity.name),
        (crio, "rawImageName", &identity.requested_image),
        (crio, "rootfsImageName", &identity.image),
        (crio, "rootfsImageID", &identity.image_id),
    ];
    let present = pairs.into_iter().filter(|(_, _, value)| !value.is_empty());
    present.map(|(family, key, value)| (format!("{family}.{key}"), value.to_owned())).collect()
}

/// A program that puts images into containers-storage.
#[derive(Debug)]
enum Keeper {
    Skopeo(PathBuf),
    /// Podman or Buildah: both pull and tag.
    Puller(PathBuf),
}

impl Keeper {
    fn found(path: Option<&std::ffi::OsStr>) -> Result<Self, Failure> {
        let find = |name: &str| {
            path.iter()
                .flat_map(std::env::split_paths)
                .map(|directory| directory.join(name))
                .find(|file| file.is_file())
        };
        // Skopeo comes last: it does not heed `STORAGE_DRIVER`, and may keep an image where the others do not look.
        let puller = find("buildah").or_else(|| find("podman")).map(Self::Puller);
        puller.or_else(|| find("skopeo").map(Self::Skopeo)).ok_or_else(|| {
            Failure::new(
                Exit::Failure,
                "neither buildah nor podman nor skopeo is in the PATH",
                "install one of them, or write the image to a place of its own: oci:DIRECTORY or oci-archive:FILE",
            )
        })
    }

    fn keep(&self, layout: &Path, name: &str) -> anyhow::Result<()> {
        let mut from = OsString::from("oci:");
        from.push(layout);
        from.push(":");
        from.push(name);
        match self {
            Self::Skopeo(program) => {
                let to = format!("containers-storage:{name}");
                output(Command::new(program).args(["copy", "--quiet"]).arg(from).arg(to))?;
            }
            Self::Puller(program) => {
                let id = output(Command::new(program).args(["pull", "--quiet"]).arg(from))?;
                output(Command::new(program).args(["tag", id.trim(), name]))?;
            }
        }
        Ok(())
    }
}

/// Runs a program and returns what it says.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_images() {
        let path = Path::new;
        for (image, target) in [
            ("oci:/a/b", Target::Layout(path("/a/b"), "latest")),
            ("oci:/a/b:v1", Target::Layout(path("/a/b"), "v1")),
            ("oci:/a:b/c", Target::Layout(path("/a:b/c"), "latest")),
            ("oci-archive:x.tar:v1", Target::Archive(path("x.tar"), "v1")),
            ("quay.io/foo/bar:latest", Target::Storage("quay.io/foo/bar:latest")),
            ("containers-storage:localhost/a", Target::Storage("localhost/a")),
        ] {
            assert_eq!(Target::parse(image), target, "{image}");
        }
    }

    #[test]
    fn every_engine_finds_its_annotation() {
        let identity = Identity {
            engine: "Podman".to_owned(),
            name: "web".to_owned(),
            runtime: "runc".to_owned(),
            image_id: "abc".to_owned(),
            ..Identity::default()
        };
        let annotations = annotations(&identity);
        assert_eq!(annotations["org.criu.checkpoint.container.name"], "web");
        assert_eq!(annotations["io.podman.annotations.checkpoint.runtime.name"], "runc");
        assert_eq!(annotations["io.kubernetes.cri-o.annotations.checkpoint.name"], "web");
        assert_eq!(annotations["org.criu.checkpoint.rootfsImageID"], "abc");
        assert!(!annotations.contains_key("org.criu.checkpoint.pod.name"));
    }

    #[test]
    fn without_a_program_that_keeps_images_it_says_so() {
        let place = tempfile::tempdir().unwrap();
        assert!(Keeper::found(Some(place.path().as_os_str())).is_err());
        std::fs::write(place.path().join("podman"), "").unwrap();
        assert!(matches!(Keeper::found(Some(place.path().as_os_str())), Ok(Keeper::Puller(_))));
    }
}

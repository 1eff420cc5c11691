//! How a SOURCE is understood: an archive or a directory, standard input, or a generation in a store.

use std::path::{Path, PathBuf};

use torpor_archive::Checkpoint;
use torpor_archive::source::{self, Limits, Place, Source, Stored, Tap};
use torpor_store::lineage::{Lineage, LineageError};
use torpor_store::name::Reference;
use torpor_store::{ManifestId, Repository};

use super::failure::Failure;
use super::{Exit, failure, store};

/// Flags of every command that looks into checkpoints. Where a SOURCE is named, a path comes before a name of the store.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sources")]
#[group(skip)]
pub(crate) struct Args {
    /// Let a compressed archive unpack to this many bytes; the default is 16 GiB, or 200 times its size where that is more.
    #[arg(long, value_name = "BYTES")]
    max_unpacked: Option<u64>,
    /// Let a decoder look back this many bytes, which is memory it takes; the default is 32 MiB. `xz -9` and `zstd --long` need more.
    #[arg(long, value_name = "BYTES")]
    max_window: Option<u64>,
    #[command(flatten)]
    pub(crate) store: store::Args,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Place(Place),
    Stored(Reference),
}

impl Args {
    /// With the usual limits.
    pub(crate) fn of(store: &store::Args) -> Self {
        Args { max_unpacked: None, max_window: None, store: store.clone() }
    }

    /// Opens what a SOURCE names.
    pub(crate) fn source(&self, text: &str) -> anyhow::Result<Box<dyn Source>> {
        self.tapped(text, None)
    }

    /// As [`Args::source`]. Where it must be read through to know what is in it, the tap sees bodies pass.
    pub(crate) fn tapped(&self, text: &str, tap: Option<&mut dyn Tap>) -> anyhow::Result<Box<dyn Source>> {
        match understand(text, Path::exists)? {
            Typed::Place(place) => {
                let usual = Limits::default();
                let window = self.max_window.unwrap_or(usual.window);
                let limits = Limits { unpacked: self.max_unpacked, window, ..usual };
                Ok(source::open_with(&place, &limits, tap)?)
            }
            Typed::Stored(reference) => {
                let (repository, id) = stored(&self.store, text, &reference)?;
                let manifest = repository.manifest(id)?;
                Ok(Box::new(Stored::open(repository, &manifest)?))
            }
        }
    }

    /// Opens the checkpoint in what a SOURCE names. In a pod with several, one must be named: `SOURCE//CONTAINER`.
    pub(crate) fn checkpoint(&self, text: &str) -> anyhow::Result<Checkpoint> {
        match container(text) {
            Some((source, name)) => Ok(Checkpoint::of_container(self.source(source)?, name)?),
            None => Ok(Checkpoint::new(self.source(text)?)?),
        }
    }

    /// Opens all checkpoints in what a SOURCE names: one, or those of a pod's containers.
    pub(crate) fn checkpoints(&self, text: &str) -> anyhow::Result<Vec<Checkpoint>> {
        match container(text) {
            Some(_) => Ok(vec![self.checkpoint(text)?]),
            None => Ok(Checkpoint::all(self.source(text)?)?),
        }
    }
}

/// The store, and in it the generation of a reference that was typed as `text`: that of its number, or the newest.
pub(crate) fn stored(
    store: &store::Args,
    text: &str,
    reference: &Reference,
) -> anyhow::Result<(Repository, ManifestId)> {
    let find = || -> anyhow::Result<(Repository, ManifestId)> {
        let repository = store.open()?;
        let name = &reference.name;
        let record = Lineage::new(&repository, name.clone())
            .record()?
            .filter(|record| !record.is_forgotten())
            .ok_or_else(|| LineageError::NoSuchName { name: name.clone() })?;
        let generation = match reference.generation {
            Some(number) => record
                .generation(number)
                .ok_or_else(|| LineageError::NoSuchGeneration { name: name.clone(), number })?,
            None => record.generations.last().ok_or_else(|| {
                let message = format!("{name} has no checkpoints");
                Failure::new(Exit::NotFound, message, "`torpor ls` lists the names that have some")
            })?,
        };
        Ok((repository, generation.manifest))
    };
    find().map_err(|error| {
        if text.starts_with("store:") || failure::exit(&error) != Exit::NotFound {
            return error;
        }
        // Whoever has misspelled a path is not thinking of a store.
        let reason = failure::sentence(&error);
        let message = format!("there is no file {text}, nor a checkpoint of that name: {reason}");
        Failure::new(Exit::NotFound, message, "check the path, or the name and --store").into()
    })
}

/// A SOURCE and the container in it, where one is named.
fn container(text: &str) -> Option<(&str, &str)> {
    let (source, name) = text.rsplit_once("//")?;
    // `file:///…` and the like are no containers, and neither is a path with a slash too many.
    let named = !source.is_empty() && !source.ends_with(':') && !name.is_empty() && !name.contains('/');
    (named && !Path::new(text).exists()).then_some((source, name))
}

/// What a SOURCE means. What exists as a path is one; what looks like a path is one too; all else is a name.
fn understand(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Typed, Failure> {
    let path = || Typed::Place(Place::Path(PathBuf::from(text)));
    if text.is_empty() {
        return Err(Failure::new(Exit::Usage, "the name of a source is empty", "give a path, -, or a name"));
    }
    if text == "-" {
        return Ok(Typed::Place(Place::Input));
    }
    if let Some(image) = text.strip_prefix("oci:").or_else(|| text.strip_prefix("oci-archive:")) {
        return Ok(Typed::Place(layout(image, exists)));
    }
    let named = text.strip_prefix("store:");
    if named.is_none() && (exists(Path::new(text)) || text.starts_with(['/', '.'])) {
        return Ok(path());
    }
    match named.unwrap_or(text).parse() {
        Ok(reference) => Ok(Typed::Stored(reference)),
        Err(_) if named.is_none() => Ok(path()),
        Err(error) => {
            let remedy = "write store:NAME or store:NAME@NUMBER";
            Err(Failure::new(Exit::Usage, torpor_store::name::NameError::to_string(&error), remedy))
        }
    }
}

/// A layout, with the name of an image in it after the last colon that is not part of the path.
fn layout(text: &str, exists: impl Fn(&Path) -> bool) -> Place {
    let whole = Place::Image { path: PathBuf::from(text), reference: None };
    if exists(Path::new(text)) {
        return whole;
    }
    match text.match_indices(':').find(|(at, _)| exists(Path::new(&text[..*at]))) {
        Some((at, _)) => {
            Place::Image { path: PathBuf::from(&text[..at]), reference: Some(text[at + 1..].to_owned()) }
        }
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_its_layout() {
        let exists = |path: &Path| path == Path::new("images") || path == Path::new("a:b");
        for (text, path, reference) in [
            ("oci:images", "images", None),
            ("oci:images:web:1.2", "images", Some("web:1.2")),
            ("oci:a:b", "a:b", None),
            ("oci-archive:a:b:c", "a:b", Some("c")),
            ("oci:not:here", "not:here", None),
        ] {
            let place = Place::Image { path: path.into(), reference: reference.map(str::to_owned) };
            assert_eq!(understand(text, exists).unwrap(), Typed::Place(place), "{text}");
        }
    }

    #[test]
    fn a_container_follows_two_slashes() {
        for (text, named) in [
            ("pod.tar//web", Some(("pod.tar", "web"))),
            ("-//web", Some(("-", "web"))),
            ("pod.tar", None),
            ("/a//b/c", None),
            ("//b", None),
            ("pod.tar//", None),
        ] {
            assert_eq!(container(text), named, "{text}");
        }
    }

    #[test]
    fn a_path_comes_before_a_name() {
        let path = |path: &str| Typed::Place(Place::Path(PathBuf::from(path)));
        let stored = |name: &str| Typed::Stored(name.parse().unwrap());
        let exists = |path: &Path| path == Path::new("here.tar") || path == Path::new("web");
        for (text, typed) in [
            ("-", Typed::Place(Place::Input)),
            ("here.tar", path("here.tar")),
            ("/not/here.tar", path("/not/here.tar")),
            ("./not", path("./not")),
            ("web", path("web")),
            ("store:web", stored("web")),
            ("shop/web@3", stored("shop/web@3")),
            ("shop/web", stored("shop/web")),
            ("not a name", path("not a name")),
        ] {
            assert_eq!(understand(text, exists).unwrap(), typed, "{text}");
        }
        assert!(understand("", exists).is_err());
        assert!(understand("store:web@x", exists).is_err());
    }
}

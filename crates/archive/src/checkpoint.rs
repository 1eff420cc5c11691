//! A checkpoint as entries and layers of images.

use std::sync::Arc;

use torpor_criu::image::{Framing, Kind, Name};

use crate::source::{Body, Entry, EntryBytes, EntryKind, Limits, Part, Source, SourceError, open_bytes};

/// Most layers of images.
const MAX_LAYERS: usize = 1024;

/// The images of one dump. A dump on top of an earlier one has that as its parent, which has the pages that did not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What stands before the names of its images, with a `/` at its end where it is not empty.
    pub prefix: String,
}

/// A checkpoint that can be looked into.
#[derive(Debug)]
pub struct Checkpoint {
    source: Box<dyn Source>,
    /// The numbers of the entries, by name.
    by_name: Vec<u32>,
    layers: Vec<Layer>,
}

impl Checkpoint {
    /// Finds CRIU's images in a source: on top, in `checkpoint/`, or in `pre-checkpoint/`.
    ///
    /// # Errors
    /// Where there are none, or parents without end.
    pub fn new(source: Box<dyn Source>) -> Result<Self, SourceError> {
        let has = |prefix: &str| {
            source.entries().iter().any(|entry| {
                entry.kind == EntryKind::File
                    && entry
                        .name
                        .strip_prefix(prefix)
                        .filter(|rest| !rest.contains('/'))
                        .and_then(Name::parse)
                        // Statistics are where the engine puts them: beside the directory of the images.
                        .is_some_and(|name| name.kind.description().framing != Framing::Service)
            })
        };
        let found = ["", "checkpoint/", "pre-checkpoint/"].into_iter().find(|prefix| has(prefix));
        let Some(found) = found else {
            let place = source.name().to_owned();
            let containers: Vec<_> =
                containers(source.entries()).iter().map(|container| container.name().to_owned()).collect();
            return Err(if containers.is_empty() {
                SourceError::NoImages { place }
            } else {
                SourceError::Several { place, containers }
            });
        };
        let mut prefix = found.to_owned();
        let mut layers: Vec<Layer> = Vec::new();
        loop {
            if layers.len() == MAX_LAYERS || layers.iter().any(|layer| layer.prefix == prefix) {
                return Err(SourceError::TooDeep { place: source.name().to_owned(), limit: MAX_LAYERS });
            }
            let inside = format!("{prefix}parent/");
            let beside =
                source.entries().iter().find(|entry| entry.name == inside.trim_end_matches('/')).and_then(
                    |entry| match &entry.kind {
                        // As Podman lays it out: the link leads to a directory beside this one.
                        EntryKind::SymbolicLink(to) => {
                            Some(format!("{}/", to.strip_prefix("../")?.trim_end_matches('/')))
                        }
                        _ => None,
                    },
                );
            layers.push(Layer { prefix });
            prefix = match beside {
                _ if has(&inside) => inside,
                Some(beside) if has(&beside) => beside,
                _ => {
                    let mut by_name: Vec<u32> = (0..source.entries().len() as u32).collect();
                    by_name.sort_by_key(|number| source.entries()[*number as usize].name.as_str());
                    return Ok(Self { source, by_name, layers });
                }
            };
        }
    }

    /// All checkpoints in a source: one, or those of the containers of a pod, each in a directory or an archive of its own
    /// (Kubernetes' KEP-5823 as containerd and CRI-O try it out).
    ///
    /// # Errors
    /// Where there is none, or one of them cannot be read.
    pub fn all(source: Box<dyn Source>) -> Result<Vec<Self>, SourceError> {
        let containers = containers(source.entries());
        if containers.is_empty() {
            return Ok(vec![Self::new(source)?]);
        }
        let whole: Arc<dyn Source> = source.into();
        containers.iter().map(|container| container.open(&whole)).collect()
    }

    /// The checkpoint of the container of this name in a pod's.
    ///
    /// # Errors
    /// Where there is no such container, or its checkpoint cannot be read.
    pub fn of_container(source: Box<dyn Source>, name: &str) -> Result<Self, SourceError> {
        let containers = containers(source.entries());
        let Some(container) = containers.iter().find(|container| container.name() == name) else {
            let (place, entry) = (source.name().to_owned(), name.to_owned());
            let source = std::io::ErrorKind::NotFound.into();
            return Err(SourceError::Entry { place, entry, source });
        };
        container.open(&source.into())
    }

    /// Where it is kept.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// All entries, in the order in which they are stored.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.source.entries()
    }

    /// The layers of images: first those of this checkpoint, then its parent's, and so on.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The entry of this name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        let entry = |number: &u32| &self.entries()[*number as usize];
        let found = self.by_name.binary_search_by(|number| entry(number).name.as_str().cmp(name)).ok()?;
        self.by_name.get(found).map(entry)
    }

    /// The image of this kind and number in a layer.
    #[must_use]
    pub fn image(&self, layer: &Layer, kind: Kind, id: u64) -> Option<&Entry> {
        self.entry(&format!("{}{}", layer.prefix, kind.file_name(id)))
    }

    /// All images of a layer, in the order in which they are stored.
    pub fn images<'a>(&'a self, layer: &'a Layer) -> impl Iterator<Item = (Name, &'a Entry)> {
        self.entries().iter().filter(|entry| entry.kind == EntryKind::File).filter_map(|entry| {
            let name = Name::parse(entry.name.strip_prefix(layer.prefix.as_str())?)?;
            Some((name, entry))
        })
    }

    /// The body of an entry, from its start on.
    #[must_use]
    pub fn body<'a>(&'a self, entry: &'a Entry) -> Body<'a> {
        Body::new(&*self.source, entry)
    }

    /// The whole body of an entry.
    ///
    /// # Errors
    /// Where it has more than `limit` bytes, or cannot be read.
    pub fn bytes(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, SourceError> {
        if entry.size > limit {
            return Err(SourceError::TooLarge {
                place: self.source.name().to_owned(),
                entry: entry.name.clone(),
                size: entry.size,
                limit,
            });
        }
        let mut bytes = vec![0; entry.size as usize];
        self.source.read_at(entry, 0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A container in the checkpoint of a pod.
enum Container {
    /// A directory, with a `/` at its end.
    Directory(String),
    /// An archive.
    Archive(Entry),
}

/// The containers of a pod; none where it is not a pod's.
fn containers(entries: &[Entry]) -> Vec<Container> {
    let inventory = |entry: &Entry| {
        let (directory, file) = entry.name.split_once('/')?;
        let own = matches!(file, "checkpoint/inventory.img" | "inventory.img");
        (own && !matches!(directory, "checkpoint" | "pre-checkpoint" | "parent"))
            .then(|| Container::Directory(format!("{directory}/")))
    };
    if entries.iter().any(|entry| entry.name == "checkpoint/inventory.img" || entry.name == "inventory.img") {
        return Vec::new();
    }
    let mut found: Vec<_> = entries.iter().filter_map(inventory).collect();
    if entries.iter().any(|entry| entry.name == "pod.options") {
        let archives = entries.iter().filter(|entry| {
            entry.kind == EntryKind::File && !entry.name.contains('/') && entry.name.ends_with(".tar")
        });
        found.extend(archives.map(|entry| Container::Archive(entry.clone())));
    }
    found
}

impl Container {
    fn name(&self) -> &str {
        match self {
            Self::Directory(prefix) => prefix.trim_end_matches('/'),
            Self::Archive(entry) => entry.name.trim_end_matches(".tar"),
        }
    }

    fn open(&self, whole: &Arc<dyn Source>) -> Result<Checkpoint, SourceError> {
        match self {
            Self::Directory(prefix) => Checkpoint::new(Box::new(Part::new(Arc::clone(whole), prefix))),
            Self::Archive(entry) => {
                let name = format!("{}//{}", whole.name(), self.name());
                let bytes = Arc::new(EntryBytes::new(Arc::clone(whole), entry.clone()));
                Checkpoint::new(open_bytes(name, bytes, &Limits::default(), None)?)
            }
        }
    }
}

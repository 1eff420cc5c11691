//! Images of real checkpoints as JSON and back: not a byte may change.

use std::path::Path;
use std::sync::Arc;

use torpor_archive::Checkpoint;
use torpor_archive::source::{EntryKind, Stored};
use torpor_criu::image::document::{Decoder, Payloads, encode, write_json};
use torpor_criu::image::json::{Json, Layout};
use torpor_criu::image::presentation::Style;
use torpor_criu::image::{Framing, Limits, Name};
use torpor_store::{Credentials, Lineage, LocalBackend, OpenError, Repository};

/// Decodes every image that has entries in both styles, encodes it again, and holds the bytes against each other. Returns
/// how many images there were.
#[track_caller]
pub(crate) fn images_survive_json(checkpoint: &Checkpoint) -> usize {
    let mut count = 0;
    for entry in checkpoint.entries().iter().filter(|entry| entry.kind == EntryKind::File) {
        let file = entry.name.rsplit('/').next().unwrap_or_default();
        let Some(name) = Name::parse(file) else { continue };
        if name.kind.description().framing == Framing::Raw {
            continue;
        }
        let image = checkpoint.bytes(entry, 1 << 26).unwrap();
        for (style, layout) in [(Style::Plain, Layout::Line), (Style::Pretty, Layout::Lines)] {
            let again = there_and_back(&image, style, layout)
                .unwrap_or_else(|error| panic!("{}: {error:#}", entry.name));
            assert!(again == image, "{} comes back with other bytes", entry.name);
        }
        count += 1;
    }
    count
}

fn there_and_back(image: &[u8], style: Style, layout: Layout) -> anyhow::Result<Vec<u8>> {
    let mut decoder = Decoder::new(image, style, Payloads::Whole, Limits::default())?;
    let mut text = Vec::new();
    write_json(&mut decoder, layout, &mut text)?;
    let json: Json = serde_json::from_slice(&text)?;
    Ok(encode(&json, Vec::new())?)
}

/// The same for every generation in a store, where there is one.
#[track_caller]
pub(crate) fn generations_survive_json(store: &Path) {
    if !store.is_dir() {
        return;
    }
    let repository = match Repository::open(Arc::new(LocalBackend::new(store)), &Credentials::None) {
        Err(OpenError::NoStore { .. }) => return,
        opened => opened.unwrap(),
    };
    for generation in Lineage::all(&repository).unwrap().into_iter().flat_map(|record| record.generations) {
        let manifest = repository.manifest(generation.manifest).unwrap();
        let stored = Stored::open(repository.clone(), &manifest).unwrap();
        let images = images_survive_json(&Checkpoint::new(Box::new(stored)).unwrap());
        assert!(images > 8, "only {images} images in generation {}", generation.number);
    }
}

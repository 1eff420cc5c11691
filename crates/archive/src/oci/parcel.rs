//! Files that travel as an image: each layer has some more of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use super::build::{blob, descriptor, publish};
use super::image::architecture;
use super::{Depot, Descriptor, Digest, Image, Layout, OciError, Origin, copy, media};
use crate::source::{EntryKind, Limits, SourceError, each_in};
use crate::tape::Tape;

/// An image that is being made.
#[derive(Debug, Default)]
pub struct Parcel {
    layers: Vec<Descriptor>,
}

impl Parcel {
    /// Writes a layer with files of a directory, by their paths below it. Of two of the same name the later counts.
    ///
    /// # Errors
    /// Where they cannot be read, or the depot fails.
    pub fn add(&mut self, directory: &Path, names: &[String], depot: &mut dyn Depot) -> Result<(), OciError> {
        let (digest, size) = depot.put(None, &mut |output| {
            let failed = |source| OciError::Output { entry: "the layer".to_owned(), source };
            let mut tape = Tape::new(output);
            for name in names {
                let path = directory.join(name);
                let unreadable = |source| OciError::Read {
                    place: directory.display().to_string(),
                    entry: name.clone(),
                    source,
                };
                let mut file = File::open(&path).map_err(unreadable)?;
                let size = file.metadata().map_err(unreadable)?.len();
                tape.file(name, 0o600, 0, size, &mut file).map_err(failed)?;
            }
            tape.end().map(drop).map_err(failed)
        })?;
        self.layers.push(descriptor(media::LAYER, digest, size));
        Ok(())
    }

    /// Has the depot's name stand for it. Returns what it is referred to by.
    ///
    /// # Errors
    /// Where the depot fails.
    pub fn publish(
        &self,
        annotations: &BTreeMap<String, String>,
        depot: &mut dyn Depot,
    ) -> Result<Descriptor, OciError> {
        // Layers that are not compressed unpack to themselves.
        let unpacked: Vec<&Digest> = self.layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": unpacked},
        });
        let config = blob(depot, media::CONFIG, config.to_string().as_bytes())?;
        publish(config, self.layers.clone(), annotations, depot)
    }
}

/// Unpacks such an image into a directory. Only files are, and none outside of it. It is checked as a whole before that, below `room`.
///
/// # Errors
/// Where it cannot be read, is damaged or no such image, or a file cannot be written.
pub fn unpack(origin: &dyn Origin, room: &Path, directory: &Path) -> Result<(), OciError> {
    let mut layout = Layout::new(room, Some("parcel"));
    copy(origin, &mut layout)?;
    let image = Image::for_here(&layout)?;
    for layer in &image.manifest.layers {
        let place = layer.digest.to_string();
        let limits = Limits { unpacked: Some(layer.size), ..Limits::default() };
        each_in(Box::new(layout.layer(layer)?), &place, &limits, |entry, body| {
            let path = directory.join(&entry.name);
            let failed = |source| SourceError::Place { place: path.display().to_string(), source };
            match entry.kind {
                EntryKind::File => {}
                EntryKind::Directory => return Ok(()),
                _ => return Err(failed(io::ErrorKind::InvalidData.into())),
            }
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
            io::copy(body, &mut file.map_err(failed)?).map_err(failed)?;
            Ok(())
        })?;
    }
    std::fs::remove_dir_all(room)
        .map_err(|source| OciError::Output { entry: room.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image made of layers of names with their contents.
    fn packed(place: &Path, layers: &[&[(&str, &str)]]) -> Layout {
        let files = place.join("files");
        std::fs::create_dir_all(files.join("below")).unwrap();
        let mut layout = Layout::new(&place.join("image"), Some("v1"));
        let mut parcel = Parcel::default();
        for layer in layers {
            for (name, text) in *layer {
                std::fs::write(files.join(name), text).unwrap();
            }
            let names: Vec<String> = layer.iter().map(|(name, _)| (*name).to_owned()).collect();
            parcel.add(&files, &names, &mut layout).unwrap();
        }
        let said = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        parcel.publish(&said, &mut layout).unwrap();
        layout
    }

    #[test]
    fn files_arrive_and_of_two_of_one_name_the_later() {
        let place = tempfile::tempdir().unwrap();
        let first = [("below/a", "old"), ("b", "b")];
        let layout = packed(place.path(), &[&first, &[("below/a", "new")]]);
        assert_eq!(Image::for_here(&layout).unwrap().manifest.annotations["key"], "value");
        let (room, to) = (place.path().join("room"), place.path().join("to"));
        unpack(&layout, &room, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("below/a")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(to.join("b")).unwrap(), "b");
        assert!(!room.exists());
    }

    #[test]
    fn a_layer_writes_nothing_outside_and_no_links() {
        for (name, link) in [("../outside", None), ("link", Some("/etc/passwd"))] {
            let place = tempfile::tempdir().unwrap();
            let mut layout = Layout::new(&place.path().join("image"), Some("v1"));
            let (digest, size) = layout
                .put(None, &mut |output| {
                    let mut tape = Tape::new(output);
                    match link {
                        Some(to) => tape.symbolic_link(name, 0o777, 0, to),
                        None => tape.file(name, 0o600, 0, 1, &mut &b"x"[..]),
                    }
                    .unwrap();
                    tape.end().unwrap();
                    Ok(())
                })
                .unwrap();
            let parcel = Parcel { layers: vec![descriptor(media::LAYER, digest, size)] };
            parcel.publish(&BTreeMap::new(), &mut layout).unwrap();
            let to = place.path().join("to");
            std::fs::create_dir(&to).unwrap();
            assert!(unpack(&layout, &place.path().join("room"), &to).is_err(), "{name}");
            assert!(!place.path().join("outside").exists());
            assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_damaged_layer_is_refused_before_anything_is_written() {
        let place = tempfile::tempdir().unwrap();
        let layout = packed(place.path(), &[&[("a", "content")]]);
        let layer = Image::for_here(&layout).unwrap().manifest.layers[0].clone();
        let blob = place.path().join("image/blobs/sha256").join(layer.digest.hex());
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes[600] ^= 1;
        std::fs::write(&blob, bytes).unwrap();
        let to = place.path().join("to");
        assert!(unpack(&layout, &place.path().join("room"), &to).is_err());
        assert!(!to.exists());
    }
}

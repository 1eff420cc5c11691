use std::os::unix::fs::symlink;

use torpor_archive::source::{self, Directory, Place};

use super::*;

/// A checkpoint with an entry of each kind, and a name that fits no plain header.
fn sample(place: &Path) -> Checkpoint {
    fs::write(place.join("inventory.img"), b"not looked at").unwrap();
    fs::write(place.join("n".repeat(150)), b"long").unwrap();
    symlink("inventory.img", place.join("link")).unwrap();
    Checkpoint::new(Box::new(Directory::open(place).unwrap())).unwrap()
}

fn write(checkpoint: &Checkpoint, tag: &str, to: &Path) {
    let annotations = [("org.criu.checkpoint.container.name".to_owned(), "web".to_owned())].into();
    let created = Some("2026-11-21T13:28:06Z".to_owned());
    write_layout(checkpoint, &Description { annotations: &annotations, created, tag }, to).unwrap();
}

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let bytes = fs::read(layout.join("blobs/sha256").join(digest)).unwrap();
    assert_eq!(hex(&Sha256::digest(&bytes)), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn every_blob_is_what_its_descriptor_says() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    let checkpoint = sample(&from);
    write(&checkpoint, "a", &to);
    let index: Value = serde_json::from_slice(&fs::read(to.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&to, &index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(&blob(&to, &manifest["config"])).unwrap();
    let layer = blob(&to, &manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    for annotated in [&index, &index["manifests"][0], &manifest] {
        assert_eq!(annotated["annotations"]["org.criu.checkpoint.container.name"], "web");
    }
    let tar = place.path().join("layer.tar");
    fs::write(&tar, layer).unwrap();
    let again = source::open(&Place::Path(tar)).unwrap();
    let shown = |source: &dyn source::Source| {
        let entries = source.entries().iter();
        let mut shown: Vec<_> =
            entries.map(|entry| (entry.name.clone(), entry.kind.clone(), entry.size, entry.mode)).collect();
        shown.sort_by(|a, b| a.0.cmp(&b.0));
        shown
    };
    assert_eq!(shown(&*again), shown(checkpoint.source()));
}

#[test]
fn the_same_checkpoint_gives_the_same_image_and_a_tag_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    let checkpoint = sample(&from);
    for tag in ["a", "b", "a"] {
        write(&checkpoint, tag, &to);
    }
    let index: Value = serde_json::from_slice(&fs::read(to.join("index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    let tags: Vec<_> = manifests.iter().map(|manifest| manifest["annotations"][TAG].clone()).collect();
    assert_eq!(tags, ["b", "a"]);
    assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);
    assert_eq!(fs::read_dir(to.join("blobs/sha256")).unwrap().count(), 3);
}

#[test]
fn an_archive_of_an_image_is_the_checkpoint_again() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir(&from).unwrap();
    let checkpoint = sample(&from);
    let file = place.path().join("image.tar");
    let annotations = BTreeMap::new();
    let description = Description { annotations: &annotations, created: None, tag: "latest" };
    write_archive(&checkpoint, &description, &file).unwrap();
    let archive = source::open(&Place::Path(file)).unwrap();
    let names = |entries: &[source::Entry]| {
        let mut names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(archive.entries()), names(checkpoint.entries()));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

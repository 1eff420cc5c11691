//! Checkpoints in OCI images, and those of pods.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use torpor_archive::Checkpoint;
use torpor_archive::check::{Answer, whole};
use torpor_archive::source::{Compression, Directory, Place, SourceError, open};

use crate::tape::{Tape, pack};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layout with an image whose second layer is a checkpoint: its files, by their paths.
fn layout() -> Vec<(String, Vec<u8>)> {
    let checkpoint = Tape::new().directory("checkpoint/").file("checkpoint/inventory.img", b"inventory");
    let layers = [Tape::new().file("etc/motd", b"hello").end(), checkpoint.end()];
    let layers = layers.map(|layer| pack(Compression::Gzip, &layer));
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", digest(bytes)), bytes.to_vec());
    let refer = |bytes: &[u8], kind: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{}","size":{},
                "annotations":{{"org.opencontainers.image.ref.name":"worker"}}}}"#,
            digest(bytes),
            bytes.len()
        )
    };
    let layer = |bytes: &[u8]| refer(bytes, "layer.v1.tar+gzip");
    let manifest = format!(r#"{{"layers":[{},{}]}}"#, layer(&layers[0]), layer(&layers[1])).into_bytes();
    let index = format!(r#"{{"manifests":[{}]}}"#, refer(&manifest, "manifest.v1+json")).into_bytes();
    vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
        blob(&manifest),
        blob(&layers[0]),
        blob(&layers[1]),
    ]
}

fn lay_out(files: &[(String, Vec<u8>)], at: &Path) {
    fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    for (name, body) in files {
        fs::write(at.join(name), body).unwrap();
    }
}

#[test]
fn the_layer_with_a_checkpoint_is_found() {
    let place = tempfile::tempdir().unwrap();
    lay_out(&layout(), place.path());
    for reference in [None, Some("worker".to_owned())] {
        let image = Place::Image { path: place.path().to_owned(), reference };
        let checkpoint = Checkpoint::new(open(&image).unwrap()).unwrap();
        assert_eq!(checkpoint.layers()[0].prefix, "checkpoint/");
        checkpoint.source().verify().unwrap();
    }
    Checkpoint::new(open(&Place::Path(place.path().to_owned())).unwrap()).unwrap();
    let other = Place::Image { path: place.path().to_owned(), reference: Some("other".to_owned()) };
    assert!(matches!(open(&other), Err(SourceError::NoReference { .. })));
}

#[test]
fn an_archive_of_a_layout_is_one_too_packed_or_not() {
    let place = tempfile::tempdir().unwrap();
    let archive = layout().iter().fold(Tape::new(), |tape, (name, body)| tape.file(name, body)).end();
    for bytes in [archive.clone(), pack(Compression::Zstd, &archive)] {
        let path = place.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        let checkpoint = Checkpoint::new(open(&Place::Path(path)).unwrap()).unwrap();
        let inventory = checkpoint.entry("checkpoint/inventory.img").unwrap();
        assert_eq!(checkpoint.bytes(inventory, 100).unwrap(), b"inventory");
    }
}

#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut files = layout();
    // White space changes no document, and each digest.
    files[2].1.push(b' ');
    lay_out(&files, place.path());
    let refused = open(&Place::Path(place.path().to_owned())).unwrap_err();
    assert!(matches!(refused, SourceError::Digest { .. }), "{refused}");
    // A byte of gzip's header says when the file was changed, which no checksum of gzip's covers.
    let mut files = layout();
    files[4].1[5] ^= 1;
    lay_out(&files, place.path());
    let checkpoint = Checkpoint::new(open(&Place::Path(place.path().to_owned())).unwrap()).unwrap();
    let readable = whole(&checkpoint).into_iter().find(|finding| finding.topic == "readable").unwrap();
    assert_eq!(readable.answer, Answer::No);
    assert!(readable.reason.contains(&files[4].0), "{}", readable.reason);
}

#[test]
fn hostile_references_lead_nowhere() {
    for (index, message) in [
        (r#"{"manifests":[{"digest":"sha256:../../../../etc/passwd"}]}"#, "no SHA-256 digest"),
        (r#"{"manifests":[{"digest":"md5:x"}]}"#, "no SHA-256 digest"),
        (r#"{"manifests":[]}"#, "holds no checkpoint"),
        ("5", "no document"),
    ] {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("oci-layout"), "{}").unwrap();
        fs::write(place.path().join("index.json"), index).unwrap();
        let refused = open(&Place::Path(place.path().to_owned())).unwrap_err();
        assert!(refused.to_string().contains(message), "{refused}");
    }
}

#[test]
fn the_containers_of_a_pod_are_checkpoints_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    let container = Tape::new().file("checkpoint/inventory.img", b"sidecar").end();
    let archive = Tape::new()
        .file("pod.options", br#"{"version":1}"#)
        .file("web/checkpoint/inventory.img", b"web")
        .file("web/config.dump", b"{}")
        .file("sidecar.tar", &container)
        .end();
    let path = place.path().join("pod.tar");
    fs::write(&path, archive).unwrap();
    let opened = || open(&Place::Path(path.clone())).unwrap();
    let bodies: Vec<_> = Checkpoint::all(opened())
        .unwrap()
        .iter()
        .map(|checkpoint| checkpoint.bytes(checkpoint.entry("checkpoint/inventory.img").unwrap(), 9).unwrap())
        .collect();
    assert_eq!(bodies, [b"web".to_vec(), b"sidecar".to_vec()]);
    assert!(Checkpoint::of_container(opened(), "web").unwrap().entry("config.dump").is_some());
    assert!(Checkpoint::of_container(opened(), "db").is_err());
    let refused = Checkpoint::new(opened()).unwrap_err();
    assert!(refused.to_string().ends_with("holds the checkpoints of several containers: web, sidecar"));
}

#[test]
fn an_archive_that_was_unpacked_is_read_as_one() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("checkpoint")).unwrap();
    fs::create_dir_all(place.path().join("pre-checkpoint")).unwrap();
    fs::write(place.path().join("config.dump"), "{}").unwrap();
    fs::write(place.path().join("checkpoint/inventory.img"), "new").unwrap();
    fs::write(place.path().join("pre-checkpoint/inventory.img"), "old").unwrap();
    std::os::unix::fs::symlink("../pre-checkpoint", place.path().join("checkpoint/parent")).unwrap();
    let checkpoint = Checkpoint::new(Box::new(Directory::open(place.path()).unwrap())).unwrap();
    let prefixes: Vec<_> = checkpoint.layers().iter().map(|layer| layer.prefix.as_str()).collect();
    assert_eq!(prefixes, ["checkpoint/", "pre-checkpoint/"]);
    let old = checkpoint.entry("pre-checkpoint/inventory.img").unwrap();
    assert_eq!(checkpoint.bytes(old, 9).unwrap(), b"old");
}

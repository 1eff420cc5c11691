//! An archive as CRI-O writes it (cri-o, `internal/lib/checkpoint.go`, `internal/factory/container`). The documents in `cri_o/` are CRI-O
//! 1.37's own, of a container that a kubelet had it make; there is no package to run it from, so the rest is put together here.

use std::io::Cursor;

use torpor_archive::Checkpoint;
use torpor_archive::engine::{self, ChangeKind, Engine};
use torpor_archive::layout::{Description, Part, Plan, Request, Target};
use torpor_archive::oci::annotations;
use torpor_archive::source::{Limits, open_stream};

use crate::tape::Tape;

/// CRIU's magic, and an inventory of version 2.
const INVENTORY: [u8; 10] = [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2];

fn checkpoint() -> Checkpoint {
    let layer = Tape::new().directory("etc/").file("etc/motd", b"changed\n").end();
    let archive = Tape::new()
        .file("bind.mounts", include_bytes!("cri_o/bind.mounts"))
        .directory("checkpoint/")
        .file("checkpoint/inventory.img", &INVENTORY)
        .file("config.dump", include_bytes!("cri_o/config.dump"))
        .file("deleted.files", br#"["/etc/gone"]"#)
        .file("dump.log", b"(00.000001) Version: 4.2\n")
        .file("io.kubernetes.cri-o.LogPath", include_bytes!("cri_o/log"))
        .file("rootfs-diff.tar", &layer)
        .file("spec.dump", include_bytes!("cri_o/spec.dump"))
        .file("stats-dump", b"")
        .end();
    let source = open_stream("crio.tar".to_owned(), Box::new(Cursor::new(archive)), &Limits::default(), None);
    Checkpoint::new(source.unwrap()).unwrap()
}

const UID: &str = "f7d39c2f-4011-4e54-8b04-fa8e0a44bc62";
const IMAGE: &str = "registry.example/shop/web:1";
/// The ID of that image.
const ID: &str = "76734bee9e807c8a11e5838b04db0bba67f990306085aa6fa75230974c33d3c2";

#[test]
fn the_container_is_known_by_its_annotations() {
    let container = engine::container(&checkpoint()).unwrap();
    assert_eq!((container.engine, container.name.as_deref()), (Engine::CriO, Some("app")));
    assert!(container.id.unwrap().starts_with("8de9d0125647"));
    assert_eq!(container.host_name.as_deref(), Some("c3"));
    let pod = container.pod.unwrap();
    let place = [pod.namespace, pod.name, pod.uid].map(Option::unwrap);
    assert_eq!(place, ["default", "c3", UID]);
    assert!(pod.sandbox.unwrap().starts_with("17f7902285c4"));
    let image = container.image.unwrap();
    assert_eq!((image.name.as_deref(), image.id.as_deref()), (Some(IMAGE), Some(ID)));
    assert_eq!(image.requested, None, "it was asked for by its ID");
    assert_eq!(container.command[..2], ["/bin/sh", "-c"]);
    assert_eq!(container.checkpointed.unwrap().to_string(), "2026-11-21T22:59:16.838532013Z");
    assert_eq!(container.restored, None);
}

#[test]
fn what_lies_beside_the_images_is_read() {
    let checkpoint = checkpoint();
    let addresses = engine::networks(&checkpoint).unwrap().remove(0).addresses;
    assert_eq!(addresses, ["10.88.3.4"]);
    let binds = engine::binds(&checkpoint).unwrap();
    let binds: Vec<_> =
        binds.iter().map(|bind| (bind.destination.as_str(), bind.kind.as_str(), bind.mode)).collect();
    assert_eq!(
        binds[2..],
        [
            ("/etc/hosts", "file", 0o644),
            ("/dev/termination-log", "file", 0o666),
            ("/var/run/secrets/kubernetes.io/serviceaccount", "directory", 0o777),
        ]
    );
    assert_eq!(engine::mounts(&checkpoint).unwrap().len(), 13);
    assert_eq!(engine::log(&checkpoint).unwrap().name, "io.kubernetes.cri-o.LogPath");
    assert_eq!(engine::status(&checkpoint).unwrap(), None, "only containerd notes one");
    let changes = engine::changes(&checkpoint).unwrap().unwrap();
    let kind = |path: &str| {
        changes.paths.iter().find(|(changed, _)| changed.as_str() == path).map(|(_, change)| change.kind)
    };
    assert_eq!(kind("/etc/motd"), Some(ChangeKind::Written));
    assert_eq!(kind("/etc/gone"), Some(ChangeKind::Removed));
}

#[test]
fn its_own_archive_stays_as_it_is_and_its_container_is_told_to_others() {
    let checkpoint = checkpoint();
    let description = Description::read(&checkpoint).unwrap();
    assert_eq!((description.name.as_str(), description.image.as_deref()), ("app", Some(IMAGE)));
    assert_eq!((description.image_reference.as_deref(), description.image_id.as_deref()), (None, Some(ID)));
    let plan = Plan::new(&checkpoint, description.clone(), Target::CriO, &Request::default()).unwrap();
    let names = |parts: &[Part]| parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>();
    let entries: Vec<_> = checkpoint.entries().iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(names(plan.parts()), entries);
    // In an image of it each engine finds what it looks for.
    let annotations = annotations(&description, Engine::CriO);
    for (key, value) in [
        ("io.kubernetes.cri-o.annotations.checkpoint.name", "app"),
        ("io.kubernetes.cri-o.annotations.checkpoint.rootfsImageID", ID),
        ("org.criu.checkpoint.container.name", "app"),
        ("org.criu.checkpoint.pod.uid", UID),
        ("io.podman.annotations.checkpoint.rootfsImageName", IMAGE),
    ] {
        assert_eq!(annotations.get(key).map(String::as_str), Some(value), "{key}");
    }
}

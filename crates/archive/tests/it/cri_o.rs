//! An archive as CRI-O writes it (cri-o, `internal/lib/checkpoint.go`, `internal/factory/container`): the kubelet asks it for one,
//! and there is no package to run it from, so its layout is put together here.

use std::io::Cursor;

use serde_json::json;
use torpor_archive::Checkpoint;
use torpor_archive::engine::{self, ChangeKind, Engine};
use torpor_archive::source::{Limits, open_stream};

use crate::tape::Tape;

/// CRIU's magic, and an inventory of version 2.
const INVENTORY: [u8; 10] = [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2];

fn checkpoint() -> Checkpoint {
    let config = json!({
        "id": "c4a1", "name": "k8s_web_web-0_shop_11-22_0",
        "rootfsImage": "quay.io/acme/web:1", "rootfsImageRef": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        "rootfsImageName": "quay.io/acme/web:1", "runtime": "runc",
        "createdTime": "2026-11-21T13:00:00.123456789Z", "checkpointedTime": "2026-11-21T13:05:00Z",
        "restoredTime": "0001-01-01T00:00:00Z", "restored": false,
    });
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["nginx", "-g", "daemon off;"]},
        "hostname": "web-0",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/11-22/etc-hosts", "options": ["rw", "rbind"]},
        ],
        "annotations": {
            "io.container.manager": "cri-o",
            "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "11-22",
            "io.kubernetes.container.name": "web",
            "io.kubernetes.cri-o.SandboxID": "9f00", "io.kubernetes.cri-o.ContainerID": "c4a1",
            "io.kubernetes.cri-o.Metadata": "{\"name\":\"web\",\"attempt\":0}",
            "io.kubernetes.cri-o.IP.0": "10.85.0.7", "io.kubernetes.cri-o.IP.1": "fd00::7",
            "io.kubernetes.cri-o.ImageName": "quay.io/acme/web:1",
            "io.kubernetes.cri-o.Created": "2026-11-21T13:00:00.123456789Z",
        },
    });
    let binds = json!([
        {"source": "/var/lib/kubelet/pods/11-22/etc-hosts", "destination": "/etc/hosts", "file_type": "file", "permissions": 420},
    ]);
    let layer = Tape::new().directory("etc/").file("etc/motd", b"changed\n").end();
    let archive = Tape::new()
        .file("bind.mounts", binds.to_string().as_bytes())
        .directory("checkpoint/")
        .file("checkpoint/inventory.img", &INVENTORY)
        .file("config.dump", serde_json::to_string_pretty(&config).unwrap().as_bytes())
        .file("deleted.files", br#"["/etc/gone"]"#)
        .file("dump.log", b"(00.000001) Version: 4.2\n")
        .file("io.kubernetes.cri-o.LogPath", b"2026-11-21T13:00:01Z stdout F hello\n")
        .file("rootfs-diff.tar", &layer)
        .file("spec.dump", spec.to_string().as_bytes())
        .file("stats-dump", b"")
        .end();
    let source = open_stream("crio.tar".to_owned(), Box::new(Cursor::new(archive)), &Limits::default(), None);
    Checkpoint::new(source.unwrap()).unwrap()
}

#[test]
fn the_container_is_known_by_its_annotations() {
    let container = engine::container(&checkpoint()).unwrap();
    assert_eq!((container.engine, container.name.as_deref()), (Engine::CriO, Some("web")));
    assert_eq!((container.id.as_deref(), container.host_name.as_deref()), (Some("c4a1"), Some("web-0")));
    let pod = container.pod.unwrap();
    let place = [pod.namespace, pod.name, pod.uid, pod.sandbox].map(Option::unwrap);
    assert_eq!(place, ["shop", "web-0", "11-22", "9f00"]);
    let image = container.image.unwrap();
    assert_eq!((image.name.as_deref(), image.requested), (Some("quay.io/acme/web:1"), None));
    assert!(image.id.unwrap().starts_with("5f70bf18"));
    assert_eq!(container.command, ["nginx", "-g", "daemon off;"]);
    assert_eq!(container.checkpointed.unwrap().to_string(), "2026-11-21T13:05:00Z");
    assert_eq!(container.restored, None);
}

#[test]
fn what_lies_beside_the_images_is_read() {
    let checkpoint = checkpoint();
    let addresses = engine::networks(&checkpoint).unwrap().remove(0).addresses;
    assert_eq!(addresses, ["10.85.0.7", "fd00::7"]);
    let bind = engine::binds(&checkpoint).unwrap().remove(0);
    assert_eq!((bind.destination.as_str(), bind.kind.as_str(), bind.mode), ("/etc/hosts", "file", 0o644));
    assert_eq!(engine::mounts(&checkpoint).unwrap().len(), 2);
    assert_eq!(engine::log(&checkpoint).unwrap().name, "io.kubernetes.cri-o.LogPath");
    assert_eq!(engine::status(&checkpoint).unwrap(), None, "only containerd notes one");
    let changes = engine::changes(&checkpoint).unwrap().unwrap();
    let kind = |path: &str| {
        changes.paths.iter().find(|(changed, _)| changed.as_str() == path).map(|(_, change)| change.kind)
    };
    assert_eq!(kind("/etc/motd"), Some(ChangeKind::Written));
    assert_eq!(kind("/etc/gone"), Some(ChangeKind::Removed));
}

//! Checkpoints laid out for other engines.

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use torpor_archive::Checkpoint;
use torpor_archive::layout::{Description, GivenMount, LayoutError, Obstacle, Plan, Request, Target};
use torpor_archive::oci::{Depot, Layout, Recipe, build};
use torpor_archive::packing::Packing;
use torpor_archive::source::{self, Compression, EntryKind, Limits, Place, open_bytes};
use torpor_archive::tape::Tape as Written;
use torpor_criu::image::file::{File, FileType, RegularFile};
use torpor_criu::image::namespace::Mount;
use torpor_criu::image::process::Ids;
use torpor_criu::image::{ImageWriter, Kind, edit, read_all};

use crate::kept_archives::{kept, opened};
use crate::tape::{Tape, pack};

const ID: &str = "0cee26a1c6d6d61a9235d4ce058b07cc3f0840f044aaacf88207b2be98e9c459";

fn image(kind: Kind, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
    for message in messages {
        writer.entry(message, &[]).unwrap();
    }
    writer.into_inner()
}

fn file(id: u32, name: &str, mnt_id: i32) -> Vec<u8> {
    let name = name.to_owned();
    let (mode, mnt_id) = (Some(0o40755), Some(mnt_id));
    let reg = Some(RegularFile { id, name, mode, mnt_id, ..RegularFile::default() });
    File { r#type: FileType::Regular as i32, id, reg, ..File::default() }.encode_to_vec()
}

fn mount(mnt_id: u32, mountpoint: &str, external: bool) -> Vec<u8> {
    let ext_key = external.then(|| mountpoint.to_owned());
    let mountpoint = mountpoint.to_owned();
    Mount { mnt_id, parent_mnt_id: u32::from(mnt_id != 1), mountpoint, ext_key, ..Mount::default() }
        .encode_to_vec()
}

/// A checkpoint as containerd writes it, of a container with mounts at these paths, the last of which is in use.
fn of_containerd(mounts: &[&str]) -> Vec<u8> {
    of_containerd_with(mounts, &[])
}

/// The same with these files more in the directory of images.
fn of_containerd_with(mounts: &[&str], more: &[(&str, &[u8])]) -> Vec<u8> {
    let numbered = (2..).zip(mounts).map(|(id, path)| mount(id, path, true));
    let all: Vec<_> = [mount(1, "/", false)].into_iter().chain(numbered).collect();
    let in_use = file(2, "/in/use", 1 + mounts.len() as i32);
    let ids = Ids { net_ns_id: Some(10), ..Ids::default() };
    let spec = json!({
        "process": {"args": ["sleep", "1"]},
        "hooks": {"prestart": [{"path": "/bin/evil"}]},
        "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/etc/hosts", "type": "bind"}],
        "linux": {
            "cgroupsPath": "/pod/x",
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/7/ns/net"}, {"type": "mount"}],
        },
        "annotations": {
            "io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-uid": "u",
        },
    });
    let config = json!({
        "id": ID, "name": "web_web-0_shop_u_0", "rootfsImageName": "quay.io/shop/web:1",
        "rootfsImageRef": format!("sha256:{ID}"), "checkpointedTime": "2026-11-21T13:28:06.123891014Z",
    });
    let layer = Tape::new().directory("etc/").file("etc/motd", b"changed").file("etc/.wh.removed", b"");
    let layer = layer.file("data/log", &[b'x'; 700]).file(".wh.top", b"");
    let tape = Tape::new().directory("checkpoint/");
    let tape = more.iter().fold(tape, |tape, (name, body)| tape.file(&format!("checkpoint/{name}"), body));
    tape.file("checkpoint/inventory.img", b"inventory")
        .file("checkpoint/files.img", &image(Kind::Files, &[file(1, "/", 1), in_use]))
        .file("checkpoint/mountpoints-13.img", &image(Kind::Mounts, &all))
        .file("checkpoint/ids-1.img", &image(Kind::Ids, &[ids.encode_to_vec()]))
        .file("checkpoint/netns-10.img", &edit::external_network("extRootNetNS").unwrap())
        .file("checkpoint/pages-1.img", &[7; 4096])
        .file("checkpoint/descriptors.json", b"[]")
        .file("config.dump", config.to_string().as_bytes())
        .file("container.log", b"ready\n")
        .file("rootfs-diff.tar", &pack(Compression::Gzip, &layer.end()))
        .file("spec.dump", spec.to_string().as_bytes())
        .file("status", b"{}")
        .end()
}

fn open(bytes: Vec<u8>) -> Checkpoint {
    let source = open_bytes("it.tar".to_owned(), std::sync::Arc::new(bytes), &Limits::default(), None);
    Checkpoint::new(source.unwrap()).unwrap()
}

fn plan(checkpoint: &Checkpoint, target: Target, request: &Request) -> Result<Plan, LayoutError> {
    Plan::new(checkpoint, Description::read(checkpoint)?, target, request)
}

fn convert(checkpoint: &Checkpoint, target: Target, request: &Request) -> Checkpoint {
    let plan = plan(checkpoint, target, request).unwrap();
    let mut tape = Written::new(Vec::new());
    plan.write(checkpoint, "", &mut tape).unwrap();
    open(tape.end().unwrap())
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    checkpoint.bytes(checkpoint.entry(name).unwrap_or_else(|| panic!("{name}")), 1 << 20).unwrap()
}

fn document(checkpoint: &Checkpoint, name: &str) -> Value {
    serde_json::from_slice(&bytes(checkpoint, name)).unwrap()
}

fn names(archive: &[u8]) -> Vec<String> {
    let limits = Limits::default();
    let read = torpor_archive::source::open_stream(
        "x".to_owned(),
        Box::new(Cursor::new(archive.to_vec())),
        &limits,
        None,
    );
    read.unwrap().entries().iter().map(|entry| entry.name.clone()).collect()
}

#[test]
fn podman_gets_what_it_reads() {
    let checkpoint = open(of_containerd(&["/etc/hosts", "/dev/termination-log", "/dev/shm", "/"]));
    let made = convert(
        &checkpoint,
        Target::Podman,
        &Request {
            without_mounts: Vec::new(),
            mounts: vec![GivenMount { destination: "/".to_owned(), source: Some("/srv".to_owned()) }],
            close_connections: false,
            has_image: false,
        },
    );
    let config = document(&made, "config.dump");
    assert_eq!((&config["name"], &config["rootfsImageID"]), (&json!("web"), &json!(ID)));
    assert_eq!((&config["createNetNS"], &config["networkMode"]), (&json!(true), &json!("bridge")));
    let spec = document(&made, "spec.dump");
    assert_eq!(spec["annotations"], json!({"io.container.manager": "libpod"}));
    assert_eq!(spec["mounts"], json!([{"destination": "/proc", "type": "proc"}]));
    assert_eq!(
        spec["linux"],
        json!({"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "mount"}]})
    );
    assert_eq!(spec.get("hooks"), None);
    assert_eq!(document(&made, "deleted.files"), json!(["/etc/removed", "/top"]));
    assert_eq!(names(&bytes(&made, "rootfs-diff.tar")), ["etc", "etc/motd", "data/log"]);
    assert_eq!(bytes(&made, "ctr.log"), b"ready\n");
    assert_eq!(bytes(&made, "checkpoint/pages-1.img"), [7; 4096]);
    let mounts: Vec<Mount> = read_all(&bytes(&made, "checkpoint/mountpoints-13.img")).unwrap();
    let mounts: Vec<_> = mounts.iter().map(|mount| mount.mountpoint.as_str()).collect();
    assert_eq!(mounts, ["/", "/etc/hosts", "/dev/shm", "/"]);
    let files: Vec<File> = read_all(&bytes(&made, "checkpoint/files.img")).unwrap();
    let modes: Vec<_> = files.into_iter().map(|file| file.reg.unwrap().mode).collect();
    assert_eq!(modes, [None, Some(0o40755)]);
}

#[test]
fn containerd_gets_its_own_again() {
    let checkpoint = open(of_containerd(&["/etc/hosts"]));
    let of_podman = convert(&checkpoint, Target::Podman, &Request::default());
    let made = convert(&of_podman, Target::Containerd, &Request::default());
    let layer = names(&bytes(&made, "rootfs-diff.tar"));
    assert_eq!(layer, ["etc", "etc/motd", "data/log", "etc/.wh.removed", ".wh.top"]);
    let config = document(&made, "config.dump");
    assert_eq!(config["rootfsImageRef"], "quay.io/shop/web:1");
    assert_eq!(document(&made, "status.dump")["metadata"]["name"], "web");
    assert_eq!(document(&made, "status.dump")["annotations"], of_the_kubelet());
    assert_eq!(document(&made, "spec.dump")["annotations"]["io.kubernetes.cri.container-name"], "web");
    assert!(made.entry("deleted.files").is_none() && made.entry("network.status").is_none());
    assert_eq!(bytes(&made, "container.log"), b"ready\n");
}

/// Without these the kubelet starts a restored container anew: "Container definition changed".
fn of_the_kubelet() -> Value {
    json!({
        "io.kubernetes.container.hash": "0", "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File", "io.kubernetes.pod.terminationGracePeriod": "30",
    })
}

#[test]
fn cri_o_gets_what_it_reads() {
    let made = convert(&open(of_containerd(&["/etc/hosts"])), Target::CriO, &Request::default());
    let annotations = &document(&made, "spec.dump")["annotations"];
    assert_eq!(annotations["io.container.manager"], "cri-o");
    for (key, value) in
        [("Metadata", json!({"name": "web"})), ("Labels", json!({})), ("Annotations", of_the_kubelet())]
    {
        let text = annotations[format!("io.kubernetes.cri-o.{key}")].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value, "{key}");
    }
    assert_eq!(document(&made, "config.dump")["rootfsImageRef"], ID);
    assert_eq!(document(&made, "deleted.files"), json!(["/etc/removed", "/top"]));
    assert!(made.entry("io.kubernetes.cri-o.LogPath").is_some());
}

#[test]
fn an_empty_network_that_was_dumped_gives_way_to_the_pods() {
    let ids = Ids { net_ns_id: Some(10), ..Ids::default() };
    let spec = json!({"linux": {"namespaces": [{"type": "network"}]}});
    let archive = Tape::new()
        .file("torpor.json", b"{}")
        .file("spec.dump", spec.to_string().as_bytes())
        .file("checkpoint/inventory.img", b"inventory")
        .file("checkpoint/ids-1.img", &image(Kind::Ids, &[ids.encode_to_vec()]))
        .file("checkpoint/netns-10.img", &image(Kind::NetworkNamespace, &[Vec::new()]));
    let checkpoint = open(archive.end());
    let mut description = Description::read(&checkpoint).unwrap();
    description.image = Some("quay.io/shop/web:1".to_owned());
    let plan = Plan::new(&checkpoint, description, Target::Containerd, &Request::default()).unwrap();
    let names: Vec<_> = plan.parts().iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "checkpoint/netns-10.img").count(), 1, "{names:?}");
    let mut tape = Written::new(Vec::new());
    plan.write(&checkpoint, "", &mut tape).unwrap();
    let outside = edit::external_network("extRootNetNS").unwrap();
    assert_eq!(bytes(&open(tape.end().unwrap()), "checkpoint/netns-10.img"), outside);
}

#[test]
fn an_engines_own_archive_stays_as_it_is() {
    let checkpoint = open(of_containerd(&["/config"]));
    let made = convert(&checkpoint, Target::Containerd, &Request::default());
    for (one, other) in checkpoint.entries().iter().zip(made.entries()) {
        assert_eq!(
            (&one.name, one.mode, one.modified, one.size),
            (&other.name, other.mode, other.modified, other.size)
        );
        if one.kind == EntryKind::File {
            assert_eq!(bytes(&checkpoint, &one.name), bytes(&made, &one.name));
        }
    }
}

#[test]
fn all_that_stands_in_the_way_is_named_at_once() {
    let checkpoint = open(of_containerd(&["/config", "/secret", "/in/use"]));
    let request = Request { without_mounts: vec!["/in/use".to_owned()], ..Request::default() };
    let refused = plan(&checkpoint, Target::Podman, &request).unwrap_err();
    let LayoutError::Refused { obstacles, .. } = &refused else { panic!("{refused}") };
    let mount = |path: &str| Obstacle::Mount { destination: path.to_owned() };
    let in_use = Obstacle::MountInUse { destination: "/in/use".to_owned() };
    assert_eq!(obstacles, &[mount("/config"), mount("/secret"), in_use]);
    assert!(refused.remedy().contains("--without-mount /secret"), "{}", refused.remedy());
}

proptest! {
    // Each case makes a store and two images.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Without what was used of devices, a restore would not ask for them.
    #[test]
    fn the_record_of_devices_stays_in_every_form(
        record in proptest::collection::vec(any::<u8>(), 1..2000),
        targets in proptest::collection::vec(proptest::sample::select(&[Target::Podman, Target::CriO, Target::Containerd][..]), 0..4),
    ) {
        const RECORD: &str = "accelerators.json";
        let archive = of_containerd_with(&["/etc/hosts"], &[(RECORD, &record)]);
        let mut checkpoint = open(archive.clone());
        for target in targets {
            // An image's ID is lost on some of the ways, and Podman refuses then.
            if plan(&checkpoint, target, &Request::default()).is_ok() {
                checkpoint = convert(&checkpoint, target, &Request::default());
            }
        }
        let (repository, manifest) = kept(&archive);
        for checkpoint in [checkpoint, opened(&repository, &manifest)] {
            let place = tempfile::tempdir().unwrap();
            let plan = Plan::as_it_is(&checkpoint, Description::read(&checkpoint).unwrap());
            let (packing, annotations) = (Packing::Zstd, BTreeMap::new());
            let recipe = Recipe { checkpoint: &checkpoint, plan: &plan, base: None, packing, annotations };
            let mut layout = Layout::new(place.path(), None);
            build(&recipe, &mut layout).unwrap();
            Box::new(layout).finish().unwrap();
            let image = Checkpoint::new(source::open(&Place::Path(place.path().to_owned())).unwrap()).unwrap();
            prop_assert_eq!(bytes(&image, &format!("checkpoint/{RECORD}")), record.clone());
        }
    }
}

proptest! {
    #[test]
    fn no_layer_breaks_the_plan(layer in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let archive = Tape::new()
            .directory("checkpoint/")
            .file("checkpoint/inventory.img", b"inventory")
            .file("config.dump", b"{}")
            .file("rootfs-diff.tar", &layer)
            .end();
        let checkpoint = open(archive);
        for target in [Target::Podman, Target::CriO, Target::Containerd] {
            let _ = plan(&checkpoint, target, &Request::default());
        }
    }
}

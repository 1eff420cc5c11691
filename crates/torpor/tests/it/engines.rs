//! Checkpoints of real containers: runc, crun, Podman and containerd make them, on a lab host (`cargo xtask lab`).
//!
//! Under test is what is told about them. `TORPOR_LAB` names the root of lab hosts; without it these tests are skipped.

mod carrying;
mod conversion;
mod lab;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use torpor_archive::Checkpoint;
use torpor_archive::source::{self, Place};

use crate::identity;
use lab::Lab;

/// What the worker writes at the end of its memory.
const NEEDLE: &str = "needle-in-haystack!";

/// Runs Torpor, under its own or another name, and returns what it prints.
#[track_caller]
fn says(lab: &Lab, name: &str, arguments: &[&str]) -> String {
    let output = Command::new(lab.called(name)).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Every image of a checkpoint goes to JSON and back unchanged.
#[track_caller]
fn images_survive_json(place: &Path) {
    let checkpoint = Checkpoint::new(source::open(&Place::Path(place.to_owned())).unwrap()).unwrap();
    let count = identity::images_survive_json(&checkpoint);
    assert!(count > 15, "only {count} images in {}", place.display());
}

/// What checkpointctl's JSON says of the worker, whoever ran it.
#[track_caller]
fn is_the_worker(document: &Value, engine: &str, image: &str) {
    assert_eq!(document["engine"], engine);
    assert_eq!(document["container_name"], "worker");
    assert_eq!(document["image"], image);
    does_what_the_worker_does(document);
}

/// What checkpointctl's JSON says of the worker's processes.
#[track_caller]
fn does_what_the_worker_does(document: &Value) {
    let process = &document["process_tree"];
    assert_eq!(process["command"], "python3");
    assert_eq!(process["cmdline"], "/bin/python3 /worker.py 2 ");
    assert_eq!(process["environment_variables"]["PASSWORD"], "hunter2");
    assert_eq!(process["children"][0]["command"], "sleep");
    let paths: Vec<_> = document["file_descriptors"][0]["open_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    for path in ["/data/progress.log", "/data/deleted-while-open"] {
        assert!(paths.contains(&path), "{paths:?}");
    }
    let sockets = document["sockets"][0]["open_sockets"].as_array().unwrap();
    let listens = |socket: &&Value| socket["data"]["state"] == "LISTEN" && socket["data"]["src_port"] == 7070;
    assert!(sockets.iter().any(|socket| listens(&socket)), "{sockets:?}");
    assert!(sockets.iter().any(|socket| socket["data"]["address"] == "/data/worker.sock"), "{sockets:?}");
    assert_eq!(document["mounts"][0]["destination"], "/proc");
    assert!(document["statistics"]["pages_written"].as_u64().unwrap() > 100);
}

fn documents(lab: &Lab, archive: &str) -> Value {
    let json = says(lab, "checkpointctl", &["inspect", "--all", "--format", "json", archive]);
    serde_json::from_str::<Value>(&json).unwrap()[0].clone()
}

/// What Torpor's own commands say of any checkpoint of the worker.
#[track_caller]
fn torpor_tells_of_the_worker(lab: &Lab, place: &str) {
    let json = says(lab, "torpor", &["inspect", "--all", "--show-secrets", "--output", "json", place]);
    for wanted in ["/worker.py", "hunter2", "/data/progress.log", "/data/worker.sock", "7070"] {
        assert!(json.contains(wanted), "{wanted} is missing in {json}");
    }
    assert!(!says(lab, "torpor", &["inspect", "--all", place]).contains("hunter2"));
    says(lab, "torpor", &["check", place]);
}

#[test]
fn podmans_archives_of_each_compression() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    for kind in ["tar", "tar.gz", "tar.zst"] {
        let archive = lab.made(&format!("podman.{kind}"));
        let name = archive.to_str().unwrap();
        is_the_worker(&documents(&lab, name), "Podman", "localhost/worker:1");
        assert_eq!(says(&lab, "checkpointctl", &["show", name]), lab.said(&format!("show-podman.{kind}")));
        let found = says(&lab, "checkpointctl", &["memparse", "-p", "1", "-s", NEEDLE, name]);
        assert!(found.contains(NEEDLE), "{found}");
        images_survive_json(&archive);
        torpor_tells_of_the_worker(&lab, name);
    }
}

#[test]
fn an_image_of_podmans_archive_is_a_checkpoint_for_each_engine() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("podman");
    let archive = lab.made("podman.tar.zst");
    let layout = lab.made("layout");
    let target = format!("oci:{}:v1", layout.display());
    let said = says(&lab, "checkpointctl", &["build", archive.to_str().unwrap(), &target]);
    for annotation in [
        "org.criu.checkpoint.container.name=worker",
        "io.podman.annotations.checkpoint.runtime.name=runc",
        "io.kubernetes.cri-o.annotations.checkpoint.name=worker",
    ] {
        assert!(said.contains(annotation), "{said}");
    }
    // Skopeo reads every blob, and refuses one whose digest or size is another.
    let copied = lab.made("copied");
    let to = format!("dir:{}", copied.display());
    lab.run(&["skopeo", "copy", "-q", &target, &to]);
    assert!(copied.join("manifest.json").exists());
}

#[test]
fn containerds_archive_made_through_cri() {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint("containerd");
    let archive = lab.made("containerd.tar");
    let name = archive.to_str().unwrap();
    let document = documents(&lab, name);
    is_the_worker(&document, "containerd", "localhost/worker:1");
    assert_eq!(document["metadata"]["pod_name"], "pod-a");
    assert_eq!(document["metadata"]["kubernetes_namespace"], "shop");
    assert_eq!(says(&lab, "checkpointctl", &["show", name]), lab.said("show-containerd.tar"));
    images_survive_json(&archive);
    torpor_tells_of_the_worker(&lab, name);
}

/// Checkpoints of a container that an engine runs: into a store, a directory, and at its end.
const ROUTES: &str = r#"
torpor checkpoint container:$CONTAINER --tcp established --store $MADE/store --name worker --leave-running
torpor checkpoint container:$CONTAINER --tcp established --images $MADE/images --leave-running
torpor checkpoint container:$CONTAINER --tcp established --store $MADE/store --name worker
"#;

#[test]
fn a_container_of_containerd_goes_all_routes() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        r#"
        torpor checkpoint pod:shop/pod-a --route cri --leave-running --export $MADE/cri.tar
        torpor checkpoint container:$CONTAINER --route cri --leave-running --export $MADE
        ! torpor checkpoint pod:shop/pod-a --route cri --leave-running --export $MADE/cri.tar 2> $MADE/taken
        ! torpor checkpoint pod:shop/pod-a --route cri --leave-running --export $MADE/late.tar --timeout 1ms 2> $MADE/late
        # However far containerd has come, it does not take the container for paused afterwards.
        for time in 200ms 400ms 800ms; do
            torpor checkpoint pod:shop/pod-a --route cri --leave-running --export $MADE/in-$time.tar --timeout $time || true
            ctr -n k8s.io task ls > $MADE/tasks; if grep PAUSED $MADE/tasks; then exit 1; fi
            torpor checkpoint pod:shop/pod-a --route cri --leave-running --export $MADE/out-$time.tar & killed=$!
            sleep 0.${{time%00ms}}; kill -9 $killed || true; wait $killed || true
            for _ in $(seq 100); do pgrep -f 'guard$' > $MADE/tasks || break; sleep 0.05; done
            ctr -n k8s.io task ls > $MADE/tasks; if grep PAUSED $MADE/tasks; then exit 1; fi
        done
        ! torpor checkpoint pod:shop/pod-a --route kubelet --leave-running --kubelet https://127.0.0.1:1 2> $MADE/kubelet
        torpor checkpoint pod:shop/pod-a --store $MADE/store --leave-running
        ! torpor checkpoint pod:shop/pod-a --layout containerd --export $MADE/own.tar --leave-running 2> $MADE/local
        {ROUTES}"#
    );
    lab.meanwhile("containerd", &script);
    torpor_tells_of_the_worker(&lab, lab.made("cri.tar").to_str().unwrap());
    assert!(lab.said("local").contains("localhost/worker:1 cannot be pulled"), "{}", lab.said("local"));
    let made: Vec<String> = std::fs::read_dir(lab.made(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(made.iter().any(|name| name.starts_with("checkpoint-pod-a_shop-worker-2")), "{made:?}");
    assert!(!made.iter().any(|name| name.starts_with('.') || name == "late.tar"), "{made:?}");
    assert!(lab.said("taken").contains("there is a file"), "{}", lab.said("taken"));
    assert!(lab.said("late").contains("in the time it had"), "{}", lab.said("late"));
    assert!(lab.said("kubelet").contains("cannot be reached"), "{}", lab.said("kubelet"));
    kept_the_worker(&lab, &["worker@1", "worker@2", "shop/pod-a/worker@1"]);
}

#[test]
fn a_container_of_podman_goes_into_a_store() {
    let Some(lab) = Lab::new() else { return };
    lab.meanwhile("podman", ROUTES);
    kept_the_worker(&lab, &["worker@1", "worker@2"]);
}

#[test]
fn podman_restores_what_torpor_exports() {
    let Some(lab) = Lab::new() else { return };
    lab.meanwhile(
        "podman",
        r#"
        podman="podman --cgroup-manager=cgroupfs --runtime runc"
        checkpoint="torpor checkpoint container:worker --tcp close --layout podman"
        $checkpoint --leave-running --export $MADE
        $checkpoint --export $MADE/own.tar
        $podman rm -f -t0 worker
        $podman container restore --import $MADE/own.tar --file-locks --keep \
            || { grep -hE "Error|Warn" $(find /var/lib/containers /run -name restore.log) >&2; false; }
        $podman inspect worker > $MADE/inspect
        cat $($podman mount worker)/etc/motd > $MADE/motd
        test ! -e $($podman mount worker)/etc/removed
        "#,
    );
    assert_eq!(lab.said("motd"), "changed\n");
    let inspected: Value = serde_json::from_str(&lab.said("inspect")).unwrap();
    let state = &inspected[0]["State"];
    assert!(state["Running"] == true && state["Restored"] == true, "{state}");
    let made = std::fs::read_dir(lab.made("")).unwrap().map(|entry| entry.unwrap().file_name());
    let made: Vec<String> = made.map(|name| name.into_string().unwrap()).collect();
    assert!(!made.iter().any(|name| name.starts_with('.')), "nothing half-made: {made:?}");
    assert!(made.iter().any(|name| name.starts_with("checkpoint-none_none-worker-2")), "{made:?}");
    torpor_tells_of_the_worker(&lab, lab.made("own.tar").to_str().unwrap());
}

/// What is in the store is the worker, whole.
#[track_caller]
fn kept_the_worker(lab: &Lab, references: &[&str]) {
    let store = lab.made("store").display().to_string();
    says(lab, "torpor", &["verify", "--store", &store]);
    for reference in references {
        let shown = says(lab, "torpor", &["show", "--store", &store, reference]);
        assert!(shown.contains(reference), "{shown}");
        let words = ["inspect", "--all", "--output", "json", "--store", &store, reference];
        let json = says(lab, "torpor", &words);
        assert!(json.contains("/worker.py"), "{reference}: {json}");
    }
}

#[test]
fn images_of_runc() {
    images_of("runc");
}

#[test]
fn images_of_crun() {
    images_of("crun");
}

/// A runtime by itself writes a directory of images.
#[track_caller]
fn images_of(runtime: &str) {
    let Some(lab) = Lab::new() else { return };
    lab.checkpoint(runtime);
    let directory = lab.made(runtime);
    images_survive_json(&directory);
    let json = says(&lab, "torpor", &["inspect", "--all", "--output", "json", directory.to_str().unwrap()]);
    for wanted in ["/worker.py", "/data/progress.log", "/data/worker.sock"] {
        assert!(json.contains(wanted), "{wanted} is missing in {json}");
    }
}

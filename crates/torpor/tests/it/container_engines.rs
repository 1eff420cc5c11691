//! Containers that real runtimes have started, and that know nothing of Torpor: checkpointed, and restored by the runtime.

mod host;
mod kills;
mod migration;
mod sandbox;
mod stored;

use std::path::Path;
use std::time::{Duration, Instant};

use torpor_archive::Checkpoint;
use torpor_archive::source::{self, Place};

use crate::identity::images_survive_json;
use host::Host;

/// Counts in memory, and says how far it is in a volume, which no checkpoint takes back.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /volume/count; sleep 0.02; done";
/// The same, hardly ever making a process: runtimes freeze by the control group, and one of version 1 may never be frozen
/// while processes are made in it.
const SLOW_COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /volume/count; sleep 0.5; done";
const RUNTIMES: [&str; 2] = ["runc", "crun"];
/// How long a container may stand still after whoever made a checkpoint of it was killed.
const PROMISE: Duration = Duration::from_secs(5);

fn dumped(images: &Path) -> Checkpoint {
    Checkpoint::new(source::open(&Place::Path(images.to_owned())).unwrap()).unwrap()
}

fn restore(host: &Host, runtime: &str, id: &str, images: &str) {
    let command = format!(
        "exec {runtime} restore --file-locks --detach --bundle /run/b/{id} --image-path {images} --work-path /run {id} >/dev/null 2>&1"
    );
    host.run(&["bash", "-c", &command]);
}

#[test]
fn a_container_runs_on_after_its_checkpoint_and_its_runtime_restores_it() {
    let Some(host) = Host::new() else { return };
    for id in RUNTIMES {
        host.bundle(id, COUNTER);
        host.start(id, id);
        let before = host.counts_beyond(id, 3);
        let target = format!("container:{id}");
        let said = host.torpor(&[
            "checkpoint",
            &target,
            "--images",
            &format!("/run/{id}.images"),
            "--leave-running",
        ]);
        assert!(said.contains("runs on"), "{said}");
        let later = host.counts_beyond(id, host.count(id) + 20);
        host.run(&[id, "delete", "--force", id]);
        std::fs::write(host.path(&format!("/run/b/{id}/volume/count")), "0").unwrap();
        restore(&host, id, id, &format!("/run/{id}.images"));
        let after = host.counts_beyond(id, 0);
        assert!(before <= after && after < later, "{id}: from {before} to {later}, and restored at {after}");
        host.run(&[id, "delete", "--force", id]);
    }
}

#[test]
fn a_container_is_suspended_and_restored_three_times() {
    let Some(host) = Host::new() else { return };
    for id in RUNTIMES {
        host.bundle(id, COUNTER);
        host.start(id, id);
        let mut count = host.counts_beyond(id, 3);
        for round in 1..=3 {
            let images = format!("/run/{id}.{round}");
            let said = host.torpor(&["checkpoint", &format!("container:{id}"), "--images", &images]);
            assert!(said.contains("ended"), "{said}");
            assert!(images_survive_json(&dumped(&host.path(&images))) > 15);
            let end = host.count(id);
            assert!(end >= count);
            assert!(!host.run(&[id, "list", "-q"]).contains(id), "the runtime has forgotten it");
            restore(&host, id, id, &images);
            count = host.counts_beyond(id, end);
        }
        host.run(&[id, "delete", "--force", id]);
    }
}

#[test]
fn the_runtimes_own_command_is_another_route() {
    let Some(host) = Host::new() else { return };
    host.bundle("route", SLOW_COUNTER);
    host.start("runc", "route");
    host.counts_beyond("route", 1);
    host.torpor(&["checkpoint", "container:route", "--images", "/run/images", "--route", "runtime"]);
    let end = host.count("route");
    restore(&host, "runc", "route", "/run/images");
    host.counts_beyond("route", end);
    host.run(&["runc", "delete", "--force", "route"]);
}

#[test]
fn what_cannot_be_done_is_refused_and_the_container_runs_on() {
    let Some(host) = Host::new() else { return };
    // It is paused, too.
    host.bundle("refused", SLOW_COUNTER);
    host.start_with_output("runc", "refused", "/run/output");
    host.counts_beyond("refused", 0);
    let checkpoint = ["checkpoint", "container:refused", "--images", "/run/images"];
    let said = host.refused(&checkpoint);
    assert!(said.contains("descriptor 1 of process") && said.contains("/run/output"), "{said}");
    host.run(&["runc", "delete", "--force", "refused"]);

    // What the one before has counted must not make it look as if this one ran.
    std::fs::write(host.path("/run/b/refused/volume/count"), "0").unwrap();
    host.start("runc", "refused");
    host.counts_beyond("refused", 0);
    let said = host.refused(&[&checkpoint[..], &["--timeout", "1ms"]].concat());
    assert!(said.contains("was not committed in the time it had"), "{said}");
    std::fs::create_dir(host.path("/run/full")).unwrap();
    std::fs::write(host.path("/run/full/precious"), "").unwrap();
    assert!(
        host.refused(&["checkpoint", "container:refused", "--images", "/run/full"]).contains("not empty")
    );
    host.run(&["runc", "pause", "refused"]);
    assert!(host.refused(&checkpoint).contains("it is paused, not running"));
    host.run(&["runc", "resume", "refused"]);
    assert!(host.refused(&["checkpoint", "container:none", "--images", "/run/images"]).contains("/run/runc"));
    host.counts_beyond("refused", host.count("refused"));
    let left = host.names("/run");
    assert!(!left.iter().any(|name| name.contains("images")), "nothing half-made: {left:?}");
    host.run(&["runc", "delete", "--force", "refused"]);
}

#[test]
fn a_kill_of_torpor_leaves_the_container_running() {
    let Some(host) = Host::new() else { return };
    host.bundle("killed", COUNTER);
    host.start("runc", "killed");
    host.counts_beyond("killed", 3);
    for round in 0..8 {
        let mut command = host.command(&[
            "/run/torpor/torpor",
            "checkpoint",
            "container:killed",
            "--images",
            "/run/images",
            "--leave-running",
        ]);
        let mut checkpoint = command.spawn().unwrap();
        // At another moment each time: while it starts, checks, and holds the container.
        std::thread::sleep(Duration::from_millis(60 * round));
        let _ = host.output(&["bash", "-c", "kill -KILL $(pidof torpor)"]);
        let killed = Instant::now();
        host.counts_beyond("killed", host.count("killed") + 1);
        assert!(killed.elapsed() < PROMISE, "round {round}: it stood still for {:?}", killed.elapsed());
        checkpoint.wait().unwrap();
        host.run(&["rm", "-rf", "/run/images"]);
    }
    host.torpor(&["checkpoint", "container:killed", "--images", "/run/images", "--leave-running"]);
    let left = host.names("/run");
    assert!(!left.iter().any(|name| name.contains("partial")), "the next checkpoint cleans up: {left:?}");
    host.run(&["runc", "delete", "--force", "killed"]);
}

#[test]
fn what_does_not_fit_a_bundle_is_refused_before_anything_is_made() {
    let Some(host) = Host::new() else { return };
    host.bundle("misfit", COUNTER);
    host.start("runc", "misfit");
    host.counts_beyond("misfit", 3);
    host.torpor(&["checkpoint", "container:misfit", "--images", "/run/images"]);
    let config = host.path("/run/b/misfit/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("/volume\"", "/elsewhere\"")).unwrap();
    let said = host.refused(&["restore", "/run/images", "--bundle", "/run/b/misfit", "--detach"]);
    assert!(said.contains("lacks mounts that the container had: /volume"), "{said}");
    assert!(!host.run(&["runc", "list", "-q"]).contains("misfit"));
    std::fs::write(&config, text).unwrap();
    let end = host.count("misfit");
    host.torpor_quietly(&[
        "restore",
        "/run/images",
        "--bundle",
        "/run/b/misfit",
        "--detach",
        "--pid-file",
        "/run/pid",
    ]);
    host.counts_beyond("misfit", end);
    assert!(host.names("/run").contains(&"pid".to_owned()));
    host.run(&["runc", "delete", "--force", "misfit"]);
}

#[test]
fn plain_processes_are_restored_from_what_criu_dumped() {
    let Some(host) = Host::new() else { return };
    let program = "mkdir -p /run/b/plain/volume /run/dumped; cd /; i=0; exec setsid busybox sh -c \
        'while :; do i=$((i+1)); echo $i > /run/b/plain/volume/new; cat /run/b/plain/volume/new > /run/b/plain/volume/count; sleep 0.02; done' \
        </dev/null >/dev/null 2>&1 & echo $!";
    let root = host.run(&["bash", "-c", program]);
    host.counts_beyond("plain", 3);
    host.run(&["criu", "dump", "--tree", root.trim(), "--images-dir", "/run/dumped"]);
    let end = host.count("plain");
    host.torpor_quietly(&["restore", "/run/dumped", "--detach", "--pid-file", "/run/pid"]);
    host.counts_beyond("plain", end);
    assert_eq!(host.run(&["cat", "/run/pid"]).trim(), root.trim());
    host.run(&["kill", "-KILL", root.trim()]);
}

#[test]
fn a_check_tells_beforehand_what_a_checkpoint_would_refuse() {
    let Some(host) = Host::new() else { return };
    for id in RUNTIMES {
        host.bundle(id, SLOW_COUNTER);
        host.put_into_pod(id, "asked", id);
        host.start(id, id);
    }
    host.counts_beyond("asked", 1);
    let said = host.torpor(&["check", "pod:shop/asked"]);
    for wanted in ["(runc)", "(crun)", "2 processes", "of 21s at most", "of 30s at most"] {
        assert!(said.contains(wanted), "{wanted} is missing in {said}");
    }
    host.run(&["runc", "pause", "runc"]);
    let paused = host.output(&["/run/torpor/torpor", "check", "pod:shop/asked/runc"]);
    assert_eq!(paused.status.code(), Some(1));
    assert!(String::from_utf8(paused.stdout).unwrap().contains("it is paused, not running"));
    host.run(&["runc", "resume", "runc"]);
    for id in RUNTIMES {
        host.run(&[id, "delete", "--force", id]);
        host.start_with_output(id, id, "/run/output");
        let target = format!("container:{id}");
        let refused = host.refused(&["checkpoint", &target, "--images", "/run/images"]);
        let told = host.output(&["/run/torpor/torpor", "check", &target]);
        let told = String::from_utf8(told.stdout).unwrap();
        for said in [refused, told] {
            assert!(said.contains("descriptor 1 of process") && said.contains("/run/output"), "{said}");
        }
        host.run(&[id, "delete", "--force", id]);
    }
}

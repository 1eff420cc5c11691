use std::path::Path;

use super::*;
use crate::doctor::Status;
use crate::install::Site;

/// A node without any fault.
fn perfect() -> NodeFindings {
    let handler = Path::new("/opt/torpor/bin/torpor-runtime").to_owned();
    NodeFindings {
        handler_there: true,
        installed: true,
        criu: Some(Ok("4.2".into())),
        runtime: Ok("/usr/sbin/runc".into()),
        settings: Ok("checkpoints are looked for in file:///var/lib/torpor".into()),
        containerd: Some(Containerd {
            major: Some(2),
            handler: Some(handler.clone()),
            ..Containerd::default()
        }),
        crio: Some(Crio {
            handler: Some(handler.clone()),
            level: Some("checkpoint_only".into()),
            drop_infra: Some(false),
            ..Crio::default()
        }),
        docker: Some(Docker { problem: None, runtime: Some(handler.clone()) }),
        podman: Some(Some(handler.clone())),
        kubelet: Some(Kubelet {
            version: Some((1, 33)),
            checkpoints: Some(true),
            waits: true,
            problem: None,
        }),
        handler,
    }
}

fn status(rows: &[Row], id: &str) -> Status {
    rows.iter().find(|row| row.id == format!("node.{id}")).map(|row| row.status).unwrap()
}

#[test]
fn a_node_that_is_set_up_fails_no_row() {
    let rows = rows(&perfect());
    let wrong: Vec<_> = rows.iter().filter(|row| row.status > Status::Skip).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_thing_that_is_missing_has_its_row_and_a_remedy() {
    type Spoil = fn(&mut NodeFindings);
    let table: [(Spoil, &str, Status); 17] = [
        (|node| node.handler_there = false, "binaries", Status::Fail),
        (|node| node.handler_there = false, "containerd.handler", Status::Fail),
        (|node| node.criu = Some(Err("no".into())), "criu", Status::Fail),
        (|node| node.criu = None, "criu", Status::Skip),
        (|node| node.runtime = Err("no".into()), "runtime", Status::Fail),
        (|node| node.settings = Err(("no".into(), "mend it")), "settings", Status::Fail),
        (|node| node.containerd = Some(Containerd::default()), "containerd.handler", Status::Fail),
        (
            |node| node.containerd.as_mut().unwrap().handler = Some("/else/torpor-runtime".into()),
            "containerd.handler",
            Status::Warn,
        ),
        (
            |node| node.containerd.as_mut().unwrap().enable_criu = Some(false),
            "containerd.checkpointing",
            Status::Warn,
        ),
        (|node| node.containerd.as_mut().unwrap().major = Some(1), "containerd.checkpointing", Status::Skip),
        (|node| node.crio = Some(Crio::default()), "crio.infra", Status::Warn),
        (|node| node.crio.as_mut().unwrap().level = Some("none".into()), "crio.checkpointing", Status::Warn),
        (|node| node.docker = Some(Docker::default()), "docker.runtime", Status::Fail),
        (|node| node.podman = Some(None), "podman.runtime", Status::Fail),
        (
            |node| node.kubelet.as_mut().unwrap().checkpoints = Some(false),
            "kubelet.checkpointing",
            Status::Warn,
        ),
        (|node| node.kubelet.as_mut().unwrap().waits = false, "kubelet.shutdown", Status::Warn),
        (|node| node.kubelet = None, "kubelet.checkpointing", Status::Skip),
    ];
    for (spoil, id, expected) in table {
        let mut node = perfect();
        spoil(&mut node);
        let rows = rows(&node);
        assert_eq!(status(&rows, id), expected, "{id}");
        for row in &rows {
            assert_eq!(row.status > Status::Skip, row.remedy.is_some(), "{row:#?}");
        }
    }
}

#[test]
fn what_a_machines_files_say_is_found() {
    let place = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = place.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let site = Site { machine: place.path().to_owned(), prefix: "/opt/torpor".into() };
    assert!(rows(&NodeFindings::examine(&site)).iter().any(|row| row.id == "node.engines"));
    let handler = "/opt/torpor/bin/torpor-runtime";
    write("etc/containerd/config.toml", "version = 3\n");
    write(
        "etc/containerd/conf.d/90-torpor.toml",
        &format!(
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.torpor.options]\nBinaryName = '{handler}'\n"
        ),
    );
    write(
        "etc/crio/crio.conf.d/10-theirs.conf",
        "[crio.runtime]\ndrop_infra_ctr = true\nenable_criu_support = false\n",
    );
    write(
        "etc/crio/crio.conf.d/90-torpor.conf",
        &format!(
            "[crio.runtime]\ndrop_infra_ctr = false\n[crio.runtime.runtimes.torpor]\nruntime_path = \"{handler}\"\n"
        ),
    );
    write("etc/docker/daemon.json", &format!(r#"{{"runtimes": {{"torpor": {{"path": "{handler}"}}}}}}"#));
    write(
        "var/lib/kubelet/config.yaml",
        "shutdownGracePeriod: 30s\nfeatureGates: {ContainerCheckpoint: true}\n",
    );
    let rows = rows(&NodeFindings::examine(&site));
    for (id, expected) in [
        ("binaries", Status::Fail),
        ("containerd.handler", Status::Fail),
        ("crio.handler", Status::Fail),
        ("crio.infra", Status::Ok),
        ("crio.checkpointing", Status::Warn),
        ("docker.runtime", Status::Fail),
        ("kubelet.checkpointing", Status::Ok),
        ("kubelet.shutdown", Status::Ok),
    ] {
        assert_eq!(status(&rows, id), expected, "{id}: {rows:#?}");
    }
    write("opt/torpor/bin/torpor-runtime", "");
    write("etc/containerd/config.toml", "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n");
    let rows = super::rows(&NodeFindings::examine(&site));
    for id in ["binaries", "containerd.handler", "crio.handler", "docker.runtime"] {
        assert_eq!(status(&rows, id), Status::Ok, "{id}: {rows:#?}");
    }
}

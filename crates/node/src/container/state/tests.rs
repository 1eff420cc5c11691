use super::*;

/// As runc 1.3.6 writes it, shortened.
const RUNC: &str = r#"{
  "id": "one", "init_process_pid": 99, "init_process_start": 1337987, "created": "2026-11-21T13:25:41.653862431Z",
  "config": {
    "rootfs": "/run/b/rootfs", "umask": null, "readonlyfs": false,
    "mounts": [
      {"source": "proc", "destination": "/proc", "device": "proc", "flags": 0, "propagation_flags": null},
      {"source": "cgroup", "destination": "/sys/fs/cgroup", "device": "cgroup", "flags": 2097167},
      {"source": "/srv/vol", "destination": "/data", "device": "bind", "flags": 20480}],
    "devices": [{"type": 99, "major": 1, "minor": 3, "permissions": "rwm", "allow": true, "path": "/dev/null"}],
    "namespaces": [{"type": "NEWPID", "path": ""}, {"type": "NEWNET", "path": "/run/netns/pod"}, {"type": "NEWNS", "path": ""}],
    "mask_paths": ["/proc/acpi", "/proc/keys"], "readonly_paths": ["/proc/bus"], "seccomp": null,
    "labels": ["bundle=/run/b", "io.kubernetes.cri.container-name=web", "io.kubernetes.cri.container-type=container",
      "io.kubernetes.cri.sandbox-namespace=shop", "io.kubernetes.cri.sandbox-name=web-0",
      "io.kubernetes.cri.image-name=example.org/web:1"]
  },
  "cgroup_paths": {"": "/sys/fs/cgroup/unified/one", "freezer": "/sys/fs/cgroup/freezer/one"},
  "namespace_paths": {"NEWNET": "/proc/99/ns/net"},
  "external_descriptors": ["/dev/null", "pipe:[12]", "pipe:[13]"], "intel_rdt_path": ""
}"#;

/// As crun 1.28 writes it.
const CRUN: &str = r#"{
  "pid": 299, "process-start-time": 1340000, "cgroup-path": "\/two", "scope": "", "rootfs": "rootfs",
  "systemd-cgroup": false, "bundle": "\/run\/b", "created": "2026-11-21T13:26:01.806871Z", "owner": "root",
  "detached": true, "external_descriptors": "[\n  \"\\\/dev\\\/null\",\n  \"pipe:[5]\",\n  \"pipe:[6]\"\n]"
}"#;

const CONFIG: &str = r#"{
  "ociVersion": "1.2.1",
  "process": {"args": ["sh", "-c", "true"], "cwd": "/", "user": {"uid": 0}},
  "root": {"path": "rootfs"},
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
    {"destination": "/data", "source": "/srv/vol", "options": ["rbind", "rw"]},
    {"destination": "/etc/hosts", "type": "bind", "source": "/srv/hosts"}],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/pod"}, {"type": "mount"}],
    "maskedPaths": ["/proc/acpi"], "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
  },
  "annotations": {"io.container.manager": "libpod"}
}"#;

fn wanted(container: &Container) -> Vec<(&str, MountKind)> {
    let mounts = container.description.mounts.iter();
    mounts.map(|mount| (mount.destination.to_str().unwrap(), mount.kind)).collect()
}

#[test]
fn runc_keeps_everything_in_one_file() {
    let container = Container::from_runc(RUNC.as_bytes(), Path::new("/run/runc")).unwrap();
    assert_eq!((container.id.as_str(), container.init, container.started), ("one", 99, 1_337_987));
    assert_eq!(
        (container.bundle.as_path(), container.rootfs.as_path()),
        (Path::new("/run/b"), Path::new("/run/b/rootfs"))
    );
    assert_eq!(container.freezer, Some(Freezer::new("/sys/fs/cgroup/freezer/one")));
    assert_eq!(container.descriptors, ["/dev/null", "pipe:[12]", "pipe:[13]"]);
    assert_eq!(
        wanted(&container),
        [("/proc", MountKind::Own), ("/sys/fs/cgroup", MountKind::Cgroup), ("/data", MountKind::Bind)]
    );
    assert!(container.joins("network") && !container.joins("pid") && !container.joins("user"));
    assert_eq!(container.description.devices, [Path::new("/dev/null")]);
}

#[test]
fn crun_keeps_a_copy_of_the_configuration() {
    let named = |group: &Path| {
        Some(Freezer::new(Path::new("/sys/fs/cgroup/freezer").join(group.strip_prefix("/").unwrap())))
    };
    let place = (Path::new("/run/crun"), "two");
    let container = Container::from_crun(CRUN.as_bytes(), CONFIG.as_bytes(), place, named).unwrap();
    assert_eq!((container.id.as_str(), container.init, container.started), ("two", 299, 1_340_000));
    assert_eq!(container.rootfs, Path::new("/run/b/rootfs"));
    assert_eq!(container.freezer, Some(Freezer::new("/sys/fs/cgroup/freezer/two")));
    assert_eq!(container.descriptors, ["/dev/null", "pipe:[5]", "pipe:[6]"]);
    assert_eq!(
        wanted(&container),
        [
            ("/proc", MountKind::Own),
            ("/sys/fs/cgroup", MountKind::Cgroup),
            ("/data", MountKind::Bind),
            ("/etc/hosts", MountKind::Bind)
        ]
    );
    assert!(container.joins("network") && !container.joins("pid"));
    assert_eq!(container.description.command, ["sh", "-c", "true"]);
}

#[test]
fn annotations_tell_where_it_belongs_in_a_pod() {
    let mut container = Container::from_runc(RUNC.as_bytes(), Path::new("/run/runc")).unwrap();
    let place = PodPlace { namespace: "shop".into(), pod: "web-0".into(), container: "web".into() };
    assert_eq!(container.pod(), Some(place));
    assert_eq!(container.image(), Some("example.org/web:1"));
    let kind = "io.kubernetes.cri.container-type".to_owned();
    container.description.annotations.insert(kind, "sandbox".into());
    assert_eq!(container.pod(), None, "a sandbox is no container of the pod");
}

#[test]
fn what_is_missing_or_new_does_no_harm() {
    let least = r#"{"id": "x", "init_process_pid": 5, "config": {"rootfs": "/r"}, "later": [1]}"#;
    let container = Container::from_runc(least.as_bytes(), Path::new("/run/runc")).unwrap();
    assert_eq!((container.freezer, container.descriptors.len()), (None, 0));
    let least = r#"{"pid": 5, "rootfs": "/r", "bundle": "/b"}"#;
    let container =
        Container::from_crun(least.as_bytes(), b"{}", (Path::new("/run/crun"), "x"), |_| None).unwrap();
    assert_eq!(container.rootfs, Path::new("/r"), "an absolute root stays");
}

#[test]
fn a_pid_that_is_somebody_elses_by_now_is_no_container() {
    let me = std::process::id() as i32;
    let started = process_tree::started(me).unwrap();
    let container = |init, started| Container {
        init,
        started,
        freezer: None,
        ..Container::from_runc(RUNC.as_bytes(), Path::new("/nowhere")).unwrap()
    };
    assert_eq!(container(me, started).status(), Status::Running);
    assert_eq!(container(me, started + 1).status(), Status::Stopped);
    assert_eq!(container(0, started).status(), Status::Stopped);
}

proptest::proptest! {
    #[test]
    fn whatever_is_there_is_read_without_panic(bytes: Vec<u8>) {
        let _ = Container::from_runc(&bytes, Path::new("/"));
        let _ = Container::from_crun(&bytes, &bytes, (Path::new("/"), "x"), |_| None);
    }
}

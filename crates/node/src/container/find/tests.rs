use super::*;
use crate::container::state::MadeFrom;

/// A machine with states in the usual places.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn runc(&self, root: &str, id: &str, labels: &[&str]) {
        let labels = serde_json::to_string(labels).unwrap();
        let state =
            format!(r#"{{"id":"{id}","init_process_pid":1,"config":{{"rootfs":"/r","labels":{labels}}}}}"#);
        self.write(&format!("{root}/{id}/state.json"), &state);
    }

    fn crun(&self, root: &str, id: &str, config: &str) {
        self.write(&format!("{root}/{id}/status"), r#"{"pid": 1, "rootfs": "/r", "bundle": "/b"}"#);
        self.write(&format!("{root}/{id}/config.json"), config);
    }

    fn roots(&self) -> Roots {
        Roots { prefix: self.0.path().to_owned(), extra: Vec::new() }
    }

    fn find(&self, query: &str) -> Result<Container, FindError> {
        self.roots().find(&query.parse().unwrap())
    }
}

#[test]
fn a_container_is_found_wherever_its_engine_has_it() {
    let machine = Machine::new();
    machine.runc("run/runc", "byhand", &[]);
    machine.crun("run/crun", "p0d3a4", r#"{"annotations": {"io.container.manager": "libpod"}}"#);
    machine.runc("run/containerd/runc/k8s.io", "c0ffee", &[]);
    machine.crun("run/containerd/runc/default", "facade", "{}");
    machine.runc("run/docker/runtime-runc/moby", "d0c4e1", &[]);
    machine.write(
        "var/lib/containers/storage/overlay-containers/containers.json",
        r#"[{"id": "p0d3a4", "names": ["web"]}]"#,
    );
    machine.write("var/lib/docker/containers/d0c4e1/config.v2.json", r#"{"Name": "/shop", "State": {}}"#);
    for (query, id, flavor, engine) in [
        ("container:byhand", "byhand", Flavor::Runc, Engine::None),
        ("container:web", "p0d3a4", Flavor::Crun, Engine::Podman),
        ("container:c0f", "c0ffee", Flavor::Runc, Engine::Containerd { namespace: "k8s.io".into() }),
        ("container:facade", "facade", Flavor::Crun, Engine::Containerd { namespace: "default".into() }),
        ("container:shop", "d0c4e1", Flavor::Runc, Engine::Docker),
    ] {
        let container = machine.find(query).unwrap();
        assert_eq!(
            (container.id.as_str(), container.flavor, container.engine),
            (id, flavor, engine),
            "{query}"
        );
    }
}

#[test]
fn dockers_files_tell_the_image() {
    let id = "d7fec2860586";
    for (named, name) in [
        ("registry.test:5000/worker", Some("registry.test:5000/worker:latest")),
        ("localhost/worker:1", Some("localhost/worker:1")),
        ("worker@sha256:00", Some("docker.io/library/worker@sha256:00")),
        ("shop/worker", Some("docker.io/shop/worker:latest")),
        ("d7fec286", None),
        ("sha256:d7fec2860586", None),
    ] {
        let machine = Machine::new();
        machine.runc("run/docker/runtime-runc/moby", "d0c4e1", &[]);
        let kept = format!(
            r#"{{"Name": "/shop", "Image": "sha256:{id}", "Config": {{"Image": "{named}", "Env": []}}}}"#
        );
        machine.write("var/lib/docker/containers/d0c4e1/config.v2.json", &kept);
        let made_from = machine.find("container:shop").unwrap().made_from;
        assert_eq!(made_from, MadeFrom { name: name.map(str::to_owned), id: Some(id.to_owned()) }, "{named}");
    }
}

#[test]
fn a_pod_means_its_only_container() {
    let machine = Machine::new();
    let labels = |kind: &'static str, name: &'static str| {
        [
            format!("io.kubernetes.cri.container-type={kind}"),
            "io.kubernetes.cri.sandbox-namespace=shop".to_owned(),
            "io.kubernetes.cri.sandbox-name=web-0".to_owned(),
            format!("io.kubernetes.cri.container-name={name}"),
        ]
    };
    let add = |id: &str, labels: [String; 4]| {
        machine.runc("run/containerd/runc/k8s.io", id, &labels.each_ref().map(String::as_str));
    };
    add("aa", labels("sandbox", "POD"));
    add("bb", labels("container", "app"));
    assert_eq!(machine.find("pod:shop/web-0").unwrap().id, "bb");
    add("cc", labels("container", "sidecar"));
    let error = machine.find("pod:shop/web-0").unwrap_err();
    assert_eq!(error.to_string(), "pod:shop/web-0 may be any of app, sidecar");
    assert_eq!(machine.find("pod:shop/web-0/sidecar").unwrap().id, "cc");
    assert!(matches!(machine.find("pod:other/web-0").unwrap_err(), FindError::None { .. }));
}

#[test]
fn an_id_as_it_is_goes_before_the_beginning_of_one() {
    let machine = Machine::new();
    for id in ["ab", "abc", "abd"] {
        machine.runc("run/runc", id, &[]);
    }
    assert_eq!(machine.find("container:ab").unwrap().id, "ab");
    assert!(
        matches!(machine.find("container:a").unwrap_err(), FindError::Several { found, .. } if found.len() == 3)
    );
}

#[test]
fn one_that_is_not_there_is_told_with_where_it_was_looked_for() {
    let machine = Machine::new();
    machine.runc("run/runc", "ab", &[]);
    let error = machine.find("container:x").unwrap_err().to_string();
    assert_eq!(error, format!("there is no container:x: looked in {}/run/runc", machine.0.path().display()));
    let error = Machine::new().find("container:x").unwrap_err();
    assert!(error.to_string().ends_with("for none is there") && !error.remedy().is_empty());
}

#[test]
fn a_state_that_cannot_be_read_hides_no_other() {
    let machine = Machine::new();
    machine.write("run/runc/bad/state.json", "{");
    machine.runc("run/runc", "good", &[]);
    machine.write("run/runc/stray", "");
    assert_eq!(machine.find("container:good").unwrap().id, "good");
    assert!(matches!(machine.find("container:bad").unwrap_err(), FindError::State { .. }));
}

#[test]
fn a_directory_named_besides_is_looked_in() {
    let (machine, elsewhere) = (Machine::new(), Machine::new());
    elsewhere.runc("states", "x", &[]);
    let roots = Roots { extra: vec![elsewhere.0.path().join("states")], ..machine.roots() };
    assert_eq!(roots.find(&"container:x".parse().unwrap()).unwrap().root, elsewhere.0.path().join("states"));
}

#[test]
fn a_query_is_written_as_it_is_read() {
    for text in ["container:web", "pod:shop/web-0", "pod:shop/web-0/app"] {
        assert_eq!(text.parse::<Query>().unwrap().to_string(), text);
    }
    for text in ["web", "container:", "container:a/b", "pod:a", "pod:a/b/c/d", "pod:/b", "task:a", ""] {
        assert!(text.parse::<Query>().is_err(), "{text}");
    }
}

use serde_json::json;

use super::*;
use crate::container::{Engine, Flavor};

fn facts(mounts: Value) -> Facts {
    let document = json!({
        "version": 1, "kind": "container", "torpor": "0", "id": "c", "names": ["web"], "engine": Engine::Docker,
        "runtime": Flavor::Runc, "command": ["/bin/sh", "-c", "true"], "process": {"pid": 1, "started": 1},
        "layer": true, "config": {"mounts": mounts}, "criu": {"version": 40201, "options": [], "ownConfiguration": false}, "machine": Machine::read(),
    });
    serde_json::from_value(document).unwrap()
}

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

#[test]
fn what_engines_are_told() {
    let reference: Reference = "shop/web@3".parse().unwrap();
    for (adopter, create) in
        [(Adopter::Docker, "create --runtime torpor"), (Adopter::Podman, "--runtime torpor create")]
    {
        let given = flags(&["--network", "none"]);
        let told = words(adopter, &facts(json!([])), &reference, Some("web"), "worker:1", &given);
        let rest = "--annotation torpor.dev/restore=shop/web@3 --name web --entrypoint /bin/sh --network none worker:1 -c true";
        assert_eq!(told.join(" "), format!("{create} {rest}"));
    }
}

#[test]
fn mounts_from_outside_are_for_who_restores_to_give() {
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/docker/containers/c/hosts"},
        {"destination": "/data", "type": "bind", "source": "/var/lib/docker/volumes/data/_data", "options": ["rbind"]},
        {"destination": "/srv", "type": "none", "source": "/srv/web", "options": ["rbind", "ro"]},
    ]);
    let facts = facts(mounts);
    let missing = |given: &[&str]| missing_mounts(&facts, &flags(given));
    let [data, srv] = [("/data", "data"), ("/srv", "/srv/web")]
        .map(|(at, from)| Mount { at: at.into(), from: from.to_owned() });
    assert_eq!(missing(&[]), [data.clone(), srv.clone()]);
    assert_eq!(missing(&["-v", "other:/data"]), std::slice::from_ref(&srv));
    assert_eq!(missing(&["--volume=/x:/srv:ro"]), [data]);
    assert_eq!(missing(&["--mount", "type=volume,source=data,target=/data"]), [srv]);
    let error = AdoptionError::Mounts { reference: "web@1".parse().unwrap(), missing: missing(&[]) };
    assert_eq!(
        error.to_string(),
        "the container in web@1 had mounts that are not given: /data (from data), /srv (from /srv/web)"
    );
    assert!(error.remedy().contains("`-- --volume data:/data --volume /srv/web:/srv`"), "{}", error.remedy());
}

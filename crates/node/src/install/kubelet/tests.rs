use super::*;

const KUBEADM: &str = include_str!("../golden/kubelet-kubeadm.before.yaml");

fn missing(text: &str, version: Option<Version>) -> Missing {
    Existing::of(text).unwrap().missing(version)
}

#[test]
fn lines_go_into_what_kubeadm_wrote() {
    for (version, after) in [
        ((1, 29), include_str!("../golden/kubelet-kubeadm-1.29.after.yaml")),
        ((1, 33), include_str!("../golden/kubelet-kubeadm-1.33.after.yaml")),
    ] {
        let made = missing(KUBEADM, Some(version)).put_into(KUBEADM).unwrap();
        assert_eq!(made, after, "{version:?}");
        assert_eq!(missing(&made, Some(version)), Missing::default(), "it is there then");
    }
}

#[test]
fn a_file_of_our_own_says_what_is_missing() {
    assert_eq!(missing("", Some((1, 28))).file(), include_str!("../golden/kubelet-drop-in-1.28.yaml"));
    assert_eq!(missing("", None).file(), include_str!("../golden/kubelet-drop-in.yaml"));
}

#[test]
fn a_gate_is_opened_wherever_it_stands() {
    let periods = "shutdownGracePeriod: 5m\n";
    for (before, after) in [
        (
            "featureGates:\n    Other: true\n",
            "featureGates:\n    Other: true\n    ContainerCheckpoint: true\n",
        ),
        (
            "featureGates:\n  ContainerCheckpoint: false # no\n",
            "featureGates:\n  ContainerCheckpoint: true\n",
        ),
        ("featureGates: {}\n", "featureGates:\n  ContainerCheckpoint: true\n"),
        (
            "featureGates:\n  A: true\n# end\n\nzone: x\n",
            "featureGates:\n  A: true\n  ContainerCheckpoint: true\n# end\n\nzone: x\n",
        ),
        ("kind: X\n", "kind: X\nshutdownGracePeriod: 5m\nfeatureGates:\n  ContainerCheckpoint: true\n"),
    ] {
        let before = if before.starts_with("kind") {
            format!("{before}{periods}")
        } else {
            format!("{periods}{before}")
        };
        let after = if after.starts_with("kind") { after.to_owned() } else { format!("{periods}{after}") };
        assert_eq!(missing(&before, Some((1, 27))).put_into(&before), Ok(after), "{before}");
    }
    for refused in [
        "featureGates: {A: true}\n",
        "{\"kind\": \"KubeletConfiguration\"}",
        "featureGates: []\n",
        "a: |\n  x\nshutdownGracePeriod: &a 0s\nb: *a\n",
        "- a\n",
    ] {
        let outcome =
            Existing::of(refused).and_then(|existing| existing.missing(Some((1, 27))).put_into(refused));
        assert!(outcome.is_err(), "{refused}: {outcome:?}");
    }
}

#[test]
fn what_is_said_already_stays() {
    let open = "featureGates:\n  ContainerCheckpoint: true\n";
    for (text, version, gate, periods) in [
        (open, Some((1, 27)), true, false),
        (open, None, true, false),
        ("shutdownGracePeriod: 0s\n", Some((1, 30)), true, false),
        ("shutdownGracePeriod: 2m\n", Some((1, 29)), false, true),
        (
            "shutdownGracePeriodByPodPriority:\n- {priority: 1, shutdownGracePeriodSeconds: 9}\n",
            Some((1, 31)),
            true,
            true,
        ),
        ("", None, true, false),
    ] {
        let existing = Existing::of(text).unwrap();
        let [wants_gate, wants_periods] = ["featureGates", "shutdownGracePeriod:"]
            .map(|part| existing.missing(version).file().contains(part));
        assert_eq!((!wants_gate, !wants_periods), (gate, periods), "{text}");
    }
}

#[test]
fn flags_tell_where_it_reads() {
    let said = "Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\nExecStart=/usr/bin/kubelet --config-dir /etc/kubelet.d $X\n";
    assert_eq!(flag(said, "--config"), Some("/var/lib/kubelet/config.yaml".into()));
    assert_eq!(flag(said, "--config-dir"), Some("/etc/kubelet.d".into()));
    assert_eq!(flag(said, "--root-dir"), None);
    assert_eq!(flag("--config=$X", "--config"), None);
    assert_eq!(parsed("Kubernetes v1.29.3\n"), Some((1, 29)));
    assert_eq!(parsed("Kubernetes v1.34.0-alpha.1+x"), Some((1, 34)));
    assert_eq!(parsed("what"), None);
}

proptest::proptest! {
    #[test]
    fn nothing_else_changes(text in "(featureGates|shutdownGracePeriod|a|b)?:?[ a-z0-9:{}\\n#-]{0,60}") {
        if let Ok(existing) = Existing::of(&text) {
            let missing = existing.missing(Some((1, 27)));
            if let Ok(after) = missing.put_into(&text) {
                let then = Existing::of(&after).unwrap();
                proptest::prop_assert!(then.waits() && then.gate == Some(true));
            }
        }
    }
}

#[test]
fn a_kubelet_that_runs_is_found_wherever_it_is() {
    let machine = tempfile::tempdir().unwrap();
    let at = |path: &str| machine.path().join(path);
    for (process, name, words) in [
        ("7", "kubectl", "kubectl\0--config=/etc/no.yaml\0"),
        (
            "17",
            "kubelet",
            "/opt/bin/kubelet\0--config\0/etc/kube/kubelet.yaml\0--config-dir=/etc/kube/kubelet.d\0",
        ),
        ("self", "kubelet", ""),
    ] {
        fs::create_dir_all(at("proc").join(process)).unwrap();
        fs::write(at("proc").join(process).join("comm"), format!("{name}\n")).unwrap();
        fs::write(at("proc").join(process).join("cmdline"), words).unwrap();
        std::os::unix::fs::symlink(format!("/opt/bin/{name}"), at("proc").join(process).join("exe")).unwrap();
    }
    fs::create_dir_all(at("etc/kube")).unwrap();
    fs::write(at("etc/kube/kubelet.yaml"), KUBEADM).unwrap();
    let site = Site { machine: machine.path().to_owned(), prefix: "/opt/torpor".into() };
    let kubelet = Kubelet::on(&site).unwrap().unwrap();
    assert_eq!(kubelet.config, Path::new("/etc/kube/kubelet.yaml"));
    assert_eq!(kubelet.directory.as_deref(), Some(Path::new("/etc/kube/kubelet.d")));
    assert_eq!(kubelet.texts, [(kubelet.config.clone(), KUBEADM.to_owned())]);
    fs::remove_dir_all(at("proc/17")).unwrap();
    assert_eq!(Kubelet::on(&site).unwrap(), None);
}

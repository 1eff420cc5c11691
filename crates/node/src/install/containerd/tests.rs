use super::*;

const RUNTIME: &str = "/opt/torpor/bin/torpor-runtime";
const BEFORE_3: &str = include_str!("../golden/containerd-3.before.toml");
const BEFORE_2: &str = include_str!("../golden/containerd-2.before.toml");

fn make(config: &str, dump: Option<&str>, checkpointing: bool) -> Result<Made, String> {
    made(Some(config), dump, None, Path::new(RUNTIME), checkpointing)
}

#[test]
fn version_3_imports_a_file_of_our_own() {
    let made = make(BEFORE_3, None, false).unwrap();
    assert_eq!(made.main, include_str!("../golden/containerd-3.after.toml"));
    assert_eq!(made.drop_in.as_deref(), Some(include_str!("../golden/containerd-drop-in.toml")));
    let again = make(&made.main, None, true).unwrap();
    assert_eq!(again.main, made.main);
    assert_eq!(
        again.drop_in.as_deref(),
        Some(include_str!("../golden/containerd-drop-in-checkpointing.toml"))
    );
    let plain = make("version = 3\n", Some("version = 3\n"), false).unwrap();
    assert!(!plain.drop_in.unwrap().contains("SystemdCgroup"), "only where the others have it");
}

#[test]
fn version_2_gets_the_handler_itself() {
    let made = make(BEFORE_2, None, true).unwrap();
    assert_eq!(
        (made.main.as_str(), &made.drop_in),
        (include_str!("../golden/containerd-2.after.toml"), &None)
    );
    assert_eq!(make(&made.main, None, true).unwrap().main, made.main, "once");
    assert_eq!(handler(&parse(&made.main).unwrap()).as_deref(), Some(Path::new(RUNTIME)));
    // Where no handler is named, containerd has one by itself, which the first that is named replaces.
    for config in [
        "version = 2\n",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = 'native'\n",
    ] {
        let made = make(config, None, false).unwrap();
        let both = BTreeSet::from(["runc".to_owned(), "torpor".to_owned()]);
        assert_eq!(handlers(&parse(&made.main).unwrap()), both, "{}", made.main);
        assert!(
            made.main.contains("runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"),
            "{}",
            made.main
        );
        assert_eq!(make(&made.main, None, false).unwrap().main, made.main, "once");
    }
    // As the platform's own tools may write it, too.
    let inline = "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {containerd = {runtimes = {}}}}\n";
    let made = make(inline, None, false).unwrap();
    assert_eq!(handler(&parse(&made.main).unwrap()).as_deref(), Some(Path::new(RUNTIME)), "{}", made.main);
}

#[test]
fn what_is_in_force_counts_for_control_groups() {
    let dump = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'crun'\n\
                [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]\nSystemdCgroup = true\n";
    assert!(
        make("version = 3\n", Some(dump), false).unwrap().drop_in.unwrap().contains("SystemdCgroup = true")
    );
}

#[test]
fn the_program_tells_the_version_where_nothing_is_written_yet() {
    let main = |major| made(None, None, major, Path::new(RUNTIME), false).unwrap().main;
    assert!(main(Some(1)).starts_with("version = 2\n"), "{}", main(Some(1)));
    for newer in [None, Some(2)] {
        assert_eq!(main(newer), "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n");
    }
    for (said, version) in [
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Some(2)),
        ("containerd containerd.io v1.7.24 0123", Some(1)),
        ("containerd", None),
    ] {
        assert_eq!(major(said), version, "{said}");
    }
}

#[test]
fn what_cannot_be_extended_is_refused() {
    for refused in [
        "[a]\nx = 1\n",
        "version = 9\n",
        "version = 3\nimports = 'x'\n",
        "version = 2\nplugins = 1\n",
        "version =",
    ] {
        assert!(make(refused, None, false).is_err(), "{refused}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_odd(text in "(version = [23]\\n)?[a-z.= '\"\\[\\]{}\\n#0-9]{0,80}") {
        if let Ok(made) = make(&text, None, true) {
            proptest::prop_assert!(parse(&made.main).is_ok());
        }
    }
}

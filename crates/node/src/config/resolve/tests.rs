//! What a configuration means, case by case.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::setting::{SETTINGS, Setting, Shape};

fn surroundings() -> Surroundings {
    Surroundings {
        host: "box".into(),
        runtime_dir: "/run".into(),
        current_dir: "/here".into(),
        ..Surroundings::default()
    }
}

fn file(yaml: &str) -> Given {
    Given::from_file(Path::new("/etc/torpor/config.yaml"), yaml, Dialect::Torpor).unwrap().0
}

fn resolve(given: &Given) -> Result<RunConfig, ConfigError> {
    RunConfig::resolve(given, Dialect::Torpor, vec!["redis-server".into()], &surroundings())
}

fn refusal(given: &Given) -> String {
    let error = resolve(given).unwrap_err();
    match error.remedy() {
        Some(remedy) => format!("{error} ({remedy})"),
        None => error.to_string(),
    }
}

#[test]
fn nothing_given_means_the_defaults() {
    let config = resolve(&Given::default()).unwrap();
    assert_eq!(config.name.to_string(), "box/redis-server");
    assert_eq!(config.store.unwrap().url, "file:///var/lib/torpor");
    assert_eq!(config.control_socket, Path::new("/run/torpor/box+redis-server.sock"));
    assert_eq!((config.grace, config.stop_reserve), (Duration::from_secs(25), Duration::from_secs(8)));
    assert_eq!((config.exit_code, config.trigger_signal), (143, Signal::TERM));
    assert_eq!((config.every, config.http, config.node_state), (None, None, None));
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let (variables, _) = Given::from_variables([
        ("TORPOR_GRACE".to_owned(), "20s".to_owned()),
        ("TORPOR_EVERY".to_owned(), "2m".to_owned()),
        ("TORPOR_TCP".to_owned(), String::new()),
    ]);
    let mut flags = Given::default();
    flags.flag(Setting::find("grace").unwrap(), vec!["10s".into()]);
    let given = flags.or(variables).or(file("grace: 30s\nevery: 3m\ntcp: fail\n"));
    let config = resolve(&given).unwrap();
    assert_eq!(config.grace, Duration::from_secs(10));
    assert_eq!(config.every, Some(Duration::from_secs(120)));
    assert_eq!(config.tcp, Tcp::Fail);
}

#[test]
fn the_stop_reserve_is_a_third_and_at_least_five_seconds() {
    for (grace, reserve) in [("60s", 20), ("25s", 8), ("9s", 5), ("3s", 3), ("0s", 0)] {
        let config = resolve(&file(&format!("grace: {grace}"))).unwrap();
        assert_eq!(config.stop_reserve.as_secs(), reserve, "{grace}");
    }
}

#[test]
fn criks_configuration_means_what_it_means_to_crik() {
    let text = "imageDir: /etc/checkpoint\nnodeStateServerURL: http://server:9376/\nadditionalPaths:\n- /root/.cache\n\
                inotifyIncompatiblePaths:\n- /usr/share/zoneinfo\n";
    let (given, _) = Given::from_file(Path::new("/etc/crik/config.yaml"), text, Dialect::Crik).unwrap();
    let node = Surroundings { node: Some("node-1".into()), ..surroundings() };
    let config = RunConfig::resolve(&given, Dialect::Crik, vec!["bash".into()], &node).unwrap();
    assert_eq!(config.name.to_string(), "image-dir");
    assert_eq!(
        config.store,
        Some(StoreConfig {
            url: "file:///etc/checkpoint".into(),
            must_exist: true,
            credentials: Credentials::None
        })
    );
    let node_state = config.node_state.unwrap();
    assert_eq!((node_state.url.as_str(), node_state.node.as_str()), ("http://server:9376", "node-1"));
    assert_eq!(config.additional_paths, [Path::new("/root/.cache")]);
    assert_eq!(config.inotify_incompatible_paths, [Path::new("/usr/share/zoneinfo")]);

    let bare = RunConfig::resolve(&file("imageDir: ''"), Dialect::Crik, vec!["bash".into()], &node).unwrap();
    assert_eq!(bare.store, None);
}

#[test]
fn the_configurations_in_examples_and_documents_are_some() {
    let (simple, warnings) = Given::from_file(
        Path::new("/etc/crik/config.yaml"),
        include_str!("../../../../../examples/crik-simple-loop/config.yaml"),
        Dialect::Crik,
    )
    .unwrap();
    assert_eq!(resolve(&simple).unwrap().store.unwrap().url, "file:///etc/checkpoint");
    assert!(warnings.is_empty());
    let manifest = include_str!("../../../../../examples/crik-simple-loop/simple-loop.yaml");
    assert!(manifest.contains("config.yaml: |\n    imageDir: /etc/checkpoint\n"));

    let browsers = file(include_str!("../../../../../examples/crik-simple-loop/config-browsers.yaml"));
    assert_eq!(resolve(&browsers).unwrap().inotify_incompatible_paths.len(), 2);

    for document in
        [include_str!("../../../../../docs/configuration.md"), include_str!("../../../../../docs/hooks.md")]
    {
        let (_, yaml) = document.split_once("```yaml\n").unwrap();
        let (yaml, _) = yaml.split_once("```").unwrap();
        resolve(&file(yaml)).unwrap();
    }
}

#[test]
fn without_a_program_only_a_known_name_can_be_restored() {
    let none = |given: &Given| RunConfig::resolve(given, Dialect::Torpor, Vec::new(), &surroundings());
    assert!(matches!(none(&Given::default()), Err(ConfigError::NoProgram)));
    assert!(none(&file("name: web/app")).unwrap().program.is_empty());
    assert!(none(&file("imageDir: /a")).is_ok());
    assert!(matches!(none(&file("name: web/app\nnoRestore: true")), Err(ConfigError::NoProgram)));
}

#[test]
fn relative_paths_are_for_the_command_line() {
    let mut given = Given::default();
    given.flag(Setting::find("keyFile").unwrap(), vec!["key".into()]);
    given.flag(Setting::find("store").unwrap(), vec!["store".into()]);
    let store = resolve(&given).unwrap().store.unwrap();
    assert_eq!(store.credentials, Credentials::KeyFile("/here/key".into()));
    assert_eq!(store.url, "file:///here/store");
    assert!(
        refusal(&file("keyFile: key")).contains("\"key\" is no absolute path (write the path from the root")
    );
}

#[test]
fn values_are_understood() {
    let config = resolve(&file(
        "volumes: {/data: carry, /cache: leave}\ntcpListenRemap: ['80:8080', '443:8443']\nmemoryBudget: 64MiB\n\
         ipcNamespace: off\ntimeNamespace: on\nallowChanged: [image, volume]\ncpuBaseline: x86-64-v3\nexitCode: 0\n\
         nodeStateUnreachable: pass\nexclude: /tmp/scratch\ncriuOptions: [ghost-limit=1M]\npreCheckpoint: redis-cli save\n",
    ))
    .unwrap();
    assert_eq!(config.volumes.len(), 2);
    assert_eq!(config.tcp_listen_remap[1], PortMap { old: 443, new: 8443 });
    assert_eq!(config.memory_budget, MemoryBudget::Bytes(64 << 20));
    assert_eq!((config.ipc_namespace, config.time_namespace), (Namespace::Off, Namespace::On));
    assert_eq!(config.allow_changed, [AllowChanged::Image, AllowChanged::Volume]);
    assert_eq!(config.cpu_baseline, Some(CpuBaseline::V3));
    assert_eq!(config.exit_code, 0);
    assert_eq!(config.exclude, [Path::new("/tmp/scratch")]);
    assert_eq!(config.hooks.pre_checkpoint.len(), 1);
}

#[test]
fn lists_in_variables_are_separated_by_commas_or_written_as_yaml() {
    for text in ["/a,/b", "/a, /b,", "[/a, /b]", "[\"/a\", '/b']"] {
        let (given, _) = Given::from_variables([("TORPOR_ADDITIONAL_PATHS".to_owned(), text.to_owned())]);
        assert_eq!(resolve(&given).unwrap().additional_paths, [Path::new("/a"), Path::new("/b")], "{text}");
    }
}

#[test]
fn a_misspelt_variable_is_pointed_out() {
    let variables = ["TORPOR_GRACEE", "TORPOR_LOG", "TORPOR_SOMETHING_ELSE", "HOME"];
    let (_, warnings) = Given::from_variables(variables.map(|name| (name.to_owned(), "1".to_owned())));
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["ignoring the variable TORPOR_GRACEE; did you mean TORPOR_GRACE?"]);
}

#[test]
fn refusals_name_the_place_and_the_remedy() {
    for (yaml, refusal_begins) in [
        ("grace: 5x", "grace in /etc/torpor/config.yaml: \"5x\" is no duration: the unit is not known"),
        ("grace: [1]", "grace in /etc/torpor/config.yaml: one value is expected, not a list"),
        ("every: 0s", "every in /etc/torpor/config.yaml: it must be more than nothing"),
        ("exitCode: 256", "exitCode in /etc/torpor/config.yaml: \"256\" is no whole number from 0 to 255"),
        ("tcp: maybe", "tcp in /etc/torpor/config.yaml: \"maybe\" is none of close, established, fail"),
        (
            "triggerSignal: KILL",
            "triggerSignal in /etc/torpor/config.yaml: SIGKILL cannot be caught (choose another",
        ),
        ("name: a b", "name in /etc/torpor/config.yaml: \"a b\" contains ' '; parts of a name"),
        ("store: file://x", "store in /etc/torpor/config.yaml: \"file://x\" is not understood here"),
        ("store: s3://", "store in /etc/torpor/config.yaml: \"s3://\" is not understood here"),
        (
            "store: /a\nimageDir: /b",
            "store in /etc/torpor/config.yaml and imageDir in /etc/torpor/config.yaml cannot",
        ),
        ("keyFile: /a\npassphraseFile: /b", "passphraseFile in /etc/torpor/config.yaml and keyFile in"),
        ("grace: 5s\nstopReserve: 6s", "stopReserve in /etc/torpor/config.yaml and grace in"),
        (
            "httpListen: 127.0.0.1:1",
            "httpListen in /etc/torpor/config.yaml needs httpTokenFile (the endpoint is never",
        ),
        ("httpListen: here", "httpListen in /etc/torpor/config.yaml: \"here\" is no address with a port"),
        (
            "nodeStateServerURL: server",
            "nodeStateServerURL in /etc/torpor/config.yaml: \"server\" is not understood",
        ),
        (
            "volumes: [/data]",
            "volumes in /etc/torpor/config.yaml: \"/data\" is no rule for a mount (write PATH=carry",
        ),
        (
            "volumes: {/data: burn}",
            "volumes in /etc/torpor/config.yaml: \"burn\" is none of carry, leave, refuse",
        ),
        ("pidBase: 1", "pidBase in /etc/torpor/config.yaml: \"1\" is no whole number from 300 to"),
        ("memoryBudget: 0", "memoryBudget in /etc/torpor/config.yaml: it must be more than nothing"),
        ("preCheckpoint: {}", "preCheckpoint in /etc/torpor/config.yaml: this is no hook"),
    ] {
        let refusal = refusal(&file(yaml));
        assert!(refusal.starts_with(refusal_begins), "{yaml}\n{refusal}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    for yaml in ["- a\n- b", "just text", "a: [", "7"] {
        assert!(Given::from_file(Path::new("/c"), yaml, Dialect::Crik).is_err(), "{yaml}");
    }
    for yaml in ["", "\n  \n", "# nothing", "grace:"] {
        assert_eq!(file(yaml), Given::default(), "{yaml:?}");
    }
}

#[test]
fn what_is_explained_gives_the_same_configuration_again() {
    for yaml in [
        "",
        "imageDir: /a%20b\nkeyFile: /k\nnodeStateServerURL: http://s\nnodeName: n",
        "httpListen: '[::]:8089'\nhttpTokenFile: /t\npostRestore: [{signal: HUP, timeout: 90s}, {http: {url: 'http://x/', \
         method: GET}}, 'a \"b\": #c']\nvolumes: {/data: carry}\nmemoryBudget: 3GiB\nevery: 1h1m1s\nipcNamespace: 'on'\n\
         allowChanged: [command]\nname: a/b:3\ncontrolGroup: 7\ntcpListenRemap: ['1:2']",
    ] {
        let given = file(yaml);
        let config = resolve(&given).unwrap();
        let explained = config.explain(&given);
        let again = resolve(&file(&explained)).unwrap_or_else(|error| panic!("{error}\n{explained}"));
        let again = RunConfig { name_given: config.name_given, ..again };
        assert_eq!(again, config, "{explained}");
    }
}

#[test]
fn every_setting_is_read_and_explained() {
    for setting in SETTINGS {
        // A value that is wrong for every setting shows that somebody looks at it.
        let wrong = match setting.shape {
            Shape::Many(_) | Shape::ManyWords(_) => json!([[1]]),
            _ => json!({"a": {"b": [1]}}),
        };
        let yaml = format!("{}: {wrong}", setting.key);
        assert!(resolve(&file(&yaml)).is_err(), "{} is not looked at", setting.key);
        let explained = resolve(&Given::default()).unwrap().explain(&Given::default());
        assert!(explained.contains(&format!("{}:", setting.key)), "{} is not explained", setting.key);
    }
}

proptest! {
    #[test]
    fn any_file_is_understood_or_refused(text in "\\PC{0,60}") {
        let _ = Given::from_file(Path::new("/c"), &text, Dialect::Crik).map(|(given, _)| resolve(&given));
    }

    #[test]
    fn any_text_for_any_setting_is_understood_or_refused(index in 0..SETTINGS.len(), text in "\\PC{0,30}") {
        let mut given = Given::default();
        given.flag(&SETTINGS[index], vec![text]);
        let _ = resolve(&given);
    }
}

#[test]
fn replicas_claim_slots_where_the_name_has_none() {
    let pod = |pod: &str, yaml: &str| {
        let surroundings = Surroundings { pod: Some(pod.into()), ..surroundings() };
        RunConfig::resolve(&file(yaml), Dialect::Torpor, vec!["python3".into()], &surroundings).unwrap()
    };
    assert_eq!(pod("web-7d9f8b6c5-x2x4k", "").slots, Slots::Own);
    assert_eq!(pod("web-7d9f8b6c5-x2x4k", "slots: claim").slots, Slots::Claim);
    assert_eq!(pod("web-0", "slots: claim").slots, Slots::Own, "the ordinal is the slot");
    let refused = refusal(&file("name: web/app:1\nslots: claim"));
    assert!(refused.contains("slots") && refused.contains("leave the slot out"), "{refused}");
}

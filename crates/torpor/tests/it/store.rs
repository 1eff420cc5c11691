//! The commands that keep a store, driven over stores that the library made.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use torpor_store::lineage::{Epoch, Lineage, Program, Publication, Start};
use torpor_store::{Credentials, Description, GenerationKind, LocalBackend, MemoryId, Repository};

/// A store in a directory of its own.
struct Store {
    _directory: TempDir,
    path: PathBuf,
}

impl Store {
    /// A place without a store.
    fn none() -> Store {
        let directory = tempfile::tempdir().unwrap();
        Store { path: directory.path().join("store"), _directory: directory }
    }

    /// A store with generations 1 and 2 (running) and 3 (suspend) of `web/app`.
    fn with_three() -> Store {
        let store = Store::none();
        let epoch = store.begin(&Credentials::None);
        for kind in [GenerationKind::Running, GenerationKind::Running, GenerationKind::Suspend] {
            store.checkpoint(&Credentials::None, &epoch, kind);
        }
        store
    }

    fn open(&self, credentials: &Credentials) -> Repository {
        Repository::open_or_create(Arc::new(LocalBackend::new(&self.path)), credentials).unwrap()
    }

    fn begin(&self, credentials: &Credentials) -> Epoch {
        let start = Start {
            id: "1".into(),
            incarnation: None,
            host: "node-1".into(),
            pod: Some("web-0".into()),
            pid: 17,
            lease: "1h".parse().unwrap(),
            known_gone: None,
        };
        Lineage::new(&self.open(credentials), "web/app".parse().unwrap()).begin(&start).unwrap()
    }

    /// Commits a generation whose memory is its own.
    fn checkpoint(&self, credentials: &Credentials, epoch: &Epoch, kind: GenerationKind) {
        let number = epoch.next_generation().unwrap();
        let mut draft = self.open(credentials).draft(Default::default()).unwrap();
        let pages: Vec<u8> = (0..64 * 4096u64).map(|at| ((at * (number + 2) * at) >> 7) as u8).collect();
        draft.pages(MemoryId::process(1), 0x1000, 1, &pages).unwrap();
        draft.image("inventory.img", &mut &b"an image"[..]).unwrap();
        let finished = draft
            .finish(Description {
                name: epoch.name().to_string(),
                epoch: epoch.number(),
                generation: number,
                kind,
                parent: None,
                created: "2026-01-01T00:00:00Z".parse().unwrap(),
                phases: Vec::new(),
                facts: br#"{"kernel":"6.18"}"#.to_vec(),
            })
            .unwrap();
        let program = Program { command: Some("serve --port 80".into()), ..Program::default() };
        epoch.publish(&Publication::new(&finished, program)).unwrap();
    }

    /// The store's files in one of its directories.
    fn files(&self, directory: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.path.join(directory)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    /// Runs `torpor` with these words, a space apart, on this store.
    fn torpor(&self, words: &str) -> Ran {
        let mut command = Command::cargo_bin("torpor").unwrap();
        for variable in ["TORPOR_STORE", "TORPOR_PASSPHRASE_FILE", "TORPOR_KEY_FILE", "TORPOR_LOG"] {
            command.env_remove(variable);
        }
        Ran(command.args(words.split(' ')).arg("--store").arg(&self.path).output().unwrap())
    }
}

/// What a command did.
struct Ran(Output);

impl Ran {
    #[track_caller]
    fn ends_with(self, code: i32) -> Ran {
        assert_eq!(self.0.status.code(), Some(code), "{}{}", self.out(), self.err());
        self
    }

    #[track_caller]
    fn prints(self, text: &str) -> Ran {
        assert!(self.out().contains(text), "{text:?} is not in:\n{}", self.out());
        self
    }

    /// Both the error and its remedy.
    #[track_caller]
    fn fails_with(self, code: i32, error: &str, help: &str) -> Ran {
        let ran = self.ends_with(code);
        let err = ran.err();
        let (first, rest) = err.split_once('\n').unwrap();
        assert!(first.starts_with("error: ") && first.contains(error), "{err}");
        assert!(rest.starts_with("help: ") && rest.contains(help), "{err}");
        ran
    }

    #[track_caller]
    fn json(self) -> Value {
        let value: Value = serde_json::from_slice(&self.ends_with(0).0.stdout).unwrap();
        assert_eq!(value["version"], 1);
        value
    }

    fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

fn numbers(generations: &Value) -> Vec<u64> {
    generations.as_array().unwrap().iter().map(|one| one["number"].as_u64().unwrap()).collect()
}

#[test]
fn reading_commands_say_that_there_is_no_store() {
    let store = Store::none();
    for words in ["ls", "show web/app", "rm web/app", "prune", "gc", "verify", "key ls"] {
        store.torpor(words).fails_with(3, "there is no store in", "torpor run");
    }
    assert!(!store.path.exists());
}

#[test]
fn a_store_on_a_path_that_is_a_file_is_named() {
    let store = Store::none();
    std::fs::write(&store.path, "a file").unwrap();
    store.torpor("ls").fails_with(7, "is not a directory", "--store");
}

#[test]
fn lists_names_and_generations() {
    let store = Store::with_three();
    store.torpor("ls").ends_with(0).prints("web/app").prints("suspended in generation 3");
    store.torpor("ls web").ends_with(0).prints("web/app@1").prints("running").prints("committed");
    let names = store.torpor("ls --output json").json();
    assert_eq!(names["names"][0]["name"], "web/app");
    assert_eq!(names["names"][0]["progress"]["state"], "suspended");
    let generations = store.torpor("ls web/app --output json").json();
    assert_eq!(numbers(&generations["generations"]), [1, 2, 3]);
    assert_eq!(generations["generations"][2]["kind"], "suspend");
    store.torpor("ls --output yaml").ends_with(0).prints("version: 1\n").prints("name: web/app\n");
    store.torpor("ls web/db").fails_with(3, "no checkpoint of web/db", "torpor ls");
}

#[test]
fn an_empty_store_is_no_error() {
    let store = Store::none();
    store.open(&Credentials::None);
    store.torpor("ls").ends_with(0).prints("no checkpoints yet");
    for words in ["prune", "gc", "verify --read-data"] {
        store.torpor(words).ends_with(0);
    }
}

#[test]
fn shows_a_name_and_a_generation() {
    let store = Store::with_three();
    store.torpor("show web/app").ends_with(0).prints("process 17 on node-1 in pod web-0");
    store
        .torpor("show web/app@2")
        .ends_with(0)
        .prints("serve --port 80")
        .prints("inventory.img")
        .prints("64 pages");
    let shown = store.torpor("show web/app@2 --output json").json();
    assert_eq!(shown["generation"]["number"], 2);
    assert_eq!(shown["manifest"]["facts"]["kernel"], "6.18");
    store.torpor("show web/app@9").fails_with(3, "web/app has no generation 9", "torpor ls web/app");
}

#[test]
fn removing_asks_for_force_where_something_is_precious() {
    let store = Store::with_three();
    store.torpor("pin web/app@1").ends_with(0);
    store.torpor("rm web/app@1").fails_with(1, "web/app@1 is pinned", "torpor pin --off web/app@1");
    store.torpor("rm web/app@3").fails_with(1, "waits in web/app@3", "--force");
    store.torpor("rm web/app").fails_with(1, "is pinned", "--force");
    store.torpor("rm web/app@2 --dry-run").ends_with(0).prints("would remove 1 generation (2)");
    store.torpor("rm web/app@2").ends_with(0).prints("removed 1 generation (2)");
    store.torpor("pin --off web/app@1").ends_with(0);
    store.torpor("rm web/app@1").ends_with(0);
    assert_eq!(numbers(&store.torpor("ls web/app --output json").json()["generations"]), [3]);
    let removed = store.torpor("rm web/app --force --output json").json();
    assert_eq!(removed["removed"], serde_json::json!([3]));
    store.torpor("ls web/app").ends_with(3);
}

#[test]
fn a_name_in_use_is_not_removed() {
    let store = Store::none();
    let epoch = store.begin(&Credentials::None);
    store.checkpoint(&Credentials::None, &epoch, GenerationKind::Running);
    store.torpor("rm web/app").fails_with(6, "held by process 17 on node-1 in pod web-0", "lease");
}

#[test]
fn prunes_and_collects_what_no_rule_keeps() {
    let store = Store::with_three();
    store.torpor("prune --keep-last 1 --dry-run").ends_with(0).prints("would remove 2 generations");
    assert_eq!(numbers(&store.torpor("ls web/app --output json").json()["generations"]), [1, 2, 3]);
    let pruned = store.torpor("prune web/app --keep-last 1 --output json").json();
    assert_eq!(pruned["names"][0]["remove"], serde_json::json!([1, 2]));
    let packs = store.files("packs");
    store.torpor("gc --longest-session 0s --dry-run").ends_with(0).prints("would mark 2 manifests");
    assert_eq!(store.files("packs"), packs);
    // Nothing is old enough under the usual rule.
    store.torpor("gc").ends_with(0);
    assert_eq!(store.files("packs"), packs);
    let collected = store.torpor("gc --longest-session 0s --output json").json();
    assert!(collected["deletedBytes"].as_u64().unwrap() > 0, "{collected}");
    assert!(store.files("packs").iter().filter(|pack| packs.contains(pack)).count() < packs.len());
    let nothing = store.torpor("gc --longest-session 0s --output json").json();
    assert_eq!(nothing["plans"].as_array().map(Vec::len), Some(1), "{nothing}");
    assert_eq!(store.files("manifests").len(), 1);
    store.torpor("verify --read-data").ends_with(0).prints("the store is whole");
}

#[test]
fn verify_names_what_is_damaged_and_what_it_hurts() {
    type Damage = fn(&Path);
    let damaged: [(&str, Damage); 3] = [
        ("packs", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("manifests", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("manifests", |path| std::fs::remove_file(path).unwrap()),
    ];
    for (directory, damage) in damaged {
        let store = Store::with_three();
        store.torpor("verify --read-data").ends_with(0);
        let file = store.files(directory).pop().unwrap();
        damage(&file);
        let object = file.file_name().unwrap().to_string_lossy().into_owned();
        store
            .torpor("verify --read-data")
            .ends_with(4)
            .prints(&object)
            .prints("  hurts web/app@")
            .prints("the store is damaged");
    }
}

#[test]
fn repair_rebuilds_the_index() {
    let store = Store::with_three();
    for index in store.files("index") {
        std::fs::remove_file(index).unwrap();
    }
    store.torpor("verify").ends_with(4).prints("--repair");
    store.torpor("gc").fails_with(4, "nothing can be collected", "torpor verify --repair");
    store.torpor("verify --repair --read-data").ends_with(0).prints("rebuilt the index");
    store.torpor("verify").ends_with(0);
}

#[test]
fn an_encrypted_store_opens_by_its_keys_only() {
    let store = Store::none();
    let directory = store.path.parent().unwrap();
    let (key, other) = (directory.join("key"), directory.join("other"));
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::write(&other, [8; 32]).unwrap();
    let credentials = Credentials::from_key_file(&key).unwrap();
    let epoch = store.begin(&credentials);
    store.checkpoint(&credentials, &epoch, GenerationKind::Suspend);

    store.torpor("ls").ends_with(5);
    let with = |words: &str, key: &Path| store.torpor(&format!("{words} --key-file {}", key.display()));
    with("ls", &other).ends_with(5);
    with("ls", &directory.join("none")).ends_with(5);
    with("ls", &key).ends_with(0).prints("web/app");

    let added = with(&format!("key add --new-key-file {}", other.display()), &key).ends_with(0).out();
    with("ls", &other).ends_with(0).prints("web/app");
    let slots = with("key ls --output json", &other).json();
    let slots: Vec<_> = slots["slots"].as_array().unwrap().iter().map(|slot| slot["id"].clone()).collect();
    assert_eq!(slots.len(), 2);
    let first = slots.iter().find(|slot| **slot != added.trim()).unwrap().as_str().unwrap().to_owned();
    with(&format!("key rm {first}"), &other).ends_with(0);
    with("ls", &key).ends_with(5);
    with(&format!("key rm {}", added.trim()), &other).ends_with(5);
    with("verify --read-data", &other).ends_with(0);
}

#[test]
fn completions_and_manual_pages_are_made() {
    let torpor = || Command::cargo_bin("torpor").unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = torpor().args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("verify"));
    }
    let directory = tempfile::tempdir().unwrap();
    torpor().args(["man", "--directory"]).arg(directory.path()).assert().success();
    assert!(directory.path().join("torpor-gc.1").exists());
}

#[test]
fn what_cannot_be_understood_ends_with_2() {
    for words in [&["ls", "a b"][..], &["rm", "web@x"], &["prune", "--keep-within", "soon"], &["unknown"]] {
        Command::cargo_bin("torpor").unwrap().args(words).assert().code(2);
    }
}

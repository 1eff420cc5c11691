//! `torpor image`, and the same binary under the name `crit`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use assert_cmd::Command;

/// A directory of images, made from JSON, and a link named `crit`.
struct Place(tempfile::TempDir);

const OWNER: &str = r#"{"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}"#;

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        symlink(assert_cmd::cargo::cargo_bin("torpor"), place.path("crit")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, magic: &str, entries: &str) -> Self {
        let json = format!(r#"{{"magic": "{magic}", "entries": [{entries}]}}"#);
        let done = torpor(&["image", "encode", "-", "-o", &self.path(name).to_string_lossy()])
            .write_stdin(json)
            .output();
        assert_eq!(said(&done.unwrap()), (0, String::new(), String::new()));
        self
    }

    fn crit(&self, arguments: &[&str]) -> (i32, String, String) {
        said(&Command::new(self.path("crit")).args(arguments).current_dir(self.0.path()).output().unwrap())
    }

    fn torpor(&self, arguments: &[&str]) -> (i32, String, String) {
        said(&torpor(arguments).current_dir(self.0.path()).output().unwrap())
    }
}

fn torpor(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("torpor").unwrap();
    command.args(arguments);
    command
}

fn said(output: &std::process::Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn pipes() -> Place {
    Place::new().with("pipes-data.img", "PIPES_DATA", r#"{"pipe_id": 1, "bytes": 3, "extra": "YWJj\n"}"#)
}

#[test]
fn an_image_goes_to_json_and_back_through_files_and_pipes() {
    let place = pipes();
    let image = fs::read(place.path("pipes-data.img")).unwrap();
    let json =
        "{\"magic\": \"PIPES_DATA\", \"entries\": [{\"pipe_id\": 1, \"bytes\": 3, \"extra\": \"YWJj\\n\"}]}";
    assert_eq!(place.crit(&["decode", "-i", "pipes-data.img"]), (0, format!("{json}\n"), String::new()));
    // As crit does, without the end of a line in a file.
    assert_eq!(
        place.crit(&["decode", "-i", "pipes-data.img", "-o", "a.json"]),
        (0, String::new(), String::new())
    );
    assert_eq!(fs::read_to_string(place.path("a.json")).unwrap(), json);
    assert_eq!(place.crit(&["encode", "-i", "a.json", "-o", "again.img"]), (0, String::new(), String::new()));
    assert_eq!(fs::read(place.path("again.img")).unwrap(), image);
    let decoded = torpor(&["image", "decode", "--pretty"]).write_stdin(image.clone()).output().unwrap();
    let encoded = torpor(&["image", "encode"]).write_stdin(decoded.stdout).output().unwrap();
    assert_eq!(encoded.stdout, image);
}

#[test]
fn people_see_sizes_instead_of_payloads_if_they_like() {
    let place = pipes();
    let shown = "{\n    \"magic\": \"PIPES_DATA\",\n    \"entries\": [\n        {\n            \"pipe_id\": 1,\n            \
                 \"bytes\": 3,\n            \"extra\": \"... <3B>\"\n        }\n    ]\n}\n";
    assert_eq!(place.crit(&["show", "pipes-data.img", "--nopl"]), (0, shown.to_owned(), String::new()));
    let info = "{\n    \"magic\": \"PIPES_DATA\",\n    \"count\": 1\n}\n";
    assert_eq!(place.crit(&["info", "pipes-data.img"]), (0, info.to_owned(), String::new()));
    fs::write(place.path("route-9.img"), b"whatever").unwrap();
    let (code, said, _) = place.torpor(&["image", "info", "route-9.img"]);
    assert!(code == 0 && said.contains("as `ip route save` wrote them"), "{said}");
}

#[test]
fn errors_name_the_file_the_entry_and_a_remedy() {
    let place = pipes();
    let image = fs::read(place.path("pipes-data.img")).unwrap();
    fs::write(place.path("short.img"), &image[..image.len() - 1]).unwrap();
    fs::write(place.path("text.img"), "hello, world").unwrap();
    fs::write(place.path("bad.json"), r#"{"magic": "RLIMIT", "entries": [{"cur": 1}]}"#).unwrap();
    for (arguments, code, part) in [
        (
            &["show", "short.img"][..],
            4,
            "short.img: pipes-data image is cut short at byte 8, inside a payload",
        ),
        (&["show", "text.img"], 4, "text.img: no image: it starts with 0x6c6c6568, which is no magic"),
        (&["show", "absent.img"], 3, "cannot open absent.img"),
        (&["encode", "bad.json"], 4, "bad.json: entry 0: rlimit_entry needs the field max"),
        (&["encode", "pipes-data.img"], 4, "pipes-data.img is not JSON"),
        (&["x", "ps", "."], 3, "in .: pstree.img is missing"),
    ] {
        let (found, _, said) = place.torpor(&[&["image"], arguments].concat());
        assert_eq!(found, code, "{said}");
        assert!(said.starts_with("error: ") && said.contains(part) && said.contains("\nhelp: "), "{said}");
    }
    let (code, _, _) = place.torpor(&["image", "decode", "short.img", "-o", "short.json"]);
    assert!(code == 4 && !place.path("short.json").exists(), "half a document is no document");
    assert_eq!(place.crit(&["show", "short.img"]).0, 1);
    assert_eq!(place.crit(&["show"]).0, 2);
    assert_eq!(place.crit(&[]).0, 1);
}

#[test]
fn a_directory_of_images_is_explored() {
    let core = r#"{"mtype": "X86_64", "tc": {"task_state": 1, "exit_code": 0, "personality": 0, "flags": 0, "blk_sigset": 0, "comm": "sleep"}}"#;
    let place = Place::new()
        .with("pstree.img", "PSTREE", r#"{"pid": 7, "ppid": 0, "pgid": 7, "sid": 7, "threads": [7]}"#)
        .with("core-7.img", "CORE", core)
        .with("ids-7.img", "IDS", r#"{"vm_id": 1, "files_id": 2, "fs_id": 1, "sighand_id": 1}"#)
        .with("fs-7.img", "FS", r#"{"cwd_id": 3, "root_id": 3}"#)
        .with("fdinfo-2.img", "FDINFO", r#"{"id": 3, "flags": 0, "type": "REG", "fd": 0}"#)
        .with(
            "files.img",
            "FILES",
            &format!(r#"{{"type": "REG", "id": 3, "reg": {{"id": 3, "flags": "O_RDWR", "pos": 0, "fown": {OWNER}, "name": "/"}}}}"#),
        );
    let text = "    PID   PGID    SID   COMM\n      7      7      7   sleep\n";
    assert_eq!(place.crit(&["x", ".", "ps"]), (0, text.to_owned(), String::new()));
    assert_eq!(place.torpor(&["image", "x", "ps", "."]), (0, text.to_owned(), String::new()));
    let files = "7\n\t      0: /\n\t    cwd: /\n\t   root: /\n";
    for name in ["fds", "fd"] {
        assert_eq!(place.crit(&["x", ".", name]), (0, files.to_owned(), String::new()));
    }
    assert_eq!(place.crit(&["x", ".", "sk"]), (0, "[]\n".to_owned(), String::new()));
    let (code, json, _) = place.torpor(&["image", "x", "fds", ".", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["version"], &json["files"][0]["files"][0]["path"]), (0, &1.into(), &"/".into()));
}

//! Files across restores: what changed in a container comes back in the next one, and volumes are held to their word.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::container::{Container, Pod};

/// A program that just is there.
const IDLE: [&str; 3] = ["bash", "-c", "while :; do sleep 0.1; done"];

/// Everything about a path that is to come back.
fn look(container: &Container, path: &str) -> String {
    let path = container.path(path);
    let Ok(metadata) = std::fs::symlink_metadata(&path) else { return "nothing".to_owned() };
    let content = if metadata.is_file() {
        String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
    } else if metadata.is_symlink() {
        std::fs::read_link(&path).unwrap().display().to_string()
    } else {
        String::new()
    };
    let MetadataLine { mode, owner, time, links } = MetadataLine::of(&metadata);
    format!("{mode:o} {owner} {time} {links} {content}")
}

struct MetadataLine {
    mode: u32,
    owner: String,
    time: String,
    links: u64,
}

impl MetadataLine {
    fn of(metadata: &std::fs::Metadata) -> MetadataLine {
        MetadataLine {
            mode: metadata.permissions().mode(),
            owner: format!("{}:{}", metadata.uid(), metadata.gid()),
            time: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
            // How many entries a directory has differs between file systems.
            links: if metadata.is_dir() { 0 } else { metadata.nlink() },
        }
    }
}

#[test]
fn what_changed_on_the_root_and_in_memory_comes_back_as_it_was() {
    let Some(pod) = Pod::new(&[]) else { return };
    let mut container = pod.start(&[], &IDLE);
    container.wait_for("the program", || container.status());
    let make = "
        mkdir -p /var/lib/app/deep /tmp/dir; echo data > /var/lib/app/deep/file; chmod 640 /var/lib/app/deep/file
        chown 1000:2000 /var/lib/app/deep/file; chmod 2750 /var/lib/app; chown 1000:1000 /var/lib/app
        ln -s deep/file /var/lib/app/link; ln /var/lib/app/deep/file /var/lib/app/hard; mkfifo /var/lib/app/fifo
        echo tmp > /tmp/dir/file; chmod 600 /tmp/dir/file; echo shm > /dev/shm/file; chown 33:33 /dev/shm/file
        echo changed >> /etc/hosts; rm /etc/hostname; rm -r /etc/skel
        touch -d '2020-02-02 02:02:02.123456789 UTC' /var/lib/app/deep/file /tmp/dir/file /dev/shm/file /var/lib/app";
    container.exec(&["bash", "-c", make]);
    let paths = [
        "/var/lib/app",
        "/var/lib/app/deep",
        "/var/lib/app/deep/file",
        "/var/lib/app/link",
        "/var/lib/app/hard",
        "/var/lib/app/fifo",
        "/tmp/dir",
        "/tmp/dir/file",
        "/dev/shm/file",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/skel",
    ];
    let all = |container: &Container| paths.map(|path| format!("{path}: {}", look(container, path)));
    let before = all(&container);
    assert!(
        before[10].ends_with("nothing") && before[8].contains("33:33 1580608922.123456789"),
        "{before:#?}"
    );
    for round in 1..=3 {
        container.suspend();
        container = pod.start(&[], &IDLE);
        container.wait_restored(round);
        assert_eq!(all(&container), before);
    }
}

#[test]
fn additional_paths_are_carried_and_excluded_ones_are_not() {
    let Some(pod) = Pod::new(&[]) else { return };
    std::fs::create_dir(pod.volume().join("cache")).unwrap();
    std::fs::write(pod.volume().join("cache/entry"), "kept").unwrap();
    let options = ["--additional-paths", "/volume/cache", "--exclude", "/var/tmp/scratch"];
    let mut container = pod.start(&options, &IDLE);
    container.wait_for("the program", || container.status());
    container.exec(&[
        "bash",
        "-c",
        "mkdir /var/tmp/scratch; echo 1 > /var/tmp/scratch/a; echo 2 > /var/tmp/other",
    ]);
    for round in 1..=3 {
        let log = container.log();
        container.suspend();
        std::fs::remove_file(pod.volume().join("cache/entry")).unwrap();
        container = pod.start(&options, &IDLE);
        container.wait_restored(round);
        let entry = container.read("/volume/cache/entry");
        assert_eq!(entry.ok().as_deref(), Some("kept"), "{log}{}", container.story());
        assert_eq!(container.read("/var/tmp/other").unwrap(), "2\n");
        assert!(!container.path("/var/tmp/scratch/a").exists());
    }
}

/// Has a file of the volume open for writing.
const WRITER: [&str; 3] = ["bash", "-c", "exec 5>> /volume/data; while :; do sleep 0.1; done"];

#[test]
fn a_file_of_a_volume_that_changed_since_is_refused_unless_allowed() {
    let Some(pod) = Pod::new(&[]) else { return };
    let data = pod.volume().join("data");
    std::fs::write(&data, "one\n").unwrap();
    let container = pod.start(&[], &WRITER);
    container.wait_for("open file", || {
        container.open_files().iter().any(|path| path.ends_with("/data")).then_some(())
    });
    container.suspend();
    std::fs::write(&data, "another\n").unwrap();

    let container = pod.start(&["--on-restore-failure", "fail"], &WRITER);
    assert_ne!(container.wait(), 0);
    let log = container.log();
    assert!(log.contains("/volume/data") && log.contains("changed"), "{log}");

    let container = pod.start(&["--allow-changed", "volume"], &WRITER);
    container.wait_restored(1);
    assert_eq!(std::fs::read_to_string(&data).unwrap(), "another\n", "it is left as it is");
}

#[test]
fn a_volume_whose_policy_is_carry_comes_back_too() {
    let Some(pod) = Pod::new(&[]) else { return };
    let data = pod.volume().join("data");
    std::fs::create_dir(pod.volume().join("store")).unwrap();
    std::fs::write(&data, "one\n").unwrap();
    let options = ["--volumes", "/volume=carry"];
    let container = pod.start(&options, &WRITER);
    container.wait_for("the program", || container.status());
    container.exec(&["bash", "-c", "echo two >> /volume/data"]);
    container.suspend();
    std::fs::write(&data, "lost\n").unwrap();
    let container = pod.start(&options, &WRITER);
    container.wait_restored(1);
    assert_eq!(container.read("/volume/data").unwrap(), "one\ntwo\n");
}

/// Watches a directory and a file in it, and tells what happens there.
const WATCHER: &str = r"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/var/watched/inner', exist_ok=True); open('/var/watched/inner/file', 'w').close()
watch = libc.inotify_init()
for path in (b'/var/watched', b'/var/watched/inner', b'/var/watched/inner/file'):
    if libc.inotify_add_watch(watch, path, 0x102) < 0: raise OSError(ctypes.get_errno(), path)
print('watching', flush=True)
while True:
    events = os.read(watch, 65536)
    while events:
        number, mask, _, length = struct.unpack('iIII', events[:16])
        print(number, hex(mask), events[16:16 + length].rstrip(b'\0').decode(), flush=True)
        events = events[16 + length:]
";

#[test]
fn watches_go_on_watching() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let program = ["python3", "-c", WATCHER];
    let mut container = pod.start(&[], &program);
    container.wait_line(|line| line == "watching");
    for round in 1..=3 {
        container.suspend();
        container = pod.start(&[], &program);
        container.wait_restored(round);
        let name = format!("round-{round}");
        std::fs::write(container.path(&format!("/var/watched/{name}")), "").unwrap();
        container.wait_line(|line| line == format!("1 0x100 {name}"));
        std::fs::write(container.path("/var/watched/inner/file"), "now").unwrap();
        container.wait_line(|line| line.starts_with("3 0x2"));
    }
}

#[test]
fn paths_that_watches_are_incompatible_with_are_away_only_while_it_is_captured() {
    let Some(pod) = Pod::new(&["python3"]) else { return };
    let program = ["python3", "-c", WATCHER];
    let options = ["--inotify-incompatible-paths", "/var/watched/inner"];
    let container = pod.start(&options, &program);
    container.wait_line(|line| line == "watching");
    std::fs::write(container.path("/var/watched/inner/other"), "kept").unwrap();

    // It runs on: all is back.
    container.torpor(&["checkpoint", "--leave-running"]);
    assert_eq!(container.read("/var/watched/inner/other").unwrap(), "kept");

    container.suspend();
    let container = pod.start(&options, &program);
    container.wait_restored(1);
    assert_eq!(container.read("/var/watched/inner/other").unwrap(), "kept");
    std::fs::write(container.path("/var/watched/new"), "").unwrap();
    container.wait_line(|line| line == "1 0x100 new");
}

#[test]
fn a_store_that_is_a_file_is_refused_before_the_program_starts() {
    let Some(pod) = Pod::new(&[]) else { return };
    std::fs::write(pod.volume().join("store"), "").unwrap();
    let container = pod.start(&[], &["bash", "-c", "echo started"]);
    assert_ne!(container.wait(), 0);
    assert!(container.log().contains("/volume/store"), "{}", container.log());
    assert!(container.lines().is_empty() && pod.volume().join("store").is_file());
}

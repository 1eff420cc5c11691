use super::*;
use proptest::prelude::*;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

fn tree() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let watched = root.path().join("settings");
    fs::create_dir_all(watched.join("deep")).unwrap();
    fs::write(watched.join("deep/file"), "content").unwrap();
    fs::hard_link(watched.join("deep/file"), watched.join("link")).unwrap();
    fs::set_permissions(&watched, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    let journal = root.path().join("journal");
    fs::write(&journal, "").unwrap();
    (root, watched, journal)
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The watches an inotify descriptor still has.
fn watches(descriptor: &impl AsRawFd) -> usize {
    let info = fs::read(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).unwrap();
    crate::open_files::FdInfo::parse(&info).unwrap().watches.len()
}

fn assert_is_back(watched: &Path) {
    assert_eq!(fs::read(watched.join("deep/file")).unwrap(), b"content");
    let of = |name: &str| fs::metadata(watched.join(name)).unwrap().ino();
    assert_eq!(of("deep/file"), of("link"));
    assert_eq!(fs::metadata(watched).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn a_watch_ends_while_its_path_is_away_and_all_is_back_after() {
    let (root, watched, journal) = tree();
    let inotify = init(CreateFlags::CLOEXEC).unwrap();
    for path in [watched.clone(), watched.join("deep/file")] {
        add_watch(&inotify, &path, WatchFlags::ALL_EVENTS).unwrap();
    }
    assert_eq!(watches(&inotify), 2);
    let before = fs::metadata(root.path()).unwrap();
    let aside = Aside::take(&[watched.clone(), root.path().join("not there")], &journal).unwrap();
    assert!(!watched.exists());
    assert_eq!(watches(&inotify), 0, "CRIU would still find a watch");
    assert_eq!(aside.paths().collect::<Vec<_>>(), [watched.as_path()]);
    aside.put_back().unwrap();
    assert_is_back(&watched);
    assert_eq!(names(root.path()), ["settings"]);
    let after = fs::metadata(root.path()).unwrap();
    // Removing the journal came after; it is no part of a real tree.
    assert!(after.mtime() >= before.mtime());
}

#[test]
fn dropping_puts_back_after_a_failure() {
    let (root, watched, journal) = tree();
    // A mount cannot be taken away.
    let error = Aside::take(&[watched.clone(), "/proc".into()], &journal).unwrap_err();
    assert!(matches!(error, AsideError::Move { .. }), "{error}");
    assert_is_back(&watched);
    assert_eq!(names(root.path()), ["settings"]);
}

#[test]
fn the_next_start_puts_back_after_a_kill() {
    let (root, watched, journal) = tree();
    let aside = Aside::take(std::slice::from_ref(&watched), &journal).unwrap();
    std::mem::forget(aside);
    assert!(!watched.exists());
    assert_eq!(recover(&journal).unwrap(), [watched.as_path()]);
    assert_is_back(&watched);
    assert_eq!(names(root.path()), ["settings"]);
    assert!(recover(&journal).unwrap().is_empty());
}

#[test]
fn a_kill_at_any_point_loses_nothing() {
    let (root, watched, journal) = tree();
    let times = (Timestamp::default(), Timestamp::default());
    let entry = |stage| Entry { path: watched.clone(), stage, parent_atime: times.0, parent_mtime: times.1 };
    let [aside, gone] = working_names(&watched);
    // Killed while copying: half a copy.
    append(&journal, &entry(Stage::Copying)).unwrap();
    fs::create_dir(&aside).unwrap();
    recover(&journal).unwrap();
    assert_is_back(&watched);
    // Killed after the copy, before the removal.
    copy_tree(&watched, &aside).unwrap();
    append(&journal, &entry(Stage::Copied)).unwrap();
    recover(&journal).unwrap();
    assert_is_back(&watched);
    // Killed right after the path got its other name.
    copy_tree(&watched, &aside).unwrap();
    append(&journal, &entry(Stage::Copied)).unwrap();
    fs::rename(&watched, &gone).unwrap();
    recover(&journal).unwrap();
    assert_is_back(&watched);
    // Killed in the middle of the removal.
    copy_tree(&watched, &aside).unwrap();
    fs::rename(&watched, &gone).unwrap();
    append(&journal, &entry(Stage::Gone)).unwrap();
    fs::remove_file(gone.join("link")).unwrap();
    recover(&journal).unwrap();
    assert_is_back(&watched);
    assert_eq!(names(root.path()), ["settings"]);
}

#[test]
fn what_was_made_anew_is_kept_and_told() {
    let (root, watched, journal) = tree();
    let aside = Aside::take(std::slice::from_ref(&watched), &journal).unwrap();
    fs::create_dir(&watched).unwrap();
    fs::write(watched.join("new"), "new").unwrap();
    let error = aside.put_back().unwrap_err();
    assert!(matches!(error, AsideError::Occupied { .. }), "{error}");
    assert_eq!(fs::read(watched.join("new")).unwrap(), b"new");
    assert_eq!(names(root.path()), [".settings.torpor-aside", "settings"]);
}

#[test]
fn an_empty_directory_made_anew_is_no_hindrance() {
    let (_root, watched, journal) = tree();
    let aside = Aside::take(std::slice::from_ref(&watched), &journal).unwrap();
    fs::create_dir(&watched).unwrap();
    aside.put_back().unwrap();
    assert_is_back(&watched);
}

proptest! {
    #[test]
    fn any_journal_is_read(bytes: Vec<u8>) {
        parse_journal(&bytes);
    }

    #[test]
    fn a_torn_journal_gives_what_was_whole(names in proptest::collection::vec("[a-c]", 1..6), cut in 0usize..400) {
        let entry = |name: &String| Entry {
            path: PathBuf::from(format!("/{name}")), stage: Stage::Copied,
            parent_atime: Timestamp::default(), parent_mtime: Timestamp::default(),
        };
        let mut bytes = Vec::new();
        for name in &names {
            bytes.extend(serde_json::to_vec(&entry(name)).unwrap());
            bytes.push(b'\n');
        }
        let whole = bytes[..cut.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count();
        let entries = parse_journal(&bytes[..cut.min(bytes.len())]);
        for name in &names[..whole] {
            prop_assert!(entries.contains(&entry(name)));
        }
    }
}

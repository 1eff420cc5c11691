use super::*;
use crate::files::Timestamp;
use crate::files::tests::{MemoryFiles, plan_of};
use crate::mounts::{Mounts, RootFiles};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::symlink;

fn record(path: impl Into<PathBuf>, kind: FileKind) -> FileRecord {
    FileRecord {
        path: path.into(),
        section: Section::Carried,
        kind,
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp::default(),
        atime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

fn file(path: impl Into<PathBuf>) -> FileRecord {
    record(path, FileKind::File { size: 0, extents: Vec::new() })
}

const DIRECTORY: FileKind = FileKind::Directory { opaque: false };

fn pod(records: impl IntoIterator<Item = FileRecord>) -> Result<LayoutPlan, LayoutError> {
    let table = "1 0 0:50 / / rw - overlay overlay rw\n2 1 0:51 / /proc rw - proc proc rw\n\
        3 1 0:53 / /dev/shm rw - tmpfs shm rw\n4 1 8:1 /v /data rw - ext4 /dev/sda1 rw\n\
        5 1 8:1 /s /srv ro - ext4 /dev/sda1 rw\n";
    let mounts = Mounts::parse(table.as_bytes()).unwrap();
    let rules = ["/srv=carry".parse().unwrap()];
    let mounts = MountPlan::new(&mounts, RootFiles::Auto, &rules).unwrap();
    let selection = Selection { additional: vec!["/data/cache".into()], exclude: vec!["/store".into()] };
    LayoutPlan::new(records, &mounts, &selection)
}

#[test]
fn steps_come_in_an_order_that_works() {
    let link = record("/a/link", FileKind::HardLink { target: "/b".into() });
    let opaque = record("/a", FileKind::Directory { opaque: true });
    let plan = pod([link, file("/b"), opaque, file("/a/x"), record("/old", FileKind::Removed)]).unwrap();
    let expected = "\
remove    /old
directory /a
purge     /a
write     /a/x
write     /b
link      /a/link
finish    /a
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn a_checkpoint_is_believed_only_within_what_is_carried_here() {
    for path in ["/a/../etc/shadow", "relative", "/a//b", "/a/./b", "/nul\0", "/"] {
        assert!(matches!(pod([file(path)]), Err(LayoutError::Path { .. })), "{path}");
    }
    for path in ["/proc/sys/kernel/core_pattern", "/data/other", "/data/cache", "/dev/shm"] {
        assert!(matches!(pod([file(path)]), Err(LayoutError::Outside { .. })), "{path}");
    }
    let additional = |path: &str| FileRecord { section: Section::Additional, ..file(path) };
    assert!(pod([additional("/data/cache"), file("/dev/shm/x")]).is_ok());
    assert!(matches!(pod([additional("/data/cached")]), Err(LayoutError::Outside { .. })));
    let error = pod([file("/data/other")]).unwrap_err().to_string();
    assert_eq!(error, "the checkpoint holds /data/other, which is not on a carried mount here but on /data");
}

#[test]
fn what_is_excluded_here_is_left_alone() {
    assert_eq!(pod([file("/store/pack"), record("/store", FileKind::Removed)]).unwrap().steps(), []);
}

#[test]
fn a_read_only_target_is_refused_before_anything_is_touched() {
    let error = pod([file("/srv/a"), file("/srv/b"), file("/c")]).unwrap_err().to_string();
    assert_eq!(error, "/srv is read-only here, and the checkpoint has 2 changes for it");
}

#[test]
fn records_that_cannot_both_be_are_refused() {
    assert!(matches!(pod([file("/a"), file("/a")]), Err(LayoutError::Conflict { .. })));
    assert!(matches!(pod([file("/a"), file("/a/b")]), Err(LayoutError::Conflict { .. })));
    let link = |path: &str, target: &str| record(path, FileKind::HardLink { target: target.into() });
    for links in [vec![link("/a", "/etc/shadow")], vec![file("/a"), link("/dev/shm/b", "/a")]] {
        assert!(matches!(pod(links), Err(LayoutError::Link { .. })));
    }
    let extents = vec![super::super::Extent { offset: 8, length: u64::MAX }];
    assert!(pod([record("/a", FileKind::File { size: 10, extents })]).is_err());
}

#[test]
fn a_link_on_the_way_does_not_lead_outside() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("kept"), "kept").unwrap();
    symlink(outside.path(), root.path().join("link")).unwrap();
    let inside = root.path().join("link/new");
    let removed = record(root.path().join("link/kept"), FileKind::Removed);
    let mut files = MemoryFiles::default();
    for record in [file(&inside), removed.clone()] {
        files.files.insert(record.path.clone(), (record, Vec::new()));
    }
    let layout = |records: Vec<FileRecord>, files: &mut MemoryFiles| {
        LayoutPlan::new(records, &plan_of(root.path()), &Selection::default()).unwrap().apply(files)
    };
    let error = layout(vec![file(&inside)], &mut files).unwrap_err();
    assert!(matches!(&error, LayoutError::Write { path, .. } if *path == inside), "{error}");
    assert_eq!(layout(vec![removed], &mut files).unwrap().removed, 0);
    // Even a link that a record of the same checkpoint would have made.
    let target = outside.path().to_owned();
    let swap = record(root.path().join("swap"), FileKind::Symlink { target });
    let beneath = file(root.path().join("swap/x"));
    let plan = LayoutPlan::new([swap, beneath], &plan_of(root.path()), &Selection::default());
    assert!(matches!(plan, Err(LayoutError::Conflict { .. })));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced_not_followed() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = outside.path().join("target");
    fs::write(&target, "kept").unwrap();
    for name in ["file", "directory"] {
        symlink(&target, root.path().join(name)).unwrap();
    }
    let records = [file(root.path().join("file")), record(root.path().join("directory"), DIRECTORY)];
    let mut files = MemoryFiles::default();
    for record in &records {
        files.files.insert(record.path.clone(), (record.clone(), Vec::new()));
    }
    LayoutPlan::new(records, &plan_of(root.path()), &Selection::default())
        .unwrap()
        .apply(&mut files)
        .unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"kept");
    assert!(root.path().join("file").symlink_metadata().unwrap().is_file());
    assert!(root.path().join("directory").symlink_metadata().unwrap().is_dir());
}

#[test]
fn a_body_that_is_not_what_its_record_says_leaves_the_old_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    fs::write(&path, "old").unwrap();
    let extents = vec![super::super::Extent { offset: 0, length: 4 }];
    let record = record(&path, FileKind::File { size: 4, extents });
    for body in [&b"abc"[..], b"abcde"] {
        let mut files = MemoryFiles::default();
        files.files.insert(path.clone(), (record.clone(), body.to_vec()));
        let plan = LayoutPlan::new([record.clone()], &plan_of(root.path()), &Selection::default()).unwrap();
        assert!(plan.apply(&mut files).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "the unfinished file is gone");
    }
}

#[test]
fn an_opaque_directory_loses_what_the_checkpoint_does_not_know() {
    let root = tempfile::tempdir().unwrap();
    for name in ["d/image/x", "d/keep", "d/store/pack"] {
        fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
        fs::write(root.path().join(name), name).unwrap();
    }
    let directory =
        FileRecord { mode: 0o755, ..record(root.path().join("d"), FileKind::Directory { opaque: true }) };
    let keep = file(root.path().join("d/keep"));
    let mut files = MemoryFiles::default();
    files.files.insert(keep.path.clone(), (keep.clone(), Vec::new()));
    let selection = Selection { exclude: vec![root.path().join("d/store")], ..Selection::default() };
    LayoutPlan::new([directory, keep], &plan_of(root.path()), &selection).unwrap().apply(&mut files).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(root.path().join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["keep", "store"]);
}

#[test]
fn additional_paths_get_their_directories() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b/cache");
    let record = FileRecord { section: Section::Additional, ..file(&path) };
    let mut files = MemoryFiles::default();
    files.files.insert(path.clone(), (record.clone(), Vec::new()));
    let selection = Selection { additional: vec![path.clone()], exclude: Vec::new() };
    LayoutPlan::new([record], &MountPlan::default(), &selection).unwrap().apply(&mut files).unwrap();
    assert!(path.is_file());
}

proptest! {
    #[test]
    fn no_path_leads_out_of_the_root(parts in proptest::collection::vec("[.a/]{0,3}", 0..6)) {
        let path = PathBuf::from(format!("/dev/shm/{}", parts.join("/")));
        if let Ok(plan) = pod([file(&path)]) {
            prop_assert!(path.components().all(|part| part.as_os_str() != ".."));
            prop_assert!(path.starts_with(&plan.roots[&path]) && path != plan.roots[&path]);
        }
    }
}

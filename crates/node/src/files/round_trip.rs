//! Trees that are captured, put back over another, and compared to the last detail.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags};

use super::baseline::{Baseline, Directory, Fingerprint, Root};
use super::capture::Capture;
use super::changes::ChangeSet;
use super::inotify::Aside;
use super::layout::LayoutPlan;
use super::reading::OpenedFile;
use super::tests::{MemoryFiles, plan_of};
use super::{FileKind, FileRecord, Section, Selection, beneath::Beneath};
use crate::mounts::{MountPlan, MountPolicy, MountRule, Mounts, RootFiles};
use crate::open_files::OpenFiles;

fn root() -> tempfile::TempDir {
    // A tmpfs has holes, attributes and devices everywhere.
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn write(path: &Path, body: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, body).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_old_times(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// All that can be told of a tree, with paths relative to it. Inode numbers and change times are a file's own.
fn describe(root: &Path) -> Vec<(PathBuf, String)> {
    let mut beneath = Beneath::new(root).unwrap();
    let mut groups = std::collections::HashMap::new();
    let set = ChangeSet::whole(root).unwrap();
    let mut lines = Vec::new();
    for (path, change) in set.iter() {
        let (directory, name) = beneath.parent(path).unwrap();
        let opened = OpenedFile::open(&directory, &name, path, Section::Carried, false).unwrap();
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut opened.body(), &mut body).unwrap();
        let record = FileRecord { path: PathBuf::new(), atime: Default::default(), ..opened.record };
        let stat = change.stat.unwrap();
        let links = if stat.is_file() && stat.links > 1 {
            groups
                .entry(stat.inode())
                .or_insert_with(|| path.to_owned())
                .strip_prefix(root)
                .unwrap()
                .to_owned()
        } else {
            PathBuf::new()
        };
        let digest = blake3::hash(&body).to_hex();
        lines.push((path.strip_prefix(root).unwrap().to_owned(), format!("{record:?} {links:?} {digest}")));
    }
    lines
}

/// The first thing that differs between two trees.
fn difference(one: &Path, other: &Path) -> Option<String> {
    let (one, other) = (describe(one), describe(other));
    let differs = one.iter().zip(&other).find(|(one, other)| one != other);
    match differs {
        Some((one, other)) => Some(format!("{one:?}\nis not\n{other:?}")),
        None if one.len() == other.len() => None,
        None => Some(format!("{} paths are not {}", one.len(), other.len())),
    }
}

/// The baseline of a mount that held nothing, whatever it holds now.
fn nothing(root: &Path) -> Baseline {
    let own = Fingerprint { content: 0, state: 0 };
    let root = Root { point: root.to_owned(), own, directories: vec![Directory::default()] };
    Baseline { roots: vec![root], changed_before: Default::default() }
}

fn relocate(files: MemoryFiles, from: &Path, to: &Path) -> MemoryFiles {
    let moved = |path: &Path| to.components().chain(path.strip_prefix(from).unwrap().components()).collect();
    let mut relocated = MemoryFiles::default();
    for (_, (mut record, body)) in files.files {
        record.path = moved(&record.path);
        if let FileKind::HardLink { target } = &mut record.kind {
            *target = moved(target);
        }
        relocated.files.insert(record.path.clone(), (record, body));
    }
    relocated
}

fn put_back(files: &mut MemoryFiles, root: &Path) {
    let plan = LayoutPlan::new(files.records(), &plan_of(root), &Selection::default()).unwrap();
    let report = plan.apply(files).unwrap();
    assert_eq!(report.lost, []);
}

/// What an image holds.
fn image(root: &Path) {
    for name in ["bin/program", "etc/config", "lib/old", "data/a", "data/b", "swap/file", "replaced"] {
        write(&root.join(name), name);
    }
    symlink("config", root.join("etc/link")).unwrap();
    for entry in [
        "bin/program",
        "etc/config",
        "lib/old",
        "data/a",
        "data/b",
        "swap/file",
        "replaced",
        "bin",
        "etc",
        "lib",
        "data",
        "swap",
        "etc/link",
        "",
    ] {
        set_old_times(&root.join(entry), 1_000_000_000);
    }
}

/// What a nasty program does to it.
fn nasty(root: &Path) {
    let at = |name: &str| root.join(name);
    write(&at("data/a"), "changed");
    fs::remove_file(at("data/b")).unwrap();
    fs::remove_dir_all(at("lib")).unwrap();
    fs::remove_dir_all(at("swap")).unwrap();
    symlink("/etc", at("swap")).unwrap();
    fs::remove_file(at("replaced")).unwrap();
    write(&at("replaced/by/directory"), "x");
    fs::remove_file(at("etc/link")).unwrap();
    symlink("../bin/program", at("etc/link")).unwrap();
    fs::set_permissions(at("bin/program"), fs::Permissions::from_mode(0o4711)).unwrap();
    // Hard links, holes, a last hole, empty.
    write(&at("links/one"), "shared");
    fs::hard_link(at("links/one"), at("links/two")).unwrap();
    fs::hard_link(at("links/one"), at("zzz")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(b"island", 40 << 20).unwrap();
    fs::write(at("empty"), "").unwrap();
    // Names and depth.
    write(&root.join(OsStr::from_bytes(b"na\xff\nme \\x")), "bytes");
    let deep = (0..150)
        .fold(root.to_owned(), |path, level| path.join(format!("a-rather-long-directory-name-{level}")));
    let mut made = root.to_owned();
    for component in deep.strip_prefix(root).unwrap() {
        // A piece at a time: the whole path is longer than the kernel takes.
        made.push(component);
        if made.as_os_str().len() < 3000 {
            fs::create_dir(&made).unwrap();
        }
    }
    // Special files.
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        if rustix::fs::mknodat(
            CWD,
            at("device"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )
        .is_err()
        {
            eprintln!("skipped: devices cannot be made here");
        }
        rustix::fs::chown(at("data/a"), Some(Uid::from_raw(1234)), Some(Gid::from_raw(4321))).unwrap();
        // Version 2 capabilities: CAP_NET_BIND_SERVICE, permitted and effective.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rustix::fs::setxattr(at("data/a"), "security.capability", &capability, XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(at("data"), "trusted.mark", b"v", XattrFlags::empty()).unwrap();
    }
    // An ACL: owner rw, user 1000 r, group r, mask r, others nothing.
    let acl = [
        &[2u8, 0, 0, 0][..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 0xe8, 3, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ];
    if rustix::fs::setxattr(at("links/one"), "system.posix_acl_access", &acl.concat(), XattrFlags::empty())
        .is_err()
    {
        eprintln!("skipped: no access lists here");
    }
    fs::create_dir(at("closed")).unwrap();
    write(&at("closed/inner"), "x");
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o1510)).unwrap();
    for (index, name) in ["zzz", "fifo", "swap", "closed", "links", "data", ""].iter().enumerate() {
        set_old_times(&at(name), 1_100_000_000 + index as i64);
    }
}

fn capture(root: &Path, baseline: &Baseline) -> MemoryFiles {
    let (selection, open) = (Selection::default(), OpenFiles::default());
    let mut files = MemoryFiles::default();
    let mut capture = Capture::new(baseline, &selection);
    capture.first_pass(&open, &mut files).unwrap();
    capture.second_pass(&open, &mut files).unwrap();
    assert_eq!(capture.paths().count(), files.files.len(), "{}", root.display());
    files
}

#[test]
fn a_nasty_tree_comes_back_in_every_detail_and_twice() {
    let (old, new) = (root(), root());
    image(old.path());
    image(new.path());
    let baseline = Baseline::take(&plan_of(old.path()), &Selection::default()).unwrap();
    nasty(old.path());
    let files = capture(old.path(), &baseline);
    assert!(!files.files.contains_key(&old.path().join("etc/config")), "what did not change is not carried");
    let mut files = relocate(files, old.path(), new.path());
    put_back(&mut files, new.path());
    assert_eq!(difference(old.path(), new.path()), None);
    put_back(&mut files, new.path());
    assert_eq!(difference(old.path(), new.path()), None);
    let blocks =
        |root: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(root.join("sparse")).unwrap());
    assert!(blocks(new.path()) <= 4096, "a hole was filled");
}

#[test]
fn ten_thousand_files_come_back() {
    let (old, new) = (root(), root());
    let baseline = Baseline::take(&plan_of(old.path()), &Selection::default()).unwrap();
    for number in 0..10_000 {
        write(&old.path().join(format!("{}/{}", number % 100, number)), number.to_string());
    }
    let mut files = relocate(capture(old.path(), &baseline), old.path(), new.path());
    put_back(&mut files, new.path());
    assert_eq!(difference(old.path(), new.path()), None);
}

#[test]
fn the_second_pass_copies_what_moved_and_nothing_else() {
    let root = root();
    for name in ["still", "written", "goes", "grows"] {
        write(&root.path().join(name), name);
    }
    let (selection, closed) = (Selection::default(), OpenFiles::default());
    let baseline = nothing(root.path());
    let mut files = MemoryFiles::default();
    let mut capture = Capture::new(&baseline, &selection);
    assert_eq!(capture.first_pass(&closed, &mut files).unwrap().put, 5);
    // Fresh files are copied again; the second time round they are known.
    assert_eq!(capture.second_pass(&closed, &mut files).unwrap().put, 4);
    assert_eq!(capture.second_pass(&closed, &mut files).unwrap().put, 0);

    write(&root.path().join("written"), "other");
    fs::remove_file(root.path().join("goes")).unwrap();
    write(&root.path().join("new"), "new");
    let summary = capture.second_pass(&closed, &mut files).unwrap();
    assert_eq!((summary.put, summary.withdrawn, summary.paths), (3, 1, 5), "{summary}");
    assert_eq!(files.files[&root.path().join("written")].1, b"other");

    // A file that is open for writing is never taken for known.
    let _open = fs::OpenOptions::new().write(true).open(root.path().join("grows")).unwrap();
    let open = OpenFiles::of(&[rustix::process::getpid()]).unwrap();
    assert_eq!(capture.second_pass(&open, &mut files).unwrap().put, 1);
}

#[test]
fn the_body_moves_to_another_name_when_its_own_goes() {
    let (old, new) = (root(), root());
    let selection = Selection::default();
    let baseline = Baseline::take(&plan_of(old.path()), &selection).unwrap();
    write(&old.path().join("a"), "shared");
    for name in ["b", "c"] {
        fs::hard_link(old.path().join("a"), old.path().join(name)).unwrap();
    }
    let mut files = MemoryFiles::default();
    let mut capture = Capture::new(&baseline, &selection);
    capture.first_pass(&OpenFiles::default(), &mut files).unwrap();
    fs::remove_file(old.path().join("a")).unwrap();
    capture.second_pass(&OpenFiles::default(), &mut files).unwrap();
    let mut files = relocate(files, old.path(), new.path());
    put_back(&mut files, new.path());
    assert_eq!(difference(old.path(), new.path()), None);
}

#[test]
fn a_held_path_stays_as_the_first_pass_found_it() {
    let root = root();
    let selection = Selection::default();
    let baseline = Baseline::take(&plan_of(root.path()), &selection).unwrap();
    write(&root.path().join("home/settings/x"), "x");
    set_old_times(&root.path().join("home"), 1_000_000_000);
    let mut files = MemoryFiles::default();
    let mut capture = Capture::new(&baseline, &selection);
    capture.first_pass(&OpenFiles::default(), &mut files).unwrap();
    let before = files.records();
    capture.hold(root.path().join("home/settings"));
    let journal = tempfile::tempdir().unwrap();
    let paths = [root.path().join("home/settings")];
    let aside = Aside::take(&paths, &journal.path().join("journal")).unwrap();
    capture.second_pass(&OpenFiles::default(), &mut files).unwrap();
    aside.put_back().unwrap();
    assert_eq!(files.records(), before);
    assert_eq!(files.files[&root.path().join("home/settings/x")].1, b"x");
}

#[derive(Debug, Clone)]
enum Act {
    Write(String, u8),
    Directory(String),
    Link(String, String),
    Symlink(String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
}

fn act(root: &Path, act: &Act) {
    let at = |name: &String| root.join(name);
    // What cannot be done is not done; the trees are compared as they are.
    let _ = match act {
        Act::Write(name, byte) => fs::write(at(name), vec![*byte; usize::from(*byte) * 37]),
        Act::Directory(name) => fs::create_dir(at(name)),
        Act::Link(from, to) => fs::hard_link(at(from), at(to)),
        Act::Symlink(name) => symlink("a/b", at(name)),
        Act::Remove(name) => fs::remove_file(at(name)).or_else(|_| fs::remove_dir_all(at(name))),
        Act::Rename(from, to) => fs::rename(at(from), at(to)),
        Act::Mode(name, mode) if !at(name).is_symlink() => {
            fs::set_permissions(at(name), fs::Permissions::from_mode(*mode))
        }
        Act::Mode(..) => Ok(()),
    };
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = || {
        proptest::sample::select(vec!["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "c/a/b"])
            .prop_map(str::to_owned)
    };
    let one = prop_oneof![
        (name(), any::<u8>()).prop_map(|(name, byte)| Act::Write(name, byte)),
        name().prop_map(Act::Directory),
        (name(), name()).prop_map(|(from, to)| Act::Link(from, to)),
        name().prop_map(Act::Symlink),
        name().prop_map(Act::Remove),
        (name(), name()).prop_map(|(from, to)| Act::Rename(from, to)),
        (name(), 0o600u32..0o1000).prop_map(|(name, mode)| Act::Mode(name, mode | 0o700)),
    ];
    proptest::collection::vec(one, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_a_program_does_comes_back(image in acts(), before in acts(), between in acts()) {
        let (old, new) = (root(), root());
        for done in &image {
            act(old.path(), done);
        }
        // The new container's image is the old one's: copied as a capture of everything.
        put_back(&mut relocate(capture(old.path(), &nothing(old.path())), old.path(), new.path()), new.path());
        prop_assert_eq!(difference(old.path(), new.path()), None);

        let (selection, open) = (Selection::default(), OpenFiles::default());
        let baseline = Baseline::take(&plan_of(old.path()), &selection).unwrap();
        let mut files = MemoryFiles::default();
        let mut capture = Capture::new(&baseline, &selection);
        before.iter().for_each(|done| act(old.path(), done));
        capture.first_pass(&open, &mut files).unwrap();
        between.iter().for_each(|done| act(old.path(), done));
        capture.second_pass(&open, &mut files).unwrap();
        put_back(&mut relocate(files, old.path(), new.path()), new.path());
        prop_assert_eq!(difference(old.path(), new.path()), None);
    }
}

/// Runs the named test once more in a mount namespace of its own; `false` means that this is it.
fn in_own_namespace(test: &str) -> bool {
    const INSIDE: &str = "TORPOR_TEST_OWN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    if !is_root() {
        eprintln!("skipped: mounting needs root");
        return true;
    }
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("files::round_trip::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "{text}");
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).starts_with("unshare:") => {
            eprintln!("skipped: no mount namespace: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: unshare cannot be run: {error}"),
    }
    true
}

fn mount(arguments: &[&OsStr]) {
    let status = std::process::Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

/// A container's root: an overlay over `lower`, with layers of its own in `home`.
fn overlay(lower: &Path, home: &Path) -> PathBuf {
    for name in ["upper", "work", "merged"] {
        fs::create_dir(home.join(name)).unwrap();
    }
    let (lower, home, merged) = (lower.display(), home.display(), home.join("merged"));
    let options = format!("lowerdir={lower},upperdir={home}/upper,workdir={home}/work");
    mount(
        &["-t", "overlay", "overlay", "-o", &options]
            .map(OsStr::new)
            .iter()
            .copied()
            .chain([merged.as_os_str()])
            .collect::<Vec<_>>(),
    );
    merged
}

#[test]
fn a_containers_changes_come_back_in_a_fresh_container() {
    if in_own_namespace("a_containers_changes_come_back_in_a_fresh_container") {
        return;
    }
    let (lower, one, two) = (root(), root(), root());
    image(lower.path());
    let (old, new) = (overlay(lower.path(), one.path()), overlay(lower.path(), two.path()));
    // A volume, and a tmpfs of the container's own, within the old one.
    for name in ["volume", "run"] {
        fs::create_dir(old.join(name)).unwrap();
        fs::create_dir(new.join(name)).unwrap();
    }
    let volume = root();
    mount(&["--bind".as_ref(), volume.path().as_os_str(), old.join("volume").as_os_str()]);
    mount(
        &["-t", "tmpfs", "tmpfs"]
            .map(OsStr::new)
            .into_iter()
            .chain([old.join("run").as_os_str()])
            .collect::<Vec<_>>(),
    );

    let mounts = Mounts::of_process(None).unwrap();
    let rule = |point: &Path, policy| MountRule { point: point.to_owned(), policy };
    let carry = |point: &Path| rule(point, MountPolicy::Carry);
    let rules = [carry(&old), carry(&old.join("run")), rule(&old.join("volume"), MountPolicy::Leave)];
    let plan = MountPlan::new(&mounts, RootFiles::Leave, &rules).unwrap();
    let of_old = plan.carried().filter(|planned| planned.mount.point.starts_with(&old));
    assert_eq!(of_old.count(), 2, "the overlay and the tmpfs on it:\n{plan}");
    let mut narrow = plan.clone();
    narrow.mounts.retain(|planned| planned.mount.point.starts_with(&old));

    let baseline = Baseline::take(&narrow, &Selection::default()).unwrap();
    nasty(&old);
    fs::write(old.join("run/pid"), "1").unwrap();
    fs::write(old.join("volume/data"), "left").unwrap();
    let files = capture(&old, &baseline);
    assert!(files.files.contains_key(&old.join("run/pid")));
    assert!(!files.files.contains_key(&old.join("volume/data")), "a volume is left");
    assert!(!files.files.contains_key(&old.join("etc/config")), "the image is not carried");

    let mut files = relocate(files, &old, &new);
    put_back(&mut files, &new);
    fs::remove_dir_all(new.join("run")).unwrap();
    for name in ["volume", "run"] {
        let status = std::process::Command::new("umount").arg(old.join(name)).status().unwrap();
        assert!(status.success());
        fs::remove_dir(old.join(name)).unwrap();
        let _ = fs::remove_dir(new.join(name));
    }
    for root in [&old, &new] {
        set_old_times(root, 1_200_000_000);
    }
    assert_eq!(difference(&old, &new), None);
}

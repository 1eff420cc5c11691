//! Places and keys that do not do, and what is said of them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use torpor_store::{
    Backend, BackendError, Credentials, DraftError, KeyError, LocalBackend, MemoryId, OpenError, Repository,
};

use crate::sample::{BASE, PRESENT, describe, in_memory, page, small, write};

fn local(path: impl AsRef<Path>) -> Arc<LocalBackend> {
    Arc::new(LocalBackend::new(path.as_ref()))
}

#[test]
fn a_store_is_made_once_and_opened_with_its_own_key_only() {
    let directory = tempfile::tempdir().unwrap();
    let right = Credentials::passphrase("right");
    let place = || local(directory.path().join("a/b"));
    let open = |credentials: &Credentials| Repository::open(place(), credentials);
    assert!(matches!(open(&right), Err(OpenError::NoStore { .. })));
    Repository::open_or_create(place(), &right).unwrap();
    assert!(matches!(Repository::create(place(), &right), Err(OpenError::Exists { .. })));
    Repository::open_or_create(place(), &right).unwrap();
    assert!(matches!(open(&Credentials::None), Err(OpenError::Key(KeyError::Needed { .. }))));
    let error = open(&Credentials::passphrase("wrong")).unwrap_err();
    let location = directory.path().join("a/b");
    assert_eq!(
        error.to_string(),
        format!("the passphrase does not open the store in {}", location.display())
    );

    let plain = local(directory.path().join("plain"));
    Repository::create(plain.clone(), &Credentials::None).unwrap();
    let error = Repository::open(plain, &right).unwrap_err();
    assert!(matches!(error, OpenError::Key(KeyError::NotEncrypted { .. })), "{error}");
}

#[test]
fn keys_are_changed_without_writing_data_again() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Credentials::passphrase("old"), Credentials::KeyFile(vec![9; 32].into()));
    let repository = Repository::create(local(directory.path()), &old).unwrap();
    let generation = write(&repository, None, 1, &[1, 2]).unwrap();
    let [(first, _)] = repository.key_slots().unwrap()[..] else { panic!() };
    assert!(matches!(repository.remove_key(first), Err(KeyError::LastSlot { .. })));
    let second = repository.add_key(&new).unwrap();
    repository.remove_key(first).unwrap();
    assert!(matches!(repository.remove_key(first), Err(KeyError::NoSuchSlot { .. })));
    assert_eq!(repository.key_slots().unwrap().len(), 1);
    assert_eq!(repository.key_slots().unwrap()[0].0, second);
    let error = Repository::open(local(directory.path()), &old).unwrap_err();
    assert!(matches!(error, OpenError::Key(KeyError::Wrong { .. })), "{error}");
    let reopened = Repository::open(local(directory.path()), &new).unwrap();
    crate::sample::assert_reads(&reopened, &reopened.manifest(generation.id()).unwrap(), &[1, 2]);
}

#[test]
fn a_place_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_path_buf(), file.path().join("below")] {
        for result in [
            Repository::open_or_create(local(&path), &Credentials::None),
            Repository::open(local(&path), &Credentials::None),
        ] {
            let error = result.unwrap_err();
            assert!(error.to_string().ends_with("is not a directory"), "{error}");
            assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
            assert_eq!(error.remedy(), "choose a directory for the store with --store");
        }
    }
}

#[test]
fn records_change_only_from_what_was_read() {
    let directory = tempfile::tempdir().unwrap();
    let backend = local(directory.path());
    backend.prepare().unwrap();
    let first = backend.replace("names/a", None, b"one").unwrap();
    assert!(matches!(backend.replace("names/a", None, b"two"), Err(BackendError::Conflict { .. })));
    let second = backend.replace("names/a", Some(&first), b"two").unwrap();
    assert!(matches!(backend.replace("names/a", Some(&first), b"three"), Err(BackendError::Conflict { .. })));
    assert_eq!(backend.load("names/a").unwrap(), Some((second, b"two".to_vec())));
    assert_eq!(backend.load("names/b").unwrap(), None);

    // Sixteen writers that each add one, each trying again until they were first.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4 {
                    loop {
                        let found = backend.load("names/count").unwrap();
                        let (tag, count) = found.map_or((None, 0), |(tag, body)| (Some(tag), body[0]));
                        match backend.replace("names/count", tag.as_ref(), &[count + 1]) {
                            Ok(_) => break,
                            Err(BackendError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(backend.load("names/count").unwrap().unwrap().1, [16]);
}

#[test]
fn sealed_records_open_under_their_own_key_only() {
    let (_, repository) = in_memory();
    let sealed = repository.seal_record("names/a", b"state");
    assert_eq!(repository.open_record("names/a", &sealed).unwrap(), b"state");
    let error = repository.open_record("names/b", &sealed).unwrap_err();
    assert_eq!(error.to_string(), "record names/b is damaged: its check does not match its bytes");
}

#[test]
fn leftovers_of_killed_writers_are_found_by_the_stores_clock() {
    let directory = tempfile::tempdir().unwrap();
    let backend = local(directory.path());
    backend.prepare().unwrap();
    let mut upload = backend.begin().unwrap();
    upload.write(b"half").unwrap();
    let later = backend.now().unwrap() + std::time::Duration::from_secs(3600);
    let earlier = backend.now().unwrap() - std::time::Duration::from_secs(3600);
    assert_eq!(backend.leftovers(earlier).unwrap(), []);
    let [leftover] = &backend.leftovers(later).unwrap()[..] else { panic!() };
    backend.sweep(leftover).unwrap();
    assert_eq!(backend.leftovers(later).unwrap(), []);
    assert!(backend.list("").unwrap().is_empty());
}

#[test]
fn pages_that_come_twice_or_are_none_are_refused() {
    let (_, repository) = in_memory();
    let id = MemoryId::process(7);
    let mut draft = repository.draft(small()).unwrap();
    for (vaddr, len) in [(BASE + 1, 4096), (BASE, 4095), (u64::MAX - 4095, 4096)] {
        let error = draft.pages(id, vaddr, PRESENT, &vec![1; len]).unwrap_err();
        assert!(matches!(error, DraftError::Refused { .. }), "{error}");
    }
    draft.pages(id, BASE, PRESENT, &page(1)).unwrap();
    draft.pages(id, BASE, PRESENT, &page(2)).unwrap();
    let error = draft.finish(describe(1)).unwrap_err();
    assert!(error.to_string().contains("came twice"), "{error}");
    assert!(repository.manifests().unwrap().is_empty());
}

/// A directory on which a small or read-only file system is mounted, if this machine allows that.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
        }
        mounted.then_some(Self(directory))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_costs_only_the_new_generation() {
    let Some(mount) = Mount::tmpfs("size=3m") else { return };
    let repository = Repository::create(local(mount.0.path().join("s")), &Credentials::None).unwrap();
    let first = write(&repository, None, 1, &[2, 4, 6]).unwrap();
    let seeds: Vec<u64> = (0..2000).map(|seed| seed * 2).collect();
    let error = write(&repository, Some(&first.manifest), 2, &seeds).unwrap_err();
    assert!(error.to_string().ends_with("no space left to write"), "{error}");
    assert!(error.remedy().contains("torpor gc"));
    crate::sample::assert_reads(&repository, &first.manifest, &[2, 4, 6]);
    assert_eq!(repository.manifests().unwrap().len(), 1);
    // Nothing of it is left where the space is needed.
    write(&repository, Some(&first.manifest), 3, &[2, 4, 8]).unwrap();
}

#[test]
fn a_read_only_store_reads_and_says_why_it_cannot_be_written() {
    let Some(mount) = Mount::tmpfs("size=8m") else { return };
    let first = {
        let repository = Repository::create(local(mount.0.path()), &Credentials::None).unwrap();
        write(&repository, None, 1, &[1, 2]).unwrap()
    };
    mount.remount("remount,ro");
    let repository = Repository::open(local(mount.0.path()), &Credentials::None).unwrap();
    crate::sample::assert_reads(&repository, &first.manifest, &[1, 2]);
    let error = repository.draft(small()).unwrap_err();
    assert!(error.to_string().ends_with("the file system is read-only"), "{error}");
    assert!(error.remedy().contains("read-write"));
}

#[test]
fn a_directory_without_permission_is_named() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root may write everywhere");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = Repository::create(local(directory.path().join("s")), &Credentials::None).unwrap_err();
    assert!(error.to_string().ends_with("permission denied"), "{error}");
}

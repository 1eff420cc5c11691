//! Directories of CRIU's images that are kept in a store and made again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use torpor_archive::Checkpoint;
use torpor_archive::blueprint::{BlueprintError, chain};
use torpor_archive::source::{Place, Stored, open};
use torpor_criu::image::pagemap::{Generation, PageFlags, PagemapWriter};
use torpor_store::{Credentials, DraftSettings, Manifest, MemoryBackend, Repository};

fn opened(directory: &Path) -> Checkpoint {
    Checkpoint::new(open(&Place::Path(directory.to_owned())).unwrap()).unwrap()
}

/// Keeps a directory, and returns the repository and the generation.
fn kept(directory: &Path) -> (Repository, Manifest) {
    crate::kept::kept(|draft| chain::keep(&opened(directory), draft).unwrap())
}

fn stored((repository, manifest): &(Repository, Manifest)) -> Checkpoint {
    Checkpoint::new(Box::new(Stored::open(repository.clone(), manifest).unwrap())).unwrap()
}

/// A dump with two runs of memory, the second of which may be in the dump before.
fn dump(directory: &Path, second: PageFlags) {
    fs::create_dir(directory).unwrap();
    let mut writer = PagemapWriter::new(Vec::new(), 1, Generation::Wide, 4096).unwrap();
    writer.range(0x10000, 1, PageFlags::PRESENT).unwrap();
    writer.range(0x40000, 2, second).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes).unwrap();
    put("pagemap-1.img", &writer.into_inner());
    let pages = if second.contains(PageFlags::PARENT) { 1 } else { 3 };
    put("pages-1.img", &(0..pages * 4096).map(|at| (at / 4096 + 1) as u8).collect::<Vec<_>>());
    put("inventory.img", b"inventory");
    put("dump.log", b"done");
    put("directory.json", b"made up");
    put("empty.img", b"");
    fs::set_permissions(directory.join("dump.log"), fs::Permissions::from_mode(0o640)).unwrap();
}

/// All files below a directory, with their modes.
fn files(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let (path, name) =
            entry.map(|entry| (entry.path(), entry.file_name().into_string().unwrap())).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            all.extend(files(&path).into_iter().map(|(below, file)| (format!("{name}/{below}"), file)));
        } else {
            all.insert(name, (metadata.permissions().mode() & 0o777, fs::read(&path).unwrap()));
        }
    }
    all
}

#[test]
fn a_directory_comes_back_bit_for_bit_and_its_memory_is_known_by_address() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("images");
    dump(&directory, PageFlags::PRESENT | PageFlags::LAZY);
    let kept = kept(&directory);
    assert_eq!(kept.1.memory().len(), 1);
    let checkpoint = stored(&kept);
    assert!(chain::is_one(&checkpoint));
    let again = place.path().join("again");
    fs::create_dir(&again).unwrap();
    chain::rebuild(&checkpoint, &again).unwrap();
    assert!(files(&again) == files(&directory));
    let refused = chain::rebuild(&checkpoint, &again).unwrap_err();
    assert!(matches!(refused, BlueprintError::Output(_)), "what is there is not overwritten: {refused}");
}

#[test]
fn a_chain_comes_back_with_its_parents_below() {
    let place = tempfile::tempdir().unwrap();
    for (name, parent) in [("1", None), ("2", Some("../1")), ("3", Some("../2"))] {
        let directory = place.path().join(name);
        dump(&directory, if parent.is_some() { PageFlags::PARENT } else { PageFlags::PRESENT });
        if let Some(parent) = parent {
            symlink(parent, directory.join("parent")).unwrap();
        }
    }
    let directory = place.path().join("3");
    let kept = kept(&directory);
    let checkpoint = stored(&kept);
    assert_eq!(checkpoint.layers().len(), 3, "others see the chain in the store");
    let again = place.path().join("again");
    fs::create_dir(&again).unwrap();
    chain::rebuild(&checkpoint, &again).unwrap();
    let all = files(&again);
    assert!(all == files(&directory));
    assert!(all.contains_key("parent/parent/pages-1.img"));
}

#[test]
fn what_is_no_file_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("images");
    dump(&directory, PageFlags::PRESENT);
    symlink("/etc/passwd", directory.join("core-1.img")).unwrap();
    let repository = Repository::create(Arc::new(MemoryBackend::new()), &Credentials::None).unwrap();
    let mut draft = repository.draft(DraftSettings { workers: 1, ..DraftSettings::default() }).unwrap();
    let refused = chain::keep(&opened(&directory), &mut draft).unwrap_err();
    assert!(matches!(&refused, BlueprintError::NoFile { entry, .. } if entry == "core-1.img"), "{refused}");
}

//! Damage is named, never restored, never skipped; and what can be derived is repaired.

use std::sync::Arc;

use torpor_store::{Credentials, MemoryBackend, MemoryId, ReadError, Repository, verify};

use crate::sample::{assert_reads, in_memory, keys, write};

fn reopened(backend: &MemoryBackend) -> Repository {
    Repository::open(Arc::new(backend.clone()), &Credentials::None).unwrap()
}

fn read_all(repository: &Repository, id: torpor_store::ManifestId) -> Result<(), ReadError> {
    let manifest = repository.manifest(id)?;
    repository.read_image(&manifest, "inventory.img")?;
    for entry in repository.files(&manifest) {
        repository.read_file(&entry?, &mut std::io::sink())?;
    }
    let memory = repository.memory(&manifest, MemoryId::process(7))?;
    memory.lay_out(&tempfile::tempfile().unwrap(), 0)?;
    memory.lay_out_to(&mut std::io::sink())?;
    Ok(())
}

#[test]
fn a_flipped_byte_anywhere_is_named_by_reading_and_by_verification() {
    let (backend, repository) = in_memory();
    let seeds: Vec<u64> = (0..80).collect();
    let first = write(&repository, None, 1, &seeds).unwrap();
    for key in keys(&backend, "").into_iter().filter(|key| key != "torpor-store") {
        let id = key.rsplit('/').next().unwrap().to_owned();
        let size = torpor_store::Backend::stat(&backend, &key).unwrap().unwrap().size as usize;
        for at in (0..size).step_by(size / 23 + 1).chain([size - 1]) {
            let copy = backend.fork();
            copy.damage(&key, |bytes| bytes[at] ^= 0x10);
            let repository = reopened(&copy);
            let report = verify::verify(&repository, verify::Depth::Data).unwrap();
            assert!(report.damage.iter().any(|d| d.object.contains(&id)), "{key} at {at}: {report:?}");
            let is_needed = !(key.starts_with("packs/") && read_all(&repository, first.id()).is_ok());
            if !is_needed {
                // The table is for rebuilding the index only.
                assert!(report.damage.iter().all(|d| d.object == format!("pack {id}")));
                continue;
            }
            let error = read_all(&repository, first.id()).unwrap_err();
            assert!(error.to_string().contains(&id), "{key} at {at}: {error}");
            // A flip in the version reads as a newer one.
            let is_newer = matches!(error, ReadError::TooNew { .. });
            assert!(is_newer || error.remedy().contains("torpor verify"), "{error}");
            if !key.starts_with("index/") {
                assert!(report.damage.iter().any(|d| d.hurts == [first.id()]), "{key} at {at}: {report:?}");
            }
        }
    }
}

#[test]
fn truncation_anywhere_is_noticed() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &[1, 2, 3]).unwrap();
    for key in keys(&backend, "").into_iter().filter(|key| key != "torpor-store") {
        let size = torpor_store::Backend::stat(&backend, &key).unwrap().unwrap().size as usize;
        for len in (0..size).step_by(size / 17 + 1) {
            let copy = backend.fork();
            copy.damage(&key, |bytes| bytes.truncate(len));
            let repository = reopened(&copy);
            let report = verify::verify(&repository, verify::Depth::Structure).unwrap();
            assert!(!report.is_whole(), "{key} cut to {len}");
            if !key.starts_with("packs/") {
                assert!(read_all(&repository, first.id()).is_err(), "{key} cut to {len}");
            }
        }
    }
}

#[test]
fn damage_to_one_generation_leaves_others_readable() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &(0..50).collect::<Vec<_>>()).unwrap();
    let second = write(&repository, None, 2, &(100..150).collect::<Vec<_>>()).unwrap();
    let pack = format!("packs/{}", second.written[0]);
    backend.damage(&pack, |bytes| bytes[100] ^= 1);
    let repository = reopened(&backend);
    assert_reads(&repository, &first.manifest, &(0..50).collect::<Vec<_>>());
    assert!(read_all(&repository, second.id()).is_err());
    let report = verify::verify(&repository, verify::Depth::Data).unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].hurts, [second.id()]);
    // A new generation does not build on the damaged one.
    let third = write(&repository, Some(&second.manifest), 3, &(0..50).collect::<Vec<_>>()).unwrap();
    assert_reads(&reopened(&backend), &third.manifest, &(0..50).collect::<Vec<_>>());
}

#[test]
fn a_missing_pack_is_named_with_what_it_hurts() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &[1, 2, 3]).unwrap();
    for pack in &first.written {
        torpor_store::Backend::delete(&backend, &format!("packs/{pack}")).unwrap();
    }
    let repository = reopened(&backend);
    let error = read_all(&repository, first.id()).unwrap_err();
    assert!(error.to_string().contains(&first.written[0].to_string()), "{error}");
    let report = verify::verify(&repository, verify::Depth::Structure).unwrap();
    let [damage] = &report.damage[..] else { panic!("{report:?}") };
    assert_eq!(damage.object, format!("pack {}", first.written[0]));
    assert_eq!((damage.reason.as_str(), &damage.hurts[..]), ("it is missing", &[first.id()][..]));
}

#[test]
fn lost_and_damaged_indexes_are_rebuilt_from_the_packs() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &(0..90).collect::<Vec<_>>()).unwrap();
    let second = write(&repository, Some(&first.manifest), 2, &(30..120).collect::<Vec<_>>()).unwrap();
    let indexes = keys(&backend, "index/");
    assert_eq!(indexes.len(), 2);
    torpor_store::Backend::delete(&backend, &indexes[0]).unwrap();
    backend.damage(&indexes[1], |bytes| bytes.truncate(20));
    let broken = reopened(&backend);
    assert!(read_all(&broken, first.id()).is_err());
    assert!(read_all(&broken, second.id()).is_err());
    let report = verify::repair(&broken).unwrap();
    assert!(report.is_whole() && report.unindexed_packs == 0, "{report:?}");
    let repository = reopened(&backend);
    assert_reads(&repository, &first.manifest, &(0..90).collect::<Vec<_>>());
    assert_reads(&repository, &second.manifest, &(30..120).collect::<Vec<_>>());
    assert_eq!(keys(&backend, "index/").len(), 1);
}

#[test]
fn a_damaged_index_is_rebuilt_even_under_the_same_name() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &[1, 2, 3]).unwrap();
    let index = keys(&backend, "index/").remove(0);
    backend.damage(&index, |bytes| bytes[40] ^= 1);
    for broken in [repository, reopened(&backend)] {
        let report = verify::repair(&broken).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_reads(&reopened(&backend), &first.manifest, &[1, 2, 3]);
        backend.damage(&keys(&backend, "index/")[0], |bytes| bytes[40] ^= 1);
    }
}

#[test]
fn a_manifest_from_a_newer_version_is_named() {
    let (backend, repository) = in_memory();
    let first = write(&repository, None, 1, &[1]).unwrap();
    backend.damage(&format!("manifests/{}", first.id()), |bytes| bytes[8] = 7);
    let error = repository.manifest(first.id()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("manifest {} has format version 7, and this torpor reads up to 1", first.id())
    );
    assert!(error.remedy().contains("newer"));
}

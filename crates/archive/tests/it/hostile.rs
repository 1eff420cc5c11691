//! Archives that are damaged, or made to do harm.

use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use torpor_archive::source::{Compression, Limits, Source, SourceError, open_bytes, open_stream};

use crate::tape::{COMPRESSIONS, Tape, pack};

/// Reads an archive from a place where it can be read anywhere, and from a pipe: they must say the same.
fn read(bytes: &[u8]) -> Result<Box<dyn Source>, SourceError> {
    let limits = Limits::default();
    let piped = open_stream("-".to_owned(), Box::new(Cursor::new(bytes.to_vec())), &limits, None);
    let opened = open_bytes("-".to_owned(), Arc::new(bytes.to_vec()), &limits, None);
    match (&piped, &opened) {
        (Err(piped), Err(opened)) => assert_eq!(piped.to_string(), opened.to_string()),
        (Ok(piped), Ok(opened)) => assert_eq!(piped.entries(), opened.entries()),
        _ => panic!("{piped:?} {opened:?}"),
    }
    piped
}

#[test]
fn harm_is_refused_by_name_and_place() {
    let ok = || Tape::new().file("checkpoint/inventory.img", b"i");
    let huge = [&[0x80][..], &[0; 3], &u64::MAX.to_be_bytes()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            ok().file("../../etc/cron.d/x", b"").end(),
            r#"- has an entry "../../etc/cron.d/x" at byte 1024: the name leads out of the archive"#,
        ),
        (
            ok().file("checkpoint/../../x", b"").end(),
            r#"- has an entry "checkpoint/../../x" at byte 1024: the name leads out of the archive"#,
        ),
        (
            ok().file("/etc/passwd", b"").end(),
            r#"- has an entry "/etc/passwd" at byte 1024: the name begins at the root"#,
        ),
        (
            ok().file("./checkpoint//inventory.img", b"j").end(),
            "- has two entries checkpoint/inventory.img, the second with its body at byte 1536",
        ),
        (
            ok().header(b"a", b'0', &huge, b"").end(),
            "- is damaged at byte 1024, after checkpoint/inventory.img: the size of the entry is not one that can be",
        ),
        (
            ok().header(b"a", b'0', b"00000010000\0", b"").bare(),
            "- is cut short at byte 1536: a should go on to byte 5632",
        ),
        (
            ok().raw(&[7; 100]).bare(),
            "- is cut short at byte 1124: the header after checkpoint/inventory.img should go on to byte 1536",
        ),
        (
            ok().raw(&[7; 512]).end(),
            "- is damaged at byte 1024, after checkpoint/inventory.img: what is there is no header: its checksum is wrong",
        ),
        (
            ok().header(b"a", b'S', b"00000000000\0", b"").end(),
            "a in -, with its header at byte 1024, is a sparse entry",
        ),
        (
            ok().entry("x", b'x', b"99 path=a\n").end(),
            "- is damaged at byte 1024, after checkpoint/inventory.img: the records that describe the next entry are damaged, or too many",
        ),
        (
            ok().header(b"x", b'x', b"77777777777\0", b"").end(),
            "- is damaged at byte 1024, after checkpoint/inventory.img: the records that describe the next entry are damaged, or too many",
        ),
        (
            (0..20).fold(ok(), |tape, _| tape.entry("L", b'L', b"name")).end(),
            "- is damaged at byte 17408, after checkpoint/inventory.img: too many descriptions stand in front of one entry",
        ),
        (
            ok().entry("L", b'L', "x".repeat(5000).as_bytes()).file("x", b"").end(),
            "the name has more than 4096 bytes",
        ),
    ];
    for (archive, message) in cases {
        let refused = read(&archive).unwrap_err();
        assert!(refused.to_string().ends_with(message), "{refused}\n{message}");
        assert!(!refused.remedy().is_empty());
    }
}

#[test]
fn counts_and_names_have_limits() {
    let limits = Limits { entries: 3, names: 100, ..Limits::default() };
    let open = |archive| open_stream("-".to_owned(), Box::new(Cursor::new(archive)), &limits, None);
    let many = (0..4).fold(Tape::new(), |tape, number| tape.file(&number.to_string(), b""));
    assert!(matches!(open(many.end()), Err(SourceError::TooMany { limit: 3, .. })));
    let long = Tape::new().file(&"a".repeat(60), b"").file(&"b".repeat(60), b"");
    assert!(matches!(open(long.end()), Err(SourceError::TooLongNames { limit: 100, .. })));
}

#[test]
fn a_bomb_is_cut_off() {
    let limits = Limits { unpacked: Some(1 << 20), ..Limits::default() };
    let archive = Tape::new().file("checkpoint/pages-1.img", &vec![0; 4 << 20]).end();
    for compression in COMPRESSIONS {
        let packed = pack(compression, &archive);
        let refused = open_stream("-".to_owned(), Box::new(Cursor::new(packed)), &limits, None).unwrap_err();
        let SourceError::Bomb { entry, limit, .. } = refused else { panic!("{refused}") };
        assert_eq!((entry.as_str(), limit), ("checkpoint/pages-1.img", 1 << 20));
    }
}

#[test]
fn a_window_that_takes_too_much_memory_is_refused() {
    let limits = Limits { window: 64 << 10, ..Limits::default() };
    let archive = Tape::new().file("checkpoint/pages-1.img", &vec![0; 4 << 20]).end();
    for compression in [Compression::Zstd, Compression::Xz] {
        let packed = pack(compression, &archive);
        let refused = open_stream("-".to_owned(), Box::new(Cursor::new(packed)), &limits, None).unwrap_err();
        if compression == Compression::Zstd {
            assert!(matches!(refused, SourceError::Window { .. }), "{refused}");
        }
    }
}

#[test]
fn every_wrong_byte_of_a_stream_with_checksums_is_found() {
    let archive = Tape::new().file("checkpoint/inventory.img", b"inventory").file("pages", &[5; 3000]).end();
    for compression in COMPRESSIONS {
        let packed = pack(compression, &archive);
        let whole = read(&packed).unwrap();
        let digests: Vec<_> = whole.entries().iter().map(|entry| whole.digest(entry)).collect();
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // Bytes that say nothing of the content (a time in gzip's header, for one) may change.
            if let Ok(source) = read(&damaged) {
                let found: Vec<_> = source.entries().iter().map(|entry| source.digest(entry)).collect();
                assert!(found == digests, "{compression}: byte {at} was wrong, and nobody noticed");
            }
        }
        for length in 0..packed.len() - 1 {
            if let Ok(source) = read(&packed[..length]) {
                assert!(
                    !source.remarks().is_empty() || source.entries().len() == 2,
                    "{compression}: cut to {length} bytes, and nobody noticed"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn takes_any_bytes_without_panic(bytes: Vec<u8>, kind in 0usize..6) {
        let packed = COMPRESSIONS.get(kind).map_or_else(|| bytes.clone(), |kind| pack(*kind, &bytes));
        let _ = read(&packed);
    }

    #[test]
    fn takes_any_damage_without_panic(
        kind in 0usize..6, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let archive = Tape::new()
            .entry("x", b'x', b"12 path=a b\n")
            .file("checkpoint/inventory.img", b"inventory")
            .link("parent", "x")
            .entry("L", b'L', b"long")
            .file("pages", &[5; 3000])
            .end();
        let damage = |mut bytes: Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes
        };
        let _ = read(&damage(archive.clone()));
        if let Some(kind) = COMPRESSIONS.get(kind) {
            let _ = read(&damage(pack(*kind, &archive)));
            let _ = read(&pack(*kind, &damage(archive)));
        }
    }
}

//! What is in an archive, however it is packed and wherever it comes from.

use std::io::{self, Cursor, Read};

use torpor_archive::Checkpoint;
use torpor_archive::source::{
    Compression, Directory, EntryKind, Limits, Place, Remark, Source, Tap, open, open_stream,
};

use crate::tape::{COMPRESSIONS, Tape, pack};

/// Bytes that no compression makes much smaller, so that bodies are spread over many blocks.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

fn sample() -> Tape {
    Tape::new()
        .directory("./")
        .file("./config.dump", b"{}")
        .directory("./checkpoint/")
        .file("./checkpoint/inventory.img", b"inventory")
        .file("./checkpoint/pages-1.img", &noise(300_000))
        .file("./checkpoint/pages-2.img", &noise(100_001))
        .link("./checkpoint/parent", "../pre-checkpoint")
}

fn body(source: &dyn Source, name: &str, offset: u64, length: usize) -> Vec<u8> {
    let entry = source.entries().iter().find(|entry| entry.name == name).unwrap();
    let mut bytes = vec![0; length];
    source.read_at(entry, offset, &mut bytes).unwrap();
    bytes
}

fn looks_right(source: &dyn Source) {
    let names: Vec<_> = source.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(
        names,
        [
            ".",
            "config.dump",
            "checkpoint",
            "checkpoint/inventory.img",
            "checkpoint/pages-1.img",
            "checkpoint/pages-2.img",
            "checkpoint/parent"
        ]
    );
    assert_eq!(source.entries()[6].kind, EntryKind::SymbolicLink("../pre-checkpoint".to_owned()));
    assert_eq!(source.remarks(), []);
    assert_eq!(body(source, "config.dump", 0, 2), b"{}");
    assert_eq!(body(source, "checkpoint/inventory.img", 3, 6), b"entory");
}

#[test]
fn an_archive_is_read_at_any_place_whatever_it_is_packed_with() {
    let place = tempfile::tempdir().unwrap();
    let plain = sample().end();
    let packed = COMPRESSIONS.into_iter().map(|compression| (Some(compression), pack(compression, &plain)));
    for (compression, bytes) in packed.chain([(None, plain.clone())]) {
        let path = place.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        let source = open(&Place::Path(path)).unwrap();
        assert_eq!(source.compression(), compression);
        assert_eq!(source.random_access(), compression.is_none());
        looks_right(&*source);
        // Forward, and back again.
        let pages = noise(300_000);
        for offset in [0, 299_990, 1000, 150_000] {
            let read = body(&*source, "checkpoint/pages-1.img", offset as u64, 10);
            assert_eq!(read, pages[offset..offset + 10], "{compression:?} at {offset}");
        }
        assert_eq!(body(&*source, "checkpoint/pages-2.img", 0, 100_001), noise(100_001));
        Checkpoint::new(source).unwrap();
    }
}

#[test]
fn statistics_beside_the_images_do_not_mislead() {
    let archive = Tape::new()
        .file("stats-dump", b"statistics")
        .directory("checkpoint/")
        .file("checkpoint/inventory.img", b"i")
        .end();
    let source =
        open_stream("-".to_owned(), Box::new(Cursor::new(archive)), &Limits::default(), None).unwrap();
    assert_eq!(Checkpoint::new(source).unwrap().layers()[0].prefix, "checkpoint/");
}

#[test]
fn places_at_which_reading_can_start_again_are_used() {
    let place = tempfile::tempdir().unwrap();
    let plain =
        Tape::new().file("checkpoint/inventory.img", b"i").file("checkpoint/pages-1.img", &noise(5 << 20));
    let plain = plain.end();
    for compression in [Compression::Gzip, Compression::Bzip2, Compression::Zstd] {
        // Several members after one another are one stream.
        let members: Vec<u8> = plain.chunks(1_200_000).flat_map(|part| pack(compression, part)).collect();
        let path = place.path().join("archive");
        std::fs::write(&path, members).unwrap();
        let source = open(&Place::Path(path)).unwrap();
        for offset in [4 << 20, 3 << 20, 0, 1_199_000usize] {
            let read = body(&*source, "checkpoint/pages-1.img", offset as u64, 4096);
            assert_eq!(read, noise(5 << 20)[offset..offset + 4096], "{compression} at {offset}");
        }
    }
}

/// Counts what passes, and looks at what passed before.
#[derive(Default)]
struct Counting {
    bodies: Vec<(String, u64)>,
    inventory_was_there: bool,
}

impl Tap for Counting {
    fn body(
        &mut self,
        seen: &dyn Source,
        entry: &torpor_archive::source::Entry,
        from: &mut dyn Read,
    ) -> io::Result<()> {
        if entry.name.ends_with("pages-2.img") {
            self.inventory_was_there = body(seen, "checkpoint/inventory.img", 0, 9) == b"inventory";
            // Not all of it: the rest passes by.
            from.read_exact(&mut [0; 100])?;
            self.bodies.push((entry.name.clone(), 100));
            return Ok(());
        }
        let read = io::copy(from, &mut io::sink())?;
        self.bodies.push((entry.name.clone(), read));
        Ok(())
    }
}

#[test]
fn a_pipe_is_read_once_and_shows_what_passes() {
    let plain = sample().end();
    let packed = COMPRESSIONS.into_iter().map(|compression| pack(compression, &plain));
    for bytes in packed.chain([plain.clone()]) {
        let mut tap = Counting::default();
        let from = Box::new(Cursor::new(bytes));
        let source = open_stream("-".to_owned(), from, &Limits::default(), Some(&mut tap)).unwrap();
        looks_right(&*source);
        let expected = [
            ("config.dump", 2),
            ("checkpoint/inventory.img", 9),
            ("checkpoint/pages-1.img", 300_000),
            ("checkpoint/pages-2.img", 100),
        ];
        assert_eq!(tap.bodies, expected.map(|(name, size)| (name.to_owned(), size)));
        assert!(tap.inventory_was_there);
        let pages = source.entries().iter().find(|entry| entry.name.ends_with("pages-1.img")).unwrap();
        assert_eq!(source.digest(pages).unwrap().0, *blake3::hash(&noise(300_000)).as_bytes());
        let refused = source.read_at(pages, 0, &mut [0; 10]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "checkpoint/pages-1.img has passed in -, and was too large to be kept"
        );
    }
}

#[test]
fn long_names_and_large_numbers_are_understood() {
    let long = format!("checkpoint/{}.img", "x".repeat(200));
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (0..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}")
    };
    let in_base_256 = [&[0x80][..], &[0; 7], &5u32.to_be_bytes()].concat();
    let archive = Tape::new()
        .entry("././@LongLink", b'L', format!("{long}\0").as_bytes())
        .file("cut", b"gnu")
        .entry("pax", b'x', (record("path", &format!("{long}2")) + &record("size", "3")).as_bytes())
        .header(b"cut", b'0', b"00000000000\0", b"")
        .body(b"pax")
        .header(b"numbers", b'0', &in_base_256, b"")
        .body(b"12345")
        .end();
    let source =
        open_stream("-".to_owned(), Box::new(Cursor::new(archive)), &Limits::default(), None).unwrap();
    assert_eq!(body(&*source, &long, 0, 3), b"gnu");
    assert_eq!(body(&*source, &format!("{long}2"), 0, 3), b"pax");
    assert_eq!(body(&*source, "numbers", 0, 5), b"12345");
}

#[test]
fn an_archive_written_over_a_longer_one_is_read_and_told() {
    let mut bytes = sample().end();
    let end = bytes.len() as u64;
    bytes.extend(b"what is left of the longer one");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("archive.tar");
    std::fs::write(&path, &bytes).unwrap();
    let source = open(&Place::Path(path.clone())).unwrap();
    assert_eq!(source.remarks(), [Remark::Trailing { at: end, bytes: Some(30) }]);
    std::fs::write(&path, sample().bare()).unwrap();
    let source = open(&Place::Path(path)).unwrap();
    assert_eq!(source.remarks(), [Remark::NoEnd { at: end - 1024 }]);
}

#[test]
fn what_is_no_file_has_no_body() {
    let archive = Tape::new().entry("device", b'3', b"").link("link", "/etc/shadow").end();
    let source =
        open_stream("-".to_owned(), Box::new(Cursor::new(archive)), &Limits::default(), None).unwrap();
    for entry in source.entries() {
        let refused = source.read_at(entry, 0, &mut []).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{} in - is no file, and is not followed or opened", entry.name)
        );
    }
}

#[test]
fn a_directory_is_a_checkpoint_too() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("inventory.img"), b"i").unwrap();
    let checkpoint = Checkpoint::new(Box::new(Directory::open(place.path()).unwrap())).unwrap();
    assert_eq!(checkpoint.layers().len(), 1);
}

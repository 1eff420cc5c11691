use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::image::Kind;
use crate::image::presentation::tests::tree;

/// An image as JSON in both styles, each of them encoded again.
fn there_and_back(image: &[u8]) -> Result<[(String, Vec<u8>); 2], ImageError> {
    let turn = |style| {
        let mut decoder = Decoder::new(image, style, Payloads::Whole, Limits::default())?;
        let mut text = Vec::new();
        let layout = if style == Style::Plain { Layout::Line } else { Layout::Lines };
        match write_json(&mut decoder, layout, &mut text) {
            Ok(_) => {}
            Err(DecodeError::Image(error)) => return Err(error),
            Err(DecodeError::Output(error)) => panic!("memory takes everything: {error}"),
        }
        let text = String::from_utf8(text).unwrap();
        let json: Json = serde_json::from_str(&text).unwrap();
        let again = encode(&json, Vec::new()).unwrap_or_else(|error| panic!("{error}: {text}"));
        Ok((text, again))
    };
    Ok([turn(Style::Plain)?, turn(Style::Pretty)?])
}

fn image(kind: Kind, entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut writer = ImageWriter::new(kind, Vec::new()).unwrap();
    for (message, extra) in entries {
        writer.entry(message, extra).unwrap();
    }
    writer.into_inner()
}

#[test]
fn an_image_looks_as_crit_shows_it() {
    let pipe = image(Kind::PipeData, &[(&[0x08, 1, 0x10, 3], b"abc")]);
    let [(plain, again), (pretty, _)] = there_and_back(&pipe).unwrap();
    assert_eq!(
        plain,
        r#"{"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 3, "extra": "YWJj\n"}]}"#
    );
    assert_eq!(again, pipe);
    assert_eq!(
        pretty,
        "{\n    \"magic\": \"PIPES_DATA\",\n    \"entries\": [\n        {\n            \"pipe_id\": 1,\n            \
         \"bytes\": 3,\n            \"extra\": \"YWJj\\n\"\n        }\n    ]\n}"
    );
    let none = image(Kind::Files, &[]);
    assert_eq!(there_and_back(&none).unwrap()[0].0, r#"{"magic": "FILES", "entries": []}"#);
}

#[test]
fn every_payload_comes_back() {
    const SET: &[u8] = &[0x0a, 14, 8, 0, 16, 0, 24, 0, 32, 0, 40, 0, 48, 0, 56, 0];
    let with = |more: &[u8]| [SET, more].concat();
    let queued = [&[4, 0, 0, 0, 8, 1, 16, 3][..], b"abc\0\0\0\0\0"].concat();
    let tcp = [8, 2, 16, 0, 24, 1, 32, 0, 40, 0, 48, 0, 56, 0];
    let removed = [8, 0, 16, 0, 24, 0];
    type Case<'a> = (Kind, &'a [(&'a [u8], &'a [u8])], &'a str);
    let cases: &[Case<'_>] = &[
        (
            Kind::IpcSemaphores,
            &[(&with(&[16, 3]), &[1, 0, 2, 0, 255, 255, 0, 0])],
            r#""extra": [1, 2, 65535]}"#,
        ),
        (Kind::IpcSemaphores, &[(&with(&[16, 0]), &[])], r#""extra": []}"#),
        (
            Kind::IpcMessages,
            &[(&with(&[16, 9, 24, 2]), &[queued.as_slice(), &queued].concat())],
            r#""extra": [{"mtype": 1, "msize": 3}, "YWJj\n", {"mtype": 1, "msize": 3}, "YWJj\n"]}"#,
        ),
        (Kind::IpcShared, &[(&with(&[16, 5]), b"abcde\0\0\0")], r#""extra": "YWJjZGU=\n"}"#),
        (Kind::IpcShared, &[(&with(&[16, 5, 24, 1]), b"")], r#""extra": ""}"#),
        (Kind::TcpStream, &[(&tcp, b"inO")], r#""extra": {"inq": "aW4=\n", "outq": "Tw==\n"}}"#),
        (Kind::BpfMapData, &[(&[8, 1, 16, 1, 24, 2, 32, 1], b"kvv")], r#""extra": "a3Z2\n"}"#),
        (Kind::RemovedFile, &[(&removed, b"all that is left")], r#""extra": "YWxsIHRoYXQgaXMgbGVmdA==\n"}"#),
        (
            Kind::RemovedFile,
            &[(&[&removed[..], &[0x48, 1, 0x50, 9]].concat(), b""), (&[8, 3, 16, 6], b"end")],
            r#""size": 9}, {"len": 3, "off": 6, "extra": "ZW5k\n"}]}"#,
        ),
    ];
    for (kind, entries, shown) in cases {
        let image = image(*kind, entries);
        for (text, again) in there_and_back(&image).unwrap() {
            assert_eq!(again, image, "{text}");
            assert!(!text.contains("\"_"), "{text}");
        }
        let text = &there_and_back(&image).unwrap()[0].0;
        assert!(text.contains(shown), "{text}");
    }
}

#[test]
fn oddly_written_images_come_back_as_they_were() {
    let packed = [8, 1, 16, 0, 24, 1, 32, 1, 0x2a, 2, 7, 8];
    let disordered = [16, 0, 8, 1, 24, 1, 32, 1];
    let long = [8, 0x81, 0, 16, 0, 24, 1, 32, 1];
    let twice = [8, 2, 8, 1, 16, 0, 24, 1, 32, 1];
    for message in [&packed[..], &disordered, &long, &twice, &[8, 1]] {
        let image = image(Kind::ProcessTree, &[(message, b"")]);
        for (text, again) in there_and_back(&image).unwrap() {
            assert_eq!(again, image, "{text}");
            assert!(text.contains("_raw"), "{text}");
        }
    }
    let padded = image(
        Kind::IpcShared,
        &[(&[0x0a, 14, 8, 0, 16, 0, 24, 0, 32, 0, 40, 0, 48, 0, 56, 0, 16, 5], b"abcdeXYZ")],
    );
    for (text, again) in there_and_back(&padded).unwrap() {
        assert_eq!(again, padded, "{text}");
    }
    let text = [0x0a, 1, 0xff, 0x12, 0];
    let name = image(Kind::UtsNamespace, &[(&text, b"")]);
    assert!(there_and_back(&name).unwrap().iter().all(|(_, again)| *again == name));
}

#[test]
fn an_image_of_version_one_stays_one() {
    let old = [&0x5027_3030u32.to_le_bytes()[..], &[8, 0, 0, 0, 8, 1, 16, 0, 24, 1, 32, 1]].concat();
    let [(text, again), _] = there_and_back(&old).unwrap();
    assert!(text.starts_with(r#"{"magic": "PSTREE", "_version": 1, "entries""#), "{text}");
    assert_eq!(again, old);
}

#[test]
fn a_change_counts_more_than_the_original() {
    let image = image(Kind::ProcessTree, &[(&[16, 0, 8, 1, 24, 1, 32, 1], b"")]);
    let text = &there_and_back(&image).unwrap()[0].0;
    let changed: Json = serde_json::from_str(&text.replace(r#""ppid": 0"#, r#""ppid": 5"#)).unwrap();
    let again = encode(&changed, Vec::new()).unwrap();
    assert_eq!(again[8..], [8, 0, 0, 0, 8, 1, 16, 5, 24, 1, 32, 1]);
}

#[test]
fn payloads_can_be_left_out() {
    let pipe = image(Kind::PipeData, &[(&[0x08, 1, 0x10, 3], b"abc")]);
    let mut decoder =
        Decoder::new(pipe.as_slice(), Style::Pretty, Payloads::Measured, Limits::default()).unwrap();
    let entry = decoder.next_entry().unwrap().unwrap();
    assert_eq!(entry.to_string(), r#"{"pipe_id": 1, "bytes": 3, "extra": "... <3B>"}"#);
}

#[test]
fn json_that_is_no_image_is_refused_with_the_entry() {
    let error = |text: &str| {
        let json: Json = serde_json::from_str(text).unwrap();
        encode(&json, Vec::new()).unwrap_err().to_string()
    };
    assert_eq!(error("[]"), "no image: it has no magic");
    assert_eq!(error(r#"{"magic": "X", "entries": []}"#), r#"no image: its magic "X" is not known"#);
    assert_eq!(error(r#"{"magic": "FILES"}"#), "no image: it has no entries");
    assert_eq!(
        error(r#"{"magic": "RLIMIT", "entries": [{"cur": 1, "max": 2}, {"cur": 1}]}"#),
        "entry 1: rlimit_entry needs the field max"
    );
    assert_eq!(
        error(r#"{"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 4, "extra": "YWJj"}]}"#),
        "entry 0: extra has 3 bytes where the entry says 4"
    );
    assert_eq!(
        error(r#"{"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 3, "extra": "... <3B>"}]}"#),
        "entry 0: extra is not base64"
    );
}

#[test]
fn images_of_every_kind_are_the_same_after_json() {
    let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
    for format in Format::all().filter(|format| format.kind.description().extra == crate::image::Extra::None)
    {
        let entries = (tree(format.schema(0), 2), proptest::collection::vec(tree(format.schema(1), 2), 0..3));
        runner
            .run(&entries, |(first, rest)| {
                let messages: Vec<Vec<u8>> = std::iter::once(&first).chain(&rest).map(Tree::encode).collect();
                let entries: Vec<(&[u8], &[u8])> =
                    messages.iter().map(|message| (message.as_slice(), &[][..])).collect();
                let image = image(format.kind, &entries);
                for (text, again) in there_and_back(&image).unwrap() {
                    prop_assert_eq!(&again, &image, "{}", text);
                    prop_assert!(!text.contains("\"_raw\""), "{}", text);
                }
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", format.magic));
    }
}

/// What fuzzing starts from and what it has found: `fuzz/fuzz_targets/document.rs` does the same with more inputs.
#[test]
fn what_fuzzing_starts_from_comes_back() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/document");
    let mut images = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let image = match bytes.as_slice() {
            [0, kind, body @ ..] => {
                let format = Format::all().nth(usize::from(*kind)).unwrap();
                [ImageWriter::new(format.kind, Vec::new()).unwrap().into_inner(), body.to_vec()].concat()
            }
            [1, json @ ..] => {
                let Ok(json) = serde_json::from_slice(json) else { continue };
                let Ok(image) = encode(&json, Vec::new()) else { continue };
                image
            }
            _ => continue,
        };
        images += 1;
        match there_and_back(&image) {
            Ok(turns) => assert!(turns.iter().all(|(_, again)| *again == image), "{}", path.display()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(images > 20, "{images}");
}

proptest! {
    #[test]
    fn hostile_images_end_in_an_error_or_come_back(
        choice in any::<usize>(),
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..3),
    ) {
        let format = Format::all().nth(choice % Format::all().count()).unwrap();
        let entries: Vec<(&[u8], &[u8])> = messages.iter().map(|message| (message.as_slice(), &[][..])).collect();
        let image = image(format.kind, &entries);
        if let Ok(turns) = there_and_back(&image) {
            for (text, again) in turns {
                prop_assert_eq!(&again, &image, "{}", text);
            }
        }
    }
}

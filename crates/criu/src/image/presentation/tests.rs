use proptest::prelude::*;

use super::super::schema::{Schema, all, message};
use super::*;

fn parse(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

/// The message of this name made from JSON, in both styles again.
fn both(name: &str, json: &str) -> (String, String) {
    let tree = tree_of(message(name).unwrap(), &parse(json)).unwrap();
    (json_of(&tree, Style::Plain).to_string(), json_of(&tree, Style::Pretty).to_string())
}

#[test]
fn people_see_what_the_numbers_mean() {
    let (plain, pretty) = both(
        "vma_entry",
        r#"{"start": 4096, "end": 8192, "pgoff": 0, "shmid": 0, "prot": 5, "flags": 34, "status": 4609, "fd": -1}"#,
    );
    assert_eq!(
        plain,
        r#"{"start": 4096, "end": 8192, "pgoff": 0, "shmid": 0, "prot": 5, "flags": 34, "status": 4609, "fd": -1}"#
    );
    assert_eq!(
        pretty,
        r#"{"start": "0x1000", "end": "0x2000", "pgoff": 0, "shmid": 0, "prot": "PROT_READ | PROT_EXEC", "flags": "MAP_PRIVATE | MAP_ANON", "status": "VMA_AREA_REGULAR | VMA_ANON_PRIVATE | VMA_AREA_VVAR", "fd": -1}"#
    );
}

#[test]
fn addresses_devices_and_words() {
    let sit = both("sit_entry", r#"{"local": [16777343], "remote": [0, 0, 0, 16777216]}"#).1;
    assert_eq!(sit, r#"{"local": ["127.0.0.1"], "remote": ["::1"]}"#);
    let cache = both("irmap_cache_entry", r#"{"dev": "8:1", "inode": 3, "path": "/a"}"#);
    assert_eq!(cache.0, r#"{"dev": 2049, "inode": 3, "path": "/a"}"#);
    assert_eq!(cache.1, r#"{"dev": "8:1", "inode": 3, "path": "/a"}"#);
    let ghost = both("ghost_file_entry", r#"{"uid": 0, "gid": 0, "mode": 33188, "dev": "0:31"}"#);
    assert!(ghost.0.contains(r#""dev": 31"#) && ghost.1.contains(r#""dev": "0:31""#), "{ghost:?}");
    let state = both("fdinfo_entry", r#"{"id": 1, "flags": 0, "type": "REG", "fd": 3}"#);
    assert_eq!(state.0, r#"{"id": 1, "flags": 0, "type": "REG", "fd": 3}"#);
}

#[test]
fn below_a_message_in_hexadecimal_all_numbers_are() {
    let regs = both("thread_info_loongarch64", r#"{"clear_tid_addr": 1, "tls": 10, "gpregs": {"regs": [11], "pc": 12}, "fpregs": {"fcc": 13, "fcsr": 14}}"#).1;
    assert_eq!(
        regs,
        r#"{"clear_tid_addr": "0x1", "tls": 10, "gpregs": {"regs": ["0xb"], "pc": "0xc"}, "fpregs": {"fcc": "0xd", "fcsr": "0xe"}}"#
    );
}

#[test]
fn fields_of_a_newer_criu_are_kept() {
    let schema = message("pidns_entry").unwrap();
    let tree = Tree::parse(schema, &[0x0a, 1, b'x', 0xa0, 0x38, 1]).unwrap();
    let json = json_of(&tree, Style::Plain);
    assert_eq!(json.to_string(), r#"{"ext_key": "x", "_unknown": "oDgB\n"}"#);
    assert_eq!(tree_of(schema, &json).unwrap().encode(), [0x0a, 1, b'x', 0xa0, 0x38, 1]);
}

#[test]
fn errors_name_message_field_and_value() {
    let error = |name, json| tree_of(message(name).unwrap(), &parse(json)).unwrap_err().to_string();
    assert_eq!(error("pidns_entry", r#"{"key": "x"}"#), "pidns_entry has no field key");
    assert_eq!(error("pidns_entry", r#"{"ext_key": 1}"#), "ext_key is a number where text belongs");
    assert_eq!(error("utsns_entry", r#"{"nodename": "x"}"#), "utsns_entry needs the field domainname");
    assert_eq!(error("rlimit_entry", r#"{"cur": -1, "max": 0}"#), "cur cannot be -1");
    assert_eq!(error("rlimit_entry", r#"{"cur": "x", "max": 0}"#), r#"cur cannot be "x""#);
    assert_eq!(error("pidns_entry", "[]"), "pidns_entry is a list where an object belongs");
    assert_eq!(error("siginfo_entry", r#"{"siginfo": "*"}"#), "siginfo is not base64");
}

#[test]
fn base64_is_broken_into_lines() {
    assert_eq!(base64(b""), "");
    assert_eq!(base64(b"abc"), "YWJj\n");
    let long = base64(&[0; 58]);
    assert_eq!(long, format!("{}\nAA==\n", "A".repeat(76)));
    assert_eq!(from_base64(&long).unwrap(), [0; 58]);
}

/// A value that a field may hold. Text is what JSON can carry.
fn value(field: &'static Field, depth: u32) -> BoxedStrategy<Value> {
    match field.holds {
        Type::U32 => any::<u32>().prop_map(|number| Value::Unsigned(number.into())).boxed(),
        Type::U64 | Type::X64 => any::<u64>().prop_map(Value::Unsigned).boxed(),
        Type::I32 | Type::S32 => any::<i32>().prop_map(|number| Value::Signed(number.into())).boxed(),
        Type::I64 | Type::S64 => any::<i64>().prop_map(Value::Signed).boxed(),
        Type::OneOf(enumeration) => prop_oneof![
            4 => (0..enumeration.values.len()).prop_map(|index| enumeration.values[index].0),
            1 => any::<i32>(),
        ]
        .prop_map(|number| Value::Signed(number.into()))
        .boxed(),
        Type::Flag => any::<bool>().prop_map(Value::Flag).boxed(),
        Type::Text => "\\PC{0,12}".prop_map(|text| Value::Bytes(text.into_bytes())).boxed(),
        Type::Bytes => proptest::collection::vec(1u8..=255, 0..100)
            .prop_map(|bytes| Value::Bytes(bytes.into_iter().filter(|byte| *byte != b'\r').collect()))
            .boxed(),
        Type::Message(schema) => tree(schema, depth).prop_map(Value::Message).boxed(),
    }
}

/// Any message of a schema, with its required fields, and some of the others while that is not too deep.
pub(in crate::image) fn tree(schema: &'static Schema, depth: u32) -> BoxedStrategy<Tree> {
    let mut fields: Vec<BoxedStrategy<Vec<(&'static Field, Value)>>> = Vec::new();
    for field in schema.fields {
        let count = match field.label {
            Label::Required => 1..=1,
            _ if depth == 0 => continue,
            Label::Optional => 0..=1,
            Label::Repeated => 0..=4,
        };
        let values = proptest::collection::vec(value(field, depth.saturating_sub(1)), count);
        fields.push(
            values.prop_map(move |values| values.into_iter().map(|value| (field, value)).collect()).boxed(),
        );
    }
    (fields, any::<bool>())
        .prop_map(move |(fields, newer)| {
            let mut tree = Tree::new(schema);
            for (field, value) in fields.into_iter().flatten() {
                tree.push(field, value);
            }
            if newer {
                tree.push_unknown(&[0xa0, 0x3f, 1]);
            }
            tree
        })
        .boxed()
}

#[test]
fn every_message_survives_json_in_both_styles() {
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
    for schema in all() {
        runner
            .run(&tree(schema, 2), |tree| {
                let bytes = tree.encode();
                let parsed = Tree::parse(schema, &bytes).unwrap();
                prop_assert_eq!(parsed.encode(), bytes.clone());
                for style in [Style::Plain, Style::Pretty] {
                    let text = json_of(&parsed, style).to_string();
                    let again = tree_of(schema, &parse(&text));
                    let again = again.map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
                    prop_assert_eq!(again.encode(), bytes.clone(), "{}", text);
                }
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", schema.name));
    }
}
